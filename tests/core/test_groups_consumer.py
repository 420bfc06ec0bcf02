"""KIP-848 groups: epochs, targets, revocation, fencing, static members, regular expressions, topics that change,
restarts.
"""

from __future__ import annotations

from typing import Any

import pytest

from core.consumer_group import ConsumerGroup
from core.consumer_groups_heartbeat import HeartbeatResult
from core.errors import CoreError, CoreFailure
from tests.core.groups_driver import REBALANCE_MS, Topics, World

E = CoreError
SESSION_MS = 45_000


class Member:
    """A well-behaved member: gives up what it must, reports what it owns, knows its epoch."""

    def __init__(self, world: World, name: str, instance: str | None = None, **options: Any) -> None:
        self.world, self.name, self.instance = world, name, instance
        self.epoch = 0
        self.owned: dict[bytes, set[int]] = {}
        self.join(**options)

    def join(self, **options: Any) -> HeartbeatResult:
        self.owned = {}
        return self._take(self.world.consumer_beat(self.name, 0, instance=self.instance, **options))

    def beat(self, **options: Any) -> HeartbeatResult:
        owned = self.owned
        return self._take(
            self.world.consumer_beat(self.name, self.epoch, instance=self.instance, owned=owned, **options)
        )

    def _take(self, result: HeartbeatResult) -> HeartbeatResult:
        assert result.error is None, result
        self.epoch = result.epoch
        if result.assignment is not None:
            self.owned = {topic_id: set(partitions) for topic_id, partitions in result.assignment.items()}
        return result

    @property
    def count(self) -> int:
        return sum(map(len, self.owned.values()))


def settle(*members: Member) -> None:
    for _ in range(6):
        for member in members:
            member.beat()


def the_group(world: World) -> ConsumerGroup:
    (group,) = world.groups.all()
    assert isinstance(group, ConsumerGroup)
    return group


def test_the_first_member_gets_everything_with_its_first_heartbeat() -> None:
    world = World()
    result = world.consumer_beat("a", 0)
    assert (result.error, result.epoch, result.interval_ms) == (None, 1, 5_000)
    topic = world.topics.get("t")
    assert topic is not None
    assert result.assignment == {topic.id: dict.fromkeys(range(4), 1)}


def test_a_partition_is_given_on_only_after_its_owner_has_let_it_go() -> None:
    world = World()
    a = Member(world, "a")
    b = Member(world, "b")
    assert (b.epoch, b.count) == (2, 0)
    owned_before = dict(a.owned)
    told = world.consumer_beat("a", a.epoch, owned=a.owned)
    assert told.epoch == 1
    assert told.assignment is not None
    assert sum(map(len, told.assignment.values())) == 2
    assert b.beat().assignment is None
    assert world.consumer_beat("a", 1, owned=owned_before).epoch == 1
    assert world.groups.describe_consumer("g").state == "Reconciling"
    a.owned = {t: set(p) for t, p in told.assignment.items()}
    assert a.beat().epoch == 2
    b.beat()
    assert (a.count, b.count) == (2, 2)
    assert world.groups.describe_consumer("g").state == "Stable"


