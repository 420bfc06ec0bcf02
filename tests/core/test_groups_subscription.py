"""The consumer protocol inside member metadata: read as other clients write it, and any bytes are read or refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.group_subscription import (
    build_assignment,
    build_subscription,
    parse_assignment,
    parse_subscription,
)

SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
partitions = st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 2**31 - 1), max_size=4), max_size=3)


@SETTINGS
@given(st.integers(0, 3), st.lists(st.text(max_size=10)), partitions, st.integers(-1, 100))
def test_a_subscription_reads_back(
    version: int, topics: list[str], owned: dict[str, list[int]], generation: int
) -> None:
    found = parse_subscription(build_subscription(version, topics, owned, generation))
    assert (found.version, found.topics) == (version, topics)
    assert found.owned == (owned if version >= 1 else {})
    assert found.generation == (generation if version >= 2 else -1)


@SETTINGS
@given(st.integers(0, 9), partitions)
def test_an_assignment_reads_back(version: int, assigned: dict[str, list[int]]) -> None:
    assert parse_assignment(build_assignment(version, assigned)) == assigned


def test_what_librdkafka_and_kafka_python_write_is_read() -> None:
    # librdkafka 2.x, cooperative-sticky: version 3, no user data, nothing owned, generation -1, no rack
    librdkafka = bytes.fromhex("0003 00000001 0001 74 ffffffff 00000000 ffffffff ffff")
    assert parse_subscription(librdkafka) == (3, ["t"], None, {}, -1, None)
    # kafka-python 2.0.2, range: version 0, empty user data
    assert parse_subscription(bytes.fromhex("0000 00000002 0001 74 0001 75 00000000")).topics == ["t", "u"]


@SETTINGS
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_subscription, parse_assignment):
        try:
            parse(data)
        except ValueError:
            pass


@SETTINGS
@given(st.integers(0, 3), st.integers(0, 40))
def test_every_truncation_is_refused(version: int, cut: int) -> None:
    whole = build_subscription(version, ["topic-1", "topic-2"], {"topic-1": [1, 2, 3]}, 5)
    if cut < len(whole):
        with pytest.raises(ValueError):
            parse_subscription(whole[: max(len(whole) - 1 - cut, 0)])


@pytest.mark.parametrize("count", [-1, 2**31 - 1, 1000])
def test_counts_that_lie_are_refused_before_anything_is_allocated(count: int) -> None:
    with pytest.raises(ValueError):
        parse_subscription(struct.pack(">hi", 0, count) + b"\x00\x01t")


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    data = bytearray(build_subscription(3, ["t"], {}, 4) + b"more")
    struct.pack_into(">h", data, 0, 9)
    assert parse_subscription(bytes(data)).topics == ["t"]
