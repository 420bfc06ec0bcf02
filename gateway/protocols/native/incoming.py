"""A client's batch, made ready for the store: checked on header and checksum, opened only where the topic asks for it.

`prepare_opened` may run in a thread; its output is bounded by DECODED_BYTES_MAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.intake import mentions_time
from core.intake import must_open as opened_by_type
from core.topics import Topic
from gateway.protocols.native.codes import Refused, batch_code
from trivium.compression import compress
from trivium.errors import ErrorCode
from trivium.record_batch import (
    HEADER_BYTES,
    BatchError,
    BatchHeader,
    Codec,
    parse_header,
    validate_produced,
    with_log_append_time,
)
from trivium.records import Record, decode, open_records, walk, with_records

DECODED_BYTES_MAX = 128 * 1024 * 1024

_CODECS = {"uncompressed": Codec.NONE, "gzip": Codec.GZIP, "snappy": Codec.SNAPPY, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}


class IncomingBatch(NamedTuple):
    """`records` are there when the batch has been opened."""

    header: BatchHeader
    batch: memoryview | bytes
    records: Sequence[Record] | None = None


def must_open(topic: Topic, batch: memoryview, look: bool) -> bool:
    """Whether a batch must be opened on its way in: for the topic, or for what its records ask (`look`, or found)."""
    settings = topic.settings
    if settings.validate_records or settings.compression_type != "producer":
        return True
    return look or opened_by_type(settings) or mentions_time(settings, batch)


def prepare(topic: Topic, batch: memoryview, now_ms: int, transactional: bool = False) -> IncomingBatch:
    """The batch as it came. `transactional`: whether it must be part of a transaction, or must not. Raises Refused."""
    try:
        header = parse_header(batch)
        validate_produced(header, batch)
    except BatchError as error:
        raise Refused(batch_code(error), str(error)) from None
    if header.is_transactional != transactional:
        raise Refused(ErrorCode.INVALID_TXN_STATE, "the batch and the request disagree about its transaction")
    return _finish(topic, header, batch, now_ms)


def prepare_opened(topic: Topic, batch: memoryview, now_ms: int, transactional: bool = False) -> IncomingBatch:
    """As `prepare`, with the records; checked and recompressed as the topic asks. Raises Refused."""
    header = prepare(topic, batch, now_ms, transactional).header
    settings = topic.settings
    changed: memoryview | bytes = batch
    try:
        if settings.validate_records:
            walk(batch, DECODED_BYTES_MAX, require_keys=settings.policy.compact)
        codec = _CODECS.get(settings.compression_type, header.codec)
        if codec != header.codec:
            _, opened = open_records(batch, DECODED_BYTES_MAX)
            changed = with_records(parse_header(batch), compress(codec, memoryview(opened)[HEADER_BYTES:]), codec)
        records = decode(changed, DECODED_BYTES_MAX)
    except BatchError as error:
        raise Refused(batch_code(error), str(error)) from None
    return _finish(topic, parse_header(changed), changed, now_ms)._replace(records=records)


def _finish(topic: Topic, header: BatchHeader, batch: memoryview | bytes, now_ms: int) -> IncomingBatch:
    settings = topic.settings
    if header.size_bytes > settings.message_bytes_max:
        raise Refused(
            ErrorCode.BATCH_TOO_LARGE,
            f"a batch of {header.size_bytes} bytes; topic {topic.name} takes {settings.message_bytes_max}",
        )
    if settings.log_append_time:
        stamped = with_log_append_time(batch, now_ms)
        return IncomingBatch(parse_header(stamped), stamped)
    newest_ms, oldest_ms = now_ms + settings.timestamp_after_ms_max, now_ms - settings.timestamp_before_ms_max
    if header.max_timestamp > newest_ms or 0 <= header.base_timestamp < oldest_ms:
        raise Refused(
            ErrorCode.INVALID_TIMESTAMP,
            f"timestamps {header.base_timestamp} to {header.max_timestamp} ms; "
            f"topic {topic.name} takes {oldest_ms} to {newest_ms}",
        )
    return IncomingBatch(header, batch)
