"""Makes group changes durable: all changes that arrive while an append is on its way go together into the next one.

Answers come in the order of the writes. A refused write changes nothing in the log; the caller decides what that
means to its client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from core.errors import CoreError
from core.group_types import Done
from core.state import Change, StateLog
from core.store.engine import Appended, Engine, Outcome

_BATCH_BYTES_MAX = 1024 * 1024  # one larger change still goes, alone
_BATCH_CHANGES_MAX = 10_000


def store_error(outcome: Outcome) -> CoreError | None:
    """None when the append is durable."""
    if outcome in (Outcome.APPENDED, Outcome.DUPLICATE):
        return None
    return CoreError.STORE_FULL if outcome is Outcome.FULL else CoreError.STORE_FAILED


class GroupLog:
    """Group commit for the state log of groups and offsets."""

    def __init__(self, engine: Engine, state: StateLog) -> None:
        self._engine = engine
        self._state = state
        self._waiting: deque[tuple[Sequence[Change], Done]] = deque()
        self._appending = False

    @property
    def state(self) -> StateLog:
        return self._state

    def write(self, changes: Sequence[Change], done: Done) -> None:
        """Appends the changes; `done(None)` when they are durable, never from inside this call unless there is
        nothing to write.
        """
        if not changes:
            done(None)
            return
        self._waiting.append((changes, done))
        if not self._appending:
            self._append()

    def flush(self) -> None:
        """Hands everything that waits to the engine now, so that whatever is appended next comes after it."""
        while self._waiting:
            self._append()

    def _append(self) -> None:
        changes: list[Change] = []
        answers: list[Done] = []
        size = 0
        while self._waiting:
            more = self._waiting[0][0]
            more_bytes = sum(len(key) + len(value or b"") for key, value in more)
            if changes and (size + more_bytes > _BATCH_BYTES_MAX or len(changes) + len(more) > _BATCH_CHANGES_MAX):
                break
            size += more_bytes
            changes.extend(more)
            answers.append(self._waiting.popleft()[1])
        self._appending = True

        def done(results: list[Appended]) -> None:
            self._appending = False
            error = store_error(results[0].outcome)
            for answer in answers:
                answer(error)
            if self._waiting and not self._appending:
                self._append()

        self._engine.append([self._state.entry(changes)], done)
