"""Record format v2 in plain Python: the reference for what the fast reader refuses, and for raw records.

Record => length, attributes i8, timestamp delta, offset delta, key, value, headers; all numbers but the attributes are
zig-zag varints, a length of -1 stands for null (KIP-82, KIP-98). Costs 5 us a record: not for hot paths.

Unlike the fast reader it takes a header key that is not UTF-8, with replacement characters, as Java clients do, and it
bounds memory: a record of 7 bytes or a header of 2 becomes objects of some hundred bytes, which would let a small
compressed batch fill a machine. What objects cost is counted against `max_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trivium.record_batch import HEADER_BYTES, BatchHeader, CorruptBatch, Reason
from trivium.varint import read_varint, wrap_i64

RECORD_BYTES_MIN = 7
RECORD_COST_BYTES = 256  # of memory beside its data
HEADER_COST_BYTES = 128

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


def parse_records(header: BatchHeader, data: bytes, max_bytes: int) -> Iterator[Record]:
    """The records of opened `data` (header included), none of which may take more than `max_bytes` for its headers.

    Raises CorruptBatch at the first that is malformed or too large.
    """
    at = HEADER_BYTES
    for _ in range(header.count):
        body, end = frame(data, at)
        yield _parse(header, data, body, end, max_bytes)
        at = end
    if at != len(data):
        raise CorruptBatch(Reason.RECORDS, f"{len(data) - at} bytes after the last record")


def parse_all(header: BatchHeader, data: bytes, max_bytes: int) -> list[Record]:
    """All records of opened `data`, whose objects take at most `max_bytes`. Raises CorruptBatch."""
    records: list[Record] = []
    room = max_bytes
    for record in parse_records(header, data, max_bytes):
        room -= cost_bytes(record)
        if room < 0:
            raise CorruptBatch(Reason.TOO_LARGE, f"{header.count} records, limit {max_bytes} bytes of memory")
        records.append(record)
    return records


def salvage_records(header: BatchHeader, data: bytes, max_bytes: int) -> tuple[list[Record], int]:
    """The records that can be read, in at most `max_bytes` of objects, and how many of the `count` cannot.

    Raises nothing.
    """
    records: list[Record] = []
    at, room = HEADER_BYTES, max_bytes
    for _ in range(header.count):
        try:
            body, at = frame(data, at)
        except CorruptBatch:
            break  # without a length the next record cannot be found
        try:
            record = _parse(header, data, body, at, room)
        except CorruptBatch:
            continue
        room -= cost_bytes(record)
        if room < 0:
            break
        records.append(record)
    return records, header.count - len(records)


def cost_bytes(record: Record) -> int:
    """Memory that the record's objects take beside the data in them, about."""
    return RECORD_COST_BYTES + HEADER_COST_BYTES * len(record.headers)


def _parse(header: BatchHeader, data: bytes, at: int, end: int, max_bytes: int) -> Record:
    timestamp_delta, at = read_varint(data, at + 1, end)
    offset_delta, at = read_varint(data, at, end)
    key, at = _nullable(data, at, end)
    value, at = _nullable(data, at, end)
    count, at = read_varint(data, at, end)
    if not 0 <= count <= (end - at) // 2:
        raise CorruptBatch(Reason.RECORDS, f"{count} headers in {end - at} bytes")
    if count * HEADER_COST_BYTES > max_bytes:
        raise CorruptBatch(Reason.TOO_LARGE, f"{count} headers, limit {max_bytes} bytes of memory")
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
