"""Millions of retained messages: `python -m interop.bench_retained [--names 1000000]`.

They are published into a store on disk in a temporary folder, in batches as devices' publishes come in. Printed: the
rate, the process's resident memory beside what the names and payloads weigh, look-ups of one name and by wildcards with
few matches, a start that finds the table as it was left, and one that makes it anew from the log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from core.filters import scan
from core.retained import RetainedTable
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import append
from core.topic_mapping import TopicMapping
from core.topics import Topics
from trivium.records import Record

BATCH_RECORDS = 500
LOOK_UPS = 2_000
DEVICES_PER_PLANT = 1_000
PAYLOAD = b'{"state":"on","value":21.5}'


def _name(number: int) -> str:
    return f"plant{number // DEVICES_PER_PLANT}/device{number % DEVICES_PER_PLANT}/state"


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _microseconds(look_up: Callable[[str], object], arguments: list[str]) -> str:
    """Median and 99th percentile of a call for each argument."""
    times: list[float] = []
    for argument in arguments:
        begun = time.perf_counter()
        look_up(argument)
        times.append(1e6 * (time.perf_counter() - begun))
    times.sort()
    return f"{times[len(times) // 2]:.0f} us, 99th percentile {times[len(times) * 99 // 100]:.0f} us"


async def _open(folder: Path, engine: EmbeddedEngine) -> RetainedTable:
    topics = Topics(engine)
    await topics.load()
    topic = await topics.ensure("__trivium_retained", 1, {"cleanup.policy": "compact"})
    table = RetainedTable(
        engine, topics, TopicMapping(), topic.partitions[0], folder / "tables", f"{topics.cluster_id}:{topic.id.hex()}"
    )
    begun = time.perf_counter()
    await table.load()
    print(f"open with {table.count:,} names: {time.perf_counter() - begun:.2f} s, resident {_resident_mib():.0f} MiB")
    return table


async def _publish(engine: EmbeddedEngine, table: RetainedTable, names: int) -> None:
    begun, before = time.perf_counter(), _resident_mib()
    for first in range(0, names, BATCH_RECORDS):
        # A prime step scatters the names over the table, as devices do.
        numbers = [(number * 7_919) % names for number in range(first, min(first + BATCH_RECORDS, names))]
        records = [Record(n, 0, _name(number).encode(), PAYLOAD, []) for n, number in enumerate(numbers)]
        await append(engine, [table.entry(records)])
    spent_s = time.perf_counter() - begun
    print(f"{names:,} retained publishes: {names / spent_s:,.0f}/s, resident {before:.0f} -> {_resident_mib():.0f} MiB")


def _look_up(table: RetainedTable, names: int) -> None:
    def match(filter_: str) -> list[str]:
        return list(scan(filter_, table))

    numbers = range(0, names, max(1, names // LOOK_UPS))
    plants = [f"plant{number // DEVICES_PER_PLANT}/device7/+" for number in numbers]
    print("one name:", _microseconds(table.get, [_name(number) for number in numbers]))
    print("plantN/device7/+ (1 match):", _microseconds(match, plants))
    print("+/device7/state (one a plant):", _microseconds(match, ["+/device7/state"]))
    print("nothing/# (no match):", _microseconds(match, ["nothing/#"] * 1_000))


async def _run(folder: Path, names: int) -> None:
    for life in ("made", "left", "lost"):
        if life == "lost":
            shutil.rmtree(folder / "tables")
        engine = EmbeddedEngine(folder / "data", EngineConfig(flush="async", reserve_bytes=0))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            table = await _open(folder, engine)
            nursery.start_soon(table.run)
            if life == "made":
                await _publish(engine, table, names)
            elif life == "left":
                _look_up(table, names)
            nursery.cancel_scope.cancel()
        table.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="trivium-retained-"))
    try:
        trio.run(_run, folder, parser.parse_args().names)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
