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


def test_pending_bytes_count_but_only_holders_are_cut() -> None:
    cut: list[str] = []
    budget = MemoryBudget(100)
    budget.begin(60)
    budget.hold(holder(cut, "waiting"), 30)
    assert (cut, budget.room_bytes) == ([], 10)
    budget.hold(holder(cut, "half-received"), 20)
    assert cut == ["waiting"]
    budget.begin(60)
    assert budget.room_bytes == 0


def test_whoever_waits_for_room_is_called_once_when_less_is_pending() -> None:
    called: list[str] = []
    budget = MemoryBudget(100)
    wake = holder(called, "wake")
    budget.begin(30)
    assert not budget.full
    budget.begin(40)
    assert budget.full
    budget.call_when_not_full(wake)
    budget.call_when_not_full(wake)
    budget.end(10)
    assert called == []
    budget.end(30)
    budget.end(30)
    assert called == ["wake"]
