"""Sets of offsets as numbers, against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.bitmaps import bits, full, leading_run, lowest, runs

SETS = st.sets(st.integers(0, 2_100), max_size=60) | st.integers(0, 2_100).map(lambda count: set(range(count)))


def mask_of(numbers: set[int]) -> int:
    return sum(1 << number for number in numbers)


@given(SETS, st.integers(0, 2_200))
def test_bitmaps_are_sets(numbers: set[int], count: int) -> None:
    mask = mask_of(numbers)
    assert list(bits(mask)) == sorted(numbers)
    assert list(bits(lowest(mask, count))) == sorted(numbers)[:count]
    assert [at + i for at, width in runs(mask) for i in range(width)] == sorted(numbers)
    assert all(a + width < b for (a, width), (b, _) in zip(list(runs(mask)), list(runs(mask))[1:], strict=False))
    run = leading_run(mask)
    assert set(range(run)) <= numbers
    assert run not in numbers
    assert full(count) == mask_of(set(range(count)))
