"""The producer: what waits is joined into one request, without lingering for more unless asked to.

Rules:
- One request of a producer is on its way at a time; what is sent meanwhile waits, and goes together with the next. So
  order is kept whatever is lost, and a busy producer sends large batches by itself. The task of the producer makes the
  requests; a `send` that finds it idle, and was alone last time too, makes its own, which saves two changes of task.
- Every message gets an id at once (`trivium.message_ids`), which stays with it wherever it goes.
- A request whose answer was lost is sent again, and the broker stores it once (`trivium.idempotent_sender`).
- At most `buffer_bytes_max` wait: `send` waits for room, `post` raises BufferFull. `send` returns when the message is
  durable.
- Cancelling a `send` drops a message that still waits; one on its way is stored or not, as with any lost answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Unpack

import anyio

from trivium.client import Client
from trivium.errors import BufferFull, Closed, ErrorCode, KeyChanged, RequestRefused, TriviumError
from trivium.frames.sending import ATOMIC, LOOK, NO_REPLY, Send, SendEntry, SendIf
from trivium.idempotent_sender import IdempotentSender
from trivium.message_ids import message_ids
from trivium.outgoing import (
    BATCH_BYTES_MAX,
    Headers,
    Outgoing,
    Place,
    PlaceOptions,
    Sent,
    fail_batch,
    outgoing,
    settle_batch,
)
from trivium.record_batch import Codec
from trivium.records import build
from trivium.tasks import task_group

REQUEST_BYTES_MAX = 8 * 1024 * 1024
FRAME_OVERHEAD_BYTES = 64 * 1024  # of a request beside its records


class NewMessage(NamedTuple):
    """One message of `send_all`."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    ttl_s: int | None = None
    deliver_at_ms: int | None = None
    once_id: str | None = None


