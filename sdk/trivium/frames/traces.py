"""Traces: what happened to messages."""

from __future__ import annotations

import enum
from typing import NamedTuple

import construct as c

from trivium.frames.declare import BYTES, TEXT, Declared, Kind, list_of

BY_TIME, BY_PLACE, BY_ID, BY_KEY = 1, 2, 3, 4


class TraceEvent(enum.IntEnum):
    """What happened."""

    STORED = 1
    DELIVERED = 2
    ACKNOWLEDGED = 3
    FAILED = 4  # given back, or not settled in time
    SCHEDULED = 5  # waits for its time
    DEAD_LETTER = 6  # moved there: that group does not get it any more
    LOST = 9  # so many traces (`last`) were not written


class FindTraces(NamedTuple):
    """Traces from `from_ms` to `to_ms` (ms since the epoch): `by` says of what: BY_TIME of a topic (all if empty),
    BY_PLACE of topic, partition and offset, BY_ID of `message_id`, BY_KEY of the topic's messages with `key`.
    """

    by: int
    topic: str
    message_id: str
    key: bytes
    partition: int
    offset: int
    from_ms: int
    to_ms: int


class TraceEntry(NamedTuple):
    """`event`, a TraceEvent, happened at `time_ms` to the offsets `first` to `last`. `attempt` counts deliveries, 0
    where nobody counts.
    """

    event: int
    time_ms: int
    topic: str
    partition: int
    first: int
    last: int
    protocol: str
    client: str
    host: str
    group: str
    attempt: int
    region: str


class FindTracesReply(NamedTuple):
    """`next_ms`: where a search that was too long goes on, -1 when it is complete."""

    entries: list[TraceEntry]
    next_ms: int


_ENTRY = Declared(
    TraceEntry,
    c.Struct(
        "event" / c.Int8ub,
        "time_ms" / c.Int64sb,
        "topic" / TEXT,
        "partition" / c.Int32ub,
        "first" / c.Int64sb,
        "last" / c.Int64sb,
        "protocol" / TEXT,
        "client" / TEXT,
        "host" / TEXT,
        "group" / TEXT,
        "attempt" / c.Int32ub,
        "region" / TEXT,
    ),
)

KINDS = {
    66: Kind(
        Declared(
            FindTraces,
            c.Struct(
                "by" / c.Int8ub,
                "topic" / TEXT,
                "message_id" / TEXT,
                "key" / BYTES,
                "partition" / c.Int32ub,
                "offset" / c.Int64sb,
                "from_ms" / c.Int64sb,
                "to_ms" / c.Int64sb,
            ),
        ),
        Declared(
            FindTracesReply, c.Struct("entries" / list_of(_ENTRY.fields), "next_ms" / c.Int64sb), {"entries": _ENTRY}
        ),
    ),
}
