"""`python -m tests.fuzz.run_target NAME EXAMPLES`: one fuzz target under hypothesis, in this process."""

from __future__ import annotations

import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

HOSTILE = tuple(map(bytes.fromhex, ("ffffffff0f", "7fffffff", "80000000", "ffffffff", "ffff", "7fff", "00")))


def run(name: str, examples: int) -> None:
    """Raises what the target raises, with the input that hypothesis found."""
    target = TARGETS[name]
    valid = seeds(name)
    for seed in valid:
        target(seed)

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def by_chance(data: bytes) -> None:
        target(data)

    @settings(max_examples=examples * 2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(valid), st.data())
    def changed(seed: bytes, data: st.DataObject) -> None:
        mutated = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(mutated)))
            piece = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from(HOSTILE)))
            mutated[at : at + data.draw(st.sampled_from((0, len(piece))))] = piece
        target(bytes(mutated))

    by_chance()
    changed()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
