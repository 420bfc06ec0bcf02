"""Queue groups: consumers that get messages pushed, or receive them, and settle each.

A *stream* is one consumer on one connection, numbered by the client. A *lease* is the receipt of what was handed out.
"""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.connection import DONE
from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of

NO_LEASE = 0  # nothing is to be settled (broadcast)
ACK, NACK, EXTEND, POSTPONE, REJECT = range(5)
ORDER_NONE, ORDER_KEY, ORDER_PARTITION = range(3)
SETTLES_MAX = 10_000  # entries of one request ...
SETTLED_OFFSETS_MAX = 262_144  # ... and offsets of all of them together


class Subscribe(NamedTuple):
    """Joins a group as `member`. `start` (a time in ms, -2 earliest, -1 latest) counts where the group is new to a
    topic. `held`: leases that the member still has, when it comes back.
    """

    stream: int
    group: str
    member: str
    topics: list[str]
    key_pattern: str
    selector: str
    order: int
    broadcast: int
    start: int
    held: list[int]


class Subscribed(NamedTuple):
    """How long messages are invisible, and how often they are tried."""

    invisible_ms: int
    attempts_max: int


class QueueSettings(NamedTuple):
    """The broker tells a stream that its group has other settings than those of `Subscribed`, or than it told last.
    They count for what comes after it.
    """

    stream: int
    invisible_ms: int
    attempts_max: int


class Unsubscribe(NamedTuple):
    """Leaves; what the member has goes to others, and that was no attempt."""

    stream: int


class Grant(NamedTuple):
    """The client can take so many more messages and bytes."""

    stream: int
    messages: int
    bytes: int


class Range(NamedTuple):
    first: int
    last: int


class Delivery(NamedTuple):
    """`size` bytes of payload, one batch, of which only the offsets in `ranges` are meant."""

    topic: str
    partition: int
    lease: int
    attempt: int
    ranges: list[Range]
    size: int


class Deliver(NamedTuple):
    """The broker hands out."""

    stream: int
    entries: list[Delivery]


class Receive(NamedTuple):
    """Asks for messages once. The same `receive_id` as the last time asks for the same again."""

    stream: int
    receive_id: int
    messages_max: int
    bytes_max: int
    wait_ms: int


class ReceiveReply(NamedTuple):
    entries: list[Delivery]


class SettleEntry(NamedTuple):
    """What becomes of `first` to `last` under a lease. `delay_ms` -1: as the group says."""

    topic: str
    partition: int
    lease: int
    first: int
    last: int
    verb: int
    delay_ms: int
    reason: str


class SettleRequest(NamedTuple):
    stream: int
    entries: list[SettleEntry]


class SettleReply(NamedTuple):
    statuses: list[int]


_RANGE = Declared(Range, c.Struct("first" / c.Int64sb, "last" / c.Int64sb))
_DELIVERY = Declared(
    Delivery,
    c.Struct(
        "topic" / TEXT,
        "partition" / c.Int32ub,
        "lease" / c.Int64sb,
        "attempt" / c.Int32ub,
        "ranges" / list_of(_RANGE.fields),
        "size" / c.Int32ub,
    ),
    {"ranges": _RANGE},
)
_ENTRY = Declared(
    SettleEntry,
    c.Struct(
        "topic" / TEXT,
        "partition" / c.Int32ub,
        "lease" / c.Int64sb,
        "first" / c.Int64sb,
        "last" / c.Int64sb,
        "verb" / c.Int8ub,
        "delay_ms" / c.Int64sb,
        "reason" / TEXT,
    ),
)

KINDS = {
    16: Kind(
        Declared(
            Subscribe,
            c.Struct(
                "stream" / c.Int32ub,
                "group" / TEXT,
                "member" / TEXT,
                "topics" / list_of(TEXT),
                "key_pattern" / TEXT,
                "selector" / TEXT,
                "order" / c.Int8ub,
                "broadcast" / FLAG,
                "start" / c.Int64sb,
                "held" / list_of(c.Int64sb),
            ),
        ),
        Declared(Subscribed, c.Struct("invisible_ms" / c.Int64sb, "attempts_max" / c.Int32ub)),
    ),
    17: Kind(Declared(Unsubscribe, c.Struct("stream" / c.Int32ub)), DONE),
    18: Kind(Declared(Grant, c.Struct("stream" / c.Int32ub, "messages" / c.Int32ub, "bytes" / c.Int32ub)), None),
    19: Kind(
        Declared(
            Deliver,
            c.Struct("stream" / c.Int32ub, "entries" / list_of(_DELIVERY.fields)),
            {"entries": _DELIVERY},
        ),
        None,
        from_broker=True,
    ),
    22: Kind(
        Declared(
            QueueSettings,
            c.Struct("stream" / c.Int32ub, "invisible_ms" / c.Int64sb, "attempts_max" / c.Int32ub),
        ),
        None,
        from_broker=True,
    ),
    20: Kind(
        Declared(
            Receive,
            c.Struct(
                "stream" / c.Int32ub,
                "receive_id" / c.Int64sb,
                "messages_max" / c.Int32ub,
                "bytes_max" / c.Int32ub,
                "wait_ms" / c.Int32ub,
            ),
        ),
        Declared(ReceiveReply, c.Struct("entries" / list_of(_DELIVERY.fields)), {"entries": _DELIVERY}),
    ),
    21: Kind(
        Declared(
            SettleRequest, c.Struct("stream" / c.Int32ub, "entries" / list_of(_ENTRY.fields)), {"entries": _ENTRY}
        ),
        Declared(SettleReply, c.Struct("statuses" / list_of(c.Int8ub))),
    ),
}
