"""Message sets v0 and v1, which clients up to 0.10 speak, from and to record batches.

Format (magic 0, and 1 with a timestamp: KIP-31, KIP-32): offset i64, size i32, crc u32 (CRC-32 over the rest),
magic i8, attributes i8 (codec in the low three bits, bit 3: log append time), [timestamp i64], key, value (length i32,
-1 null). A compressed set is one message, the wrapper, with the set as its value; its offset is that of the last
message inside. Offsets inside are absolute in v0, relative to the first in v1. lz4 in v0 has the broken header checksum
(KIP-57).

Up (produce v0 to v2): all messages of a partition become one batch with the codec of the wrapper. Offsets are not
looked at, for the broker gives them. Kafka's rules hold: checksums of wrapper and inner messages, no nesting, one magic
in a wrapper, no log append time from clients, no zstd.

Down (fetch v0 to v3), as Kafka's RecordsUtil and LazyDownConversionRecords do: control batches are left out, headers
dropped, transactional and aborted records are ordinary ones (these versions know no isolation), the codec stays. An
uncompressed batch loses the records before the fetch offset; a compressed one is sent whole and the client drops them,
but not when compaction left none for it: it would ask for the same offset again, for ever.
zstd cannot be read by these clients: it ends the answer, or is the answer's error when it comes first.

Measured (2 cores, Python 3.11; 100 B values): 2.6 us a record up, 1.3 down: only clients that ask for it pay.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trivium.compression import compress, decompress
from trivium.record_batch import (
    CODEC_MASK,
    HEADER_BYTES,
    LOG_APPEND_TIME_BIT,
    NO_TIMESTAMP,
    BatchHeader,
    Buffer,
    Codec,
    CorruptBatch,
    InvalidBatch,
    Reason,
    iter_batches,
    parse_header,
)
from trivium.records import Record, build, decode, salvage, with_records

_LOG_OVERHEAD_BYTES = 12
_SIZE_MIN = (14, 22)  # of a message without key and value, by magic

_ENTRY = struct.Struct(">qi")
_START = struct.Struct(">IBB")
_TIMESTAMP = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_ENTRY_AND_CRC = struct.Struct(">qiI")
_BODY = (struct.Struct(">BBi"), struct.Struct(">BBqi"))
_NULL = _LENGTH.pack(-1)


class Converted(NamedTuple):
    """A down-converted fetch.

    `data` may end with part of a message (only without the guarantee of a first record). It is empty when all that
    was read were control batches: then read on from `next_offset`, or the client never gets past them. `skipped` counts
    the records that could not be decoded.
    """

    data: bytes
    next_offset: int
    skipped: int


class _Message(NamedTuple):
    magic: int
    attributes: int
    timestamp: int
    key: memoryview | None
    value: memoryview | None

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK


def up_convert(message_set: Buffer, max_bytes: int) -> list[bytes]:
    """The message set of one partition as a list of one batch, or of none for an empty set.

    Inner sets may take `max_bytes` in all. Raises CorruptBatch or InvalidBatch.
    """
    if not message_set:
        return []
    codecs: list[int] = []
    batch = build(_records(memoryview(message_set), max_bytes, codecs))
    if codecs:
        body = memoryview(batch)[HEADER_BYTES:]
        batch = with_records(parse_header(batch), compress(codecs[0], body), codecs[0])
    return [batch]


def _records(view: memoryview, room: int, codecs: list[int]) -> Iterator[Record]:
    """The records of the set one by one, so that hostile millions of them never stand in memory together.

    The codec of the first wrapper is noted in `codecs`.
    """
    for message in _messages(view):
        if message.attributes & LOG_APPEND_TIME_BIT and message.magic:
            raise InvalidBatch(Reason.LOG_APPEND_TIME)
        if message.codec == Codec.NONE:
            yield _record(message)
            continue
        if not codecs:
            codecs.append(message.codec)
        inner = _open_wrapper(message, room)
        room -= len(inner)
        yield from _inner_records(message, inner)


def _open_wrapper(wrapper: _Message, max_bytes: int) -> bytes:
    if wrapper.codec >= Codec.ZSTD:
        raise InvalidBatch(Reason.UNREADABLE_CODEC, f"codec {wrapper.codec} in message format v{wrapper.magic}")
    if wrapper.value is None:
        raise InvalidBatch(Reason.RECORDS, "compressed message without a value")
    return decompress(wrapper.codec, wrapper.value, max_bytes, broken_lz4=wrapper.magic == 0)


def _inner_records(wrapper: _Message, inner: bytes) -> Iterator[Record]:
    if not inner:
        raise InvalidBatch(Reason.RECORDS, "compressed message with nothing inside")
    for message in _messages(memoryview(inner)):
        if message.codec != Codec.NONE:
            raise InvalidBatch(Reason.RECORDS, "compressed message inside a compressed message")
        if message.magic != wrapper.magic:
            raise InvalidBatch(Reason.MAGIC, f"magic {message.magic} inside {wrapper.magic}")
        yield _record(message)


def _record(message: _Message) -> Record:
    # the builder takes any buffer, so keys and values are copied only once, into the batch
    return Record(0, message.timestamp, message.key, message.value, [])  # type: ignore[arg-type]


def _messages(view: memoryview) -> Iterator[_Message]:
    """The messages of one set, checked. Raises CorruptBatch, or InvalidBatch for a magic above 1."""
    at, end = 0, len(view)
    while at < end:
        start = at + _LOG_OVERHEAD_BYTES
        if end - start < _SIZE_MIN[0]:
            raise CorruptBatch(Reason.SHORT, f"{end - at} bytes where a message should be")
        _, size = _ENTRY.unpack_from(view, at)
        crc, magic, attributes = _START.unpack_from(view, start)
        if magic > 1:
            raise InvalidBatch(Reason.MAGIC, f"magic {magic} in a message set")
        if size < _SIZE_MIN[magic]:
            raise CorruptBatch(Reason.LENGTH, f"message of {size} bytes")
        if size > end - start:
            raise CorruptBatch(Reason.SHORT, f"message of {size} bytes, {end - start} are left")
        at = start + size
        if zlib.crc32(view[start + 4 : at]) != crc:
            raise CorruptBatch(Reason.CRC)
        timestamp = _TIMESTAMP.unpack_from(view, start + 6)[0] if magic else NO_TIMESTAMP
        key, place = _nullable(view, start + _SIZE_MIN[magic] - 8, at)
        value, place = _nullable(view, place, at)
        if place != at:
            raise CorruptBatch(Reason.RECORDS, f"{at - place} bytes left in a message")
        yield _Message(magic, attributes, timestamp, key, value)


def _nullable(view: memoryview, at: int, end: int) -> tuple[memoryview | None, int]:
    if end - at < 4:
        raise CorruptBatch(Reason.RECORDS, "message ends before its value")
    (length,) = _LENGTH.unpack_from(view, at)
    at += 4
    if length < 0:
        return None, at
    if length > end - at:
        raise CorruptBatch(Reason.RECORDS, f"{length} bytes claimed where {end - at} are left")
    return view[at : at + length], at + length


def down_convert(
    batches: Buffer,
    magic: int,
    start_offset: int,
    max_bytes: int,
    *,
    first_record_guarantee: bool,
    decompressed_bytes_max: int,
) -> Converted:
    """Whole batches as message sets of `magic` 0 or 1, from `start_offset` on and of at most `max_bytes`.

    With `first_record_guarantee` (fetch v3) the first message or wrapper is given whatever its size; without it (v0 to
    v2) it is cut at the limit, which tells these clients that their limit is too small. A batch that does not decode is
    left out and counted. Raises InvalidBatch (Reason.UNREADABLE_CODEC) when zstd comes first.
    """
    parts: list[bytes] = []
    size, next_offset, skipped = 0, start_offset, 0
    for header, batch in iter_batches(batches):
        if header.next_offset <= start_offset:
            continue
        if header.is_control:
            next_offset = header.next_offset
            continue
        if header.codec == Codec.ZSTD:
            if parts:
                break
            raise InvalidBatch(Reason.UNREADABLE_CODEC, f"zstd in message format v{magic}")
        records, unreadable = _readable(header, batch, decompressed_bytes_max)
        skipped += unreadable
        for message, after in _downed(header, records, magic, start_offset):
            if size + len(message) > max_bytes and not (first_record_guarantee and not parts):
                if not parts:
                    parts.append(message[:max_bytes])
                return Converted(b"".join(parts), next_offset, skipped)
            parts.append(message)
            size += len(message)
            next_offset = after
        next_offset = header.next_offset
    return Converted(b"".join(parts), next_offset, skipped)


def _readable(header: BatchHeader, batch: memoryview, max_bytes: int) -> tuple[list[Record], int]:
    """The records of the batch that can be read, and how many cannot: damage must not stop a consumer for good."""
    try:
        return decode(batch, max_bytes), 0
    except (CorruptBatch, InvalidBatch):
        pass
    try:
        return salvage(batch, max_bytes)
    except (CorruptBatch, InvalidBatch):
        return [], max(header.count, 0)


def _downed(header: BatchHeader, records: list[Record], magic: int, start_offset: int) -> Iterator[tuple[bytes, int]]:
    """The messages that a batch becomes, each with the offset behind it: its records, or one wrapper."""
    flags = LOG_APPEND_TIME_BIT if magic and header.is_log_append_time else 0
    if header.codec == Codec.NONE:
        for record in records:
            if record.offset >= start_offset:
                message = _encode(magic, flags, record.offset, record.timestamp, record.key, record.value)
                yield message, record.offset + 1
    elif any(record.offset >= start_offset for record in records):
        base = records[0].offset if magic else 0
        inner = _encode_all(magic, flags, base, records)
        timestamp = max(record.timestamp for record in records)
        value = compress(header.codec, inner, broken_lz4=magic == 0)
        wrapper = _encode(magic, flags | header.codec, records[-1].offset, timestamp, None, value)
        yield wrapper, header.next_offset


def _encode_all(magic: int, flags: int, base: int, records: Iterable[Record]) -> bytes:
    return b"".join([_encode(magic, flags, r.offset - base, r.timestamp, r.key, r.value) for r in records])


def _encode(magic: int, attributes: int, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> bytes:
    key_length = -1 if key is None else len(key)
    fields = (1, attributes, timestamp, key_length) if magic else (0, attributes, key_length)
    length = _NULL if value is None else _LENGTH.pack(len(value))
    body = b"".join((_BODY[magic].pack(*fields), key or b"", length, value or b""))
    return _ENTRY_AND_CRC.pack(offset, len(body) + 4, zlib.crc32(body)) + body
