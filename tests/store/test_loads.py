"""Backlogs that are no longer in memory: a thread loads them in long stretches, and what it loaded leaves memory."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from core.store import loads, read_pace
from core.store.disk import RealDisk, RealFile
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, Read, append
from core.store.loads import ASKED_BYTES_MIN, EXTRA_BYTES_MAX, FILES_MAX, LOADED_BYTES_MAX, Loads
from core.store.mapping import Mapping
from core.store.read_pace import BYTES_PER_S_MIN, PAUSE_S_MAX, RATIO, ReadPace
from core.store.reader import _Plan, _read_runs
from tests.store.batches import batch, batches_in, entry

MIB = 1024 * 1024
PARTITIONS = (1, 2, 3, 4)


def made(path: Path, name: str = "file", size: int = 100) -> RealFile:
    file = RealDisk(path).open(name, create=True)
    file.pwritev([os.urandom(size)], 0)
    return file


def test_of_a_file_that_was_never_cold_nothing_is_due() -> None:
    assert Loads().due("a", 0, 8 * MIB, 8 * MIB) is None


def test_whole_stretches_are_loaded_and_each_once() -> None:
    found = Loads()
    assert found.begin("a", MIB + 5, 3 * MIB + 5, 2 * MIB) == range(MIB, 4 * MIB)
    assert found.due("a", MIB, 4 * MIB, 3 * MIB) is None
    assert found.due("a", 3 * MIB, 5 * MIB, 2 * MIB) == range(3 * MIB, 5 * MIB)
    assert found.due("b", MIB, 4 * MIB, 3 * MIB) is None


def test_who_asks_for_little_is_not_kept_waiting_for_more() -> None:
    assert Loads().begin("a", 0, MIB, ASKED_BYTES_MIN - 1) is None
    assert Loads().begin("a", 0, MIB, ASKED_BYTES_MIN) == range(MIB)


def test_what_lies_too_far_apart_is_read_one_by_one() -> None:
    assert Loads().begin("a", 0, loads.SPAN_BYTES_MAX, MIB) is not None
    assert Loads().begin("a", 0, loads.SPAN_BYTES_MAX + 1, MIB) is None


def test_what_nobody_asks_for_is_loaded_up_to_a_bound_and_what_neighbours_ask_for_without_end() -> None:
    alone, together = Loads(), Loads()
    starts = range(0, 64 * 16 * MIB, 16 * MIB)
    loaded = [alone.begin("a", start, start + 16 * MIB, MIB) for start in starts]
    extra = sum(15 * MIB for load in loaded if load)
    assert 0 < extra <= EXTRA_BYTES_MAX
    assert loaded[-1] is None
    for start in starts:
        assert together.begin("a", start, start + 16 * MIB, MIB) is not None
        for _ in range(15):
            assert together.due("a", start, start + 16 * MIB, MIB) is None


def test_what_was_found_cold_again_is_loaded_again() -> None:
    found = Loads()
    assert found.begin("a", 0, 4 * MIB, 4 * MIB) is not None
    assert found.begin("a", 0, 4 * MIB, 4 * MIB) == range(4 * MIB)


def test_what_was_loaded_first_leaves_memory_first(tmp_path: Path) -> None:
    found, file = Loads(), made(tmp_path, "a")
    step = 32 * MIB
    for start in range(0, LOADED_BYTES_MAX, step):
        load = found.begin("a", start, start + step, step)
        assert load == range(start, start + step)
        assert found.keep(file, load) == []
    load = found.begin("a", LOADED_BYTES_MAX, LOADED_BYTES_MAX + 1, MIB)
    assert load is not None
    assert found.keep(file, load) == [(file, range(step))]
    assert found.due("a", 0, step, step) == range(step)
    assert found.due("a", step, 2 * step, step) is None


def test_a_file_that_nobody_has_open_is_not_kept_open(tmp_path: Path) -> None:
    found, file = Loads(), made(tmp_path, "a")
    fd = file.fileno()
    found.keep(file, range(LOADED_BYTES_MAX))
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert found.keep(made(tmp_path, "b"), range(MIB)) == []


def test_files_are_forgotten_the_oldest_first() -> None:
    found = Loads()
    for number in range(FILES_MAX + 1):
        found.begin(str(number), 0, MIB, MIB)
    assert found.due("1", MIB, 2 * MIB, MIB) is not None
    assert found.due("0", MIB, 2 * MIB, MIB) is None


def test_a_load_ends_with_the_file_and_changes_nothing(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 77)
    file = RealDisk(tmp_path).open("file", create=True)
    file.pwritev([data], 0)
    for offset, length in ((0, 40 * MIB), (5, MIB), (3 * MIB, 10), (4 * MIB, MIB), (0, 0)):
        file.load(offset, length)
    assert file.pread(4 * MIB, 0) == data


def test_forgetting_takes_pages_out_of_the_map_that_are_there_again_when_used(tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    file = RealDisk(tmp_path).open("file", create=True)
    file.pwritev([data], 0)
    view = file.mapped(0, 4 * MIB)
    assert view is not None
    assert view == data
    file.fdatasync()
    with pytest.MonkeyPatch.context() as patch:
        asked: list[tuple[int, int]] = []
        real = Mapping.forget

        def noted(mapping: Mapping, offset: int, length: int) -> None:
            asked.append((offset, length))
            real(mapping, offset, length)

        patch.setattr(Mapping, "forget", noted)
        file.forget(MIB, 2 * MIB)
        file.forget(4 * MIB, MIB)  # beyond its end
    assert asked == [(MIB, 2 * MIB), (4 * MIB, MIB)]
    assert view == data


@asynccontextmanager
async def backlog(path: Path, batches: int) -> AsyncIterator[tuple[EmbeddedEngine, list[tuple[int, int]]]]:
    """Batches of 64 KiB by turns in PARTITIONS, none in the ring and all cold: read for now only by threads, until
    they have loaded them. Gives the loads too."""
    loaded: list[tuple[int, int]] = []
    patch = pytest.MonkeyPatch()
    preadv, mapped, load = RealFile.preadv, RealFile.mapped, RealFile.load

    def is_loaded(offset: int, length: int) -> bool:
        return any(start <= offset and offset + length <= start + size for start, size in loaded)

    def cold_preadv(file: RealFile, buffers: list[bytearray], offset: int, nowait: bool = False) -> int:
        if nowait and not is_loaded(offset, sum(map(len, buffers))):
            raise BlockingIOError(errno.EAGAIN, "cold")
        return preadv(file, buffers, offset, nowait)

    def cold_mapped(file: RealFile, offset: int, length: int) -> memoryview | None:
        return mapped(file, offset, length) if is_loaded(offset, length) else None

    def noted_load(file: RealFile, offset: int, length: int) -> None:
        loaded.append((offset, length))
        load(file, offset, length)

    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(path, EngineConfig(reserve_bytes=0, hot_batches_max=0))
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(number) for number in PARTITIONS])
        for number in range(batches):
            value = number.to_bytes(4, "big") * (16 * 1024)
            await append(engine, [entry(PARTITIONS[number % len(PARTITIONS)], batch(value))])
        with patch.context() as context:
            context.setattr(RealFile, "preadv", cold_preadv)
            context.setattr(RealFile, "mapped", cold_mapped)
            context.setattr(RealFile, "load", noted_load)
            yield engine, loaded
        nursery.cancel_scope.cancel()


def values(read: Read) -> list[int]:
    return [int.from_bytes(stored[-5:-1], "big") for stored in batches_in(read)]


@pytest.mark.parametrize("mapped", [True, False])
async def test_neighbours_are_loaded_with_one_call(tmp_path: Path, mapped: bool) -> None:
    async with backlog(tmp_path, 40) as (engine, loaded):
        for i, number in enumerate(PARTITIONS):
            read = engine.read_nowait(number, 0, MIB, mapped=mapped)
            assert (read is None) is (i == 0)
            read = await engine.read(number, 0, MIB, mapped=mapped)
            assert values(read) == list(range(i, 40, len(PARTITIONS)))
        assert len(loaded) == 1


async def test_the_thread_that_loads_lets_what_was_loaded_before_leave_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[tuple[int, int]] = []
    monkeypatch.setattr(loads, "LOADED_BYTES_MAX", 4 * MIB)

    def forget(_: RealFile, offset: int, length: int) -> None:
        forgotten.append((offset, length))
        raise OSError(errno.EBADF, "closed since")

    monkeypatch.setattr(RealFile, "forget", forget)
    async with backlog(tmp_path, 128) as (engine, loaded):
        found: list[int] = []
        offset = 0
        while offset < 32:
            read = await engine.read(1, offset, 512 * 1024, mapped=True)
            found += values(read)
            offset = len(found)
        assert found == list(range(0, 128, len(PARTITIONS)))
        assert len(loaded) > 2
        assert forgotten == loaded[: len(forgotten)]
        assert sum(size for _, size in loaded[len(forgotten) :]) <= 4 * MIB


async def test_a_file_that_gives_nothing_without_waiting_is_read_all_the_same(tmp_path: Path) -> None:
    async with backlog(tmp_path, 40) as (engine, loaded):
        read = await engine.read(1, 0, MIB, mapped=True)
        assert len(loaded) == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RealFile, "mapped", lambda *_: None)
            patch.setattr("core.store.reader._read_runs", _only_waiting)
            again = await engine.read(2, 0, MIB, mapped=True)
        assert values(read) == list(range(0, 40, len(PARTITIONS)))
        assert values(again) == list(range(1, 40, len(PARTITIONS)))
        assert len(loaded) == 2


async def test_what_the_disk_read_ahead_is_touched_by_a_thread_first(tmp_path: Path) -> None:
    async with backlog(tmp_path, 128) as (engine, loaded):
        await engine.read(1, 0, 512 * 1024, mapped=True)
        end = sum(loaded[0])
        loaded.append((0, 64 * MIB))  # all of it is in memory now
        assert engine.read_nowait(1, 0, 256 * 1024, mapped=True) is not None
        assert engine.read_nowait(1, 24, 512 * 1024, mapped=True) is None
        assert values(await engine.read(1, 24, 512 * 1024, mapped=True)) == list(range(96, 124, 4))
        assert loaded[2][0] >= end


def _only_waiting(plan: _Plan, nowait: bool = False) -> list[memoryview] | None:
    return None if nowait else _read_runs(plan)


async def test_a_disk_that_fails_between_the_batches_does_not_fail_the_read(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "a bad sector")

    async with backlog(tmp_path, 40) as (engine, _):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RealFile, "load", fail)
            read = await engine.read(1, 0, MIB, mapped=True)
        assert values(read) == list(range(0, 40, len(PARTITIONS)))


class Times:
    """What a `ReadPace` sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.busy = 100.0
        self.appended = 0
        self.synced = 0.0
        self.pace = ReadPace(lambda: self.appended, lambda: self.synced)
        monkeypatch.setattr("core.store.read_pace.time.monotonic", lambda: self.now)
        monkeypatch.setattr(read_pace, "_busy_s", lambda: self.busy)

    def go(self, seconds: float, busy: float, appended_per_s: float) -> None:
        self.now += seconds
        self.busy += seconds * busy
        self.appended += int(seconds * appended_per_s)


