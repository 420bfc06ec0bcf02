"""Half messages: delivered once when they are committed, never when they are not, checked back, whatever crashes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from core.errors import CoreError, CoreFailure
from core.half_log import CheckPlan, HalfEnd
from core.half_messages import HalfMessages, Question
from core.store.engine import Entry, Outcome
from tests.core.schedules_driver import START_MS, Life, life
from trivium.records import Record, build, decode

HALVES = "__trivium_halves"
PLAN = CheckPlan(first_ms=6_000, interval_ms=30_000, checks_max=3)


class Halves(Life):
    """A life with half messages; `run` is the test's to start."""

    halves: HalfMessages

    async def load(self) -> None:
        await super().load()
        topic = await self.topics.ensure(HALVES, 1, {"cleanup.policy": "compact"})
        self.halves = HalfMessages(self.engine, self.topics, self.intake, topic.partitions[0], lambda: self.clock[0])
        await self.halves.load()

    async def send(self, message_id: str, name: str = "t", index: int = 0, headers: Sequence[str] = ()) -> None:
        topic = self.topics.get(name)
        assert topic is not None
        texts: list[tuple[str, bytes | None]] = [("trivium.id", message_id.encode())]
        texts += [(name, str(START_MS + 60_000).encode()) for name in headers]
        batch = build([Record(0, self.clock[0], b"k", message_id.encode(), texts)])
        await self.halves.send(topic, topic.partitions[index], "g", message_id, batch, PLAN)

    async def end(self, message_id: str, end: HalfEnd) -> CoreError | None:
        try:
            await self.halves.end(message_id, end)
        except CoreFailure as failure:
            return failure.error
        return None

    def values(self, partition: int) -> list[str]:
        return [(record.value or b"").decode() for record in self.read(partition)]


@asynccontextmanager
async def halves(clock: list[int], appends: Sequence[Sequence[Entry]] = (), epoch: int = 1) -> AsyncIterator[Halves]:
    async with life(clock, appends=appends, epoch=epoch, cls=Halves) as one:
        assert isinstance(one, Halves)
        yield one


async def test_a_half_is_seen_when_committed_and_never_when_rolled_back() -> None:
    clock = [START_MS]
    async with halves(clock) as one:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        for name in ("a", "b", "c"):
            await one.send(name)
        assert one.values(partition) == []
        assert one.engine.info(partition).last_stable == 0
        clock[0] += 5
        assert await one.end("b", HalfEnd.COMMITTED) is None
        assert await one.end("a", HalfEnd.ROLLED_BACK) is None
        [record] = one.read(partition)
        assert record[1:] == (clock[0], b"k", b"b", [("trivium.id", b"b")])
        assert [row.message_id for row in one.halves.listed("g")] == ["c"]


async def test_late_and_repeated_ends_get_typed_answers() -> None:
    async with halves([START_MS]) as one:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        await one.send("a")
        await one.send("b")
        assert await one.end("a", HalfEnd.COMMITTED) is None
        assert await one.end("a", HalfEnd.COMMITTED) is None
        assert await one.end("a", HalfEnd.ROLLED_BACK) is CoreError.MESSAGE_ENDED
        assert await one.end("b", HalfEnd.ROLLED_BACK) is None
        assert await one.end("b", HalfEnd.COMMITTED) is CoreError.MESSAGE_ENDED
        assert await one.end("c", HalfEnd.COMMITTED) is CoreError.UNKNOWN_MESSAGE
        with pytest.raises(CoreFailure, match="committed"):
            await one.send("a")
        assert one.values(partition) == ["a"]


async def test_ends_at_once_run_one_after_the_other() -> None:
    async with halves([START_MS]) as one:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        errors: list[CoreError | None] = []

        async def end(how: HalfEnd) -> None:
            errors.append(await one.end("a", how))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one.send, "a")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(end, HalfEnd.COMMITTED)
                nursery.start_soon(end, HalfEnd.ROLLED_BACK)
        assert sorted(str(error) for error in errors) == sorted(map(str, [None] * 3 + [CoreError.MESSAGE_ENDED] * 3))
        assert len(one.values(partition)) <= 1


