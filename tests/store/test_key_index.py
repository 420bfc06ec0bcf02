"""Key index: the same offsets as a scan finds, whatever is sealed, settled, damaged or not yet indexed."""

from __future__ import annotations

import random

import pytest
import trio

import core.store.key_index as key_index
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, DeleteBefore, DeletePartition, PartitionPolicy, append
from core.store.key_index import KeyIndex, Kind, build_for, candidates, index_name
from core.store.log_files import log_name, log_number
from tests.store.batches import batch, entry
from tests.store.files import write_log
from tests.store.simulated_disk import SimulatedDisk
from trivium.records import Record, build

CONFIG = EngineConfig(segment_bytes=20_000, reserve_bytes=0, hot_batches_max=1, settle_bytes_per_s_max=0)


def no_pace(size: int) -> None:
    pass


@pytest.mark.parametrize("run_entries_max", [7, 1000])
def test_batches_of_a_key_and_of_a_first_level_are_found(run_entries_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "RUN_ENTRIES_MAX", run_entries_max)
    disk = SimulatedDisk()
    keys = [b"plant%d/line%d" % (i % 3, i % 7) for i in range(50)]
    write_log(disk, 1, 0, [(1 + i % 2, i // 2, batch(b"v", b"w", key=key)) for i, key in enumerate(keys)])
    build_for(disk, log_name(1), {1}, no_pace)
    index = KeyIndex.open(disk, log_name(1))
    assert index is not None
    assert index.check()
    assert index.covers == {1}
    mine = keys[::2]
    for key in set(mine):
        assert index.batches(1, Kind.KEY, key) == [i for i, k in enumerate(mine) if k == key]
    for level in (b"plant0", b"plant2"):
        assert index.batches(1, Kind.FIRST_LEVEL, level) == [i for i, k in enumerate(mine) if k.startswith(level)]
    assert index.batches(1, Kind.KEY, b"plant0") == []
    assert candidates(disk, log_name(1), 2, b"plant0") is None


def test_a_damaged_index_is_no_index_and_is_tidied_away() -> None:
    disk = SimulatedDisk()
    write_log(disk, 1, 0, [(1, i, batch(b"v", key=b"k")) for i in range(20)])
    build_for(disk, log_name(1), {1}, no_pace)
    assert key_index.tidy(disk) == {log_name(1): {1}}
    for at in range(len(disk.content(index_name(log_name(1))))):
        damaged = disk.copy()
        damaged.corrupt(index_name(log_name(1)), at)
        assert key_index.tidy(damaged) == {}
        assert damaged.list() == [log_name(1)]
    disk.unlink(log_name(1))
    assert key_index.tidy(disk) == {}
    assert disk.list() == []


async def test_the_engine_finds_by_index_what_a_scan_finds() -> None:
    disk = SimulatedDisk(coldness=0.2)
    rng = random.Random(1)
    expected: dict[bytes, list[int]] = {}
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        engine.set_policy(1, PartitionPolicy(key_index=True))
        for i in range(150):
            keys = [b"a/%d" % rng.randrange(20) for _ in range(3)]
            records = [Record(0, 1, key, bytes(100), []) for key in keys]
            await append(engine, [entry(1, build(records)), entry(2, batch(bytes(200)))])
            for j, key in enumerate(keys):
                expected.setdefault(key, []).append(3 * i + j)
            if i in (50, 100):
                await engine.settler.run_once()
        indexes = [name for name in disk.list() if key_index.indexed_file(name) is not None]
        assert len(indexes) >= 2
        assert engine.settler.statistics.key_indexes == len(indexes)

        async def agree(log_start: int) -> None:
            for key, offsets in expected.items():
                alive = [o for o in offsets if o >= log_start]
                assert await engine.offsets_for_key(1, key, from_offset=log_start, count_max=1000) == alive
                assert await engine.offsets_for_key(1, key, from_offset=log_start, count_max=2) == alive[:2]
                later = [o for o in alive if o >= 200]
                assert await engine.offsets_for_key(1, key, from_offset=200, count_max=1000) == later
            assert await engine.offsets_for_key(1, b"none", from_offset=log_start, count_max=10) == []

        await agree(0)
        await append(engine, [DeletePartition(2), DeleteBefore(1, 40)])
        await engine.settler.run_once()
        assert engine.settler.statistics.merges > 0
        await agree(40)
        present = set(disk.list())
        assert all(key_index.indexed_file(n) in present for n in present if key_index.indexed_file(n) is not None)
        assert any(log_number(n) is None and index_name(n) in present for n in present)
        nursery.cancel_scope.cancel()
