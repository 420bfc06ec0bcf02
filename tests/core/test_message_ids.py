"""The one rule of message ids: who makes them, who keeps them."""

from __future__ import annotations

from core.message_ids import ID_BYTES_MAX, id_of, place_id, with_id
from trivium.message_ids import message_ids

UNREADABLE = [b"", None, b"\xff", b"x" * (ID_BYTES_MAX + 1)]


def test_ids_of_one_producer_differ_and_no_two_producers_share_a_prefix() -> None:
    ids = message_ids()
    found = [next(ids) for _ in range(50_000)]
    assert len(set(found)) == 50_000
    assert found[0].endswith(".0")
    assert found[36].endswith(".10")
    assert found[1_295].endswith(".zz")
    assert found[46_656].endswith(".1000")
    assert len({next(message_ids()).partition(".")[0] for _ in range(100)}) == 100


def test_the_first_readable_id_counts_and_is_never_replaced() -> None:
    headers = [("trivium.id", None), ("a", b"1"), ("trivium.id", b"mine"), ("trivium.id", b"other")]
    assert id_of(headers) == "mine"
    assert with_id(headers, "new") == headers


def test_a_record_without_a_readable_id_gets_that_of_its_place() -> None:
    place = place_id("cluster", 7, 42)
    assert place == "cluster.7.42"
    for value in UNREADABLE:
        assert id_of([("trivium.id", value)]) is None
        assert with_id([("a", b"1"), ("trivium.id", value)], place) == [("a", b"1"), ("trivium.id", place.encode())]
