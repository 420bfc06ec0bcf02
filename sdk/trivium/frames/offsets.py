"""Offsets: found by time, kept for a group."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of

EARLIEST, LATEST = -2, -1  # in place of a time


class TimeEntry(NamedTuple):
    """`time_ms` since the epoch, or LATEST (-1), EARLIEST (-2)."""

    topic: str
    partition: int
    time_ms: int


class FindOffsets(NamedTuple):
    entries: list[TimeEntry]


class FoundOffset(NamedTuple):
    """The first offset with at least that time; the end of the partition when there is none."""

    status: int
    offset: int


class FindOffsetsReply(NamedTuple):
    entries: list[FoundOffset]


class OffsetEntry(NamedTuple):
    topic: str
    partition: int
    offset: int
    metadata: str


class Commit(NamedTuple):
    """Offsets of the next records to read, kept under a group's name, unless the group has been reset since `resets`
    (as `Committed` said it; -1: whatever happened).
    """

    group: str
    entries: list[OffsetEntry]
    resets: int


class CommitReply(NamedTuple):
    statuses: list[int]


class Committed(NamedTuple):
    """Asks for a group's offsets; `watch` 1: and to be told of its resets, as long as this connection lives."""

    group: str
    watch: int


class CommittedReply(NamedTuple):
    """`resets` counts the group's resets."""

    entries: list[OffsetEntry]
    resets: int


_TIME = Declared(TimeEntry, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "time_ms" / c.Int64sb))
_FOUND = Declared(FoundOffset, c.Struct("status" / c.Int8ub, "offset" / c.Int64sb))
OFFSET = Declared(
    OffsetEntry, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "offset" / c.Int64sb, "metadata" / TEXT)
)

KINDS = {
    8: Kind(
        Declared(FindOffsets, c.Struct("entries" / list_of(_TIME.fields)), {"entries": _TIME}),
        Declared(FindOffsetsReply, c.Struct("entries" / list_of(_FOUND.fields)), {"entries": _FOUND}),
    ),
    9: Kind(
        Declared(
            Commit,
            c.Struct("group" / TEXT, "entries" / list_of(OFFSET.fields), "resets" / c.Int32sb),
            {"entries": OFFSET},
        ),
        Declared(CommitReply, c.Struct("statuses" / list_of(c.Int8ub))),
    ),
    10: Kind(
        Declared(Committed, c.Struct("group" / TEXT, "watch" / FLAG)),
        Declared(
            CommittedReply,
            c.Struct("entries" / list_of(OFFSET.fields), "resets" / c.Int32sb),
            {"entries": OFFSET},
        ),
    ),
}
