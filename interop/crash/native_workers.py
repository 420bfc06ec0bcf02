"""The load of the native crash run that lives through the broker's deaths: the SDK on asyncio, trio and in threads, and
librdkafka, in threads that tell a `Told` what they were told.

`aim_ms` is when the broker is to be killed next (wall clock): what is scheduled is due about then.
"""

from __future__ import annotations

import random
import threading
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from confluent_kafka import KafkaError, Producer

import trivium
import trivium.blocking
from interop.crash.ledger import Ledger
from interop.crash.load import CLIENT, PARTITIONS, PAUSE_TIMEOUT_S, Worker, WorkerError
from interop.crash.native_roles import may_pass, now_ms
from trivium.client import Client
from trivium.record_batch import Codec

BATCH = 20
BURST = 30
ONCE_IDS = 3_000
FOR_EVER_S = 240.0


class Told:
    """What the clients of a generation were told; filled by many threads, each of which has keys of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = self.raced = self.cancelled_total = self.delivered_total = 0
        self.forget()

    def forget(self) -> None:
        """Starts anew, for new topics; the totals stay."""
        self.refused: list[str] = []  # values that a full disk refused
        self.once: dict[str, str] = {}
        self.once_tried: set[str] = set()
        self.due_ms: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.delivered: set[str] = set()
        self.asked: set[str] = set()  # to be cancelled

    def stored_once(self, once_id: str, message_id: str) -> str:
        """The id that was told first."""
        with self._lock:
            return self.once.setdefault(once_id, message_id)

    def unanswered(self) -> set[str]:
        """Whose cancellation was given up: it may have been done."""
        return self.asked - self.cancelled - self.delivered

    def cancellation(self, message_id: str, answer: trivium.Cancellation) -> None:
        with self._lock:
            self.raced += 1
            if answer is trivium.Cancellation.CANCELLED:
                self.cancelled.add(message_id)
                self.cancelled_total += 1
            elif answer is trivium.Cancellation.DELIVERED:
                self.delivered.add(message_id)
                self.delivered_total += 1


class NativeWorker(Worker):
    """`backend` asyncio or trio; `begin` is awaited once, then `turn` again and again."""

    def __init__(self, name: str, address: str, ledger: Ledger, told: Told, backend: str) -> None:
        super().__init__(name, address, ledger)
        self.told = told
        self.backend = backend
        self.random = random.Random(name)
        self.aim_ms = 0
        self.number = 0
        self.client: Client
        self.producer: trivium.Producer
        self._portal: BlockingPortal
        self._stack: ExitStack

    def run(self) -> None:
        try:
            with start_blocking_portal(self.backend) as self._portal, ExitStack() as self._stack:
                self.client = self._enter(trivium.connect(self.bootstrap, request_timeout_s=FOR_EVER_S))
                self.producer = self._enter(self.make_producer())
                super().run()
        except BaseException as error:
            self.failure = self.failure or error

    def make_producer(self) -> AbstractAsyncContextManager[trivium.Producer]:
        return self.client.producer()

    def _enter(self, opened: AbstractAsyncContextManager[Any]) -> Any:
        return self._stack.enter_context(self._portal.wrap_async_context_manager(opened))

    def work(self) -> None:
        self._portal.call(self.turn)

    def settle(self) -> None:
        self._portal.call(self.come_to_rest)

    @abstractmethod
    async def turn(self) -> None: ...

    async def come_to_rest(self) -> None:
        """What was begun is over when `turn` returns."""

    async def until_room(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Asks again while the disk is full."""
        while True:
            try:
                return await ask()
            except trivium.RequestRefused as refused:
                if not may_pass(refused):
                    raise
                await anyio.sleep(0.05)


class Sender(NativeWorker):
    """Keyed messages, one producer for the whole run."""

    def __init__(self, name: str, address: str, ledger: Ledger, told: Told, backend: str, codec: Codec) -> None:
        super().__init__(name, address, ledger, told, backend)
        self._codec = codec

    def make_producer(self) -> AbstractAsyncContextManager[trivium.Producer]:
        return self.client.producer(codec=self._codec)

    async def turn(self) -> None:
        posted = []
        for _ in range(self.random.randint(1, BATCH)):
            value = f"{self.name}:{self.number}"
            posted.append((value, self.producer.post(self.topic, value.encode(), key=key_of(self.name, self.number))))
            self.number += 1
        for value, one in posted:
            try:
                note_sent(self, value, await one.wait())
            except trivium.RequestRefused as refused:
                if not may_pass(refused):
                    raise
                self.told.refused.append(value)
        await anyio.sleep(0.01)


def key_of(name: str, number: int) -> bytes:
    return b"%s-%d" % (name.encode(), number % 7)


def note_sent(worker: Any, value: str, sent: trivium.Sent) -> None:
    worker.ledger.acknowledge((sent.topic, sent.partition, sent.offset), value)
    worker.told.total += 1


class BlockingSender(Worker):
    """The same from a script; it waits for every message, or for a few that were posted."""

    def __init__(self, name: str, address: str, ledger: Ledger, told: Told) -> None:
        super().__init__(name, address, ledger)
        self.told = told
        self.number = 0

    def run(self) -> None:
        try:
            with (
                trivium.blocking.connect(self.bootstrap, request_timeout_s=FOR_EVER_S) as client,
                client.producer() as self._producer,
            ):
                super().run()
        except BaseException as error:
            self.failure = self.failure or error

    def _next(self) -> tuple[str, bytes]:
        value, key = f"{self.name}:{self.number}", key_of(self.name, self.number)
        self.number += 1
        return value, key

    def work(self) -> None:
        posted = []
        for _ in range(3):
            value, key = self._next()
            posted.append((value, self._producer.post(self.topic, value.encode(), key=key)))
        waits: list[tuple[str, Callable[[], trivium.Sent]]] = [(value, one.wait) for value, one in posted]
        value, key = self._next()
        waits.append((value, lambda: self._producer.send(self.topic, value.encode(), key=key)))
        for value, wait in waits:
            try:
                note_sent(self, value, wait())
            except trivium.RequestRefused as refused:
                if not may_pass(refused):
                    raise
                self.told.refused.append(value)
        time.sleep(0.01)

    def settle(self) -> None:
        """Nothing is left."""


