"""Cleans of compacted partitions: which are due, and carrying them out over files (the rules are in `compaction`).

A clean takes a partition's sealed rows from the oldest on, collects the keys of the dirty ones, filters all of them,
and writes what is left into new settled files. Several partitions share a job, as far as the memory for keys goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.store.compaction import (
    OFFSET_MAP_BYTES_MAX,
    Cleaner,
    CleanState,
    Dirty,
    KeyCollector,
    OffsetMap,
    is_due,
)
from core.store.disk import Disk
from core.store.engine import AbortedTxn
from core.store.index import Extent, Row
from core.store.log_files import SealedFiles
from core.store.merge import Merged, Source, merge, read_row
from core.store.partition import Partition
from core.store.producers import LastBatch
from core.store.segment import BadFile
from trivium.record_batch import BatchHeader

JOB_BYTES_MAX = 256 * 1024 * 1024  # no further partition joins a job of so much
_NO_LIMIT_MS = 2**62


class Work(NamedTuple):
    """One partition to be cleaned. `bound`: the offset that it may be cleaned up to."""

    partition: int
    log_start: int
    clean_until: int
    bound: int
    rows: list[tuple[int, str, Row]]  # file id, name, row
    aborted: list[AbortedTxn]
    last_batches: dict[int, LastBatch]
    delete_retention_ms: int

    @property
    def size_bytes(self) -> int:
        return sum(row.size_bytes for _, _, row in self.rows)


@dataclass
class Cleaned:
    """What a job did, for the partitions in `states` alone."""

    merged: Merged
    states: dict[int, CleanState] = field(default_factory=dict)
    gone_aborted: list[tuple[int, AbortedTxn]] = field(default_factory=list)
    unreadable: int = 0


def plan_cleaning(
    living: Mapping[int, Partition],
    clean_states: Mapping[int, CleanState],
    files: SealedFiles,
    usable: Collection[int],
    now_ms: int,
    done: Collection[int],
) -> list[Work]:
    """Partitions that are due, but for those `done`; `usable` are the ids of files that may be read. On the loop."""
    works: list[Work] = []
    size = 0
    for number, partition in living.items():
        if not partition.policy.compact or number in done or not partition.extents:
            continue
        work = _work(partition, clean_states.get(number, CleanState()), files, usable, now_ms)
        if work is not None:
            works.append(work)
            size += work.size_bytes
            if size >= JOB_BYTES_MAX:
                break
    return works


def wants_seal(living: Mapping[int, Partition], open_number: int, open_ms: int, now_ms: int) -> bool:
    """Whether the open log segment, which no clean takes, holds what Kafka would have in a segment of the past: a
    partition's records that are older, or more, than its policy lets it wait.

    The segment is not older than `open_ms`, whatever its records' timestamps say: they may come from anywhere.
    """
    for p in living.values():
        policy = p.policy
        if policy.compact and p.open:
            segment, block = p.open[-1]
            waits_ms = now_ms - block.stamps[0]
            due = (
                waits_ms > policy.max_compaction_lag_ms
                or min(waits_ms, open_ms) > policy.segment_ms
                or block.size_bytes >= policy.segment_bytes
            )
            if due and segment.number == open_number and block.bases[0] < p.last_stable:
                return True
    return False


def _work(
    partition: Partition, state: CleanState, files: SealedFiles, usable: Collection[int], now_ms: int
) -> Work | None:
    policy = partition.policy
    stable = partition.last_stable
    clean_until = max(state.clean_until, partition.log_start)
    clean_bytes = dirty_bytes = 0
    first_timestamp_ms = -1
    taken: list[Extent] = []
    for extent in partition.extents or ():
        if extent.end_offset <= partition.log_start:
            continue
        if extent.file_id not in usable:
            break
        if extent.end_offset <= clean_until:
            clean_bytes += extent.size_bytes
        elif extent.first_offset >= stable or 0 < policy.min_compaction_lag_ms > now_ms - extent.max_timestamp:
            break
        else:
            if not dirty_bytes:
                first_timestamp_ms = _first_timestamp(extent, files, policy.max_compaction_lag_ms)
            dirty_bytes += extent.size_bytes
        taken.append(extent)
    if not taken or not is_due(policy, state, Dirty(clean_bytes, dirty_bytes, first_timestamp_ms), now_ms):
        return None
    bound = min(stable, taken[-1].end_offset)
    producers = partition.producers
    return Work(
        partition.number,
        partition.log_start,
        clean_until,
        bound,
        [(e.file_id, files.name(e.file_id), _row(partition.number, e)) for e in taken],
        producers.aborted(partition.log_start, bound) if producers is not None else [],
        producers.last_batches() if producers is not None else {},
        policy.delete_retention_ms,
    )


def _first_timestamp(extent: Extent, files: SealedFiles, max_compaction_lag_ms: int) -> int:
    """Of the extent's first batch; of its latest one if nobody asks so exactly or the block is not in memory."""
    try:
        if max_compaction_lag_ms < _NO_LIMIT_MS and (block := files.block(extent)) is not None:
            return block.stamps[0]
    except BadFile:
        pass  # the clean meets it, in its thread
    return extent.max_timestamp


