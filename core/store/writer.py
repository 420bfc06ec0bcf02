"""Group commit: one task takes every append that is waiting, writes them as one group, syncs once, takes the next.

    append -> queue -> writer task: pwritev, then fdatasync in the kernel (`syncs`) -> written(group)
                                    a supply thread makes the next segments ahead of their use (`supply`)

Rules:
* Groups are written one after another, so whatever is in a later group proves that the ones before it are durable
  (`flush = sync`); with `flush = async` the watermark follows the write and `flush` syncs from time to time.
* A failed sync, or any failed write but for want of room, ends the writer: it is never tried again.
* No room: the group and all behind it were not appended. What waits in the queue was given offsets after those, so it
  is thrown away before the engine hears of it and takes all of them back.
* Writing is a copy into the page cache (9 us for 16 KiB, 32 for 192 KiB), a thread costs more than that; so the loop
  writes. Only large groups, and all groups for a while after one took long (a disk that the system holds writers back
  for), are left to a thread, so that a slow disk does not stop the loop.
"""

from __future__ import annotations

import enum
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import trio

from core.store.engine import Appended, Done
from core.store.log_files import Segment
from core.store.segment import (
    ENTRY_HEADER_BYTES,
    FILE_HEADER_BYTES,
    GROUP_ENTRIES_MAX,
    GROUP_HEADER_BYTES,
    FileHeader,
    FileKind,
    encode_file_header,
    encode_group_header,
)
from core.store.supply import NO_ROOM, Room, Supply
from core.store.syncs import Syncs

GROUP_TARGET_BYTES = 4 * 1024 * 1024  # a group takes no further append beyond this
GROUP_TARGET_ENTRIES = 1024  # nor beyond this: the loop takes a group in one step, some 15 us an entry
SEGMENT_BATCHES_MAX = 262_144  # so that replaying one takes a second or two
LOOP_WRITE_BYTES_MAX = 1024 * 1024  # larger groups are written by a thread
SLOW_WRITE_S = 0.05  # after a write on the loop that took longer ...
SLOW_PAUSE_S = 2.0  # ... a thread writes for so long
_BULK_BYTES = 256 * 1024  # groups larger than this, on average, need no zeros
_JOIN_BYTES_MAX = 4096  # batches smaller than this, on average, are joined before they are written
_SMALL_BYTES = 64 * 1024
_FREE_CHECK_BYTES = 16 * 1024 * 1024
_REPORT_BYTES = 512 * 1024


class Item(NamedTuple):
    """One append on its way: its answers, its packed entry headers and batches, and what it changes."""

    done: Done
    answers: list[Appended]
    headers: bytes
    batches: list[bytes]
    changes: list[Any]  # the engine's
    size: int  # bytes of the batches
    entries: int  # 0 for one that only waits for its turn


class Group(NamedTuple):
    """What was written as one: durable now, or written (`flush = async`)."""

    items: list[Item]
    segment: Segment
    batches_place: int
    end_place: int
    end_position: int


class Signal(enum.Enum):
    """What the queue carries besides items."""

    ROLL = "roll"  # the next group begins a new segment


class WriterState(NamedTuple):
    """Where the log goes on."""

    epoch: int
    sequence: int
    position: int


