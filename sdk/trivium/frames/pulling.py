"""Pulls: batches by offset."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of


class PullEntry(NamedTuple):
    topic: str
    partition: int
    offset: int
    bytes_max: int


class Pull(NamedTuple):
    """Answered when anything is there, or after `wait_ms`. `committed` 1 stops at the last stable offset. `selector`:
    only records that pass this filter (`sql:...`, `tags:...`, empty for all); batches keep their offsets.
    """

    committed: int
    entries: list[PullEntry]
    selector: str
    bytes_max: int
    wait_ms: int


class Aborted(NamedTuple):
    """Records of this producer from this offset on, up to its next control batch, do not count."""

    producer_id: int
    first_offset: int


class PullResult(NamedTuple):
    """`size` bytes of payload are this entry's: whole batches, the first of which holds the asked offset."""

    status: int
    log_start: int
    high_watermark: int
    last_stable: int
    aborted: list[Aborted]
    size: int


class PullReply(NamedTuple):
    entries: list[PullResult]


_PULL = Declared(
    PullEntry, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "offset" / c.Int64sb, "bytes_max" / c.Int32ub)
)
_ABORTED = Declared(Aborted, c.Struct("producer_id" / c.Int64sb, "first_offset" / c.Int64sb))
_PULLED = Declared(
    PullResult,
    c.Struct(
        "status" / c.Int8ub,
        "log_start" / c.Int64sb,
        "high_watermark" / c.Int64sb,
        "last_stable" / c.Int64sb,
        "aborted" / list_of(_ABORTED.fields),
        "size" / c.Int32ub,
    ),
    {"aborted": _ABORTED},
)

KINDS = {
    7: Kind(
        Declared(
            Pull,
            c.Struct(
                "committed" / FLAG,
                "entries" / list_of(_PULL.fields),
                "selector" / TEXT,
                "bytes_max" / c.Int32ub,
                "wait_ms" / c.Int32ub,
            ),
            {"entries": _PULL},
        ),
        Declared(PullReply, c.Struct("entries" / list_of(_PULLED.fields)), {"entries": _PULLED}),
    ),
}
