"""How far a partition may have reached in groups that are lost: its offsets must never be given out a second time.

A later batch of the partition tells where the loss ended. For partitions without one:

* When only a group's headers rotted, its batches are still there, one after another from a known place to where the
  next group starts, each whole by its own checksum. Which partition a batch belonged to is not known, so every
  partition that ends where one of them begins moves on behind it, and behind what may have followed.
* When bytes of the batches are gone too, every partition moves on as far as so many bytes can have had records: one
  takes seven bytes at least, of which zstd leaves 0.8, since their offset deltas differ. (Batches
  are stored unseen: one whose producer claimed more records than it sent is not covered.)
"""

from __future__ import annotations

from collections.abc import Callable

from core.store.segment import ENTRY_HEADER_BYTES, GROUP_HEADER_BYTES, EntryHeader, Window
from trivium.record_batch import HEADER_BYTES, MAGIC, BatchError, BatchHeader, check_crc, parse_header

OFFSETS_PER_BYTE_MAX = 64


def last_delta(entry: EntryHeader, data: memoryview) -> int:
    """The largest last offset delta that a damaged batch may have had.

    It stands in the header twice, once as the number of records (which is less where records were taken out).
    """
    try:
        header = parse_header(data)
    except BatchError:
        return entry.size * OFFSETS_PER_BYTE_MAX
    whole = header.base_offset == entry.base_offset and header.size_bytes == entry.size and header.crc == entry.crc
    return max(0, header.last_offset_delta, header.count - 1) if whole else entry.size * OFFSETS_PER_BYTE_MAX


def batches_of_lost_group(window: Window, place: int, entries: int, end: int | None) -> list[BatchHeader] | None:
    """The batches of a group at `place` whose headers are lost; None when they do not account for all of it.

    `entries`: how many it had, as its neighbours tell. `end`: where the next group starts, None if in another file.
    """
    at = place + GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES * entries
    limit = window.end if end is None else end
    found: list[BatchHeader] = []
    while at != end and len(found) < entries:
        try:
            header = parse_header(window.view(at, min(HEADER_BYTES, max(0, limit - at))))
        except BatchError:
            return None
        if header.magic != MAGIC or header.base_offset < 0 or header.size_bytes > limit - at:
            return None
        if not check_crc(window.view(at, header.size_bytes), header):
            return None
        found.append(header)
        at += header.size_bytes
    return found if end is None or at == end else None


def ends_after(batches: list[BatchHeader] | None, lost_bytes: int) -> Callable[[int], int]:
    """What tells where a partition may end that ended at a given offset before these were lost."""
    if batches is None:
        return lambda offset: offset + lost_bytes * OFFSETS_PER_BYTE_MAX
    reach: dict[int, int] = {}
    for batch in reversed(batches):
        end = reach.get(batch.next_offset, batch.next_offset)
        reach[batch.base_offset] = max(end, reach.get(batch.base_offset, 0))
    return lambda offset: reach.get(offset, offset)
