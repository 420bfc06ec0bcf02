"""Finding records inside one batch, by timestamp and by key.

Records are looked at one by one: beside the batch there is its decompressed data, at most `_DECODED_BYTES_MAX`.
"""

from __future__ import annotations

from core.store.engine import TimedOffset
from trivium.record_batch import BatchError, Buffer, parse_header
from trivium.records import iter_records

_DECODED_BYTES_MAX = 128 * 1024 * 1024


def first_record_from(batch: Buffer, timestamp_ms: int, from_offset: int = 0) -> TimedOffset | None:
    """The first record at or after `from_offset` with at least this timestamp, None when the batch has none.

    Of a batch that cannot be decoded it is the first record: the header says that one of them is late enough.
    """
    header = parse_header(batch)
    epoch = header.leader_epoch
    if header.max_timestamp < timestamp_ms or header.last_offset < from_offset:
        return None
    if header.is_log_append_time or header.is_control:
        return TimedOffset(max(header.base_offset, from_offset), header.max_timestamp, epoch)
    try:
        for record in iter_records(batch, _DECODED_BYTES_MAX):
            if record.timestamp >= timestamp_ms and record.offset >= from_offset:
                return TimedOffset(record.offset, record.timestamp, epoch)
    except BatchError:
        return TimedOffset(max(header.base_offset, from_offset), header.max_timestamp, epoch)
    return None


def offsets_of_key(batch: Buffer, key: bytes, from_offset: int) -> list[int]:
    """Offsets of the records with this key, ascending; none of a batch that cannot be decoded."""
    try:
        records = iter_records(batch, _DECODED_BYTES_MAX)
        return [record.offset for record in records if record.key == key and record.offset >= from_offset]
    except BatchError:
        return []
