"""Request and reply over the broker: a request says where its answer is to go, whoever takes it answers there.

Rules:
- A request is a record with the headers `trivium.response-topic` (an MQTT name: topic, slash, key) and
  `trivium.correlation-data`; a reply is a record there with the same correlation data. To a device these are MQTT 5's
  Response Topic and Correlation Data, and what it publishes there is a reply: either side may be a device.
- A requester has a key of its own in the topic of replies, and reads that key's partition for it alone. The topic is
  made when it is missing, with a retention of REPLIES_KEPT_MS.
- A request expires with its time-out (`trivium.expiry-s`): who comes later to it does not see it. A reply that comes
  after the time-out is dropped. At most REQUESTS_MAX of one requester wait; `request` waits for room.
- Nothing is sent again: after a time-out it is open whether the request was handled.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from trivium.client import Client
from trivium.consumer import Consumer, Message, consumer
from trivium.errors import ErrorCode, RequestRefused, RequestTimedOut
from trivium.frames.offsets import LATEST
from trivium.headers import CORRELATION_DATA, EXPIRY_S, RESPONSE_TOPIC
from trivium.outgoing import TTL_S, Headers, Sent, pairs_of
from trivium.partitioner import partition_of
from trivium.producer import Producer, producer
from trivium.tasks import task_group
from trivium.trace_context import Traced

REPLIES_TOPIC = "replies"
REPLIES_KEPT_MS = 3_600_000
REQUESTS_MAX = 10_000
TIMEOUT_S_MAX = TTL_S[-1]  # a request has as long to live


class Requester:
    """Made by `requester`. Safe to share between tasks of one event loop."""

    def __init__(self, made: Producer, replies: Consumer, reply_to: str) -> None:
        self._producer = made
        self._replies = replies
        self._reply_to = reply_to.encode()
        self._waiting: dict[bytes, anyio.Event] = {}
        self._found: dict[bytes, Message] = {}
        self._room = anyio.Semaphore(REQUESTS_MAX)

    async def request(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timeout_s: float = 30.0,
    ) -> Message:
        """The first reply. Raises RequestTimedOut, and what `Producer.send` raises."""
        if not 0 < timeout_s <= TIMEOUT_S_MAX:
            raise ValueError(f"timeout_s={timeout_s}: give seconds, above 0 and at most {TIMEOUT_S_MAX}")
        correlation = secrets.token_bytes(12)
        asked = [
            *pairs_of(headers),
            (RESPONSE_TOPIC, self._reply_to),
            (CORRELATION_DATA, correlation),
            (EXPIRY_S, b"%d" % max(1, math.ceil(timeout_s))),
        ]
        try:
            with anyio.fail_after(timeout_s):
                async with self._room:
                    answered = self._waiting[correlation] = anyio.Event()
                    try:
                        await self._producer.send(topic, value, key=key, headers=asked)
                        await answered.wait()
                        return self._found[correlation]
                    finally:
                        del self._waiting[correlation]
                        self._found.pop(correlation, None)
        except TimeoutError:
            raise RequestTimedOut(f"no reply from topic {topic!r} in {timeout_s} s") from None

    async def run(self) -> None:
        """Takes replies until cancelled."""
        async for message in self._replies:
            correlation = header_of(message, CORRELATION_DATA) or b""
            answered = self._waiting.get(correlation)
            if answered is not None:
                self._found.setdefault(correlation, message)
                answered.set()


def header_of(message: Traced, name: str) -> bytes | None:
    """The last header of that name."""
    return next((value for one, value in reversed(message.headers) if one == name), None)


async def reply(made: Producer, message: Traced, value: bytes | None, *, headers: Headers = ()) -> Sent:
    """Answers a request; durable on return. Raises ValueError when the message asks for no reply."""
    topic, key, pairs = address_of_reply(message, headers)
    return await made.send(topic, value, key=key, headers=pairs)


def address_of_reply(message: Traced, headers: Headers) -> tuple[str, bytes | None, list[tuple[str, bytes | None]]]:
    """Topic, key and headers of the reply to a request. Raises ValueError."""
    where = header_of(message, RESPONSE_TOPIC)
    if where is None:
        raise ValueError("the message asks for no reply: it has no trivium.response-topic")
    topic, slash, key = where.decode().partition("/")
    correlation = header_of(message, CORRELATION_DATA)
    pairs = [*pairs_of(headers), *([] if correlation is None else [(CORRELATION_DATA, correlation)])]
    return topic, key.encode() if slash else None, pairs


@asynccontextmanager
async def requester(client: Client, replies_topic: str = REPLIES_TOPIC) -> AsyncIterator[Requester]:
    """A requester, with a producer and a reader of replies of its own."""
    try:
        count = await client.partitions(replies_topic)
    except RequestRefused as refused:
        if refused.code != ErrorCode.UNKNOWN_TOPIC:
            raise
        try:
            await client.create_topic(replies_topic, config={"retention.ms": str(REPLIES_KEPT_MS)})
        except RequestRefused as late:
            if late.code != ErrorCode.TOPIC_EXISTS:
                raise
        count = await client.partitions(replies_topic)
    key = secrets.token_hex(8)
    partitions = [partition_of(key.encode(), count)]
    async with (
        producer(client) as made,
        consumer(client, [replies_topic], start=LATEST, key=key, partitions=partitions) as replies,
        task_group() as tasks,
    ):
        found = Requester(made, replies, f"{replies_topic}/{key}")
        tasks.start_soon(found.run)
        try:
            yield found
        finally:
            tasks.cancel_scope.cancel()
