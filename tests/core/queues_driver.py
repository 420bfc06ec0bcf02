"""Queue groups over the in-memory engine, on trio's clock, with members that keep what they get; crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio
import trio.testing

from core.queue_group import Member, QueueGroup
from core.queue_types import START_EARLIEST, Handout, QueueLimits, Settle, Settled, Subscription, Verb
from core.queues import Queues
from core.state import StateLog
from core.store.engine import Append, append
from core.store.memory import MemoryEngine
from core.topics import Topics
from core.tracing import Actor
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

STATE_TOPIC = "__trivium_queues"
TOPIC = "t"
SUBSCRIPTION = Subscription((TOPIC,))
MUCH = 1 << 30
ACTOR = Actor("test", "client", "host")


class Got(NamedTuple):
    """One message as a member got it."""

    partition: int
    offset: int
    lease: int
    attempt: int
    key: bytes | None
    value: bytes | None
    topic: str = TOPIC


class Consumer:
    """A member, and what it got and has not settled."""

    def __init__(self, driver: Driver, group: QueueGroup) -> None:
        self.driver = driver
        self.group = group
        self.member: Member
        self.got: list[Got] = []
        self.news = trio.Event()

    def take(self, handouts: list[Handout]) -> None:
        for handout in handouts:
            records = {record.offset: record for record in decode(handout.batch, MUCH)}
            for first, last in handout.ranges:
                for offset in range(first, last + 1):
                    record = records[offset]
                    place = (handout.partition, offset, handout.lease, handout.attempt)
                    self.got.append(Got(*place, record.key, record.value, handout.topic))
                    self.driver.handed.append((self, self.got[-1]))
        self.news.set()

    def grant(self, messages: int = 1_000, size_bytes: int = MUCH) -> None:
        self.driver.queues.grant(self.group, self.member, messages, size_bytes)

    async def settle(
        self, *messages: Got, verb: Verb = Verb.ACK, delay_ms: int = -1, reason: str = ""
    ) -> list[Settled]:
        settles = [
            Settle(one.topic, one.partition, one.lease, one.offset, one.offset, verb, delay_ms, reason)
            for one in messages
        ]
        return await self.driver.settle(self.group, settles)

    def taken(self) -> list[Got]:
        """What it got since the last call."""
        got, self.got = self.got, []
        return got

    @property
    def values(self) -> list[bytes | None]:
        return [one.value for one in self.taken()]

    def leave(self) -> None:
        self.driver.queues.leave(self.group, self.member)

    def lost(self) -> None:
        self.driver.queues.lost(self.group, self.member)


class Driver:
    """One store with its topics; `start` (again) makes the queue groups over it."""

    def __init__(self, engine: MemoryEngine, limits: QueueLimits) -> None:
        self.engine = engine
        self.limits = limits
        self.topics: Topics
        self.queues: Queues
        self.handed: list[tuple[Consumer, Got]] = []  # to all consumers, in the order in which they got it
        self._running: trio.CancelScope | None = None
        self._nursery: trio.Nursery

    async def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.topics = Topics(self.engine)
        await self.topics.load()
        topic = await self.topics.ensure(STATE_TOPIC, 1, {"cleanup.policy": "compact"})
        self.queues = Queues(
            self.engine,
            StateLog(self.engine, topic.partitions[0]),
            self.topics,
            self.limits,
            now_ms=lambda: int(trio.current_time() * 1000),
            wall_ms=lambda: int(trio.current_time() * 1000) + 1_700_000_000_000,
        )
        await self.queues.load()
        await nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._running:
            await self.queues.run(task_status)

    async def crash(self, *, lose: bool = True) -> None:
        """Ends as a kill would: what is on its way to the log is lost (or just gets there). Then starts again."""
        assert self._running is not None
        self._running.cancel()
        if lose:
            self.engine._travelling.clear()
        await trio.testing.wait_all_tasks_blocked()
        self.engine._epoch += 1
        await self.start(self._nursery)

    async def topic(self, name: str = TOPIC, partitions: int = 1) -> None:
        await self.topics.create(name, partitions)

    async def produce(
        self, *values: bytes, partition: int = 0, keys: Sequence[bytes | None] | None = None, topic: str = TOPIC
    ) -> None:
        """One batch."""
        found = self.topics.get(topic)
        assert found is not None
        keys = keys or [None] * len(values)
        records = [Record(0, 1, key, value, []) for key, value in zip(keys, values, strict=True)]
        batch = build(records)
        await append(self.engine, [Append(found.partitions[partition], parse_header(batch), batch)])

    async def join(
        self,
        member_id: str = "a",
        subscription: Subscription = SUBSCRIPTION,
        *,
        group: str = "g",
        start: int = START_EARLIEST,
        credit: int = 1_000,
        held: Sequence[int] = (),
    ) -> Consumer:
        got: list[Handout] = []
        consumer: Consumer | None = None

        def take(handouts: list[Handout]) -> None:
            assert consumer is not None
            consumer.take(handouts)

        member = await self.queues.join(group, member_id, ACTOR, subscription, start, take, held)
        consumer = Consumer(self, self.queues.find(group))
        consumer.member = member
        assert not got
        if credit:
            consumer.grant(credit)
        return consumer

    async def settle(self, group: QueueGroup, settles: list[Settle]) -> list[Settled]:
        answered = trio.Event()
        found: list[Settled] = []

        def done(error: Exception | None, answers: Sequence[Settled]) -> None:
            assert error is None
            found.extend(answers)
            answered.set()

        self.queues.settle(group, settles, ACTOR, done)
        await answered.wait()
        return found

    async def settled(self) -> None:
        """Returns when nothing more happens without time passing."""
        await trio.testing.wait_all_tasks_blocked(0.0001)


@asynccontextmanager
async def driving(limits: QueueLimits | None = None, *, seed: int = 0, partitions: int = 1) -> AsyncIterator[Driver]:
    engine = MemoryEngine(seed=seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        driver = Driver(engine, limits or QueueLimits())
        await driver.start(nursery)
        await driver.topic(partitions=partitions)
        yield driver
        nursery.cancel_scope.cancel()
