"""Queue groups as an administrator sees and changes them."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.connection import DONE, STATUS
from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of


class DescribeQueues(NamedTuple):
    """Asks for groups by name, all when none is named."""

    groups: list[str]


class QueueMember(NamedTuple):
    """`held`: messages that it has and has not settled."""

    member: str
    client: str
    held: int


class QueuePlace(NamedTuple):
    """Everything below `floor` is done, or among the `failed`, which wait to come again, also where a member gave them
    back; nothing from `end` on was handed out, and the log ends at `log_end`. `left` are not done: those from `end` on
    (of which a filter may pass none), those that members have, those that wait for their key's turn, and the failed.
    The group's dead letters are such a place while some of them are being tried again.
    """

    topic: str
    partition: int
    floor: int
    end: int
    log_end: int
    held: int
    failed: int
    left: int


class QueueInfo(NamedTuple):
    """`status` 0, or why there is no such group; `subscription` in words."""

    group: str
    status: int
    subscription: str
    paused: int
    invisible_ms: int
    attempts_max: int
    rejoin_ms: int
    backoff_ms: list[int]
    members: list[QueueMember]
    places: list[QueuePlace]


class DescribeQueuesReply(NamedTuple):
    groups: list[QueueInfo]


class ConfigureQueue(NamedTuple):
    """Changes how a group retries, or makes a group of which only that is known. -1, and no backoff: as it is."""

    group: str
    invisible_ms: int
    attempts_max: int
    rejoin_ms: int
    backoff_ms: list[int]


class PauseQueue(NamedTuple):
    """1: the group is handed nothing until 0."""

    group: str
    paused: int


class DeleteQueue(NamedTuple):
    group: str


class ResendDeadLetters(NamedTuple):
    """Hands these offsets of `dead-letters.<group>` to the group again."""

    group: str
    offsets: list[int]


class AskMember(NamedTuple):
    """Has the broker ask a member's client for its status."""

    group: str
    member: str


_MEMBER = Declared(QueueMember, c.Struct("member" / TEXT, "client" / TEXT, "held" / c.Int32ub))
_PLACE = Declared(
    QueuePlace,
    c.Struct(
        "topic" / TEXT,
        "partition" / c.Int32ub,
        "floor" / c.Int64sb,
        "end" / c.Int64sb,
        "log_end" / c.Int64sb,
        "held" / c.Int32ub,
        "failed" / c.Int32ub,
        "left" / c.Int64sb,
    ),
)
_INFO = Declared(
    QueueInfo,
    c.Struct(
        "group" / TEXT,
        "status" / c.Int8ub,
        "subscription" / TEXT,
        "paused" / FLAG,
        "invisible_ms" / c.Int64sb,
        "attempts_max" / c.Int64sb,
        "rejoin_ms" / c.Int64sb,
        "backoff_ms" / list_of(c.Int64sb),
        "members" / list_of(_MEMBER.fields),
        "places" / list_of(_PLACE.fields),
    ),
    {"members": _MEMBER, "places": _PLACE},
)

KINDS = {
    24: Kind(
        Declared(DescribeQueues, c.Struct("groups" / list_of(TEXT))),
        Declared(DescribeQueuesReply, c.Struct("groups" / list_of(_INFO.fields)), {"groups": _INFO}),
    ),
    25: Kind(
        Declared(
            ConfigureQueue,
            c.Struct(
                "group" / TEXT,
                "invisible_ms" / c.Int64sb,
                "attempts_max" / c.Int64sb,
                "rejoin_ms" / c.Int64sb,
                "backoff_ms" / list_of(c.Int64sb),
            ),
        ),
        DONE,
    ),
    26: Kind(Declared(PauseQueue, c.Struct("group" / TEXT, "paused" / FLAG)), DONE),
    27: Kind(Declared(DeleteQueue, c.Struct("group" / TEXT)), DONE),
    29: Kind(Declared(AskMember, c.Struct("group" / TEXT, "member" / TEXT)), STATUS),
    28: Kind(Declared(ResendDeadLetters, c.Struct("group" / TEXT, "offsets" / list_of(c.Int64sb))), DONE),
}
