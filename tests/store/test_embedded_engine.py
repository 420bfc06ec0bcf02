"""The embedded engine keeps the contract, in both flush modes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Appended, CreatePartition, DeleteBefore, Outcome, append
from tests.store.batches import batch, entry
from tests.store.contract import EngineContract
from tests.store.simulated_disk import SimulatedDisk, SimulatedFile


class TestEmbeddedEngine(EngineContract):
    @pytest.fixture(params=["sync", "async", "without ring"])
    async def engine(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
        flush: Literal["sync", "async"] = "async" if request.param == "async" else "sync"
        hot_batches = 0 if request.param == "without ring" else 100
        engine = EmbeddedEngine(tmp_path, EngineConfig(flush=flush, reserve_bytes=0, hot_batches_max=hot_batches))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


async def test_what_waits_for_the_disk_is_bounded_and_comes_back_by_itself() -> None:
    data = batch(b"x" * 1000)
    config = EngineConfig(reserve_bytes=0, pending_bytes_max=10 * len(data))
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=SimulatedDisk())
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        answers: list[Appended] = []
        for _ in range(15):  # the loop, which hears from the writer, does not run meanwhile
            engine.append([entry(1, data)], answers.extend)
        assert engine.statistics()["pending_bytes"] == 10 * len(data)
        [deleted] = await append(engine, [DeleteBefore(1, 0)])  # what gives room back is taken
        assert deleted.outcome is Outcome.APPENDED
        assert [a.outcome for a in answers] == [Outcome.APPENDED] * 10 + [Outcome.FULL] * 5
        assert engine.statistics()["pending_bytes"] == 0
        [after] = await append(engine, [entry(1, data)])
        assert (after.outcome, after.base_offset) == (Outcome.APPENDED, 10)
        nursery.cancel_scope.cancel()


async def test_positions_at_the_edge_of_a_sealed_file_need_no_index_from_the_disk() -> None:
    disk = SimulatedDisk()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", EngineConfig(reserve_bytes=0, segment_bytes=20_000), disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        answers = [(await append(engine, [entry(1, batch(b"x" * 3000))]))[0] for _ in range(60)]
        while engine._to_seal:
            await trio.lowlevel.checkpoint()
        extents = list(engine._partitions[1].extents or ())
        assert len(extents) > 5
        assert [engine.position_at(1, a.base_offset) for a in answers] == [a.position for a in answers]
        assert [await engine.offset_at(1, a.position) for a in answers] == [a.base_offset for a in answers]
        engine.files._blocks.clear()
        for extent in extents:
            engine.files._open.pop(extent.file_id, None)
            disk.unlink(engine.files.name(extent.file_id))
            assert engine.position_at(1, extent.first_offset) == extent.first_position
            assert await engine.offset_at(1, extent.first_position) == extent.first_offset
        engine.files.remove([e.file_id for e in extents])
        nursery.cancel_scope.cancel()


async def test_an_index_that_is_cold_is_read_by_a_thread() -> None:
    disk = SimulatedDisk()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", EngineConfig(reserve_bytes=0, segment_bytes=20_000), disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        answers = [(await append(engine, [entry(1, batch(b"x" * 3000))]))[0] for _ in range(60)]
        while engine._to_seal:
            await trio.lowlevel.checkpoint()
        reading: set[threading.Thread] = set()
        nowait = SimulatedFile.preadv

        def cold(
            file: SimulatedFile, buffers: Sequence[bytearray | memoryview], offset: int, nowait_only: bool = False
        ) -> int:
            if nowait_only:
                raise BlockingIOError
            reading.add(threading.current_thread())
            return nowait(file, buffers, offset)

        engine.files._blocks.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SimulatedFile, "preadv", cold)
            assert await engine.offset_at(1, answers[2].position) == answers[2].base_offset
        assert reading
        assert threading.main_thread() not in reading
        nursery.cancel_scope.cancel()
