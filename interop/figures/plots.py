"""The figures as PNG files (matplotlib, from the `figures` extra)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from interop.figures.kafka_cells import TITLES
from interop.figures.results import Results
from interop.figures.scale import Traces

COLOURS = {
    "kafka": "#8c8c8c",
    "kafka flush.messages=1": "#c4c4c4",
    "trivium async": "#2b7bba",
    "trivium sync": "#0b3c5d",
}
HEAT_BINS = (120, 80)


def bars(results: Results, cell: str, into: Path) -> Path:
    """Grouped bars, one group for each case whose unit is records/s."""
    cases = [case for case in results.cases(cell) if results.units[cell, case] == "records/s"]
    contenders = results.contenders(cell)
    figure, axes = plt.subplots(figsize=(1.8 + 1.9 * len(cases), 4))
    width = 0.8 / len(contenders)
    for index, contender in enumerate(contenders):
        heights = [(results.median(cell, case, contender) or 0) / 1000 for case in cases]
        places = np.arange(len(cases)) + (index - (len(contenders) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, label=contender, color=COLOURS.get(contender))
    axes.set_xticks(np.arange(len(cases)), cases, fontsize=8)
    axes.set_ylabel("thousand records/s")
    axes.set_title(TITLES[cell], fontsize=10)
    axes.legend(fontsize=8)
    return _save(figure, into / f"kafka-{cell}.png")


def heat_maps(traces: Traces, into: Path) -> Path:
    """Latency over time: a column of maps for each case, a row for each contender; darker is more records."""
    cases = list(dict.fromkeys(case for case, _ in traces.latency))
    contenders = list(dict.fromkeys(contender for _, contender in traces.latency))
    shape = (len(contenders), len(cases))
    figure, grid = plt.subplots(*shape, figsize=(6 * shape[1], 2.2 * shape[0]), squeeze=False, sharey=True, sharex=True)
    top = max(latency for samples in traces.latency.values() for _, latency in samples)
    edges = np.geomspace(0.1, max(1.0, top / 1000), HEAT_BINS[1])
    for row, contender in enumerate(contenders):
        for column, case in enumerate(cases):
            axes = grid[row][column]
            samples = traces.latency.get((case, contender), [])
            if samples:
                moments, latencies = np.array(samples).T
                span = np.linspace(0, moments.max(), HEAT_BINS[0])
                counts, _, _ = np.histogram2d(moments, latencies / 1000, bins=(span, edges))
                axes.pcolormesh(span, edges, counts.T, norm=LogNorm(vmin=1), cmap="viridis_r")
            axes.set_yscale("log")
            axes.set_title(f"{contender}, {case}", fontsize=8)
            if column == 0:
                axes.set_ylabel("ms")
    for axes in grid[-1]:
        axes.set_xlabel("s")
    return _save(figure, into / "kafka-latency.png")


def memory(traces: Traces, into: Path) -> Path:
    """Anonymous memory while the large log is written."""
    figure, axes = plt.subplots(figsize=(7, 3.5))
    for contender, samples in traces.memory.items():
        if samples:
            moments, sizes = zip(*samples, strict=True)
            axes.plot(moments, [size / 1e6 for size in sizes], label=contender, color=COLOURS.get(contender))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.set_ylabel("RssAnon, MB")
    axes.set_title("Memory while a large log is written", fontsize=10)
    axes.legend(fontsize=8)
    return _save(figure, into / "kafka-memory.png")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
