from __future__ import annotations

from collections.abc import Callable

from gateway.memory_budget import MemoryBudget


def holder(cut: list[str], name: str) -> Callable[[], None]:
    return lambda: cut.append(name)


def test_the_heaviest_is_cut_at_the_limit() -> None:
    cut: list[str] = []
    budget = MemoryBudget(100)
    light, heavy = holder(cut, "light"), holder(cut, "heavy")
    budget.hold(heavy, 80)
    budget.hold(light, 20)
    assert cut == []
    budget.hold(light, 21)
    assert cut == ["heavy"]
    assert budget.held_bytes == 21


def test_what_is_no_longer_held_does_not_count() -> None:
    cut: list[str] = []
    budget = MemoryBudget(100)
    for name in "abc":
        holding = holder(cut, name)
        budget.hold(holding, 90)
        budget.hold(holding, 0)
    assert cut == []
    assert budget.held_bytes == 0
