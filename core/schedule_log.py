"""The schedule as records of one internal compacted partition: what waits for its time, and how that ended.

A scheduled record stands under a number of its own (store epoch and a counter, so none is given twice); its value is
one byte (1: the value was null) and the value, its first header says when and where to, its other headers are the
record's own. The end of it is a tombstone under the same number, whose header says how: so compaction keeps what is
pending, and for a day (`delete.retention.ms`) how the rest ended.
"""

from __future__ import annotations

import enum
import marshal
import struct
from typing import Final, NamedTuple

from core.message_ids import id_of
from trivium.records import Record

PUT: Final = "trivium.scheduled"
END: Final = "trivium.ended"
_NUMBER = struct.Struct(">Q")
_PUT = struct.Struct(">qqqB")  # due, engine partition, the record's timestamp, whether it has a key
_END = struct.Struct(">qqB")  # due, when it ended, how
COUNTER_BITS: Final = 40


class End(enum.IntEnum):
    """How a scheduled message ended. DROPPED: its topic was no longer there when it was due."""

    DELIVERED = 1
    CANCELLED = 2
    DROPPED = 3


class BadRow(Exception):
    """A row of the table that cannot be read. The log has the record."""


class Scheduled(NamedTuple):
    """A record that waits. `partition` is the engine's number of where it goes; `body` is for `record_of`."""

    due_ms: int
    number: int
    message_id: str
    partition: int
    body: bytes


class Ended(NamedTuple):
    """A record that waits no longer."""

    due_ms: int
    number: int
    message_id: str
    end: End
    ended_ms: int


def first_number(epoch: int) -> int:
    """The first number of a store epoch."""
    return epoch << COUNTER_BITS


def put_record(number: int, due_ms: int, partition: int, record: Record) -> Record:
    """The schedule's record for `record`, whose headers carry its id."""
    key = b"" if record.key is None else record.key
    head = _PUT.pack(due_ms, partition, record.timestamp, record.key is not None) + key
    value = b"\1" if record.value is None else b"\0" + record.value
    return Record(0, record.timestamp, _NUMBER.pack(number), value, [(PUT, head), *record.headers])


def end_record(row: Scheduled, end: End, now_ms: int) -> Record:
    """The tombstone that says how it ended."""
    head = _END.pack(row.due_ms, now_ms, end) + row.message_id.encode()
    return Record(0, now_ms, _NUMBER.pack(row.number), None, [(END, head)])


def parse(record: Record) -> Scheduled | Ended | None:
    """What a record of the schedule says; None for one that says nothing known."""
    if record.key is None or len(record.key) != _NUMBER.size or not record.headers:
        return None
    (number,) = _NUMBER.unpack(record.key)
    name, head = record.headers[0]
    if head is None:
        return None
    if name == PUT and record.value:
        due_ms, partition, timestamp, has_key = _PUT.unpack_from(head)
        key = head[_PUT.size :] if has_key else None
        value = None if record.value[0] else record.value[1:]
        headers = record.headers[1:]
        body = marshal.dumps((timestamp, key, value, headers))
        return Scheduled(due_ms, number, id_of(headers) or "", partition, body)
    if name == END:
        due_ms, ended_ms, end = _END.unpack_from(head)
        return Ended(due_ms, number, head[_END.size :].decode(), End(end), ended_ms)
    return None


def record_of(row: Scheduled) -> Record:
    """The record as it was sent, with its id. Raises BadRow for a body that the disk has damaged."""
    try:
        timestamp, key, value, headers = marshal.loads(row.body)
    except (ValueError, EOFError, TypeError) as error:
        raise BadRow(f"scheduled message {row.message_id!r}: {error}") from None
    return Record(0, timestamp, key, value, headers)
