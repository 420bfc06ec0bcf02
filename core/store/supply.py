"""Makes log segments ahead of their use, and knows whether the disk has room for them.

Rules:
* Writing into blocks written before costs no metadata: fdatasync after 16 KiB takes 160 us on zeros written ahead,
  270 on a growing file, 370 on a file only allocated (with 256 KiB: 250, 800 and 590). So `sync` fills the next segment
  with zeros while the current one is in use, at a pace that has it ready in time and never in bursts. Should the
  writer come first, the rest stays merely allocated; and while groups are large it is left so, since then writing all
  twice costs more than the syncs gain.
* Segments start small and double up to their full size, so that a store at rest takes little room and starts at once.
"""

from __future__ import annotations

import errno
import threading

import structlog

from core.store.disk import Disk
from core.store.log_files import Segment, log_name

FIRST_SEGMENT_BYTES = 8 * 1024 * 1024
_ZERO_BYTES = 1024 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger("store")


class Room:
    """Whether appends are taken. Set by whoever looks at the disk, read by the loop."""

    def __init__(self, disk: Disk, reserve_bytes: int) -> None:
        self._disk = disk
        self.reserve_bytes = reserve_bytes
        self._full = False

    @property
    def full(self) -> bool:
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        if full != self._full:
            self._full = full
            if full:
                log.warning("the disk is nearly full: writes are refused", reserve_bytes=self.reserve_bytes)
            else:
                log.info("there is room on the disk again: writes are taken", reserve_bytes=self.reserve_bytes)

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
        if self._zeros and not bulk:  # else there is nothing to do, and a thread that wakes costs the loop its lock
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