class Writer:
    """The task that writes. All on the trio thread; `on_written(group)`, `on_no_room(error)` and `on_failed(error)` are
    called from its task, in the order of the groups."""

    def __init__(
        self,
        supply: Supply,
        room: Room,
        state: WriterState,
        sync: bool,
        on_written: Callable[[Group], object],
        on_no_room: Callable[[OSError], object],
        on_failed: Callable[[OSError], object],
    ) -> None:
        self.groups = 0
        self._queue: deque[Item | Signal] = deque()
        self._wake = trio.Event()
        self._stopping = False
        self._supply = supply
        self._room = room
        self._epoch, self._sequence, self._position = state
        self._durable_position = state.position
        self._sync = sync
        self._syncs = Syncs()
        self._on_written = on_written
        self._on_no_room = on_no_room
        self._on_failed = on_failed
        self._segment: Segment | None = None
        self._unsynced: list[Segment] = []
        self._flushing = trio.Lock()
        self._report_at = 0
        self._unchecked_bytes = 0
        self._group_bytes = 0  # of late, on average
        self._thread = trio.CapacityLimiter(1)
        self._loop_writes_from = 0.0  # before, a thread writes

    def put(self, item: Item | Signal) -> None:
        self._queue.append(item)
        self._wake.set()

    def stop(self) -> None:
        """What is waiting is written, then `run` ends."""
        self._stopping = True
        self._wake.set()

    async def flush(self) -> None:
        """Syncs what was written (`flush = async`). Raises OSError."""
        async with self._flushing:
            position = self._position
            segments = list(self._unsynced)
            for segment in segments:
                await trio.to_thread.run_sync(segment.file.fdatasync)
            self._durable_position = position
            for segment in segments[:-1]:  # the last may still be written to
                self._unsynced.remove(segment)

    async def run(self) -> None:
        """Writes until `stop` or a failure; cancelling does not end it."""
        with trio.CancelScope(shield=True):
            try:
                while await self._one_group():
                    pass
            finally:
                self._syncs.close()

    async def _one_group(self) -> bool:
        """Writes what is waiting, or waits; False when there will be no more."""
        items = self._gather()
        if not items:
            if self._queue:
                return True  # a signal was taken
            if self._stopping:
                return False
            self._wake = trio.Event()
            await self._wake.wait()
            return True
        try:
            group = await self._write(items)
        except OSError as e:
            if e.errno not in NO_ROOM or isinstance(e, _SyncFailed):
                self._on_failed(e)
                return False
            self._queue.clear()
            self._on_no_room(e)
            return True
        self._on_written(group)
        if not self._sync and self._queue:
            await trio.lowlevel.checkpoint()
        return True

    def _gather(self) -> list[Item]:
        """Everything that is waiting and fits a group, up to a signal; a signal at the head is obeyed."""
        queue = self._queue
        items: list[Item] = []
        size = count = 0
        while queue and size < GROUP_TARGET_BYTES and count < GROUP_TARGET_ENTRIES:
            item = queue[0]
            if item.__class__ is not Item:
                if not items:
                    queue.popleft()
                    if self._segment is not None and self._segment.place:
                        self._segment = None
                    continue
                break
            count += item.entries
            if count > GROUP_ENTRIES_MAX and items:
                break
            size += item.size
            items.append(item)
            queue.popleft()
        return items

    async def _write(self, items: list[Item]) -> Group:
        headers = b"".join([item.headers for item in items])
        if not headers:  # nothing but refusals and duplicates, whose turn has come
            segment = self._segment
            return Group(items, segment, 0, 0, self._position)  # type: ignore[arg-type]
        batches: list[bytes] = []
        for item in items:
            batches += item.batches
        size = sum(map(len, batches))
        count = len(headers) // ENTRY_HEADER_BYTES
        length = GROUP_HEADER_BYTES + len(headers) + size
        segment = await self._segment_for(length, len(batches))
        buffers: list[bytes] = []
        place = segment.place
        if place == 0:
            header = FileHeader(
                FileKind.LOG, random.getrandbits(32), self._epoch, segment.number, self._position, self._sequence
            )
            segment.header = header
            buffers.append(encode_file_header(header))
        assert segment.header is not None
        if self._sync:
            self._durable_position = self._position
        buffers.append(
            encode_group_header(
                segment.header.salt, self._epoch, self._sequence, self._position, self._durable_position, headers, size
            )
        )
        buffers.append(headers)
        buffers += batches
        if size < _JOIN_BYTES_MAX * len(batches):
            buffers = [b"".join(buffers)]
        await self._put_on_disk(segment, buffers, place, length)
        start = place or FILE_HEADER_BYTES
        segment.place = start + length
        segment.batches += len(batches)
        self._sequence += 1
        self._position += count
        self.groups += 1
        self._after(segment, length)
        return Group(items, segment, start + GROUP_HEADER_BYTES + len(headers), segment.place, self._position)

    async def _put_on_disk(self, segment: Segment, buffers: list[bytes], place: int, length: int) -> None:
        began = time.perf_counter()
        if length > LOOP_WRITE_BYTES_MAX or began < self._loop_writes_from:
            await trio.to_thread.run_sync(self._write_and_sync, segment, buffers, place, limiter=self._thread)
            return
        segment.file.pwritev(buffers, place)
        ended = time.perf_counter()
        if ended - began > SLOW_WRITE_S:
            self._loop_writes_from = ended + SLOW_PAUSE_S
        if self._sync:
            try:
                await self._syncs.fdatasync(segment.file)
            except OSError as e:
                raise _SyncFailed(*e.args) from e

    def _write_and_sync(self, segment: Segment, buffers: list[bytes], place: int) -> None:
        """In a thread."""
        segment.file.pwritev(buffers, place)
        if self._sync:
            try:
                segment.file.fdatasync()
            except OSError as e:
                raise _SyncFailed(*e.args) from e

    async def _segment_for(self, length: int, batches: int) -> Segment:
        segment = self._segment
        if segment is None or (
            segment.place
            and (segment.place + length > segment.capacity or segment.batches + batches > SEGMENT_BATCHES_MAX)
        ):
            segment = await trio.to_thread.run_sync(self._supply.take, length <= _SMALL_BYTES, limiter=self._thread)
            self._segment = segment
            self._report_at = 0
            if not self._sync:
                self._unsynced.append(segment)
        if not segment.place and FILE_HEADER_BYTES + length > segment.capacity:
            # a group larger than a segment gets its own
            needed = FILE_HEADER_BYTES + length
            await trio.to_thread.run_sync(segment.file.allocate, 0, needed, limiter=self._thread)
            segment.capacity = needed
        return segment

    def _after(self, segment: Segment, length: int) -> None:
        self._group_bytes += (length - self._group_bytes) // 16
        if segment.place >= self._report_at:
            used = max(segment.place / segment.capacity, segment.batches / SEGMENT_BATCHES_MAX)
            self._supply.progress(used, self._group_bytes > _BULK_BYTES)
            self._report_at = segment.place + _REPORT_BYTES
        self._unchecked_bytes += length
        if self._unchecked_bytes > _FREE_CHECK_BYTES:
            self._unchecked_bytes = 0
            self._room.look()


class _SyncFailed(OSError):
    """A sync that failed, whatever its errno: the kernel may have dropped what was written."""
