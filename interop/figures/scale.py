"""How much each cell of the Kafka figures does, and what is drawn over time."""

from __future__ import annotations

from dataclasses import dataclass, field

from interop.figures.contenders import ALL, Contender


@dataclass(frozen=True)
class Scale:
    """How much each cell does; `contenders` limits who takes part."""

    repeats: int
    first_bytes: int
    produce_bytes: int
    latency_s: int
    consume_records: int
    single_records: int
    topics: int
    large_bytes: int
    contenders: tuple[Contender, ...] = ALL


FULL = Scale(3, 400_000_000, 1_500_000_000, 60, 2_000_000, 200_000, 1_000, 20_000_000_000)
QUICK = Scale(1, 30_000_000, 60_000_000, 5, 200_000, 10_000, 100, 300_000_000)


@dataclass
class Traces:
    """What is drawn over time: latencies in us by (case, contender), memory in bytes by contender."""

    latency: dict[tuple[str, str], list[tuple[float, int]]] = field(default_factory=dict)
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
