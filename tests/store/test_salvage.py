"""Opening a store whose footers or checkpoint are damaged: what is good is served, no offset is given out again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from core.store.checkpoint import CHECKPOINT_NAME, COPY_NAME
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, DataDamaged, DeletePartition, PartitionPolicy, append
from core.store.index import TRAILER_BYTES, read_footer
from core.store.log_files import log_name
from core.store.manifest import settled_number
from core.store.segment import FILE_HEADER_BYTES, BadFile, Group, Window, decode_file_header, scan_groups
from core.store.verify import verify
from tests.store.batches import batch, entry, read_all
from tests.store.simulated_disk import SimulatedDisk
from tests.store.test_recovery import put, running
from trivium.record_batch import parse_header

CONFIG = EngineConfig(segment_bytes=20_000, reserve_bytes=0, hot_batches_max=1, settle_bytes_per_s_max=0)
KEPT = (1, 2, 4)  # partitions of the settled file; 3 is deleted so that the log segments are sparse


async def settled_store() -> tuple[SimulatedDisk, str]:
    """A stopped store, and the name of its settled file: three partitions of 20 large batches each, in groups."""
    disk = SimulatedDisk()
    async with running(disk, replace(CONFIG, segment_bytes=1_000_000)) as engine:
        await append(engine, [CreatePartition(p) for p in (*KEPT, 3)])
        for i in range(20):
            for p in KEPT:
                await put(engine, p, b"%d" % i, b"x" * 40_000)
            await put(engine, 3, b"y" * 120_000)
        await engine.settler._host.roll()
        while engine._to_seal:
            await trio.lowlevel.checkpoint()
        await append(engine, [DeletePartition(3)])
        await engine.settler.run_once()
        await put(engine, 1, b"later", b"and later")
    [name] = [n for n in disk.list() if settled_number(n) is not None]
    return disk, name


def groups(disk: SimulatedDisk, name: str) -> list[Group]:
    file = disk.open(name)
    salt = decode_file_header(file.pread(FILE_HEADER_BYTES, 0)).salt
    return list(scan_groups(Window(file, read_footer(file).groups_end), salt))


async def offsets(engine: EmbeddedEngine, partition: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Base offsets that can be read, and the damaged ranges met on the way."""
    found: list[int] = []
    damaged: list[tuple[int, int]] = []
    at = engine.info(partition).log_start
    while at < engine.info(partition).high_watermark:
        try:
            read = await engine.read(partition, at, 1)
        except DataDamaged as e:
            damaged.append((e.first_offset, e.end_offset))
            at = e.end_offset
            continue
        header = parse_header(b"".join(read.buffers))
        found.append(header.base_offset)
        at = header.next_offset
    return found, damaged


class TestSettledFiles:
    @pytest.mark.parametrize("back", [10, TRAILER_BYTES + 5])
    async def test_a_damaged_footer_is_made_anew_and_nothing_is_lost(self, back: int) -> None:
        disk, name = await settled_store()
        async with running(disk, CONFIG) as engine:
            before = {p: await read_all(engine, p) for p in KEPT}
        size = len(disk.content(name))
        disk.corrupt(name, size - back)
        async with running(disk, CONFIG) as engine:
            assert [name in finding for finding in engine.recovered.findings] == [True]
            assert {p: await read_all(engine, p) for p in KEPT} == before
            assert all(engine._partitions[p].damage == [] for p in KEPT)
        assert len(disk.content(name)) == size
        assert verify(disk).damage == []

    async def test_a_lost_group_and_footer_leave_damaged_ranges_and_the_rest(self) -> None:
        disk, name = await settled_store()
        made = groups(disk, name)
        lost = made[1]
        assert {e.partition for e in lost.entries} != {e.partition for e in made[0].entries}
        disk.corrupt(name, lost.place + 9)
        disk.corrupt(name, len(disk.content(name)) - 10)
        gone = {p: [e.base_offset for e in lost.entries if e.partition == p] for p in KEPT}
        for n in range(2):
            async with running(disk, CONFIG) as engine:
                assert bool(engine.recovered.findings) == (n == 0)
                for p in KEPT:
                    found, damaged = await offsets(engine, p)
                    end = 42 + 2 * n if p == 1 else 40
                    assert found == [o for o in range(0, end, 2) if o not in gone[p]]
                    assert damaged == ([(gone[p][0], gone[p][-1] + 2)] if gone[p] else [])
                assert (await put(engine, 1, b"a", b"b")).base_offset == 42 + 2 * n

    async def test_a_damaged_batch_below_a_damaged_footer_is_one_damaged_range(self) -> None:
        disk, name = await settled_store()
        group = groups(disk, name)[0]
        place = next(place for entry, place in group.batch_places() if entry.base_offset == 6)
        disk.corrupt(name, place + 100)
        disk.corrupt(name, len(disk.content(name)) - 10)
        async with running(disk, CONFIG) as engine:
            found, damaged = await offsets(engine, 1)
            assert damaged == [(6, 8)]
            assert found == [o for o in range(0, 42, 2) if o != 6]
            assert await offsets(engine, 2) == (list(range(0, 40, 2)), [])

    @pytest.mark.parametrize("how", ["missing", "head"])
    async def test_a_file_of_which_nothing_is_left_is_damage_and_the_others_are_served(self, how: str) -> None:
        disk, name = await settled_store()
        if how == "missing":
            disk.unlink(name)
        else:
            disk.corrupt(name, 20)
            disk.corrupt(name, len(disk.content(name)) - 10)
        for n in range(2):
            async with running(disk, CONFIG) as engine:
                assert len(engine.recovered.findings) == 1
                assert await offsets(engine, 1) == ([40], [(0, 40)])
                assert await offsets(engine, 2) == (list(range(40, 40 + n)), [(0, 40)])
                assert (await put(engine, 2, b"a")).base_offset == 40 + n

    async def test_a_footer_that_rots_while_the_store_runs_ends_nothing(self) -> None:
        disk, name = await settled_store()
        async with running(disk, CONFIG) as engine:
            before = {p: await read_all(engine, p) for p in KEPT}
            disk.corrupt(name, len(disk.content(name)) - 10)
            for _ in range(2):
                await engine.settler.run_once()
            assert engine.settler.statistics.damaged_files == 1
            assert {p: await read_all(engine, p) for p in KEPT} == before
        async with running(disk, CONFIG) as engine:
            assert {p: await read_all(engine, p) for p in KEPT} == before

    async def test_a_damaged_index_in_a_sound_directory_is_a_damaged_range(self) -> None:
        disk, name = await settled_store()
        row = next(row for row in read_footer(disk.open(name)).rows if row.partition == 2)
        disk.corrupt(name, row.place + 3)
        async with running(disk, CONFIG) as engine:
            assert await offsets(engine, 2) == ([], [(0, 40)])
            assert (await offsets(engine, 1))[1] == []
            assert await engine.offset_for_time(2, 0) is None
            assert await engine.offsets_for_key(2, b"k", from_offset=0, count_max=1) == []
            assert engine.position_at(2, 20) == row.first_position  # not later than asked
            assert await engine.offset_at(2, row.first_position + 1) == 0
            engine.set_policy(2, PartitionPolicy(retention_bytes=1000))
            engine.set_policy(4, PartitionPolicy(retention_bytes=0))
            await engine.settler.run_once()
            assert [engine.info(p).log_start for p in (2, 4)] == [0, 40]


