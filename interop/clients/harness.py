"""What every Python client program shares: named tests, one line of output for each, a time limit for each.

Every program, in whatever language, speaks the same lines to the runner on standard output: first `PLAN <test> ...`,
then one of `PASS <test>`, `FAIL <test> <reason>`, `SKIP <test> <reason>` for each. What was planned and never reported
has failed. BOOTSTRAP in the environment is the broker's address; arguments name the tests to run (none: all). Only the
standard library is used here, so that the oldest client's environment can import it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

TEST_TIMEOUT_S = 300  # this and WAIT_S are reached by faults only, however busy the machine is
WAIT_S = 120.0
BOOTSTRAP = os.environ.get("BOOTSTRAP", "127.0.0.1:9092")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ACKS = ("0", "1", "all")

_tests: dict[str, Callable[[], None]] = {}
_numbers = itertools.count(1)


class Skipped(Exception):
    """The client cannot do this; the text says why."""


class TestTimeout(Exception):
    """A test did not end in time."""


def test(name: str, *arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as the test `name`; may be stacked with other names and arguments."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _tests[name] = lambda: function(*arguments)
        return function

    return register


def each_codec_and_acks(function: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Registers `function(codec, acks)` once for every combination."""
    for codec in CODECS:
        for acks in ACKS:
            test(f"produce-{codec}-acks-{acks}", codec, acks)(function)
    return function


def unique(prefix: str) -> str:
    """A name for a topic, group or transactional id that no other run uses."""
    return f"{prefix}-{next(_numbers)}-{uuid.uuid4().hex[:8]}"


def same(found: Any, expected: Any, what: str) -> None:
    """Raises AssertionError with both values, shortened, where they differ."""
    if found != expected:
        raise AssertionError(f"{what}: found {_short(found)}, expected {_short(expected)}")


def true(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


@contextlib.contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[None]:
    """The body has to raise one of `kinds`."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"nothing raised, expected {' or '.join(kind.__name__ for kind in kinds)}")


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Asks until `condition` is true; for what a client or broker only promises to do soon."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.05)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:140]} ... {text[-140:]}"


def _one_line(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "clients" in frame.filename and frame.filename != __file__
    ]
    place = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{place}"


def _expired(number: int, frame: FrameType | None) -> None:
    raise TestTimeout(f"still running after {TEST_TIMEOUT_S} s")


def main() -> None:
    """Runs the tests named on the command line, or all."""
    unknown = [name for name in sys.argv[1:] if name not in _tests]
    if unknown:
        sys.exit(f"unknown tests: {' '.join(unknown)}; known: {' '.join(_tests)}")
    chosen = sys.argv[1:] or list(_tests)
    print("PLAN", *chosen, flush=True)
    signal.signal(signal.SIGALRM, _expired)
    failed = False
    for name in chosen:
        signal.alarm(TEST_TIMEOUT_S)
        try:
            _tests[name]()
            signal.alarm(0)
            print("PASS", name, flush=True)
        except Skipped as reason:
            print("SKIP", name, reason, flush=True)
        except Exception as error:
            failed = True
            if os.environ.get("TRACE"):
                traceback.print_exc()
            print("FAIL", name, _one_line(error), flush=True)
        finally:
            signal.alarm(0)
    sys.stdout.flush()
    # Clients leave threads behind when a test fails; the process must end all the same.
    os._exit(1 if failed else 0)
