"""The producer: what waits is joined into one request, without lingering for more unless asked to.

Rules:
- One request of a producer is on its way at a time; what is sent meanwhile waits, and goes together with the next. So
  order is kept whatever is lost, and a busy producer sends large batches by itself.
- Batches carry a producer id and sequence. A request whose answer was lost is sent again, byte for byte, and the broker
  stores it once. After a refusal the sequence no longer fits, so a new id is taken.
- At most `buffer_bytes_max` wait: `send` waits for room. `send` returns when the record is durable.
- Cancelling a `send` drops a record that still waits; one on its way is stored or not, as with any lost answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

from trivium.client import Client
from trivium.errors import Closed, ErrorCode, RequestRefused, TriviumError
from trivium.frames.sending import NewProducer, NewProducerReply, Send, SendEntry
from trivium.headers import EXPIRY_S
from trivium.partitioner import partition_of
from trivium.record_batch import Codec
from trivium.records import Record, build
from trivium.tasks import task_group

BATCH_BYTES_MAX = 512 * 1024  # of keys, values and headers in one batch: below the broker's limit of 1 MiB
REQUEST_BYTES_MAX = 8 * 1024 * 1024
RECORD_OVERHEAD_BYTES = 32
_SEQUENCE_MASK = 0x7FFFFFFF

Headers = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]]


def pairs_of(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers as a new list."""
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


class Sent(NamedTuple):
    """Where a record is. `offset` is -1 when it had been stored before at a place no longer known."""

    topic: str
    partition: int
    offset: int


class _Waiting:
    """A record on its way. `error` or `sent` is there when `done` is set."""

    __slots__ = ("done", "dropped", "error", "record", "sent", "size")

    def __init__(self, record: Record, size: int) -> None:
        self.record = record
        self.size = size
        self.done = anyio.Event()
        self.sent: Sent | None = None
        self.error: Exception | None = None
        self.dropped = False


_Key = tuple[str, int]


