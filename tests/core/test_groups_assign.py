"""The server-side assignors: complete, fair, sticky, over drawn groups."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.consumer_groups_assign import ASSIGNORS, Assignment, MemberSpec, assign_range, assign_uniform

IDS = [bytes([i]) * 16 for i in range(5)]
counts = st.dictionaries(st.sampled_from(IDS), st.integers(1, 12), min_size=1)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Groups = tuple[dict[bytes, int], dict[str, MemberSpec]]


@st.composite
def groups(draw: st.DrawFn, alike: bool | None = None) -> Groups:
    topics = draw(counts)
    same = draw(st.booleans()) if alike is None else alike
    everything = set(topics)
    members = {}
    for number in range(draw(st.integers(1, 8))):
        subscribed = everything if same else draw(st.sets(st.sampled_from(sorted(topics))))
        instance = f"i{number}" if draw(st.booleans()) else None
        members[f"m{number}"] = MemberSpec(instance, subscribed, {})
    for topic_id, count in topics.items():  # a present target: valid, but not fair
        for partition in range(count):
            name = draw(st.sampled_from([*members, "nobody"]))
            if name in members:
                spec = members[name]
                previous = {t: set(p) for t, p in spec.previous.items()}
                previous.setdefault(topic_id, set()).add(partition)
                members[name] = spec._replace(previous=previous)
    return topics, members


def owners(result: Mapping[str, Assignment]) -> dict[tuple[bytes, int], list[str]]:
    found: dict[tuple[bytes, int], list[str]] = {}
    for name, assignment in result.items():
        for topic_id, partitions in assignment.items():
            for partition in partitions:
                found.setdefault((topic_id, partition), []).append(name)
    return found


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=ASSIGNORS)
@SETTINGS
@given(group=groups())
def test_every_partition_with_a_subscriber_has_exactly_one_owner_who_subscribes_it(
    assignor: object, group: Groups
) -> None:
    topics, members = group
    result = assignor(members, topics)  # type: ignore[operator]
    found = owners(result)
    wanted = {
        (topic_id, partition)
        for topic_id, count in topics.items()
        for partition in range(count)
        if any(topic_id in spec.topics for spec in members.values())
    }
    assert set(found) == wanted
    for (topic_id, _), names in found.items():
        assert len(names) == 1
        assert topic_id in members[names[0]].topics
    assert set(result) == set(members)


@SETTINGS
@given(groups(alike=True))
def test_uniform_gives_members_with_the_same_subscription_the_same_number_give_or_take_one(group: Groups) -> None:
    topics, members = group
    sizes = [sum(map(len, assignment.values())) for assignment in assign_uniform(members, topics).values()]
    assert max(sizes) - min(sizes) <= 1


@SETTINGS
@given(groups())
def test_uniform_moves_nothing_when_asked_again(group: Groups) -> None:
    topics, members = group
    first = assign_uniform(members, topics)
    again = {name: spec._replace(previous=first[name]) for name, spec in members.items()}
    assert assign_uniform(again, topics) == first


@SETTINGS
@given(groups(alike=True))
def test_uniform_keeps_as_much_as_fairness_allows(group: Groups) -> None:
    topics, members = group
    result = assign_uniform(members, topics)
    each = sum(topics.values()) // len(members)
    for name, spec in members.items():
        had = {(t, p) for t, partitions in spec.previous.items() for p in partitions if t in spec.topics}
        has = {(t, p) for t, partitions in result[name].items() for p in partitions}
        assert len(had & has) >= min(len(had), each)


@SETTINGS
@given(groups())
def test_uniform_leaves_no_single_move_that_would_make_it_fairer(group: Groups) -> None:
    topics, members = group
    result = assign_uniform(members, topics)
    load = {name: sum(map(len, assignment.values())) for name, assignment in result.items()}
    for (topic_id, _), (owner,) in owners(result).items():
        assert all(load[owner] <= load[m] + 1 for m, spec in members.items() if topic_id in spec.topics)


@SETTINGS
@given(groups(alike=True))
def test_range_gives_contiguous_ranges_in_order_static_members_by_instance_first(group: Groups) -> None:
    topics, members = group
    result = assign_range(members, topics)
    order = sorted(members, key=lambda m: (members[m].instance_id is None, members[m].instance_id or m))
    for topic_id, count in topics.items():
        listed = [p for name in order for p in sorted(result[name].get(topic_id, set()))]
        assert listed == list(range(count))


def test_range_puts_equal_partitions_of_equal_topics_on_one_member() -> None:
    members = {f"m{i}": MemberSpec(None, set(IDS[:2]), {}) for i in range(3)}
    for assignment in assign_range(members, {IDS[0]: 7, IDS[1]: 7}).values():
        assert assignment[IDS[0]] == assignment[IDS[1]]
