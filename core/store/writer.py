"""Group commit: one thread takes every append that is waiting, writes them as one group, syncs once, tells the loop.

    append (loop) -> queue -> writer thread: pwritev + fdatasync -> run_sync_soon(written, group) -> loop
                                             a supply thread makes the next segments ahead of their use

Rules:
* Groups are written one after another, so whatever is in a later group proves that the ones before it are durable
  (`flush = sync`); with `flush = async` the watermark follows the write and `flush` syncs from time to time.
* A failed sync, or any failed write but for want of room, ends the writer: it is never tried again.
* No room: the group and all behind it were not appended. The loop takes them back and sends RESUME; until then the
  writer throws away what it finds in the queue, since that was given offsets after those that are taken back.
* Writing into blocks written before costs no metadata: fdatasync after 16 KiB takes 160 us on zeros written ahead,
  270 on a growing file, 370 on a file only allocated (with 256 KiB: 250, 800 and 590). So `sync` fills the next segment
  with zeros while the current one is in use, at a pace that has it ready in time and never in bursts. Should the
  writer come first, the rest stays merely allocated; and while groups are large it is left so, since then writing all
  twice costs more than the syncs gain.
* Segments start small and double up to their full size, so that a store at rest takes little room and starts at once.
"""

from __future__ import annotations

import enum
import errno
import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from core.store.disk import Disk
from core.store.engine import Appended, Done
from core.store.log_files import Segment, log_name
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

GROUP_TARGET_BYTES = 4 * 1024 * 1024  # a group takes no further append beyond this
GROUP_TARGET_ENTRIES = 1024  # nor beyond this: the loop takes a group in one step, some 15 us an entry
SEGMENT_BATCHES_MAX = 262_144  # so that replaying one takes a second or two
FIRST_SEGMENT_BYTES = 8 * 1024 * 1024
_ZERO_BYTES = 1024 * 1024
_BULK_BYTES = 256 * 1024  # groups larger than this, on average, need no zeros
_JOIN_BYTES_MAX = 4096  # batches smaller than this, on average, are joined before they are written
_SMALL_BYTES = 64 * 1024
_FREE_CHECK_BYTES = 16 * 1024 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


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


