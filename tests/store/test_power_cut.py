"""Power cuts: the engine runs once under random load on a traced disk, then the trace is cut at many points.

Whatever was acknowledged (`flush = sync`) or seen before the cut must be there after recovery, exactly; offsets go on
where they ended; producers, transactions and positions agree with the batches. Nothing of this is called damage.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
import trio
import trio.lowlevel

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import (
    Append,
    Appended,
    CreatePartition,
    DeleteBefore,
    DeletePartition,
    Entry,
    Outcome,
    PartitionPolicy,
    append,
)
from core.store.producers import ProducerTable
from tests.store.batches import read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import parse_header
from trivium.records import Record, build, build_control, decode

COMPACTED = 3
CONFIG = EngineConfig(segment_bytes=24 * 1024, reserve_bytes=0, hot_batches_max=8, settle_bytes_per_s_max=0)


class Load:
    """Random appends, deletions and reads; every answer leaves a mark in the trace."""

    def __init__(self, engine: EmbeddedEngine, disk: SimulatedDisk, seed: int) -> None:
        self.engine = engine
        self.disk = disk
        self.rng = random.Random(seed)
        self.sequences: dict[tuple[int, int], int] = {}
        self.waiting = 0
        self.short_lived = 10
        self.deleted: set[int] = set()

    def batch(self, partition: int) -> bytes:
        rng = self.rng
        count = rng.randint(1, 3)
        key = b"k%d" % rng.randrange(8) if partition == COMPACTED else None
        size = rng.choice([0, 10, 100, 2000])
        records = [Record(0, rng.randrange(1000), key, rng.randbytes(size), []) for _ in range(count)]
        pid = rng.randrange(4)
        if pid == 0:
            return build(records)
        sequence = self.sequences.get((partition, pid), 0)
        self.sequences[partition, pid] = sequence + count
        return build(records, producer_id=pid, producer_epoch=0, base_sequence=sequence, transactional=pid == 1)

    def entries(self) -> list[Entry]:
        choice = self.rng.random()
        if choice < 0.04:
            info = self.engine.info(2)
            return [DeleteBefore(2, self.rng.randint(info.log_start, info.high_watermark))]
        if choice < 0.06:
            self.short_lived += 1
            return [CreatePartition(self.short_lived), self.data(self.short_lived)]
        if choice < 0.08 and self.short_lived in self.engine.partitions() and self.short_lived not in self.deleted:
            self.deleted.add(self.short_lived)
            return [DeletePartition(self.short_lived)]
        if choice < 0.2:
            batch = build_control(1, 0, self.rng.random() < 0.5, 0, 5)
            return [Append(p, parse_header(batch), batch) for p in self.rng.sample([1, 2, COMPACTED], 2)]
        return [self.data(self.rng.choice([1, 2, COMPACTED])) for _ in range(self.rng.randint(1, 3))]

    def data(self, partition: int) -> Append:
        batch = self.batch(partition)
        return Append(partition, parse_header(batch), batch)

    async def run(self, appends: int) -> None:
        for _ in range(appends):
            entries = self.entries()
            self.waiting += 1

            def done(answers: list[Appended], entries: list[Entry] = entries) -> None:
                self.waiting -= 1
                assert all(a.outcome is Outcome.APPENDED for a in answers), answers
                self.disk.mark("ack", entries, answers)

            self.engine.append(entries, done)
            if self.rng.random() < 0.3:
                self.engine.write_now()
            while self.waiting > self.rng.choice([0, 3, 10]):
                await trio.lowlevel.checkpoint()
            if self.rng.random() < 0.1:
                await self.see(self.rng.choice([1, 2]))
        while self.waiting:
            await trio.lowlevel.checkpoint()

    async def see(self, partition: int) -> None:
        info = self.engine.info(partition)
        read = await self.engine.read(partition, info.log_start, 10_000)
        self.disk.mark("seen", partition, info.log_start, info.high_watermark, b"".join(read.buffers))


async def traced_run(seed: int, appends: int) -> SimulatedDisk:
    """A run with two starts, sealing, settling and compaction on the way."""
    disk = SimulatedDisk(seed=seed)
    load: Load | None = None
    for life in range(2):
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", CONFIG, disk=disk, now_ms=lambda: 5000)
            await nursery.start(engine.run)
            if load is None:
                load = Load(engine, disk, seed)
                await append(engine, [CreatePartition(p) for p in (1, 2, COMPACTED)])
            load.engine = engine
            engine.set_policy(COMPACTED, PartitionPolicy(delete=False, compact=True, delete_retention_ms=0))
            for _ in range(4):
                await load.run(appends // 8)
                await engine.settler.run_once()
            if life:
                assert engine.settler.statistics.cleans > 0
            nursery.cancel_scope.cancel()
    return disk


def told(disk: SimulatedDisk, until: int) -> tuple[dict[int, dict[int, tuple[int, bytes]]], dict[int, int], set[int]]:
    """What the world knew: partition -> offset -> (position, batch); log starts; deleted partitions."""
    batches: dict[int, dict[int, tuple[int, bytes]]] = {}
    starts: dict[int, int] = {}
    deleted: set[int] = set()
    for mark in disk.marks(until):
        if mark[0] != "ack":
            continue
        for entry, answer in zip(mark[1], mark[2], strict=True):
            if isinstance(entry, Append):
                batches.setdefault(entry.partition, {})[answer.base_offset] = answer.position, bytes(entry.batch)
            elif isinstance(entry, DeleteBefore):
                starts[entry.partition] = max(starts.get(entry.partition, 0), entry.offset)
            elif isinstance(entry, DeletePartition):
                deleted.add(entry.partition)
    return batches, starts, deleted


def table(batches: list[bytes]) -> dict[bytes, tuple[int, bytes | None]]:
    """Key -> last offset and value, transactions not looked at."""
    return {
        r.key: (r.offset, r.value)
        for b in batches
        if not parse_header(b).is_control
        for r in decode(b, 1 << 20)
        if r.key is not None
    }


async def check(engine: EmbeddedEngine, disk: SimulatedDisk, until: int) -> None:
    """The recovered engine against what was told before the cut."""
    batches, starts, deleted = told(disk, until)
    assert engine.recovered.findings == []
    for partition, acknowledged in batches.items():
        if partition not in engine.partitions():
            later = told(disk, len(disk.trace))[2]
            assert partition in later, f"partition {partition} is gone"
            continue
        assert partition not in deleted, "a deleted partition came back"
        info = engine.info(partition)
        assert info.log_start >= starts.get(partition, 0)
        assert info.next_offset == info.high_watermark > max(acknowledged)
        found = await read_all(engine, partition)
        here = {parse_header(b).base_offset: b for b in found}
        if partition == COMPACTED:
            _check_table(engine, found, acknowledged)
        else:
            _check_batches(engine, partition, here, acknowledged)
    for mark in disk.marks(until):
        if mark[0] == "seen":
            _, partition, _, high_watermark, _ = mark
            assert engine.info(partition).high_watermark >= high_watermark


def _check_batches(
    engine: EmbeddedEngine, partition: int, here: dict[int, bytes], acknowledged: dict[int, tuple[int, bytes]]
) -> None:
    info = engine.info(partition)
    for offset, (position, batch) in acknowledged.items():
        if parse_header(batch).last_offset_delta + offset < info.log_start:
            continue
        assert here[offset][16:] == batch[16:], "an acknowledged batch is another"
        assert engine.position_at(partition, max(offset, info.log_start)) == position
    ends = [parse_header(b).next_offset for b in here.values()]
    assert sorted(here)[1:] == ends[:-1], "offsets repeat or skip"
    if info.log_start == 0:
        replayed = ProducerTable()
        for offset, batch in here.items():
            header = parse_header(batch)
            if header.producer_id >= 0:
                replayed.begin(header, offset, 0, batch)
                replayed.durable(header.next_offset)
        assert sorted(replayed.states()) == sorted(engine.producers(partition))
        assert replayed.last_stable(info.high_watermark) == info.last_stable


def _check_table(engine: EmbeddedEngine, found: list[bytes], acknowledged: dict[int, tuple[int, bytes]]) -> None:
    """The compacted partition: each key's last committed record is there."""
    now = table(found)
    aborted = _aborted_offsets(acknowledged)
    for offset, (_, batch) in acknowledged.items():
        header = parse_header(batch)
        if header.is_control or offset in aborted:
            continue
        for record in decode(batch, 1 << 20):
            assert record.key is not None
            assert now.get(record.key, (-1, b""))[0] >= offset + record.offset, "the last record of a key is gone"


