"""What a produce request brings, made ready for the store: checked, and rewritten only where the topic or the format
asks for it.

`prepare` looks at the header and the checksum alone (microseconds). `prepare_records` looks at the records: message
sets of old clients, topics that recompress, and topics that validate records; it may run in a thread, its output
bounded by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.errors import CoreFailure
from core.intake import check_transactional, must_open
from core.topics import Topic
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.legacy import up_convert
from trivium.compression import compress
from trivium.record_batch import (
    HEADER_BYTES,
    BatchError,
    BatchHeader,
    Codec,
    CorruptBatch,
    Reason,
    parse_header,
    validate_produced,
    with_log_append_time,
)
from trivium.records import Record, decode, open_records, walk, with_records

FIRST_BATCH_VERSION = 3  # of Produce: below, message sets
FIRST_ZSTD_VERSION = 7

_CODECS = {"uncompressed": Codec.NONE, "gzip": Codec.GZIP, "snappy": Codec.SNAPPY, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}


class IncomingBatch(NamedTuple):
    """`records` are there when the batch is to be sorted by `core.intake`."""

    header: BatchHeader
    batch: memoryview | bytes
    records: Sequence[Record] | None = None


class RefusedBatch(Exception):
    """A batch that cannot be stored: the error code, and the records at fault (index, text) where they are known."""

    def __init__(self, code: ErrorCode, message: str, records: list[tuple[int, str]] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.records = records or []


def needs_records(topic: Topic) -> bool:
    """Whether this topic's batches must be opened on their way in."""
    settings = topic.settings
    return settings.validate_records or settings.compression_type != "producer" or must_open(settings)


def prepare(topic: Topic, records: memoryview | None, version: int, now_ms: int) -> IncomingBatch:
    """The batch as it came, checked on its header and checksum. Raises RefusedBatch."""
    if not records:
        raise RefusedBatch(ErrorCode.INVALID_RECORD, "a produce request must hold one record batch per partition")
    try:
        header = parse_header(records)
        validate_produced(header, records)
    except BatchError as error:
        raise refusal(error, version) from None
    if header.codec == Codec.ZSTD and version < FIRST_ZSTD_VERSION:
        raise RefusedBatch(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or newer")
    _check_limits(topic, header, now_ms)
    if topic.settings.log_append_time:
        stamped = with_log_append_time(records, now_ms)
        return IncomingBatch(parse_header(stamped), stamped)
    return IncomingBatch(header, records)


def prepare_records(
    topic: Topic, records: memoryview | None, version: int, now_ms: int, decoded_bytes_max: int, sort: bool
) -> list[IncomingBatch]:
    """The batches that a partition's records become (one, except from an old message set). Raises RefusedBatch.

    With `sort` their records come with them: some may have to wait for their time, or the topic may not take them.
    """
    try:
        if version < FIRST_BATCH_VERSION:
            batches = [memoryview(batch) for batch in up_convert(records or b"", decoded_bytes_max)]
            if not batches:
                raise RefusedBatch(ErrorCode.INVALID_RECORD, "a produce request must hold a message set per partition")
        else:
            batches = [memoryview(prepare(topic, records, version, now_ms).batch)]
        ready = [_rewrite(topic, batch, now_ms, decoded_bytes_max) for batch in batches]
        if not sort:
            return ready
        return [one._replace(records=decode(one.batch, decoded_bytes_max)) for one in ready]
    except BatchError as error:
        raise refusal(error, version) from None


def _rewrite(topic: Topic, batch: memoryview | bytes, now_ms: int, decoded_bytes_max: int) -> IncomingBatch:
    header = parse_header(batch)
    settings = topic.settings
    if settings.validate_records:
        walk(batch, decoded_bytes_max, require_keys=settings.policy.compact)
    codec = _CODECS.get(settings.compression_type, header.codec)
    if codec != header.codec:
        _, opened = open_records(batch, decoded_bytes_max)
        batch = with_records(header, compress(codec, memoryview(opened)[HEADER_BYTES:]), codec)
        header = parse_header(batch)
    _check_limits(topic, header, now_ms)
    if settings.log_append_time and not header.is_log_append_time:
        batch = with_log_append_time(batch, now_ms)
        header = parse_header(batch)
    return IncomingBatch(header, batch)


def _check_limits(topic: Topic, header: BatchHeader, now_ms: int) -> None:
    settings = topic.settings
    if settings.message_type == "transaction":
        try:
            check_transactional(settings, header.is_transactional)
        except CoreFailure as failure:
            raise refused_by_core(failure) from None
    if header.size_bytes > settings.message_bytes_max:
        raise RefusedBatch(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"The record batch size in the append to {topic.name} is {header.size_bytes} bytes "
            f"which exceeds the maximum configured value of {settings.message_bytes_max}.",
        )
    if settings.log_append_time:
        return
    newest_ms, oldest_ms = now_ms + settings.timestamp_after_ms_max, now_ms - settings.timestamp_before_ms_max
    if header.max_timestamp > newest_ms or 0 <= header.base_timestamp < oldest_ms:
        raise RefusedBatch(
            ErrorCode.INVALID_TIMESTAMP,
            f"Timestamp {header.max_timestamp} of the batch is out of range. "
            f"The timestamp should be within [{oldest_ms}, {newest_ms}].",
        )


def refusal(error: BatchError, version: int) -> RefusedBatch:
    """The error code that Kafka's clients expect for a bad batch in a Produce of `version`."""
    if error.reason is Reason.TOO_LARGE:
        code = ErrorCode.RECORD_LIST_TOO_LARGE
    elif error.reason in (Reason.CODEC, Reason.UNREADABLE_CODEC):
        code = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    elif error.reason in (Reason.TIMESTAMP, Reason.LOG_APPEND_TIME):
        code = ErrorCode.INVALID_TIMESTAMP
    elif error.reason is Reason.SHORT and version >= FIRST_BATCH_VERSION:
        code = ErrorCode.INVALID_RECORD  # which is final: it will not be longer when it is sent again
    elif isinstance(error, CorruptBatch):
        code = ErrorCode.CORRUPT_MESSAGE
    else:
        code = ErrorCode.INVALID_RECORD
    return RefusedBatch(code, str(error), [(index, str(error.reason)) for index in error.indexes])


def refused_by_core(failure: CoreFailure) -> RefusedBatch:
    """A kind of record that the topic does not take."""
    return RefusedBatch(CODES[failure.error], failure.message)
