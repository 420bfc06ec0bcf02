"""Record format v2 in plain Python: the reference for what the fast reader refuses, and for raw records.

Record => length, attributes i8, timestamp delta, offset delta, key, value, headers; all numbers but the attributes are
zig-zag varints, a length of -1 stands for null (KIP-82, KIP-98). Costs 3 to 5 us a record: not for hot paths.

Unlike the fast reader it takes a header key that is not UTF-8, with replacement characters, as Java clients do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trivium.record_batch import HEADER_BYTES, BatchHeader, CorruptBatch, Reason
from trivium.varint import read_varint, wrap_i64, write_varint

RECORD_BYTES_MIN = 7

Headers = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    """One record: absolute offset, timestamp (ms, -1 for none), null or bytes, headers in order with duplicates."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class RawRecord(NamedTuple):
    """Where a record stands in opened records, and its deltas; `tail` is where the bytes after the timestamp start."""

    start: int
    end: int
    timestamp_delta: int
    tail: int
    offset_delta: int


def frame(data: bytes, at: int) -> tuple[int, int]:
    """Start of the body and end of the record whose length stands at `at`. Raises CorruptBatch."""
    length, body = read_varint(data, at, len(data))
    if not 0 <= length <= len(data) - body:
        raise CorruptBatch(Reason.RECORDS, f"record of {length} bytes at byte {at}")
    return body, body + length


def raw_records(header: BatchHeader, data: bytes) -> Iterator[RawRecord]:
    """The records of opened `data` (header included) without what they hold. Raises CorruptBatch."""
    at = HEADER_BYTES
    for _ in range(header.count):
        body, end = frame(data, at)
        timestamp_delta, tail = read_varint(data, body + 1, end)
        offset_delta, _ = read_varint(data, tail, end)
        yield RawRecord(at, end, timestamp_delta, tail, offset_delta)
        at = end
    if at != len(data):
        raise CorruptBatch(Reason.RECORDS, f"{len(data) - at} bytes after the last record")


def parse_records(header: BatchHeader, data: bytes) -> Iterator[Record]:
    """The records of opened `data` (header included). Raises CorruptBatch at the first that is malformed."""
    at = HEADER_BYTES
    for _ in range(header.count):
        body, end = frame(data, at)
        yield _parse(header, data, body, end)
        at = end
    if at != len(data):
        raise CorruptBatch(Reason.RECORDS, f"{len(data) - at} bytes after the last record")


def salvage_records(header: BatchHeader, data: bytes) -> tuple[list[Record], int]:
    """The records that can be read, and how many of the `count` cannot. Raises nothing."""
    records: list[Record] = []
    at = HEADER_BYTES
    for _ in range(header.count):
        try:
            body, at = frame(data, at)
        except CorruptBatch:
            break  # without a length the next record cannot be found
        try:
            records.append(_parse(header, data, body, at))
        except CorruptBatch:
            continue
    return records, header.count - len(records)


def _parse(header: BatchHeader, data: bytes, at: int, end: int) -> Record:
    timestamp_delta, at = read_varint(data, at + 1, end)
    offset_delta, at = read_varint(data, at, end)
    key, at = _nullable(data, at, end)
    value, at = _nullable(data, at, end)
    count, at = read_varint(data, at, end)
    if not 0 <= count <= (end - at) // 2:
        raise CorruptBatch(Reason.RECORDS, f"{count} headers in {end - at} bytes")
    headers: Headers = []
    for _ in range(count):
        name, at = _nullable(data, at, end)
        if name is None:
            raise CorruptBatch(Reason.RECORDS, "header without a key")
        content, at = _nullable(data, at, end)
        headers.append((name.decode("utf-8", "replace"), content))
    if at != end:
        raise CorruptBatch(Reason.RECORDS, f"{end - at} bytes left in a record")
    timestamp = header.max_timestamp if header.is_log_append_time else wrap_i64(header.base_timestamp + timestamp_delta)
    return Record(wrap_i64(header.base_offset + offset_delta), timestamp, key, value, headers)


def _nullable(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    length, at = read_varint(data, at, end)
    if length < 0:
        return None, at
    if length > end - at:
        raise CorruptBatch(Reason.RECORDS, f"{length} bytes claimed where {end - at} are left")
    return data[at : at + length], at + length


def encode_record(offset_delta: int, timestamp_delta: int, record: Record) -> bytes:
    """The record's bytes, its length first; key and value may be any bytes-like object."""
    parts = [b"\0", write_varint(timestamp_delta), write_varint(offset_delta)]
    _put(parts, record.key)
    _put(parts, record.value)
    parts.append(write_varint(len(record.headers)))
    for name, content in record.headers:
        _put(parts, name.encode())
        _put(parts, content)
    body = b"".join(parts)
    return write_varint(len(body)) + body


def _put(parts: list[bytes], content: bytes | None) -> None:
    if content is None:
        parts.append(b"\x01")  # -1
    else:
        parts += (write_varint(len(content)), content)
