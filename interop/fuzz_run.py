"""Attacks one after the other on a broker that serves a well-behaved client all the time, and what they cost."""

from __future__ import annotations

import resource
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click

from interop.brokers import Trivium
from interop.fuzz_outcomes import MIB

PAUSE_S: Final = 0.005


class Witness(threading.Thread, ABC):
    """A client whose connection must never break: it does one thing again and again (`_go_on`)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self._slowest_s = 0.0
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # told to the one who waits for this thread
            self._failure = error

    @abstractmethod
    def _serve(self) -> None:
        """Connects and calls `_go_on` with what is to be done."""

    def _go_on(self, once: Callable[[], None]) -> None:
        """Until the end; once at least, also where the attack was over before this thread ran."""
        while True:
            began = time.monotonic()
            once()
            self._slowest_s = max(self._slowest_s, time.monotonic() - began)
            if self._done.wait(PAUSE_S):
                return

    def take_slowest_s(self) -> float:
        """Since the last call."""
        slowest, self._slowest_s = self._slowest_s, 0.0
        return slowest

    def finish(self) -> None:
        """Raises AssertionError if it was disturbed."""
        self._done.set()
        self.join(60)
        assert self._failure is None, f"the well-behaved client failed: {self._failure!r}"
        assert not self.is_alive()


class PeakMemory(threading.Thread, ABC):
    """Samples `read()` (bytes) until the end of the block; `peak_bytes` is the largest."""

    def __init__(self, read: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._read = read
        self._done = threading.Event()
        self.before_bytes = self.peak_bytes = read()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._read())

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def allow_open_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def attack_all(
    broker: Trivium, attacks: Mapping[str, Callable[[], str]], witness: Witness, failing: Sequence[str]
) -> int:
    """Prints a line for each attack; returns how many lines of the broker's log have words of `failing`, and prints
    these too.

    Raises BrokerError if the broker ends, AssertionError if an attack or the witness says so.
    """
    witness.start()
    for name, attack in attacks.items():
        with PeakMemory(broker.rss_anon_bytes) as memory:
            seen = attack()
        broker.check()
        click.echo(
            f"{name:18} RssAnon {memory.before_bytes // MIB:5} -> {memory.peak_bytes // MIB:5} MiB"
            f"  slowest {witness.take_slowest_s() * 1000:7.0f} ms  {seen}"
        )
    witness.finish()
    failures = [line for line in broker.log_file.read_text().splitlines() if any(what in line for what in failing)]
    broker.stop()
    click.echo("\n".join(failures))
    return len(failures)
