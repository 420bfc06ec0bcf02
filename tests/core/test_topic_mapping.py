"""The name space: MQTT names <-> (topic, key), rules, partitions."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as oracle_murmur2
from hypothesis import given
from hypothesis import strategies as st

from core.filters import check_topic, matches
from core.topic_mapping import CATCH_ALL, MappingError, Place, Rule, TopicMapping, partition_of
from trivium.partitioner import murmur2

LEVEL = st.text(st.characters(exclude_characters="/+#\0", codec="utf-8"), max_size=6)
NAMES = st.one_of(
    st.lists(
        st.one_of(LEVEL, st.sampled_from(["t", "dev", "mqtt.other", "$x", ".", "..", "tele"])), min_size=1, max_size=5
    )
    .map("/".join)
    .filter(lambda name: check_topic(name) is None)
)
RULES = (
    Rule("+/tele/#", "tele", "{1}/{#}"),
    Rule("+/site/+/state", "states", "{2}/x/{1}"),
    Rule("alarm", "alarms", "a"),
)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("plant1/line3/temp", ("plant1", b"line3/temp")),
        ("t", ("t", None)),
        ("t/", ("t", b"")),
        ("t//a", ("t", b"/a")),
        ("/sys/x", (CATCH_ALL, b"/sys/x")),
        ("größe/a", (CATCH_ALL, "größe/a".encode())),
        ("$odd/a", (CATCH_ALL, b"$odd/a")),
        ("..", (CATCH_ALL, b"..")),
        ("x" * 250, (CATCH_ALL, b"x" * 250)),
        (f"{CATCH_ALL}/a", (CATCH_ALL, f"{CATCH_ALL}/a".encode())),
    ],
)
def test_names_map_by_the_first_slash_and_back(name: str, place: tuple[str, bytes | None]) -> None:
    mapping = TopicMapping()
    assert mapping.place(name) == Place(*place)
    assert mapping.name(*place) == name


@given(NAMES)
def test_every_name_comes_back_with_and_without_rules(name: str) -> None:
    for mapping in (TopicMapping(), TopicMapping(RULES)):
        assert mapping.name(*mapping.place(name)) == name


@given(NAMES, NAMES)
def test_two_names_never_share_a_place(one: str, other: str) -> None:
    for mapping in (TopicMapping(), TopicMapping(RULES)):
        assert (mapping.place(one) == mapping.place(other)) == (one == other)


def test_rules_reorder_levels_and_own_their_topic() -> None:
    mapping = TopicMapping(RULES)
    assert mapping.place("dev7/tele/a/b") == ("tele", b"dev7/a/b")
    assert mapping.place("dev7/tele") == ("tele", b"dev7")
    assert mapping.place("n/site/4/state") == ("states", b"4/x/n")
    assert mapping.place("alarm") == ("alarms", b"a")
    # A name whose first level is a rule's topic would collide with the rule's keys.
    assert mapping.place("tele/dev7") == (CATCH_ALL, b"tele/dev7")
    assert mapping.name("states", b"4/y/n") is None


@pytest.mark.parametrize(
    "rules",
    [
        [Rule("+/a", "t", "x")],
        [Rule("+/a", "t", "{1}{1}")],
        [Rule("+/a", "t", "{1}/{1}")],
        [Rule("+/a", "t", "{1}/{2}")],
        [Rule("a/#", "t", "{#}/x")],
        [Rule("a/#", "bad topic", "{#}")],
        [Rule("a#", "t", "x")],
        [Rule("+/a", "t", "{1}"), Rule("b/+", "u", "{1}")],
        [Rule("a/+", "t", "{1}"), Rule("b/+", "t", "{1}")],
        [Rule("a", CATCH_ALL, "a")],
    ],
)
def test_rules_that_cannot_be_undone_are_refused(rules: list[Rule]) -> None:
    with pytest.raises(MappingError):
        TopicMapping(rules)


@pytest.mark.parametrize("key", [b"\xff", b"a\0b", b"a/+", b"#", b"x" * 65_535])
def test_keys_that_are_no_name_have_no_way_back(key: bytes) -> None:
    assert TopicMapping().name("topic", key) is None


FILTERS = ["#", "+/#", "t/#", "+/+", "dev/+/#", "+/site/#", "$x/#", "tele/+", "mqtt.other/#", "/#"]


@given(NAMES, st.sampled_from(FILTERS))
def test_topics_of_a_filter_hold_every_name_it_matches(name: str, filter_: str) -> None:
    for mapping in (TopicMapping(), TopicMapping(RULES)):
        topics = mapping.topics_of(filter_)
        if matches(filter_, name) and topics is not None:
            assert mapping.place(name).topic in topics


@given(st.binary(max_size=40), st.integers(1, 100))
def test_partitions_are_those_of_kafkas_java_client(key: bytes, partitions: int) -> None:
    assert murmur2(key) == oracle_murmur2(key) & 0xFFFFFFFF
    assert partition_of(key, partitions) == (oracle_murmur2(key) & 0x7FFFFFFF) % partitions
    assert partition_of(None, partitions) == 0


def test_murmur2_of_known_keys() -> None:
    # From Kafka's own UtilsTest.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    for key, signed in known.items():
        assert murmur2(key) == signed & 0xFFFFFFFF
