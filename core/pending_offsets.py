"""Offsets that were sent in a transaction and wait for its end: durable, under their producer's id, and seen by nobody.

The end covers what waits when it is begun; what comes after that is of the next transaction, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.offset_record import Key, Offset


class PendingOffsets:
    """The table of them, by producer and by who may not be told a stable offset."""

    def __init__(self) -> None:
        self._pending: dict[int, dict[Key, Offset]] = {}  # producer id -> what waits for its transaction
        self._holders: dict[Key, set[int]] = {}  # who holds something pending
        self._ending: dict[int, tuple[dict[Key, Offset], set[Key]]] = {}  # what the end on its way covers, what counts

    def hold(self, producer_id: int, key: Key, offset: Offset) -> None:
        self._pending.setdefault(producer_id, {})[key] = offset
        self._holders.setdefault(key, set()).add(producer_id)

    def release(self, producer_id: int, key: Key, offset: Offset | None = None) -> None:
        """It waits no longer; with `offset`, only if it is still this one."""
        held = self._pending.get(producer_id, {})
        if key not in held or (offset is not None and held[key] != offset):
            return
        del held[key]
        if not held:
            del self._pending[producer_id]
        self._holders[key].discard(producer_id)
        if not self._holders[key]:
            del self._holders[key]

    def of(self, producer_id: int) -> dict[Key, Offset]:
        """A copy of what waits for the producer's transaction."""
        return dict(self._pending.get(producer_id, {}))

    def producers(self) -> list[int]:
        return list(self._pending)

    def __contains__(self, key: Key) -> bool:
        """Whether a transaction that is still open will change this offset."""
        return key in self._holders

    def __iter__(self) -> Iterator[Key]:
        return iter(self._holders)

    def of_group(self, group_id: str) -> list[tuple[int, Key]]:
        """(producer id, key) of all that is pending for a group."""
        return [(one, key) for key, producers in self._holders.items() if key[0] == group_id for one in producers]

    def begin_end(self, producer_id: int, covered: dict[Key, Offset], counts: set[Key]) -> None:
        """The end of the transaction is on its way to the log: what it covers, what of that counts if it commits."""
        self._ending[producer_id] = covered, counts

    def end(self, producer_id: int) -> list[tuple[Key, Offset]]:
        """The end is durable: returns what counts, if it was a commit. What it covered waits no longer."""
        covered, counts = self._ending.pop(producer_id, ({}, set()))
        for key, offset in covered.items():
            self.release(producer_id, key, offset)
        return [(key, offset) for key, offset in covered.items() if key in counts]
