"""Messages stored once: within the window, with the first one's id as answer, over crashes, races and refusals."""

from __future__ import annotations

import random

import pytest
import trio

from core.errors import CoreError, CoreFailure
from core.store.engine import Appended, Entry, Outcome
from core.topics import Topic
from tests.core.schedules_driver import START_MS, Life, life
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

WINDOW = {"once.window.ms": "1000", "once.ids.max": "4"}


class Sending:
    """Sends of one topic; answers are the first message's id, or the error."""

    def __init__(self, one: Life, topic: Topic) -> None:
        self.one = one
        self.topic = topic
        self.partition = topic.partitions[0]
        self.answers: dict[str, list[str | CoreError]] = {}

    def begin(self, message_id: str, *once_ids: str, sequence: int = -1, later_ms: int = 0) -> trio.Event:
        records = []
        for once_id in once_ids:
            headers: list[tuple[str, bytes | None]] = [("trivium.id", message_id.encode())]
            headers.append(("once-id", once_id.encode()))
            if later_ms:
                headers.append(("deliver-at", str(self.one.clock[0] + later_ms).encode()))
            records.append(Record(0, self.one.clock[0], None, once_id.encode(), headers))
        producer = {} if sequence < 0 else {"producer_id": 9, "producer_epoch": 0, "base_sequence": sequence}
        batch = build(records, **producer)  # type: ignore[arg-type]
        header = parse_header(batch)
        records = decode(batch, 1 << 20)
        found = self.one.intake.sort(self.topic, self.partition, header, batch, records, self.one.clock[0], 1 << 20)
        told = trio.Event()

        def done(answers: list[Appended]) -> None:
            firsts: list[str | CoreError] = [message_id] * len(once_ids)
            try:
                for duplicate in self.one.intake.settle(found, answers[0].outcome):
                    firsts[duplicate.at] = duplicate.claim.message_id
            except CoreFailure as failure:
                firsts = [failure.error]
            if answers[0].outcome not in (Outcome.APPENDED, Outcome.DUPLICATE):
                firsts = [CoreError.STORE_FULL]
            self.answers[message_id] = firsts
            told.set()

        self.one.engine.append(found.entries, done)
        return told

    async def send(self, message_id: str, *once_ids: str, sequence: int = -1) -> list[str | CoreError]:
        await self.begin(message_id, *once_ids, sequence=sequence).wait()
        return self.answers[message_id]

    def values(self) -> list[str]:
        return [(record.value or b"").decode() for record in self.one.read(self.partition)]


async def sending(one: Life, config: dict[str, str] | None = None) -> Sending:
    return Sending(one, await one.topics.ensure("t", 1, config or WINDOW))


async def test_the_second_is_told_the_firsts_id_and_leaves_a_hole() -> None:
    async with life([START_MS]) as one:
        topic = await sending(one)
        assert await topic.send("m1", "a", "b") == ["m1", "m1"]
        assert await topic.send("m2", "c", "a", "d", "c") == ["m2", "m1", "m2", "m2"]
        assert topic.values() == ["a", "b", "c", "d"]
        assert one.engine.info(topic.partition).high_watermark == 6


async def test_one_on_its_way_counts_and_one_that_is_refused_does_not() -> None:
    async with life([START_MS]) as one:
        topic = await sending(one)
        told = [topic.begin("m1", "a"), topic.begin("m2", "a")]
        for event in told:
            await event.wait()
        assert topic.answers == {"m1": ["m1"], "m2": ["m1"]}
        one.engine.refuse = Outcome.FULL
        refused = topic.begin("m3", "b")
        one.engine.refuse = None
        second = topic.begin("m4", "b")
        await refused.wait()
        await second.wait()
        assert topic.answers["m4"] == [CoreError.CONTENDED]
        assert await topic.send("m5", "b") == ["m5"]
        assert topic.values() == ["a", "b"]


async def test_a_batch_sent_again_is_the_first_one_and_no_duplicate() -> None:
    async with life([START_MS]) as one:
        topic = await sending(one)
        assert await topic.send("m1", "a") == ["m1"]
        assert await topic.send("m2", "a", "b", sequence=0) == ["m1", "m2"]
        assert await topic.send("m2", "a", "b", sequence=0) == ["m1", "m2"], "its answer was lost"
        assert topic.values() == ["a", "b"]


async def test_the_window_ends_by_time_and_by_count() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        topic = await sending(one)
        await topic.send("m1", "a")
        clock[0] += 999
        assert await topic.send("m2", "a") == ["m1"]
        clock[0] += 1
        assert await topic.send("m3", "a") == ["m3"]
        for name in "bcd":
            await topic.send("x", name)
        assert await topic.send("m4", "a") == ["m3"], "four are remembered"
        assert await topic.send("m5", "e") == ["m5"]
        assert await topic.send("m6", "b", "c", "a") == ["x", "x", "m6"], "a went when e came"


async def test_without_a_window_ids_are_headers_like_others() -> None:
    async with life([START_MS]) as one:
        topic = await sending(one, {"once.window.ms": "0"})
        assert await topic.send("m1", "a", "a") == ["m1", "m1"]
        assert topic.values() == ["a", "a"]


async def test_a_deleted_topic_forgets_its_ids(autojump_clock: object) -> None:
    async with life([START_MS]) as one, trio.open_nursery() as nursery:
        one.topics.on_change(lambda topic: one.once.topic_changed(topic, one.topics.get(topic.name) is None))
        nursery.start_soon(one.once.run)
        topic = await sending(one)
        await topic.send("m1", "a")
        await one.topics.delete("t")
        topic = await sending(one)
        assert await topic.send("m2", "a") == ["m2"]
        await trio.sleep(1.5)
        nursery.cancel_scope.cancel()
        state = one.topics.get("__trivium_once")
        assert state is not None
        assert [record.value is None for record in one.read(state.partitions[0])] == [False, False, True]


@pytest.mark.parametrize("length", [0, 256])
async def test_ids_have_bounds(length: int) -> None:
    async with life([START_MS]) as one:
        topic = await sending(one)
        with pytest.raises(CoreFailure) as failure:
            topic.begin("m", "x" * length)
        assert failure.value.error is CoreError.INVALID_MESSAGE


@pytest.mark.parametrize("seed", range(12))
async def test_model_over_crashes(seed: int) -> None:
    rng = random.Random(seed)
    clock = [START_MS]
    appends: list[list[Entry]] = []
    firsts: dict[str, str] = {}
    stored: list[str] = []
    number = 0
    for epoch in range(1, 6):
        async with life(clock, appends=appends, epoch=epoch) as one:
            topic = await sending(one, {"once.window.ms": "100000"})
            for _ in range(rng.randint(1, 20)):
                names = [rng.choice("abcdefghij") for _ in range(rng.randint(1, 4))]
                number += 1
                answer = await topic.send(f"m{number}", *names)
                assert answer == [firsts.setdefault(name, f"m{number}") for name in names]
            acknowledged = len(one.engine.appends)
            stored = topic.values()
            await topic.begin("untold", rng.choice("klmnop")).wait()
            keep = rng.randint(acknowledged, len(one.engine.appends))
            if keep > acknowledged:
                firsts.setdefault(topic.values()[-1], "untold")
                stored = topic.values()
            appends = [list(entries) for entries in one.engine.appends[:keep]]
    assert sorted(stored) == sorted(set(stored))
    assert set(stored) == firsts.keys()
