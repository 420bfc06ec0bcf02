"""Scheduled messages: once into their partition, at their time, cancelled or not, whatever crashes when."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from core import schedules
from core.errors import CoreError, CoreFailure
from core.schedule_log import End
from core.store.engine import Outcome
from tests.core.schedules_driver import START_MS, Life, life


async def topic(one: Life, name: str = "t", partitions: int = 2) -> tuple[int, ...]:
    return (await one.topics.ensure(name, partitions)).partitions


async def test_a_message_comes_at_its_time_and_once_with_all_it_was_sent_with() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, second = await topic(one)
        await one.schedule(first, START_MS + 10, "a", b"x")
        await one.schedule(second, START_MS + 5, "b", None)
        clock[0] += 4
        await one.settle()
        assert one.ids(first) == one.ids(second) == []
        clock[0] += 1
        await one.settle()
        assert (one.ids(first), one.ids(second)) == ([], ["b"])
        clock[0] += 100
        await one.settle()
        await one.settle()
        [record] = one.read(first)
        assert record[1:] == (clock[0], b"k", b"x", [("trivium.id", b"a")])
        [record] = one.read(second)
        assert record[1:] == (START_MS + 5, b"k", None, [("trivium.id", b"b")])


async def test_what_is_due_together_comes_in_due_order_then_in_the_order_it_was_sent() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, _ = await topic(one)
        dues = [3, 1, 2, 1, 3, 2]
        for number, due in enumerate(dues):
            await one.schedule(first, START_MS + due, str(number))
        clock[0] += 10
        await one.settle()
        assert one.ids(first) == ["1", "3", "2", "5", "0", "4"]


async def test_the_answers_to_a_cancellation() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, _ = await topic(one)
        await one.schedule(first, START_MS + 5, "soon")
        await one.schedule(first, START_MS + 50, "later")
        assert await one.cancel("never") is None
        assert await one.cancel("later") is End.CANCELLED
        clock[0] += 5
        assert await one.cancel("soon") is End.CANCELLED, "due, and cancelled in the same round: not delivered"
        assert await one.cancel("later") is End.CANCELLED, "asked again"
        await one.schedule(first, START_MS + 6, "gone")
        clock[0] += 100
        await one.settle()
        assert await one.cancel("gone") is End.DELIVERED
        assert one.ids(first) == ["gone"]


async def test_a_deleted_topic_drops_what_waits_for_it_and_the_others_come() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, _ = await topic(one)
        (other,) = await topic(one, "other", 1)
        for name, partition in (("a", first), ("b", other), ("c", first)):
            await one.schedule(partition, START_MS + 5, name)
        await one.topics.delete("t")
        again, _ = await topic(one)
        clock[0] += 5
        await one.settle()
        assert one.ids(other) == ["b"]
        assert one.ids(again) == []
        assert one.schedules.dropped == 2
        assert await one.cancel("a") is None
        assert await one.cancel("b") is End.DELIVERED


async def test_pages_list_what_is_pending_soonest_first() -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, second = await topic(one)
        for number in range(10):
            await one.schedule((first, second)[number % 2], START_MS + 100 - number, str(number), b"x" * number)
        pages = [await one.page(rows_max=4)]
        while pages[-1]:
            pages.append(await one.page((pages[-1][-1].due_ms, pages[-1][-1].number), 4))
        rows = [row for page in pages for row in page]
        assert [row.message_id for row in rows] == [str(number) for number in range(9, -1, -1)]
        assert {(row.topic, row.partition, row.key) for row in rows} == {("t", 0, b"k"), ("t", 1, b"k")}
        assert [row.value_bytes for row in rows] == list(range(9, -1, -1))


async def test_a_full_store_delays_and_tells_who_cancels(autojump_clock: object) -> None:
    clock = [START_MS]
    async with life(clock) as one:
        first, _ = await topic(one)
        await one.schedule(first, START_MS + 5, "a")
        await one.schedule(first, START_MS + 500, "b")
        clock[0] += 5
        one.engine.refuse = Outcome.FULL
        await one.schedules.round()
        with pytest.raises(CoreFailure) as failure:
            await one.cancel("b")
        assert failure.value.error is CoreError.STORE_FULL
        one.engine.refuse = None
        await one.settle()
        assert one.ids(first) == ["a"]
        assert await one.cancel("b") is End.CANCELLED


@pytest.mark.parametrize("harm", ["removed", "rubbish", "another"])
async def test_a_table_that_is_lost_is_made_anew_from_the_log(tmp_path: Path, harm: str) -> None:
    clock = [START_MS]
    async with life(clock, tmp_path) as one:
        first, _ = await topic(one)
        for number in range(5):
            await one.schedule(first, START_MS + 10 * number, str(number))
        clock[0] += 25
        await one.settle()
        assert await one.cancel("4") is End.CANCELLED
        appends = one.engine.appends
    table = tmp_path / "schedules.sqlite"
    if harm == "removed":
        table.unlink()
    elif harm == "rubbish":
        table.write_bytes(b"no table at all" * 1000)
    else:
        with sqlite3.connect(table) as changed:
            changed.execute("UPDATE meta SET value = 'another' WHERE name = 'identity'")
        changed.close()
    async with life(clock, tmp_path, appends=appends, epoch=2) as one:
        assert one.ids(first) == ["0", "1", "2"]
        assert await one.cancel("1") is End.DELIVERED
        assert await one.cancel("4") is End.CANCELLED
        clock[0] += 100
        await one.settle()
        assert one.ids(first) == ["0", "1", "2", "3"]


async def test_a_damaged_row_is_read_from_the_log_again(autojump_clock: object, tmp_path: Path) -> None:
    clock = [START_MS]
    async with life(clock, tmp_path) as one:
        first, _ = await topic(one)
        await one.schedule(first, START_MS + 5, "a", b"x")
        await one.page()
        with sqlite3.connect(tmp_path / "schedules.sqlite") as changed:
            changed.execute("UPDATE pending SET body = x'00'")
        changed.close()
        clock[0] += 5
        await one.settle()
        assert [(record.value, record.key) for record in one.read(first)] == [(b"x", b"k")]


@pytest.mark.parametrize("seed", range(14))
async def test_model_every_message_ends_once_and_as_it_was_told(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random schedules, cancellations, times and crashes: after a crash any prefix of the log that holds what was
    acknowledged, and any earlier state of the table.
    """
    rng = random.Random(seed)
    if seed % 2:
        monkeypatch.setattr(schedules, "FOLD_BYTES", 1)  # one batch a round: the table is behind the log
    clock = [START_MS]
    due: dict[str, int] = {}
    told: dict[str, End | None] = {}
    appends: list[list[object]] = []
    directory: Path | None = tmp_path / "0"
    partitions: tuple[int, ...] = ()
    for epoch in range(1, 6):
        async with life(clock, directory, appends=appends, epoch=epoch) as one:  # type: ignore[arg-type]
            partitions = await topic(one)
            copy = tmp_path / f"{epoch}"
            for _ in range(rng.randint(1, 40)):
                match rng.choice(("schedule", "schedule", "time", "round", "cancel", "copy")):
                    case "schedule":
                        name = f"m{len(due)}"
                        due[name] = clock[0] + rng.choice((0, 1, 5, 5, 20, 200))
                        await one.schedule(rng.choice(partitions), due[name], name, rng.choice((b"v", None)))
                    case "time":
                        clock[0] += rng.choice((1, 5, 50))
                    case "round":
                        await one.schedules.round()
                    case "cancel":
                        name = f"m{rng.randrange(len(due) + 2)}"
                        answer = await one.cancel(name)
                        assert answer in (End.CANCELLED, End.DELIVERED) if name in due else answer is None
                        if name in due:
                            assert told.setdefault(name, answer) is answer, f"{name}: {told[name]}, now {answer}"
                    case "copy":
                        await one.page()  # commits
                        shutil.rmtree(copy, ignore_errors=True)
                        shutil.copytree(directory or tmp_path, copy)
            if rng.random() < 0.5:
                await one.settle()
            acknowledged = len(one.engine.appends)
            if rng.random() < 0.7:  # a last round that nobody was told of, of which the crash may have left nothing
                clock[0] += 10
                await one.schedules.round()
            keep = rng.randint(acknowledged, len(one.engine.appends))
            appends = [list(entries) for entries in one.engine.appends[:keep]]
        if copy.exists() and rng.random() < 0.7:
            directory = copy
        elif rng.random() < 0.3:
            directory = tmp_path / f"new{epoch}"
    clock[0] += 1_000
    async with life(clock, directory, appends=appends, epoch=6) as one:  # type: ignore[arg-type]
        await one.settle()
        found = [name for partition in partitions for name in one.ids(partition)]
        assert len(found) == len(set(found)), "delivered twice"
        cancelled = {name for name, answer in told.items() if answer is End.CANCELLED}
        assert set(found) == set(due) - cancelled
        assert {name for name, answer in told.items() if answer is End.DELIVERED} <= set(found)
        for partition in partitions:
            for record in one.read(partition):
                assert record.timestamp >= due[dict(record.headers)["trivium.id"].decode()]  # type: ignore[union-attr]
