"""The one file format of the store: log segments and settled files.

All numbers are little-endian, except inside record batches.

    file    = file header, group*, [footer]          (the footer is in `index`; a log segment gets it when it is sealed)
    group   = group header, entry header * count, batch bytes one after another in the order of their entry headers
    entry   = batch | create | delete | delete before (the last three have no bytes)

    file header, 64 B    0 magic 8s   8 version u16  10 kind u8  12 salt u32  16 epoch u32  20 number u64
                        28 base position u64  36 sequence u64  44 reserved 16 B  60 crc u32 over the rest
    group header, 48 B   0 magic u32  4 version u16   6 flags u16  8 epoch u32  12 count u32  16 sequence u64
                        24 base position u64  32 position known durable when written u64  40 length u32  44 crc u32
    entry header, 32 B   0 kind u8    4 partition u32  8 base offset i64  16 position i64  24 size u32  28 batch crc u32

Rules:
* A group's CRC-32C starts from the file's random `salt` and covers its header and its entry headers; a batch's own CRC
  covers its bytes. So bytes from another life of a reused file, and groups that somebody sent as data, are never taken
  for groups of this file.
* In a log segment sequences go up by one from the file header's `sequence`, positions go on where the last group ended
  (each entry takes one), and epochs never fall. In a settled file `epoch` is the leader epoch of the group's batches,
  sequences count from 0, each entry has its old position, and entries are sorted by (partition, base offset): a group
  holds one partition, or several small ones.
* A group is whole or it is not there: it is one append's unit of atomicity, or several appends'.
* Nothing here trusts a length: counts and sizes are checked against each other and the file before anything is read
  by them.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from google_crc32c import extend as _extend

from core.store.disk import File
from core.store.engine import StoreUnusable
from trivium.crc import crc32c
from trivium.record_batch import BatchError, BatchHeader, check_crc, parse_header

FORMAT_VERSION = 1
FILE_HEADER_BYTES = 64
GROUP_HEADER_BYTES = 48
ENTRY_HEADER_BYTES = 32
GROUP_ENTRIES_MAX = 65_536
GROUP_BYTES_MAX = 2**31 - 1
FILE_BYTES_MAX = 2**32 - 1  # places are u32

_FILE_MAGIC = b"TRIVIUM\x01"
_GROUP_MAGIC = 0x70475654  # "TVGp"
_GROUP_MAGIC_BYTES = _GROUP_MAGIC.to_bytes(4, "little")
_FILE = struct.Struct("<8sHBxIIQQQ16x")
_GROUP = struct.Struct("<IHHIIQQQI")
_ENTRY = struct.Struct("<BxxxIqqII")
_U32 = struct.Struct("<I")
assert _FILE.size == FILE_HEADER_BYTES - 4
assert _GROUP.size == GROUP_HEADER_BYTES - 4
assert _ENTRY.size == ENTRY_HEADER_BYTES

_WINDOW_BYTES = 1024 * 1024


class FileKind(enum.IntEnum):
    LOG = 1
    SETTLED = 2


class EntryKind(enum.IntEnum):
    BATCH = 1
    CREATE = 2
    DELETE = 3
    DELETE_BEFORE = 4  # base offset: the new log start


class BadFile(StoreUnusable):
    """A file that is none of ours, damaged at its head or footer, or of a newer format."""


class FileHeader(NamedTuple):
    kind: FileKind
    salt: int
    epoch: int
    number: int  # of the log segment, 1, 2, 3, ...; of a settled file whatever the manifest gave it
    base_position: int
    sequence: int  # of the first group


class EntryHeader(NamedTuple):
    kind: int
    partition: int
    base_offset: int
    position: int
    size: int
    crc: int


class Group(NamedTuple):
    """A group whose headers are sound, its batches not yet checked. `place` is where it starts in its file."""

    place: int
    length: int
    epoch: int
    sequence: int
    base_position: int
    durable_position: int
    entries: list[EntryHeader]

    @property
    def end(self) -> int:
        return self.place + self.length

    @property
    def batches_place(self) -> int:
        return self.place + GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES * len(self.entries)

    def batch_places(self) -> Iterator[tuple[EntryHeader, int]]:
        """The batch entries with their places in the file."""
        place = self.batches_place
        for entry in self.entries:
            if entry.kind == EntryKind.BATCH:
                yield entry, place
                place += entry.size


def encode_file_header(header: FileHeader) -> bytes:
    packed = _FILE.pack(
        _FILE_MAGIC,
        FORMAT_VERSION,
        header.kind,
        header.salt,
        header.epoch,
        header.number,
        header.base_position,
        header.sequence,
    )
    return packed + _U32.pack(crc32c(packed))


def decode_file_header(data: bytes | memoryview) -> FileHeader:
    """Raises BadFile."""
    if len(data) < FILE_HEADER_BYTES:
        raise BadFile("too short for a file header")
    magic, version, kind, salt, epoch, number, base_position, sequence = _FILE.unpack_from(data)
    if magic != _FILE_MAGIC:
        raise BadFile("no file of this store")
    if version > FORMAT_VERSION:
        raise BadFile(f"format version {version}, this program knows {FORMAT_VERSION}")
    if _U32.unpack_from(data, _FILE.size)[0] != crc32c(data[: _FILE.size]) or kind not in (1, 2):
        raise BadFile("damaged file header")
    return FileHeader(FileKind(kind), salt, epoch, number, base_position, sequence)


pack_entry = _ENTRY.pack  # the fields of an EntryHeader, in its order: one call on the hot path


def encode_group_header(
    salt: int,
    epoch: int,
    sequence: int,
    base_position: int,
    durable_position: int,
    entry_headers: bytes,
    batches_bytes: int,
) -> bytes:
    """The group header for these packed entry headers, whose batches have `batches_bytes` bytes together."""
    length = GROUP_HEADER_BYTES + len(entry_headers) + batches_bytes
    if length > GROUP_BYTES_MAX:
        raise ValueError(f"a group of {length} bytes")
    packed = _GROUP.pack(
        _GROUP_MAGIC,
        FORMAT_VERSION,
        0,
        epoch,
        len(entry_headers) // ENTRY_HEADER_BYTES,
        sequence,
        base_position,
        durable_position,
        length,
    )
    return packed + _U32.pack(_extend(_extend(salt, packed), entry_headers))


class Window:
    """Reads a file forward through one bounded buffer: many small looks cost one read."""

    def __init__(self, file: File, end: int | None = None) -> None:
        self._file = file
        self.end = file.size() if end is None else end
        self._start = 0
        self._data = memoryview(b"")

    def view(self, place: int, size: int) -> memoryview:
        """`size` bytes at `place`, fewer at the end. The size must have been checked: it is allocated."""
        at = place - self._start
        if at < 0 or at + size > len(self._data):
            size = max(0, min(size, self.end - place))
            wanted = min(max(size, _WINDOW_BYTES), max(0, self.end - place))
            self._data = memoryview(self._file.pread(wanted, place))
            self._start, at = place, 0
        return self._data[at : at + size]


def read_group(window: Window, place: int, salt: int) -> Group | None:
    """The group that starts at `place`, None when there is no sound one."""
    head = window.view(place, GROUP_HEADER_BYTES)
    if len(head) < GROUP_HEADER_BYTES:
        return None
    magic, version, _flags, epoch, count, sequence, base_position, durable_position, length = _GROUP.unpack_from(head)
    headers_bytes = ENTRY_HEADER_BYTES * count
    if (
        magic != _GROUP_MAGIC
        or version > FORMAT_VERSION
        or not 0 < count <= GROUP_ENTRIES_MAX
        or not GROUP_HEADER_BYTES + headers_bytes <= length <= min(GROUP_BYTES_MAX, window.end - place)
    ):
        return None
    (crc,) = _U32.unpack_from(head, _GROUP.size)
    packed = bytes(head[: _GROUP.size])
    entry_headers = bytes(window.view(place + GROUP_HEADER_BYTES, headers_bytes))
    if _extend(_extend(salt, packed), entry_headers) != crc:
        return None
    entries = [EntryHeader._make(fields) for fields in _ENTRY.iter_unpack(entry_headers)]
    if GROUP_HEADER_BYTES + headers_bytes + sum(e.size for e in entries) != length:
        return None
    return Group(place, length, epoch, sequence, base_position, durable_position, entries)


def scan_groups(window: Window, salt: int, place: int = FILE_HEADER_BYTES) -> Iterator[Group]:
    """Sound groups one after another, until there is none; whether their sequences fit is the caller's question."""
    while (group := read_group(window, place, salt)) is not None:
        yield group
        place = group.end


