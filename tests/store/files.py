"""Sealed files for store tests, made by the same parts that the engine makes them of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.store.disk import Disk
from core.store.index import Block, Footer, read_block, read_footer, write_footer
from core.store.log_files import log_name
from core.store.segment import (
    FILE_HEADER_BYTES,
    EntryHeader,
    EntryKind,
    FileHeader,
    FileKind,
    encode_file_header,
    group_buffers,
)
from trivium.record_batch import parse_header, patch

Placed = tuple[int, int, bytes]  # partition, base offset, batch


def write_log(disk: Disk, number: int, first_position: int, batches: Sequence[Placed], epoch: int = 1) -> Footer:
    """A sealed log segment with these batches, two to a group, positions from `first_position` on."""
    file = disk.open(log_name(number), create=True)
    salt = 1000 + number
    header = FileHeader(FileKind.LOG, salt, epoch, number, first_position, 7)
    file.pwritev([encode_file_header(header)], 0)
    place = FILE_HEADER_BYTES
    blocks: dict[int, Block] = {}
    for i in range(0, len(batches), 2):
        entries, data = [], []
        for j, (partition, offset, batch) in enumerate(batches[i : i + 2]):
            patched = bytearray(batch)
            patch(patched, offset, epoch)
            parsed = parse_header(patched)
            position = first_position + i + j
            entries.append(EntryHeader(EntryKind.BATCH, partition, offset, position, len(patched), parsed.crc))
            data.append(patched)
        buffers: list[Any] = group_buffers(salt, epoch, 7 + i // 2, 0, entries, data)
        at = place + len(buffers[0]) + len(buffers[1])
        for entry, patched in zip(entries, data, strict=True):
            parsed = parse_header(patched)
            block = blocks.setdefault(entry.partition, Block())
            block.append(
                entry.base_offset, entry.position, parsed.max_timestamp, at, entry.size, parsed.last_offset_delta
            )
            at += entry.size
        place += file.pwritev(buffers, place)
    footer = write_footer(file, place, sorted(blocks.items()))
    file.fdatasync()
    disk.sync_directory()
    return footer


def batches_of(disk: Disk, name: str, partition: int) -> list[tuple[int, int, bytes]]:
    """(base offset, position, batch) of a partition in a sealed file, by its footer."""
    file = disk.open(name)
    found = []
    for row in read_footer(file).rows:
        if row.partition == partition:
            block = read_block(file, row.place, row.batches, row.crc)
            assert block is not None
            for i in range(len(block)):
                place, size, _ = block.rows[3 * i : 3 * i + 3]
                found.append((block.bases[i], block.positions[i], file.pread(size, place)))
    return found
