"""What the parts of a client have in common: they can ask the broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from trivium.connection import Buffer


def check_names(values: Sequence[object], what: str) -> None:
    """Raises TypeError for what are no texts: a list, say, given as one argument."""
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{what} are texts, each an argument by itself, not {value!r}")


class Asking(ABC):
    @abstractmethod
    async def request(
        self, message: Any, payload: Sequence[Buffer] = (), *, timeout_s: float | None = None, retry: bool = True
    ) -> tuple[Any, memoryview]:
        """One request, over as many connections as it takes within the time (seconds; the client's by default): the
        reply's message and payload.

        `retry` says that asking twice does no harm. Raises RequestRefused, RequestTimedOut; Disconnected without
        `retry`; Closed.
        """
