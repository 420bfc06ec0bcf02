"""Half messages: sent, ended, checked back, listed, resumed."""

from __future__ import annotations

from typing import Final, NamedTuple

import construct as c

from trivium.frames.connection import DONE
from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of

DO_NOT_KNOW: Final = 0
COMMIT: Final = 1
ROLL_BACK: Final = 2


class SendHalf(NamedTuple):
    """The payload is one batch, whose first record carries `message_id` as its header `trivium.id`. Sent again under
    the same id, it is kept once. A time of 0, and 0 checks, take the broker's default.
    """

    topic: str
    partition: int
    group: str
    message_id: str
    first_check_ms: int
    check_interval_ms: int
    checks_max: int


class EndHalf(NamedTuple):
    """`commit` 1: delivers it, 0: drops it. The same end again is done once; another is refused (MESSAGE_ENDED)."""

    message_id: str
    commit: int


class JoinProducers(NamedTuple):
    """This connection answers for the half messages of a group, until it leaves, or ends."""

    group: str


class LeaveProducers(NamedTuple):
    """This connection is no longer asked for that group."""

    group: str


class CheckBack(NamedTuple):
    """The broker asks what became of a half message; the payload is its batch."""

    group: str
    message_id: str
    topic: str
    partition: int
    checks: int


class CheckBackReply(NamedTuple):
    """DO_NOT_KNOW: asked again later."""

    answer: int


class ListHalves(NamedTuple):
    """What waits for its end, oldest first, behind `after_number` (-1: from the first); `parked` 1: only what is.
    An empty group: all.
    """

    group: str
    parked: int
    after_number: int
    rows_max: int


class HalfRow(NamedTuple):
    """`topic` is empty when it has been deleted since."""

    number: int
    message_id: str
    group: str
    topic: str
    partition: int
    stored_ms: int
    parked: int
    checks: int


class ListHalvesReply(NamedTuple):
    rows: list[HalfRow]


class ResumeHalf(NamedTuple):
    """A parked message is checked again, at once and as often as a new one."""

    message_id: str


_ROW = Declared(
    HalfRow,
    c.Struct(
        "number" / c.Int64sb,
        "message_id" / TEXT,
        "group" / TEXT,
        "topic" / TEXT,
        "partition" / c.Int32sb,
        "stored_ms" / c.Int64sb,
        "parked" / FLAG,
        "checks" / c.Int16ub,
    ),
)

KINDS = {
    48: Kind(
        Declared(
            SendHalf,
            c.Struct(
                "topic" / TEXT,
                "partition" / c.Int32ub,
                "group" / TEXT,
                "message_id" / TEXT,
                "first_check_ms" / c.Int32ub,
                "check_interval_ms" / c.Int32ub,
                "checks_max" / c.Int16ub,
            ),
        ),
        DONE,
    ),
    49: Kind(Declared(EndHalf, c.Struct("message_id" / TEXT, "commit" / FLAG)), DONE),
    50: Kind(Declared(JoinProducers, c.Struct("group" / TEXT)), DONE),
    54: Kind(Declared(LeaveProducers, c.Struct("group" / TEXT)), DONE),
    51: Kind(
        Declared(
            CheckBack,
            c.Struct(
                "group" / TEXT,
                "message_id" / TEXT,
                "topic" / TEXT,
                "partition" / c.Int32sb,
                "checks" / c.Int16ub,
            ),
        ),
        Declared(CheckBackReply, c.Struct("answer" / c.Int8ub)),
        from_broker=True,
    ),
    52: Kind(
        Declared(
            ListHalves,
            c.Struct("group" / TEXT, "parked" / FLAG, "after_number" / c.Int64sb, "rows_max" / c.Int32ub),
        ),
        Declared(ListHalvesReply, c.Struct("rows" / list_of(_ROW.fields)), {"rows": _ROW}),
    ),
    53: Kind(Declared(ResumeHalf, c.Struct("message_id" / TEXT)), DONE),
}
