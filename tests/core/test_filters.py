"""Topic names and filters: their rules, matching, and the leaping scan of a sorted table."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.filters import LEVELS_MAX, check_filter, check_topic, matches, overlap, parse_filter, scan, to_key

LEVELS = st.sampled_from(["", "a", "b", "ab", "$s", "a-", "\x01"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), min_size=0, max_size=4), st.booleans())
    .map(lambda parts: "/".join([*parts[0], "#"] if parts[1] or not parts[0] else parts[0]))
    .filter(bool)
)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a#b", "/" * LEVELS_MAX])
def test_bad_topic_names(topic: str) -> None:
    assert check_topic(topic) is not None


@pytest.mark.parametrize("filter_", ["", "a/#/b", "a#", "#a", "a+", "a/+b/c", "##", "a/" * LEVELS_MAX])
def test_bad_filters(filter_: str) -> None:
    assert check_filter(filter_) is not None


@pytest.mark.parametrize("filter_", ["#", "+", "/", "a/+/#", "+/+", "/+", "$SYS/#", "ä/ö", " "])
def test_good_filters(filter_: str) -> None:
    assert check_filter(filter_) is None


@pytest.mark.parametrize(
    "filter_", ["$share", "$share/", "$share/g", "$share//a", "$share/g/", "$share/g+/a", "$share/g/a#"]
)
def test_bad_shared_filters(filter_: str) -> None:
    assert parse_filter(filter_)[2] is not None


def test_shared_filter_in_parts() -> None:
    assert parse_filter("$share/group/a/+") == ("group", "a/+", None)
    assert parse_filter("$shared/a") == (None, "$shared/a", None)


@pytest.mark.clause("MQTT-4.7.2-1", "MQTT-4.7.3-4", v=5)
@pytest.mark.clause("MQTT-4.7.2-1", "MQTT-4.7.3-4", v=4)
@pytest.mark.parametrize(
    ("filter_", "topic", "expected"),
    [
        ("sport/#", "sport", True),
        ("sport/#", "sport/a/b", True),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("A", "a", False),
        ("ä", "a\u0308", False),
        ("a//b", "a/b", False),
    ],
)
def test_examples_of_the_specification(filter_: str, topic: str, expected: bool) -> None:
    assert matches(filter_, topic) is expected


@given(FILTERS, FILTERS, TOPICS)
def test_filters_that_match_one_name_overlap(one: str, other: str, topic: str) -> None:
    if matches(one, topic) and matches(other, topic):
        assert overlap(one.split("/"), other.split("/"))


class _Table:
    def __init__(self, topics: set[str]) -> None:
        self.keys = sorted(map(to_key, topics))
        self.seeks = 0

    def seek(self, key: bytes, count_max: int) -> list[bytes]:
        self.seeks += 1
        at = bisect_left(self.keys, key)
        return self.keys[at : at + count_max]


@given(st.sets(TOPICS, max_size=30), FILTERS, st.integers(1, 5))
def test_scan_finds_what_matches(topics: set[str], filter_: str, batch_max: int) -> None:
    found = list(scan(filter_, _Table(topics), batch_max))
    assert sorted(found) == sorted(topic for topic in topics if matches(filter_, topic))
    assert len(found) == len(set(found))


def test_scan_grows_with_matches_not_with_the_table() -> None:
    table = _Table({f"site{i}/dev{j}/{leaf}" for i in range(20) for j in range(50) for leaf in ("state", "temp")})
    assert len(list(scan("site3/dev7/+", table))) == 2
    assert table.seeks <= 4
    table.seeks = 0
    assert len(list(scan("site3/+/state", table))) == 50
    assert table.seeks <= 110
