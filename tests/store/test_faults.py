"""A disk that fails, tears, lies or fills under the engine: what is acknowledged is there, and damage is named."""

from __future__ import annotations

import dataclasses
import random

import pytest
import trio
import trio.lowlevel
from structlog.testing import capture_logs

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Appended, CreatePartition, DataDamaged, DeletePartition, Outcome, StoreFailed, append
from core.store.log_files import log_number
from core.store.supply import Room
from tests.patience import PATIENCE_S
from tests.store.batches import batch, batches_in, entry, read_all
from tests.store.simulated_disk import Faults, SimulatedDisk
from trivium.record_batch import parse_header

CONFIG = EngineConfig(segment_bytes=32 * 1024, reserve_bytes=0, hot_batches_max=4)


def some_batch(rng: random.Random) -> bytes:
    return batch(rng.randbytes(rng.choice([10, 300, 3000])))


async def load(engine: EmbeddedEngine, count: int, seed: int, in_flight_max: int = 3) -> dict[int, bytes]:
    """Appends to partition 1 until the answers are in; offset -> batch of what was acknowledged."""
    rng = random.Random(seed)
    acknowledged: dict[int, bytes] = {}
    answered = 0
    for sent in range(count):
        while sent - answered > in_flight_max:
            await trio.lowlevel.checkpoint()
        data = some_batch(rng)

        def done(answers: list[Appended], data: bytes = data) -> None:
            nonlocal answered
            answered += 1
            if answers[0].outcome is Outcome.APPENDED:
                acknowledged[answers[0].base_offset] = data

        engine.append([entry(1, data)], done)
    while answered < count:
        await trio.lowlevel.checkpoint()
    return acknowledged


async def holds(disk: SimulatedDisk, acknowledged: dict[int, bytes]) -> None:
    """A fresh start on this disk has every acknowledged batch, and no finding."""
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        assert engine.recovered.findings == []
        here = {parse_header(b).base_offset: b for b in await read_all(engine, 1)}
        assert all(here[offset][16:] == data[16:] for offset, data in acknowledged.items())
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("either_sync")
@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("seed", range(8))
async def test_a_disk_that_fails_ends_the_engine_and_what_was_acknowledged_is_there(kind: str, seed: int) -> None:
    disk = SimulatedDisk(seed=seed)
    acknowledged: dict[int, bytes] = {}
    with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", CONFIG, disk=disk)
            await nursery.start(engine.run)
            await append(engine, [CreatePartition(1)])
            after = random.Random(seed).randint(0, 30)
            if kind == "write":
                disk.faults.write_fails_after = after
            else:
                disk.faults.sync_fails_after = after
            acknowledged = await load(engine, 200, seed)
            assert len(acknowledged) < 200
            assert (await append(engine, [entry(1, batch(b"x"))]))[0].outcome is Outcome.FAILED
    assert disk.locked == set()
    for cut_seed in range(4):
        disk.faults = Faults()
        await holds(disk.cut(seed=cut_seed), acknowledged)


async def test_a_full_disk_refuses_and_takes_again_when_there_is_room() -> None:
    disk = SimulatedDisk()
    with capture_logs() as logs:
        await _fill_and_give_room(disk)
    told = [line["event"] for line in logs]
    refused = told.index("the disk is nearly full: writes are refused")
    assert refused < told.index("there is room on the disk again: writes are taken")


@pytest.mark.parametrize("free", [1000, 999])
def test_what_a_look_at_the_disk_finds_is_logged_once(free: int) -> None:
    disk = SimulatedDisk(faults=Faults(capacity_bytes=free))
    room = Room(disk, 1000)
    with capture_logs() as logs:
        for capacity_bytes in (free, free, 1061, 1062, 1062):
            disk.faults.capacity_bytes = capacity_bytes
            room.look()
    refused, taken = "the disk is nearly full: writes are refused", "there is room on the disk again: writes are taken"
    assert [line["event"] for line in logs] == ([refused, taken] if free < 1000 else [])


async def _fill_and_give_room(disk: SimulatedDisk) -> None:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", dataclasses.replace(CONFIG, reserve_bytes=50_000), disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        disk.faults.capacity_bytes = disk.used_bytes() + 100_000
        acknowledged = await load(engine, 300, 1)
        assert 0 < len(acknowledged) < 300
        [refused] = await append(engine, [entry(1, batch(b"x"))])
        assert refused.outcome is Outcome.FULL
        assert len(await read_all(engine, 1)) == len(acknowledged), "reads go on"
        assert engine.info(1).next_offset == len(acknowledged), "offsets were taken back"
        disk.faults.capacity_bytes = None
        with trio.fail_after(PATIENCE_S):
            while (await append(engine, [entry(1, batch(b"y"))]))[0].outcome is Outcome.FULL:
                pass
        nursery.cancel_scope.cancel()
    await holds(disk.cut(seed=1), acknowledged)


