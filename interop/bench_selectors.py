"""What a filter costs per record, in microseconds: `python -m interop.bench_selectors`.

Not a timed test. The record is decoded already; the last figure is what decoding it cost, to compare.
"""

from __future__ import annotations

import timeit

from core.selectors import Kind, compile_selector
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

HEADERS: list[tuple[str, bytes | None]] = [("trivium.tag", b"hot"), ("price", b"15"), ("region", b"eu")]
FILTERS = [
    (Kind.TAGS, "hot || cold"),
    (Kind.SQL, "region = 'eu'"),
    (Kind.SQL, "price > 10"),
    (Kind.SQL, "price BETWEEN 10 AND 20 AND region IN ('eu', 'us')"),
    (Kind.SQL, "(region = 'eu' OR region = 'us') AND NOT (price < 10.5) AND TAGS CONTAINS 'o'"),
]


def main() -> None:
    batch = build([Record(i, 0, b"line3/temp", b"x" * 100, HEADERS) for i in range(1000)])
    parse_header(batch)
    records = decode(batch, 1 << 24)
    for kind, text in FILTERS:
        selects = compile_selector(text, kind)
        assert all(map(selects, records))
        best = min(timeit.repeat(lambda selects=selects: list(map(selects, records)), number=20, repeat=7))  # type: ignore[misc]
        print(f"{best / 20 * 1000:8.2f} us  {kind.value}: {text}")
    best = min(timeit.repeat(lambda: decode(batch, 1 << 24), number=20, repeat=7))
    print(f"{best / 20 * 1000:8.2f} us  decoding the record")


if __name__ == "__main__":
    main()
