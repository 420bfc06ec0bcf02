"""Finding places in a partition of the embedded engine: by position, by time, by key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from functools import cached_property, partial

import trio

from core.store.disk import Disk
from core.store.engine import DataDamaged, TimedOffset, UnknownPartition
from core.store.index import Block, Extent
from core.store.key_index import candidates
from core.store.log_files import SealedFiles
from core.store.lookup import first_record_from, offsets_of_key
from core.store.partition import Partition
from core.store.reader import Reader
from core.store.segment import BadFile
from trivium.record_batch import BatchHeader, iter_batches

LOOKUP_THREADS_MAX = 2  # each may hold one batch decompressed
_SCAN_BYTES = 1024 * 1024


def _first_offset(found: Extent | Block) -> int:
    return found.bases[0] if isinstance(found, Block) else found.first_offset


def _first_position(found: Extent | Block) -> int:
    return found.positions[0] if isinstance(found, Block) else found.first_position


class Searches:
    """The part of the engine that looks things up; all on the trio thread, decoding in threads."""

    files: SealedFiles
    disk: Disk
    _reader: Reader
    _position: int
    _partitions: dict[int, Partition]

    @cached_property
    def _lookup_threads(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(LOOKUP_THREADS_MAX)

    def _get(self, partition: int) -> Partition:
        p = self._partitions.get(partition)
        if p is None:
            raise UnknownPartition(partition)
        return p

    # By position

    def _blocks(self, p: Partition, first: int = 0) -> Iterator[Extent | Block]:
        """The partition's blocks in offset order, those in files as extents, from the extent with index `first` on."""
        if p.extents is not None:
            for i in range(first, len(p.extents)):
                yield p.extents.get(i)
        for opened in p.open:
            yield opened.block

    async def offset_at(self, partition: int, position: int) -> int:
        p = self._get(partition)
        for found in self._blocks(p, p.extents.find_position(position) if p.extents is not None else 0):
            last = found.positions[-1] if isinstance(found, Block) else found.last_position
            if last >= position:
                first = _first_offset(found)
                if position > _first_position(found):
                    with suppress(BadFile):  # a damaged index: its first batch is the answer, never a later one
                        block = await self._block(found)
                        first = block.bases[block.find_position(position)]
                return max(first, p.log_start)
        return p.high_watermark

    async def _block(self, found: Extent | Block) -> Block:
        """Its index, read by a thread if it is cold. Raises BadFile."""
        if isinstance(found, Block):
            return found
        return self.files.block(found) or await self._reader.load(found)

    def position_at(self, partition: int, offset: int) -> int:
        p = self._get(partition)
        for found in self._blocks(p, p.extents.find(offset) if p.extents is not None else 0):
            if offset < found.end_offset:
                position = _first_position(found)
                if offset > _first_offset(found):
                    with suppress(BadFile):
                        block = found if isinstance(found, Block) else self.files.load(found)
                        position = block.positions[block.find(offset)]
                return position
        return self._position

    # By time

    async def offset_for_time(self, partition: int, timestamp_ms: int) -> TimedOffset | None:
        p = self._get(partition)
        await trio.lowlevel.checkpoint()
        for found in list(self._blocks(p)):
            largest = found.stamps[-1] if isinstance(found, Block) else found.max_timestamp
            if largest < timestamp_ms or found.end_offset <= p.log_start:
                continue
            try:
                block = await self._block(found)
            except BadFile:
                continue  # as what is damaged in other ways: its readers are told
            i = max(block.find_time(timestamp_ms), block.find(p.log_start))
            if i == len(block):
                continue
            # the largest of the batches up to i may lie below the log start: then it is not i, but one behind it
            async with aclosing(self._scan(p, block.bases[i], block.end_offset)) as batches:
                async for header, batch in batches:
                    if header.max_timestamp >= timestamp_ms:
                        answer = await trio.to_thread.run_sync(
                            first_record_from, batch, timestamp_ms, p.log_start, limiter=self._lookup_threads
                        )
                        if answer is not None:
                            return answer
        return None

    async def max_timestamp(self, partition: int) -> TimedOffset | None:
        p = self._get(partition)
        await trio.lowlevel.checkpoint()
        largest: int | None = None
        for found in list(self._blocks(p)):
            if found.end_offset <= p.log_start:
                continue
            if _first_offset(found) >= p.log_start:
                stamp = found.stamps[-1] if isinstance(found, Block) else found.max_timestamp
                largest = stamp if largest is None else max(largest, stamp)
                continue
            async with aclosing(self._scan(p, p.log_start, found.end_offset)) as batches:
                async for header, _ in batches:
                    largest = header.max_timestamp if largest is None else max(largest, header.max_timestamp)
        return None if largest is None else await self.offset_for_time(partition, largest)

    async def _scan(self, p: Partition, offset: int, end: int) -> AsyncGenerator[tuple[BatchHeader, memoryview], None]:
        """The batches from `offset` to `end`, leaving out what is damaged or deleted meanwhile."""
        while (offset := max(offset, p.log_start)) < end:
            try:
                read = await self._reader.read(p, offset, _SCAN_BYTES, False, True)
            except DataDamaged as e:
                offset = e.end_offset
                continue
            if not read.buffers:
                return
            for buffer in read.buffers:
                for header, batch in iter_batches(buffer):
                    offset = header.next_offset
                    if header.base_offset < end:
                        yield header, batch

    # By key

    async def offsets_for_key(self, partition: int, key: bytes, *, from_offset: int, count_max: int) -> list[int]:
        p = self._get(partition)
        await trio.lowlevel.checkpoint()
        found: list[int] = []
        at = from_offset
        while (at := max(at, p.log_start)) < p.high_watermark and len(found) < count_max:
            extents = p.extents
            i = len(extents) if extents is not None and p.policy.key_index else 0
            if extents is None or i == 0 or (i := extents.find(at)) == len(extents):
                await self._scan_for_key(p, key, at, p.high_watermark, count_max, found)
                break
            extent = extents.get(i)
            name = self.files.name(extent.file_id)
            batches = await trio.to_thread.run_sync(candidates, self.disk, name, partition, key)
            if batches is None:
                await self._scan_for_key(p, key, at, extent.end_offset, count_max, found)
            elif batches:
                try:
                    block = await self._block(extent)
                except BadFile:
                    batches = []
                for j in batches:
                    if block.bases[j] + block.rows[3 * j + 2] >= at:
                        # by offset, not by place: the file may have been replaced meanwhile
                        end = block.bases[j] + block.rows[3 * j + 2] + 1
                        await self._scan_for_key(p, key, max(at, block.bases[j]), end, count_max, found)
            at = extent.end_offset
        return found[:count_max]

    async def _scan_for_key(
        self, p: Partition, key: bytes, from_offset: int, end: int, count_max: int, found: list[int]
    ) -> None:
        """Adds the offsets with this key in [from_offset, end) to `found`."""
        async with aclosing(self._scan(p, from_offset, end)) as batches:
            async for header, batch in batches:
                if not header.is_control:
                    search = partial(offsets_of_key, batch, key, from_offset)
                    found += await trio.to_thread.run_sync(search, limiter=self._lookup_threads)
                    if len(found) >= count_max:
                        return