class TestCheckpoints:
    @pytest.mark.parametrize("how", ["missing", "damaged"])
    async def test_the_copy_serves_when_the_checkpoint_does_not(self, how: str) -> None:
        disk, _ = await settled_store()
        async with running(disk, CONFIG) as engine:
            await append(engine, [entry(2, batch(b"a", producer=(7, 0), sequence=3))])
            before = {p: (engine.info(p), await read_all(engine, p), engine.producers(p)) for p in KEPT}
            epoch = engine.epoch
        damage(disk, CHECKPOINT_NAME, how)
        async with running(disk, CONFIG) as engine:
            assert ["its copy is used" in f for f in engine.recovered.findings] == [True]
            assert {p: (engine.info(p), await read_all(engine, p), engine.producers(p)) for p in KEPT} == before
            assert engine.epoch == epoch + 1
        async with running(disk, CONFIG) as engine:
            assert engine.recovered.findings == []

    @pytest.mark.parametrize("how", ["missing", "damaged"])
    async def test_without_both_all_of_the_log_is_replayed(self, how: str) -> None:
        disk = SimulatedDisk()
        async with running(disk, CONFIG) as engine:
            await append(engine, [CreatePartition(p) for p in (1, 2, 3)])
            for i in range(40):
                await put(engine, 1 + i % 2, b"%d" % i, b"x" * 1000)
            await append(engine, [DeletePartition(3)])
        async with running(disk, CONFIG) as engine:
            await append(engine, [entry(2, batch(b"a", producer=(7, 0), sequence=3))])
            before = {p: (engine.info(p), await read_all(engine, p)) for p in (1, 2)}
            epoch = engine.epoch
        for name in (CHECKPOINT_NAME, COPY_NAME):
            damage(disk, name, how)
        async with running(disk, CONFIG) as engine:
            assert ["replayed instead" in f for f in engine.recovered.findings] == [True]
            assert {p: (engine.info(p), await read_all(engine, p)) for p in (1, 2)} == before
            assert engine.epoch > epoch + 1  # starts that wrote nothing had epochs too
            assert engine._retired == [(3, 4)]
            assert [p.producer_id for p in engine.producers(2)] == [7]

    @pytest.mark.parametrize("how", ["missing", "damaged"])
    async def test_without_both_and_without_all_of_the_log_nothing_is_opened_or_touched(self, how: str) -> None:
        disk, _ = await settled_store()
        for name in (CHECKPOINT_NAME, COPY_NAME):
            damage(disk, name, how)
        before = {name: disk.content(name) for name in disk.list()}
        await refused(disk, before)

    @pytest.mark.parametrize("number", [1, 2])
    async def test_a_log_segment_less_is_not_all_of_the_log(self, number: int) -> None:
        disk = SimulatedDisk()
        async with running(disk, CONFIG) as engine:
            await append(engine, [CreatePartition(1)])
            for i in range(60):
                await put(engine, 1, b"%d" % i, b"x" * 1000)
        for name in (CHECKPOINT_NAME, COPY_NAME, log_name(number)):
            disk.unlink(name)
        assert log_name(3) in disk.list()
        await refused(disk, {name: disk.content(name) for name in disk.list()})


def damage(disk: SimulatedDisk, name: str, how: str) -> None:
    if how == "missing":
        disk.unlink(name)
    else:
        disk.corrupt(name, 20)


async def refused(disk: SimulatedDisk, before: dict[str, bytes]) -> None:
    with pytest.raises(BadFile, match="give out offsets again"):
        await EmbeddedEngine("", CONFIG, disk=disk).run()
    assert {name: disk.content(name) for name in disk.list() if name in before} == before
