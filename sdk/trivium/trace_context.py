"""W3C trace context passed on: what is sent while a message is worked on belongs to that message's trace.

`Subscriber.run` does it for its handlers; around other loops, `with trivium.continuing(message): ...`. A `traceparent`
among a message's own headers goes before it. The context follows tasks and threads as every context variable does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from trivium.headers import TRACE_PARENT, TRACE_STATE

_Pairs = tuple[tuple[str, bytes | None], ...]
_current: ContextVar[_Pairs] = ContextVar("trivium_trace_context", default=())


class Traced(Protocol):
    """A message of any consumer."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@contextmanager
def continuing(message: Traced) -> Iterator[None]:
    """Messages that are sent in the block get this message's trace context."""
    found = tuple(pair for pair in message.headers if pair[0] in (TRACE_PARENT, TRACE_STATE))
    token = _current.set(found)
    try:
        yield
    finally:
        _current.reset(token)


def passed_on() -> _Pairs:
    """The headers that a message sent now is to have, unless it has a `traceparent` of its own."""
    return _current.get()
