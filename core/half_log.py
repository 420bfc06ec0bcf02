"""Half messages as records of one internal compacted partition.

| key               | value                                                                                       |
|-------------------|---------------------------------------------------------------------------------------------|
| `h` number        | the batch as it was sent; header `trivium.half`: where to, whose, how it is to be checked    |
| `h` number, null  | the end; header `trivium.ended`: how, when, and the message's id                              |
| `c` number        | how often it was checked, and whether it is parked                                            |

A number is the store epoch and a counter: none is given twice. The ends are known for a day (`delete.retention.ms`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from core.errors import CoreError
from core.state import Change
from trivium.records import Record

PUT: Final = "trivium.half"
END: Final = "trivium.ended"
_KEY = struct.Struct(">cQ")
_PUT = struct.Struct(">qqIIHH")  # engine partition, stored, first check after, interval, checks, bytes of the group
_CHECKS = struct.Struct(">HB")
_END = struct.Struct(">Bq")


class HalfEnd(enum.IntEnum):
    """How a half message ended. DROPPED: it was committed, and its topic was no longer there."""

    COMMITTED = 1
    ROLLED_BACK = 2
    DROPPED = 3


class CheckPlan(NamedTuple):
    """When its producers are asked what became of it. RocketMQ's defaults."""

    first_ms: int = 6_000
    interval_ms: int = 30_000
    checks_max: int = 15


@dataclass(slots=True)
class Half:
    """One that waits for its end. `offset`: where its record stands, -1 until that is durable."""

    number: int
    message_id: str
    group: str
    partition: int
    stored_ms: int
    plan: CheckPlan
    offset: int = -1
    checks: int = 0
    parked: bool = False
    ending: bool = False
    next_check_ms: int = 0
    waiting: list[Callable[[CoreError | None], None]] = field(default_factory=list)  # called when an append is answered


class Checked(NamedTuple):
    number: int
    checks: int
    parked: bool


class Ended(NamedTuple):
    number: int
    end: HalfEnd
    ended_ms: int
    message_id: str


class Gone(NamedTuple):
    """The checks of one that ended."""

    number: int


def put_record(half: Half, batch: bytes) -> Record:
    group = half.group.encode()
    head = _PUT.pack(half.partition, half.stored_ms, *half.plan, len(group)) + group + half.message_id.encode()
    return Record(0, half.stored_ms, _KEY.pack(b"h", half.number), batch, [(PUT, head)])


def check_change(half: Half) -> Change:
    return _KEY.pack(b"c", half.number), _CHECKS.pack(half.checks, half.parked)


def end_records(half: Half, end: HalfEnd, now_ms: int) -> list[Record]:
    """The tombstones of one that ends."""
    head = _END.pack(end, now_ms) + half.message_id.encode()
    found = [Record(0, now_ms, _KEY.pack(b"h", half.number), None, [(END, head)])]
    if half.checks or half.parked:
        found.append(Record(0, now_ms, _KEY.pack(b"c", half.number), None, []))
    return found


def parse(record: Record) -> Half | Checked | Ended | Gone | None:
    """What a record says; None for one that says nothing known."""
    if record.key is None or len(record.key) != _KEY.size:
        return None
    kind, number = _KEY.unpack(record.key)
    name, head = record.headers[0] if record.headers else ("", None)
    if kind == b"c":
        return Gone(number) if record.value is None else Checked(number, *_CHECKS.unpack(record.value))
    if kind == b"h" and name == PUT and head is not None:
        partition, stored_ms, first_ms, interval_ms, checks_max, size = _PUT.unpack_from(head)
        group, message_id = head[_PUT.size : _PUT.size + size], head[_PUT.size + size :]
        plan = CheckPlan(first_ms, interval_ms, checks_max)
        return Half(number, message_id.decode(), group.decode(), partition, stored_ms, plan, record.offset)
    if kind == b"h" and name == END and head is not None:
        end, ended_ms = _END.unpack_from(head)
        return Ended(number, HalfEnd(end), ended_ms, head[_END.size :].decode())
    return None
