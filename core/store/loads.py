"""Which parts of the files a thread has brought into memory, for those who read much of what is no longer there.

The first touch of a page that came from the disk may cost far more than its copy (12 us for 4 KiB where a virtual
machine gets its memory as it uses it, against 0.3), and the disk reads ahead, so that pages are in memory that nobody
has touched. The loop must not be the one who does. So once a file has been found cold, whoever reads many bytes of it
waits until a thread has touched all of the surroundings: one call, not one for each batch, and the neighbours among a
topic's partitions, whose batches lie between, find theirs there.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from typing import Final

from core.store.disk import File

STRETCH_BYTES: Final = 1024 * 1024
ASKED_BYTES_MIN: Final = 256 * 1024  # less is read as it comes: the system reads ahead for it
SPAN_BYTES_MAX: Final = 32 * 1024 * 1024
EXTRA_BYTES_MAX: Final = 64 * 1024 * 1024  # loaded of one file beyond what was asked for, and not asked for since
FILES_MAX: Final = 128
LOADED_BYTES_MAX: Final = 1024 * 1024 * 1024  # of all files: what was loaded before that leaves memory again


class _Loaded:
    __slots__ = ("extra_bytes", "stretches")

    def __init__(self) -> None:
        self.stretches: set[int] = set()
        self.extra_bytes = 0


class Loads:
    """By file name; all on the trio thread."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, _Loaded] = OrderedDict()  # the cold ones
        self._order: deque[tuple[weakref.ref[File], range]] = deque()
        self._bytes = 0

    def due(self, name: str, start: int, end: int, asked_bytes: int) -> range | None:
        """What a thread has to load before `asked_bytes` between `start` and `end` are read; None for nothing."""
        loaded = self._files.get(name)
        if loaded is None or asked_bytes < ASKED_BYTES_MIN:
            return None
        stretches = _stretches(start, end)
        if loaded.stretches.issuperset(stretches):
            loaded.extra_bytes = max(0, loaded.extra_bytes - asked_bytes)
            return None
        extra_bytes = len(stretches) * STRETCH_BYTES - asked_bytes
        if len(stretches) * STRETCH_BYTES > SPAN_BYTES_MAX or loaded.extra_bytes + extra_bytes > EXTRA_BYTES_MAX:
            return None
        return range(stretches.start * STRETCH_BYTES, stretches.stop * STRETCH_BYTES)

    def begin(self, name: str, start: int, end: int, asked_bytes: int) -> range | None:
        """As `due`, of what was found cold: what is returned counts as loaded from now on."""
        loaded = self._files.setdefault(name, _Loaded())
        self._files.move_to_end(name)
        if len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        loaded.stretches.difference_update(_stretches(start, end))
        load = self.due(name, start, end, asked_bytes)
        if load is not None:
            loaded.stretches.update(_stretches(load.start, load.stop))
            loaded.extra_bytes += len(load) - asked_bytes
        return load

    def keep(self, file: File, load: range) -> list[tuple[File, range]]:
        """`load` is about to be loaded; returns what is to leave memory for it."""
        self._order.append((weakref.ref(file), load))
        self._bytes += len(load)
        old: list[tuple[File, range]] = []
        while self._bytes > LOADED_BYTES_MAX:
            reference, load = self._order.popleft()
            self._bytes -= len(load)
            if (file_then := reference()) is not None:
                old.append((file_then, load))
                if (loaded := self._files.get(file_then.name)) is not None:
                    loaded.stretches.difference_update(_stretches(load.start, load.stop))
        return old


def _stretches(start: int, end: int) -> range:
    return range(start // STRETCH_BYTES, -(-end // STRETCH_BYTES))
