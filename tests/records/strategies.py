"""Records as clients make them, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from trivium.records import Record

T0 = 1_700_000_000_000

nullable = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=10), nullable), max_size=4)
records = st.lists(
    st.builds(Record, st.just(0), st.integers(T0 - 10**9, T0 + 10**9), nullable, nullable, headers),
    min_size=1,
    max_size=20,
).map(lambda made: [record._replace(offset=offset) for offset, record in enumerate(made)])