def _row(partition: int, extent: Extent) -> Row:
    return Row(
        partition,
        extent.batches,
        extent.place,
        extent.first_offset,
        extent.end_offset,
        extent.first_position,
        extent.last_position,
        extent.size_bytes,
        extent.max_timestamp,
        extent.crc,
    )


def clean(
    disk: Disk,
    works: Sequence[Work],
    next_number: int,
    epoch: int,
    now_ms: int,
    pace: Callable[[int], None],
    *,
    map_bytes_max: int = OFFSET_MAP_BYTES_MAX,
) -> Cleaned:
    """Cleans as many of the partitions, from the first on, as the memory for keys allows. For a thread.

    The outputs are durable when it returns. Raises Damaged, BadFile, OSError, or what `pace` raises.
    """
    cleaners: dict[int, tuple[Cleaner, int]] = {}
    used_bytes = 0
    for work in works:
        if cleaners and used_bytes >= map_bytes_max:
            break
        offsets = OffsetMap(max(map_bytes_max - used_bytes, map_bytes_max // 8))
        end = _collect(disk, work, offsets, pace)
        used_bytes += offsets.size_bytes
        aborted = [txn for txn in work.aborted if txn.first_offset < end]
        cleaner = Cleaner(offsets, end, aborted, work.last_batches, now_ms, work.delete_retention_ms)
        cleaners[work.partition] = cleaner, end
    taken = [work for work in works if work.partition in cleaners]
    rows: dict[str, list[Row]] = {}
    for work in taken:
        for _, name, row in work.rows:
            rows.setdefault(name, []).append(row)
    sources = [Source(disk.open(name), file_rows) for name, file_rows in rows.items()]
    log_starts = {work.partition: work.log_start for work in taken}
    merged = merge(disk, sources, log_starts, cleaners, next_number, epoch, pace)
    cleaned = Cleaned(merged)
    for number, (cleaner, end) in cleaners.items():
        cleaned.states[number] = CleanState(end, cleaner.horizon_ms)
        cleaned.gone_aborted += [(number, txn) for txn in cleaner.gone_aborted]
        cleaned.unreadable += cleaner.unreadable
    return cleaned


def _collect(disk: Disk, work: Work, offsets: OffsetMap, pace: Callable[[int], None]) -> int:
    """Puts the dirty keys into the map; returns the offset up to which it holds them all."""
    collector = KeyCollector(offsets, [txn for txn in work.aborted if txn.last_offset >= work.clean_until])
    end = work.clean_until
    for header, batch in _dirty(disk, work, pace):
        if header.next_offset > work.bound or not collector.take(header, batch):
            break
        end = header.next_offset
    return end


def _dirty(disk: Disk, work: Work, pace: Callable[[int], None]) -> Iterator[tuple[BatchHeader, memoryview]]:
    for _, name, row in work.rows:
        if row.end_offset > work.clean_until:
            for header, _, batch in read_row(disk.open(name), row, work.clean_until, pace):
                yield header, batch
