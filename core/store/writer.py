"""Group commit: every append that is waiting is written as one group and synced once, then the next.

    append -> queue -> pwritev, then fdatasync (`syncs`) -> written(group)
                       a supply thread makes the next segments ahead of their use (`supply`)

Who writes: `write_now`, in the step of whoever has appended all that one read brought; where the disk is slow, the end
of a sync, which writes what came meanwhile before the synced group is answered, so that the disk works while answers
are made; and a task, for the rest: appends that nobody hurried, new segments, what a thread has to write.

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

from core.store.ahead import Ahead
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
_BULK_BYTES = 96 * 1024  # groups larger than this, on average, need no zeros: with them 780 k records/s, without 885 k
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
    segment: Segment | None  # None, and no places, where there was nothing to write
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
    """`run` is its task. All on the trio thread; `on_written(group)`, `on_no_room(error)` and `on_failed(error)` are
    called in the order of the groups, from that task or from `write_now`."""

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
        self.sync_s = 0.0  # for which groups have waited for the disk
        self._queue: deque[Item | Signal] = deque()
        self._gathered: list[Item] = []  # from the queue, a group for the task
        self._busy = False  # a group is being written, synced or answered: the next has to wait
        self._syncing: Group | None = None  # in the kernel
        self._to_sync: Group | None = None  # in a thread, by the task: the kernel did not take it
        self._wake = trio.Event()
        self._stopping = False
        self._failed = False
        self._fault: BaseException | None = None  # raised by `on_written` and its like inside `write_now`
        self._supply = supply
        self._room = room
        self._epoch, self._sequence, self._position = state
        self._durable_position = state.position
        self._sync = sync
        self._syncs = Syncs()
        self._sync_began = 0.0
        self._ahead = Ahead()
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

    def write_now(self) -> None:
        """Writes what is waiting, if nothing else is being written and the loop may write it. Raises nothing."""
        if self._busy or self._gathered or not self._queue:
            return
        self._busy = True
        try:
            try:
                written = self._write_waiting()
            except OSError as error:
                self._refuse(error)
            else:
                if written is not None:
                    self._on_written(written)
        except BaseException as fault:  # not the caller's: the task raises it
            self._fault = fault
            self._wake.set()
            return
        self._rest()

    async def flush(self) -> None:
        """Syncs what was written (`flush = async`). Raises OSError."""
        async with self._flushing:
            position = self._position
            segments = list(self._unsynced)
            for segment in segments:
                await self._syncs.sync(segment.file)
            self._durable_position = position
            for segment in segments[:-1]:  # the last may still be written to
                self._unsynced.remove(segment)

    async def run(self) -> None:
        """Writes until `stop` or a failure; cancelling does not end it."""
        with trio.CancelScope(shield=True):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ahead.run)
                    if self._sync:
                        nursery.start_soon(self._take_ends)
                    while await self._step():
                        pass
                    nursery.cancel_scope.cancel()
            finally:
                async with self._flushing:
                    self._syncs.close()

    async def _step(self) -> bool:
        """Writes what is waiting, or waits; False when there will be no more."""
        if self._fault is not None:
            raise self._fault
        if self._failed or (self._stopping and not (self._busy or self._gathered or self._queue)):
            return False
        if self._to_sync is not None:
            await self._sync_in_thread(self._to_sync)
        elif self._busy or not (self._gathered or self._queue):
            self._wake = trio.Event()
            await self._wake.wait()
        else:
            items, self._gathered = self._gathered or self._gather(), []
            if items:
                self._busy = True
                await self._write(items)
                self._rest()
                if self._queue and not self._busy:
                    await trio.lowlevel.checkpoint()
        return True

    def _rest(self) -> None:
        """A group was answered, refused, or is on its way to the disk."""
        if self._syncing is None and self._to_sync is None and not self._failed:
            self._busy = False
            if self._stopping:
                self._wake.set()

    async def _take_ends(self) -> None:
        """Takes the ends of the kernel's syncs."""
        while True:
            try:
                await self._syncs.wait_end()
            except OSError as error:
                self._fail(error)
                return
            self._synced()

    def _synced(self) -> None:
        """The kernel has synced a group: the next goes to the disk before this one is answered."""
        group, self._syncing = self._syncing, None
        assert group is not None
        self.sync_s += time.perf_counter() - self._sync_began
        written: Group | None = None
        failure: OSError | None = None
        if not self._gathered:
            try:
                written = self._write_waiting()
            except OSError as error:
                failure = error
        self._on_written(group)
        if written is not None:
            self._on_written(written)
        if failure is not None:
            self._refuse(failure)
        self._rest()
        self.write_now()  # what the answers led to

    def _refuse(self, error: OSError) -> None:
        """A group could not be written."""
        if error.errno not in NO_ROOM or isinstance(error, _SyncFailed):
            self._fail(error)
            return
        self._queue.clear()
        self._gathered = []
        self._on_no_room(error)

    def _fail(self, error: OSError) -> None:
        self._failed = True
        self._on_failed(error)
        self._wake.set()

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

    def _write_waiting(self) -> Group | None:
        """Writes what is waiting in this step, or leaves it to the task. Returns a group that can be answered at once.
        Raises OSError."""
        if self._segment is None or time.perf_counter() < self._loop_writes_from:
            self._wake.set()
            return None
        items = self._gather()
        segment = self._segment
        if not items:
            return None
        length, batches = _measure(items)
        if segment is None or length > LOOP_WRITE_BYTES_MAX or not _fits(segment, length, batches):
            self._gathered = items
            self._wake.set()
            return None
        return self._write_here(items, segment)

    async def _write(self, items: list[Item]) -> None:
        """Writes and answers, as far as that is the task's."""
        if not any(item.headers for item in items):  # nothing but refusals and duplicates, whose turn has come
            self._on_written(Group(items, None, 0, 0, self._position))
            return
        try:
            length, batches = _measure(items)
            segment = await self._segment_for(length, batches)
            if length > LOOP_WRITE_BYTES_MAX or time.perf_counter() < self._loop_writes_from:
                group, buffers = self._encode(items, segment)
                await trio.to_thread.run_sync(
                    self._write_and_sync, segment, buffers, segment.place, limiter=self._thread
                )
                self._wrote(group, length)
                written: Group | None = group
            else:
                written = self._write_here(items, segment)
        except OSError as error:
            self._refuse(error)
            return
        if written is not None:
            self._on_written(written)

    def _write_here(self, items: list[Item], segment: Segment) -> Group | None:
        """Writes on the loop and hands the sync to the kernel. Returns the group if it can be answered at once."""
        group, buffers = self._encode(items, segment)
        if not buffers:
            return group
        began = time.perf_counter()
        length = segment.file.pwritev(buffers, segment.place)
        ended = time.perf_counter()
        if ended - began > SLOW_WRITE_S:
            self._loop_writes_from = ended + SLOW_PAUSE_S
        self._ahead.written(segment, length, ended - began)
        self._wrote(group, length)
        if not self._sync or self._synced_now(segment):
            return group
        self._sync_began = time.perf_counter()
        if self._syncs.begin_nowait(segment.file):
            self._syncing = group
        else:
            self._to_sync = group
            self._wake.set()
        return None

    def _synced_now(self, segment: Segment) -> bool:
        began = time.perf_counter()
        try:
            return self._syncs.sync_now(segment.file)
        except OSError as e:
            raise _SyncFailed(*e.args) from e
        finally:
            self.sync_s += time.perf_counter() - began

    def _encode(self, items: list[Item], segment: Segment) -> tuple[Group, list[bytes]]:
        """The group as it will stand in the segment, and its bytes."""
        headers = b"".join([item.headers for item in items])
        if not headers:
            return Group(items, None, 0, 0, self._position), []
        batches: list[bytes] = []
        for item in items:
            batches += item.batches
        size = sum(map(len, batches))
        buffers: list[bytes] = []
        place = segment.place
        if place == 0:
            header = FileHeader(
                FileKind.LOG, random.getrandbits(32), self._epoch, segment.number, self._position, self._sequence
            )
            segment.header = header
            buffers.append(encode_file_header(header))
            place = FILE_HEADER_BYTES
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
        batches_place = place + GROUP_HEADER_BYTES + len(headers)
        position = self._position + len(headers) // ENTRY_HEADER_BYTES
        return Group(items, segment, batches_place, batches_place + size, position), buffers

    def _write_and_sync(self, segment: Segment, buffers: list[bytes], place: int) -> None:
        """In a thread."""
        segment.file.pwritev(buffers, place)
        if self._sync:
            try:
                segment.file.fdatasync()
            except OSError as e:
                raise _SyncFailed(*e.args) from e

    async def _sync_in_thread(self, group: Group) -> None:
        assert group.segment is not None
        try:
            await trio.to_thread.run_sync(group.segment.file.fdatasync, limiter=self._thread)
        except OSError as error:
            self._fail(error)
            return
        self._to_sync = None
        self.sync_s += time.perf_counter() - self._sync_began
        self._on_written(group)
        self._rest()

    async def _segment_for(self, length: int, batches: int) -> Segment:
        segment = self._segment
        if segment is None or (segment.place and not _fits(segment, length, batches)):
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

    def _wrote(self, group: Group, length: int) -> None:
        segment = group.segment
        assert segment is not None
        segment.place = group.end_place
        segment.batches += sum(len(item.batches) for item in group.items)
        self._sequence += 1
        self._position = group.end_position
        self.groups += 1
        self._group_bytes += (length - self._group_bytes) // 16
        if segment.place >= self._report_at:
            used = max(segment.place / segment.capacity, segment.batches / SEGMENT_BATCHES_MAX)
            self._supply.progress(used, self._group_bytes > _BULK_BYTES)
            self._report_at = segment.place + _REPORT_BYTES
        self._unchecked_bytes += length
        if self._unchecked_bytes > _FREE_CHECK_BYTES:
            self._unchecked_bytes = 0
            self._room.look()


def _measure(items: list[Item]) -> tuple[int, int]:
    """Bytes of a group, and its batches."""
    size = GROUP_HEADER_BYTES
    batches = 0
    for item in items:
        size += item.size + len(item.headers)
        batches += len(item.batches)
    return size, batches


def _fits(segment: Segment, length: int, batches: int) -> bool:
    """Whether a group goes into a segment that is in use."""
    place = segment.place or FILE_HEADER_BYTES
    return place + length <= segment.capacity and segment.batches + batches <= SEGMENT_BATCHES_MAX


class _SyncFailed(OSError):
    """A sync that failed, whatever its errno: the kernel may have dropped what was written."""
