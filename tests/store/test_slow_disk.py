"""A disk that takes its time: the loop goes on, reads are served, what waits is bounded, and nothing is lost."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Appended, CreatePartition, Outcome, append
from core.store.writer import LOOP_WRITE_BYTES_MAX
from tests.patience import PATIENCE_S
from tests.store.batches import batch, entry, read_all
from tests.store.simulated_disk import SimulatedDisk

IN_FLIGHT = 6


@pytest.mark.parametrize("slow", ["sync", "write"])
async def test_a_disk_that_takes_its_time(slow: str) -> None:
    disk = SimulatedDisk()
    data = batch(b"x" * LOOP_WRITE_BYTES_MAX)  # of a group this size the write is a thread's
    config = EngineConfig(reserve_bytes=0, hot_batches_max=0, pending_bytes_max=IN_FLIGHT * len(data))
    gate = threading.Event()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        for _ in range(3):
            await append(engine, [entry(1, batch(b"before"))])
        if slow == "sync":
            disk.faults.syncs_wait_for = gate
        else:
            disk.faults.writes_wait_for = gate
        try:
            answers: list[Appended] = []
            for _ in range(IN_FLIGHT + 2):
                engine.append([entry(1, data)], answers.extend)
            await wait_all_tasks_blocked()
            assert answers == []
            assert engine.statistics()["pending_bytes"] == IN_FLIGHT * len(data)
            assert len(await read_all(engine, 1)) == 3, "reads go on, and see nothing that is not durable"
            assert engine.info(1).high_watermark == 3
        finally:
            gate.set()
        with trio.fail_after(PATIENCE_S):
            while len(answers) < IN_FLIGHT + 2:
                await trio.lowlevel.checkpoint()
        assert [a.base_offset for a in answers[:IN_FLIGHT]] == list(range(3, 3 + IN_FLIGHT))
        assert [a.outcome for a in answers[IN_FLIGHT:]] == [Outcome.FULL] * 2, "more than may wait is refused"
        left = disk.cut(seed=1)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=left)
        await nursery.start(engine.run)
        assert len(await read_all(engine, 1, bytes_max=1)) == 3 + IN_FLIGHT
        nursery.cancel_scope.cancel()
