"""Producer ids: never given twice, over restarts too.

A block of ids is the broker's once the record that says where the next begins is durable. What is left of a block when
the broker stops is never used: there are 2**63 of them.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from core.errors import CoreError
from core.group_log import store_error
from core.state import StateLog
from core.store.engine import Appended, Engine

KEY: Final = b"p"
BLOCK_IDS: Final = 1_000
_I64 = struct.Struct(">q")

GotId = Callable[[int, CoreError | None], None]


class ProducerIds:
    """Gives ids from a durable block, and takes the next one when it is used up."""

    def __init__(self, engine: Engine, state: StateLog) -> None:
        self._engine = engine
        self._state = state
        self._next = 0
        self._end = 0
        self._waiting: deque[GotId] = deque()

    def apply(self, value: bytes | None) -> None:
        """Replays the record."""
        if value is not None:
            (self._next,) = (self._end,) = _I64.unpack(value)

    def take(self, got: GotId) -> None:
        """`got(id, None)`, at once or when a new block is durable; `got(-1, error)` when the store refuses."""
        if self._next < self._end:
            self._next += 1
            got(self._next - 1, None)
            return
        self._waiting.append(got)
        if len(self._waiting) == 1:
            self._take_block()

    def _take_block(self) -> None:
        end = self._end + BLOCK_IDS

        def done(answers: list[Appended]) -> None:
            error = store_error(answers[0].outcome)
            waiting, self._waiting = self._waiting, deque()
            if error is None:
                self._next, self._end = end - BLOCK_IDS, end
            for got in waiting:
                if error is None:
                    self.take(got)
                else:
                    got(-1, error)

        self._engine.append([self._state.entry([(KEY, _I64.pack(end))])], done)
