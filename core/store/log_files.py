"""The files of the embedded engine: names, log segments while they are written, sealed files and their blocks.

    format                 "trivium-store <version>": checked before anything else
    lock                   held while a process serves the directory
    checkpoint             state of all partitions at the start of a log segment (`checkpoint`)
    checkpoint.copy        the same once more, for the day that it is damaged
    <number>.log           log segments, numbered 1, 2, 3, ... as they were written
    others                 named by the manifest (settled files, key indexes)

A log segment is made ahead of its use, filled with zeros, and gets its file header together with its first group: a
file of zeros is one that was never used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from core.store.disk import Disk, File
from core.store.index import Block, Extent, Footer, read_block, write_footer
from core.store.segment import FILE_HEADER_BYTES, FileHeader

FILES_OPEN_MAX = 128  # two descriptors each, once mapped
BLOCKS_CACHED_BATCHES_MAX = 400_000  # 36 bytes each

_LOG_SUFFIX = ".log"


def log_name(number: int) -> str:
    return f"{number:016d}{_LOG_SUFFIX}"


def log_number(name: str) -> int | None:
    """The number of a log segment's name, None for other names."""
    stem = name.removesuffix(_LOG_SUFFIX)
    return int(stem) if stem != name and len(stem) == 16 and stem.isascii() and stem.isdigit() else None


class Segment:
    """A log segment that has no footer yet. `place` and `batches` belong to the writer, `blocks` and what follows to
    the trio thread."""

    __slots__ = ("batches", "blocks", "capacity", "file", "groups_end", "header", "number", "place")

    def __init__(self, number: int, file: File, capacity: int) -> None:
        self.number = number
        self.file = file
        self.capacity = capacity
        self.header: FileHeader | None = None
        self.place = 0  # where the next group goes; 0: not even the file header is written
        self.batches = 0
        self.blocks: dict[int, Block] = {}  # by partition number
        self.groups_end = FILE_HEADER_BYTES  # end of the last group that is indexed


class SealedFiles:
    """Sealed files by a number of this run, with bounded caches of open handles and of blocks."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._names: dict[int, str] = {}
        self._footers: dict[int, tuple[int, int]] = {}  # file id -> batches, bytes
        self._open: OrderedDict[int, File] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()  # by file id and place
        self._cached_batches = 0
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._names.items())

    def name(self, file_id: int) -> str:
        return self._names[file_id]

    def add(self, name: str, footer: Footer, file: File | None = None) -> int:
        """Takes a sealed file in; the caller gives its rows to the partitions' extents."""
        self._next_id += 1
        self._names[self._next_id] = name
        self._footers[self._next_id] = footer.batches, footer.groups_end
        if file is not None:
            self._keep_open(self._next_id, file)
        return self._next_id

    def remove(self, file_ids: Iterable[int]) -> None:
        """Forgets files. Readers that hold one go on reading; unlinking is the caller's."""
        gone = set(file_ids)
        for file_id in gone:
            del self._names[file_id]
            del self._footers[file_id]
            self._open.pop(file_id, None)
        for key in [key for key in self._blocks if key[0] in gone]:
            self._cached_batches -= len(self._blocks.pop(key))

    def file(self, file_id: int) -> File:
        file = self._open.get(file_id)
        if file is None:
            file = self._disk.open(self._names[file_id])
            self._keep_open(file_id, file)
        else:
            self._open.move_to_end(file_id)
        return file

    def _keep_open(self, file_id: int, file: File) -> None:
        self._open[file_id] = file
        while len(self._open) > FILES_OPEN_MAX:
            self._open.popitem(last=False)  # closes itself with its last reader

    def block(self, extent: Extent) -> Block | None:
        """The block of an extent, None when it has to be read from the disk first (`load`, then `keep`)."""
        key = (extent.file_id, extent.place)
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            return block
        block = read_block(self.file(extent.file_id), extent.place, extent.batches, extent.crc, nowait=True)
        if block is not None:
            self.keep(extent, block)
        return block

    def load(self, extent: Extent) -> Block:
        """As `block`, waiting for the disk."""
        block = self.block(extent)
        if block is None:
            block = read_block(self.file(extent.file_id), extent.place, extent.batches, extent.crc)
            assert block is not None
            self.keep(extent, block)
        return block

    def keep(self, extent: Extent, block: Block) -> None:
        key = (extent.file_id, extent.place)
        if extent.file_id not in self._names or key in self._blocks:
            return
        self._blocks[key] = block
        self._cached_batches += len(block)
        while self._cached_batches > BLOCKS_CACHED_BATCHES_MAX and len(self._blocks) > 1:
            self._cached_batches -= len(self._blocks.popitem(last=False)[1])


def seal(segment: Segment) -> Footer:
    """Ends a log segment with its footer, durably. Raises OSError. `segment` must not change meanwhile."""
    segment.file.truncate(segment.groups_end)
    footer = write_footer(segment.file, segment.groups_end, sorted(segment.blocks.items()))
    segment.file.fdatasync()
    return footer
