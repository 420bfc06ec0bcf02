"""Scheduled messages: many pending (memory, disk, time of a restart), then so many a second due, and how late each is.

    python -m interop.bench_schedules [--pending N] [--rate N] [--seconds N] [--flush sync|async]

The core and the embedded engine in this process, without a protocol. Lateness is from the due time to when the
delivered batch is durable and handed to readers.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import click
import structlog
import trio

from core.broker import Broker, BrokerSettings
from core.schedules import Wanted
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import DurableBatch, append
from interop.places import scratch_root
from trivium.records import Record, decode

BATCH = 500
VALUE = bytes(200)
DAY_MS = 86_400_000


def rss_mb() -> float:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def now_ms() -> float:
    return time.time() * 1000


@asynccontextmanager
async def broker(folder: Path, flush: Literal["sync", "async"]) -> AsyncIterator[Broker]:
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(folder / "data", EngineConfig(flush=flush))
        await nursery.start(engine.run)
        async with trio.open_nursery() as core:
            made = Broker(engine, BrokerSettings(tables_dir=folder / "tables"))
            began = time.perf_counter()
            await core.start(made.run)
            click.echo(f"broker ready {time.perf_counter() - began:.2f} s after the store")
            yield made
            core.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def fill(made: Broker, partition: int, count: int) -> None:
    """So many far ahead, in no order."""
    rng = random.Random(1)
    began = time.perf_counter()
    number = 0
    while number < count:
        wanted = []
        for _ in range(BATCH):
            due_ms = int(now_ms()) + DAY_MS + rng.randrange(DAY_MS)
            headers: list[tuple[str, bytes | None]] = [("trivium.id", b"benchmark.%d" % number)]
            wanted.append(Wanted(partition, due_ms, Record(0, 0, None, VALUE, headers)))
            number += 1
        await append(made.engine, [made.schedules.entry(wanted)])
    stored_s = time.perf_counter() - began
    await made.schedules.cancel("nothing")  # comes back when all is in the table
    click.echo(
        f"{count:,} scheduled: stored {count / stored_s:,.0f}/s, in the table after {time.perf_counter() - began:.1f} s"
    )


async def due(made: Broker, partition: int, rate: int, seconds: float) -> None:
    """So many a second, each at a millisecond of its own; how late they come."""
    late: list[float] = []
    count = int(rate * seconds)
    all_there = trio.Event()

    def listen(batches: list[DurableBatch]) -> None:
        at = now_ms()
        for one in batches:
            if one.partition == partition:
                records = decode(one.batch, 1 << 30)
                late.extend(at - int(dict(record.headers)["due"] or b"0") for record in records)
        if len(late) >= count:
            all_there.set()

    made.engine.add_tail_listener(listen)
    start_ms = int(now_ms()) + 4_000
    for first in range(0, count, BATCH):
        wanted = []
        for number in range(first, min(first + BATCH, count)):
            due_ms = start_ms + number * 1000 // rate
            headers: list[tuple[str, bytes | None]] = [("trivium.id", b"due.%d" % number), ("due", b"%d" % due_ms)]
            wanted.append(Wanted(partition, due_ms, Record(0, 0, None, VALUE, headers)))
        await append(made.engine, [made.schedules.entry(wanted)])
    with trio.move_on_after(seconds + 30):
        await all_there.wait()
    late.sort()
    found = {p: late[min(int(len(late) * p / 100), len(late) - 1)] for p in (50, 99, 99.9)}
    within = sum(one <= 20 for one in late) / count * 100
    click.echo(
        f"{rate:,}/s due for {seconds} s: {len(late):,} of {count:,} came; late by p50 {found[50]:.1f} ms, "
        f"p99 {found[99]:.1f}, p99.9 {found[99.9]:.1f}, at most {late[-1]:.1f}, never early: {late[0] >= 0}; "
        f"{within:.2f} % within 20 ms"
    )


async def run(folder: Path, pending: int, rate: int, seconds: float, flush: Literal["sync", "async"]) -> None:
    async with broker(folder, flush) as made:
        before_mb = rss_mb()
        topic = await made.topics.ensure("bench", 1)
        await fill(made, topic.partitions[0], pending)
        gc.collect()
        click.echo(f"memory {before_mb:.0f} MB before, {rss_mb():.0f} MB with all pending")
    disk_mb = sum(file.stat().st_size for file in (folder / "tables").iterdir()) >> 20
    click.echo(f"table {disk_mb} MB")
    async with broker(folder, flush) as made:
        topic = await made.topics.ensure("bench", 1)
        gc.freeze()
        await due(made, topic.partitions[0], rate, seconds)
    shutil.rmtree(folder / "tables")
    async with broker(folder, flush):
        click.echo("that was with its table made anew from the log")


@click.command(help=__doc__)
@click.option("--pending", default=1_000_000)
@click.option("--rate", default=10_000)
@click.option("--seconds", default=5.0)
@click.option("--flush", type=click.Choice(["sync", "async"]), default="sync")
def main(pending: int, rate: int, seconds: float, flush: Literal["sync", "async"]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder = scratch_root() / f"bench-schedules-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        trio.run(run, folder, pending, rate, seconds, flush)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
