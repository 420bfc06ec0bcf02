"""Giving appends their offsets and positions, ahead of the disk.

The assigner checks an append against what has been promised so far and turns it into an item for the writer: conditions
and producers are checked, offsets and positions given, base offset and leader epoch patched into a copy of the batch.
An append is taken whole or not at all; what was taken but found no room is taken back, with all that came after it.
This is the hot path: about 4 us for an append of one small batch.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from core.store.engine import (
    Append,
    Appended,
    CreatePartition,
    DeleteBefore,
    DeletePartition,
    Done,
    DurableBatch,
    Entry,
    Outcome,
)
from core.store.partition import Partition, Range
from core.store.producers import ProducerTable
from core.store.segment import GROUP_ENTRIES_MAX, EntryKind, pack_entry
from core.store.writer import Item
from trivium.record_batch import LOG_OVERHEAD_BYTES

APPEND_BYTES_MAX = 1 << 30
ACCEPTED = (Outcome.APPENDED, Outcome.DUPLICATE)

_PATCH = struct.Struct(">qii")  # base offset, length, leader epoch: the batch's first 16 bytes
_pack_patch = _PATCH.pack
_new = tuple.__new__
_BATCH = int(EntryKind.BATCH)
_first_of = itemgetter(0)


class Assigner:
    """What has been promised. `durable` and `retired` are the engine's: it changes them as promises become durable."""

    def __init__(
        self,
        epoch: int,
        position: int,
        durable: dict[int, Partition],
        retired: list[Range],
        now_ms: Callable[[], int],
    ) -> None:
        self.next_position = position
        self._epoch = epoch
        self._durable = durable
        self._retired = retired
        self._now_ms = now_ms
        self._assigned = dict(durable)  # with creations and deletions on their way
        self._creating: set[int] = set()

    def created(self, number: int) -> None:
        """A creation is durable."""
        self._creating.discard(number)

    def take_back_all(self, position: int) -> None:
        """Forgets all that is not durable; `position` is the first that is not."""
        self.next_position = position
        self._assigned = dict(self._durable)
        self._creating.clear()
        for p in self._durable.values():
            p.take_back()

    def take(self, entries: Sequence[Entry], done: Done, full: bool) -> Item:
        """The item for one append. `full`: only what gives room back is taken.

        Raises ValueError for entries that no caller may send; then nothing has happened.
        """
        if len(entries) > GROUP_ENTRIES_MAX:
            raise ValueError(f"{len(entries)} entries in one append")
        answers: list[Appended] = []
        headers: list[bytes] = []
        batches: list[bytes] = []
        changes: list[tuple[Partition, Any]] = []
        before: list[tuple[Entry, Partition, int]] = []  # to take back, should a later entry be refused
        position = self.next_position
        full = full and not any(isinstance(e, DeletePartition | DeleteBefore) for e in entries)
        refused = False
        for entry in entries:
            p = self._assigned.get(entry.partition)
            if entry.__class__ is Append:
                if len(entry.batch) != entry.header.batch_length + LOG_OVERHEAD_BYTES:
                    self._take_back(before)
                    raise ValueError("a batch whose header tells another size")
                if entry.unless_duplicate and p is not None and _has_duplicate(answers):
                    answer: Appended | None = Appended(Outcome.DUPLICATE)
                else:
                    answer = self._refusal(p, entry, full)
                if answer is None:
                    before.append((entry, p, p.next_offset))  # type: ignore[union-attr,arg-type]
                    answer = self._assign(p, entry, position, headers, batches, changes)  # type: ignore[arg-type]
                    position += 1
                elif answer.outcome is not Outcome.DUPLICATE:
                    refused = True
            else:
                answer = self._change(p, entry, position, full, headers, changes, before)
                if answer.outcome is Outcome.APPENDED:
                    position += 1
                else:
                    refused = True
            answers.append(answer)
        if refused:
            self._take_back(before)
            answers = [a if a.outcome not in ACCEPTED else Appended(Outcome.NOT_APPENDED) for a in answers]
            return Item(done, answers, b"", [], [], 0, 0)
        size = len(batches[0]) if len(batches) == 1 else sum(map(len, batches))
        if size > APPEND_BYTES_MAX:
            self._take_back(before)
            raise ValueError(f"an append of {size} bytes")
        self.next_position = position
        packed = headers[0] if len(headers) == 1 else b"".join(headers)
        return _new(Item, (done, answers, packed, batches, changes, size, len(headers)))

    def _refusal(self, p: Partition | None, entry: Append, full: bool) -> Appended | None:
        """Why a batch cannot be appended now (or where its duplicate is), None when it can."""
        if p is None:
            return Appended(Outcome.UNKNOWN_PARTITION)
        _, header, batch, if_next_offset, keep_offsets, _ = entry
        offset = header.base_offset if keep_offsets else p.next_offset
        if offset < p.next_offset or (if_next_offset is not None and if_next_offset != offset):
            return Appended(Outcome.OFFSET_MISMATCH, log_start=p.start_next)
        if header.producer_id >= 0:
            if p.producers is None:
                p.producers = ProducerTable()
            if not keep_offsets:
                outcome, known = p.producers.check(header, batch)
                if outcome is Outcome.DUPLICATE or (outcome is not Outcome.APPENDED and not full):
                    return Appended(outcome, known, -1, p.start_next)  # what is stored is so on a full disk too
        return Appended(Outcome.FULL, log_start=p.start_next) if full else None

    def _assign(
        self,
        p: Partition,
        entry: Append,
        position: int,
        headers: list[bytes],
        batches: list[bytes],
        changes: list[tuple[Partition, Any]],
    ) -> Appended:
        """Gives a batch its offset and position."""
        number, header, data, _, keep_offsets, _ = entry
        base_offset = header.base_offset if keep_offsets else p.next_offset
        batch = b"".join((_pack_patch(base_offset, header.batch_length, self._epoch), memoryview(data)[16:]))
        p.next_offset = base_offset + header.last_offset_delta + 1
        if header.producer_id >= 0:
            p.producers.begin(header, base_offset, self._now_ms(), batch)  # type: ignore[union-attr]
        headers.append(pack_entry(_BATCH, number, base_offset, position, len(batch), header.crc))
        batches.append(batch)
        changes.append((p, _new(DurableBatch, (number, base_offset, position, header, batch))))
        return _new(Appended, (Outcome.APPENDED, base_offset, position, p.start_next))

    def _change(
        self,
        p: Partition | None,
        entry: Entry,
        position: int,
        full: bool,
        headers: list[bytes],
        changes: list[tuple[Partition, Any]],
        before: list[tuple[Entry, Partition, int]],
    ) -> Appended:
        """Checks and assigns what is not a batch."""
        number = entry.partition
        if isinstance(entry, CreatePartition):
            if self._was_used(number):
                return Appended(Outcome.UNKNOWN_PARTITION)
            if full:
                return Appended(Outcome.FULL)
            p = self._assigned[number] = Partition(number)
            self._creating.add(number)
            kind, value, log_start = EntryKind.CREATE, 0, 0
        elif p is None:
            return Appended(Outcome.UNKNOWN_PARTITION)
        elif isinstance(entry, DeletePartition):
            del self._assigned[number]
            kind, value, log_start = EntryKind.DELETE, 0, -1
        else:
            assert isinstance(entry, DeleteBefore)
            if entry.offset > p.high_watermark:
                return Appended(Outcome.OFFSET_MISMATCH, log_start=p.start_next)
            before.append((entry, p, p.start_next))
            p.start_next = value = log_start = max(p.start_next, entry.offset)
            kind = EntryKind.DELETE_BEFORE
        if kind is not EntryKind.DELETE_BEFORE:
            before.append((entry, p, 0))
        headers.append(pack_entry(kind, number, value, position, 0, 0))
        changes.append((p, (kind, value)))
        return Appended(Outcome.APPENDED, -1, position, log_start)

    def _was_used(self, number: int) -> bool:
        if number in self._assigned or number in self._durable or number in self._creating:
            return True
        i = bisect_right(self._retired, number, key=_first_of) - 1
        return i >= 0 and number < self._retired[i].end

    def _take_back(self, before: list[tuple[Entry, Partition, int]]) -> None:
        """Undoes the entries of one append that was refused."""
        for entry, p, value in reversed(before):
            if isinstance(entry, Append):
                p.next_offset = value
                if p.producers is not None:
                    p.producers.roll_back(value)
            elif isinstance(entry, CreatePartition):
                del self._assigned[p.number]
                self._creating.discard(p.number)
            elif isinstance(entry, DeletePartition):
                self._assigned[p.number] = p
            else:
                p.start_next = value


def _has_duplicate(answers: list[Appended]) -> bool:
    return any(answer.outcome is Outcome.DUPLICATE for answer in answers)
