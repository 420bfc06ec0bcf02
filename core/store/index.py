"""Where batches are: blocks of one partition in one file, and the footer that keeps a file's blocks.

A *block* lists the batches of one partition in one file, in offset order, in four arrays: base offsets, positions, the
largest timestamp up to and with each batch (a running maximum, so that times can be searched by halving), and
(place, size, last offset delta) of each. While a log segment is written its blocks grow in memory; sealing writes them:

    footer    = block*, directory row*, trailer (the file's last 48 bytes)
    block     = base offsets i64*, positions i64*, largest timestamps i64*, (place, size, last offset delta u32)*
    row, 72 B   partition u32, count u32, place u64, first offset i64, end offset i64, first position i64,
                last position i64, size in bytes i64, largest timestamp i64, crc u32 of the block, 0 u32
    trailer     magic 8s, end of the groups u64, place of the directory u64, rows u32, crc u32 of the directory,
                batches u64, 0 u32, crc u32 of the trailer

Little-endian. Rows are sorted by partition, and a partition has one row in a file.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from core.store.disk import File
from core.store.segment import FILE_HEADER_BYTES, BadFile
from trivium.crc import crc32c

_TRAILER_MAGIC = b"TRIVFOOT"
_TRAILER = struct.Struct("<8sQQIIQI")
_ROW = struct.Struct("<IIQqqqqqqII")
_U32 = struct.Struct("<I")
TRAILER_BYTES = _TRAILER.size + 4
ROW_BYTES = _ROW.size
BATCH_BYTES = 36  # of a block, per batch
_WRITE_BYTES = 4 * 1024 * 1024


class Block:
    """The batches of one partition in one file."""

    __slots__ = ("bases", "positions", "rows", "size_bytes", "stamps")

    def __init__(self) -> None:
        self.bases = array("q")
        self.positions = array("q")
        self.stamps = array("q")
        self.rows = array("I")
        self.size_bytes = 0  # of the batches

    def __len__(self) -> int:
        return len(self.bases)

    def append(self, base_offset: int, position: int, timestamp: int, place: int, size: int, delta: int) -> None:
        """`delta`: last offset delta. `timestamp`: the batch's largest, ms."""
        stamps = self.stamps
        if stamps and stamps[-1] > timestamp:
            timestamp = stamps[-1]
        stamps.append(timestamp)
        self.bases.append(base_offset)
        self.positions.append(position)
        self.rows.extend((place, size, delta))
        self.size_bytes += size

    @property
    def end_offset(self) -> int:
        return self.bases[-1] + self.rows[-1] + 1

    def find(self, offset: int) -> int:
        """Index of the batch that holds `offset`, or of the next one; the count when there is none."""
        i = bisect_right(self.bases, offset) - 1
        if i >= 0 and self.bases[i] + self.rows[3 * i + 2] >= offset:
            return i
        return i + 1

    def find_position(self, position: int) -> int:
        """Index of the first batch with at least this position."""
        return bisect_left(self.positions, position)

    def find_time(self, timestamp: int) -> int:
        """Index of the first batch whose largest timestamp is at least this."""
        return bisect_left(self.stamps, timestamp)

    def tobytes(self) -> bytes:
        return b"".join(_little(column).tobytes() for column in (self.bases, self.positions, self.stamps, self.rows))

    @classmethod
    def frombytes(cls, data: bytes | bytearray | memoryview, count: int) -> Block:
        block = cls()
        view = memoryview(data)
        for i, column in enumerate((block.bases, block.positions, block.stamps)):
            column.frombytes(view[8 * count * i : 8 * count * (i + 1)])
        block.rows.frombytes(view[24 * count : BATCH_BYTES * count])
        for column in (block.bases, block.positions, block.stamps, block.rows):
            _little(column)
        block.size_bytes = sum(block.rows[1::3])
        return block


def _little(column: array[int]) -> array[int]:
    if sys.byteorder == "big":  # pragma: no cover
        column.byteswap()
    return column


class Row(NamedTuple):
    """One partition's batches in one file, as its directory has them."""

    partition: int
    batches: int
    place: int  # of the block
    first_offset: int
    end_offset: int  # after the last batch
    first_position: int
    last_position: int
    size_bytes: int
    max_timestamp: int
    crc: int


class Footer(NamedTuple):
    """Directory of a sealed file: everything but the blocks."""

    groups_end: int
    batches: int
    rows: list[Row]


def row_of(partition: int, block: Block, place: int, crc: int) -> Row:
    return Row(
        partition,
        len(block),
        place,
        block.bases[0],
        block.end_offset,
        block.positions[0],
        block.positions[-1],
        block.size_bytes,
        block.stamps[-1],
        crc,
    )


