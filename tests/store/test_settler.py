"""The settler in a running engine: room comes back, keys are compacted, readers never notice, a restart finds it so."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

import core.store.survey as survey
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import (
    CreatePartition,
    DeleteBefore,
    DeletePartition,
    OffsetOutOfRange,
    PartitionPolicy,
    append,
)
from core.store.log_files import log_number
from core.store.manifest import settled_number
from core.store.survey import FileState, worth_rewriting
from tests.store.batches import batch, entry, read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import parse_header
from trivium.records import Record, build, build_control, decode

CONFIG = EngineConfig(segment_bytes=20_000, reserve_bytes=0, hot_batches_max=1, settle_bytes_per_s_max=0)


class Clock:
    def __init__(self) -> None:
        self.ms = 1000

    def __call__(self) -> int:
        return self.ms


@asynccontextmanager
async def running(disk: SimulatedDisk, clock: Clock, config: EngineConfig = CONFIG) -> AsyncIterator[EmbeddedEngine]:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk, now_ms=clock)
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


async def fill(engine: EmbeddedEngine, partition: int, count: int, size: int = 1000, timestamp_ms: int = 1000) -> None:
    for _ in range(count):
        data = random.Random(partition).randbytes(size)
        await append(engine, [entry(partition, batch(data, timestamp_ms=timestamp_ms))])


async def sealed(engine: EmbeddedEngine) -> None:
    """Waits until whatever segment is full has been sealed and the checkpoint is past it."""
    while engine._to_seal:
        await trio.lowlevel.checkpoint()


def settled(disk: SimulatedDisk) -> list[str]:
    return [name for name in disk.list() if settled_number(name) is not None]


def logs(disk: SimulatedDisk) -> list[str]:
    return [name for name in disk.list() if log_number(name) is not None]


async def test_deleting_a_topic_frees_the_disk_and_the_others_stay() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for _ in range(20):
            await fill(engine, 1, 4)
            await fill(engine, 2, 1)
        before = await read_all(engine, 2)
        await sealed(engine)
        used = disk.used_bytes()
        await append(engine, [DeletePartition(1)])
        await engine.settler.run_once()
        assert disk.used_bytes() < used - 50_000
        assert len(settled(disk)) >= 1
        assert await read_all(engine, 2) == before
    async with running(disk.cut(seed=1), clock) as engine:
        assert engine.partitions() == [2]
        assert await read_all(engine, 2) == before


async def test_a_deleted_topic_in_the_open_segment_is_freed_too() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        await fill(engine, 2, 2)
        await fill(engine, 1, 8)
        assert len(engine.files) == 0
        engine.settler._roll_dead_bytes_min = 5_000
        await append(engine, [DeletePartition(1)])
        await engine.settler.run_once()
        assert engine.settler.statistics.files_unlinked == 1
        assert len(await read_all(engine, 2)) == 2
        await fill(engine, 2, 1)
    async with running(disk.cut(seed=1), clock) as engine:
        assert len(await read_all(engine, 2)) == 3


@pytest.mark.parametrize("late_ms", [0, 1])
@pytest.mark.parametrize(
    "policy",
    [
        PartitionPolicy(delete=False, compact=True, max_compaction_lag_ms=500),
        PartitionPolicy(delete=False, compact=True, segment_ms=500),
    ],
)
async def test_a_record_in_the_open_segment_does_not_wait_longer_for_compaction_than_it_may(
    policy: PartitionPolicy, late_ms: int
) -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        engine.set_policy(1, policy)
        for i in range(4):
            await append(engine, [entry(1, batch(b"%d" % i, key=b"k", timestamp_ms=1000 + i))])
        clock.ms = 1500 + late_ms
        await engine.settler.run_once()
        assert engine.settler.statistics.cleans == late_ms
        kept = [r.value for b in await read_all(engine, 1) for r in decode(b, 1 << 20)]
        assert kept == ([b"3"] if late_ms else [b"0", b"1", b"2", b"3"])
        number = engine.settler._host.open_log_number
        await engine.settler.run_once()
        assert engine.settler._host.open_log_number == number  # no roll without new records


async def test_it_looks_sooner_while_records_wait_in_a_segment_that_is_meant_to_be_short() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        settler = engine.settler
        settler._interval_s = 30
        for segment_ms, pause_s in ((604_800_000, 30), (20_000, 20), (100, 5)):
            engine.set_policy(1, PartitionPolicy(delete=False, compact=True, segment_ms=segment_ms))
            assert settler._pause_s() == 30
            await append(engine, [entry(1, batch(b"x", key=b"k", timestamp_ms=1000))])
            assert settler._pause_s() == pause_s
            clock.ms += 604_800_001
            await settler.run_once()
        assert settler.statistics.cleans == 3


async def test_a_segment_is_no_older_than_it_is_whatever_its_records_say() -> None:
    disk, clock = SimulatedDisk(), Clock()
    clock.ms = 10_000
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        engine.set_policy(1, PartitionPolicy(delete=False, compact=True, segment_ms=500))
        await append(engine, [entry(1, batch(b"old", key=b"k", timestamp_ms=1))])
        number = engine.settler._host.open_log_number
        for later_ms, rolls in ((500, 0), (1, 1), (400, 0)):
            clock.ms += later_ms
            await engine.settler.run_once()
            assert engine.settler.statistics.cleans == (clock.ms > 10_500)
            assert engine.settler._host.open_log_number - number == rolls
            number += rolls
            await append(engine, [entry(1, batch(b"old", key=b"k", timestamp_ms=1))])
            number = engine.settler._host.open_log_number


@pytest.mark.parametrize("more", [0, 1])
async def test_a_partition_leaves_no_more_in_the_open_segment_than_its_segments_may_have(more: int) -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        size = 0
        for i in range(4):
            one = entry(1, batch(b"%d" % i, key=b"k", timestamp_ms=1000 + i))
            size += one.header.size_bytes
            await append(engine, [one])
        policy = PartitionPolicy(delete=False, compact=True, segment_bytes=size + more)
        engine.set_policy(1, replace(policy, min_compaction_lag_ms=100))
        await engine.settler.run_once()
        assert engine.settler.statistics.cleans == 0
        # Without a lag it does not matter that the records' clock is ahead of ours.
        engine.set_policy(1, policy)
        await engine.settler.run_once()
        assert engine.settler.statistics.cleans == 1 - more


async def test_a_log_segment_that_cold_readers_meet_in_pieces_is_sorted() -> None:
    disk, clock = SimulatedDisk(coldness=1.0), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for _ in range(40):
            await fill(engine, 1, 1, size=100)
            await fill(engine, 2, 1, size=5000)
        await sealed(engine)
        expected = await read_all(engine, 1)
        name = logs(disk)[0]
        engine._reader.scattered_reads[name] = survey.SCATTERED_READS_MIN
        await engine.settler.run_once()
        assert name not in disk.list()
        assert await read_all(engine, 1) == expected


async def test_files_without_anything_alive_are_unlinked_without_writing() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        await fill(engine, 1, 60)
        await sealed(engine)
        segments = len(logs(disk))
        await append(engine, [DeleteBefore(1, 59)])
        await engine.settler.run_once()
        assert len(logs(disk)) <= segments - 2
        assert engine.settler.statistics.bytes_written == 0
        assert settled(disk) == []
        with pytest.raises(OffsetOutOfRange):
            await engine.read(1, 58, 1)


async def test_what_is_alive_is_never_written_anew() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        await fill(engine, 1, 60)
        await fill(engine, 2, 20)
        await sealed(engine)
        await append(engine, [DeleteBefore(2, 10)])
        await engine.settler.run_once()
        assert engine.settler.statistics.bytes_written == 0


async def test_retention_by_time_and_by_bytes_moves_the_log_start_for_good() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2), CreatePartition(3)])
        for i in range(40):
            for partition in (1, 2, 3):
                await append(engine, [entry(partition, batch(bytes(900), timestamp_ms=1000 + 100 * i))])
        await sealed(engine)
        engine.set_policy(1, PartitionPolicy(retention_ms=500))
        engine.set_policy(2, PartitionPolicy(retention_bytes=5_000))
        engine.set_policy(3, PartitionPolicy(delete=False, compact=False, retention_ms=0))
        clock.ms = 1600
        await engine.settler.run_once()
        assert engine.info(1).log_start == 0, "what is older has just come"
        clock.ms = 3500
        await engine.settler.run_once()
        assert engine.info(1).log_start == 20, "all batches older than 3000"
        info = engine.info(2)
        size = parse_header((await read_all(engine, 2))[0]).size_bytes
        assert (40 - info.log_start - 1) * size < 5_000 <= (40 - info.log_start) * size
        assert engine.info(3).log_start == 0
        assert len(await read_all(engine, 1)) == 20
        clock.ms = 10_000
        await engine.settler.run_once()
        assert engine.info(1).log_start == 40
    async with running(disk.cut(seed=1), clock) as engine:
        assert engine.info(1).log_start == 40
        assert engine.info(2).log_start == info.log_start


@pytest.mark.parametrize("pressed", [False, True])
async def test_records_of_long_ago_stay_a_while_unless_the_disk_is_nearly_full(pressed: bool) -> None:
    disk, clock = SimulatedDisk(), Clock()
    clock.ms = 1_700_000_000_000
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        engine.set_policy(1, PartitionPolicy(retention_ms=604_800_000))
        engine.settler._host.room_pressed = lambda: pressed  # type: ignore[method-assign]
        for later_ms, log_start in ((0, 0), (299_999, 0), (1, 1), (299_999, 1), (1, 3)):
            await append(engine, [entry(1, batch(b"x", timestamp_ms=5))])
            clock.ms += later_ms
            await engine.settler.run_once()
            assert engine.info(1).log_start == (engine.info(1).high_watermark if pressed else log_start)
        await append(engine, [DeletePartition(1)])
        await engine.settler.run_once()
        assert not engine.settler._retention._arrived


async def test_retention_stops_at_an_open_transaction() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        await fill(engine, 1, 5)
        await append(engine, [entry(1, batch(b"x", producer=(7, 0), transactional=True))])
        await fill(engine, 1, 5)
        engine.set_policy(1, PartitionPolicy(retention_ms=0))
        clock.ms = 100_000
        await engine.settler.run_once()
        assert engine.info(1).log_start == 5


async def test_compaction_keeps_the_latest_of_each_key_through_restarts() -> None:
    disk, clock = SimulatedDisk(), Clock()
    policy = PartitionPolicy(delete=False, compact=True, min_cleanable_dirty_ratio=0.3, delete_retention_ms=100)
    rng = random.Random(1)
    latest: dict[bytes, bytes] = {}
    cut = disk
    for life in range(3):
        async with running(cut, clock) as engine:
            if not life:
                await append(engine, [CreatePartition(1), CreatePartition(2)])
            engine.set_policy(1, policy)
            for i in range(120):
                key, value = b"k%d" % rng.randrange(10), b"%d/%d" % (life, i) + bytes(300)
                latest[key] = value
                await append(engine, [entry(1, build([Record(0, 1, key, value, [])])), entry(2, batch(bytes(100)))])
            await sealed(engine)
            size = engine.info(1).size_bytes
            await engine.settler.run_once()
            assert engine.settler.statistics.cleans == 1
            assert engine.info(1).size_bytes < size / 2
            records = [r for b in await read_all(engine, 1) for r in decode(b, 1 << 20)]
            assert {r.key: r.value for r in records} == latest
            assert len(await read_all(engine, 2)) == 120 * (life + 1)
            assert engine.settler.manifest.clean[1].clean_until > 0
        cut = cut.cut(seed=life)


async def test_readers_see_what_compaction_left_though_the_ring_of_recent_batches_has_it_all() -> None:
    config = replace(CONFIG, hot_batches_max=1000)
    async with running(SimulatedDisk(), Clock(), config) as engine:
        await append(engine, [CreatePartition(1)])
        engine.set_policy(1, PartitionPolicy(delete=False, compact=True))
        for i in range(100):
            await append(engine, [entry(1, batch(b"%d" % i + bytes(500), key=b"k"))])
        await sealed(engine)
        await engine.settler.run_once()
        clean_until = engine.settler.manifest.clean[1].clean_until
        offsets = [r.offset for b in await read_all(engine, 1) for r in decode(b, 1 << 20)]
        assert offsets == list(range(clean_until - 1, 100))
        assert 1 < clean_until < 100


async def keyed(engine: EmbeddedEngine) -> None:
    for i in range(60):
        await append(engine, [entry(1, build([Record(0, 1, b"b%d" % (i % 40), bytes(900), [])]))])
    await sealed(engine)


async def test_aborted_data_and_then_its_marker_go_and_no_reader_is_told_of_it_any_more() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1)])
        engine.set_policy(1, PartitionPolicy(delete=False, compact=True, delete_retention_ms=100))
        record = [Record(0, 1, b"a", b"1", [])]
        aborted = build(record, producer_id=7, producer_epoch=0, base_sequence=0, transactional=True)
        await append(engine, [entry(1, aborted)])
        await append(engine, [entry(1, build_control(7, 0, False, 0, 1))])
        await append(
            engine, [entry(1, build([Record(0, 1, b"x", b"1", [])], producer_id=7, producer_epoch=0, base_sequence=1))]
        )
        await keyed(engine)
        await sealed(engine)
        assert len((await engine.read(1, 0, 1 << 20, committed=True)).aborted) == 1
        await engine.settler.run_once()
        first = await read_all(engine, 1)
        assert parse_header(first[0]).is_control
        await keyed(engine)
        await engine.settler.run_once()
        assert (await engine.read(1, 0, 1 << 20, committed=True)).aborted == []
        crashed = disk.cut(seed=1)
        clock.ms += 200
        await engine.settler.run_once()
        second = await read_all(engine, 1)
        assert not any(parse_header(b).is_control for b in second)
        assert parse_header(second[0]).base_offset == 2
    for after in (crashed, disk.cut(seed=2)):
        async with running(after, clock) as engine:
            assert (await engine.read(1, 0, 1 << 20, committed=True)).aborted == []


async def test_readers_go_on_while_files_are_swapped() -> None:
    disk, clock = SimulatedDisk(coldness=0.3), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for _ in range(30):
            await fill(engine, 1, 1)
            await fill(engine, 2, 3)
        await sealed(engine)
        expected = await read_all(engine, 1)
        rounds = 0
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def keep_reading() -> None:
                nonlocal rounds
                while not stop.is_set():
                    assert await read_all(engine, 1, bytes_max=2000) == expected
                    rounds += 1

            nursery.start_soon(keep_reading)
            nursery.start_soon(keep_reading)
            for offset in (50, 80, 85):
                await append(engine, [DeleteBefore(2, offset)])
                await engine.settler.run_once()
            stop.set()
        assert engine.settler.statistics.merges > 0
        assert rounds > 2


async def test_a_damaged_file_is_named_once_and_left_alone() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for _ in range(15):
            await fill(engine, 1, 1)
            await fill(engine, 2, 3)
        await sealed(engine)
        name = logs(disk)[1]
        for at in range(200, 15_000, 500):
            disk.corrupt(name, at)
        await append(engine, [DeletePartition(2)])
        await engine.settler.run_once()
        await engine.settler.run_once()
        assert engine.settler.statistics.damaged_files == 1
        assert name in disk.list()
        assert logs(disk)[0] == name, "the others were settled"


async def test_a_power_cut_anywhere_in_settling_leaves_the_old_or_the_new() -> None:
    disk, clock = SimulatedDisk(), Clock()
    async with running(disk, clock) as engine:
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for _ in range(15):
            await fill(engine, 1, 1)
            await fill(engine, 2, 3)
        await append(engine, [DeletePartition(2)])
        await sealed(engine)
        start = len(disk.trace)
        await engine.settler.run_once()
        end = len(disk.trace)
        expected = await read_all(engine, 1)
    points = range(start, end + 1)
    for _, cut in disk.cuts(points, seed=5):
        async with running(cut, clock) as engine:
            assert engine.recovered.findings == []
            assert await read_all(engine, 1) == expected
            await engine.settler.run_once()
            assert await read_all(engine, 1) == expected


def test_which_files_pay() -> None:
    alive = FileState(1, "0000000000000001.log", 100, 10, 0, 0)
    half = FileState(2, "0000000000000002.log", 50, 50, 0, 5)
    deleted = FileState(3, "0000000000000003.log", 80, 20, 20, 3)
    empty = FileState(4, "000000000004.settled", 0, 20, 20, 1)
    states = [alive, half, deleted, empty]

    def chosen(**how: object) -> list[int]:
        reads = how.pop("reads", {})
        return [s.file_id for s in worth_rewriting(states, reads, **{"pressed": False, "live_bytes_max": 999} | how)]  # type: ignore[arg-type]

    assert chosen() == [3, 2]
    assert chosen(pressed=True) == [3, 2]
    assert chosen(reads={alive.name: survey.SCATTERED_READS_MIN}) == [1, 3, 2]
    assert chosen(live_bytes_max=60) == [2]
