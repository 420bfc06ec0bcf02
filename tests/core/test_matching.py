"""The subscription index against the plain definition of matching."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.filters import matches
from core.matching import OPTIONS_BITS, OPTIONS_MASK, SUBSCRIBERS_MAX, SubscriptionIndex, entries
from tests.core.test_filters import FILTERS, TOPICS


@given(st.dictionaries(st.tuples(FILTERS, st.integers(1, 5)), st.integers(0, OPTIONS_MASK), max_size=25), TOPICS)
def test_match_finds_every_matching_subscription_once(table: dict[tuple[str, int], int], topic: str) -> None:
    index = SubscriptionIndex()
    for (filter_, subscriber), options in table.items():
        assert index.add(filter_, subscriber, options)
    expected = sorted(
        (subscriber, options) for (filter_, subscriber), options in table.items() if matches(filter_, topic)
    )
    assert sorted(entries(index.match(topic))) == expected
    assert index.count == len(table)


class _Index(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = SubscriptionIndex()
        self.table: dict[tuple[str, int], int] = {}

    @rule(filter_=FILTERS, subscriber=st.integers(1, 3), options=st.integers(0, 9))
    def add(self, filter_: str, subscriber: int, options: int) -> None:
        assert self.index.add(filter_, subscriber, options) == ((filter_, subscriber) not in self.table)
        self.table[filter_, subscriber] = options

    @rule(filter_=FILTERS, subscriber=st.integers(1, 3))
    def remove(self, filter_: str, subscriber: int) -> None:
        known = self.table.pop((filter_, subscriber), None) is not None
        assert self.index.remove(filter_, subscriber) == known

    @rule(data=st.data())
    def remove_known(self, data: st.DataObject) -> None:
        if self.table:
            filter_, subscriber = data.draw(st.sampled_from(sorted(self.table)))
            self.remove(filter_, subscriber)

    @rule(topic=TOPICS)
    def match(self, topic: str) -> None:
        expected = [(who, options) for (filter_, who), options in self.table.items() if matches(filter_, topic)]
        assert sorted(entries(self.index.match(topic))) == sorted(expected)

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert self.index.count == len(self.table)
        if not self.table:
            assert not self.index._exact
            assert self.index._root.children is None
            assert self.index._root.plus is None
            assert self.index._root.rest is None


TestIndex = _Index.TestCase


@pytest.mark.parametrize("filter_", ["a", "a/+", "#"])
def test_many_subscribers_of_one_filter(filter_: str) -> None:
    index = SubscriptionIndex()
    numbers = [*range(0, 1000, 7), SUBSCRIBERS_MAX - 1]
    for number in numbers:
        assert index.add(filter_, number, 3)
        assert not index.add(filter_, number, number & 1)
    topic = "a/x" if filter_ == "a/+" else "a"
    assert sorted(index.match(topic)) == [number << OPTIONS_BITS | number & 1 for number in numbers]
    for number in numbers:
        assert index.remove(filter_, number)
        assert not index.remove(filter_, number)
    assert index.match(topic) == []


def test_version_changes_with_every_change() -> None:
    index = SubscriptionIndex()
    seen = {index.version}
    index.add("a", 1, 0)
    seen.add(index.version)
    index.add("a", 1, 1)
    seen.add(index.version)
    index.remove("a", 1)
    seen.add(index.version)
    assert len(seen) == 4
    assert not index.remove("a", 1)
    assert index.version in seen


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        SubscriptionIndex().add("a", SUBSCRIBERS_MAX, 0)
