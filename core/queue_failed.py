"""The messages of a partition that have failed for one group and are to be tried again: a row for each, and when.

What has changed since the last write is remembered, as in the partition that this belongs to.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from core.queue_codec import NEVER_MS, FailedRow, failed_key, pack_failed
from core.state import Change

TIMES_SPARE: Final = 1_000  # entries of a heap of times beside twice those that count


class Failed:
    """A message to be tried again. `lease` is the last one it was under; `leased`: now. `dying`: it becomes a dead
    letter and is nobody's any more; `burying`: the append that does it, which ends the row, is on its way.
    """

    __slots__ = ("attempts", "burying", "dying", "key", "lease", "leased", "not_before_ms", "reason")

    def __init__(self, attempts: int, not_before_ms: int, key: int | None, reason: str, lease: int) -> None:
        self.attempts = attempts
        self.not_before_ms = not_before_ms
        self.key = key
        self.reason = reason
        self.lease = lease
        self.leased = False
        self.dying = self.burying = False


class FailedMessages:
    """`rows` by offset; it is always the same table."""

    def __init__(self) -> None:
        self.rows: dict[int, Failed] = {}
        self._due: list[tuple[int, int]] = []  # heap of (time, offset); entries that `rows` does not bear out are over
        self._due_max = TIMES_SPARE  # then it is made anew
        self._stored: set[int] = set()
        self._dirty: set[int] = set()

    def put(self, offset: int, failed: Failed) -> None:
        self.rows[offset] = failed
        self._dirty.add(offset)
        heapq.heappush(self._due, (failed.not_before_ms, offset))
        if len(self._due) > self._due_max:  # messages that are done since leave theirs behind
            self._due = sorted(
                (one.not_before_ms, at) for at, one in self.rows.items() if not (one.leased or one.dying)
            )
            self._due_max = 2 * len(self._due) + TIMES_SPARE

    def end(self, offset: int) -> bool:
        """The message is done; its row goes with the next write. False: it had none."""
        if self.rows.pop(offset, None) is None:
            return False
        self._dirty.add(offset)
        return True

    def bury(self, offset: int) -> bool:
        """The end of its row goes into an append of its own, of which `dead` or `not_dead` tells. False: it is not
        dying, or its row is still to be written, and would be behind its end.
        """
        failed = self.rows.get(offset)
        if failed is None or not failed.dying or offset in self._dirty:
            return False
        failed.burying = True
        return True

    def not_dead(self, offset: int) -> None:
        """That append was refused."""
        failed = self.rows.get(offset)
        if failed is not None and failed.burying:
            failed.burying = False
            self._dirty.add(offset)  # in case that it was passed over

    def dead(self, offset: int) -> bool:
        """The message is a dead letter, durably: its row went with the same append. False: there has been a reset."""
        failed = self.rows.get(offset)
        if failed is None or not failed.burying:
            return False
        del self.rows[offset]
        self._stored.discard(offset)
        self._dirty.discard(offset)
        return True

    def clear(self) -> None:
        """All rows go with the next write."""
        self._dirty |= self.rows.keys()
        self.rows.clear()
        self._due.clear()

    def next_due_ms(self) -> int | None:
        """When some message may be handed out again."""
        while self._due:
            when, offset = self._due[0]
            failed = self.rows.get(offset)
            if failed is not None and not failed.leased and not failed.dying and failed.not_before_ms == when:
                return when
            heapq.heappop(self._due)
        return None

    def due(self, now_ms: int) -> int | None:
        """The message that could be handed out first, if it can by now."""
        due_ms = self.next_due_ms()
        return self._due[0][1] if due_ms is not None and due_ms <= now_ms else None

    # -- durable state

    def changes(self, group: str, partition: int, wall_ms_of: Callable[[int], int]) -> tuple[list[Change], list[int]]:
        """The rows to write, and the offsets whose row ends with them."""
        found: list[Change] = []
        ended: list[int] = []
        for offset in self._dirty:
            failed = self.rows.get(offset)
            if failed is not None:
                key = -1 if failed.key is None else failed.key
                when_ms = NEVER_MS if failed.dying else wall_ms_of(failed.not_before_ms)
                row = FailedRow(failed.attempts, when_ms, key, failed.reason)
                found.append((failed_key(group, partition, offset), pack_failed(row)))
                self._stored.add(offset)
            elif offset in self._stored:
                found.append((failed_key(group, partition, offset), None))
                self._stored.discard(offset)
                ended.append(offset)
        self._dirty.clear()
        return found, ended

    def keys(self, group: str, partition: int) -> list[bytes]:
        """Of every row that is stored."""
        return [failed_key(group, partition, offset) for offset in self._stored]

    def still_stored(self, offsets: list[int]) -> None:
        """The end of their rows was refused."""
        self._stored.update(offsets)

    def write_all(self) -> None:
        """Everything is to be written, as if nothing had been; not behind the end of a row that is on its way."""
        self._dirty |= self.rows.keys() | self._stored
        self._dirty -= {offset for offset, failed in self.rows.items() if failed.burying}

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def load(self, offset: int, failed: Failed) -> None:
        """A row as it was stored."""
        self.rows[offset] = failed
        self._stored.add(offset)
        heapq.heappush(self._due, (failed.not_before_ms, offset))
