"""Reads: from the ring of recent batches, else from the files, without waiting where the page cache has the data.

A read is planned on the trio thread (which batches, which byte ranges) and then carried out, at once with RWF_NOWAIT
or, when that finds the data cold, in one of a few reader threads. Neighbouring ranges are read in one call; what lies
between them in the file is left out of the answer. Every buffer of an answer holds whole batches.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import structlog
import trio

from core.store.disk import File
from core.store.engine import DataDamaged, OffsetOutOfRange, Read
from core.store.index import Block, Extent, read_block
from core.store.loads import Loads
from core.store.log_files import SealedFiles
from core.store.partition import Partition
from core.store.read_pace import ReadPace
from core.store.segment import BadFile

log = structlog.get_logger("store")

READER_THREADS_MAX = 4
_GAP_BYTES_MAX = 4096  # read through rather than around
_SCATTERED_RUNS_MIN = 8  # a cold read of so many places makes sorting the file pay one day (settler)
_AHEAD_RATIO = 32  # places of one read that are spread over up to so many times its size are asked for as one range:
_AHEAD_BYTES_MAX = 32 * 1024 * 1024  # neighbours of a topic are read together, and the disk likes one long read
_JOIN_BYTES_MAX = 8192  # batches smaller than this, on average, are joined into one buffer


class _Run(NamedTuple):
    """A byte range of a file and the parts of it that are batches, relative to its start."""

    place: int
    size: int
    parts: list[tuple[int, int]]


class _Plan(NamedTuple):
    file: File
    runs: list[_Run]
    size_bytes: int  # of the batches
    next_offset: int


class Reader:
    """Reads for one engine; all methods on the trio thread."""

    def __init__(self, files: SealedFiles, pace: ReadPace) -> None:
        self._files = files
        self._loads = Loads()
        self._pace = pace
        self._threads = trio.CapacityLimiter(READER_THREADS_MAX)
        self.cold_reads = 0
        self.scattered_reads: dict[str, int] = {}  # by file: cold reads that had to jump

    def read_nowait(
        self,
        partition: Partition,
        offset: int,
        bytes_max: int,
        committed: bool,
        first_whole: bool,
        mapped: bool = False,
    ) -> Read | None:
        """As `Engine.read_nowait`. Raises OffsetOutOfRange, DataDamaged."""
        end = self._check(partition, offset, committed)
        buffers: list[memoryview] = []
        size, at = 0, offset
        while at < end and (size < bytes_max or (first_whole and not size)):
            if (i := partition.find_hot(at)) >= 0:
                got, at = _read_hot(partition, i, end, bytes_max - size, first_whole and not size, buffers)
                size += got
                break
            plan = self._plan(partition, at, end, bytes_max - size, first_whole and not size)
            if isinstance(plan, _Plan):
                data = None
                if not plan.runs or self._loads.due(plan.file.name, *_extent_of(plan)) is None:
                    data = _map_runs(plan) if mapped else None
                    if data is None:
                        data = _read_runs(plan, nowait=True)
                if data is not None:
                    buffers += data
                    size += plan.size_bytes
                    at = plan.next_offset
                    if plan.runs:
                        continue
                    break
            elif plan is None:
                break
            if not size:
                return None
            break
        return _answer(partition, buffers, size, committed, offset, at)

    async def read(
        self,
        partition: Partition,
        offset: int,
        bytes_max: int,
        committed: bool,
        first_whole: bool,
        mapped: bool = False,
    ) -> Read:
        """As `Engine.read`."""
        may_load = True
        while True:
            found = self.read_nowait(partition, offset, bytes_max, committed, first_whole, mapped)
            if found is not None:
                return found
            end = self._check(partition, offset, committed)
            plan = self._plan(partition, offset, end, bytes_max, first_whole)
            if isinstance(plan, Extent):
                try:
                    await self.load(plan)
                except BadFile as e:
                    raise _damaged(partition.number, plan, e) from e
            elif plan is not None:
                self.cold_reads += 1
                load = self._loads.begin(plan.file.name, *_extent_of(plan)) if may_load else None
                if load is not None:
                    may_load = False
                    old = self._loads.keep(plan.file, load)
                    until = trio.current_time() + self._pace.load_s_min(len(load))
                    await trio.to_thread.run_sync(_load, plan.file, load, old, limiter=self._threads)
                    await trio.sleep_until(until)
                    continue
                if len(plan.runs) >= _SCATTERED_RUNS_MIN:
                    name = plan.file.name
                    self.scattered_reads[name] = self.scattered_reads.get(name, 0) + 1
                data = await trio.to_thread.run_sync(_read_cold, plan, limiter=self._threads)
                assert data is not None
                return _answer(partition, data, plan.size_bytes, committed, offset, plan.next_offset)

    async def load(self, extent: Extent) -> Block:
        """The block of an extent, read by a thread."""
        file = self._files.file(extent.file_id)
        block = await trio.to_thread.run_sync(
            read_block, file, extent.place, extent.batches, extent.crc, limiter=self._threads
        )
        assert block is not None
        self._files.keep(extent, block)
        return block

    def _check(self, partition: Partition, offset: int, committed: bool) -> int:
        """The offset that the read may reach."""
        end = partition.last_stable if committed else partition.high_watermark
        if not partition.log_start <= offset <= partition.high_watermark:
            raise OffsetOutOfRange(partition.number, offset)
        if partition.damage:
            damaged = partition.damage_at(offset)
            if damaged is not None and damaged.first < end:
                if damaged.first <= offset:
                    raise DataDamaged(partition.number, damaged.first, damaged.end)
                end = damaged.first
        return end

    def _plan(
        self, partition: Partition, offset: int, end: int, bytes_max: int, first_whole: bool
    ) -> _Plan | Extent | None:
        """What to read from the file that holds `offset`; an extent when its block must be loaded first; None at the
        end."""
        extents = partition.extents
        if extents is not None and (i := extents.find(offset)) < len(extents):
            extent = extents.get(i)
            try:
                block = self._files.block(extent)
            except BadFile as e:
                raise _damaged(partition.number, extent, e) from e
            if block is None:
                return extent
            return _plan_block(self._files.file(extent.file_id), block, offset, end, bytes_max, first_whole)
        for segment, block in partition.open:
            if offset < block.end_offset:
                return _plan_block(segment.file, block, offset, end, bytes_max, first_whole)
        return None


def _damaged(partition: int, extent: Extent, error: BadFile) -> DataDamaged:
    """The index of an extent is damaged: its batches cannot be found."""
    log.error("damaged index in the store", partition=partition, first_offset=extent.first_offset, error=str(error))
    return DataDamaged(partition, extent.first_offset, extent.end_offset)


def _plan_block(file: File, block: Block, offset: int, end: int, bytes_max: int, first_whole: bool) -> _Plan:
    bases, rows = block.bases, block.rows
    runs: list[_Run] = []
    parts: list[tuple[int, int]] = []
    start = stop = -_GAP_BYTES_MAX - 1  # of the run
    size = 0
    i = block.find(offset)
    count = len(bases)
    while i < count and bases[i] < end:
        place, length, delta = rows[3 * i : 3 * i + 3]
        if size + length > bytes_max and (size or not first_whole):
            break
        size += length
        offset = bases[i] + delta + 1
        i += 1
        gap = place - stop
        if gap == 0:
            parts[-1] = (parts[-1][0], stop + length - start)
        elif 0 < gap <= _GAP_BYTES_MAX:
            parts.append((place - start, place + length - start))
        else:
            if parts:
                runs.append(_Run(start, stop - start, parts))
            start, parts = place, [(0, length)]
        stop = place + length
    if parts:
        runs.append(_Run(start, stop - start, parts))
    if i == count and size:
        offset = max(offset, block.end_offset)
    return _Plan(file, runs, size, offset)


def _read_runs(plan: _Plan, nowait: bool = False) -> list[memoryview] | None:
    """The batches of a plan, None with `nowait` when not all of it is in memory."""
    buffers: list[memoryview] = []
    for place, size, parts in plan.runs:
        data = bytearray(size)
        try:
            got = plan.file.preadv([data], place, nowait)
        except BlockingIOError:
            return None
        if got < size:
            if nowait:
                return None
            raise EOFError(f"{plan.file.name} ends inside a batch at {place}")
        view = memoryview(data)
        if len(parts) == 1:
            buffers.append(view)
        elif plan.size_bytes < _JOIN_BYTES_MAX * len(parts):
            buffers.append(memoryview(b"".join([view[start:stop] for start, stop in parts])))
        else:
            buffers += [view[start:stop] for start, stop in parts]
    return buffers


def _map_runs(plan: _Plan) -> list[memoryview] | None:
    """The batches of a plan where they lie; None when they are not all in memory, or so small that a copy costs less
    than to hand on each."""
    if plan.size_bytes < _JOIN_BYTES_MAX * sum(len(run.parts) for run in plan.runs):
        return None
    buffers: list[memoryview] = []
    for place, size, parts in plan.runs:
        view = plan.file.mapped(place, size)
        if view is None:
            return None
        if len(parts) == 1:
            buffers.append(view)
        else:
            buffers += [view[start:stop] for start, stop in parts]
    return buffers


def _extent_of(plan: _Plan) -> tuple[int, int, int]:
    """Where the plan's batches lie: from, to, and how many bytes of that they are."""
    last = plan.runs[-1]
    return plan.runs[0].place, last.place + last.size, plan.size_bytes


