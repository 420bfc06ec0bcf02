"""The same client for scripts without an event loop: every call waits, and a loop runs in a thread behind it.

The thread lives as long as the `connect` block. Calls may come from several threads; records sent at once from many of
them are joined like those of many tasks.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread

from trivium import client as async_client
from trivium import consumer as async_consumer
from trivium import requests as async_requests
from trivium import subscriber as async_subscriber
from trivium.blocking_sending import HalfProducer, Producer, TransactionalSender, in_thread
from trivium.client import ALWAYS_MS
from trivium.frames.offsets import LATEST
from trivium.frames.queue_admin import QueueInfo
from trivium.frames.traces import TraceEntry
from trivium.half_messages import HalfMessage, WaitingHalf
from trivium.handouts import Message as QueueMessage
from trivium.loop_thread import LoopThread, loop_thread
from trivium.outgoing import Headers
from trivium.queue_admin import DeadLetter
from trivium.record_batch import Codec
from trivium.scheduled import Cancellation, ScheduledMessage
from trivium.topics import TopicDescription

FETCHED_MAX = 100  # messages taken to the caller's thread ahead


T = TypeVar("T")


class Consumer:
    """As `trivium.consumer.Consumer`, a plain iterator."""

    def __init__(self, loop: LoopThread, made: async_consumer.Consumer) -> None:
        self._loop = loop
        self._made = made

    def __iter__(self) -> Iterator[async_consumer.Message]:
        return self

    def __next__(self) -> async_consumer.Message:
        return self._loop.call(self._made.__anext__)

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        return self._made.positions

    def commit(self) -> None:
        self._loop.call(self._made.commit)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._loop.call(self._made.seek, topic, partition, offset)


class Requester:
    """As `trivium.requests.Requester`."""

    def __init__(self, loop: LoopThread, made: async_requests.Requester) -> None:
        self._loop = loop
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
        return self._loop.call(ask)


class Subscriber:
    """As `trivium.subscriber.Subscriber`, a plain iterator."""

    def __init__(self, loop: LoopThread, made: async_subscriber.Subscriber) -> None:
        self._loop = loop
        self._made = made
        self._here: deque[QueueMessage] = deque()  # taken by the loop, not yet given to anybody
        self._taking = threading.Lock()

    def __iter__(self) -> Iterator[QueueMessage]:
        return self

    def __next__(self) -> QueueMessage:
        with self._taking:
            while True:
                while self._here:
                    message = self._here.popleft()
                    if self._made.begin(message):
                        return message
                self._loop.call(self._fetch)
                if not self._here:
                    raise StopIteration

    async def _fetch(self) -> None:
        """Those that are here already, too: a call between threads costs more than a message."""
        self._here += await self._made.take_ahead(FETCHED_MAX)

    def receive(self, messages_max: int = 1, *, wait_ms: int = 5_000) -> list[QueueMessage]:
        return self._loop.call(partial(self._made.receive, messages_max, wait_ms=wait_ms))

    def ack_nowait(self, message: QueueMessage) -> None:
        self._loop.call(self._made.ack_nowait, message)

    def wait_settled(self) -> None:
        self._loop.call(self._made.wait_settled)

    @property
    def late(self) -> int:
        return self._made.late

    def ack(self, message: QueueMessage) -> None:
        self._loop.call(self._made.ack, message)

    def nack(self, message: QueueMessage, reason: str = "", *, delay_ms: int | None = None) -> None:
        self._loop.call(partial(self._made.nack, message, reason, delay_ms=delay_ms))

    def postpone(self, message: QueueMessage, delay_ms: int) -> None:
        self._loop.call(self._made.postpone, message, delay_ms)

    def reject(self, message: QueueMessage, reason: str) -> None:
        self._loop.call(self._made.reject, message, reason)

    def extend(self, message: QueueMessage, more_ms: int) -> None:
        self._loop.call(self._made.extend, message, more_ms)

    def stop(self) -> None:
        self._loop.call(self._made.stop)

    def run(
        self,
        handler: Callable[[QueueMessage], object],
        *,
        concurrency: int = 1,
        signals: Sequence[int] = (signal.SIGTERM,),
    ) -> None:
        """Calls `handler` in threads, so many at a time, until `stop` or, called in the main thread, one of the
        signals.
        """
        limiter: CapacityLimiter | None = None

        async def handle(message: QueueMessage) -> None:
            await to_thread.run_sync(handler, message, limiter=limiter)

        async def run() -> None:
            nonlocal limiter
            limiter = CapacityLimiter(concurrency)
            await self._made.run(handle, concurrency=concurrency, signals=())

        with self._stopped_by(signals):
            self._loop.call(run)

    @contextmanager
    def _stopped_by(self, signals: Sequence[int]) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            signals = ()

        def stop(_: int, __: object) -> None:
            self._loop.call_soon(self._made.stop)

        before = {one: signal.signal(one, stop) for one in signals}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


class Client:
    """As `trivium.client.Client`."""

    def __init__(self, loop: LoopThread, made: async_client.Client) -> None:
        self._loop = loop
        self._made = made

    @contextmanager
    def producer(
        self, *, codec: Codec = Codec.NONE, linger_ms: int = 0, buffer_bytes_max: int = 32 * 1024 * 1024
    ) -> Iterator[Producer]:
        """A producer; leaving the block sends what still waits."""
        opened = self._made.producer(codec=codec, linger_ms=linger_ms, buffer_bytes_max=buffer_bytes_max)
        with self._loop.entered(opened) as made:
            yield Producer(self._loop, made)

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
        with self._loop.entered(opened) as made:
            yield Consumer(self._loop, made)

    @contextmanager
    def requester(self, replies_topic: str = async_requests.REPLIES_TOPIC) -> Iterator[Requester]:
        """Asks others over the broker."""
        with self._loop.entered(self._made.requester(replies_topic)) as made:
            yield Requester(self._loop, made)

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
        with self._loop.entered(opened) as made:
            yield Subscriber(self._loop, made)

    def describe_queues(self, *groups: str) -> list[QueueInfo]:
        return self._loop.call(self._made.describe_queues, *groups)

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
        self._loop.call(change)

    def member_status(self, group: str, member: str) -> dict[str, Any]:
        return self._loop.call(self._made.member_status, group, member)

    def pause_queue(self, group: str) -> None:
        self._loop.call(self._made.pause_queue, group)

    def resume_queue(self, group: str) -> None:
        self._loop.call(self._made.resume_queue, group)

    def delete_queue(self, group: str) -> None:
        self._loop.call(self._made.delete_queue, group)

    def dead_letters(self, group: str, *, offset: int = 0, count: int = 100, wait_ms: int = 0) -> list[DeadLetter]:
        return self._loop.call(partial(self._made.dead_letters, group, offset=offset, count=count, wait_ms=wait_ms))

    def resend_dead_letters(self, group: str, offsets: Sequence[int]) -> None:
        self._loop.call(self._made.resend_dead_letters, group, offsets)

    @contextmanager
    def half_producer(self, group: str, check: Callable[[HalfMessage], int]) -> Iterator[HalfProducer]:
        """A producer of half messages; see `trivium.half_messages`. `check` is called in threads."""
        opened = self._made.half_producer(group, in_thread(check))
        with self._loop.entered(opened) as made:
            yield HalfProducer(self._loop, made)

    @contextmanager
    def transactional(self, transactional_id: str, *, timeout_ms: int = 60_000) -> Iterator[TransactionalSender]:
        """A sender of transactions; see `trivium.transactions`."""
        opened = self._made.transactional(transactional_id, timeout_ms=timeout_ms)
        with self._loop.entered(opened) as made:
            yield TransactionalSender(self._loop, made)

    def cancel(self, message_id: str) -> Cancellation:
        return self._loop.call(self._made.cancel, message_id)

    def scheduled(self) -> Iterator[ScheduledMessage]:
        return self._each(self._made.scheduled())

    def halves(self, group: str | None = None, *, parked: bool = False) -> Iterator[WaitingHalf]:
        return self._each(self._made.halves(group, parked=parked))

    def end_half(self, message_id: str, *, commit: bool) -> None:
        self._loop.call(partial(self._made.end_half, message_id, commit=commit))

    def resume_half(self, message_id: str) -> None:
        self._loop.call(self._made.resume_half, message_id)

    def traces(
        self,
        *,
        message_id: str = "",
        topic: str = "",
        key: bytes | None = None,
        partition: int | None = None,
        offset: int | None = None,
        since_ms: int = 0,
        until_ms: int = ALWAYS_MS,
    ) -> Iterator[TraceEntry]:
        found = self._made.traces(
            message_id=message_id,
            topic=topic,
            key=key,
            partition=partition,
            offset=offset,
            since_ms=since_ms,
            until_ms=until_ms,
        )
        return self._each(found)

    def _each(self, rows: AsyncIterator[T]) -> Iterator[T]:
        while True:
            try:
                yield self._loop.call(rows.__anext__)
            except StopAsyncIteration:
                return

    def topics(self) -> list[TopicDescription]:
        return self._loop.call(self._made.topics)

    def describe_topic(self, name: str) -> TopicDescription:
        return self._loop.call(self._made.describe_topic, name)

    def create_topic(self, name: str, partitions: int = 0, config: Mapping[str, str] | None = None) -> None:
        self._loop.call(self._made.create_topic, name, partitions, config)

    def delete_topic(self, name: str) -> None:
        self._loop.call(self._made.delete_topic, name)

    def find_offsets(self, topic: str, time_ms: int) -> dict[int, int]:
        return self._loop.call(self._made.find_offsets, topic, time_ms)

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        self._loop.call(self._made.commit, group, offsets)

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        return self._loop.call(self._made.committed, group)

    def reset(
        self,
        name: str,
        to: int | datetime | None = None,
        *,
        offset: int | None = None,
        topics: Sequence[str] = (),
        kind: Literal["group", "queue", "session"] = "group",
    ) -> dict[tuple[str, int], int]:
        return self._loop.call(partial(self._made.reset, name, to, offset=offset, topics=topics, kind=kind))


@contextmanager
def connect(addresses: str, *, client_id: str = "", request_timeout_s: float = 30.0) -> Iterator[Client]:
    """A client for `host:port[,host:port...]`, closed when the block is left. Connects on first use."""
    opened = async_client.connect(addresses, client_id=client_id, request_timeout_s=request_timeout_s)
    with loop_thread() as loop, loop.entered(opened) as made:
        yield Client(loop, made)
