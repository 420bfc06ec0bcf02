"""One partition's records for one fetch: as they lie in the store for nearly everyone, message sets for clients
before Fetch v4.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from core.store.engine import Engine, Read
from gateway.protocols.kafka.conversion import IN_LINE_BYTES_MAX, in_thread
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.legacy import Converted, down_convert
from trivium.record_batch import Codec, InvalidBatch, iter_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

FIRST_BATCH_VERSION = 4  # of Fetch: below, message sets
FIRST_SIZE_GUARANTEE_VERSION = 3  # of Fetch: below, a message larger than the limit is cut, not sent whole
FIRST_ZSTD_VERSION = 10


class Fetched(NamedTuple):
    """`buffers` joined are the partition's records, `size_bytes` their size; `error` says why there are none."""

    read: Read
    buffers: Sequence[bytes | memoryview]
    size_bytes: int
    error: ErrorCode = ErrorCode.NONE


async def read(
    engine: Engine,
    partition: int,
    offset: int,
    bytes_max: int,
    version: int,
    *,
    committed: bool,
    first: bool,
    zstd_topic: bool,
    decoded_bytes_max: int,
    mapped: bool,
) -> Fetched:
    """Reads for a Fetch of `version`; `first` promises at least one batch. A batch that has to be converted and
    becomes more than `decoded_bytes_max` is left out; with `mapped` only the kernel may look at the batches. Raises
    UnknownPartition, OffsetOutOfRange.

    Before Fetch v10 a topic whose `compression.type` is zstd (`zstd_topic`) is refused; zstd that producers chose is
    sent as it is from v4 on, as in Kafka: kafka-python 2.0 fetches with v4 and reads it.
    """
    mapped = mapped and version >= FIRST_BATCH_VERSION
    found = await _read(engine, partition, offset, bytes_max, committed, first, mapped)
    if zstd_topic and version < FIRST_ZSTD_VERSION:
        return Fetched(found, (), 0, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
    if version >= FIRST_BATCH_VERSION or not found.size_bytes:
        return Fetched(found, found.buffers, found.size_bytes)
    return await _read_message_sets(engine, partition, offset, bytes_max, version, found, decoded_bytes_max)


async def _read(
    engine: Engine, partition: int, offset: int, bytes_max: int, committed: bool, first: bool, mapped: bool
) -> Read:
    found = engine.read_nowait(partition, offset, bytes_max, committed=committed, first_whole=first, mapped=mapped)
    if found is None:
        found = await engine.read(partition, offset, bytes_max, committed=committed, first_whole=first, mapped=mapped)
    return found


async def _read_message_sets(
    engine: Engine, partition: int, offset: int, bytes_max: int, version: int, found: Read, decoded_bytes_max: int
) -> Fetched:
    """Converts what was found, reading on while it is nothing but control batches, which these clients cannot step
    over.
    """
    while found.size_bytes:
        batches = b"".join(found.buffers)
        try:
            convert = partial(_convert, batches, version, offset, bytes_max, decoded_bytes_max)
            if len(batches) <= IN_LINE_BYTES_MAX and all(
                header.codec == Codec.NONE for header, _ in iter_batches(batches)
            ):
                converted = convert()
            else:
                converted = await in_thread(convert)
        except InvalidBatch:
            return Fetched(found, (), 0, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
        if converted.skipped:
            log.warning("records skipped: not decodable", partition=partition, offset=offset, records=converted.skipped)
        if converted.data:
            return Fetched(found, (converted.data,), len(converted.data))
        offset = converted.next_offset
        found = await _read(engine, partition, offset, bytes_max, committed=False, first=True, mapped=False)
    return Fetched(found, (), 0)


def _convert(batches: bytes, version: int, offset: int, bytes_max: int, decoded_bytes_max: int) -> Converted:
    return down_convert(
        batches,
        1 if version >= 2 else 0,
        offset,
        bytes_max,
        first_record_guarantee=version >= FIRST_SIZE_GUARANTEE_VERSION,
        decompressed_bytes_max=decoded_bytes_max,
    )