def _aborted_offsets(acknowledged: dict[int, tuple[int, bytes]]) -> set[int]:
    """Batches of transactions that were aborted, or never decided."""
    open_: dict[int, list[int]] = {}
    aborted: set[int] = set()
    for offset, (_, batch) in sorted(acknowledged.items()):
        header = parse_header(batch)
        if header.is_control:
            offsets = open_.pop(header.producer_id, [])
            if decode(batch, 1000)[0].key == b"\0\0\0\0":
                aborted.update(offsets)
        elif header.is_transactional:
            open_.setdefault(header.producer_id, []).append(offset)
    return aborted.union(*open_.values())


async def recover_and_check(cut: SimulatedDisk, disk: SimulatedDisk, until: int) -> None:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=cut, now_ms=lambda: 5000)
        await nursery.start(engine.run)
        await check(engine, disk, until)
        if 1 in engine.partitions():
            batch = build([Record(0, 1, None, b"after", [])])
            before = engine.info(1)
            [answer] = await append(engine, [Append(1, parse_header(batch), batch)])
            assert (answer.outcome, answer.base_offset) == (Outcome.APPENDED, before.high_watermark)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("either_sync")
@pytest.mark.parametrize("seed", range(3))
async def test_what_was_acknowledged_is_there_after_a_power_cut(seed: int) -> None:
    disk = await traced_run(seed, 240)
    rng = random.Random(seed)
    points = sorted(rng.sample(range(len(disk.trace)), 40))
    for point, cut in disk.cuts(points, seed):
        try:
            await recover_and_check(cut, disk, point)
        except BaseException as e:
            e.add_note(f"seed {seed}, cut before {point} of {len(disk.trace)}: {disk.trace[point][:2]}")
            raise