def test_readers_give_way_while_the_loop_is_busy_with_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    assert times.pace.load_s_min(8 * MIB) == 0
    times.go(1.0, 0.95, 100 * MIB)
    assert times.pace.load_s_min(8 * MIB) == pytest.approx(8 / 100 / RATIO, rel=0.01)
    assert times.pace.load_s_min(16 * MIB) == pytest.approx(16 / 100 / RATIO, rel=0.01)
    times.go(1.0, 0.5, 100 * MIB)
    assert times.pace.load_s_min(8 * MIB) == 0


def test_readers_give_way_while_appends_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    times.pace.load_s_min(8 * MIB)
    times.synced += 0.5
    times.go(1.0, 0.5, 100 * MIB)
    assert times.pace.load_s_min(8 * MIB) == pytest.approx(8 / 100 / RATIO, rel=0.01)


@pytest.mark.parametrize("by", ["loop", "kernel", "thread"])
async def test_the_time_for_which_appends_wait_for_the_disk_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by != "loop":
        monkeypatch.setattr("core.store.syncs.Syncs.sync_now", lambda *_: False)
    if by == "thread":
        monkeypatch.setattr("core.store.syncs.Syncs.begin_nowait", lambda *_: False)
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(tmp_path, EngineConfig(reserve_bytes=0))
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        before = engine._writer.sync_s
        began = time.perf_counter()
        for _ in range(3):
            await append(engine, [entry(1, batch(b"v"))])
        assert 0 < engine._writer.sync_s - before <= time.perf_counter() - began
        nursery.cancel_scope.cancel()


