"""Prints the figures with the peer beside us in the same run: `python -m interop.figures [--quick]`.

Writes docs/figures/kafka.md (date and machine in it) and its plots. `--quick` is for development: small loads, one
repeat, nothing written unless `--out` says where. Cells and contenders can be chosen; results are printed after each.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from pathlib import Path

from interop import setup
from interop.brokers import BrokerError
from interop.figures.kafka_cells import BY_NAME, CELLS, TITLES
from interop.figures.results import Results
from interop.figures.scale import FULL, QUICK, Scale, Traces
from interop.figures.tools import ToolError
from interop.places import REPOSITORY

DOCS = REPOSITORY / "docs" / "figures"


def machine() -> str:
    """Processor, cores, memory, kernel and Python of this machine, in one line."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {python}"


def write(results: Results, traces: Traces, into: Path, notes: list[str]) -> None:
    """The page and its plots."""
    from interop.figures import plots

    into.mkdir(parents=True, exist_ok=True)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        "# Figures: Kafka clients",
        "",
        f"{today}, {machine()}. Load generator, broker and peer share the machine;",
    ]
    lines += ["each contender runs alone, medians over the repeats of one run. Ratios are to Apache Kafka 4.2 with its"]
    lines += [
        "default configuration (one KRaft node), which leaves records in the page cache. `trivium sync` answers after"
    ]
    lines += ["fdatasync, `trivium async` as Kafka does. Made by `python -m interop.figures`.", ""]
    for cell in results.cells():
        lines += [f"## {TITLES[cell]}", "", results.table(cell), ""]
        picture = None
        if cell == "latency" and traces.latency:
            picture = plots.heat_maps(traces, into)
        elif cell == "large" and traces.memory:
            picture = plots.memory(traces, into)
        elif any(results.units[cell, case] == "records/s" for case in results.cases(cell)):
            picture = plots.bars(results, cell, into)
        if picture is not None:
            lines += [f"![{TITLES[cell]}]({picture.name})", ""]
    lines += [*(f"- {note}" for note in notes), ""] if notes else []
    (into / "kafka.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"written: {into / 'kafka.md'}")


def run(scale: Scale, cells: list[str]) -> tuple[Results, Traces, list[str]]:
    """Runs the cells one after the other; one that fails is noted and the others go on."""
    results, traces, notes = Results(), Traces(), []
    for cell in cells:
        began = time.monotonic()
        try:
            CELLS[cell](scale, results, traces)
        except (BrokerError, ToolError) as error:
            notes.append(f"{cell} broke off: {' '.join(str(error).split())[:400]}")
            print(notes[-1], file=sys.stderr)
        print(f"\n## {TITLES[cell]}  ({time.monotonic() - began:.0f} s)\n\n{results.table(cell)}", flush=True)
    return results, traces, notes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=("kafka",), nargs="?", default="kafka")
    parser.add_argument("--quick", action="store_true", help="small loads, one repeat")
    parser.add_argument("--cell", action="append", choices=list(CELLS), help="this cell; may be repeated")
    parser.add_argument("--contender", action="append", choices=list(BY_NAME), help="this one; may be repeated")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--large-gb", type=float, default=0, help="size of the large log")
    parser.add_argument("--out", type=Path, default=None, help="where to write the page and plots")
    options = parser.parse_args()
    setup.kafka()
    base = QUICK if options.quick else FULL
    scale = Scale(
        repeats=options.repeats or base.repeats,
        first_bytes=base.first_bytes,
        produce_bytes=base.produce_bytes,
        latency_s=base.latency_s,
        consume_records=base.consume_records,
        single_records=base.single_records,
        topics=base.topics,
        large_bytes=int(options.large_gb * 1e9) or base.large_bytes,
        contenders=tuple(BY_NAME[name] for name in options.contender) if options.contender else base.contenders,
    )
    results, traces, notes = run(scale, options.cell or list(CELLS))
    into = options.out or (None if options.quick else DOCS)
    if into is not None:
        write(results, traces, into, notes)
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
