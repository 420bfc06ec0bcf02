"""What the store costs: appends per second and microseconds of the loop each, reads from the ring and from the files.

    python -m interop.bench_store [--directory DIR] [--flush sync|async] [--seconds N]

One loop appends batches of one size over some partitions, a bounded number in flight, as connections would; then reads
them all back. The figures are the engine's alone, without any protocol.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click
import structlog
import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Append, Appended, CreatePartition, append
from trivium.record_batch import parse_header
from trivium.records import Record, build

_IN_FLIGHT_BYTES = 8 * 1024 * 1024
_IN_FLIGHT_MAX = 2_000


async def appends(engine: EmbeddedEngine, partitions: list[int], batch: bytes, seconds: float) -> tuple[int, float]:
    """Appends for so long; returns how many, and how many seconds of processor time the loop's thread took."""
    header = parse_header(batch)
    entries = [Append(p, header, batch) for p in partitions]
    in_flight_max = max(1, min(_IN_FLIGHT_MAX, _IN_FLIGHT_BYTES // len(batch)))
    sent = answered = 0
    room = trio.Event()

    def done(answers: list[Appended]) -> None:
        nonlocal answered
        answered += 1
        if sent - answered <= in_flight_max // 2:
            room.set()

    until = time.monotonic() + seconds
    before = time.thread_time()
    while time.monotonic() < until:
        while sent - answered < in_flight_max:
            engine.append([entries[sent % len(entries)]], done)
            sent += 1
        room = trio.Event()
        await room.wait()
    while answered < sent:
        room = trio.Event()
        if answered < sent:
            await trio.lowlevel.checkpoint()
    return answered, time.thread_time() - before


async def reads(engine: EmbeddedEngine, partitions: list[int], bytes_max: int) -> tuple[int, int]:
    """Reads everything; returns reads and bytes."""
    count = size = 0
    for partition in partitions:
        info = engine.info(partition)
        offset = info.log_start
        while offset < info.high_watermark:
            read = engine.read_nowait(partition, offset, bytes_max)
            if read is None:
                read = await engine.read(partition, offset, bytes_max)
            last = read.buffers[-1]
            at = 0
            while at < len(last):
                header = parse_header(last, at)
                at += header.size_bytes
            offset = header.last_offset + 1
            count += 1
            size += read.size_bytes
    return count, size


async def measure(directory: Path, flush: Literal["sync", "async"], seconds: float, say: Callable[[str], None]) -> None:
    config = EngineConfig(flush=flush)
    say(f"{'case':34} {'appends/s':>10} {'MB/s':>7} {'loop us each':>13} {'groups/s':>9}")
    engine = EmbeddedEngine(directory, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        number = 0
        for value_bytes, count in ((80, 1), (1000, 16), (16_000, 64)):
            batch = build([Record(0, 1, None, os.urandom(value_bytes), [])])
            for partitions in (1, count):
                numbers = list(range(number, number + partitions))
                number += partitions
                await append(engine, [CreatePartition(n) for n in numbers])
                groups = engine.statistics()["groups"]
                start = time.monotonic()
                done, busy = await appends(engine, numbers, batch, seconds)
                took = time.monotonic() - start
                groups = engine.statistics()["groups"] - groups
                name = f"{flush} {len(batch)} B, {partitions} partitions"
                say(
                    f"{name:34} {done / took:10,.0f} {done * len(batch) / took / 1e6:7.1f}"
                    f" {busy / done * 1e6:13.2f} {groups / took:9,.0f}"
                )
                start = time.monotonic()
                turns, size = await reads(engine, numbers, 1024 * 1024)
                took = time.monotonic() - start
                say(f"{'  read back, 1 MiB a read':34} {turns / took:10,.0f} {size / took / 1e6:7.1f}")
        nursery.cancel_scope.cancel()
    start = time.monotonic()
    engine = EmbeddedEngine(directory, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        say(f"start after a clean stop: {(time.monotonic() - start) * 1000:.0f} ms")
        nursery.cancel_scope.cancel()


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), help="where to write (a directory of its own is made)")
@click.option("--flush", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--seconds", type=float, default=2.0, help="for each case")
def main(directory: Path | None, flush: Literal["sync", "async"], seconds: float) -> None:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        trio.run(measure, Path(scratch), flush, seconds, click.echo)


if __name__ == "__main__":
    main()
