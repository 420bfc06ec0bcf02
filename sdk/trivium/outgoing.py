"""A record on its way out: made from what the application gives, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import anyio

from trivium.frames.sending import SCHEDULED, SendResult
from trivium.headers import DELIVER_AT, EXPIRY_S, MESSAGE_ID, ONCE_ID, TIME_MS_MAX, TRACE_PARENT
from trivium.partitioner import partition_of
from trivium.records import Record
from trivium.trace_context import passed_on

BATCH_BYTES_MAX = 512 * 1024  # of keys, values and headers in one batch: below the broker's limit of 1 MiB
RECORD_OVERHEAD_BYTES = 32
HEADER_OVERHEAD_BYTES = 8
TTL_S = range(1, 2**32)  # as MQTT's Message Expiry Interval
_new_tuple = tuple.__new__  # half the time of a NamedTuple's own
_ID_OVERHEAD_BYTES = HEADER_OVERHEAD_BYTES + len(MESSAGE_ID)

Place = tuple[str, int]  # topic, partition
Headers = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]]


def pairs_of(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers as a new list."""
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


class PlainOptions(TypedDict, total=False):
    """What any message may be given."""

    key: bytes | None
    headers: Headers
    timestamp_ms: int | None
    ttl_s: int | None


class PlaceOptions(PlainOptions, total=False):
    partition: int | None


class SendOptions(PlaceOptions, total=False):
    deliver_at_ms: int | None
    once_id: str | None


class HalfOptions(TypedDict, total=False):
    """What `HalfProducer.send` takes."""

    key: bytes | None
    headers: Headers
    partition: int | None
    ttl_s: int | None
    deliver_at_ms: int | None
    first_check_ms: int
    check_interval_ms: int
    checks_max: int


class Sent(NamedTuple):
    """Where a message is, and its id.

    `offset` is -1 when it has none: it waits for its time (`scheduled`), or it had been stored before at a place no
    longer known. `duplicate`: a message with this `once_id` had been stored before, and `message_id` is that one's.
    """

    topic: str
    partition: int
    offset: int
    message_id: str = ""
    scheduled: bool = False
    duplicate: bool = False


class Outgoing:
    """A message that was taken. `message_id` is known at once; `wait` gives the outcome.

    Dropping it is no harm: the message is sent all the same.
    """

    __slots__ = ("_done", "asks", "dropped", "error", "message_id", "partition", "record", "sent", "size", "topic")

    def __init__(
        self, topic: str, partition: int | None, record: Record, message_id: str, size: int, asks: bool
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.record = record
        self.message_id = message_id
        self.size = size
        self.asks = asks  # the broker must look into its batch
        self.dropped = False
        self.sent: Sent | None = None
        self.error: Exception | None = None
        self._done: anyio.Event | None = None

    def settle(self, sent: Sent | None, error: Exception | None = None) -> None:
        """The outcome is known."""
        self.sent = sent
        self.error = error
        if self._done is not None:
            self._done.set()

    def choose_partition(self, count: int, otherwise: int) -> int:
        """Of `count` the partition that was asked for, else the key's, else `otherwise` says which. Raises ValueError
        for one that the topic has not.
        """
        partition = self.partition
        if partition is not None:
            if not 0 <= partition < count:
                raise ValueError(f"topic {self.topic!r} has partitions 0 to {count - 1}, not {partition}")
            return partition
        key = self.record.key
        return otherwise % count if key is None else partition_of(key, count)

    async def wait(self) -> Sent:
        """The outcome; durable. Raises RequestRefused, RequestTimedOut (it may be stored), Closed."""
        if self.sent is None and self.error is None:
            if self._done is None:
                self._done = anyio.Event()
            await self._done.wait()
        if self.error is not None:
            raise self.error
        assert self.sent is not None
        return self.sent


def outgoing(
    topic: str,
    value: bytes | None,
    ids: Iterator[str],
    *,
    key: bytes | None = None,
    headers: Headers = (),
    partition: int | None = None,
    timestamp_ms: int | None = None,
    ttl_s: int | None = None,
    deliver_at_ms: int | None = None,
    once_id: str | None = None,
    message_id: str | None = None,
) -> Outgoing:
    """The message. Raises TypeError for keys, values and headers that are no bytes, ValueError for times that are none:
    here, where only the caller is concerned, and not when it is in a batch with others.
    """
    if not (value is None or isinstance(value, bytes)) or not (key is None or isinstance(key, bytes)):
        raise TypeError("keys and values are bytes or None")
    if message_id is None:
        message_id = next(ids)
    id_bytes = message_id.encode()
    pairs: list[tuple[str, bytes | None]] = [(MESSAGE_ID, id_bytes)]
    size = RECORD_OVERHEAD_BYTES + _ID_OVERHEAD_BYTES + len(id_bytes)
    if headers:
        pairs += pairs_of(headers)
    if (context := passed_on()) and all(name != TRACE_PARENT for name, _ in pairs):
        pairs += context
    if ttl_s is not None:
        if not isinstance(ttl_s, int) or ttl_s not in TTL_S:
            raise ValueError(f"ttl_s={ttl_s!r}: give whole seconds, 1 to {TTL_S[-1]}")
        pairs.append((EXPIRY_S, b"%d" % ttl_s))
    asks = False
    if deliver_at_ms is not None:
        _check_time("deliver_at_ms", deliver_at_ms, 0)
        pairs.append((DELIVER_AT, b"%d" % deliver_at_ms))
        asks = True
    if once_id is not None:
        pairs.append((ONCE_ID, once_id.encode()))
        asks = True
    if value:
        size += len(value)
    if key:
        size += len(key)
    for name, data in pairs[1:]:
        if not isinstance(name, str) or not (data is None or isinstance(data, bytes)):
            raise TypeError("headers are pairs of text and bytes or None")
        size += HEADER_OVERHEAD_BYTES + len(name.encode()) + (len(data) if data else 0)
    if timestamp_ms is None:
        timestamp_ms = time.time_ns() // 1_000_000
    else:
        _check_time("timestamp_ms", timestamp_ms, -1)  # none
    record = _new_tuple(Record, (0, timestamp_ms, key, value, pairs))
    return Outgoing(topic, partition, record, message_id, size, asks)


def _check_time(name: str, time_ms: int, least: int) -> None:
    if not isinstance(time_ms, int) or not least <= time_ms < TIME_MS_MAX:
        raise ValueError(f"{name}={time_ms!r}: give whole milliseconds since 1970, below {TIME_MS_MAX}")


def settle_batch(where: Place, batch: Sequence[Outgoing], result: SendResult) -> None:
    """A batch is durable."""
    topic, partition = where
    base_offset = result.base_offset
    if base_offset >= 0 and not result.notes:  # nearly always, and a third of the time of what follows
        for offset, one in enumerate(batch, base_offset):
            one.sent = _new_tuple(Sent, (topic, partition, offset, one.message_id, False, False))
            if one._done is not None:
                one._done.set()
        return
    notes = {note.at: note for note in result.notes}
    for at, one in enumerate(batch):
        note = notes.get(at)
        if note is None:
            offset = base_offset + at if base_offset >= 0 else -1
            one.settle(Sent(topic, partition, offset, one.message_id))
        elif note.what == SCHEDULED:
            one.settle(Sent(topic, partition, -1, one.message_id, scheduled=True))
        else:
            one.settle(Sent(topic, partition, -1, note.message_id, duplicate=True))


def fail_batch(batch: Sequence[Outgoing], error: Exception) -> None:
    for one in batch:
        one.settle(None, error)
