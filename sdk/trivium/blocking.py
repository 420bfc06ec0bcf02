"""The same client for scripts without an event loop: every call waits, and a loop runs in a thread behind it.

The thread lives as long as the `connect` block. Calls may come from several threads; records sent at once from many of
them are joined like those of many tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from trivium import client as async_client
from trivium import consumer as async_consumer
from trivium import requests as async_requests
from trivium import subscriber as async_subscriber
from trivium.blocking_sending import HalfProducer, Producer, TransactionalSender, in_thread
from trivium.frames.offsets import LATEST
from trivium.frames.queue_admin import QueueInfo
from trivium.half_messages import HalfMessage, WaitingHalf
from trivium.handouts import Message as QueueMessage
from trivium.outgoing import Headers
from trivium.queue_admin import DeadLetter
from trivium.record_batch import Codec

FETCHED_MAX = 100  # messages taken to the caller's thread ahead


T = TypeVar("T")


class Consumer:
    """As `trivium.consumer.Consumer`, a plain iterator."""

    def __init__(self, portal: BlockingPortal, made: async_consumer.Consumer) -> None:
        self._portal = portal
        self._made = made

    def __iter__(self) -> Iterator[async_consumer.Message]:
        return self

    def __next__(self) -> async_consumer.Message:
        return self._portal.call(self._made.__anext__)

    def commit(self) -> None:
        self._portal.call(self._made.commit)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._portal.call(self._made.seek, topic, partition, offset)


class Requester:
    """As `trivium.requests.Requester`."""

    def __init__(self, portal: BlockingPortal, made: async_requests.Requester) -> None:
        self._portal = portal
        self._made = made

    def request(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timeout_s: float = 30.0,
    ) -> async_consumer.Message:
        """The first reply; raises RequestTimedOut."""
        ask = partial(self._made.request, topic, value, key=key, headers=headers, timeout_s=timeout_s)
        return self._portal.call(ask)


class Subscriber:
    """As `trivium.subscriber.Subscriber`, a plain iterator."""

    def __init__(self, portal: BlockingPortal, made: async_subscriber.Subscriber) -> None:
        self._portal = portal
        self._made = made
        self._here: deque[QueueMessage] = deque()

    def __iter__(self) -> Iterator[QueueMessage]:
        return self

    def __next__(self) -> QueueMessage:
        if not self._here:
            self._portal.call(self._fetch)
        if not self._here:
            raise StopIteration
        return self._here.popleft()

    async def _fetch(self) -> None:
        """One message, and those that are here already: a call between threads costs more than a message."""
        message = await self._made.take()
        while message is not None and len(self._here) < FETCHED_MAX:
            self._here.append(message)
            message = self._made.take_nowait()

    def ack(self, message: QueueMessage) -> None:
        self._portal.call(self._made.ack, message)

    def nack(self, message: QueueMessage, reason: str = "", *, delay_ms: int | None = None) -> None:
        self._portal.call(partial(self._made.nack, message, reason, delay_ms=delay_ms))

    def postpone(self, message: QueueMessage, delay_ms: int) -> None:
        self._portal.call(self._made.postpone, message, delay_ms)

    def reject(self, message: QueueMessage, reason: str) -> None:
        self._portal.call(self._made.reject, message, reason)

    def extend(self, message: QueueMessage, more_ms: int) -> None:
        self._portal.call(self._made.extend, message, more_ms)

    def stop(self) -> None:
        self._portal.call(self._made.stop)

    def run(self, handler: Callable[[QueueMessage], object], *, concurrency: int = 1) -> None:
        """Calls `handler` in threads, so many at a time, until `stop`."""

        limiter: CapacityLimiter | None = None

        async def handle(message: QueueMessage) -> None:
            await to_thread.run_sync(handler, message, limiter=limiter)

        async def run() -> None:
            nonlocal limiter
            limiter = CapacityLimiter(concurrency)
            await self._made.run(handle, concurrency=concurrency, signals=())

        self._portal.call(run)


class Client:
    """As `trivium.client.Client`."""

    def __init__(self, portal: BlockingPortal, made: async_client.Client) -> None:
        self._portal = portal
        self._made = made

    @contextmanager
    def producer(self, *, codec: Codec = Codec.NONE, linger_ms: int = 0) -> Iterator[Producer]:
        """A producer; leaving the block sends what still waits."""
        with self._portal.wrap_async_context_manager(self._made.producer(codec=codec, linger_ms=linger_ms)) as made:
            yield Producer(self._portal, made)

    @contextmanager
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
    ) -> Iterator[Consumer]:
        """A consumer of all partitions of some topics."""
        opened = self._made.consumer(
            *topics,
            group=group,
            start=start,
            committed=committed,
            filter=filter,
            tags=tags,
            key=key,
            partitions=partitions,
        )
        with self._portal.wrap_async_context_manager(opened) as made:
            yield Consumer(self._portal, made)

    @contextmanager
    def requester(self, replies_topic: str = async_requests.REPLIES_TOPIC) -> Iterator[Requester]:
        """Asks others over the broker."""
        with self._portal.wrap_async_context_manager(self._made.requester(replies_topic)) as made:
            yield Requester(self._portal, made)

    @contextmanager
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
    ) -> Iterator[Subscriber]:
        """A consumer of a queue group."""
        opened = self._made.subscribe(
            *topics,
            group=group,
            key_pattern=key_pattern,
            filter=filter,
            tags=tags,
            order=order,
            broadcast=broadcast,
            start=start,
            credit_messages=credit_messages,
            credit_bytes=credit_bytes,
        )
        with self._portal.wrap_async_context_manager(opened) as made:
            yield Subscriber(self._portal, made)

    def describe_queues(self, *groups: str) -> list[QueueInfo]:
        return self._portal.call(self._made.describe_queues, *groups)

    def configure_queue(
        self,
        group: str,
        *,
        invisible_ms: int = -1,
        attempts_max: int = -1,
        rejoin_ms: int = -1,
        backoff_ms: Sequence[int] = (),
    ) -> None:
        change = partial(
            self._made.configure_queue,
            group,
            invisible_ms=invisible_ms,
            attempts_max=attempts_max,
            rejoin_ms=rejoin_ms,
            backoff_ms=backoff_ms,
        )
        self._portal.call(change)

    def pause_queue(self, group: str) -> None:
        self._portal.call(self._made.pause_queue, group)

    def resume_queue(self, group: str) -> None:
        self._portal.call(self._made.resume_queue, group)

    def delete_queue(self, group: str) -> None:
        self._portal.call(self._made.delete_queue, group)

    def dead_letters(self, group: str, *, offset: int = 0, count: int = 100, wait_ms: int = 0) -> list[DeadLetter]:
        return self._portal.call(partial(self._made.dead_letters, group, offset=offset, count=count, wait_ms=wait_ms))

    def resend_dead_letters(self, group: str, offsets: Sequence[int]) -> None:
        self._portal.call(self._made.resend_dead_letters, group, offsets)

    @contextmanager
    def half_producer(self, group: str, check: Callable[[HalfMessage], int]) -> Iterator[HalfProducer]:
        """A producer of half messages; see `trivium.half_messages`. `check` is called in threads."""
        opened = self._made.half_producer(group, in_thread(check))
        with self._portal.wrap_async_context_manager(opened) as made:
            yield HalfProducer(self._portal, made)

    @contextmanager
    def transactional(self, transactional_id: str, *, timeout_ms: int = 60_000) -> Iterator[TransactionalSender]:
        """A sender of transactions; see `trivium.transactions`."""
        opened = self._made.transactional(transactional_id, timeout_ms=timeout_ms)
        with self._portal.wrap_async_context_manager(opened) as made:
            yield TransactionalSender(self._portal, made)

    def cancel(self, message_id: str) -> async_client.Cancellation:
        return self._portal.call(self._made.cancel, message_id)

    def scheduled(self) -> Iterator[async_client.ScheduledMessage]:
        return self._each(self._made.scheduled())

    def halves(self, group: str | None = None, *, parked: bool = False) -> Iterator[WaitingHalf]:
        return self._each(self._made.halves(group, parked=parked))

    def end_half(self, message_id: str, *, commit: bool) -> None:
        self._portal.call(partial(self._made.end_half, message_id, commit=commit))

    def resume_half(self, message_id: str) -> None:
        self._portal.call(self._made.resume_half, message_id)

    def _each(self, rows: AsyncIterator[T]) -> Iterator[T]:
        while True:
            try:
                yield self._portal.call(rows.__anext__)
            except StopAsyncIteration:
                return

    def topics(self) -> list[async_client.TopicDescription]:
        return self._portal.call(self._made.topics)

    def describe_topic(self, name: str) -> async_client.TopicDescription:
        return self._portal.call(self._made.describe_topic, name)

    def create_topic(self, name: str, partitions: int = 0, config: Mapping[str, str] | None = None) -> None:
        self._portal.call(self._made.create_topic, name, partitions, config)

    def delete_topic(self, name: str) -> None:
        self._portal.call(self._made.delete_topic, name)

    def find_offsets(self, topic: str, time_ms: int) -> dict[int, int]:
        return self._portal.call(self._made.find_offsets, topic, time_ms)

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        self._portal.call(self._made.commit, group, offsets)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        return self._portal.call(self._made.committed, group)

    def reset(
        self,
        name: str,
        to: int | datetime | None = None,
        *,
        offset: int | None = None,
        topics: Sequence[str] = (),
        kind: str = "group",
    ) -> dict[tuple[str, int], int]:
        return self._portal.call(partial(self._made.reset, name, to, offset=offset, topics=topics, kind=kind))


@contextmanager
def connect(addresses: str, *, client_id: str = "", request_timeout_s: float = 30.0) -> Iterator[Client]:
    """A client for `host:port[,host:port...]`, closed when the block is left. Connects on first use."""
    opened = async_client.connect(addresses, client_id=client_id, request_timeout_s=request_timeout_s)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(opened) as made:
        yield Client(portal, made)