async def test_a_topic_that_is_gone_drops_what_is_committed_and_says_so() -> None:
    async with halves([START_MS]) as one:
        await one.topics.ensure("t", 1)
        await one.send("a")
        await one.topics.delete("t")
        await one.topics.ensure("t", 1)
        assert await one.end("a", HalfEnd.COMMITTED) is CoreError.UNKNOWN_TOPIC
        assert await one.end("a", HalfEnd.COMMITTED) is CoreError.MESSAGE_ENDED
        assert list(one.halves.listed()) == []


async def test_a_full_store_changes_nothing() -> None:
    async with halves([START_MS]) as one:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        await one.send("a")
        one.engine.refuse = Outcome.FULL
        assert await one.end("a", HalfEnd.COMMITTED) is CoreError.STORE_FULL
        with pytest.raises(CoreFailure):
            await one.send("b")
        one.engine.refuse = None
        assert await one.end("b", HalfEnd.COMMITTED) is CoreError.UNKNOWN_MESSAGE
        assert await one.end("a", HalfEnd.COMMITTED) is None
        assert one.values(partition) == ["a"]


async def test_a_committed_half_with_a_time_waits_for_it() -> None:
    clock = [START_MS]
    async with halves(clock) as one:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        await one.send("a", headers=["deliver-at"])
        assert await one.end("a", HalfEnd.COMMITTED) is None
        await one.settle()
        assert one.values(partition) == []
        clock[0] += 60_000
        await one.settle()
        assert one.values(partition) == ["a"]


@pytest.mark.parametrize("kind", ["normal", "fifo", "delay"])
async def test_topics_of_other_kinds_take_no_halves(kind: str) -> None:
    async with halves([START_MS]) as one:
        await one.topics.create("t", 1, {"message.type": kind})
        with pytest.raises(CoreFailure) as failure:
            await one.send("a")
        assert failure.value.error is CoreError.WRONG_MESSAGE_TYPE


async def test_producers_are_asked_in_turn_until_one_knows() -> None:
    clock = [START_MS]
    asked: list[tuple[str, str, int]] = []

    def producer(name: str, answer: HalfEnd | None) -> object:
        async def ask(question: Question) -> HalfEnd | None:
            asked.append((name, question.message_id, question.checks))
            assert decode(question.batch, 1 << 20)[0].value == question.message_id.encode()
            return answer

        return ask

    async with halves(clock) as one, trio.open_nursery() as nursery:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        first, second = producer("first", None), producer("second", HalfEnd.COMMITTED)
        one.halves.add_producer("g", first)  # type: ignore[arg-type]
        await one.send("a")
        nursery.start_soon(one.halves.run)
        for step in (5_999, 1, 29_999, 1):
            clock[0] += step
            one.halves.look()
            await trio.testing.wait_all_tasks_blocked()
        assert asked == [("first", "a", 1), ("first", "a", 2)]
        one.halves.add_producer("g", second)  # type: ignore[arg-type]
        one.halves.remove_producer("g", first)  # type: ignore[arg-type]
        clock[0] += 30_000
        one.halves.look()
        await trio.testing.wait_all_tasks_blocked()
        assert asked[2:] == [("second", "a", 3)]
        assert one.values(partition) == ["a"]
        nursery.cancel_scope.cancel()


async def _does_not_know(question: Question) -> HalfEnd | None:
    return None


async def test_what_nobody_can_be_asked_about_waits_for_somebody() -> None:
    """A producer that is away for a night finds nothing parked."""
    clock = [START_MS]
    async with halves(clock) as one, trio.open_nursery() as nursery:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        for name in ("a", "b"):
            await one.send(name)
        nursery.start_soon(one.halves.run)
        for _ in range(50):
            clock[0] += 30_000
            one.halves.look()
            await trio.testing.wait_all_tasks_blocked()
        assert [(row.message_id, row.checks, row.parked) for row in one.halves.listed()] == [
            ("a", 0, False),
            ("b", 0, False),
        ]

        async def commits(question: Question) -> HalfEnd:
            assert question.checks == 1
            return HalfEnd.COMMITTED

        one.halves.add_producer("g", commits)
        clock[0] += 10_000
        one.halves.look()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(one.values(partition)) == ["a", "b"]
        nursery.cancel_scope.cancel()


