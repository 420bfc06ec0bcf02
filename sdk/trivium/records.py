"""Records inside a batch: decode, build, check.

Rules:
- The Cython reader and builder of aiokafka do the work where they can. The reader bounds every length by the buffer
  but looks a few bytes beyond its end, so it only ever gets `bytes`, which a NUL ends. What it refuses (a header key
  that is not UTF-8, say) the reader in `record_parser` decides: it is the reference.
- Memory is bounded by `max_bytes`, twice: for the decompressed records, and for the objects that they become. The fast
  reader cannot count these, so it gets at most 2 MiB of records (which took 70 MB of memory when they were empty
  headers throughout); what is larger goes to `record_parser`. Clients' batches rarely are: librdkafka fills up to 1 MB.
- aiokafka is imported on first use (0.1 s); `preload` does it ahead of time, for a server that must not wait later.

Measured per record (2 cores, Python 3.11; 100 B value, no headers): decode 0.55 us, build 0.3, `walk` 0.65; a batch of
one record: 3 and 2 us. In plain Python (`salvage`, large batches): 6 us a record.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from trivium.compression import compress, decompress
from trivium.record_batch import (
    CODEC_MASK,
    CONTROL_BIT,
    HEADER_BYTES,
    LOG_APPEND_TIME_BIT,
    LOG_OVERHEAD_BYTES,
    MAGIC,
    NO_LEADER_EPOCH,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    BatchHeader,
    Buffer,
    Codec,
    CorruptBatch,
    InvalidBatch,
    Reason,
    pack_header,
    parse_header,
    patch,
    seal,
)
from trivium.record_parser import RECORD_BYTES_MIN, Record, parse_all, parse_records, salvage_records

__all__ = [
    "ControlMarker",
    "Record",
    "Walked",
    "build",
    "build_control",
    "decode",
    "iter_records",
    "open_records",
    "parse_control",
    "preload",
    "salvage",
    "walk",
    "with_records",
]

DECODED_BYTES_MAX = 128 * 1024 * 1024  # of one batch, wherever a client reads
ERROR_RECORDS_MAX = 100
FAST_READER_BYTES_MAX = 2 * 1024 * 1024
_CONTROL_KEY = struct.Struct(">hh")
_CONTROL_VALUE = struct.Struct(">hi")
_ABORT, _COMMIT = 0, 1
_UNLIMITED = 1 << 62

_new_record = tuple.__new__
_importing = threading.Lock()


class Walked(NamedTuple):
    """What `walk` found: the largest timestamp (ms, -1 for none) and the offset of the first record that has it."""

    max_timestamp: int
    max_timestamp_offset: int


class ControlMarker(NamedTuple):
    """End of a transaction, as the one record of a control batch tells it."""

    commit: bool
    coordinator_epoch: int


@cache
def _cython() -> tuple[Any, Any, tuple[type[Exception], ...]]:
    # Its modules import each other in a circle: two threads that import it at the same time see halves of them.
    with _importing:
        from aiokafka.errors import CorruptRecordException
        from aiokafka.record._crecords import DefaultRecordBatch, DefaultRecordBatchBuilder

    refusals = (CorruptRecordException, UnicodeDecodeError, OverflowError, MemoryError)
    return DefaultRecordBatch, DefaultRecordBatchBuilder, refusals


def preload() -> None:
    """Imports what the first decode or build would import."""
    _cython()


def open_records(batch: Buffer, max_bytes: int) -> tuple[BatchHeader, bytes]:
    """Header of the batch, and the batch with its records decompressed: 61 bytes of header without codec, then records.

    Raises CorruptBatch for a short or damaged batch or one of more than `max_bytes` of records, InvalidBatch for an
    unknown codec or another magic. The CRC is not checked.
    """
    header = parse_header(batch)
    size = header.size_bytes
    if header.magic != MAGIC:
        raise InvalidBatch(Reason.MAGIC, f"magic {header.magic}")
    if len(batch) < size:
        raise CorruptBatch(Reason.SHORT, f"{len(batch)} of {size} bytes")
    if header.codec == Codec.NONE:
        data = bytes(batch if len(batch) == size else memoryview(batch)[:size])
    else:
        records = decompress(header.codec, memoryview(batch)[HEADER_BYTES:size], max_bytes)
        plain = header._replace(attributes=header.attributes & ~CODEC_MASK)
        data = pack_header(plain) + records
    if not 0 <= header.count <= (len(data) - HEADER_BYTES) // RECORD_BYTES_MIN:
        raise CorruptBatch(Reason.RECORDS, f"{header.count} records in {len(data) - HEADER_BYTES} bytes")
    return header, data


def decode(batch: Buffer, max_bytes: int) -> list[Record]:
    """All records of one batch, in at most `max_bytes` of objects if it is large.

    Raises CorruptBatch or InvalidBatch; see `open_records`.
    """
    header, data = open_records(batch, max_bytes)
    if len(data) > FAST_READER_BYTES_MAX:
        return parse_all(header, data, max_bytes)
    reader, _, refusals = _cython()
    try:
        return [
            _new_record(
                Record, (r.offset, ts if (ts := r.timestamp) is not None else NO_TIMESTAMP, r.key, r.value, r.headers)
            )
            for r in reader(data)
        ]
    except refusals:
        return parse_all(header, data, _UNLIMITED)


def iter_records(batch: Buffer, max_bytes: int) -> Iterator[Record]:
    """The records of one batch, decoded one by one. Raises as `decode`, some errors only in the middle."""
    header, data = open_records(batch, max_bytes)
    if len(data) > FAST_READER_BYTES_MAX:
        yield from parse_records(header, data, max_bytes)
        return
    reader, _, refusals = _cython()
    done = 0
    try:
        for r in reader(data):
            ts = r.timestamp
            yield Record(r.offset, NO_TIMESTAMP if ts is None else ts, r.key, r.value, r.headers)
            done += 1
        return
    except refusals:
        pass
    yield from islice(parse_records(header, data, _UNLIMITED), done, None)


def salvage(batch: Buffer, max_bytes: int) -> tuple[list[Record], int]:
    """The readable records of a batch that `decode` refuses, and how many could not be read.

    Raises as `open_records` when there is nothing to read in at all.
    """
    header, data = open_records(batch, max_bytes)
    return salvage_records(header, data, max_bytes if len(data) > FAST_READER_BYTES_MAX else _UNLIMITED)


def walk(batch: Buffer, max_bytes: int, *, require_keys: bool = False) -> Walked:
    """Checks the records of a client's batch as Kafka's LogValidator does.

    Offset deltas run 0, 1, 2, ...; lengths and counts agree; with `require_keys` (a compacted topic) no key is null.
    Raises CorruptBatch, or InvalidBatch with the `indexes` of the first 100 records at fault.
    """
    keyless: list[int] = []
    max_timestamp, max_timestamp_offset, expected = NO_TIMESTAMP - 1, -1, parse_header(batch).base_offset
    base_offset = expected
    for offset, timestamp, key, _, _ in iter_records(batch, max_bytes):
        if offset != expected:
            raise InvalidBatch(Reason.OFFSETS, f"offset delta {offset - base_offset} at {expected - base_offset}")
        if key is None and require_keys and len(keyless) < ERROR_RECORDS_MAX:
            keyless.append(offset - base_offset)
        if timestamp > max_timestamp:
            max_timestamp, max_timestamp_offset = timestamp, offset
        expected += 1
    if keyless:
        raise InvalidBatch(Reason.NO_KEY, indexes=tuple(keyless))
    return Walked(max(max_timestamp, NO_TIMESTAMP), max_timestamp_offset)


def build(
    records: Iterable[Record],
    *,
    codec: int = Codec.NONE,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
    log_append_time_ms: int | None = None,
    keep_offsets: bool = False,
) -> bytes:
    """One batch of `records`, at least one, with base offset 0 and offsets by position (those given are not looked at),
    or with their own offsets, which rise.

    Keys and values are bytes-like or None, header values bytes or None, headers keep order and duplicates. With
    `log_append_time_ms` all records carry that time instead of their own. Raises ValueError for no records.
    """
    builder = _cython()[1](MAGIC, 0, transactional, producer_id, producer_epoch, base_sequence, _UNLIMITED)
    append = builder.append
    delta, shift_ms, base_offset = -1, 0, 0
    for delta, (offset, timestamp, key, value, headers) in enumerate(records):
        if delta == 0:
            base_offset = offset if keep_offsets else 0
            if timestamp == NO_TIMESTAMP:
                shift_ms = 1  # the builder takes -1 for "no base yet": a base of 0, and the header mended below
        append(offset - base_offset if keep_offsets else delta, timestamp + shift_ms, key, value, headers)
    if delta < 0:
        raise ValueError("a batch has at least one record")
    built = builder.build()
    if keep_offsets:
        patch(built, base_offset, NO_LEADER_EPOCH)
    if codec == Codec.NONE and log_append_time_ms is None and not shift_ms:
        return bytes(built)
    header = parse_header(built)
    header = header._replace(
        base_timestamp=header.base_timestamp - shift_ms, max_timestamp=header.max_timestamp - shift_ms
    )
    if log_append_time_ms is not None:
        header = header._replace(attributes=header.attributes | LOG_APPEND_TIME_BIT, max_timestamp=log_append_time_ms)
    return with_records(header, compress(codec, memoryview(built)[HEADER_BYTES:]), codec)


def with_records(header: BatchHeader, body: Buffer, codec: int) -> bytes:
    """A batch of `header` and the records in `body`, compressed by `codec` already; length, codec and CRC are set."""
    header = header._replace(
        batch_length=HEADER_BYTES - LOG_OVERHEAD_BYTES + len(body), attributes=header.attributes & ~CODEC_MASK | codec
    )
    batch = bytearray(pack_header(header))
    batch += body
    seal(batch)
    return bytes(batch)


def build_control(
    producer_id: int, producer_epoch: int, commit: bool, coordinator_epoch: int, timestamp_ms: int
) -> bytes:
    """The control batch that ends a transaction: type in the key, coordinator epoch in the value (KIP-98)."""
    key = _CONTROL_KEY.pack(0, _COMMIT if commit else _ABORT)
    record = Record(0, timestamp_ms, key, _CONTROL_VALUE.pack(0, coordinator_epoch), [])
    batch = build([record], producer_id=producer_id, producer_epoch=producer_epoch, transactional=True)
    header = parse_header(batch)
    marked = header._replace(attributes=header.attributes | CONTROL_BIT)
    return with_records(marked, batch[HEADER_BYTES:], Codec.NONE)


def parse_control(batch: Buffer, max_bytes: int = 4096) -> ControlMarker | None:
    """What a control batch says; None for a type that ends no transaction. Raises CorruptBatch."""
    records = decode(batch, max_bytes)
    try:
        version, kind = _CONTROL_KEY.unpack_from(records[0].key or b"")
        if version < 0:
            raise CorruptBatch(Reason.RECORDS, f"control record version {version}")
        if kind not in (_ABORT, _COMMIT):
            return None
        _, coordinator_epoch = _CONTROL_VALUE.unpack_from(records[0].value or b"")
    except (struct.error, IndexError):
        raise CorruptBatch(Reason.RECORDS, "short control record") from None
    return ControlMarker(kind == _COMMIT, coordinator_epoch)
