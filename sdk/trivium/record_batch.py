"""The record batch, magic 2: the one unit of data on the wire, in the store and on the relay.

Layout (big-endian; Apache Kafka protocol guide "Record Batch", KIP-98, KIP-534 for the delete horizon):

     0 base_offset i64     16 magic i8        23 last_offset_delta i32  43 producer_id i64
     8 batch_length i32    17 crc u32         27 base_timestamp i64     51 producer_epoch i16
    12 leader_epoch i32    21 attributes i16  35 max_timestamp i64      53 base_sequence i32   57 count i32
    61 records, compressed as a whole when the attributes name a codec

Rules:
- The CRC (CRC-32C) covers everything from the attributes on. Base offset, length, leader epoch and magic lie outside,
  so the broker gives a batch its offsets (`patch`) without touching the sum; whatever else changes is sealed anew.
- A batch stays opaque here: nothing in this module looks behind the header. Records are the matter of `records`.
- `batch_length` counts from byte 12. It is checked against the buffer before anything is sliced, never allocated by.

Measured (2 cores, Python 3.11), 16 KiB batch: `parse_header` 0.5 us, `check_crc` 1.5,
`validate_produced` 1.7, `with_log_append_time` 3.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import NamedTuple

from trivium.crc import crc32c

HEADER_BYTES = 61
LOG_OVERHEAD_BYTES = 12  # base offset and length, which the length does not count
MAGIC = 2

NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1
NO_LEADER_EPOCH = -1

CODEC_MASK = 0x07
LOG_APPEND_TIME_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
DELETE_HORIZON_BIT = 0x40

CRC_AT = 17
CRC_FROM = 21
_ATTRIBUTES_AT = 21
_MAX_TIMESTAMP_AT = 35

_HEADER = struct.Struct(">qiibIhiqqqhii")
_U32 = struct.Struct(">I")
_I16 = struct.Struct(">h")
_I64 = struct.Struct(">q")
assert _HEADER.size == HEADER_BYTES

Buffer = bytes | bytearray | memoryview


class Codec(IntEnum):
    """Compression codec ids, the low three bits of the attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class Reason(StrEnum):
    """Why a batch was refused. The set is closed: each protocol maps every member to its own code."""

    SHORT = "shorter than its header or its length says"
    LENGTH = "batch length out of range"
    CRC = "checksum does not match"
    COMPRESSION = "records do not decompress"
    TOO_LARGE = "records decompress to more than the limit"
    RECORDS = "records are malformed"
    MAGIC = "not record batch version 2"
    TRAILING = "not exactly one batch"
    COUNT = "record count does not agree with the offsets"
    BASE_OFFSET = "base offset of a client's batch is not 0"
    CONTROL = "clients may not write control batches"
    LOG_APPEND_TIME = "clients may not claim log append time"
    DELETE_HORIZON = "clients may not set a delete horizon"
    SEQUENCE = "producer id without a sequence"
    EPOCH = "producer id without an epoch"
    NO_PRODUCER = "transactional without a producer id"
    CODEC = "unknown compression codec"
    UNREADABLE_CODEC = "codec that the client's message format does not have"
    NO_KEY = "record without a key in a compacted topic"
    OFFSETS = "offset deltas are not 0, 1, 2, ..."
    TIMESTAMP = "record timestamp out of range"


class BatchError(Exception):
    """A batch that cannot be taken; `reason` is the member of the closed set, the text adds what was seen.

    `indexes` are the positions of the records at fault inside the batch, where they are known (the first hundred).
    """

    def __init__(self, reason: Reason, detail: str = "", *, indexes: tuple[int, ...] = ()) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.indexes = indexes


class CorruptBatch(BatchError):
    """Bytes that are no batch: short, torn, wrong checksum, not decodable."""


class InvalidBatch(BatchError):
    """A well-formed batch that its sender was not allowed to write."""


class BatchHeader(NamedTuple):
    """The 61 bytes of a batch's header. Timestamps are milliseconds since the epoch, -1 for none."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    @property
    def codec(self) -> int:
        """Codec id, 0 to 7; those without a member in `Codec` are unknown."""
        return self.attributes & CODEC_MASK

    @property
    def is_log_append_time(self) -> bool:
        return self.attributes & LOG_APPEND_TIME_BIT != 0

    @property
    def is_transactional(self) -> bool:
        return self.attributes & TRANSACTIONAL_BIT != 0

    @property
    def is_control(self) -> bool:
        return self.attributes & CONTROL_BIT != 0

    @property
    def has_delete_horizon(self) -> bool:
        """Whether `base_timestamp` holds the time after which tombstones and markers may go (KIP-534)."""
        return self.attributes & DELETE_HORIZON_BIT != 0

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; sequences wrap from 2**31 - 1 to 0. -1 without a sequence."""
        if self.base_sequence < 0:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF

    @property
    def size_bytes(self) -> int:
        """Size of the whole batch, header included."""
        return self.batch_length + LOG_OVERHEAD_BYTES


def parse_header(buf: Buffer, offset: int = 0) -> BatchHeader:
    """Header of the batch at `offset`. Raises CorruptBatch when short or with an impossible length.

    The batch itself may still be longer than the buffer, its magic may be another, and its CRC is not checked.
    """
    try:
        header = BatchHeader._make(_HEADER.unpack_from(buf, offset))
    except struct.error:
        raise CorruptBatch(Reason.SHORT, f"{len(buf) - offset} bytes where a header takes {HEADER_BYTES}") from None
    if header.batch_length < HEADER_BYTES - LOG_OVERHEAD_BYTES:
        raise CorruptBatch(Reason.LENGTH, f"length {header.batch_length}")
    return header


