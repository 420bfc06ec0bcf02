"""Writes the batches of many files anew, sorted by partition: what the settler does to the disk.

Sources are read one partition after another, through their blocks; batches lie close together in settled files and
scattered in log segments, whose reading ahead is left to the system (`want`). Every batch is checked on the way: damage
stops the merge with `Damaged`, the source stays, and nothing is hidden by copying it.

A large partition gets files of its own, so that retention can drop them whole; small ones share. Memory is bounded by
one group, one span of a source, and the blocks of one source row and one output file.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.store.compaction import Cleaner
from core.store.disk import Buffer, Disk, File
from core.store.index import Block, Footer, Row, read_block, write_footer
from core.store.manifest import settled_name
from core.store.segment import (
    ENTRY_HEADER_BYTES,
    FILE_HEADER_BYTES,
    GROUP_HEADER_BYTES,
    EntryHeader,
    EntryKind,
    FileHeader,
    FileKind,
    encode_file_header,
    group_buffers,
)
from trivium.record_batch import BatchHeader, check_crc, parse_header

FILE_BYTES_MAX = 256 * 1024 * 1024  # an output file is closed when it has so many
FILE_BATCHES_MAX = 500_000  # 18 MB of blocks
OWN_FILE_BYTES = 64 * 1024 * 1024  # a partition with so much in one merge shares its file with no other
_GROUP_BYTES = 1024 * 1024
_GROUP_ENTRIES = 1024
_SPAN_BYTES = 4 * 1024 * 1024
_GAP_BYTES = 16 * 1024  # reading over such a gap costs less than another read
_SYNC_BYTES = 8 * 1024 * 1024  # a large sync at once would make the log's own syncs wait


class Damaged(Exception):
    """A source is damaged here; it must stay as it is."""

    def __init__(self, name: str, place: int, partition: int, offset: int) -> None:
        super().__init__(f"{name}: damaged batch at byte {place}, partition {partition}, offset {offset}")
        self.name = name
        self.place = place
        self.partition = partition
        self.offset = offset


class Source(NamedTuple):
    """One file's rows that take part, any order."""

    file: File
    rows: Sequence[Row]


class Output(NamedTuple):
    number: int
    file: File
    footer: Footer


@dataclass
class Merged:
    """What a merge made."""

    outputs: list[Output] = field(default_factory=list)
    bytes_read: int = 0
    bytes_written: int = 0


Pace = Callable[[int], None]  # told of bytes read or written; waits, or raises to give up
Found = tuple[BatchHeader, int, memoryview]  # header, position, the whole batch


def merge(
    disk: Disk,
    sources: Sequence[Source],
    log_starts: Mapping[int, int],
    cleaners: Mapping[int, tuple[Cleaner, int]],
    next_number: int,
    epoch: int,
    pace: Pace,
    on_batch: Callable[[int, BatchHeader, Buffer], None] | None = None,
) -> Merged:
    """Writes new settled files, durable when it returns; the caller puts them into the manifest.

    `log_starts` names the living partitions: others are left out, and so are batches wholly below the log start. A
    partition to be cleaned has its cleaner and the offset up to which it cleans. `on_batch` sees every batch that is
    kept. Raises Damaged, OSError, or what `pace` raises; then the files that it began are unlinked.
    """
    merged = Merged()
    writer = _Writer(disk, next_number, epoch, pace, merged)
    rows: dict[int, list[tuple[Row, File]]] = {}
    for source in sources:
        for row in source.rows:
            if row.partition in log_starts and row.end_offset > log_starts[row.partition]:
                rows.setdefault(row.partition, []).append((row, source.file))
        source.file.want(0, source.file.size())
    try:
        for partition in sorted(rows):
            parts = sorted(rows[partition], key=lambda part: part[0].first_offset)
            writer.begin_partition(partition, sum(row.size_bytes for row, _ in parts))
            cleaner, clean_end = cleaners.get(partition, (None, 0))
            for row, file in parts:
                for header, position, batch in read_row(file, row, log_starts[partition], pace):
                    merged.bytes_read += len(batch)
                    kept: Buffer = batch
                    if cleaner is not None and header.next_offset <= clean_end:
                        left = cleaner.clean(header, batch)
                        if left is None:
                            continue
                        kept, header = left, parse_header(left)
                    writer.add(header, position, kept)
                    if on_batch is not None:
                        on_batch(partition, header, kept)
        writer.close()
        if merged.outputs:
            disk.sync_directory()
    except BaseException:
        writer.abandon()
        raise
    return merged