async def test_a_start_on_a_disk_below_the_reserve_serves_reads_and_deletes_until_there_is_room() -> None:
    disk = SimulatedDisk()
    config = dataclasses.replace(CONFIG, reserve_bytes=200_000, settle_bytes_per_s_max=0)
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for partition in (1, 2):
            for _ in range(10):
                await append(engine, [entry(partition, batch(b"x" * 10_000))])
        nursery.cancel_scope.cancel()
    disk.faults.capacity_bytes = disk.used_bytes() + 150_000
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", config, disk=disk)
        await nursery.start(engine.run)
        [refused] = await append(engine, [entry(1, batch(b"y"))])
        assert refused.outcome is Outcome.FULL
        assert len(await read_all(engine, 1)) == 10
        [deleted] = await append(engine, [DeletePartition(2)])
        assert deleted.outcome is Outcome.APPENDED
        with trio.fail_after(PATIENCE_S):
            await engine.settler.run_once()
            while (await append(engine, [entry(1, batch(b"y"))]))[0].outcome is Outcome.FULL:
                pass
        nursery.cancel_scope.cancel()


async def test_what_is_sent_again_is_known_on_a_full_disk_too() -> None:
    """Its sender did not get the answer: told that there is no room, it would take it for not stored."""
    disk = SimulatedDisk()
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", dataclasses.replace(CONFIG, reserve_bytes=50_000), disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        sent = batch(b"a", b"b", producer=(7, 0))
        [first] = await append(engine, [entry(1, sent)])
        disk.faults.capacity_bytes = disk.used_bytes() + 100_000
        await load(engine, 300, 1)
        beside = entry(2, batch(b"with it"))._replace(unless_duplicate=True)
        answers = await append(engine, [entry(1, sent), beside])
        assert [one.outcome for one in answers] == [Outcome.DUPLICATE, Outcome.DUPLICATE]
        assert answers[0].base_offset == first.base_offset
        [refused] = await append(engine, [entry(1, batch(b"c", producer=(7, 0), sequence=2))])
        assert refused.outcome is Outcome.FULL
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(12))
async def test_bytes_that_rot_are_reported_and_what_is_not_touched_is_read(seed: int) -> None:
    disk = SimulatedDisk(seed=seed)
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        acknowledged = await load(engine, 100, seed)
        running = disk.cut(seed=seed)  # as a crash leaves it: segments without footer
        nursery.cancel_scope.cancel()
    rng = random.Random(seed)
    logs = [n for n in running.list() if log_number(n) is not None and running.content(n).strip(b"\0")]
    name = rng.choice(logs[:-1])
    written = len(running.content(name).rstrip(b"\0"))
    running.corrupt(name, rng.randrange(64, written * 3 // 4))
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=running)
        await nursery.start(engine.run)
        assert engine.info(1).high_watermark == len(acknowledged), "damage is never cut"
        offset, here = 0, {}
        while offset < engine.info(1).high_watermark:
            try:
                read = await engine.read(1, offset, 1 << 20)
            except DataDamaged as e:
                assert engine.recovered.findings
                offset = e.end_offset
                continue
            for data in batches_in(read):
                here[parse_header(data).base_offset] = data
                offset = parse_header(data).next_offset
        sound = {o: b for o, b in here.items() if b[16:] == acknowledged[o][16:]}
        assert len(sound) >= len(acknowledged) - 45
        nursery.cancel_scope.cancel()


async def test_a_disk_that_lies_is_found_out_when_later_groups_prove_the_loss() -> None:
    """Syncs do nothing for a while; then they work. What was lost in between lies below the durable position."""
    found = 0
    for seed in range(10):
        disk = SimulatedDisk(seed=seed)
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", EngineConfig(segment_bytes=1 << 20, reserve_bytes=0), disk=disk)
            await nursery.start(engine.run)
            await append(engine, [CreatePartition(1)])
            await load(engine, 30, seed)
            start = len(disk.trace)
            await load(engine, 30, seed + 100, in_flight_max=0)
            end = len(disk.trace)
            acknowledged = await load(engine, 30, seed + 200)
            stopped = len(disk.trace)
            nursery.cancel_scope.cancel()
        middle = [op for op in disk.trace[start:end] if op[0] == "write" and len(op[3]) < 20_000]
        victim = random.Random(seed).choice(middle[5:-5])
        torn = disk.cut(stopped, seed=seed)
        name = torn.list()[[log_number(n) is not None for n in torn.list()].index(True)]
        for at in range(victim[2], victim[2] + len(victim[3])):
            torn.corrupt(name, at, lambda _: 0)
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", EngineConfig(segment_bytes=1 << 20, reserve_bytes=0), disk=torn)
            await nursery.start(engine.run)
            assert engine.info(1).high_watermark > min(acknowledged)
            found += bool(engine.recovered.findings)
            nursery.cancel_scope.cancel()
    assert found == 10