def find_group(window: Window, place: int, salt: int) -> Group | None:
    """The first sound group that starts at or after `place`, wherever it is: what is still good after damage."""
    while place + GROUP_HEADER_BYTES <= window.end:
        view = window.view(place, min(_WINDOW_BYTES, window.end - place))
        found = bytes(view).find(_GROUP_MAGIC_BYTES)
        if found < 0:
            place += max(1, len(view) - len(_GROUP_MAGIC_BYTES) + 1)
            continue
        place += found
        if (group := read_group(window, place, salt)) is not None:
            return group
        place += 1
    return None


def batch_of(entry: EntryHeader, data: memoryview) -> BatchHeader | None:
    """The header of the batch that fills `data`, None when the bytes are not what the entry says."""
    if len(data) != entry.size:
        return None
    try:
        header = parse_header(data)
    except BatchError:
        return None
    if header.base_offset != entry.base_offset or header.size_bytes != entry.size or header.crc != entry.crc:
        return None
    return header if check_crc(data, header) else None


def group_buffers(
    salt: int,
    epoch: int,
    sequence: int,
    durable_position: int,
    entries: Sequence[EntryHeader],
    batches: Iterable[bytes | bytearray | memoryview],
) -> list[bytes | bytearray | memoryview]:
    """A whole group as buffers to write: for writers that are not in a hurry (settler, tests)."""
    headers = b"".join(_ENTRY.pack(*entry) for entry in entries)
    size = sum(entry.size for entry in entries)
    base_position = entries[0].position
    head = encode_group_header(salt, epoch, sequence, base_position, durable_position, headers, size)
    return [head, headers, *batches]
