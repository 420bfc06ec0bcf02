"""`verify` finds every byte that changed and nothing else; `dump` prints any directory."""

from __future__ import annotations

import random

import pytest
import trio

from core.store.checkpoint import CHECKPOINT_NAME, COPY_NAME
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, DeletePartition, append
from core.store.key_index import build_for, index_name
from core.store.log_files import log_number
from core.store.manifest import NAME as MANIFEST_NAME
from core.store.manifest import settled_number
from core.store.verify import dump, verify
from tests.store.batches import batch, entry
from tests.store.simulated_disk import SimulatedDisk

CONFIG = EngineConfig(segment_bytes=20_000, reserve_bytes=0, settle_bytes_per_s_max=0)


async def store(*, clean_stop: bool = True) -> SimulatedDisk:
    """A store with log segments and settled files."""
    disk = SimulatedDisk()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(p) for p in (1, 2, 3)])
        for i in range(60):
            data = random.Random(i).randbytes(500)
            await append(engine, [entry(1, batch(data, key=b"k")), entry(2, batch(data)), entry(3, batch(b"x"))])
        while engine._to_seal:
            await trio.lowlevel.checkpoint()
        await append(engine, [DeletePartition(2)])
        await engine.settler.run_once()
        await append(engine, [entry(1, batch(b"last", producer=(7, 0)))])
        crashed = disk.cut(seed=1)
        nursery.cancel_scope.cancel()
    return disk if clean_stop else crashed


@pytest.mark.parametrize("clean_stop", [True, False])
async def test_a_sound_store_has_no_damage(clean_stop: bool) -> None:
    disk = await store(clean_stop=clean_stop)
    assert any(settled_number(name) is not None for name in disk.list())
    steps: list[tuple[int, int]] = []
    report = verify(disk, lambda done, total: steps.append((done, total)))
    assert report.damage == []
    assert report.batches >= 121
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] == report.bytes


async def test_every_byte_that_changes_is_found() -> None:
    disk = await store()
    rng = random.Random(1)
    plain = (MANIFEST_NAME, CHECKPOINT_NAME, COPY_NAME)
    files = [n for n in disk.list() if log_number(n) or settled_number(n) or n in plain]
    for name in files:
        for _ in range(40):
            at = rng.randrange(len(disk.content(name)))
            disk.corrupt(name, at)
            if not 44 <= at < 60 or name in plain:
                found = [d.file for d in verify(disk).damage]
                assert name in found, f"{name}, byte {at}"
            disk.corrupt(name, at)
    assert verify(disk).damage == []


async def test_damage_is_named_by_place_partition_and_offset() -> None:
    disk = await store()
    name = next(n for n in disk.list() if settled_number(n) is not None)
    content = disk.content(name)
    place = content.index(random.Random(5).randbytes(500))
    disk.corrupt(name, place + 100)
    [damage] = verify(disk).damage
    assert (damage.file, damage.partition, damage.offset) == (name, 1, 5)
    assert place - 100 < damage.place < place
    assert "partition 1, offset 5" in str(damage)


async def test_a_damaged_key_index_is_no_damage_but_noted() -> None:
    disk = await store()
    name = next(n for n in disk.list() if settled_number(n) is not None)
    build_for(disk, name, {1}, lambda size: None)
    assert verify(disk).notes == []
    disk.corrupt(index_name(name), 20)
    report = verify(disk)
    assert (report.damage, report.notes) == ([], [f"{index_name(name)}: of no use, it is made anew"])


async def test_a_missing_file_is_damage() -> None:
    disk = await store()
    name = next(n for n in disk.list() if settled_number(n) is not None)
    disk.unlink(name)
    assert [str(d) for d in verify(disk).damage] == [f"{name}: byte 0: missing"]


@pytest.mark.parametrize("clean_stop", [True, False])
async def test_dump_prints_every_batch(clean_stop: bool) -> None:
    disk = await store(clean_stop=clean_stop)
    lines = list(dump(disk, records=True))
    text = "\n".join(lines)
    assert "producer 7/0 sequence 0" in text
    assert "b'last'" in text
    assert "b'k' = " in text
    assert sum(" offsets " in line and line.startswith("    ") for line in lines) >= 121
    only = list(dump(disk, 3))
    assert not any("partition 1" in line for line in only)


async def test_dump_prints_what_is_left_of_a_damaged_directory() -> None:
    disk = await store()
    rng = random.Random(2)
    for name in disk.list():
        for _ in range(20):
            if size := len(disk.content(name)):
                disk.corrupt(name, rng.randrange(size))
    assert len(list(dump(disk, records=True))) > 20
    assert verify(disk).damage


def test_a_directory_that_is_no_store_is_said_to_be_none() -> None:
    assert [d.file for d in verify(SimulatedDisk()).damage] == ["format"]