class Producer:
    """Made by `producer`. Safe to share between tasks of one event loop."""

    def __init__(self, client: Client, codec: Codec, linger_ms: int, buffer_bytes_max: int) -> None:
        self._client = client
        self._codec = codec
        self._sender = IdempotentSender(client, codec)
        self._linger_s = linger_ms / 1000
        self._buffer_bytes_max = buffer_bytes_max
        self._ids = message_ids()
        self._unplaced: list[Outgoing] = []  # of topics whose partitions are not known yet
        self._placing = False  # they are being asked for
        self._waiting: dict[Place, list[Outgoing]] = {}
        self._waiting_bytes = 0
        self._news = anyio.Event()
        self._room = anyio.Event()
        self._closing = False
        self._delivering = False  # a request is on its way
        self._crowded = False  # the last one carried more than one message
        self._round = 0  # of partitions for records without a key: one at a time, so that they share a batch

    # -- sending

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
        deliver_at_ms: int | None = None,
        once_id: str | None = None,
    ) -> Sent:
        """Stores one message; durable on return. Messages with one key go to one partition, in the order of the calls.

        `ttl_s` seconds after its timestamp nobody gets it any more (Kafka's clients do).
        `deliver_at_ms` (ms since 1970): it is delivered then, and can be cancelled until then (`Client.cancel`).
        `once_id`: stored once in the topic's window, whoever sends it again; see `Sent.duplicate`.

        Raises RequestRefused, RequestTimedOut (the message may be stored), Closed.
        """
        one = outgoing(
            topic,
            value,
            self._ids,
            key=key,
            headers=headers,
            partition=partition,
            timestamp_ms=timestamp_ms,
            ttl_s=ttl_s,
            deliver_at_ms=deliver_at_ms,
            once_id=once_id,
        )
        if self._waiting_bytes and self._waiting_bytes + one.size > self._buffer_bytes_max:
            await self._wait_room(one.size)
        alone = not (self._delivering or self._crowded or self._waiting or self._linger_s)
        self._take_in(one)
        try:
            if alone and not self._unplaced:
                await self._deliver_next()
            else:
                self._news.set()
            return await one.wait()
        finally:
            one.dropped = True

    def post(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
        ttl_s: int | None = None,
        deliver_at_ms: int | None = None,
        once_id: str | None = None,
    ) -> Outgoing:
        """As `send`, without waiting: the result has the `message_id` at once, and its `wait` gives the outcome.

        Raises BufferFull when `buffer_bytes_max` wait already, Closed.
        """
        one = outgoing(  # spelled out, as in `send`: options as a dict cost a tenth of all this
            topic,
            value,
            self._ids,
            key=key,
            headers=headers,
            partition=partition,
            timestamp_ms=timestamp_ms,
            ttl_s=ttl_s,
            deliver_at_ms=deliver_at_ms,
            once_id=once_id,
        )
        if self._waiting_bytes and self._waiting_bytes + one.size > self._buffer_bytes_max:
            raise BufferFull(f"{self._waiting_bytes} bytes wait to be sent: send more slowly, or use send()")
        self._take_in(one)
        self._news.set()
        return one

    async def send_all(self, messages: Sequence[NewMessage]) -> list[Sent]:
        """Stores all of the messages or none, over topics and partitions, in one append; durable on return.

        Each partition's part must fit into one batch. Raises as `send`.
        """
        made = [outgoing(one.topic, one.value, self._ids, **_options(one)) for one in messages]
        parts: dict[Place, list[Outgoing]] = {}
        for one in made:
            parts.setdefault(await self._place(one), []).append(one)
        entries, batches = [], []
        for where, part in parts.items():
            batches.append(build([one.record for one in part], codec=self._codec))
            entries.append(SendEntry(*where, len(batches[-1])))
        if not entries:
            return []
        flags = ATOMIC | (LOOK if any(one.asks for one in made) else 0)
        # Without a producer id, so it is not asked twice: who loses the answer does not know whether it is stored.
        reply, _ = await self._client.request(Send(flags, "", entries), batches, retry=False)
        refused = [one for one in reply.entries if one.status and one.status != ErrorCode.NOT_APPENDED]
        if refused:
            raise RequestRefused(refused[0].status, refused[0].reason)
        for (where, part), result in zip(parts.items(), reply.entries, strict=True):
            settle_batch(where, part, result)
        return [await one.wait() for one in made]

    async def send_one_way(self, topic: str, value: bytes | None, **options: Unpack[PlaceOptions]) -> str:
        """Hands one message to the network and asks for no answer: it may be lost, and nobody is told. Its id."""
        one = outgoing(topic, value, self._ids, **options)
        topic, where = await self._place(one)
        batch = build([one.record], codec=self._codec)
        await self._client.say(Send(NO_REPLY, "", [SendEntry(topic, where, len(batch))]), [batch])
        return one.message_id

    async def send_if(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        last_offset: int,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        ttl_s: int | None = None,
    ) -> Sent:
        """Stores a message if the last one of its key stands at `last_offset` (-1: there is none); durable on return.

        Raises KeyChanged, which tells where it stands; RequestRefused (CONTENDED: try again); Disconnected, when it is
        not known whether it is stored: look at the key then.
        """
        one = outgoing(topic, value, self._ids, key=key, headers=headers, timestamp_ms=timestamp_ms, ttl_s=ttl_s)
        _, where = await self._place(one)
        batch = build([one.record], codec=self._codec)
        reply, _ = await self._client.request(SendIf(topic, where, last_offset), [batch], retry=False)
        if not reply.stored:
            raise KeyChanged(topic, where, key, reply.last_offset)
        return Sent(topic, where, reply.base_offset, one.message_id)

    # -- what waits

    async def _wait_room(self, size: int) -> None:
        while self._waiting_bytes and self._waiting_bytes + size > self._buffer_bytes_max and not self._closing:
            self._room = anyio.Event() if self._room.is_set() else self._room
            await self._room.wait()

    def _take_in(self, one: Outgoing) -> None:
        if self._closing:
            raise Closed("the producer is closed")
        count = self._client.known_partitions(one.topic)
        if count is None or self._placing or self._unplaced:  # none overtakes what waits for its topic
            self._unplaced.append(one)
        else:
            where = (one.topic, one.choose_partition(count, self._round))
            queue = self._waiting.get(where)
            if queue is None:
                self._waiting[where] = [one]
            else:
                queue.append(one)
        self._waiting_bytes += one.size

    async def _place(self, one: Outgoing) -> Place:
        count = await self._client.partitions(one.topic, create=True)
        return one.topic, one.choose_partition(count, self._round)

    async def _place_all(self) -> None:
        """Asks for the partitions of new topics, once for all the messages of each."""
        new: dict[str, list[Outgoing]] = {}
        for one in self._unplaced:
            new.setdefault(one.topic, []).append(one)
        self._unplaced = []
        self._placing = True
        try:
            while new:
                topic = next(iter(new))
                await self._place_some(topic, new[topic])
                del new[topic]
        finally:
            self._placing = False
            for messages in new.values():
                fail_batch(messages, Closed("the producer was cancelled"))

    async def _place_some(self, topic: str, messages: list[Outgoing]) -> None:
        try:
            count = await self._client.partitions(topic, create=True)
        except TriviumError as error:
            self._fail_unplaced(messages, error)
            return
        for one in messages:
            try:
                where = topic, one.choose_partition(count, self._round)
            except ValueError as error:
                self._fail_unplaced([one], error)
            else:
                self._waiting.setdefault(where, []).append(one)

    def _fail_unplaced(self, messages: list[Outgoing], error: Exception) -> None:
        self._waiting_bytes -= sum(one.size for one in messages)
        self._room.set()
        fail_batch(messages, error)

    async def run(self) -> None:
        """Sends what waits until the producer is closed and nothing waits any more."""
        while True:
            if self._unplaced:
                await self._place_all()
            if self._delivering or not self._waiting:
                if self._unplaced:
                    continue
                if self._closing and not self._delivering:
                    return
                self._news = anyio.Event()
                await self._news.wait()
                continue
            if self._linger_s and not self._closing:
                await anyio.sleep(self._linger_s)
            await self._deliver_next()

    async def _deliver_next(self) -> None:
        taken = self._take()
        if not taken:
            return
        self._crowded = sum(map(len, taken.values())) > 1
        self._delivering = True
        try:
            await self._sender.send(taken)
        finally:
            self._delivering = False
            if self._waiting or self._closing:
                self._news.set()  # where a sender did it, the task goes on

    def _take(self) -> dict[Place, list[Outgoing]]:
        """At most one batch for each partition, and together REQUEST_BYTES_MAX, or what the broker takes. Partitions
        for which there is no room come first next time.
        """
        taken: dict[Place, list[Outgoing]] = {}
        request_bytes = 0
        request_bytes_max = min(REQUEST_BYTES_MAX, self._client.frame_bytes_max - FRAME_OVERHEAD_BYTES)
        for where, queue in list(self._waiting.items()):
            batch: list[Outgoing] = []
            batch_bytes = count = 0
            for one in queue:
                if batch and batch_bytes + one.size > BATCH_BYTES_MAX:
                    break
                if request_bytes and request_bytes + one.size > request_bytes_max:
                    break
                count += 1
                self._waiting_bytes -= one.size
                if not one.dropped:
                    batch.append(one)
                    batch_bytes += one.size
                    request_bytes += one.size
            if count:
                del self._waiting[where]
                if count < len(queue):
                    self._waiting[where] = queue[count:]
            if batch:
                taken[where] = batch
        self._round += 1
        self._room.set()
        return taken

    def close(self) -> None:
        """Takes no more; `run` ends when what waits is sent."""
        self._closing = True
        self._news.set()
        self._room.set()

    def abandon(self) -> None:
        """Fails whatever still waits."""
        self.close()
        for batch in [self._unplaced, *self._waiting.values()]:
            fail_batch(batch, Closed("the producer is closed"))
        self._unplaced.clear()
        self._waiting.clear()


def _options(message: NewMessage) -> dict[str, Any]:
    options = message._asdict()
    del options["topic"], options["value"]
    return options


@asynccontextmanager
async def producer(
    client: Client, *, codec: Codec = Codec.NONE, linger_ms: int = 0, buffer_bytes_max: int = 32 * 1024 * 1024
) -> AsyncIterator[Producer]:
    """A producer; leaving the block sends what still waits (unless the block was cancelled)."""
    made = Producer(client, codec, linger_ms, buffer_bytes_max)
    async with task_group() as tasks:
        tasks.start_soon(made.run)
        try:
            yield made
            made.close()
        except BaseException:
            made.abandon()
            tasks.cancel_scope.cancel()
            raise