async def test_a_second_power_cut_during_recovery_loses_nothing() -> None:
    disk = await traced_run(7, 160)
    rng = random.Random(7)
    points = sorted(rng.sample(range(len(disk.trace)), 12))
    for point, cut in disk.cuts(points, 7):
        await recover_and_check(cut, disk, point)
        for again in sorted(rng.sample(range(len(cut.trace) + 1), min(4, len(cut.trace)))):
            await recover_and_check(cut.cut(again, seed=again), disk, point)


async def test_without_syncs_the_same_checks_do_find_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would prove nothing: `flush = async` acknowledges what a power cut may take."""
    lazy = dataclasses.replace(CONFIG, flush="async", flush_interval_ms=3_600_000)
    with monkeypatch.context() as patched:
        patched.setattr("tests.store.test_power_cut.CONFIG", lazy)
        disk = await traced_run(1, 160)
    losses = 0
    for point, cut in disk.cuts(range(50, len(disk.trace), len(disk.trace) // 20), 1):
        try:
            await recover_and_check(cut, disk, point)
        except* (AssertionError, ValueError, KeyError, IndexError):
            losses += 1
    assert losses > 3


@pytest.mark.parametrize("seed", range(3))
async def test_an_asynchronous_flush_loses_the_end_and_leaves_no_hole(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """What was not synced may go, and with it a log start that was told; what is there is whole all the same."""
    monkeypatch.setattr("tests.store.test_power_cut.CONFIG", dataclasses.replace(CONFIG, flush="async"))
    disk = await traced_run(seed, 200)
    appended, _, _ = told(disk, len(disk.trace))
    points = sorted(random.Random(seed).sample(range(len(disk.trace)), 25))
    for _, cut in disk.cuts(points, seed):
        async with trio.open_nursery() as nursery:
            engine = EmbeddedEngine("", CONFIG, disk=cut, now_ms=lambda: 5000)
            await nursery.start(engine.run)
            assert engine.recovered.findings == []
            for partition in engine.partitions():
                found = [(parse_header(batch), batch) for batch in await read_all(engine, partition)]
                for header, batch in found:
                    if partition != COMPACTED:
                        assert batch[16:] == appended[partition][header.base_offset][1][16:]
                if partition != COMPACTED:
                    ends = [header.next_offset for header, _ in found]
                    assert [header.base_offset for header, _ in found][1:] == ends[:-1], "offsets skip"
                    assert not ends or ends[-1] == engine.info(partition).high_watermark
            nursery.cancel_scope.cancel()
