"""Random histories of a queue group, with crashes, against a ledger of what was produced, handed out and settled.

What holds: nothing that was acknowledged and answered comes again (but for a reset), nothing is lost, what is in no
committed transaction is never seen, credit is not exceeded, a dead letter is written once, and in a group with order no
message goes out before the one before it of its key is acknowledged or a dead letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from core.dead_letters import topic_of
from core.queue_types import Order, QueueLimits, Settle, Settled, Verb
from core.store.engine import Append, append
from tests.core.queues_driver import ACTOR, SUBSCRIPTION, TOPIC, Consumer, Driver, Got, driving
from trivium import headers
from trivium.record_batch import parse_header
from trivium.records import Record, build, build_control, decode

PARTITIONS = 2
MEMBERS = ("a", "b", "c")
KEYS = (b"x", b"y", b"z")
Place = tuple[int, int]  # partition, offset

member = st.sampled_from(MEMBERS)
picks = st.lists(st.integers(0, 40), min_size=1, max_size=12)
verbs = st.sampled_from([Verb.ACK, Verb.ACK, Verb.ACK, Verb.NACK, Verb.EXTEND, Verb.POSTPONE, Verb.REJECT])
partition = st.integers(0, PARTITIONS - 1)
keys_of_3 = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)
actions = st.one_of(
    st.tuples(st.just("produce"), partition, st.lists(st.sampled_from(KEYS), min_size=1, max_size=12)),
    st.tuples(
        st.just("transaction"), partition, st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), st.booleans()
    ),
    st.tuples(st.just("join"), member),
    st.tuples(st.just("grant"), member, st.integers(1, 30)),
    st.tuples(st.just("settle"), member, picks, verbs),
    st.tuples(st.just("settle"), member, picks, verbs),
    st.tuples(st.just("settle and crash"), member, picks, verbs),
    st.tuples(st.just("leave"), member),
    st.tuples(st.just("lost"), member),
    st.tuples(st.just("sleep"), st.sampled_from([0, 1, 6, 31, 200])),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("reset"), partition, st.floats(0, 1)),
    st.tuples(st.just("pause"), st.booleans()),
)


class History:
    def __init__(self, driver: Driver, order: Order, seed: int) -> None:
        self.driver = driver
        self.subscription = replace(SUBSCRIPTION, order=order)
        self.order = order
        self.consumers: dict[str, Consumer] = {}
        self.credit: dict[str, int] = {}
        self.open: dict[str, list[Got]] = {}
        self.committed: dict[Place, bytes] = {}
        self.ends = [0] * PARTITIONS
        self.floors = [0] * PARTITIONS
        self.acknowledged: set[Place] = set()  # answered
        self.asked: set[Place] = set()  # acknowledged, the answer may never come
        self.void: list[set[int]] = [set() for _ in range(PARTITIONS)]  # leases from before a reset
        self.latest: dict[tuple[int, bytes | None], int] = {}  # partition and key -> the last that was handed out
        self.producer_id = 7

    async def run(self, steps: Sequence[Any]) -> None:
        await self.driver.queues.configure("g", {"attempts_max": 3, "backoff_ms": (1_000, 10_000)})
        for step in steps:
            await getattr(self, step[0].replace(" ", "_"))(*step[1:])
            await self.driver.settled()
            self.look()
        await self.finish()

    # -- steps

    async def produce(self, index: int, keys: list[bytes]) -> None:
        for at, key in enumerate(keys):
            self.committed[index, self.ends[index] + at] = key
        await self.driver.produce(*[b"v"] * len(keys), partition=index, keys=keys)
        self.ends[index] += len(keys)

    async def transaction(self, index: int, keys: list[bytes], commit: bool) -> None:
        topic = self.driver.topics.get(TOPIC)
        assert topic is not None
        number = topic.partitions[index]
        self.producer_id += 1
        records = [Record(0, 1, key, b"v", []) for key in keys]
        batch = build(records, producer_id=self.producer_id, producer_epoch=0, base_sequence=0, transactional=True)
        await append(self.driver.engine, [Append(number, parse_header(batch), batch)])
        await self.driver.settled()
        self.look()  # nothing of it is seen while it is open
        if commit:
            for at, key in enumerate(keys):
                self.committed[index, self.ends[index] + at] = key
        marker = build_control(self.producer_id, 0, commit, 0, 1)
        await append(self.driver.engine, [Append(number, parse_header(marker), marker)])
        self.ends[index] += len(keys) + 1

    async def join(self, name: str) -> None:
        self.consumers[name] = await self.driver.join(name, self.subscription, credit=0)
        self.credit[name] = 0
        self.open.setdefault(name, [])

    async def grant(self, name: str, messages: int) -> None:
        if name not in self.consumers:
            await self.join(name)
        self.credit[name] += messages
        self.consumers[name].grant(messages)

    def pick(self, name: str, picked: list[int]) -> list[Got]:
        held = self.open.get(name) or []
        return list({one % len(held): held[one % len(held)] for one in picked}.values()) if held else []

    def counting(self, chosen: list[Got]) -> list[Place]:
        """Those whose receipt no reset has made void."""
        return [(one.partition, one.offset) for one in chosen if one.lease not in self.void[one.partition]]

    async def settle(self, name: str, picked: list[int], verb: Verb) -> None:
        if name not in self.consumers:
            await self.grant(name, 5)
            await self.driver.settled()
            self.look()
        chosen = self.pick(name, picked)
        if verb is Verb.ACK:
            self.asked.update(self.counting(chosen))
        answers = await self.consumers[name].settle(*chosen, verb=verb)
        assert Settled.INVALID not in answers
        for one, answer in zip(chosen, answers, strict=True):
            assert answer is Settled.LATE or one.lease not in self.void[one.partition]
            if verb is not Verb.EXTEND:
                self.open[name].remove(one)
            if verb is Verb.ACK and answer is Settled.DONE:
                self.acknowledged.add((one.partition, one.offset))

    async def settle_and_crash(self, name: str, picked: list[int], verb: Verb) -> None:
        if name in self.consumers:
            chosen = self.pick(name, picked)
            if verb is Verb.ACK:
                self.asked.update(self.counting(chosen))
            self.driver.queues.settle(
                self.consumers[name].group,
                [Settle(TOPIC, one.partition, one.lease, one.offset, one.offset, verb) for one in chosen],
                ACTOR,
                lambda error, answers: None,
            )
            for _ in range(len(picked) % 6):  # it gets as far as that
                await trio.lowlevel.checkpoint()
        await self.crash(True)

    async def leave(self, name: str) -> None:
        if name in self.consumers:
            self.consumers.pop(name).leave()

    async def lost(self, name: str) -> None:
        if name in self.consumers:
            self.consumers.pop(name).lost()

    async def sleep(self, seconds: int) -> None:
        await trio.sleep(seconds)

    async def crash(self, lose: bool) -> None:
        self.look()
        self.consumers.clear()
        await self.driver.crash(lose=lose)

    async def reset(self, index: int, share: float) -> None:
        if not self.consumers:
            return
        offset = int(self.ends[index] * share)
        await self.driver.settled()
        self.look()
        await self.driver.queues.reset("g", {(TOPIC, index): offset})
        self.floors[index] = offset
        self.void[index] |= {one.lease for held in self.open.values() for one in held if one.partition == index}
        self.latest = {turn: last for turn, last in self.latest.items() if turn[0] != index}
        self.acknowledged = {place for place in self.acknowledged if place[0] != index}
        self.asked = {place for place in self.asked if place[0] != index}

    async def pause(self, paused: bool) -> None:
        await self.driver.queues.pause("g", paused)

    # -- what must hold

    def look(self) -> None:
        """Checks what has been handed out since the last look."""
        names = {id(consumer): name for name, consumer in self.consumers.items()}
        handed, self.driver.handed = self.driver.handed, []
        for consumer, got in handed:
            name = names.get(id(consumer))
            place = (got.partition, got.offset)
            if name is None:  # a member that has left meanwhile
                continue
            self.credit[name] -= 1
            assert self.credit[name] >= 0
            assert self.committed[place] == got.key
            assert place not in self.acknowledged
            assert got.attempt <= 3
            self.check_order(got)
            self.open[name].append(got)

    def check_order(self, got: Got) -> None:
        if self.order is Order.NONE:
            return
        before = {
            (index, offset)
            for (index, offset), key in self.committed.items()
            if index == got.partition
            and self.floors[index] <= offset < got.offset
            and (self.order is Order.PARTITION or key == got.key)
        }
        assert before <= self.asked | set(self.dead_letters())
        # Nor does one come again after a later one, whatever acknowledgement a crash has lost.
        turn = (got.partition, b"" if self.order is Order.PARTITION else got.key)
        assert self.latest.get(turn, -1) <= got.offset
        self.latest[turn] = got.offset

    def dead_letters(self) -> list[Place]:
        topic = self.driver.topics.get(topic_of("g"))
        if topic is None:
            return []
        number = topic.partitions[0]
        found: list[Place] = []
        info = self.driver.engine.info(number)
        at = 0
        while at < info.high_watermark:
            read = self.driver.engine.read_nowait(number, at, 1 << 20)
            assert read is not None
            for record in decode(read.buffers[0], 1 << 20):
                said = dict(record.headers)
                found.append(
                    (int(said[headers.DEAD_LETTER_PARTITION] or b""), int(said[headers.DEAD_LETTER_OFFSET] or b""))
                )
                at = record.offset + 1
        return found

    async def finish(self) -> None:
        """Everything that is left is handed out and acknowledged, once nobody else is there."""
        for name in list(self.consumers):
            await self.leave(name)
        await self.driver.queues.pause("g", False)
        await self.join("last")
        await self.grant("last", 100_000)
        for _ in range(300):
            await trio.sleep(40)
            self.look()
            if not self.open["last"]:
                break
            await self.settle("last", list(range(len(self.open["last"]))), Verb.ACK)
        wanted = {place for place in self.committed if place[1] >= self.floors[place[0]]}
        assert wanted <= self.acknowledged | self.asked | set(self.dead_letters())
        for queue in self.consumers["last"].group.queues.values():
            if queue.topic == TOPIC:
                assert queue.floor == queue.end == self.ends[queue.index]
                assert not queue.failed
                assert not queue.leases
                assert not queue.turns
                assert queue.turns.held == 0


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(actions, min_size=30, max_size=60),
    st.sampled_from(list(Order)),
    st.integers(0, 1_000),
    st.sampled_from([8, 1 << 20]),
)
def test_random_histories(steps: list[Any], order: Order, seed: int, window: int) -> None:
    async def main() -> None:
        limits = QueueLimits(window_offsets_max=window) if order is Order.NONE else QueueLimits()
        async with driving(limits, seed=seed, partitions=PARTITIONS) as driver:
            await History(driver, order, seed).run(steps)

    trio.run(main, clock=MockClock(autojump_threshold=0))
