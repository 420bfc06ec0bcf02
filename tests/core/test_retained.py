"""The table of retained messages: what it holds, also after a restart with every kind of table that it may find."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from core.filters import scan
from core.retained import BEHIND_MS_MAX, RetainedTable
from core.store.engine import Append, append
from core.store.memory import MemoryEngine
from core.table_file import TableFile
from core.topic_mapping import Rule, TopicMapping
from core.topics import Topics
from trivium.record_batch import parse_header
from trivium.records import Record, build

COMPACT = {"cleanup.policy": "compact"}


class Log:
    """An engine with its topics; `table` makes the table of one life of the broker."""

    def __init__(self, engine: MemoryEngine, directory: Path | None) -> None:
        self.engine = engine
        self.topics = Topics(engine)
        self.directory = directory

    @asynccontextmanager
    async def table(self, mapping: TopicMapping | None = None, *, keep: bool = True) -> AsyncIterator[RetainedTable]:
        topic = await self.topics.ensure("__trivium_retained", 1, COMPACT)
        identity = self.topics.cluster_id
        table = RetainedTable(
            self.engine, self.topics, mapping or TopicMapping(), topic.partitions[0], self.directory, identity
        )
        await table.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.run)
            yield table
            nursery.cancel_scope.cancel()
        if keep:
            table.close()
        else:
            table._file.close()  # what was not committed is lost

    async def retain(self, table: RetainedTable, *pairs: tuple[str, bytes | None]) -> None:
        records = [Record(n, 0, name.encode(), value, []) for n, (name, value) in enumerate(pairs)]
        await append(self.engine, [table.entry(records)])

    async def produce(self, topic: str, *pairs: tuple[bytes | None, bytes | None], partition: int = 0) -> None:
        batch = build([Record(n, 0, key, value, []) for n, (key, value) in enumerate(pairs)])
        known = self.topics.get(topic)
        assert known is not None
        await append(self.engine, [Append(known.partitions[partition], parse_header(batch), batch)])


def held(table: RetainedTable, filter_: str = "#") -> dict[str, bytes | None]:
    found = {name: table.get(name) for name in scan(filter_, table)}
    values = {name: one.record.value for name, one in found.items() if one is not None}
    assert filter_ != "#" or table.count == len(found)
    return values


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    """Grows by one entry for each call of a method."""
    calls: list[str] = []
    method: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.fixture
async def engine() -> AsyncIterator[MemoryEngine]:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


@pytest.fixture
async def log(engine: MemoryEngine, tmp_path: Path) -> Log:
    log = Log(engine, tmp_path)
    await log.topics.load()
    return log


async def test_the_last_of_each_name_is_held_and_a_null_value_deletes(log: Log) -> None:
    async with log.table() as table:
        await log.retain(table, ("a/b", b"1"), ("a/c", b"2"), ("/x", b"3"))
        await log.retain(table, ("a/b", b"4"), ("a/c", None), ("none", None))
        assert held(table) == {"a/b": b"4", "/x": b"3"}
        assert held(table, "a/+") == {"a/b": b"4"}


@pytest.mark.parametrize("keep", [True, False])
async def test_a_restart_folds_only_what_the_table_lacks(log: Log, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with log.table(keep=keep) as table:
        await log.retain(table, *[(f"n/{number}", b"old") for number in range(50)])
        table._commit()
        await log.retain(table, ("n/1", b"new"), ("n/2", None))
    read = counted(monkeypatch, RetainedTable, "_apply")
    async with log.table() as table:
        assert len(read) == (0 if keep else 2)
        values = held(table)
        assert len(values) == 49
        assert values["n/1"] == b"new"


async def test_a_table_that_cannot_be_used_is_made_anew(log: Log, tmp_path: Path) -> None:
    async with log.table() as table:
        await log.retain(table, ("a", b"1"))
    file = tmp_path / "retained.sqlite"
    for content in (b"rubbish", file.read_bytes()[:4096] + b"\xff" * 8192):
        file.write_bytes(content)
        async with log.table() as table:
            assert held(table) == {"a": b"1"}
    async with log.table() as table:
        table._applied[table.partition] += 5  # the log was taken back behind it
        table._apply(b"ghost", table.partition, Record(9, 0, b"ghost", b"x", []), False)
        table._file.begin()
    async with log.table() as table:
        assert held(table) == {"a": b"1"}


async def test_a_table_of_what_the_log_lost_is_made_anew_also_when_others_have_written_since(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.topics.create("prices", 1, {"mqtt.retain": "last"})
    async with log.table():
        await log.produce("prices", (b"eur", b"1"), (b"usd", b"2"))
    anew = counted(monkeypatch, TableFile, "start_anew")
    # The last life had two records, of which the log kept one; the next life has written more before the table opens.
    monkeypatch.setattr(log.engine, "epoch_end", lambda number, epoch: (epoch, 1))
    await log.produce("prices", (b"gbp", b"3"), (b"jpy", b"4"))
    async with log.table():
        assert anew


async def test_a_table_that_may_have_missed_deletions_is_made_anew(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async with log.table(keep=False) as table:
        await log.retain(table, ("a", b"1"), ("b", b"1"))
        table._commit()
        await log.retain(table, ("b", None))
    anew = counted(monkeypatch, TableFile, "start_anew")
    later_ns = time.time_ns() + (BEHIND_MS_MAX + 60_000) * 1_000_000
    with monkeypatch.context() as patch:
        patch.setattr("core.retained.time.time_ns", lambda: later_ns)
        async with log.table() as table:
            assert held(table) == {"a": b"1"}
    assert len(anew) == 1
    with monkeypatch.context() as patch:  # one that misses nothing is not, however old
        patch.setattr("core.retained.time.time_ns", lambda: 2 * later_ns)
        async with log.table() as table:
            assert held(table) == {"a": b"1"}
    assert len(anew) == 1


async def test_the_latest_record_per_key_of_a_topic_that_says_so_is_retained(log: Log) -> None:
    await log.topics.create("prices", 2, {"mqtt.retain": "last", **COMPACT})
    await log.topics.create("other", 1)
    await log.produce("prices", (b"eur", b"1"), (b"usd", b"2"), (b"eur", b"3"), (None, b"all"))
    await log.produce("other", (b"eur", b"no"))
    async with log.table() as table:
        assert held(table) == {"prices/eur": b"3", "prices/usd": b"2", "prices": b"all"}
        await log.produce("prices", (b"usd", None), (b"gbp", b"4"), (b"\xff", b"no name"))
        await log.produce("prices", (b"eur", b""), partition=1)  # an empty payload from a device
        await log.produce("prices", (b"jpy", b"5"), partition=1)
        assert held(table) == {"prices/gbp": b"4", "prices/jpy": b"5", "prices": b"all"}
        found = table.get("prices/jpy")
        assert found is not None
        owner = log.topics.owner(found.partition)
        assert owner is not None
        assert (owner[0].name, owner[1], found.record.offset) == ("prices", 1, 1)


async def test_a_topic_may_begin_and_cease_to_be_retained_while_the_broker_runs(log: Log) -> None:
    async with log.table() as table:
        await log.topics.create("late", 1)
        await log.produce("late", (b"k", b"1"))
        assert held(table) == {}
        await log.topics.update_config("late", lambda _: {"mqtt.retain": "last"})
        await trio.testing.wait_all_tasks_blocked()
        await log.produce("late", (b"l", b"2"))
        assert held(table) == {"late/k": b"1", "late/l": b"2"}
        await log.topics.update_config("late", lambda _: {})
        assert held(table) == {}
        await log.topics.update_config("late", lambda _: {"mqtt.retain": "last"})
        await trio.testing.wait_all_tasks_blocked()
        assert len(held(table)) == 2
        await log.topics.delete("late")
        assert held(table) == {}
    await log.topics.create("gone", 1, {"mqtt.retain": "last"})
    await log.produce("gone", (b"k", b"1"))
    async with log.table() as table:
        assert held(table) == {"gone/k": b"1"}


async def test_other_mapping_rules_give_other_names(log: Log) -> None:
    await log.topics.create("temps", 1, {"mqtt.retain": "last"})
    await log.produce("temps", (b"line1", b"20"))
    async with log.table() as table:
        assert held(table) == {"temps/line1": b"20"}
    async with log.table(TopicMapping([Rule("plant/+/temp", "temps", "{1}")])) as table:
        assert held(table) == {"plant/line1/temp": b"20"}


async def test_a_table_whose_disk_fails_folds_again_what_it_lost(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    mended = counted(monkeypatch, RetainedTable, "_mend")
    async with log.table() as table:
        await log.retain(table, ("a", b"1"))
        table._commit()
        table._file.connection.execute("PRAGMA max_page_count = 1")  # as a full disk
        await log.retain(table, ("big", b"x" * 100_000), ("a", b"2"))
        assert mended
        table._file.connection.execute("PRAGMA max_page_count = 1073741823")
        while table.get("big") is None:
            await trio.lowlevel.checkpoint()
        assert held(table) == {"a": b"2", "big": b"x" * 100_000}


async def test_what_is_stored_after_the_close_is_folded_by_the_next_life(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a clean stop other listeners end later than MQTT's."""
    made_anew = counted(monkeypatch, TableFile, "start_anew")
    async with log.table() as table:
        await log.retain(table, ("a", b"1"))
    await log.retain(table, ("b", b"2"))
    await log.topics.create("t", 1, {"mqtt.retain": "last"})
    async with log.table() as table:
        assert held(table) == {"a": b"1", "b": b"2"}
    assert made_anew == []