def test_a_member_that_does_not_let_go_in_time_is_fenced() -> None:
    world = World()
    a = Member(world, "a")
    b = Member(world, "b")
    a.beat()
    for _ in range(4):
        world.pass_time(REBALANCE_MS // 4)
        b.beat()
        told = world.consumer_beat("a", 1)  # alive, but says nothing of what it owns
    assert told.error is E.UNKNOWN_MEMBER
    b.beat()
    assert b.count == 4


def test_a_silent_member_is_fenced_and_its_partitions_go_to_the_others() -> None:
    world = World()
    a, b = Member(world, "a"), Member(world, "b")
    settle(a, b)
    world.pass_time(SESSION_MS - 1)
    a.beat()
    world.pass_time(1)
    assert list(the_group(world).members) == ["a"]
    settle(a)
    assert a.count == 4
    assert world.consumer_beat("b", b.epoch).error is E.UNKNOWN_MEMBER


def test_leaving_frees_partitions_at_once() -> None:
    world = World()
    a, b = Member(world, "a"), Member(world, "b")
    settle(a, b)
    assert world.consumer_beat("b", -1).epoch == -1
    assert a.beat().epoch == 3
    assert a.count == 4
    assert world.consumer_beat("a", -1).error is None
    assert world.groups.describe_consumer("g").state == "Empty"


def test_epochs_that_are_not_the_members_are_fenced_but_a_lost_answer_is_forgiven() -> None:
    world = World()
    a = Member(world, "a")
    world.topics.put("t", 8)
    world.groups.topics_changed()
    lost = world.consumer_beat("a", 1, owned=a.owned)
    assert lost.epoch == 2
    again = world.consumer_beat("a", 1, owned=a.owned)
    assert (again.error, again.epoch) == (None, 2)
    assert world.consumer_beat("a", 1).error is E.FENCED_MEMBER_EPOCH
    assert world.consumer_beat("a", 1, owned={b"x" * 16: {0}}).error is E.FENCED_MEMBER_EPOCH
    assert world.consumer_beat("a", 3, owned=a.owned).error is E.FENCED_MEMBER_EPOCH
    assert world.consumer_beat("a", 0).epoch == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"member_id": ""}, E.INVALID_GROUP_REQUEST),
        ({"group": ""}, E.INVALID_GROUP_REQUEST),
        ({"instance": ""}, E.INVALID_GROUP_REQUEST),
        ({"epoch": -2}, E.INVALID_GROUP_REQUEST),
        ({"epoch": -3}, E.INVALID_GROUP_REQUEST),
        ({"owned": {b"x" * 16: {0}}}, E.INVALID_GROUP_REQUEST),
        ({"assignor": "mine"}, E.UNSUPPORTED_ASSIGNOR),
        ({"regex": "("}, E.INVALID_REGEX),
        ({"regex": "a" * 5000}, E.INVALID_REGEX),
        ({"epoch": 1}, E.GROUP_NOT_FOUND),
        ({"epoch": -1}, E.GROUP_NOT_FOUND),
        ({"epoch": 1, "group": "known"}, E.UNKNOWN_MEMBER),
        ({"epoch": -1, "group": "known"}, E.UNKNOWN_MEMBER),
        ({"epoch": 1, "group": "known", "instance": "i"}, E.UNKNOWN_MEMBER),
    ],
)
def test_requests_that_make_no_sense_are_refused(change: dict[str, object], error: CoreError) -> None:
    world = World()
    Member(world, "a", group="known")
    arguments: dict[str, Any] = {"member_id": "m", "epoch": 0, **change}
    result = world.consumer_beat(**arguments)
    assert result.error is error
    assert result.message


def test_a_group_never_grows_past_its_limit() -> None:
    world = World(members_max=1)
    Member(world, "a")
    assert world.consumer_beat("b", 0).error is E.GROUP_FULL
    assert world.consumer_beat("a", 0).error is None


# -- static members


def test_a_static_member_that_says_it_will_be_back_keeps_its_partitions() -> None:
    world = World()
    a, b = Member(world, "a", "i"), Member(world, "b")
    settle(a, b)
    had = a.owned
    assert world.consumer_beat("a2", 0, instance="i").error is E.UNRELEASED_INSTANCE
    assert world.consumer_beat("a", -2, instance="i").epoch == -2
    settle(b)
    assert b.count == 2
    back = Member(world, "a2", "i")
    assert back.owned == had
    assert world.consumer_beat("a", a.epoch, instance="i").error is E.FENCED_INSTANCE
    settle(back, b)
    assert the_group(world).epoch == 2


def test_a_static_member_that_never_comes_back_is_fenced() -> None:
    world = World()
    a = Member(world, "a", "i")
    world.consumer_beat("a", -2, instance="i")
    world.pass_time(SESSION_MS)
    assert the_group(world).members == {}
    assert a.count == 4


# -- subscriptions and topics


def test_partitions_that_are_added_are_assigned() -> None:
    world = World()
    a = Member(world, "a")
    world.topics.put("t", 6)
    world.groups.topics_changed()
    a.beat()
    assert (a.epoch, a.count) == (2, 6)


def test_a_change_of_other_topics_moves_nothing() -> None:
    world = World()
    a = Member(world, "a")
    writes = world.log.writes
    world.topics.put("u", 6)
    world.groups.topics_changed()
    assert a.beat().assignment is None
    assert (a.epoch, world.log.writes) == (1, writes)


def test_a_plain_heartbeat_writes_nothing_and_tells_nothing() -> None:
    world = World()
    a = Member(world, "a")
    writes = world.log.writes
    assert a.beat().assignment is None
    assert world.log.writes == writes


def test_a_topic_that_is_deleted_is_taken_away() -> None:
    world = World(topics=Topics(t=4, u=2))
    a = Member(world, "a", topics=["t", "u"])
    assert a.count == 6
    world.topics.drop("u")
    world.groups.topics_changed()
    settle(a)
    assert a.count == 4


def test_what_is_no_longer_subscribed_is_taken_away() -> None:
    world = World(topics=Topics(t=4, u=2))
    a = Member(world, "a", topics=["t", "u"])
    a.beat(topics=["u"])
    assert a.count == 2
    a.beat()
    assert world.groups.describe_consumer("g").state == "Stable"


