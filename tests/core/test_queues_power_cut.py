"""Power cuts and full disks under queue groups: the core over the embedded engine on a simulated disk.

Members take, acknowledge, fail and reject while the trace of all writes is kept; it is cut at many points, and a new
member reads what the group then has: nothing whose acknowledgement had been answered, and everything else, once, be it
as a message or as a dead letter.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio
import trio.testing

from core.broker import Broker, BrokerSettings
from core.dead_letters import topic_of
from core.errors import CoreError, CoreFailure
from core.queue_group import Member
from core.queue_types import START_EARLIEST, Handout, Settle, Settled, Subscription, Verb
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Append, Outcome, append
from core.tracing import Actor
from tests.patience import PATIENCE_S
from tests.store.batches import read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium import headers
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

CONFIG = EngineConfig(segment_bytes=48 * 1024, reserve_bytes=0, hot_batches_max=8, settle_bytes_per_s_max=0)
TOPIC, GROUP, PARTITIONS = "t", "g", 2
ACTOR = Actor("test", "client", "host")
POLICY = {"invisible_ms": 3_600_000, "attempts_max": 2, "backoff_ms": (0,)}
Place = tuple[int, int]  # partition, offset


class Known(NamedTuple):
    """What the members know at a moment: what was stored, what they settled, and what they were answered about that."""

    stored: frozenset[Place]
    asked: frozenset[Place]  # acknowledged, answered or not
    acknowledged: frozenset[Place]  # and answered


class Consumer:
    def __init__(self, broker: Broker) -> None:
        self.queues = broker.queues
        self.member: Member
        self.got: list[tuple[Place, int]] = []  # place, lease
        self.news = trio.Event()

    async def join(self) -> Consumer:
        subscription = Subscription((TOPIC,))
        self.member = await self.queues.join(GROUP, "m", ACTOR, subscription, START_EARLIEST, self.take)
        self.queues.grant(self.queues.find(GROUP), self.member, 1_000_000, 1 << 40)
        return self

    def take(self, handouts: list[Handout]) -> None:
        for one in handouts:
            for first, last in one.ranges:
                self.got += [((one.partition, offset), one.lease) for offset in range(first, last + 1)]
        self.news.set()

    async def wait_for(self, count: int) -> None:
        while len(self.got) < count:
            self.news = trio.Event()
            await self.news.wait()

    async def settle(self, chosen: Sequence[tuple[Place, int]], verb: Verb) -> Sequence[Settled]:
        """Raises CoreFailure."""
        answered = trio.Event()
        found: list[tuple[CoreFailure | None, Sequence[Settled]]] = []

        def done(error: CoreFailure | None, answers: Sequence[Settled]) -> None:
            found.append((error, answers))
            answered.set()

        settles = [Settle(TOPIC, index, lease, offset, offset, verb) for (index, offset), lease in chosen]
        self.queues.settle(self.queues.find(GROUP), settles, ACTOR, done)
        await answered.wait()
        error, answers = found[0]
        if error is not None:
            raise error
        return answers


@asynccontextmanager
async def serving(disk: SimulatedDisk) -> AsyncIterator[tuple[EmbeddedEngine, Broker]]:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        broker = Broker(engine, BrokerSettings())
        await nursery.start(broker.run)
        yield engine, broker
        nursery.cancel_scope.cancel()


async def produce(broker: Broker, index: int, count: int) -> set[Place]:
    topic = broker.topics.get(TOPIC)
    assert topic is not None
    batch = build([Record(0, 1, b"k", b"x" * 100, []) for _ in range(count)])
    answers = await append(broker.engine, [Append(topic.partitions[index], parse_header(batch), batch)])
    return {(index, answers[0].base_offset + at) for at in range(count)}


async def traced_run(seed: int, rounds: int) -> SimulatedDisk:
    disk = SimulatedDisk(seed=seed)
    rng = random.Random(seed)
    stored: set[Place] = set()
    asked: set[Place] = set()
    acknowledged: set[Place] = set()

    def mark() -> None:
        disk.mark("known", Known(frozenset(stored), frozenset(asked), frozenset(acknowledged)))

    async with serving(disk) as (engine, broker):
        await broker.topics.create(TOPIC, PARTITIONS)
        await broker.queues.configure(GROUP, POLICY)
        consumer = await Consumer(broker).join()
        mark()
        for number in range(rounds):
            made = await produce(broker, rng.randrange(PARTITIONS), rng.randint(1, 8))
            stored |= made
            mark()
            await consumer.wait_for(1)
            rng.shuffle(consumer.got)
            chosen = [consumer.got.pop() for _ in range(rng.randint(1, len(consumer.got)))]
            verb = rng.choice([Verb.ACK, Verb.ACK, Verb.NACK, Verb.REJECT])
            if verb is Verb.ACK:
                asked |= {place for place, _ in chosen}
                mark()
            await consumer.settle(chosen, verb)
            if verb is Verb.ACK:
                acknowledged |= {place for place, _ in chosen}
            mark()
            if number % 20 == 19:
                await engine.settler.run_once()
    return disk


async def dead_letters(engine: EmbeddedEngine, broker: Broker) -> list[Place]:
    topic = broker.topics.get(topic_of(GROUP))
    if topic is None:
        return []
    found: list[Place] = []
    for batch in await read_all(engine, topic.partitions[0]):
        for record in decode(batch, 1 << 24):
            said = dict(record.headers)
            places = [int(said[name] or b"") for name in (headers.DEAD_LETTER_PARTITION, headers.DEAD_LETTER_OFFSET)]
            found.append((places[0], places[1]))
    return found


async def check(disk: SimulatedDisk, known: Known) -> None:
    async with serving(disk) as (engine, broker):
        consumer = await Consumer(broker).join()
        await produce(broker, 0, 1)  # there is something to wait for
        await consumer.wait_for(1)
        while True:
            await trio.testing.wait_all_tasks_blocked(0.01)
            dead = await dead_letters(engine, broker)
            places = [place for place, _ in consumer.got]
            if known.stored - known.asked <= {*dead, *places} and not broker.queues.find(GROUP).dying:
                break
            await trio.lowlevel.checkpoint()
        assert len(set(places)) == len(places), "a message is out twice"
        assert len(set(dead)) == len(dead), "a dead letter stands twice"
        assert not set(dead) & set(places), "a dead letter is handed out"
        assert not known.acknowledged & set(places), "what was acknowledged comes again"


async def losses(disk: SimulatedDisk, seed: int, count: int) -> int:
    """In how many of so many cuts something was lost or came again."""
    marks = [(at, op[2]) for at, op in enumerate(disk.trace) if op[:2] == ("mark", "known")]
    points = sorted(random.Random(seed).sample(range(marks[0][0] + 1, len(disk.trace)), count))
    found = 0
    for point, cut in disk.cuts(points, seed):
        known = next(known for at, known in reversed(marks) if at < point)
        try:
            with trio.fail_after(PATIENCE_S):
                await check(cut, known)
        except* (AssertionError, CoreFailure, trio.TooSlowError):
            found += 1
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_a_power_cut_loses_no_message_and_no_acknowledgement(seed: int) -> None:
    disk = await traced_run(seed, 60)
    assert await losses(disk, seed, 25) == 0


async def test_without_syncs_the_same_checks_do_find_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        lazy = EngineConfig(flush="async", flush_interval_ms=3_600_000, reserve_bytes=0)
        patched.setattr("tests.core.test_queues_power_cut.CONFIG", lazy)
        disk = await traced_run(1, 30)
        marks = [(at, op[2]) for at, op in enumerate(disk.trace) if op[:2] == ("mark", "known")]
    at, known = marks[-1]
    with pytest.raises(BaseExceptionGroup):
        with trio.fail_after(5):
            await check(next(cut for _, cut in disk.cuts([at], 1)), known)


async def test_a_full_disk_refuses_acknowledgements_and_takes_them_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "tests.core.test_queues_power_cut.CONFIG", EngineConfig(segment_bytes=48 * 1024, reserve_bytes=50_000)
    )
    disk = SimulatedDisk(seed=1)
    async with serving(disk) as (_, broker):
        await broker.topics.create(TOPIC, PARTITIONS)
        await broker.queues.configure(GROUP, POLICY)
        consumer = await Consumer(broker).join()
        await produce(broker, 0, 6)
        await consumer.wait_for(6)
        got = sorted(consumer.got)
        await consumer.settle(got[:1], Verb.ACK)
        disk.faults.capacity_bytes = disk.used_bytes() + 60_000
        with trio.fail_after(PATIENCE_S):
            while await stored(broker):
                pass
        with pytest.raises(CoreFailure) as refused:
            await consumer.settle(got[1:3], Verb.ACK)
        assert refused.value.error is CoreError.STORE_FULL
        with pytest.raises(CoreFailure):
            await consumer.settle(got[5:], Verb.NACK)
        disk.faults.capacity_bytes = None
        with trio.fail_after(PATIENCE_S):
            while not await stored(broker):
                pass
        assert await consumer.settle(got[3:4], Verb.ACK) == [Settled.DONE]
        assert await consumer.settle(got[1:3], Verb.ACK) == [Settled.DONE] * 2  # refused is not done: it is said again
    with trio.fail_after(PATIENCE_S):
        async with serving(disk) as (_, broker):
            consumer = await Consumer(broker).join()
            while not {(0, 4), (0, 5)} <= {place for place, _ in consumer.got}:
                await consumer.wait_for(len(consumer.got) + 1)
            assert {place for place, _ in consumer.got} & {place for place, _ in got} == {(0, 4), (0, 5)}


async def stored(broker: Broker) -> bool:
    """Whether the disk takes a record, of another partition."""
    topic = broker.topics.get(TOPIC)
    assert topic is not None
    batch = build([Record(0, 1, b"k", b"x" * 4_000, [])])
    answers = await append(broker.engine, [Append(topic.partitions[1], parse_header(batch), batch)])
    return answers[0].outcome is Outcome.APPENDED
