"""Opening a store: a clean stop, a crash, a torn end, damage in the middle, left-over bytes, other formats."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import trio
import trio.testing

from core.store import checkpoint
from core.store.disk import Disk
from core.store.embedded import EmbeddedEngine, EngineConfig, StoreLocked
from core.store.engine import (
    Appended,
    CreatePartition,
    DataDamaged,
    DeleteBefore,
    DeletePartition,
    Outcome,
    UnknownPartition,
    append,
)
from core.store.log_files import log_name
from core.store.partition import Range
from core.store.recovery import StoreFormatError
from core.store.replay import retire
from core.store.segment import (
    ENTRY_HEADER_BYTES,
    FILE_HEADER_BYTES,
    GROUP_HEADER_BYTES,
    Window,
    decode_file_header,
    scan_groups,
)
from tests.store.batches import batch, batches_in, entry, read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import parse_header
from trivium.records import build_control

CONFIG = EngineConfig(segment_bytes=64 * 1024, reserve_bytes=0, hot_batches_max=4)
CONFIG_ONE_SEGMENT = EngineConfig(segment_bytes=1 << 20, reserve_bytes=0)


@asynccontextmanager
async def running(disk: SimulatedDisk, config: EngineConfig = CONFIG) -> AsyncIterator[EmbeddedEngine]:
    """An engine on `disk`, stopped cleanly at the end."""
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


async def crashed(disk: SimulatedDisk, engine: EmbeddedEngine) -> SimulatedDisk:
    """What a kill -9 leaves: everything that was written, nothing that would be written at a stop."""
    return disk.copy()


async def put(engine: EmbeddedEngine, partition: int, *values: bytes) -> Appended:
    [answer] = await append(engine, [entry(partition, batch(*values))])
    assert answer.outcome is Outcome.APPENDED
    return answer


def groups_in(disk: SimulatedDisk, number: int) -> list[tuple[int, int]]:
    """(place, end) of each group in a log segment."""
    file = disk.open(log_name(number))
    salt = decode_file_header(file.pread(FILE_HEADER_BYTES, 0)).salt
    return [(g.place, g.end) for g in scan_groups(Window(file), salt)]


async def five(disk: SimulatedDisk, flush: Literal["sync", "async"] = "sync") -> SimulatedDisk:
    """A store that crashed with five groups in partition 1, after the group that created 1 and 2."""
    config = EngineConfig(flush=flush, segment_bytes=64 * 1024, reserve_bytes=0)
    async with running(disk, config) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for i in range(5):
            await put(engine, 1, b"%d" % i, b"x" * 100)
        return await crashed(disk, engine)


class TestStops:
    @pytest.mark.parametrize("clean", [True, False])
    async def test_everything_is_as_it_was(self, clean: bool) -> None:
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(p) for p in (1, 2, 3)])
            await append(engine, [entry(1, batch(b"a", producer=(7, 1), sequence=0, transactional=True))])
            for i in range(60):
                await put(engine, 1 + i % 2, b"%d" % i, b"y" * 3000)
            await append(engine, [entry(1, build_control(7, 1, False, 0, 1_000))])
            await append(engine, [entry(2, batch(b"b", producer=(8, 0), sequence=4, transactional=True))])
            await append(engine, [DeleteBefore(1, 9), DeletePartition(3)])
            before = {p: (engine.info(p), await read_all(engine, p), engine.producers(p)) for p in (1, 2)}
            aborted = (await engine.read(1, 9, 1 << 30, committed=True)).aborted
            position, epoch = engine.position, engine.epoch
            left = disk if clean else await crashed(disk, engine)
        for n in (1, 2):
            async with running(left) as engine:
                assert engine.partitions() == [1, 2]
                assert {p: (engine.info(p), await read_all(engine, p), engine.producers(p)) for p in (1, 2)} == before
                assert (await engine.read(1, 9, 1 << 30, committed=True)).aborted == aborted == [(7, 0, 61)]
                assert (engine.position, engine.epoch) == (position, epoch + n)
                assert engine.recovered.replayed_groups == 0 or (n == 1 and not clean)
                [duplicate] = await append(
                    engine, [entry(2, batch(b"b", producer=(8, 0), sequence=4, transactional=True))]
                )
                assert duplicate.outcome is Outcome.DUPLICATE
                assert duplicate.base_offset == before[2][0].high_watermark - 1
                [gone] = await append(engine, [CreatePartition(3)])
                assert gone.outcome is Outcome.UNKNOWN_PARTITION

    async def test_epochs_are_kept_per_partition(self) -> None:
        disk = SimulatedDisk()
        for i in range(3):
            async with running(disk) as engine:
                await append(engine, [CreatePartition(1)])
                if i != 1:
                    await put(engine, 1, b"a", b"b")
        async with running(disk) as engine:
            assert engine.epoch == 4
            assert engine.epoch_end(1, 4) == (3, 4)
            assert engine.epoch_end(1, 2) == (1, 2)
            assert [engine.epoch_of(1, o) for o in range(5)] == [1, 1, 3, 3, -1]
            assert [parse_header(b).leader_epoch for b in await read_all(engine, 1)] == [1, 3]

    async def test_appends_under_way_at_a_stop_are_answered(self) -> None:
        answers: list[Appended] = []
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(1)])
            for _ in range(50):
                engine.append([entry(1, batch())], answers.extend)
        assert [a.base_offset for a in answers] == list(range(50))
        engine.append([entry(1, batch())], answers.extend)
        await trio.testing.wait_all_tasks_blocked()
        assert answers[-1].outcome is Outcome.FAILED

    async def test_many_segments_are_read_in_order(self) -> None:
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(1)])
            for i in range(200):
                await put(engine, 1, b"%d" % i, b"z" * 2000)
            while engine._to_seal:
                await trio.lowlevel.checkpoint()
            assert engine.statistics()["sealed_files"] > 3
            found = await read_all(engine, 1)
            assert [parse_header(b).base_offset for b in found] == list(range(0, 400, 2))
            small = [parse_header(b).base_offset for b in await read_all(engine, 1, bytes_max=5000)]
            assert small == list(range(0, 400, 2))
            for offset in (0, 77, 200, 399):
                assert await engine.offset_at(1, engine.position_at(1, offset)) == offset // 2 * 2

    async def test_a_stop_without_room_for_the_footer_leaves_it_to_the_next_start(self) -> None:
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(1)])
            for i in range(20):
                await put(engine, 1, b"%d" % i, b"y" * 1000)
            before = await read_all(engine, 1)
            disk.faults.capacity_bytes = 0
        disk.faults.capacity_bytes = None
        async with running(disk) as engine:
            assert engine.recovered.replayed_groups == 21
            assert await read_all(engine, 1) == before
            assert engine.recovered.findings == []

    @pytest.mark.parametrize("stop", [False, True])
    async def test_a_checkpoint_that_fails_for_want_of_room_leaves_the_sealed_segment_as_it_is(
        self, stop: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, failures = checkpoint.write, 0

        def full_at_first(disk: Disk, data: bytes) -> None:
            nonlocal failures
            if failures < 1:
                failures += 1
                raise OSError(errno.ENOSPC, "no space left")
            write(disk, data)

        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(1)])
            for i in range(20):
                await put(engine, 1, b"%d" % i, b"y" * 1000)
            before = await read_all(engine, 1)
            monkeypatch.setattr(checkpoint, "write", full_at_first)
            await engine.settler._host.roll()
            while not failures:
                await trio.lowlevel.checkpoint()
            while not stop and engine._to_seal:
                engine._work.set()
                await trio.lowlevel.checkpoint()
            assert await read_all(engine, 1) == before
        async with running(disk) as engine:
            assert await read_all(engine, 1) == before


class TestTornEnds:
    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
    async def test_a_torn_last_group_is_cut(self, keep: float) -> None:
        left = await five(SimulatedDisk())
        place, end = groups_in(left, 1)[-1]
        for offset in range(place + int(keep * (end - place)), end):
            left.corrupt(log_name(1), offset, lambda byte: 0)
        async with running(left) as engine:
            assert engine.recovered.findings == []
            assert engine.info(1).high_watermark == 8
            assert engine.recovered.cut_bytes == int(keep * (end - place))
            assert (await put(engine, 1, b"new")).base_offset == 8
            assert len(await read_all(engine, 1)) == 5
        async with running(left) as engine:
            assert engine.info(1).high_watermark == 9

    async def test_groups_of_an_earlier_life_are_not_taken_for_new_ones(self) -> None:
        left = await five(SimulatedDisk())
        groups = groups_in(left, 1)
        file = left.open(log_name(1), write=True)
        tail = file.pread(groups[-1][1] - groups[-2][0], groups[-2][0])
        file.pwritev([tail], groups[-1][1])  # the last two groups once more, whole, behind the end
        async with running(left) as engine:
            assert engine.info(1).high_watermark == 10
            assert engine.recovered.findings == []

    async def test_with_async_what_was_not_synced_may_go_and_is_cut(self) -> None:
        left = await five(SimulatedDisk(), "async")
        place, _ = groups_in(left, 1)[3]
        left.corrupt(log_name(1), place + 20)
        async with running(left) as engine:
            assert engine.recovered.findings == []
            assert engine.info(1).high_watermark == 4
            assert len(await read_all(engine, 1)) == 2

    async def test_a_segment_made_ahead_is_not_kept(self) -> None:
        left = await five(SimulatedDisk())
        left.open(log_name(7), create=True).zero(0, 4096)
        async with running(left) as engine:
            assert engine.info(1).high_watermark == 10
            assert log_name(7) not in left.list()
            assert (await put(engine, 1, b"x")).base_offset == 10
        left.open(log_name(2), create=True).zero(0, 4096)  # one whose removal was not durable
        async with running(left) as engine:
            assert log_name(2) not in left.list()
            assert len(await read_all(engine, 1)) == 6


class TestDamage:
    async def test_a_durable_batch_that_rotted_is_reported_and_the_rest_served(self) -> None:
        left = await five(SimulatedDisk())
        _, end = groups_in(left, 1)[2]  # the group of offsets 2 and 3
        left.corrupt(log_name(1), end - 5)
        for _ in range(2):  # the second start knows it from the checkpoint
            async with running(left) as engine:
                assert engine.info(1).high_watermark == 10
                assert engine._partitions[1].damage == [(2, 4)]
                for offset in (2, 3):
                    with pytest.raises(DataDamaged) as caught:
                        await engine.read(1, offset, 1 << 20)
                    assert (caught.value.first_offset, caught.value.end_offset) == (2, 4)
                read = await engine.read(1, 0, 1 << 20)
                assert [parse_header(b).base_offset for b in batches_in(read)] == [0]
                read = await engine.read(1, 4, 1 << 20)
                assert [parse_header(b).base_offset for b in batches_in(read)] == [4, 6, 8]
                assert await engine.offset_for_time(1, 1_001) is not None

    async def test_a_durable_group_whose_header_rotted_is_a_damaged_range(self) -> None:
        left = await five(SimulatedDisk())
        place, _ = groups_in(left, 1)[2]
        left.corrupt(log_name(1), place + 17)
        async with running(left) as engine:
            assert len(engine.recovered.findings) == 1
            assert engine.info(1).high_watermark == 10
            with pytest.raises(DataDamaged):
                await engine.read(1, 3, 1 << 20)
            assert (await put(engine, 1, b"on")).base_offset == 10
            await append(engine, [DeleteBefore(1, 4)])
            assert len(await read_all(engine, 1)) == 4

    async def test_offsets_of_a_lost_group_are_not_given_out_again(self) -> None:
        disk = SimulatedDisk()
        async with running(disk, CONFIG_ONE_SEGMENT) as engine:
            await append(engine, [CreatePartition(n) for n in (1, 2, 3)])
            await put(engine, 1, b"a", b"b")
            await put(engine, 3, b"a")
            # the last of partition 2, and the last but one of partition 1
            await append(engine, [entry(1, batch(b"c")), entry(2, batch(b"a", b"b", b"c")), entry(1, batch(b"d"))])
            await put(engine, 1, b"e")
            left = await crashed(disk, engine)
        left.corrupt(log_name(1), groups_in(left, 1)[3][0] + GROUP_HEADER_BYTES + 4)  # the partition of its first batch
        for n in range(2):  # the second start knows it from the checkpoint
            async with running(left, CONFIG_ONE_SEGMENT) as engine:
                assert len(engine.recovered.findings) == (2 if n == 0 else 0)
                assert engine._partitions[1].damage == [(2, 4)]
                assert engine._partitions[2].damage == [(0, 4)]  # the batch behind its own could be its too
                assert engine._partitions[3].damage == []
                assert [engine.info(p).high_watermark for p in (1, 2, 3)] == [5, 4 + n, 1 + n]
                with pytest.raises(DataDamaged):
                    await engine.read(2, 0, 1 << 20)
                assert (await put(engine, 2, b"new")).base_offset == 4 + n
                assert (await put(engine, 3, b"new")).base_offset == 1 + n

    async def test_where_it_cannot_be_told_all_partitions_move_on_behind_what_was_lost(self) -> None:
        disk = SimulatedDisk()
        async with running(disk, CONFIG_ONE_SEGMENT) as engine:
            await append(engine, [CreatePartition(1), CreatePartition(2)])
            await put(engine, 2, *(b"" for _ in range(100)))
            await put(engine, 1, b"a")
            left = await crashed(disk, engine)
        place, end = groups_in(left, 1)[1]
        for at in range(place, end - 4):
            left.corrupt(log_name(1), at, lambda byte: 0)
        async with running(left, CONFIG_ONE_SEGMENT) as engine:
            assert engine._partitions[1].damage == []  # a later batch tells
            assert (await put(engine, 1, b"new")).base_offset == 1
            [(first, damage_end)] = engine._partitions[2].damage
            assert first == 0
            assert 100 <= damage_end <= 64 * (end - place)
            assert (await put(engine, 2, b"new")).base_offset == damage_end

    @pytest.mark.parametrize("at", [23, 57, 8])  # last offset delta, count, length
    async def test_the_end_of_a_partition_whose_last_batch_rotted_is_never_guessed_too_low(self, at: int) -> None:
        disk = SimulatedDisk()
        async with running(disk, CONFIG_ONE_SEGMENT) as engine:
            await append(engine, [CreatePartition(1), CreatePartition(2)])
            await put(engine, 1, b"a", b"b", b"c")
            await put(engine, 2, b"a")
            left = await crashed(disk, engine)
        place = groups_in(left, 1)[1][0] + GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES + at
        for byte in range(4):
            left.corrupt(log_name(1), place + byte, lambda byte: 0)
        async with running(left, CONFIG_ONE_SEGMENT) as engine:
            answer = await put(engine, 1, b"new")
            assert answer.base_offset >= 3
            assert engine._partitions[1].damage == [(0, answer.base_offset)]

    async def test_a_damaged_footer_is_made_anew(self) -> None:
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(1)])
            for i in range(5):
                await put(engine, 1, b"%d" % i)
            before = await read_all(engine, 1)
        disk.corrupt(log_name(1), len(disk.content(log_name(1))) - 10)
        async with running(disk) as engine:
            assert len(engine.recovered.findings) == 1
            assert await read_all(engine, 1) == before
        async with running(disk) as engine:
            assert engine.recovered.findings == []


class TestDirectory:
    async def test_a_second_engine_gets_a_clear_error(self, tmp_path: Path) -> None:
        async with trio.open_nursery() as nursery:
            first = EmbeddedEngine(tmp_path, CONFIG)
            await nursery.start(first.run)
            with pytest.raises(StoreLocked, match="in use by another process"):
                await EmbeddedEngine(tmp_path, CONFIG).run()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            await nursery.start(EmbeddedEngine(tmp_path, CONFIG).run)
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("text", [b"trivium-store 2\n", b"something else\n"])
    async def test_a_newer_or_foreign_format_is_refused(self, text: bytes) -> None:
        left = await five(SimulatedDisk())
        file = left.open("format", write=True)
        file.pwritev([text], 0)
        with pytest.raises(StoreFormatError):
            await EmbeddedEngine("", CONFIG, disk=left).run()

    async def test_log_segments_without_a_format_file_are_not_taken_over(self) -> None:
        left = await five(SimulatedDisk())
        left.unlink("format")
        with pytest.raises(StoreFormatError):
            await EmbeddedEngine("", CONFIG, disk=left).run()

    async def test_deleted_partitions_stay_unknown(self) -> None:
        disk = SimulatedDisk()
        async with running(disk) as engine:
            await append(engine, [CreatePartition(n) for n in range(10)])
            await append(engine, [DeletePartition(n) for n in (3, 5, 4, 0)])
            left = await crashed(disk, engine)
        async with running(left) as engine:
            assert engine.partitions() == [1, 2, 6, 7, 8, 9]
            with pytest.raises(UnknownPartition):
                engine.info(4)
            assert engine._retired == [(0, 1), (3, 6)]


def test_retired_numbers_are_kept_as_ranges() -> None:
    retired: list[Range] = []
    for number in (5, 9, 7, 6, 1, 8, 2, 20):
        retire(retired, number)
    assert retired == [(1, 3), (5, 10), (20, 21)]