class Room:
    """Whether appends are taken. Set by whoever looks at the disk, read by the loop."""

    def __init__(self, disk: Disk, reserve_bytes: int) -> None:
        self._disk = disk
        self.reserve_bytes = reserve_bytes
        self.full = False

    def look(self) -> None:
        """Asks the disk. It must have a sixteenth more than the reserve to come back, lest it flap."""
        free = self._disk.free_bytes()
        self.full = free < self.reserve_bytes + (self.reserve_bytes // 16 if self.full else 0)

    def allows(self, size: int) -> bool:
        return self._disk.free_bytes() - size >= self.reserve_bytes


class Supply:
    """Makes segments ahead of their use, in a thread of its own."""

    def __init__(self, disk: Disk, room: Room, first_number: int, segment_bytes: int, zeros: bool) -> None:
        self._disk = disk
        self._room = room
        self._number = first_number
        self._capacity = min(FIRST_SEGMENT_BYTES, segment_bytes)
        self._segment_bytes = segment_bytes
        self._zeros = zeros
        self._lock = threading.Lock()  # held while zeros are written: nobody may write there before they have landed
        self._wake = threading.Semaphore(0)
        self._ready: Segment | None = None
        self._zeroed = 0
        self._share = 1.0  # of the current segment that is in use: the ready one should have a bit more of zeros
        self._bulk = False
        self._stopping = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="store-supply", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._wake.release()

    @property
    def next_number(self) -> int:
        """The number of the next segment to be made; after `stop`, the first that was never used."""
        return self._number

    def stop(self, tidy: bool = True) -> None:
        """Ends the thread; when `tidy` a segment that was not used is removed. After the writer's end."""
        self._stopping = True
        self._wake.release()
        if self._thread.ident is not None:
            self._thread.join()
        if tidy and self._ready is not None:
            self._ready.file.close()
            self._disk.unlink(self._ready.file.name)
            self._ready = None

    def progress(self, share: float, bulk: bool) -> None:
        """The writer has used this share of its segment; `bulk`: with groups so large that they need no zeros."""
        self._share, self._bulk = share, bulk
        self._wake.release()

    def take(self, small: bool) -> Segment:
        """The next segment; makes it if it must. Raises OSError.

        For a `small` group it may be one from the reserve: below that only what gives room back is appended, and a
        start on a disk that is full has no segment left to write it to.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            segment = self._ready or self._make(from_reserve=small)
            self._ready = None
            self._share = 0.0
        self._wake.release()
        return segment

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            try:
                self._prepare()
            except OSError as e:
                if e.errno not in NO_ROOM:
                    self._error = e  # the writer meets it at its next segment
                    return

    def _prepare(self) -> None:
        while not self._stopping:
            with self._lock:
                if self._ready is None:
                    self._ready = self._make()
                    self._zeroed = 0
                segment = self._ready
                if (
                    not self._zeros
                    or self._bulk
                    or self._zeroed >= min(1.0, 1.5 * self._share + 0.1) * segment.capacity
                ):
                    return
                size = min(_ZERO_BYTES, segment.capacity - self._zeroed)
                segment.file.zero(self._zeroed, size)
                segment.file.fdatasync()
                self._zeroed += size

    def _make(self, from_reserve: bool = False) -> Segment:
        capacity = self._capacity
        while not self._room.allows(capacity):
            capacity //= 2
            if capacity < FIRST_SEGMENT_BYTES // 8:
                if not from_reserve:
                    raise OSError(errno.ENOSPC, "no room for a segment")
                self._room.full = True
                capacity = min(FIRST_SEGMENT_BYTES // 8, self._capacity)
                break
        name = log_name(self._number)
        file = self._disk.open(name, create=True)
        try:
            file.allocate(0, capacity)
            self._disk.sync_directory()
        except OSError:
            file.close()
            self._disk.unlink(name)
            raise
        segment = Segment(self._number, file, capacity)
        self._number += 1
        self._capacity = min(self._segment_bytes, 2 * capacity)
        return segment


class Signal(enum.Enum):
    """What the queue carries besides items."""

    RESUME = "resume"  # the loop has taken back what there was no room for
    ROLL = "roll"  # the next group begins a new segment
    STOP = "stop"


class WriterState(NamedTuple):
    """Where the log goes on."""

    epoch: int
    sequence: int
    position: int


class Writer:
    """The thread that writes. `soon` calls a function on the loop, in order, from any thread.

    `on_written(group)`, `on_no_room(error)`, `on_failed(error)` are called there.
    """

    def __init__(
        self,
        supply: Supply,
        room: Room,
        state: WriterState,
        sync: bool,
        soon: Callable[..., object],
        on_written: Callable[[Group], object],
        on_no_room: Callable[[OSError], object],
        on_failed: Callable[[OSError], object],
    ) -> None:
        self.queue: SimpleQueue[Item | Signal] = SimpleQueue()
        self.groups = 0
        self._supply = supply
        self._room = room
        self._epoch, self._sequence, self._position = state
        self._durable_position = state.position
        self._sync = sync
        self._soon = soon
        self._on_written = on_written
        self._on_no_room = on_no_room
        self._on_failed = on_failed
        self._segment: Segment | None = None
        self._unsynced: list[Segment] = []
        self._report_at = 0
        self._unchecked_bytes = 0
        self._group_bytes = 0  # of late, on average
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Writes what is waiting, then ends. Blocks: call it from another thread than the loop's."""
        self.queue.put(Signal.STOP)
        self._thread.join()

    def flush(self) -> None:
        """Syncs what was written (`flush = async`). Called from one other thread at a time. Raises OSError."""
        position = self._position
        segments = list(self._unsynced)
        for segment in segments:
            segment.file.fdatasync()
        self._durable_position = position
        for segment in segments[:-1]:  # the last may still be written to
            self._unsynced.remove(segment)

    def _run(self) -> None:
        held: Item | Signal | None = None
        while True:
            first = held or self.queue.get()
            if first is Signal.STOP:
                return
            if first is Signal.ROLL and self._segment is not None and self._segment.place:
                self._segment = None
            if isinstance(first, Signal):
                held = None
                continue
            items, held = self._gather(first)
            try:
                group = self._write(items)
            except OSError as e:
                if e.errno not in NO_ROOM or isinstance(e, _SyncFailed):
                    self._soon(self._on_failed, e)
                    return
                self._soon(self._on_no_room, e)
                while held is not Signal.RESUME and held is not Signal.STOP:
                    held = self.queue.get()
                continue
            self._soon(self._on_written, group)

    def _gather(self, first: Item) -> tuple[list[Item], Item | Signal | None]:
        """Everything that is waiting and fits a group; and what was taken from the queue but does not belong to it."""
        items = [first]
        size, count = first.size, first.entries
        get = self.queue.get_nowait
        while size < GROUP_TARGET_BYTES and count < GROUP_TARGET_ENTRIES:
            try:
                item = get()
            except Empty:
                break
            if item.__class__ is not Item:
                return items, item
            size += item.size
            count += item.entries
            if count > GROUP_ENTRIES_MAX:
                return items, item
            items.append(item)
        return items, None

    def _write(self, items: list[Item]) -> Group:
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
        segment = self._segment_for(length, len(batches))
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
        segment.file.pwritev(buffers, place)
        if self._sync:
            try:
                segment.file.fdatasync()
            except OSError as e:
                raise _SyncFailed(*e.args) from e
        start = place or FILE_HEADER_BYTES
        segment.place = start + length
        segment.batches += len(batches)
        self._sequence += 1
        self._position += count
        self.groups += 1
        self._after(segment, length)
        return Group(items, segment, start + GROUP_HEADER_BYTES + len(headers), segment.place, self._position)

    def _segment_for(self, length: int, batches: int) -> Segment:
        segment = self._segment
        if segment is None or (
            segment.place
            and (segment.place + length > segment.capacity or segment.batches + batches > SEGMENT_BATCHES_MAX)
        ):
            segment = self._segment = self._supply.take(length <= _SMALL_BYTES)
            self._report_at = 0
            if not self._sync:
                self._unsynced.append(segment)
        if not segment.place and FILE_HEADER_BYTES + length > segment.capacity:
            segment.file.allocate(0, FILE_HEADER_BYTES + length)  # a group larger than a segment gets its own
            segment.capacity = FILE_HEADER_BYTES + length
        return segment

    def _after(self, segment: Segment, length: int) -> None:
        self._group_bytes += (length - self._group_bytes) // 16
        if segment.place >= self._report_at:
            used = max(segment.place / segment.capacity, segment.batches / SEGMENT_BATCHES_MAX)
            self._supply.progress(used, self._group_bytes > _BULK_BYTES)
            self._report_at = segment.place + _ZERO_BYTES // 2
        self._unchecked_bytes += length
        if self._unchecked_bytes > _FREE_CHECK_BYTES:
            self._unchecked_bytes = 0
            self._room.look()


class _SyncFailed(OSError):
    """A sync that failed, whatever its errno: the kernel may have dropped what was written."""
