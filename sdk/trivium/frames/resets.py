"""Resets: readers go on somewhere else in the log."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import TEXT, Declared, Kind, list_of

TO_EARLIEST, TO_LATEST, TO_TIME, TO_OFFSET = 1, 2, 3, 4


class Reset(NamedTuple):
    """Moves the reader `name` of a kind (`group`, `session`, ...) in these topics, or in all it reads. `value` is a
    time (ms since the epoch) or an offset, as `to` says.
    """

    kind: str
    name: str
    topics: list[str]
    to: int
    value: int


class Place(NamedTuple):
    topic: str
    partition: int
    offset: int


class ResetReply(NamedTuple):
    """Where it goes on; durable."""

    places: list[Place]


class GroupReset(NamedTuple):
    """The broker tells who watches a group: its offsets were reset."""

    group: str


_PLACE = Declared(Place, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "offset" / c.Int64sb))

KINDS = {
    64: Kind(
        Declared(
            Reset,
            c.Struct("kind" / TEXT, "name" / TEXT, "topics" / list_of(TEXT), "to" / c.Int8ub, "value" / c.Int64sb),
        ),
        Declared(ResetReply, c.Struct("places" / list_of(_PLACE.fields)), {"places": _PLACE}),
    ),
    65: Kind(Declared(GroupReset, c.Struct("group" / TEXT)), None, from_broker=True),
}
