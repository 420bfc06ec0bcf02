"""Syncs, by the loop, by the kernel, or by a thread where the kernel has none: they tell the truth about errors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
import trio.testing

from core.store import syncs, writer
from core.store.disk import RealDisk, RealFile
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, Outcome, StoreFailed, append
from core.store.syncs import Syncs
from tests.store.batches import batch, entry, read_all
from tests.store.simulated_disk import SimulatedDisk


class Disk:
    """A file whose syncs take as long as they are told, by a clock that else stands still."""

    now_s = 100.0
    sync_s = 0.0
    fails = False

    def fdatasync(self) -> None:
        self.now_s += self.sync_s
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(syncs, "QUICK_S", 0.001)
    monkeypatch.setattr("core.store.syncs.time.perf_counter", lambda: disk.now_s)
    return disk


def _sync(made: Syncs, disk: Disk, took_s: float) -> bool:
    disk.sync_s = took_s
    return made.sync_now(disk)  # type: ignore[arg-type]


def test_the_loop_syncs_until_the_disk_is_slow_and_tries_again_after_a_pause(disk: Disk) -> None:
    made = Syncs()
    for took_s in [0.0002] * 20 + [0.01] + [0.0002] * 100 + [0.01]:  # a slow one now and then is none
        assert _sync(made, disk, took_s)
    quick = 0
    while _sync(made, disk, 0.004):
        quick += 1
    assert 1 <= quick <= 8
    disk.now_s += syncs.PAUSE_S - 0.01
    assert not _sync(made, disk, 0.0002)
    disk.now_s += 0.02
    assert _sync(made, disk, 0.0002)
    assert _sync(made, disk, 1.0)  # it hangs
    assert not _sync(made, disk, 0.0002)
    made.close()


def test_an_error_of_the_loops_sync_is_raised(disk: Disk) -> None:
    made = Syncs()
    disk.fails = True
    with pytest.raises(OSError, match="Input/output error"):
        _sync(made, disk, 0.0)
    made.close()


async def test_a_sync_that_finds_no_room_ends_the_engine_as_any_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without room may be refused; what a failed sync leaves behind nobody knows."""

    def no_room(self: Syncs, file: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", EngineConfig(reserve_bytes=0), disk=SimulatedDisk())
            await nursery.start(engine.run)
            await append(engine, [CreatePartition(1)])
            monkeypatch.setattr(Syncs, "sync_now", no_room)
            [answer] = await append(engine, [entry(1, batch(b"a"))])
            assert answer.outcome is Outcome.FAILED


async def test_syncs_one_after_another_and_what_was_written_stays(tmp_path: Path) -> None:
    file = RealDisk(tmp_path).open("f", create=True)
    made = Syncs()
    if made._kernel is None:
        pytest.skip("no native AIO here")
    for number in range(5):
        file.pwritev([b"x" * 1000], number * 1000)
        assert made.begin_nowait(file)
        await made.wait_end()
    made.close()
    assert (tmp_path / "f").read_bytes() == b"x" * 5000


async def test_an_error_of_the_sync_is_raised_and_not_tried_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Syncs()
    if made._kernel is None:
        pytest.skip("no native AIO here")
    kernel = made._kernel
    file = RealDisk(tmp_path).open("f", create=True)
    calls = kernel._call

    def with_error(number: int, *arguments: object) -> int:
        result = calls(number, *arguments)
        if number == kernel._getevents and result:
            syncs._EVENT.pack_into(kernel._event, 0, 1, 0, -errno.EIO, 0)
        return result

    monkeypatch.setattr(kernel, "_call", with_error)
    monkeypatch.setattr(RealFile, "fdatasync", lambda _: pytest.fail("a failed sync was tried again"))
    assert made.begin_nowait(file)
    with pytest.raises(OSError, match="Input/output error"):
        await made.wait_end()


async def test_where_the_kernel_refuses_a_thread_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0

    def refuse(self: Syncs, file: object) -> bool:
        nonlocal refused
        refused += 1
        return False

    monkeypatch.setattr(Syncs, "begin_nowait", refuse)
    monkeypatch.setattr(Syncs, "sync_now", lambda self, file: False)
    synced: list[RealFile] = []
    monkeypatch.setattr(RealFile, "fdatasync", lambda file: synced.append(file))
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(tmp_path, EngineConfig(reserve_bytes=0))
        await nursery.start(engine.run)
        synced.clear()
        for entries in ([CreatePartition(1)], [entry(1, batch(b"a"))], [entry(1, batch(b"b"))]):
            assert (await append(engine, entries))[0].outcome is Outcome.APPENDED
        assert refused == 3
        assert len(synced) >= 3
        nursery.cancel_scope.cancel()


def test_a_kernel_without_the_call_has_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RealDisk(tmp_path).open("f", create=True)
    made = Syncs()
    if made._kernel is None:
        pytest.skip("no native AIO here")
    monkeypatch.setattr(made._kernel, "_submit", -1)  # ENOSYS
    assert not made.begin_nowait(file)
    made.close()


async def _engine_async(nursery: trio.Nursery, directory: Path) -> EmbeddedEngine:
    engine = EmbeddedEngine(directory, EngineConfig(flush="async", reserve_bytes=0, flush_interval_ms=3_600_000))
    await nursery.start(engine.run)
    await append(engine, [CreatePartition(1)])
    return engine


async def test_async_flushes_by_the_kernel_too_and_a_stop_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that comes back from a sync takes the interpreter's lock from the loop."""
    ended: list[str] = []
    inner = Syncs.wait_end

    async def slowly(self: Syncs) -> None:
        assert self._kernel is not None
        ended.append("begun")
        await trio.testing.wait_all_tasks_blocked()  # the stop has come as far as it can
        assert self._kernel is not None, "closed under a sync"
        await inner(self)
        ended.append("done")

    monkeypatch.setattr(Syncs, "wait_end", slowly)
    async with trio.open_nursery() as nursery:
        engine = await _engine_async(nursery, tmp_path)
        if engine._writer._syncs._kernel is None:
            pytest.skip("no native AIO here")
        await append(engine, [entry(1, batch(b"a"))])
        monkeypatch.setattr(trio.to_thread, "run_sync", lambda *_, **__: pytest.fail("a thread flushed"))
        await engine._writer.flush()
        assert ended == ["begun", "done"]
        nursery.start_soon(engine._writer.flush)
        while len(ended) < 3:
            await trio.lowlevel.checkpoint()
        monkeypatch.undo()
        nursery.cancel_scope.cancel()
    assert ended == ["begun", "done"] * 2


async def test_a_flush_that_the_kernel_fails_ends_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Syncs) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Syncs, "wait_end", fail)
    with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine(tmp_path, EngineConfig(flush="async", reserve_bytes=0, flush_interval_ms=1))
            await nursery.start(engine.run)
            if engine._writer._syncs._kernel is None:
                pytest.skip("no native AIO here")
            monkeypatch.setattr(RealFile, "fdatasync", lambda _: pytest.fail("a failed sync was tried again"))
            await append(engine, [CreatePartition(1), entry(1, batch(b"a"))])
            await trio.sleep_forever()


@pytest.mark.parametrize("why", ["large groups", "slow disk"])
@pytest.mark.parametrize("flush", ["sync", "async"])
async def test_groups_that_a_thread_writes_are_as_durable(
    why: str, flush: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "large groups":
        monkeypatch.setattr(writer, "LOOP_WRITE_BYTES_MAX", 1000)
    else:
        monkeypatch.setattr(writer, "SLOW_WRITE_S", -1.0)
    by_thread = 0
    inner = writer.Writer._write_and_sync

    def counted(*arguments: object) -> None:
        nonlocal by_thread
        by_thread += 1
        inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writer.Writer, "_write_and_sync", counted)
    disk = SimulatedDisk()
    config = EngineConfig(flush=flush, reserve_bytes=0, flush_interval_ms=3_600_000)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        for number in range(6):
            [answer] = await append(engine, [entry(1, batch(bytes(100 if number % 2 else 5000)))])
            assert (answer.outcome, answer.base_offset) == (Outcome.APPENDED, number)
        assert by_thread >= 3
        cut = disk.cut(seed=1)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=cut if flush == "sync" else disk)
        await nursery.start(engine.run)
        assert len(await read_all(engine, 1)) == 6
        nursery.cancel_scope.cancel()