async def test_after_the_last_check_it_is_parked_over_restarts_and_can_be_resumed_or_ended() -> None:
    clock = [START_MS]
    async with halves(clock) as one, trio.open_nursery() as nursery:
        await one.topics.ensure("t", 1)
        one.halves.add_producer("g", _does_not_know)
        for name in ("a", "b"):
            await one.send(name)
        nursery.start_soon(one.halves.run)
        for _ in range(5):
            clock[0] += 30_000
            one.halves.look()
            await trio.testing.wait_all_tasks_blocked()
        assert [(row.message_id, row.checks, row.parked) for row in one.halves.listed(parked=True)] == [
            ("a", 3, True),
            ("b", 3, True),
        ]
        nursery.cancel_scope.cancel()
        appends = one.engine.appends
    async with halves(clock, appends, 2) as one, trio.open_nursery() as nursery:
        (partition,) = (await one.topics.ensure("t", 1)).partitions
        assert [row.message_id for row in one.halves.listed(parked=True)] == ["a", "b"]
        assert await one.end("b", HalfEnd.COMMITTED) is None
        asked: list[str] = []

        async def ask(question: Question) -> HalfEnd | None:
            asked.append(question.message_id)
            return HalfEnd.ROLLED_BACK

        one.halves.add_producer("g", ask)
        nursery.start_soon(one.halves.run)
        await trio.testing.wait_all_tasks_blocked()
        assert asked == []
        await one.halves.resume("a")
        await trio.testing.wait_all_tasks_blocked()
        assert asked == ["a"]
        assert list(one.halves.listed()) == []
        assert one.values(partition) == ["b"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(20))
async def test_model_what_was_told_holds_through_crashes(seed: int) -> None:
    rng = random.Random(seed)
    clock = [START_MS]
    sent: set[str] = set()
    ends: dict[str, HalfEnd] = {}
    untold: set[str] = set()
    appends: list[list[Entry]] = []
    partition = 0
    for epoch in range(1, 7):
        async with halves(clock, appends, epoch) as one:
            (partition,) = (await one.topics.ensure("t", 1)).partitions
            for _ in range(rng.randint(1, 25)):
                name = f"m{rng.randrange(len(sent) + 3)}"
                if rng.random() < 0.4:
                    if name not in ends and name not in untold:
                        await one.send(name)
                        sent.add(name)
                    continue
                how = rng.choice((HalfEnd.COMMITTED, HalfEnd.ROLLED_BACK))
                error = await one.end(name, how)
                if name not in sent:
                    assert error is CoreError.UNKNOWN_MESSAGE
                elif name in untold and name not in ends:
                    ends[name] = HalfEnd.COMMITTED if error is CoreError.MESSAGE_ENDED else how
                elif ends.setdefault(name, how) is how:
                    assert error is None
                else:
                    assert error is CoreError.MESSAGE_ENDED
            acknowledged = len(one.engine.appends)
            open_ones = sorted(sent - ends.keys())
            if open_ones:  # a last end that nobody was told of
                untold.add(rng.choice(open_ones))
                for name in untold - ends.keys():
                    await one.end(name, HalfEnd.COMMITTED)
            keep = rng.randint(acknowledged, len(one.engine.appends))
            appends = [list(entries) for entries in one.engine.appends[:keep]]
    async with halves(clock, appends, 7) as one:
        found = one.values(partition)
        assert len(found) == len(set(found)), "delivered twice"
        waiting = {row.message_id for row in one.halves.listed()}
        committed = {name for name, how in ends.items() if how is HalfEnd.COMMITTED}
        assert committed <= set(found)
        assert not set(found) & {name for name, how in ends.items() if how is HalfEnd.ROLLED_BACK}
        assert waiting | set(found) | ends.keys() == sent
        assert not waiting & set(found)
