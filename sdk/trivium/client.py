"""The client: everything that is asked of the broker, and who takes what the broker says.

Written once for trio and asyncio, with anyio: the two differ in streams, tasks and cancellation, and anyio gives both
trio's rules, of which the SDK needs one most: what is cancelled has ended when its scope is left.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.abc

from trivium.asking import check_names
from trivium.connection import Incoming
from trivium.frames.connection import AskStatus, Status
from trivium.frames.halves import DO_NOT_KNOW, CheckBack, CheckBackReply, EndHalf, ResumeHalf
from trivium.frames.offsets import LATEST
from trivium.frames.queues import ORDER_KEY, ORDER_NONE, ORDER_PARTITION, Deliver, QueueSettings, Subscribe
from trivium.frames.resets import GroupReset
from trivium.frames.scheduled import Cancel
from trivium.frames.traces import BY_ID, BY_KEY, BY_PLACE, BY_TIME, FindTraces, TraceEntry
from trivium.group_offsets import GroupOffsets
from trivium.queue_admin import QueueAdmin
from trivium.reconnecting import SOFTWARE, Reconnecting
from trivium.record_batch import Codec
from trivium.scheduled import Cancellation, ScheduledMessage, list_scheduled
from trivium.stacks import stacks
from trivium.tasks import task_group
from trivium.topics import Topics

if TYPE_CHECKING:
    from trivium.consumer import Consumer
    from trivium.half_messages import Check, HalfProducer, WaitingHalf
    from trivium.producer import Producer
    from trivium.requests import Requester
    from trivium.subscriber import Subscriber
    from trivium.transactions import TransactionalSender

ALWAYS_MS = 2**62


def selector_text(filter: str | None, tags: str | None) -> str:
    """A filter as frames carry it. Raises ValueError for two."""
    if filter is not None and tags is not None:
        raise ValueError("give a filter or tags, not both: TAGS is a property of filters")
    return f"sql:{filter}" if filter is not None else f"tags:{tags}" if tags is not None else ""


class Client(Reconnecting, Topics, GroupOffsets, QueueAdmin):
    """Made by `connect`. Safe to share between tasks of one event loop."""

    def __init__(self, addresses: str, tasks: anyio.abc.TaskGroup, client_id: str, request_timeout_s: float) -> None:
        incoming = Incoming(
            {AskStatus: self._status, CheckBack: self._check_back},
            {GroupReset: self._group_reset, Deliver: self._to_stream, QueueSettings: self._to_stream},
        )
        Reconnecting.__init__(self, addresses, tasks, client_id, request_timeout_s, incoming)
        Topics.__init__(self)
        GroupOffsets.__init__(self)
        self._last_stream = 0
        self._streams: dict[int, Callable[[Deliver | QueueSettings, memoryview], None]] = {}
        self.half_producers: dict[str, Callable[[CheckBack, memoryview], Awaitable[CheckBackReply]]] = {}
        self.status: dict[str, Callable[[], Any]] = {}  # what else this client's status shows, for JSON

    # -- what the broker says

    async def _status(self, _: AskStatus, __: memoryview) -> Status:
        settings = {"client_id": self._client_id, "software": SOFTWARE, "request_timeout_s": self.request_timeout_s}
        known = {name: show() for name, show in self.status.items()}
        return Status(json.dumps({"settings": settings, **known, "stacks": stacks()}, default=str))

    @contextmanager
    def taking(self, stream: int, taker: Callable[[Deliver | QueueSettings, memoryview], None]) -> Iterator[None]:
        """Calls `taker` with what the broker says to a stream, while the block is not left."""
        self._streams[stream] = taker
        try:
            yield
        finally:
            del self._streams[stream]

    def _to_stream(self, message: Deliver | QueueSettings, payload: memoryview) -> None:
        taker = self._streams.get(message.stream)
        if taker is not None:
            taker(message, payload)

    async def _check_back(self, request: CheckBack, payload: memoryview) -> CheckBackReply:
        answer = self.half_producers.get(request.group)
        return CheckBackReply(DO_NOT_KNOW) if answer is None else await answer(request, payload)

    # -- who sends and who reads

    def producer(
        self, *, codec: Codec = Codec.NONE, linger_ms: int = 0, buffer_bytes_max: int = 32 * 1024 * 1024
    ) -> AbstractAsyncContextManager[Producer]:
        """A producer; see `trivium.producer`."""
        from trivium.producer import producer

        return producer(self, codec=codec, linger_ms=linger_ms, buffer_bytes_max=buffer_bytes_max)

    def consumer(
        self,
        *topics: str,
        group: str | None = None,
        start: int = LATEST,
        committed: bool = True,
        filter: str | None = None,
        tags: str | None = None,
        key: str | None = None,
        partitions: Sequence[int] | None = None,
    ) -> AbstractAsyncContextManager[Consumer]:
        """A consumer of all partitions of some topics; see `trivium.consumer`."""
        from trivium.consumer import consumer

        return consumer(
            self,
            topics,
            group=group,
            start=start,
            committed=committed,
            filter=filter,
            tags=tags,
            key=key,
            partitions=partitions,
        )

    def requester(self, replies_topic: str = "replies") -> AbstractAsyncContextManager[Requester]:
        """Asks others over the broker; see `trivium.requests`."""
        from trivium.requests import requester

        return requester(self, replies_topic)

    def subscribe(
        self,
        *topics: str,
        group: str,
        key_pattern: str = "",
        filter: str | None = None,
        tags: str | None = None,
        order: Literal["none", "key", "partition"] = "none",
        broadcast: bool = False,
        start: int = LATEST,
        credit_messages: int = 1_000,
        credit_bytes: int = 16 * 1024 * 1024,
    ) -> AbstractAsyncContextManager[Subscriber]:
        """A consumer of a queue group, whose members share the messages and settle each; see `trivium.subscriber`.

        `key_pattern` (`line/+/temp`, `line/#`), and `filter` (SQL-92 over the headers) or `tags`, say which messages
        are wanted. `order`: one message of a key, or of a partition, at a time. `broadcast`: nothing is settled; give
        each instance a group of its own. `start`: EARLIEST, LATEST or a time in ms, where the group is new to a topic.
        Entering the block raises RequestRefused: CONTRADICTS_GROUP when the group reads something else, UNKNOWN_TOPIC,
        INVALID_FILTER.
        """
        from trivium.subscriber import subscriber

        check_names(topics, "topics")
        orders = {"none": ORDER_NONE, "key": ORDER_KEY, "partition": ORDER_PARTITION}
        if order not in orders:
            raise ValueError(f"order={order!r}: give one of {', '.join(orders)}")
        if credit_messages < 0 or credit_bytes < 1:
            raise ValueError("credit_messages is at least 0 (nothing is pushed then), credit_bytes at least 1")
        self._last_stream += 1
        request = Subscribe(
            self._last_stream,
            group,
            f"{self._client_id or 'client'}-{uuid.uuid4()}",
            list(topics),
            key_pattern,
            selector_text(filter, tags),
            orders[order],
            int(broadcast),
            start,
            [],
        )
        return subscriber(self, request, credit_messages, credit_bytes)

    def half_producer(self, group: str, check: Check) -> AbstractAsyncContextManager[HalfProducer]:
        """A producer of half messages; see `trivium.half_messages`."""
        from trivium.half_messages import half_producer

        return half_producer(self, group, check)

    def transactional(
        self, transactional_id: str, *, timeout_ms: int = 60_000, codec: Codec = Codec.NONE
    ) -> AbstractAsyncContextManager[TransactionalSender]:
        """A sender of transactions; see `trivium.transactions`."""
        from trivium.transactions import transactional

        return transactional(self, transactional_id, timeout_ms=timeout_ms, codec=codec)

    # -- messages that wait

    async def cancel(self, message_id: str) -> Cancellation:
        """Cancels a scheduled message: CANCELLED (now or before), DELIVERED, or UNKNOWN. Durable on return."""
        reply, _ = await self.request(Cancel(message_id))
        return Cancellation(reply.state)

    def scheduled(self) -> AsyncIterator[ScheduledMessage]:
        """All messages that wait for their time, soonest first."""
        return list_scheduled(self)

    def halves(self, group: str | None = None, *, parked: bool = False) -> AsyncIterator[WaitingHalf]:
        """Half messages without their end, oldest first: of one group, only parked ones."""
        from trivium.half_messages import list_halves

        return list_halves(self, group, parked=parked)

    async def end_half(self, message_id: str, *, commit: bool) -> None:
        """Commits or rolls back a half message, whoever sent it. Raises RequestRefused as `Half.commit`."""
        await self.request(EndHalf(message_id, int(commit)))

    async def resume_half(self, message_id: str) -> None:
        """Has a parked half message checked again. Raises RequestRefused (UNKNOWN_MESSAGE)."""
        await self.request(ResumeHalf(message_id))

    # -- what happened to messages

    async def traces(
        self,
        *,
        message_id: str = "",
        topic: str = "",
        key: bytes | None = None,
        partition: int | None = None,
        offset: int | None = None,
        since_ms: int = 0,
        until_ms: int = ALWAYS_MS,
    ) -> AsyncIterator[TraceEntry]:
        """What happened to messages of traced topics (topic config `trace`), oldest first: of one message by its id, or
        its place (topic, partition and offset), of a topic's messages with a key, of a topic, or of all. Times are ms
        since the epoch.

        Raises RequestRefused: UNKNOWN_MESSAGE for an id of which there is no trace, UNKNOWN_TOPIC for a key where there
        is no topic to look it up in. Traces outlive their topic, so else a name that is no topic's is no error.
        """
        if key is not None and not isinstance(key, bytes):
            raise TypeError(f"keys are bytes, not {key!r}")
        if (partition is None) != (offset is None) or (not topic and (key is not None or offset is not None)):
            raise ValueError("a place is a topic, a partition and an offset; a key is looked up in a topic")
        by = BY_ID if message_id else BY_KEY if key is not None else BY_PLACE if offset is not None else BY_TIME
        while True:
            asked = FindTraces(by, topic, message_id, key or b"", partition or 0, offset or 0, since_ms, until_ms)
            reply, _ = await self.request(asked)
            for entry in reply.entries:
                if reply.next_ms < 0 or entry.time_ms < reply.next_ms:
                    yield entry
            if reply.next_ms < 0:
                return
            since_ms = max(reply.next_ms, since_ms + 1)


@asynccontextmanager
async def connect(addresses: str, *, client_id: str = "", request_timeout_s: float = 30.0) -> AsyncIterator[Client]:
    """A client for `host:port[,host:port...]`, closed when the block is left. Connects on first use."""
    async with task_group() as tasks:
        client = Client(addresses, tasks, client_id, request_timeout_s)
        tasks.start_soon(client.keep_partitions)
        try:
            yield client
        finally:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            tasks.cancel_scope.cancel()
