"""The checkpoint: the durable state of all partitions at the start of one log segment, in one file.

Recovery loads it and replays the log segments from `log_number` on; so it is written when a segment has been sealed, at
each start (it makes the new store epoch durable) and at a clean stop. A new one replaces the old by rename: there is
always exactly one whole checkpoint, or the store was never started. Then `checkpoint.copy` is replaced in the same way,
for the day that the first is damaged; no log segment that either needs goes before both are written.

    file        magic 8s, version u16, 0 u16, epoch u32, log number u64, sequence u64, position u64, partitions u32,
                retired ranges u32, then (first u32, end u32)* of retired partition numbers, the partitions, crc u32
    partition   number u32, log start i64, next offset i64, epochs u32, damaged ranges u32, producers' bytes u32,
                (epoch u32, start offset i64)*, (first i64, end i64)*, producer snapshot
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from core.store.disk import Disk
from core.store.partition import Partition, Range
from core.store.producers import ProducerTable
from core.store.segment import BadFile
from trivium.crc import crc32c

CHECKPOINT_NAME = "checkpoint"
VERSION = 1
COPY_NAME = "checkpoint.copy"
_NEW_NAME = "checkpoint.new"
_MAGIC = b"TRIVCHKP"
_HEAD = struct.Struct("<8sHHIQQQII")
_PARTITION = struct.Struct("<IqqIII")
_EPOCH = struct.Struct("<Iq")
_RANGE = struct.Struct("<qq")
_NUMBERS = struct.Struct("<II")
_U32 = struct.Struct("<I")


class NewerFormat(BadFile):
    """Nothing is wrong with the file: a later version of this program wrote it."""


class Checkpoint(NamedTuple):
    """`sequence` and `position` are the next ones; log segments from `log_number` on are to be replayed."""

    epoch: int
    log_number: int
    sequence: int
    position: int
    partitions: dict[int, Partition]
    retired: list[Range]  # numbers of deleted partitions


def empty() -> Checkpoint:
    """What a new store starts from."""
    return Checkpoint(0, 1, 0, 0, {}, [])


def encode(
    epoch: int, log_number: int, sequence: int, position: int, partitions: Iterable[Partition], retired: list[Range]
) -> bytes:
    """A checkpoint of the partitions' durable state."""
    parts = [_NUMBERS.pack(*numbers) for numbers in retired]
    count = 0
    for p in partitions:
        producers = p.producers.snapshot() if p.producers is not None else b""
        parts.append(
            _PARTITION.pack(p.number, p.log_start, p.high_watermark, len(p.epochs), len(p.damage), len(producers))
        )
        parts += [_EPOCH.pack(*e) for e in p.epochs]
        if p.damage:
            parts += [_RANGE.pack(*r) for r in p.damage]
        if producers:
            parts.append(producers)
        count += 1
    head = _HEAD.pack(_MAGIC, VERSION, 0, epoch, log_number, sequence, position, count, len(retired))
    return b"".join((head, *parts))


def write(disk: Disk, data: bytes) -> None:
    """Replaces the checkpoint and its copy durably. Raises OSError; each is the old one or the new at any time."""
    for name in (CHECKPOINT_NAME, COPY_NAME):
        try:
            disk.unlink(_NEW_NAME)
        except FileNotFoundError:
            pass
        file = disk.open(_NEW_NAME, create=True)
        file.pwritev([data, _U32.pack(crc32c(data))], 0)
        file.fdatasync()
        file.close()
        disk.rename(_NEW_NAME, name)
        disk.sync_directory()


def load(disk: Disk, name: str = CHECKPOINT_NAME) -> Checkpoint | None:
    """The checkpoint, None without one. Raises BadFile when it is damaged, NewerFormat."""
    try:
        file = disk.open(name)
    except FileNotFoundError:
        return None
    return decode(file.pread(file.size(), 0), name)


def decode(data: bytes, name: str = CHECKPOINT_NAME) -> Checkpoint:
    """Raises BadFile."""
    if len(data) < _HEAD.size + 4 or data[:8] != _MAGIC:
        raise BadFile(f"{name}: no checkpoint")
    _, version, _, epoch, log_number, sequence, position, count, retired_count = _HEAD.unpack_from(data)
    body = data[:-4]
    if crc32c(body) != _U32.unpack(data[-4:])[0]:
        raise BadFile(f"{name}: damaged")
    if version > VERSION:
        raise NewerFormat(f"{name}: format version {version}, this program knows {VERSION}")
    at = _HEAD.size
    try:
        retired = [Range._make(_NUMBERS.unpack_from(body, at + i * _NUMBERS.size)) for i in range(retired_count)]
        at += retired_count * _NUMBERS.size
        partitions: dict[int, Partition] = {}
        for _ in range(count):
            at = _decode_partition(body, at, partitions)
    except (struct.error, ValueError) as e:
        raise BadFile(f"{name}: {e}") from None
    return Checkpoint(epoch, log_number, sequence, position, partitions, retired)


def _decode_partition(body: bytes, at: int, partitions: dict[int, Partition]) -> int:
    number, log_start, next_offset, epochs, damaged, producers = _PARTITION.unpack_from(body, at)
    at += _PARTITION.size
    p = partitions[number] = Partition(number)
    p.log_start = p.start_next = log_start
    p.high_watermark = p.next_offset = next_offset
    p.epochs = [_EPOCH.unpack_from(body, at + i * _EPOCH.size) for i in range(epochs)]
    at += epochs * _EPOCH.size
    p.damage = [Range._make(_RANGE.unpack_from(body, at + i * _RANGE.size)) for i in range(damaged)]
    at += damaged * _RANGE.size
    if producers:
        p.producers = ProducerTable.restore(memoryview(body)[at : at + producers])
    return int(at + producers)