def test_a_regular_expression_subscribes_what_it_matches_whole_now_and_later() -> None:
    world = World(topics=Topics(a1=1, a2=1, ba1=1, __a1=1))
    a = Member(world, "a", regex="_*a[0-9]+")
    assert a.count == 2
    world.topics.put("a33", 3)
    world.groups.topics_changed()
    world.pass_time(10_000)
    a.beat()
    assert a.count == 5
    a.beat(regex="", topics=["ba1"])
    settle(a)
    assert a.count == 1


def test_a_regular_expression_that_nobody_subscribes_any_more_is_forgotten() -> None:
    world = World(topics=Topics(t=1))
    a, b = Member(world, "a", regex="t|a"), Member(world, "b", regex="t|a")
    for number in range(3):
        a.beat(regex=f"t|{number}")
        assert the_group(world).regexes.keys() == {f"t|{number}", "t|a"}
    b.beat(regex="", topics=["t"])
    assert the_group(world).regexes.keys() == {"t|2"}


def test_a_hostile_regular_expression_costs_no_more_than_others() -> None:
    world = World(topics=Topics(**{"a" * 200 + str(i): 1 for i in range(200)}))
    assert Member(world, "a", regex="(a+)+b").count == 0


# -- offsets


def test_commits_need_the_members_epoch() -> None:
    world = World()
    a = Member(world, "a")
    assert world.commit(1, "a", a.epoch) == [None]
    assert world.commit(1, "a", a.epoch - 1) == [E.STALE_MEMBER_EPOCH]
    assert world.commit(1, "a", a.epoch + 1) == [E.STALE_MEMBER_EPOCH]
    assert world.commit(1, "b", a.epoch) == [E.UNKNOWN_MEMBER]
    assert world.commit(1) == [E.UNKNOWN_MEMBER]
    assert world.commit(1, "a", a.epoch, knows_epochs=False) == [E.MEMBER_EPOCHS_UNSUPPORTED]
    assert world.commit(1, "a", a.epoch, producer=1) == [None]
    assert world.commit(1, "a", a.epoch + 1, producer=1) == [E.ILLEGAL_GENERATION]
    assert world.commit(1, producer=1) == [None]


def test_fetches_that_name_a_member_need_its_epoch() -> None:
    world = World()
    a = Member(world, "a")
    world.commit(1, "a", a.epoch)
    for member_id, epoch, error in [("a", 9, E.STALE_MEMBER_EPOCH), ("b", 1, E.UNKNOWN_MEMBER)]:
        with pytest.raises(CoreFailure) as refused:
            world.offsets.fetch("g", member_id, epoch)
        assert refused.value.error is error
    assert world.offsets.fetch("g", "a", a.epoch) == world.offsets.fetch("g", None, -1)


# -- durability


def test_nobody_learns_an_epoch_before_it_is_durable() -> None:
    world = World()
    world.log.held = True
    answers = world.consumer_ask("a", 0)
    assert answers == []
    world.log.release()
    assert answers[0].epoch == 1


def test_after_a_restart_members_go_on_where_they_were() -> None:
    world = World()
    a, b = Member(world, "a"), Member(world, "b", "i")
    settle(a, b)
    a.world = b.world = world = world.restart()
    assert a.beat().assignment is None
    assert b.beat().assignment is None
    assert (a.epoch, b.epoch, the_group(world).epoch) == (2, 2, 2)
    world.consumer_beat("b", -1, instance="i")
    settle(a)
    assert a.count == 4
    world = world.restart()
    assert list(the_group(world).members) == ["a"]


def test_after_a_restart_in_the_middle_of_a_revocation_it_goes_on() -> None:
    world = World()
    a = Member(world, "a")
    b = Member(world, "b")
    a.beat()
    a.world = b.world = world = world.restart()
    settle(a, b)
    assert (a.count, b.count) == (2, 2)


def test_a_group_is_changed_from_one_type_to_the_other_while_it_is_empty() -> None:
    world = World()
    (member,), _ = world.form()
    world.commit(5, member, 1)
    world.leave(member)
    a = Member(world, "a")
    assert a.count == 4
    assert world.committed() == 5
    world.consumer_beat("a", -1)
    world.form()
    assert [g.type for g in world.groups.listing([], [])] == ["classic"]
    world = world.restart()
    assert [g.type for g in world.groups.listing([], [])] == ["classic"]
    assert world.committed() == 5


@pytest.mark.parametrize("saved", [True, False])
def test_what_a_change_of_type_could_not_write_on_a_full_disk_is_written_when_there_is_room(saved: bool) -> None:
    world = World()
    (member,), _ = world.form()
    world.leave(member)
    world.log.error = E.STORE_FULL
    a = Member(world, "a")
    world.log.error = None
    if saved:
        world.pass_time(5_000)
        world = a.world = world.restart()
        a.beat()
    world.consumer_beat("a", -1)
    world.log.put(world.groups.check_delete("g"))
    assert world.restart().groups.listing([], []) == []
