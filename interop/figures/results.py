"""What a run measured, and its tables. Pure: no broker, no clock."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Results:
    """Values by (cell, case, contender), one for each repeat; a table shows their medians."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    units: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, cell: str, case: str, contender: str, value: float, unit: str) -> None:
        self.values.setdefault((cell, case, contender), []).append(value)
        self.units[cell, case] = unit

    def median(self, cell: str, case: str, contender: str) -> float | None:
        """The median over the repeats; None where it was not measured."""
        found = self.values.get((cell, case, contender))
        return statistics.median(found) if found else None

    def cells(self) -> list[str]:
        return list(dict.fromkeys(cell for cell, _, _ in self.values))

    def cases(self, cell: str) -> list[str]:
        return list(dict.fromkeys(case for name, case, _ in self.values if name == cell))

    def contenders(self, cell: str) -> list[str]:
        return list(dict.fromkeys(contender for name, _, contender in self.values if name == cell))

    def table(self, cell: str, against: str = "kafka") -> str:
        """A Markdown table: a row for each case, a column for each contender with its ratio to `against`."""
        contenders = self.contenders(cell)
        lines = [f"| | {' | '.join(contenders)} |", "|---|" + "---:|" * len(contenders)]
        for case in self.cases(cell):
            base = self.median(cell, case, against)
            row = []
            for contender in contenders:
                value = self.median(cell, case, contender)
                text = "" if value is None else shown(value, self.units[cell, case])
                if value is not None and base and contender != against:
                    text += f" ({value / base:.2f}x)"
                row.append(text)
            lines.append(f"| {case} | {' | '.join(row)} |")
        return "\n".join(lines)


def shown(value: float, unit: str) -> str:
    """A value as a reader wants it: thousands as k, small numbers with the digits that matter."""
    if unit.endswith("/s") and value >= 1e6:
        return f"{value / 1e6:.2f} M {unit}"
    if unit.endswith("/s") and value >= 10_000:
        return f"{value / 1000:.0f} k {unit}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"