class OnceSender(NativeWorker):
    """Sends ids that others send too; sometimes gives up, and goes on as a producer that was started anew."""

    async def turn(self) -> None:
        await self._send(self.random.sample(range(ONCE_IDS), 6), self.random.choice((0.001, 0.01, None, None)))

    async def come_to_rest(self) -> None:
        """What was given up is sent until it is known."""
        unknown = [one for one in list(self.told.once_tried) if one not in self.told.once]
        for first in range(0, len(unknown), 50):
            await self._send([int(one) for one in unknown[first : first + 50]], None)

    async def _send(self, numbers: list[int], limit_s: float | None) -> None:
        with anyio.move_on_after(limit_s):
            async with self.client.producer() as producer, anyio.create_task_group() as tasks:
                for number in numbers:
                    tasks.start_soon(self._send_one, producer, str(number))
        await anyio.sleep(0.01)

    async def _send_one(self, producer: trivium.Producer, once_id: str) -> None:
        self.told.once_tried.add(once_id)
        value = f"{self.name}:{once_id}".encode()

        async def send() -> trivium.Sent:
            try:
                return await producer.send(self.topic, value, key=once_id.encode(), once_id=once_id)
            except trivium.RequestRefused as refused:
                if refused.code != trivium.ErrorCode.CONTENDED:
                    raise
                return await producer.send(self.topic, value, key=once_id.encode(), once_id=once_id)

        sent = await self.until_room(send)
        first = self.told.stored_once(once_id, sent.message_id)
        if first != sent.message_id:
            self.ledger.violate(f"once-id {once_id} was first told as {first}, then as {sent.message_id}")
        self.told.total += 1


class Scheduler(NativeWorker):
    """Messages that are due about the broker's death, cancelled about when they are due."""

    async def turn(self) -> None:
        aim_ms = self.aim_ms if self.aim_ms > now_ms() + 20 else now_ms() + self.random.choice((5, 30, 80))
        async with anyio.create_task_group() as tasks:
            for _ in range(BURST):
                tasks.start_soon(self._race, aim_ms + self.random.randint(-15, 15))
        self.number += 1

    async def _race(self, due_ms: int) -> None:
        sent = await self.until_room(lambda: self.producer.send(self.topic, b"", deliver_at_ms=due_ms))
        self.told.due_ms[sent.message_id] = due_ms if sent.scheduled else 0
        self.told.total += 1
        if not sent.scheduled or self.random.random() < 0.3:
            return
        await anyio.sleep(max(0, due_ms - now_ms() + self.random.uniform(-14, 4)) / 1000)
        self.told.asked.add(sent.message_id)
        with anyio.move_on_after(self.random.choice((0.002, None, None, None))):
            answers: list[trivium.Cancellation] = []

            async def cancel() -> None:
                answers.append(await self.until_room(lambda: self.client.cancel(sent.message_id)))

            async with anyio.create_task_group() as tasks:
                for _ in range(self.random.choice((1, 1, 2))):
                    tasks.start_soon(cancel)
            for answer in answers:
                self.told.cancellation(sent.message_id, answer)
            if len(set(answers)) != 1 or trivium.Cancellation.UNKNOWN in answers:
                self.ledger.violate(f"cancellations of {sent.message_id}, which had been scheduled: {answers}")


class KafkaSender(Worker):
    """librdkafka, idempotent, with a header: `deliver-at` for `delayed`, else `once-id`."""

    def __init__(self, name: str, bootstrap: str, ledger: Ledger, told: Told, *, delayed: bool) -> None:
        super().__init__(name, bootstrap, ledger)
        self.told = told
        self.aim_ms = 0
        self.sent: set[str] = set()  # values of this generation that were acknowledged
        self._delayed = delayed
        self._number = 0
        self._random = random.Random(name)
        settings = {"enable.idempotence": True, "linger.ms": 1, "message.timeout.ms": 300_000}
        self._client = Producer({**CLIENT, **settings, "bootstrap.servers": bootstrap})

    def _told(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.ledger.violate(f"{self.name} lost {message.value()!r}: {error}")
        else:
            self.sent.add(message.value().decode())

    def work(self) -> None:
        for _ in range(4):
            value, self._number = f"{self.name}:{self._number}", self._number + 1
            once_id = str(self._random.randrange(ONCE_IDS))
            if self._delayed:
                aim_ms = self.aim_ms if self.aim_ms > now_ms() else now_ms() + 30
                headers = [("deliver-at", b"%d" % (aim_ms + self._random.randint(-15, 15)))]
            else:
                self.told.once_tried.add(once_id)
                headers = [("once-id", once_id.encode())]
            partition = self._random.randrange(PARTITIONS)
            self._client.produce(self.topic, value, once_id, partition, on_delivery=self._told, headers=headers)
        self._client.poll(0.02)
        while len(self._client) > 200:
            self._client.poll(0.05)

    def settle(self) -> None:
        if self._client.flush(PAUSE_TIMEOUT_S - 5):
            raise WorkerError(f"{self.name}: {len(self._client)} records not delivered")
