"""A child process under load, killed with SIGKILL again and again: what it had said to be durable is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from tests.store.batches import read_all
from trivium.record_batch import parse_header

ROUNDS = 6
PARTITIONS = 4

CHILD = """
import sys, trio, structlog
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, append
from tests.store.batches import batch, entry
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main(directory, config):
    engine = EmbeddedEngine(directory, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        if not engine.partitions():
            await append(engine, [CreatePartition(p) for p in range(int(sys.argv[2]))])
        number = 0
        def answered(p, data):
            def done(answers):
                print(p, answers[0].base_offset, data, flush=True)
            return done
        while True:
            for p in engine.partitions():
                data = f"{engine.epoch}-{p}-{number}"
                number += 1
                engine.append([entry(p, batch(data.encode() * 20))], answered(p, data))
            await trio.sleep(0)

trio.run(main, sys.argv[1], EngineConfig(segment_bytes=200_000, reserve_bytes=0))
"""


def killed_after(directory: Path, lines: int) -> list[tuple[int, int, str]]:
    """Runs the child until it has said so many lines, kills it; what it said: (partition, offset, value)."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory), str(PARTITIONS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    whole = [line.decode().split() for line in said if line.endswith(b"\n")]
    return [(int(partition), int(offset), value) for partition, offset, value in whole]


async def contents(directory: Path) -> list[dict[int, bytes]]:
    """By partition: offset -> batch."""
    found: list[dict[int, bytes]] = []
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(directory, EngineConfig(reserve_bytes=0))
        await nursery.start(engine.run)
        assert engine.recovered.findings == []
        for partition in range(PARTITIONS):
            batches = await read_all(engine, partition)
            found.append({parse_header(b).base_offset: b for b in batches})
            assert list(found[-1]) == list(range(engine.info(partition).high_watermark))
        nursery.cancel_scope.cancel()
    return found


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    rng = random.Random(1)
    acknowledged: dict[tuple[int, int], str] = {}
    for _ in range(ROUNDS):
        for partition, offset, value in killed_after(tmp_path, rng.randint(1, 1500)):
            assert (partition, offset) not in acknowledged, "an offset was given twice"
            acknowledged[partition, offset] = value
    found = await contents(tmp_path)
    for (partition, offset), value in acknowledged.items():
        assert value.encode() * 20 in found[partition][offset]
    assert len(acknowledged) > ROUNDS
