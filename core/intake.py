"""What records ask of the broker when they come in, whichever road they take: to be delivered later (`deliver-at`), to
be stored once (`once-id`), and a topic that takes this kind of message.

Kinds (`message.type` of the topic; RocketMQ's, which likewise refuses what does not fit):

| type        | takes                                                                                       |
|-------------|---------------------------------------------------------------------------------------------|
| any         | everything (the default: topics that were made by using them)                               |
| mixed       | everything, and looks into every batch, also a compressed one                               |
| normal      | records without a time of delivery                                                          |
| fifo        | records with a key and without a time of delivery                                           |
| delay       | records with a time of delivery                                                             |
| transaction | records of transactions: half messages, and batches of a transactional producer             |

What looking costs, and so who is looked into:
* `delay`, `mixed`, `fifo` and topics with a `once.window.ms` open every batch.
* `any`: a batch that is not compressed is searched for the header's name (MENTION: 0.2 us in 200 bytes, 1.6 us in
  16 KiB, 36 us in 1 MiB) and opened when it is there. A compressed one is not opened: that would cost 0.4 ms (lz4),
  0.8 (snappy), 0.9 (zstd) or 2.5 (gzip) for each MiB of JSON, on topics of which most never see a delay. Senders who
  compress set the type.
* `normal`, `transaction`: nothing. On `normal` a header `deliver-at` of a Kafka client is a header like any other.

A record that is taken out of its batch (it waits for its time, or was stored before) leaves a hole: the batch keeps
offsets and sequence, as after compaction, so idempotent producers notice nothing and the record's offset names no
other. Inside a transaction neither header is taken: whether the record exists is not known before the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import re2

from core.errors import CoreError, CoreFailure
from core.message_ids import Header, id_of
from core.once import ID_BYTES_MAX, Claim, Made, Once
from core.schedules import Schedules, Wanted
from core.store.engine import Append, Buffer, Outcome
from core.topic_config import TopicSettings
from core.topics import Topic
from trivium.headers import DELIVER_AT, ONCE_ID, TIME_MS_MAX
from trivium.rebuild import rebuild
from trivium.record_batch import BatchHeader, Codec, parse_header
from trivium.records import Record

# The header's name as it stands in a record: with its length before it, a zigzag varint.
MENTION: Final = bytes([2 * len(DELIVER_AT)]) + DELIVER_AT.encode()
_SEARCH_SMALL = re.compile(re.escape(MENTION)).search
_SEARCH_LARGE = re2.compile(re2.escape(MENTION)).search
_SMALL_BYTES_MAX: Final = 4 * 1024  # `re` needs 0.15 us and 0.8 us a KiB, `re2` 2 us and 0.03 us a KiB
_CODEC_AT: Final = 22  # the low byte of a batch's attributes
_ATTRIBUTES_CODEC: Final = 7

_OPENED: Final = frozenset(("fifo", "delay", "mixed"))


class Duplicate(NamedTuple):
    """A record that was stored before: where it stands in the batch, its own id, and the first message's claim."""

    at: int
    message_id: str
    claim: Claim


@dataclass(slots=True)
class Sorted:
    """One batch as it is to be stored: `entries[0]` is its own, the others go with it in the same append, whose outcome
    `Intake.settle` must be told. `scheduled` are the indexes of records that wait for their time.
    """

    entries: list[Append]
    scheduled: list[int] = field(default_factory=list)
    scheduled_headers: list[Sequence[Header]] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    @property
    def waits(self) -> list[tuple[int, Sequence[Header]]]:
        """Indexes and headers of the records that wait for their time."""
        return list(zip(self.scheduled, self.scheduled_headers, strict=True))


def must_open(settings: TopicSettings) -> bool:
    """Whether every batch of the topic is looked into."""
    return settings.message_type in _OPENED or settings.once_window_ms > 0


def mentions_time(settings: TopicSettings, batch: memoryview | None) -> bool:
    """Whether a batch of an `any` topic may hold a record with a time of delivery."""
    if settings.message_type != "any" or batch is None or len(batch) <= _CODEC_AT:
        return False
    if batch[_CODEC_AT] & _ATTRIBUTES_CODEC != Codec.NONE:
        return False
    search = _SEARCH_SMALL if len(batch) < _SMALL_BYTES_MAX else _SEARCH_LARGE
    return search(batch) is not None


def check_transactional(settings: TopicSettings, transactional: bool) -> None:
    """Raises CoreFailure(WRONG_MESSAGE_TYPE) for a batch outside a transaction on a topic of type transaction."""
    if settings.message_type == "transaction" and not transactional:
        raise CoreFailure(CoreError.WRONG_MESSAGE_TYPE, "the topic takes messages of transactions only")