def _load(file: File, load: range, old: list[tuple[File, range]]) -> None:
    for other, range_ in old:
        with contextlib.suppress(OSError):  # closed since
            other.forget(range_.start, len(range_))
    with contextlib.suppress(OSError):  # of what lies between, too; whoever reads its own meets it again
        file.load(load.start, len(load))


def _read_cold(plan: _Plan) -> list[memoryview] | None:
    """As `_read_runs`, waiting for the disk: in a thread."""
    start = plan.runs[0].place
    span = plan.runs[-1].place + plan.runs[-1].size - start
    if len(plan.runs) > 1 and span <= min(_AHEAD_BYTES_MAX, plan.size_bytes * _AHEAD_RATIO):
        plan.file.want(start, span)
    return _read_runs(plan)


def _read_hot(
    partition: Partition, i: int, end: int, bytes_max: int, first_whole: bool, buffers: list[memoryview]
) -> tuple[int, int]:
    """Adds batches of the ring to `buffers`; returns their size and the offset after them."""
    batches: list[bytes] = []
    size = 0
    after = -1
    hot = partition.hot
    for n in range(i, len(hot)):
        base_offset, last_offset, batch = hot[n]  # type: ignore[misc]
        if base_offset >= end or (size + len(batch) > bytes_max and (size or not first_whole)):
            break
        batches.append(batch)
        size += len(batch)
        after = last_offset + 1
    if len(batches) > 1 and size < _JOIN_BYTES_MAX * len(batches):
        buffers.append(memoryview(b"".join(batches)))
    else:
        buffers += map(memoryview, batches)
    return size, after


def _answer(
    partition: Partition, buffers: list[memoryview], size: int, committed: bool, offset: int, after: int
) -> Read:
    aborted = []
    if committed and size and partition.producers is not None:
        aborted = partition.producers.aborted(offset, after)
    high_watermark = partition.high_watermark
    return Read(buffers, size, partition.log_start, high_watermark, partition.last_stable, aborted)
