"""Records written straight from the format's description, to make malformed ones and to compare."""

from __future__ import annotations

from trivium.records import Record
from trivium.varint import write_varint


def encode_record(offset_delta: int, timestamp_delta: int, record: Record) -> bytes:
    """The record's bytes, its length first."""
    parts = [b"\0", write_varint(timestamp_delta), write_varint(offset_delta)]
    parts += [nullable(record.key), nullable(record.value), write_varint(len(record.headers))]
    for name, content in record.headers:
        parts += [nullable(name.encode()), nullable(content)]
    body = b"".join(parts)
    return write_varint(len(body)) + body


def nullable(content: bytes | None) -> bytes:
    return write_varint(-1) if content is None else write_varint(len(content)) + content