def deliver_at(settings: TopicSettings, key: bytes | None, headers: Sequence[Header]) -> int | None:
    """When the record is to be delivered (ms since 1970), None for now.

    Raises CoreFailure: WRONG_MESSAGE_TYPE when the topic does not take such a record, INVALID_MESSAGE when the header
    is no time. On `any` topics a header that is no time is a header like any other.
    """
    kind = settings.message_type
    text = _text(headers)
    if kind == "fifo" and key is None:
        raise CoreFailure(
            CoreError.WRONG_MESSAGE_TYPE, "the topic is fifo: records need a key, by which they are ordered"
        )
    if text is None:
        if kind == "delay":
            raise CoreFailure(CoreError.WRONG_MESSAGE_TYPE, f"the topic takes records with a header {DELIVER_AT} only")
        return None
    if kind in ("fifo", "normal", "transaction"):
        raise CoreFailure(CoreError.WRONG_MESSAGE_TYPE, f"a topic of type {kind} takes no records with {DELIVER_AT}")
    due_ms = _time(text)
    if due_ms is None and kind != "any":
        raise CoreFailure(
            CoreError.INVALID_MESSAGE, f"{DELIVER_AT} is {text[:40]!r}: give milliseconds since 1970, in decimal digits"
        )
    return due_ms


def _any_time(_: TopicSettings, __: bytes | None, headers: Sequence[Header]) -> int | None:
    return _time(_text(headers))


def _text(headers: Sequence[Header]) -> bytes | None:
    return next((value for name, value in headers if name == DELIVER_AT), None)


def _time(text: bytes | None) -> int | None:
    due_ms = int(text) if text is not None and text.isdigit() and len(text) <= 15 else TIME_MS_MAX
    return due_ms if due_ms < TIME_MS_MAX else None


class Intake:
    """Sorts what comes in."""

    def __init__(self, schedules: Schedules, once: Once) -> None:
        self._schedules = schedules
        self._once = once

    def sort(
        self,
        topic: Topic,
        partition: int,
        header: BatchHeader,
        batch: Buffer,
        records: Sequence[Record],
        now_ms: int,
        decoded_bytes_max: int,
        *,
        enforce: bool = True,
    ) -> Sorted:
        """A checked batch and its records as they are to be stored; append it in the same breath, then `settle` it.

        `now_ms` is wall clock. Without `enforce` the records have been taken before, whatever the topic takes now.

        Raises CoreFailure(WRONG_MESSAGE_TYPE, INVALID_MESSAGE); then nothing has happened.
        """
        times = [
            (deliver_at if enforce else _any_time)(topic.settings, record.key, record.headers) for record in records
        ]
        once_ids = [_once_id(record) for record in records] if topic.settings.once_window_ms else [None] * len(records)
        waits = [due_ms is not None and due_ms > now_ms for due_ms in times]
        if header.is_transactional and (any(waits) or any(once_ids)):
            raise CoreFailure(
                CoreError.WRONG_MESSAGE_TYPE, f"a record with {DELIVER_AT} or {ONCE_ID} cannot be part of a transaction"
            )
        found = Sorted([])
        wanted: list[Wanted] = []
        kept: list[Record] = []
        for index, (record, due_ms, once_id) in enumerate(zip(records, times, once_ids, strict=True)):
            if once_id is not None:
                message_id = id_of(record.headers) or ""
                claim, made = self._once.claim(topic, once_id, message_id, now_ms)
                if made is None:
                    found.duplicates.append(Duplicate(index, message_id, claim))
                    continue
                found.made.append(made)
            if waits[index]:
                wanted.append(Wanted(partition, due_ms or 0, record))
                found.scheduled.append(index)
                found.scheduled_headers.append(record.headers)
            else:
                kept.append(record)
        if len(kept) < len(records):
            batch = rebuild(batch, kept, decoded_bytes_max)
            header = parse_header(batch)
        found.entries.append(Append(partition, header, batch))
        if found.made:
            found.entries.append(self._once.entry(found.made))
        if wanted:
            found.entries.append(self._schedules.entry(wanted))
        return found

    def settle(self, found: Sorted, outcome: Outcome) -> list[Duplicate]:
        """The append has been answered, `outcome` for the batch's own entry. What was indeed stored before.

        Raises CoreFailure(CONTENDED) when the first of them has been refused after all: send again.
        """
        self._once.settle(found.made, outcome is Outcome.APPENDED)
        if any(one.claim.durable is False for one in found.duplicates):
            raise CoreFailure(CoreError.CONTENDED, f"the first message with this {ONCE_ID} was refused: send again")
        if outcome is Outcome.DUPLICATE:
            # The batch was sent again: what carries the first one's id is the first one.
            return [one for one in found.duplicates if one.message_id != one.claim.message_id]
        return found.duplicates


def _once_id(record: Record) -> bytes | None:
    once_id = next((value for name, value in record.headers if name == ONCE_ID), None)
    if once_id is not None and not 0 < len(once_id) <= ID_BYTES_MAX:
        raise CoreFailure(CoreError.INVALID_MESSAGE, f"{ONCE_ID} has {len(once_id)} bytes: give 1 to {ID_BYTES_MAX}")
    return once_id
