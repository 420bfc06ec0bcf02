"""Hands out: reads what a group has not had yet, or what has failed and is due, and gives it to the members in turn.

A batch goes out as it lies in the log, with the offsets that are meant, unless the group must look into records (order,
filter, key pattern), a member's credit cuts it small, or compaction left holes: then it is opened, and if little of it
is meant, packed anew.

Filters are what a client chose, and may cost milliseconds a message: a group looks through messages for FILTER_S_MAX,
and of all groups that have something to look through one does so in a turn of the loop.

At a bound nothing new is handed out from that partition until what is out comes back: the window of offsets, bytes with
members, messages that have failed, messages held for their key's turn (`QueueLimits`). What has failed still is.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Final

import trio

from core.bitmaps import full, lowest, runs
from core.delivery import Stretch, committed_batches, next_offset
from core.queue_batches import Opened, OpenedBatches, is_whole, pack
from core.queue_group import Member, QueueGroup
from core.queue_partition import QueuePartition
from core.queue_types import Handout, Order
from core.store.engine import DataDamaged, Engine, OffsetOutOfRange, Read, UnknownPartition
from trivium.records import Record

WHOLE_SHARE: Final = 4  # a batch of which less than one in so many messages is meant is packed anew
AGAIN_MAX: Final = 256  # messages that are due, in one handout
FILTER_S_MAX: Final = 0.005
_NULL_KEY: Final = 0


def key_hash(key: bytes | None) -> int:
    """What stands for a key where turns are kept: 63 bits, the same after a restart."""
    if key is None:
        return _NULL_KEY
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


class Dealer:
    """`first_lease`: the number of this run's first lease, higher than any before."""

    def __init__(self, engine: Engine, opened: OpenedBatches, first_lease: int) -> None:
        self._engine = engine
        self._opened = opened
        self._next_lease = first_lease
        self._filtering = trio.Lock()
        self._filter_until_s = math.inf  # perf_counter

    @property
    def last_lease(self) -> int:
        return self._next_lease - 1

    def _lease_number(self) -> int:
        self._next_lease += 1
        return self._next_lease - 1

    def has_more(self, group: QueueGroup, queue: QueuePartition) -> bool:
        """Whether the log has something that was never handed out."""
        try:
            info = self._engine.info(queue.partition)
            return (info.last_stable if group.committed_only else info.high_watermark) > queue.end
        except UnknownPartition:
            return False

    async def deal(self, group: QueueGroup, queue: QueuePartition, now_ms: int) -> bool:
        """Hands out some of one partition. False when there is nothing (now) or nobody who wants it."""
        offset = queue.due(now_ms)
        if offset is not None:
            return await self._deal_again(group, queue, offset, now_ms)
        return await self._deal_new(group, queue, now_ms)

    async def _deal_again(self, group: QueueGroup, queue: QueuePartition, offset: int, now_ms: int) -> bool:
        """Hands out what is due: one message, and those behind it that are at hand."""
        if not group.demands(queue):
            return False
        record = await self._opened.record(queue.partition, offset)
        member = group.next_member(queue)
        if queue.due(now_ms) != offset or member is None:
            return member is not None
        taken: dict[int, list[Record]] = {}  # attempt -> records
        for _ in range(min(member.credit_messages, AGAIN_MAX)):
            attempt = queue.take_due(offset)
            if record is None:
                queue.complete(offset, 1)  # the log no longer has it
            else:
                taken.setdefault(attempt, []).append(record)
            following = queue.due(now_ms)
            opened = None if following is None else self._opened.look(queue.partition, following)
            if following is None or opened is None:
                break
            offset, record = following, opened.at(following)
        for attempt, records in taken.items():
            self._hand_again(group, queue, member, attempt, records, now_ms)
        return True

    def _hand_again(
        self,
        group: QueueGroup,
        queue: QueuePartition,
        member: Member,
        attempt: int,
        records: list[Record],
        now_ms: int,
    ) -> None:
        records.sort(key=lambda record: record.offset)
        first, mask = records[0].offset, 0
        for record in records:
            mask |= 1 << (record.offset - first)
        batch = pack(records)
        number = self._lease_number()
        until_ms = now_ms + group.policy.invisible_ms
        queue.lease(number, member.id, first, mask, until_ms, attempt=attempt, size_bytes=len(batch), again=True)
        ranges = [(first + at, first + at + width - 1) for at, width in runs(mask)]
        group.hand(member, Handout(queue.topic, queue.index, number, attempt, ranges, batch), len(records))

    # -- what was never handed out

    async def _deal_new(self, group: QueueGroup, queue: QueuePartition, now_ms: int) -> bool:
        if self._at_bound(group, queue) or not group.demands(queue):
            return False
        read = await self._read(group, queue)
        if read is None:
            return True
        if group.matches is None:
            return self._deal_read(group, queue, read, now_ms)
        at = queue.end
        async with self._filtering:
            if queue.end != at:
                return True
            self._filter_until_s = time.perf_counter() + FILTER_S_MAX
            try:
                return self._deal_read(group, queue, read, now_ms)
            finally:
                self._filter_until_s = math.inf

    def _deal_read(self, group: QueueGroup, queue: QueuePartition, read: Read, now_ms: int) -> bool:
        at = queue.end
        for stretch in committed_batches(queue.partition, read, at):
            queue.skip(queue.end, stretch.base_offset)
            queue.end = max(queue.end, stretch.base_offset)
            while queue.end <= stretch.base_offset + stretch.header.last_offset_delta:
                member = None if self._at_bound(group, queue) else group.next_member(queue)
                if member is None or (queue.end > at and time.perf_counter() > self._filter_until_s):
                    return True
                self._hand_some(group, queue, stretch, member, now_ms)
        after = next_offset(read, at)
        if after > queue.end:
            queue.skip(queue.end, after)
            queue.end = max(queue.end, after)
        return queue.end > at

    def _at_bound(self, group: QueueGroup, queue: QueuePartition) -> bool:
        limits = group.limits
        return (
            queue.end - queue.floor >= limits.window_offsets_max
            or queue.leased_bytes >= limits.leased_bytes_max
            or len(queue.failed) >= limits.failed_max
            or queue.turns.held >= limits.held_max
            or (group.order is Order.PARTITION and bool(queue.turns))
        )

    async def _read(self, group: QueueGroup, queue: QueuePartition) -> Read | None:
        """What follows, None when the partition has moved meanwhile: then look again."""
        at, size, committed = queue.end, group.limits.read_bytes, group.committed_only
        try:
            read = self._engine.read_nowait(queue.partition, at, size, committed=committed)
            if read is None:
                read = await self._engine.read(queue.partition, at, size, committed=committed)
        except UnknownPartition:
            return Read([], 0, 0, 0, 0, [])  # deleted: the topics' listener takes the queue away
        except OffsetOutOfRange:
            info = self._engine.info(queue.partition)
            if info.log_start <= at:
                return Read([], 0, 0, 0, 0, [])  # a reset beyond the end waits for records
            queue.log_start_moved(info.log_start)
            return None
        except DataDamaged as damage:
            queue.skip(at, damage.end_offset)
            queue.end = max(queue.end, damage.end_offset)
            return None
        return read if queue.end == at else None

    def _hand_some(
        self, group: QueueGroup, queue: QueuePartition, stretch: Stretch, member: Member, now_ms: int
    ) -> None:
        """Gives the member what it may have of the batch, and moves the end past it."""
        first = queue.end
        last = stretch.base_offset + stretch.header.last_offset_delta
        undone = queue.undone(first, last - first + 1)
        records: list[Record] | None = None
        if group.matches is None and group.order is Order.NONE and is_whole(stretch):
            mask = lowest(undone, member.credit_messages)
            queue.end = last + 1 if mask == undone else first + mask.bit_length()
            # What is passed over was acknowledged before a restart.
        else:
            opened = self._opened.open(stretch)
            records = self._choose(group, queue, opened, undone, member.credit_messages, last)
            mask = 0
            for record in records:
                mask |= 1 << (record.offset - first)
        if not mask:
            return
        count = mask.bit_count()
        batch = stretch.batch
        if count * WHOLE_SHARE < stretch.header.count:
            if records is None:
                opened = self._opened.open(stretch)
                records = [one for one in opened.from_offset(first) if mask >> (one.offset - first) & 1]
            if records:
                batch = pack(records)
        ranges = [(first + at, first + at + width - 1) for at, width in runs(mask)]
        number = 0
        if group.broadcast:
            queue.complete(first, mask)
        else:
            number = self._lease_number()
            size_bytes = len(stretch.batch) * count // max(stretch.header.count, 1)
            until_ms = now_ms + group.policy.invisible_ms
            queue.lease(number, member.id, first, mask, until_ms, size_bytes=size_bytes)
        group.hand(member, Handout(queue.topic, queue.index, number, 1, ranges, batch), count)

    def _choose(
        self, group: QueueGroup, queue: QueuePartition, opened: Opened, undone: int, count_max: int, last: int
    ) -> list[Record]:
        """The next records that are meant, at most so many. All before them, and none behind, has been looked at."""
        first = queue.end
        chosen: list[Record] = []
        passed = 0  # offsets that count as done
        at = first
        for record in opened.from_offset(first):
            if len(chosen) >= count_max or queue.turns.held >= group.limits.held_max:
                break
            if at > first and time.perf_counter() > self._filter_until_s:
                break
            passed |= full(record.offset - at) << (at - first)
            at = record.offset + 1
            bit = record.offset - first
            if not undone >> bit & 1:
                continue
            if group.matches is not None and not group.matches(record):
                passed |= 1 << bit
            elif group.order is Order.NONE or queue.turns.take(record.offset, self._key_of(group, record)):
                chosen.append(record)
        else:
            passed |= full(last + 1 - at) << (at - first)
            at = last + 1
        queue.end = at
        passed &= undone
        if passed:
            queue.complete(first, passed)
        return chosen

    def _key_of(self, group: QueueGroup, record: Record) -> int:
        return _NULL_KEY if group.order is Order.PARTITION else key_hash(record.key)