def write_footer(file: File, groups_end: int, blocks: Iterable[tuple[int, Block]]) -> Footer:
    """Writes the blocks, given sorted by partition, and the directory behind the groups. It does not sync."""
    place = groups_end
    rows: list[Row] = []
    pending: list[bytes] = []
    pending_place, pending_bytes = place, 0
    for partition, block in blocks:
        if not block:
            continue
        data = block.tobytes()
        rows.append(row_of(partition, block, place, crc32c(data)))
        pending.append(data)
        place += len(data)
        pending_bytes += len(data)
        if pending_bytes >= _WRITE_BYTES:
            file.pwritev(pending, pending_place)
            pending, pending_place, pending_bytes = [], place, 0
    batches = sum(row.batches for row in rows)
    directory = b"".join(_ROW.pack(*row, 0) for row in rows)
    trailer = _TRAILER.pack(_TRAILER_MAGIC, groups_end, place, len(rows), crc32c(directory), batches, 0)
    file.pwritev([*pending, directory, trailer, _U32.pack(crc32c(trailer))], pending_place)
    return Footer(groups_end, batches, rows)


def read_footer(file: File) -> Footer:
    """The directory of a sealed file. Raises BadFile when there is none or it is damaged."""
    size = file.size()
    if size < FILE_HEADER_BYTES + TRAILER_BYTES:
        raise BadFile(f"{file.name}: no footer")
    data = file.pread(TRAILER_BYTES, size - TRAILER_BYTES)
    magic, groups_end, place, count, crc, batches, _ = _TRAILER.unpack_from(data)
    if magic != _TRAILER_MAGIC or crc32c(data[: _TRAILER.size]) != _U32.unpack_from(data, _TRAILER.size)[0]:
        raise BadFile(f"{file.name}: no footer")
    if not FILE_HEADER_BYTES <= groups_end <= place or place + count * ROW_BYTES != size - TRAILER_BYTES:
        raise BadFile(f"{file.name}: footer does not fit the file")
    directory = file.pread(count * ROW_BYTES, place)
    if crc32c(directory) != crc:
        raise BadFile(f"{file.name}: damaged directory")
    return Footer(groups_end, batches, [Row._make(fields[:10]) for fields in _ROW.iter_unpack(directory)])


def read_block(file: File, place: int, count: int, crc: int, *, nowait: bool = False) -> Block | None:
    """The block of one directory row, None with `nowait` when it is not in memory. Raises BadFile when damaged."""
    size = BATCH_BYTES * count
    if place + size > file.size():
        raise BadFile(f"{file.name}: index outside the file")
    data = bytearray(size)
    try:
        got = file.preadv([data], place, nowait)
    except BlockingIOError:
        return None
    if got < size:
        if nowait:
            return None
        raise BadFile(f"{file.name}: index cut off")
    if crc32c(data) != crc:
        raise BadFile(f"{file.name}: damaged index")
    return Block.frombytes(data, count)


class Extents:
    """The sealed files that hold a partition, in offset order, 80 bytes each: what a directory row says, and the file.

    Ranges of offsets do not overlap. Sorted by offset is sorted by position too.
    """

    __slots__ = ("_rows", "firsts")
    _STRIDE = 9

    def __init__(self) -> None:
        self.firsts = array("q")
        self._rows = array(
            "q"
        )  # file, count, place, end offset, first position, last position, size, max timestamp, crc

    def __len__(self) -> int:
        return len(self.firsts)

    def insert(self, file_id: int, row: Row) -> None:
        i = bisect_left(self.firsts, row.first_offset)
        self.firsts.insert(i, row.first_offset)
        at = i * self._STRIDE
        self._rows[at:at] = array("q", (file_id, row.batches, row.place, *row[4:]))

    def file_ids(self) -> array[int]:
        """In the order of the extents."""
        return self._rows[:: self._STRIDE]

    def remove(self, file_ids: Collection[int]) -> None:
        stride = self._STRIDE
        for i in reversed([i for i, file_id in enumerate(self.file_ids()) if file_id in file_ids]):
            del self.firsts[i]
            del self._rows[i * stride : (i + 1) * stride]

    def get(self, i: int) -> Extent:
        at = i * self._STRIDE
        return Extent(self.firsts[i], *self._rows[at : at + self._STRIDE])

    def __iter__(self) -> Iterator[Extent]:
        return (self.get(i) for i in range(len(self.firsts)))

    def find(self, offset: int) -> int:
        """Index of the extent that holds `offset`, or of the next one; the count when there is none."""
        i = bisect_right(self.firsts, offset) - 1
        return i if i >= 0 and offset < self._rows[i * self._STRIDE + 3] else i + 1

    def find_position(self, position: int) -> int:
        """Index of the first extent that reaches this position; the count when there is none."""
        return bisect_left(self._rows[5 :: self._STRIDE], position)

    def size_from(self, offset: int) -> int:
        """Bytes of batches in the extents that reach above `offset`."""
        return sum(self._rows[self.find(offset) * self._STRIDE + 6 :: self._STRIDE])

    def max_timestamp_from(self, offset: int) -> int:
        """The largest timestamp of the extents that reach above `offset`, -1 without one."""
        return max(self._rows[self.find(offset) * self._STRIDE + 7 :: self._STRIDE], default=-1)


class Extent(NamedTuple):
    first_offset: int
    file_id: int
    batches: int
    place: int
    end_offset: int
    first_position: int
    last_position: int
    size_bytes: int
    max_timestamp: int
    crc: int
