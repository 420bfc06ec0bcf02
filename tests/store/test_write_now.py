"""`write_now`: what was appended is written in the caller's step, and nothing of it reaches the caller."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Append, Appended, CreatePartition, Outcome, StoreFailed, append
from core.store.syncs import Syncs
from tests.store.batches import batch, entry, read_all
from tests.store.simulated_disk import SimulatedDisk, SimulatedFile


@asynccontextmanager
async def _engine(disk: SimulatedDisk, flush: str = "async") -> AsyncIterator[EmbeddedEngine]:
    config = EngineConfig(flush=flush, reserve_bytes=0, flush_interval_ms=3_600_000)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        yield engine
        nursery.cancel_scope.cancel()


def _into(answers: list[Appended]) -> Callable[[list[Appended]], None]:
    return answers.extend


async def test_async_answers_come_in_the_same_step_as_one_group_and_in_order() -> None:
    async with _engine(SimulatedDisk()) as engine:
        groups = engine.statistics()["groups"]
        answers: list[Appended] = []
        for number in range(3):
            engine.append([entry(1, batch(b"%d" % number))], _into(answers))
        engine.append([entry(9, batch(b"refused"))], _into(answers))
        engine.write_now()
        assert [a.outcome for a in answers] == [Outcome.APPENDED] * 3 + [Outcome.UNKNOWN_PARTITION]
        assert [a.base_offset for a in answers[:3]] == [0, 1, 2]
        assert engine.statistics()["groups"] == groups + 1
        assert len(await read_all(engine, 1)) == 3


async def test_where_the_loop_syncs_answers_come_in_the_same_step_and_are_durable() -> None:
    disk = SimulatedDisk()
    async with _engine(disk, "sync") as engine:
        answers: list[Appended] = []
        engine.append([entry(1, batch(b"a"))], _into(answers))
        engine.write_now()
        assert [a.outcome for a in answers] == [Outcome.APPENDED]
        await _is_durable(disk.cut(seed=1))


async def _is_durable(cut: SimulatedDisk) -> None:
    async with trio.open_nursery() as nursery:
        again = EmbeddedEngine("", EngineConfig(reserve_bytes=0), disk=cut)
        await nursery.start(again.run)
        assert len(await read_all(again, 1)) == 1
        nursery.cancel_scope.cancel()


async def test_where_the_disk_is_slow_answers_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Syncs, "sync_now", lambda self, file: False)
    disk = SimulatedDisk()
    async with _engine(disk, "sync") as engine:
        answers: list[Appended] = []
        answered = trio.Event()

        def done(given: list[Appended]) -> None:
            answers.extend(given)
            answered.set()

        engine.append([entry(1, batch(b"a"))], done)
        engine.write_now()
        assert answers == []
        await answered.wait()
        assert answers[0].outcome is Outcome.APPENDED
        cut = disk.cut(seed=1)
    await _is_durable(cut)


@pytest.mark.parametrize("flush", ["sync", "async"])
async def test_what_an_answer_leads_to_is_written_too(flush: str) -> None:
    """An append from inside `done`, hurried or not, is neither lost nor answered before its turn."""
    async with _engine(SimulatedDisk(), flush) as engine:
        offsets: list[int] = []
        ended = trio.Event()

        def done(given: list[Appended]) -> None:
            offsets.append(given[0].base_offset)
            if len(offsets) == 6:
                ended.set()
            elif len(offsets) < 6:
                engine.append([entry(1, batch(b"next"))], done)
                engine.write_now()

        engine.append([entry(1, batch(b"first"))], done)
        engine.write_now()
        await ended.wait()
        assert offsets == [0, 1, 2, 3, 4, 5]


async def test_a_fault_in_an_answer_ends_the_engine_and_not_the_caller() -> None:
    def fail(_: list[Appended]) -> None:
        raise RuntimeError("a fault of ours")

    async def attempt() -> None:
        async with _engine(SimulatedDisk()) as engine:
            engine.append([entry(1, batch(b"a"))], fail)
            engine.write_now()  # raises nothing here
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await attempt()
    assert raised.group_contains(RuntimeError, match="a fault of ours")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_write_that_fails_is_answered_in_the_same_step(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Appended] = []

    async def attempt() -> None:
        async with _engine(SimulatedDisk()) as engine:
            await append(engine, [entry(1, batch(b"fits"))])

            def refuse(*_: Any) -> int:
                raise OSError(code, "refused")

            with monkeypatch.context() as patch:
                patch.setattr(SimulatedFile, "pwritev", refuse)
                engine.append([entry(1, batch(b"does not"))], _into(answers))
                engine.write_now()
            if code == errno.EIO:
                await trio.sleep_forever()
            assert engine.info(1).high_watermark == 1

    if code == errno.EIO:
        with pytest.raises(ExceptionGroup) as raised:
            await attempt()
        assert raised.group_contains(StoreFailed)
        assert answers[0].outcome is Outcome.FAILED
    else:
        await attempt()
        assert answers[0].outcome is Outcome.FULL


async def test_a_group_too_large_for_its_segment_is_left_to_the_task() -> None:
    config = EngineConfig(flush="async", reserve_bytes=0, segment_bytes=64 * 1024, flush_interval_ms=3_600_000)
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=SimulatedDisk())
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        answers: list[Appended] = []
        for _ in range(8):
            engine.append([Append(*entry(1, batch(bytes(20_000))))], _into(answers))
            engine.write_now()
        [last] = await append(engine, [entry(1, batch(b"last"))])
        assert [a.base_offset for a in answers] == list(range(8))
        assert last.base_offset == 8
        nursery.cancel_scope.cancel()