def pack_header(header: BatchHeader) -> bytes:
    """The 61 bytes of `header`, its crc as it stands. Raises struct.error for a field out of range."""
    return _HEADER.pack(*header)


def check_crc(buf: Buffer, header: BatchHeader) -> bool:
    """Whether the CRC-32C of the batch that `buf` starts with agrees with its header."""
    size = header.batch_length + LOG_OVERHEAD_BYTES
    if len(buf) != size:
        if len(buf) < size:
            return False
        buf = memoryview(buf)[:size]
    return crc32c(buf, CRC_FROM) == header.crc


def iter_batches(buf: Buffer, *, strict: bool = False) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Whole batches that stand one after another in `buf`, each with its view.

    A partial batch at the end is what a size-limited fetch leaves: it is ignored, or raises CorruptBatch if `strict`.
    A length that no batch can have raises CorruptBatch always.
    """
    view = memoryview(buf)
    at, end = 0, len(view)
    while end - at >= HEADER_BYTES:
        header = parse_header(view, at)
        after = at + header.batch_length + LOG_OVERHEAD_BYTES
        if after > end:
            break
        yield header, view[at:after]
        at = after
    if strict and at != end:
        raise CorruptBatch(Reason.SHORT, f"{end - at} bytes left over")


def patch(buf: bytearray | memoryview, base_offset: int, leader_epoch: int) -> None:
    """Writes base offset and leader epoch into the batch that starts `buf`; the CRC does not cover them."""
    _I64.pack_into(buf, 0, base_offset)
    struct.pack_into(">i", buf, LOG_OVERHEAD_BYTES, leader_epoch)


def seal(buf: bytearray) -> None:
    """Recomputes the CRC of the one batch that fills `buf`, in place."""
    _U32.pack_into(buf, CRC_AT, crc32c(buf, CRC_FROM))


def with_log_append_time(batch: Buffer, ts_ms: int) -> bytes:
    """A copy of `batch` whose records all carry `ts_ms` as log append time; the CRC is made anew (KIP-32).

    Base timestamp and deltas stay as the producer wrote them: readers take the maximum when the bit is set.
    """
    changed = bytearray(batch)
    (attributes,) = _I16.unpack_from(changed, _ATTRIBUTES_AT)
    _I16.pack_into(changed, _ATTRIBUTES_AT, attributes | LOG_APPEND_TIME_BIT)
    _I64.pack_into(changed, _MAX_TIMESTAMP_AT, ts_ms)
    seal(changed)
    return bytes(changed)


def validate_produced(header: BatchHeader, buf: Buffer) -> None:
    """All that Kafka demands of a client's batch on its header, `buf` being the whole field that holds it.

    Raises CorruptBatch or InvalidBatch with a `reason`. What hangs on the topic (size and timestamp limits, codec,
    keys) and on the request's version (zstd) is the caller's. Cheap checks first, the checksum last.
    """
    size = len(buf)
    if header.magic != MAGIC:
        raise InvalidBatch(Reason.MAGIC, f"magic {header.magic}")
    if size != header.batch_length + LOG_OVERHEAD_BYTES:
        if size < header.batch_length + LOG_OVERHEAD_BYTES:
            raise CorruptBatch(Reason.SHORT, f"{size} of {header.size_bytes} bytes")
        raise InvalidBatch(Reason.TRAILING, f"{size - header.size_bytes} bytes after the batch")
    if header.count <= 0 or header.last_offset_delta != header.count - 1:
        raise InvalidBatch(Reason.COUNT, f"count {header.count}, last offset delta {header.last_offset_delta}")
    attributes = header.attributes
    if attributes:
        _validate_attributes(attributes, header.producer_id)
    if header.base_offset != 0:
        raise InvalidBatch(Reason.BASE_OFFSET, f"base offset {header.base_offset}")
    if header.producer_id >= 0:
        if header.base_sequence < 0:
            raise InvalidBatch(Reason.SEQUENCE, f"producer id {header.producer_id}, sequence {header.base_sequence}")
        if header.producer_epoch < 0:
            raise InvalidBatch(Reason.EPOCH, f"producer id {header.producer_id}, epoch {header.producer_epoch}")
    if crc32c(buf, CRC_FROM) != header.crc:
        raise CorruptBatch(Reason.CRC)


def _validate_attributes(attributes: int, producer_id: int) -> None:
    if attributes & CODEC_MASK > Codec.ZSTD:
        raise InvalidBatch(Reason.CODEC, f"codec {attributes & CODEC_MASK}")
    if attributes & CONTROL_BIT:
        raise InvalidBatch(Reason.CONTROL)
    if attributes & LOG_APPEND_TIME_BIT:
        raise InvalidBatch(Reason.LOG_APPEND_TIME)
    if attributes & DELETE_HORIZON_BIT:
        raise InvalidBatch(Reason.DELETE_HORIZON)
    if attributes & TRANSACTIONAL_BIT and producer_id < 0:
        raise InvalidBatch(Reason.NO_PRODUCER)
