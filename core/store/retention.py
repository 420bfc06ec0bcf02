"""Retention: how far a partition's log start may rise, by time and by bytes.

Rules:
* A batch is too old when its largest timestamp, and that of every batch before it, is older than `retention_ms`
  (Kafka asks this of whole segments). Batches without any timestamp wait for the first that has one.
* By time goes only what has been here for a while too, `ARRIVED_MS` or the retention time if that is less: timestamps
  are the clients', who may well write records of long ago and read them back. (Kafka looks every five minutes only.)
* `retention_bytes` of batches stay, at least: the oldest batch goes only if what is left is no less.
* Nothing above the last stable offset goes. A partition that is only compacted loses nothing here.

The new log starts are appended to the log by whoever asked; disk space is the settler's matter. By time, a partition is
looked at only when its oldest batch can have become too old, so blocks are seldom read from the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import NamedTuple

from core.store.engine import PartitionPolicy
from core.store.index import Block, Extent
from core.store.partition import Partition

ARRIVED_MS = 300_000

LoadBlock = Callable[[Extent], Awaitable[Block]]


class _Part(NamedTuple):
    """A run of a partition's batches: a sealed file's, or an open segment's with its block at hand."""

    first_offset: int
    end_offset: int
    max_timestamp: int
    size_bytes: int
    where: Extent | Block


class _Due(NamedTuple):
    policy: PartitionPolicy
    at_ms: int


class _Arrived(NamedTuple):
    """What was below `old_end` had arrived long enough ago; `end` was the partition's end at `at_ms`."""

    old_end: int
    at_ms: int
    end: int


class Retention:
    """Remembers for each partition when to look again, and how much of what is too old came when."""

    def __init__(self, load_block: LoadBlock) -> None:
        self._load_block = load_block
        self._due: dict[int, _Due] = {}
        self._arrived: dict[int, _Arrived] = {}  # of partitions in which something was too old

    def keep_only(self, partitions: Container[int]) -> None:
        """Forgets partitions that are gone."""
        for partition in [number for number in {*self._due, *self._arrived} if number not in partitions]:
            self._due.pop(partition, None)
            self._arrived.pop(partition, None)

    async def new_log_start(self, partition: Partition, now_ms: int, *, pressed: bool = False) -> int:
        """The offset that the partition's log may start at now, never below its log start. `pressed`: the disk is
        nearly full, and nothing that is too old may wait."""
        policy = partition.policy
        start = partition.log_start
        if not policy.delete or (policy.retention_ms < 0 and policy.retention_bytes < 0):
            return start
        if policy.retention_ms >= 0:
            due = self._due.get(partition.number)
            if due is None or due.policy is not policy or due.at_ms <= now_ms:
                until, oldest_ms = await self._by_time(partition, start, now_ms - policy.retention_ms)
                if oldest_ms >= 0:
                    self._due[partition.number] = _Due(policy, oldest_ms + policy.retention_ms + 1)
                if until > start and not pressed:
                    old_end = self._old_end(partition, now_ms, min(policy.retention_ms, ARRIVED_MS))
                    if old_end < until:
                        self._due.pop(partition.number, None)
                        until = max(start, old_end)
                start = until
        if policy.retention_bytes >= 0:
            start = await self._by_bytes(partition, start, policy.retention_bytes)
        return max(partition.log_start, min(start, partition.last_stable))

    def _old_end(self, partition: Partition, now_ms: int, waits_ms: int) -> int:
        """The end of what has been here for `waits_ms`, or a bit longer."""
        if waits_ms == 0:
            return partition.high_watermark
        arrived = self._arrived.get(partition.number)
        if arrived is None or now_ms - arrived.at_ms >= waits_ms:
            old_end = partition.log_start if arrived is None else arrived.end
            arrived = self._arrived[partition.number] = _Arrived(old_end, now_ms, partition.high_watermark)
        return arrived.old_end

    async def _by_time(self, partition: Partition, start: int, cutoff_ms: int) -> tuple[int, int]:
        """The first offset to keep, and the largest timestamp up to it: -1 if unknown."""
        for part in _parts(partition, start):
            if part.max_timestamp < 0:
                break
            if part.max_timestamp < cutoff_ms:
                start = part.end_offset
                continue
            block = await self._block(part)
            i = block.find_time(cutoff_ms)
            return max(start, block.bases[i]), block.stamps[i]
        return start, -1

    async def _by_bytes(self, partition: Partition, start: int, retention_bytes: int) -> int:
        excess = -retention_bytes
        for part in _parts(partition, start):
            if part.first_offset >= start:
                excess += part.size_bytes
            else:
                block = await self._block(part)
                excess += sum(block.rows[3 * block.find(start) + 1 :: 3])
        for part in _parts(partition, start):
            if part.first_offset >= start and part.size_bytes <= excess:
                excess -= part.size_bytes
                start = part.end_offset
                continue
            if excess <= 0:
                break
            block = await self._block(part)
            i = block.find(start)
            while i < len(block) and block.rows[3 * i + 1] <= excess:
                excess -= block.rows[3 * i + 1]
                start = block.bases[i] + block.rows[3 * i + 2] + 1
                i += 1
            break
        return start

    async def _block(self, part: _Part) -> Block:
        return part.where if isinstance(part.where, Block) else await self._load_block(part.where)


def _parts(partition: Partition, start: int) -> list[_Part]:
    """The partition's parts that reach above `start`, oldest first; only what is durable."""
    parts = [
        _Part(e.first_offset, e.end_offset, e.max_timestamp, e.size_bytes, e)
        for e in partition.extents or ()
        if e.end_offset > start
    ]
    for _, block in partition.open:
        if len(block) and block.end_offset > start:
            parts.append(_Part(block.bases[0], block.end_offset, block.stamps[-1], block.size_bytes, block))
    return parts
