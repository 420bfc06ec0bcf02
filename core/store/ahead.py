"""Memory for what is written next, where the machine is slow to give it.

A write copies into pages of memory. Where a virtual machine gets its memory only as it uses it, the first touch of a
page that no one has used costs 12 us, its copy 0.3: 3 s for each GB of log, and the loop stands still for it. So while
writes are slow in this way, a thread reads what is allocated next, which has the system put zeros into pages for it;
the writes then find them. It ends once that is quick: then memory is in use again that was used before.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

import trio

from core.store.disk import File
from core.store.log_files import Segment

AHEAD_BYTES: Final = 16 * 1024 * 1024
SLOW_S_PER_BYTE: Final = 1.5e-9  # of a write: 24 us for 16 KiB, which otherwise take 9
QUICK_S_PER_BYTE: Final = 0.7e-9  # of the thread: otherwise 0.4e-9
SLOW_WRITES: Final = 8  # one after another: a single one has only waited for a processor
_WRITE_BYTES_MIN: Final = 16 * 1024  # less says nothing about memory
_PIECE_BYTES: Final = 1024 * 1024


class Ahead:
    """`run` is a task; all on the trio thread."""

    def __init__(self) -> None:
        self._slow_writes = 0
        self._segment: Segment | None = None  # the writer's
        self._prepared: Segment | None = None
        self._loaded_to = 0
        self._active = False
        self._wake = trio.Event()

    def written(self, segment: Segment, size: int, took_s: float) -> None:
        """The loop has written `size` bytes at `segment.place`."""
        if self._active:
            wanted_to = min(segment.place + AHEAD_BYTES // 2, segment.capacity)
            if segment is not self._segment or wanted_to > self._loaded_to:
                self._segment = segment
                self._wake.set()
        elif size >= _WRITE_BYTES_MIN:
            self._slow_writes = self._slow_writes + 1 if took_s > size * SLOW_S_PER_BYTE else 0
            if self._slow_writes >= SLOW_WRITES:
                self._active = True

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            segment = self._segment
            assert segment is not None
            if segment is not self._prepared:
                self._prepared = segment
                self._loaded_to = 0
            start = max(self._loaded_to, -(-segment.place // _PIECE_BYTES) * _PIECE_BYTES)
            end = min(segment.capacity, segment.place + AHEAD_BYTES)
            self._loaded_to = end
            if start < end:
                took_s = await trio.to_thread.run_sync(_load, segment.file, start, end - start)
                if took_s < (end - start) * QUICK_S_PER_BYTE:
                    self._active = False
                    self._slow_writes = 0


def _load(file: File, offset: int, length: int) -> float:
    """Returns the seconds of processor that it took: not those for which it waited."""
    began = time.thread_time()
    with contextlib.suppress(OSError):
        file.load(offset, length)
    return time.thread_time() - began
