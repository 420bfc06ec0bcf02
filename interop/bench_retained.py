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
Figure = tuple[str, float, str]  # title, value, unit
PAYLOAD = b'{"state":"on","value":21.5}'


def _name(number: int) -> str:
    return f"plant{number // DEVICES_PER_PLANT}/device{number % DEVICES_PER_PLANT}/state"


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _microseconds(look_up: Callable[[str], object], arguments: list[str]) -> tuple[float, float]:
    """Median and 99th percentile of a call for each argument."""
    times: list[float] = []
    for argument in arguments:
        begun = time.perf_counter()
        look_up(argument)
        times.append(1e6 * (time.perf_counter() - begun))
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


async def _open(folder: Path, engine: EmbeddedEngine) -> tuple[RetainedTable, float]:
    """The table, and the seconds that it took."""
    topics = Topics(engine)
    await topics.load()
    topic = await topics.ensure("__trivium_retained", 1, {"cleanup.policy": "compact"})
    table = RetainedTable(
        engine, topics, TopicMapping(), topic.partitions[0], folder / "tables", f"{topics.cluster_id}:{topic.id.hex()}"
    )
    begun = time.perf_counter()
    await table.load()
    return table, time.perf_counter() - begun


async def _publish(engine: EmbeddedEngine, table: RetainedTable, names: int) -> float:
    """Publishes a second."""
    begun = time.perf_counter()
    for first in range(0, names, BATCH_RECORDS):
        # A prime step scatters the names over the table, as devices do.
        numbers = [(number * 7_919) % names for number in range(first, min(first + BATCH_RECORDS, names))]
        records = [Record(n, 0, _name(number).encode(), PAYLOAD, []) for n, number in enumerate(numbers)]
        await append(engine, [table.entry(records)])
    return names / (time.perf_counter() - begun)


def _look_up(table: RetainedTable, names: int) -> list[Figure]:
    def match(filter_: str) -> list[str]:
        return list(scan(filter_, table))

    numbers = range(0, names, max(1, names // LOOK_UPS))
    plants = [f"plant{number // DEVICES_PER_PLANT}/device7/+" for number in numbers]
    figures: list[Figure] = []
    for title, look_up, arguments in (
        ("one name", table.get, [_name(number) for number in numbers]),
        ("`plantN/device7/+`, 1 match", match, plants),
        (f"`+/device7/state`, {names // DEVICES_PER_PLANT:,} matches", match, ["+/device7/state"]),
        ("`nothing/#`, no match", match, ["nothing/#"] * 1_000),
    ):
        median, high = _microseconds(look_up, arguments)
        figures += [(f"{title}: p50", median, "us"), (f"{title}: p99", high, "us")]
    return figures


async def _run(folder: Path, names: int, figures: list[Figure]) -> None:
    for life in ("made", "left", "lost"):
        if life == "lost":
            shutil.rmtree(folder / "tables")
        engine = EmbeddedEngine(folder / "data", EngineConfig(flush="async", reserve_bytes=0))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            table, seconds = await _open(folder, engine)
            nursery.start_soon(table.run)
            if life == "made":
                before = _resident_mib()
                figures.append(("published", await _publish(engine, table, names), "names/s"))
                figures.append(("memory before, without names", before, "MiB"))
                figures.append(("memory with them", _resident_mib(), "MiB"))
            elif life == "left":
                figures += [("start", seconds, "s"), *_look_up(table, names)]
            else:
                figures.append(("start without the table, which is made anew", seconds, "s"))
            nursery.cancel_scope.cancel()
        table.close()


def measure(names: int, root: Path | None = None) -> list[Figure]:
    """What so many retained messages cost, in a temporary folder below `root`."""
    folder = Path(tempfile.mkdtemp(prefix="trivium-retained-", dir=root))
    figures: list[Figure] = []
    try:
        trio.run(_run, folder, names, figures)
    finally:
        shutil.rmtree(folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    for title, value, unit in measure(parser.parse_args().names):
        print(f"{title}: {value:,.2f} {unit}")


if __name__ == "__main__":
    main()
