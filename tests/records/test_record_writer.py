"""Batches from templates are, byte for byte, what the general builder makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trivium.record_batch import parse_header
from trivium.record_writer import Template, assemble
from trivium.records import Record, build

HEADERS = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)
VALUES = st.lists(st.none() | st.binary(max_size=200), min_size=1, max_size=5)


@given(
    st.lists(st.tuples(st.none() | st.binary(max_size=200), HEADERS, VALUES), min_size=1, max_size=4),
    st.integers(0, 1 << 45),
)
def test_the_same_bytes_as_build(
    rows: list[tuple[bytes | None, list[tuple[str, bytes | None]], list[bytes | None]]], now_ms: int
) -> None:
    pieces: list[bytes] = []
    count = 0
    for key, headers, values in rows:
        count = Template(key, headers).write(pieces, count, values)
    header, batch = assemble(pieces, count, now_ms)
    assert batch == build([Record(0, now_ms, key, value, headers) for key, headers, values in rows for value in values])
    assert header == parse_header(batch)


def test_offsets_of_any_length() -> None:
    template = Template(b"key", [("trivium.qos", b"1")])
    for count in (1, 63, 64, 65, 8191, 8192, 8193, 20_000):
        pieces: list[bytes] = []
        assert template.write(pieces, 0, [b"v"] * count) == count
        _, batch = assemble(pieces, count, 5)
        assert batch == build([Record(0, 5, b"key", b"v", [("trivium.qos", b"1")])] * count)
