"""Batches for store tests: small builders over the real record format."""

from __future__ import annotations

from collections.abc import Iterator

from core.store.engine import Append, Engine, Read
from trivium.record_batch import parse_header
from trivium.records import Record, build


def batch(
    *values: bytes,
    key: bytes | None = None,
    timestamp_ms: int = 1_000,
    producer: tuple[int, int] | None = None,
    sequence: int = 0,
    transactional: bool = False,
) -> bytes:
    """One batch with a record per value."""
    records = [Record(i, timestamp_ms + i, key, value, []) for i, value in enumerate(values or (b"v",))]
    if producer is None:
        return build(records)
    return build(
        records,
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=sequence,
        transactional=transactional,
    )


def entry(
    partition: int, data: bytes, *, if_next_offset: int | None = None, keep_offsets: bool = False, base_offset: int = 0
) -> Append:
    header = parse_header(data)._replace(base_offset=base_offset)
    return Append(partition, header, data, if_next_offset, keep_offsets)


def batches_in(read: Read) -> Iterator[bytes]:
    """The batches of a read one by one."""
    data = b"".join(read.buffers)
    assert len(data) == read.size_bytes
    at = 0
    while at < len(data):
        size = parse_header(data, at).size_bytes
        yield data[at : at + size]
        at += size


async def read_all(engine: Engine, partition: int, *, committed: bool = False, bytes_max: int = 1 << 20) -> list[bytes]:
    """Every batch of a partition from its log start on, by as many reads as it takes."""
    info = engine.info(partition)
    found: list[bytes] = []
    offset = info.log_start
    while offset < info.high_watermark:
        read = await engine.read(partition, offset, bytes_max, committed=committed)
        if not read.buffers:
            break
        found += batches_in(read)
        offset = parse_header(found[-1]).last_offset + 1
    return found
