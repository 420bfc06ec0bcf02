"""The same client for scripts without an event loop: every call waits, and a loop runs in a thread behind it.

The thread lives as long as the `connect` block. Calls may come from several threads; records sent at once from many of
them are joined like those of many tasks.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from anyio import CapacityLimiter, to_thread

from trivium import client as async_client
from trivium import consumer as async_consumer
from trivium import requests as async_requests
from trivium import subscriber as async_subscriber
from trivium.blocking_calls import Blocking, block, each, in_loop, waiting
from trivium.blocking_sending import HalfProducer, Producer, TransactionalSender, in_thread
from trivium.half_messages import HalfMessage
from trivium.handouts import Message as QueueMessage
from trivium.loop_thread import LoopThread, loop_thread
from trivium.outgoing import Headers, Sent
from trivium.trace_context import Traced

FETCHED_MAX = 100  # messages taken to the caller's thread ahead


class Consumer(Blocking[async_consumer.Consumer]):
    """As `trivium.consumer.Consumer`, a plain iterator."""

    def __iter__(self) -> Iterator[async_consumer.Message]:
        return self

    __next__ = waiting(async_consumer.Consumer.__anext__)
    commit = waiting(async_consumer.Consumer.commit)
    seek = in_loop(async_consumer.Consumer.seek)

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        return self._made.positions


class Requester(Blocking[async_requests.Requester]):
    """As `trivium.requests.Requester`."""

    request = waiting(async_requests.Requester.request)


def reply(made: Producer, message: Traced, value: bytes | None, *, headers: Headers = ()) -> Sent:
    """As `trivium.reply`."""
    topic, key, pairs = async_requests.address_of_reply(message, headers)
    return made.send(topic, value, key=key, headers=pairs)


class Subscriber(Blocking[async_subscriber.Subscriber]):
    """As `trivium.subscriber.Subscriber`, a plain iterator."""

    def __init__(self, loop: LoopThread, made: async_subscriber.Subscriber) -> None:
        super().__init__(loop, made)
        self._here: deque[QueueMessage] = deque()  # taken by the loop, not yet given to anybody
        self._taking = threading.Lock()

    def __iter__(self) -> Iterator[QueueMessage]:
        return self

    def __next__(self) -> QueueMessage:
        with self._taking:
            while True:
                while self._here:
                    message = self._here.popleft()
                    if message.is_expired:
                        self._loop.call_soon(partial(self._made.ack_nowait, message))
                        continue
                    if message.handout.may_be_over:
                        self._loop.call(self._made.renewed, message)
                    if self._made.begin(message):
                        return message
                self._loop.call(self._fetch)
                if not self._here:
                    raise StopIteration

    async def _fetch(self) -> None:
        """Those that are here already, too: a call between threads costs more than a message."""
        self._here += await self._made.take_ahead(FETCHED_MAX)

    receive = waiting(async_subscriber.Subscriber.receive)
    ack = waiting(async_subscriber.Subscriber.ack)
    ack_nowait = in_loop(async_subscriber.Subscriber.ack_nowait)
    nack = waiting(async_subscriber.Subscriber.nack)
    postpone = waiting(async_subscriber.Subscriber.postpone)
    reject = waiting(async_subscriber.Subscriber.reject)
    extend = waiting(async_subscriber.Subscriber.extend)
    wait_settled = waiting(async_subscriber.Subscriber.wait_settled)
    stop = in_loop(async_subscriber.Subscriber.stop)

    @property
    def late(self) -> int:
        return self._made.late

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


class Client(Blocking[async_client.Client]):
    """As `trivium.client.Client`."""

    producer = block(async_client.Client.producer, Producer)
    consumer = block(async_client.Client.consumer, Consumer)
    subscribe = block(async_client.Client.subscribe, Subscriber)
    requester = block(async_client.Client.requester, Requester)
    transactional = block(async_client.Client.transactional, TransactionalSender)

    @contextmanager
    def half_producer(self, group: str, check: Callable[[HalfMessage], int]) -> Iterator[HalfProducer]:
        """A producer of half messages; see `trivium.half_messages`. `check` is called in threads."""
        opened = self._made.half_producer(group, in_thread(check))
        with self._loop.entered(opened) as made:
            yield HalfProducer(self._loop, made)

    topics = waiting(async_client.Client.topics)
    describe_topic = waiting(async_client.Client.describe_topic)
    create_topic = waiting(async_client.Client.create_topic)
    delete_topic = waiting(async_client.Client.delete_topic)
    find_offsets = waiting(async_client.Client.find_offsets)

    commit = waiting(async_client.Client.commit)
    committed = waiting(async_client.Client.committed)
    reset = waiting(async_client.Client.reset)

    describe_queues = waiting(async_client.Client.describe_queues)
    configure_queue = waiting(async_client.Client.configure_queue)
    member_status = waiting(async_client.Client.member_status)
    pause_queue = waiting(async_client.Client.pause_queue)
    resume_queue = waiting(async_client.Client.resume_queue)
    delete_queue = waiting(async_client.Client.delete_queue)
    dead_letters = waiting(async_client.Client.dead_letters)
    resend_dead_letters = waiting(async_client.Client.resend_dead_letters)

    cancel = waiting(async_client.Client.cancel)
    scheduled = each(async_client.Client.scheduled)
    halves = each(async_client.Client.halves)
    end_half = waiting(async_client.Client.end_half)
    resume_half = waiting(async_client.Client.resume_half)
    traces = each(async_client.Client.traces)


@contextmanager
def connect(addresses: str, *, client_id: str = "", request_timeout_s: float = 30.0) -> Iterator[Client]:
    """A client for `host:port[,host:port...]`, closed when the block is left. Connects on first use."""
    opened = async_client.connect(addresses, client_id=client_id, request_timeout_s=request_timeout_s)
    with loop_thread() as loop, loop.entered(opened) as made:
        yield Client(loop, made)
