"""The embedded engine against a dictionary, by random steps with restarts, crashes and settling in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import (
    Append,
    Appended,
    CreatePartition,
    DeleteBefore,
    DeletePartition,
    Entry,
    OffsetOutOfRange,
    Outcome,
    append,
)
from tests.store.batches import batch, batches_in, entry, read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import parse_header

CONFIG = EngineConfig(
    segment_bytes=24 * 1024, reserve_bytes=0, hot_batches_max=8, settle_interval_ms=10**9, settle_bytes_per_s_max=0
)
PARTITIONS = 8
PRODUCERS = 3


@dataclass
class Log:
    """What the model knows of a partition: (base offset, batch without its first 16 bytes) in order."""

    start: int = 0
    next_offset: int = 0
    batches: list[tuple[int, bytes]] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)  # next one by producer


@asynccontextmanager
async def running(disk: SimulatedDisk) -> AsyncIterator[EmbeddedEngine]:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


class Model:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.logs: dict[int, Log] = {}
        self.used: set[int] = set()

    def entry_for(self, partition: int) -> tuple[Entry, Outcome]:
        """A batch for one partition and what must become of it, if nothing else is refused."""
        rng = self.rng
        values = [rng.randbytes(rng.choice((1, 50, 900))) for _ in range(rng.randint(1, 4))]
        log = self.logs.get(partition)
        if log is None:
            return entry(partition, batch(*values)), Outcome.UNKNOWN_PARTITION
        match rng.randint(0, 5):
            case 0:
                producer = rng.randrange(PRODUCERS)
                wanted = log.sequences.get(producer, 0)
                off = rng.choice((0, 0, 0, 7))
                data = batch(*values, producer=(producer, 0), sequence=wanted + off)
                known = producer in log.sequences
                return entry(partition, data), Outcome.OUT_OF_ORDER_SEQUENCE if off and known else Outcome.APPENDED
            case 1:
                gap = rng.choice((0, 3, -1))
                base = log.next_offset + gap
                if base < 0:
                    base, gap = log.next_offset, 0
                outcome = Outcome.OFFSET_MISMATCH if gap < 0 else Outcome.APPENDED
                return entry(partition, batch(*values), keep_offsets=True, base_offset=base), outcome
            case 2:
                condition = log.next_offset + rng.choice((0, 0, 1))
                outcome = Outcome.APPENDED if condition == log.next_offset else Outcome.OFFSET_MISMATCH
                return entry(partition, batch(*values), if_next_offset=condition), outcome
            case _:
                return entry(partition, batch(*values)), Outcome.APPENDED

    def applied(self, sent: Append, answer: Appended) -> None:
        log = self.logs[sent.partition]
        base = sent.header.base_offset if sent.keep_offsets else log.next_offset
        assert answer.base_offset == base
        log.batches.append((base, bytes(sent.batch[16:])))
        log.next_offset = base + sent.header.count
        if sent.header.producer_id >= 0:
            log.sequences[sent.header.producer_id] = sent.header.base_sequence + sent.header.count

    async def step(self, engine: EmbeddedEngine) -> None:
        match self.rng.randint(0, 11):
            case 0:
                number = self.rng.randrange(PARTITIONS)
                [answer] = await append(engine, [CreatePartition(number)])
                assert answer.outcome is (Outcome.UNKNOWN_PARTITION if number in self.used else Outcome.APPENDED)
                if number not in self.used:
                    self.used.add(number)
                    self.logs[number] = Log()
            case 1 if self.rng.random() < 0.15 and len(self.logs) > 2:
                number = self.rng.choice(sorted(self.logs))
                del self.logs[number]
                [answer] = await append(engine, [DeletePartition(number)])
                assert answer.outcome is Outcome.APPENDED
            case 2 if self.logs:
                number = self.rng.choice(sorted(self.logs))
                log = self.logs[number]
                offset = self.rng.randint(0, log.next_offset + 1)
                [answer] = await append(engine, [DeleteBefore(number, offset)])
                above = offset > log.next_offset
                assert answer.outcome is (Outcome.OFFSET_MISMATCH if above else Outcome.APPENDED)
                if not above:
                    log.start = max(log.start, offset)
            case _:
                await self.append_several(engine)

    async def append_several(self, engine: EmbeddedEngine) -> None:
        partitions = self.rng.sample(range(PARTITIONS), self.rng.randint(1, 3))
        wanted = [self.entry_for(p) for p in partitions]
        answers = await append(engine, [e for e, _ in wanted])
        refused = any(outcome is not Outcome.APPENDED for _, outcome in wanted)
        for (sent, outcome), answer in zip(wanted, answers, strict=True):
            if refused and outcome is Outcome.APPENDED:
                assert answer.outcome is Outcome.NOT_APPENDED
            else:
                assert answer.outcome is outcome
            if not refused:
                assert isinstance(sent, Append)
                self.applied(sent, answer)

    async def check(self, engine: EmbeddedEngine) -> None:
        assert engine.partitions() == sorted(self.logs)
        for number, log in self.logs.items():
            info = engine.info(number)
            assert (info.log_start, info.high_watermark, info.next_offset) == (
                log.start,
                log.next_offset,
                log.next_offset,
            )
            kept = [(base, data) for base, data in log.batches if base + parse_count(data) > log.start]
            found = await read_all(engine, number, bytes_max=self.rng.choice((1, 2000, 1 << 20)))
            assert [(parse_header(b).base_offset, b[16:]) for b in found] == kept
            await self.check_one_read(engine, number, log, kept)

    async def check_one_read(
        self, engine: EmbeddedEngine, number: int, log: Log, kept: list[tuple[int, bytes]]
    ) -> None:
        offset = self.rng.randint(0, log.next_offset + 1)
        if not log.start <= offset <= log.next_offset:
            with pytest.raises(OffsetOutOfRange):
                await engine.read(number, offset, 1)
            return
        first = next((base for base, data in kept if base + parse_count(data) > offset), None)
        found = list(batches_in(await engine.read(number, offset, 1)))
        assert [parse_header(b).base_offset for b in found] == ([] if first is None else [first])
        if first is not None:
            assert await engine.offset_at(number, engine.position_at(number, offset)) == max(first, log.start)


def parse_count(data: bytes) -> int:
    """Records of a batch without its first 16 bytes."""
    return int.from_bytes(data[41:45], "big")


@pytest.mark.parametrize("seed", range(12))
async def test_the_engine_does_what_the_model_says(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(rng)
    disk = SimulatedDisk(seed=seed, coldness=0.3)
    for _ in range(6):
        async with running(disk) as engine:
            await model.check(engine)
            for _ in range(rng.randint(5, 60)):
                await model.step(engine)
            if rng.random() < 0.5:
                while engine._to_seal:
                    await trio.lowlevel.checkpoint()
                await engine.settler.run_once()
            await model.check(engine)
            crash = disk.copy() if rng.random() < 0.6 else None
        disk = crash or disk
