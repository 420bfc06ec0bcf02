"""Scheduled messages: cancelled, listed."""

from __future__ import annotations

from typing import Final, NamedTuple

import construct as c

from trivium.frames.declare import BYTES, FLAG, TEXT, Declared, Kind, list_of

UNKNOWN: Final = 0
DELIVERED: Final = 1
CANCELLED: Final = 2


class Cancel(NamedTuple):
    """Cancels a message that waits for its time."""

    message_id: str


class CancelReply(NamedTuple):
    """`state`: CANCELLED (now or before), DELIVERED, or UNKNOWN (never was, or ended longer ago than is known)."""

    state: int


class ListScheduled(NamedTuple):
    """What waits behind (due, number), soonest first; begin with -1, -1."""

    after_due_ms: int
    after_number: int
    rows_max: int


class ScheduledRow(NamedTuple):
    """`topic` is empty when it has been deleted since."""

    due_ms: int
    number: int
    message_id: str
    topic: str
    partition: int
    has_key: int
    key: bytes
    value_bytes: int


class ListScheduledReply(NamedTuple):
    rows: list[ScheduledRow]


_ROW = Declared(
    ScheduledRow,
    c.Struct(
        "due_ms" / c.Int64sb,
        "number" / c.Int64sb,
        "message_id" / TEXT,
        "topic" / TEXT,
        "partition" / c.Int32sb,
        "has_key" / FLAG,
        "key" / BYTES,
        "value_bytes" / c.Int32ub,
    ),
)

KINDS = {
    44: Kind(
        Declared(Cancel, c.Struct("message_id" / TEXT)),
        Declared(CancelReply, c.Struct("state" / c.Int8ub)),
    ),
    45: Kind(
        Declared(
            ListScheduled,
            c.Struct("after_due_ms" / c.Int64sb, "after_number" / c.Int64sb, "rows_max" / c.Int32ub),
        ),
        Declared(ListScheduledReply, c.Struct("rows" / list_of(_ROW.fields)), {"rows": _ROW}),
    ),
}
