"""Batches with only those records that pass a filter: offsets, sequences and what is no data stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core.selectors import Selector
from core.store.engine import Buffer
from trivium.rebuild import rebuild
from trivium.record_batch import BatchError, parse_header
from trivium.records import decode

DECODED_BYTES_MAX: Final = 64 * 1024 * 1024


def select(buffers: Iterable[Buffer], selector: Selector) -> list[Buffer]:
    """The batches in `buffers`, each with the records that pass. One of which none does becomes an empty one, so that
    its reader comes on; one that cannot be decoded stays as it is, for its reader to find.
    """
    found: list[Buffer] = []
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            header = parse_header(buffer, at)
            batch = buffer[at : at + header.size_bytes]
            at += header.size_bytes
            found.append(batch if header.is_control else _select(batch, selector))
    return found


def _select(batch: Buffer, selector: Selector) -> Buffer:
    try:
        records = decode(batch, DECODED_BYTES_MAX)
        kept = [record for record in records if selector(record)]
        return batch if len(kept) == len(records) else rebuild(batch, kept, DECODED_BYTES_MAX)
    except BatchError:
        return batch