def read_row(file: File, row: Row, from_offset: int, pace: Pace) -> Iterator[Found]:
    """The batches of one row from the one that holds `from_offset` on, checked. Raises Damaged, BadFile."""
    block = read_block(file, row.place, row.batches, row.crc)
    assert block is not None
    count = len(block)
    places = block.rows
    i = block.find(from_offset)
    while i < count:
        start = places[3 * i]
        end = start + places[3 * i + 1]
        last = i + 1
        while last < count and 0 <= places[3 * last] - end <= _GAP_BYTES:
            next_end = places[3 * last] + places[3 * last + 1]
            if next_end - start > _SPAN_BYTES:
                break
            end, last = next_end, last + 1
        span = memoryview(file.pread(end - start, start))
        pace(len(span))
        for j in range(i, last):
            at = places[3 * j] - start
            batch = span[at : at + places[3 * j + 1]]
            header = _checked(batch, block.bases[j], places[3 * j + 1])
            if header is None:
                raise Damaged(file.name, start + at, row.partition, block.bases[j])
            yield header, block.positions[j], batch
        i = last


def _checked(batch: memoryview, base_offset: int, size: int) -> BatchHeader | None:
    if len(batch) < size or size < 61:
        return None
    header = parse_header(batch)
    sound = header.base_offset == base_offset and header.size_bytes == size and check_crc(batch, header)
    return header if sound else None


class _Writer:
    """Settled files one after another: groups sorted by partition and offset, then the footer."""

    def __init__(self, disk: Disk, next_number: int, epoch: int, pace: Pace, merged: Merged) -> None:
        self._disk = disk
        self._number = next_number
        self._epoch = epoch
        self._pace = pace
        self._merged = merged
        self._file: File | None = None
        self._begun: list[str] = []
        self._partition = -1
        self._own = False
        self._salt = self._place = self._batches = self._sequence = self._unsynced = 0
        self._blocks: dict[int, Block] = {}
        self._group_epoch = -1
        self._begin_group()

    def begin_partition(self, partition: int, size_bytes: int) -> None:
        own = size_bytes >= OWN_FILE_BYTES
        if self._file is not None and (own or self._own):
            self._close_file()
        self._partition, self._own = partition, own

    def add(self, header: BatchHeader, position: int, batch: Buffer) -> None:
        if self._entries and (
            header.leader_epoch != self._group_epoch
            or self._group_bytes >= _GROUP_BYTES
            or len(self._entries) >= _GROUP_ENTRIES
        ):
            self._flush_group()
        if self._file is not None and (self._place >= FILE_BYTES_MAX or self._batches >= FILE_BATCHES_MAX):
            self._close_file()
        if self._file is None:
            self._open_file(position)
        size = len(batch)
        if not self._entries:
            self._group_epoch = header.leader_epoch
        entry = EntryHeader(EntryKind.BATCH, self._partition, header.base_offset, position, size, header.crc)
        self._entries.append(entry)
        self._buffers.append(batch)
        self._headers.append(header)
        self._group_bytes += size
        self._batches += 1

    def _open_file(self, position: int) -> None:
        name = settled_name(self._number)
        try:
            self._disk.unlink(name)  # a left-over of a merge that a crash ended
        except FileNotFoundError:
            pass
        self._file = self._disk.open(name, create=True)
        self._begun.append(name)
        self._salt = secrets.randbits(32)
        header = FileHeader(FileKind.SETTLED, self._salt, self._epoch, self._number, position, 0)
        self._file.pwritev([encode_file_header(header)], 0)
        self._place, self._batches, self._sequence, self._unsynced = FILE_HEADER_BYTES, 0, 0, 0
        self._blocks = {}

    def _begin_group(self) -> None:
        self._entries: list[EntryHeader] = []
        self._buffers: list[Buffer] = []
        self._headers: list[BatchHeader] = []
        self._group_bytes = 0

    def _flush_group(self) -> None:
        assert self._file is not None
        epoch = max(0, self._group_epoch)
        buffers = group_buffers(self._salt, epoch, self._sequence, 0, self._entries, self._buffers)
        written = self._file.pwritev(buffers, self._place)
        place = self._place + GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES * len(self._entries)
        for entry, header in zip(self._entries, self._headers, strict=True):
            block = self._blocks.get(entry.partition)
            if block is None:
                block = self._blocks[entry.partition] = Block()
            block.append(
                entry.base_offset, entry.position, header.max_timestamp, place, entry.size, header.last_offset_delta
            )
            place += entry.size
        self._place += written
        self._sequence += 1
        self._begin_group()
        self._written(written)

    def _written(self, size: int) -> None:
        assert self._file is not None
        self._merged.bytes_written += size
        self._unsynced += size
        if self._unsynced >= _SYNC_BYTES:
            self._file.fdatasync()
            self._unsynced = 0
        self._pace(size)

    def _close_file(self) -> None:
        file = self._file
        assert file is not None
        if self._entries:
            self._flush_group()
        footer = write_footer(file, self._place, sorted(self._blocks.items()))
        self._written(file.size() - self._place)
        file.fdatasync()
        file.forget(0, file.size())
        self._merged.outputs.append(Output(self._number, self._disk.open(file.name), footer))
        self._number += 1
        self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._close_file()

    def abandon(self) -> None:
        """Unlinks what was begun, as far as the disk still lets it."""
        for name in self._begun:
            try:
                self._disk.unlink(name)
            except OSError:
                pass
