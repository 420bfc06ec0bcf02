"""Mappings over time, as they are stored and read back."""

from __future__ import annotations

import pytest

from core import mapping_history
from core.mapping_history import MappingHistory
from core.topic_mapping import Rule, TopicMapping

PLAIN = TopicMapping()
TEMPS = TopicMapping([Rule("plant/+/temp", "temps", "{1}")])
OTHER = TopicMapping(catch_all="elsewhere")


def _stored(history: MappingHistory, stored: dict[int, bytes]) -> dict[int, bytes]:
    """The table after its changes."""
    stored = dict(stored)
    for key, value in history.changes:
        position = int.from_bytes(key[1:], "big")
        if value is None:
            del stored[position]
        else:
            stored[position] = value
    return stored


def test_a_change_counts_from_its_position_and_an_unchanged_mapping_stores_nothing() -> None:
    first = MappingHistory(PLAIN, {}, 500)
    stored = _stored(first, {})
    assert list(stored) == [0]  # what was there before any mapping takes the first
    assert MappingHistory(PLAIN, stored, 900).changes == []
    second = MappingHistory(TEMPS, stored, 1_000)
    stored = _stored(second, stored)
    third = MappingHistory(OTHER, stored, 2_000)
    stored = _stored(third, stored)
    assert sorted(stored) == [0, 1_000, 2_000]
    again = MappingHistory(OTHER, stored, 3_000)
    assert again.changes == []
    names = [again.at(position).name("temps", b"line1") for position in (0, 999, 1_000, 1_999, 2_000, 9_999)]
    assert names == ["temps/line1"] * 2 + ["plant/line1/temp"] * 2 + ["temps/line1"] * 2
    assert again.at(5_000) is OTHER


def test_a_filters_topics_are_those_of_all_mappings_since_a_position() -> None:
    stored = _stored(MappingHistory(PLAIN, {}, 0), {})
    stored = _stored(MappingHistory(TEMPS, stored, 1_000), stored)
    history = MappingHistory(OTHER, stored, 2_000)
    name = "plant/line1/temp"
    assert history.topics_since(name, 2_000) == frozenset({"plant", "elsewhere"})
    assert history.topics_since(name, 1_999) == frozenset({"plant", "elsewhere", "temps", "mqtt.other"})
    assert history.topics_since(name, 5) == frozenset({"plant", "elsewhere", "temps", "mqtt.other"})
    assert history.topics_since("+/x", 2_000) is None


def test_an_earlier_mapping_that_cannot_be_read_is_left_out() -> None:
    stored = _stored(MappingHistory(PLAIN, {}, 0), {})
    for rubbish in (
        b"",
        b"[]",
        b'{"catch_all": "a b", "rules": []}',
        b'{"catch_all": "a", "rules": [["#", "x", "{1}"]]}',
    ):
        history = MappingHistory(TEMPS, {**stored, 50: rubbish}, 100)
        assert history.at(60).fingerprint == PLAIN.fingerprint
        assert history.at(100) is TEMPS


def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_history, "CHANGES_MAX", 3)
    stored: dict[int, bytes] = {}
    for number in range(6):
        history = MappingHistory((PLAIN, TEMPS)[number % 2], stored, 100 * number)
        stored = _stored(history, stored)
    assert sorted(stored) == [300, 400, 500]
    assert MappingHistory(TEMPS, stored, 600).at(10).fingerprint == TEMPS.fingerprint
