"""Memory for the log's next bytes, prepared by a thread while the machine is slow to give it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from core.store import ahead
from core.store.ahead import AHEAD_BYTES, QUICK_S_PER_BYTE, SLOW_S_PER_BYTE, SLOW_WRITES, Ahead
from core.store.disk import RealDisk, RealFile
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, append
from core.store.log_files import Segment
from tests.store.batches import batch, entry

KIB = 1024
MIB = 1024 * KIB
SLOW_S = 64 * KIB * SLOW_S_PER_BYTE * 1.1


class Loads:
    """Stands for the thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[int, int]] = []
        self.s_per_byte = QUICK_S_PER_BYTE * 2
        monkeypatch.setattr(trio.to_thread, "run_sync", self._load)

    async def _load(self, _: object, __: object, offset: int, length: int) -> float:
        self.done.append((offset, length))
        return length * self.s_per_byte


def segment(path: Path, name: str = "segment", capacity: int = 64 * MIB) -> Segment:
    file = RealDisk(path).open(name, create=True)
    file.allocate(0, capacity)
    return Segment(1, file, capacity)


@asynccontextmanager
async def running() -> AsyncIterator[Ahead]:
    async with trio.open_nursery() as nursery:
        preparing = Ahead()
        nursery.start_soon(preparing.run)
        yield preparing
        nursery.cancel_scope.cancel()


def write(preparing: Ahead, segment: Segment, times: int, took_s: float = SLOW_S, size: int = 64 * KIB) -> None:
    for _ in range(times):
        preparing.written(segment, size, took_s)
        segment.place += size


async def test_nothing_is_prepared_while_writes_are_quick_small_or_only_now_and_then_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, one = Loads(monkeypatch), segment(tmp_path)
    async with running() as preparing:
        write(preparing, one, 100, took_s=SLOW_S / 2)
        write(preparing, one, 100, took_s=SLOW_S, size=8 * KIB)
        for _ in range(10):
            write(preparing, one, SLOW_WRITES - 1)
            write(preparing, one, 1, took_s=SLOW_S / 2)
        await trio.testing.wait_all_tasks_blocked()
    assert loads.done == []


async def test_slow_writes_have_what_follows_prepared_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, one = Loads(monkeypatch), segment(tmp_path)
    async with running() as preparing:
        while one.place < one.capacity:
            write(preparing, one, 1)
            await trio.testing.wait_all_tasks_blocked()
    assert loads.done[0][0] == MIB
    at = MIB
    for offset, length in loads.done:
        assert offset >= at
        assert length <= AHEAD_BYTES
        at = offset + length
    assert at == one.capacity
    assert len(loads.done) <= 2 * one.capacity // AHEAD_BYTES + 1


async def test_the_next_segment_is_prepared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(monkeypatch)
    one, two = segment(tmp_path, "one", 8 * MIB), segment(tmp_path, "two")
    async with running() as preparing:
        write(preparing, one, SLOW_WRITES + 1)
        await trio.testing.wait_all_tasks_blocked()
        write(preparing, two, 1)
        await trio.testing.wait_all_tasks_blocked()
    assert [sum(load) for load in loads.done] == [8 * MIB, AHEAD_BYTES + 64 * KIB]


async def test_it_ends_once_memory_is_quick_and_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, one = Loads(monkeypatch), segment(tmp_path)
    async with running() as preparing:
        loads.s_per_byte = QUICK_S_PER_BYTE / 2
        write(preparing, one, SLOW_WRITES + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(loads.done) == 1
        write(preparing, one, 20 * MIB // (64 * KIB), took_s=SLOW_S / 2)
        await trio.testing.wait_all_tasks_blocked()
        assert len(loads.done) == 1
        write(preparing, one, SLOW_WRITES + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(loads.done) == 2


async def test_the_writer_tells_of_its_writes_and_has_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    monkeypatch.setattr(ahead, "SLOW_S_PER_BYTE", 0.0)
    monkeypatch.setattr(RealFile, "load", lambda _, offset, length: loaded.append(offset))
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(tmp_path, EngineConfig(reserve_bytes=0))
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        for _ in range(100):
            await append(engine, [entry(1, batch(bytes(32 * KIB)))])
        while not loaded:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert loaded[0] == MIB


async def test_what_is_prepared_reads_as_zeros_and_takes_what_is_written(tmp_path: Path) -> None:
    one = segment(tmp_path)
    data = os.urandom(MIB)
    one.file.pwritev([data], 0)
    assert ahead._load(one.file, 0, 8 * MIB) >= 0
    one.file.pwritev([data], MIB)
    assert one.file.pread(2 * MIB, 0) == data + data
    assert one.file.pread(MIB, 4 * MIB) == bytes(MIB)


async def test_a_disk_that_fails_to_read_is_no_matter(tmp_path: Path) -> None:
    one = segment(tmp_path)
    one.file.close()
    assert ahead._load(one.file, 0, MIB) >= 0