class Producer:
    """Made by `producer`. Safe to share between tasks of one event loop."""

    def __init__(self, client: Client, codec: Codec, linger_ms: int, buffer_bytes_max: int) -> None:
        self._client = client
        self._codec = codec
        self._linger_s = linger_ms / 1000
        self._buffer_bytes_max = buffer_bytes_max
        self._waiting: dict[_Key, list[_Waiting]] = {}
        self._waiting_bytes = 0
        self._news = anyio.Event()
        self._room = anyio.Event()
        self._closing = False
        self._round = 0  # of partitions for records without a key: one at a time, so that they share a batch
        self._producer: NewProducerReply | None = None
        self._sequences: dict[_Key, int] = {}

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
        ttl_s: int | None = None,
    ) -> Sent:
        """Stores one record; durable on return. Records with one key go to one partition, in the order of the calls.
        `ttl_s` seconds after its timestamp nobody gets it any more (Kafka's clients do).

        Raises RequestRefused, RequestTimedOut (the record may be stored), Closed.
        """
        where = await self._place(topic, key, partition)
        if not all(one is None or isinstance(one, bytes) for one in (key, value)):
            raise TypeError("keys and values are bytes or None")
        pairs = pairs_of(headers)
        if ttl_s is not None:
            pairs.append((EXPIRY_S, b"%d" % ttl_s))
        size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
        size += sum(len(name) + len(one or b"") + 8 for name, one in pairs)
        now_ms = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        while self._waiting_bytes and self._waiting_bytes + size > self._buffer_bytes_max and not self._closing:
            self._room = anyio.Event() if self._room.is_set() else self._room
            await self._room.wait()
        if self._closing:
            raise Closed("the producer is closed")
        waiting = _Waiting(Record(0, now_ms, key, value, pairs), size)
        self._waiting.setdefault((topic, where), []).append(waiting)
        self._waiting_bytes += size
        self._news.set()
        try:
            await waiting.done.wait()
        finally:
            waiting.dropped = True
        if waiting.error is not None:
            raise waiting.error
        assert waiting.sent is not None
        return waiting.sent

    async def _place(self, topic: str, key: bytes | None, partition: int | None) -> int:
        count = await self._client.partitions(topic, create=True)
        if partition is not None:
            if not 0 <= partition < count:
                raise ValueError(f"topic {topic!r} has partitions 0 to {count - 1}, not {partition}")
            return partition
        return self._round % count if key is None else partition_of(key, count)

    async def run(self) -> None:
        """Sends what waits until the producer is closed and nothing waits any more."""
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._news = anyio.Event()
                await self._news.wait()
                continue
            if self._linger_s and not self._closing:
                await anyio.sleep(self._linger_s)
            taken = self._take()
            if taken:
                await self._deliver(taken)

    def _take(self) -> dict[_Key, list[_Waiting]]:
        """At most one batch for each partition, and REQUEST_BYTES_MAX together."""
        taken: dict[_Key, list[_Waiting]] = {}
        request_bytes = 0
        for where in list(self._waiting):
            queue = self._waiting.pop(where)
            batch: list[_Waiting] = []
            batch_bytes = count = 0
            for one in queue:
                if (batch and batch_bytes + one.size > BATCH_BYTES_MAX) or request_bytes > REQUEST_BYTES_MAX:
                    break
                count += 1
                self._waiting_bytes -= one.size
                if not one.dropped:
                    batch.append(one)
                    batch_bytes += one.size
                    request_bytes += one.size
            if count < len(queue):
                self._waiting[where] = queue[count:]
            if batch:
                taken[where] = batch
        self._round += 1
        self._room.set()
        return taken

    async def _deliver(self, taken: dict[_Key, list[_Waiting]]) -> None:
        try:
            if self._producer is None:
                self._producer, _ = await self._client.request(NewProducer())
            batches = [self._build(where, batch) for where, batch in taken.items()]
            entries = [SendEntry(*where, len(one)) for where, one in zip(taken, batches, strict=True)]
            reply, _ = await self._client.request(Send(0, entries), batches)
        except (TriviumError, ValueError, TypeError) as error:
            self._start_anew()
            for batch in taken.values():
                _fail(batch, error)
            return
        except BaseException:
            for batch in taken.values():
                _fail(batch, Closed("the producer was cancelled: the record may be stored"))
            raise
        refused = False
        for (where, batch), result in zip(taken.items(), reply.entries, strict=True):
            if result.status:
                refused = True
                self._refused(where, batch, result.status)
                continue
            self._sequences[where] = (self._sequences.get(where, 0) + len(batch)) & _SEQUENCE_MASK
            for at, one in enumerate(batch):
                one.sent = Sent(*where, result.base_offset + at if result.base_offset >= 0 else -1)
                one.done.set()
        if refused:
            self._start_anew()

    def _build(self, where: _Key, batch: list[_Waiting]) -> bytes:
        assert self._producer is not None
        return build(
            [one.record for one in batch],
            codec=self._codec,
            producer_id=self._producer.producer_id,
            producer_epoch=self._producer.producer_epoch,
            base_sequence=self._sequences.get(where, 0),
        )

    def _refused(self, where: _Key, batch: list[_Waiting], status: int) -> None:
        if status in (ErrorCode.UNKNOWN_TOPIC, ErrorCode.UNKNOWN_PARTITION):
            self._client.forget(where[0])
        _fail(batch, RequestRefused(status, f"topic {where[0]!r}, partition {where[1]}"))

    def _start_anew(self) -> None:
        self._producer = None
        self._sequences.clear()

    def close(self) -> None:
        """Takes no more; `run` ends when what waits is sent."""
        self._closing = True
        self._news.set()
        self._room.set()

    def abandon(self) -> None:
        """Fails whatever still waits."""
        self.close()
        for batch in self._waiting.values():
            _fail(batch, Closed("the producer is closed"))
        self._waiting.clear()


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        one.error = error
        one.done.set()


@asynccontextmanager
async def producer(
    client: Client, *, codec: Codec = Codec.NONE, linger_ms: int = 0, buffer_bytes_max: int = 32 * 1024 * 1024
) -> AsyncIterator[Producer]:
    """A producer; leaving the block sends what still waits (unless the block was cancelled)."""
    made = Producer(client, codec, linger_ms, buffer_bytes_max)
    raised: Exception | None = None
    async with task_group() as tasks:
        tasks.start_soon(made.run)
        try:
            yield made
            made.close()
        except BaseException as error:
            made.abandon()
            tasks.cancel_scope.cancel()
            if not isinstance(error, Exception):
                raise
            raised = error  # raised as it is below: a task group would put it into an ExceptionGroup
    if raised is not None:
        raise raised