def test_readers_do_not_give_way_to_little_nor_to_what_was_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    times.pace.load_s_min(MIB)
    times.go(1.0, 1.0, 8 * MIB)
    assert times.pace.load_s_min(MIB) == 0
    times.go(60.0, 1.0, 100 * MIB)
    assert times.pace.load_s_min(MIB) == 0


def test_readers_always_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(monkeypatch)
    times.pace.load_s_min(MIB)
    times.go(1.0, 1.0, 20 * MIB)
    assert times.pace.load_s_min(MIB) == pytest.approx(MIB / BYTES_PER_S_MIN)
    assert times.pace.load_s_min(1000 * MIB) == PAUSE_S_MAX


def test_the_loops_time_is_told_with_and_without_the_systems_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    began = read_pace._busy_s()
    while read_pace._busy_s() == began:
        pass
    monkeypatch.setattr(read_pace, "_SCHEDSTAT", "/nowhere")
    began = read_pace._busy_s()
    while read_pace._busy_s() == began:
        pass


async def test_a_load_takes_as_long_as_the_pace_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    until: list[float] = []

    async def sleep_until(deadline: float) -> None:
        until.append(deadline)

    monkeypatch.setattr(ReadPace, "load_s_min", lambda _, size: size / MIB)
    async with backlog(tmp_path, 40) as (engine, loaded):
        monkeypatch.setattr(trio, "sleep_until", sleep_until)
        began = trio.current_time()
        await engine.read(1, 0, MIB, mapped=True)
        assert len(until) == 1
        assert until[0] >= began + loaded[0][1] / MIB
