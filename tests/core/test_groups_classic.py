"""Classic groups beyond single answers: static members, leaders, protocols, races with the log, restarts, full
disks.
"""

from __future__ import annotations

from core.errors import CoreError
from core.group_classic import ClassicGroup, State
from core.group_types import GroupListing
from tests.core.groups_driver import DELAY_MS, REBALANCE_MS, SESSION_MS, World, subscription

E = CoreError


def the_group(world: World) -> ClassicGroup:
    (group,) = world.groups.all()
    assert isinstance(group, ClassicGroup)
    return group


# -- joining and leading


def test_a_new_member_asks_again_with_the_id_it_is_given() -> None:
    world = World()
    (refused,) = world.join(needs_member_id=True)
    assert refused.error is E.MEMBER_ID_REQUIRED
    assert refused.member_id.startswith("test-")
    joined = world.join(refused.member_id, needs_member_id=True)
    world.pass_time(2 * DELAY_MS)
    assert joined[0].member_id == refused.member_id == joined[0].leader


def test_an_id_given_out_and_never_used_holds_a_rebalance_up_for_its_session_only() -> None:
    world = World()
    (leader,), generation = world.form()
    world.join(needs_member_id=True)
    again = world.join(leader)
    world.pass_time(SESSION_MS - 1)
    assert again == []
    world.pass_time(1)
    assert again[0].generation == generation + 1


def test_only_the_leader_learns_who_is_in_the_group() -> None:
    world = World()
    joins = [world.join() for _ in range(3)]
    world.pass_time(2 * DELAY_MS)
    leader = joins[0][0].leader
    lists = {join[0].member_id: [m.member_id for m in join[0].members] for join in joins}
    assert sorted(lists.pop(leader)) == sorted(join[0].member_id for join in joins)
    assert list(lists.values()) == [[], []]


def test_who_joins_when_all_that_waited_have_left_makes_the_group_anew() -> None:
    world = World()
    (refused,) = world.join(needs_member_id=True)
    world.join(refused.member_id, needs_member_id=True)
    world.leave(refused.member_id)
    joined = world.join(protocols={"other": b""}, protocol_type="connect")
    world.pass_time(2 * DELAY_MS)
    assert (joined[0].error, joined[0].protocol) == (None, "other")


def test_the_protocol_is_the_one_most_members_put_first_among_those_all_support() -> None:
    world = World()
    joins = [world.join(protocols=dict.fromkeys(names.split(), b"")) for names in ("a b c", "c b", "b c x", "b c")]
    world.pass_time(2 * DELAY_MS)
    assert {join[0].protocol for join in joins} == {"b"}
    leader = next(join[0] for join in joins if join[0].members)
    assert len(leader.members) == 4


def test_a_leader_that_does_not_join_again_is_replaced() -> None:
    world = World()
    (leader, follower), generation = world.form(2)
    world.join(needs_member_id=True, protocols={"range": subscription("t", "u")})
    changed = world.join(follower, protocols={"range": subscription("u")})
    world.pass_time(REBALANCE_MS)
    assert changed[0].leader == follower
    assert world.beat(leader, generation) is E.UNKNOWN_MEMBER


def test_a_leader_that_joins_again_begins_a_rebalance_and_a_follower_does_not() -> None:
    world = World()
    (leader, follower), generation = world.form(2)
    (same,) = world.join(follower)
    assert (same.generation, same.members) == (generation, [])
    assert world.join(leader) == []
    assert world.beat(follower, generation) is E.REBALANCE_IN_PROGRESS


def test_a_join_asked_again_answers_the_one_before() -> None:
    world = World()
    (leader, _), generation = world.form(2)
    first = world.join(leader)
    second = world.join(leader)
    assert first[0].error is E.REBALANCE_IN_PROGRESS
    assert second == []
    assert generation == the_group(world).generation


def test_a_group_never_grows_past_its_limit() -> None:
    world = World(members_max=2)
    (leader, follower), generation = world.form(2)
    assert world.join()[0].error is E.GROUP_FULL
    assert world.join(needs_member_id=True)[0].error is E.GROUP_FULL
    assert world.beat(leader, generation) is None
    waiting = world.join(leader), world.join(follower)
    assert all(join[0].error is None for join in waiting)


def test_members_that_join_and_never_sync_are_removed_with_the_rebalance_time_out() -> None:
    world = World()
    joins = [world.join(session_ms=60_000) for _ in range(2)]
    world.pass_time(2 * DELAY_MS)
    leader = joins[0][0].leader
    generation = joins[0][0].generation
    world.sync(leader, generation, {leader: b"all"})
    world.pass_time(REBALANCE_MS)
    assert list(the_group(world).members) == [leader]
    assert the_group(world).state is State.PREPARING


def test_leaving_answers_whoever_still_waits() -> None:
    world = World()
    (leader, follower), generation = world.form(2)
    world.join(leader)
    joins = world.join(follower)
    assert joins[0].generation == generation + 1
    waiting = world.sync(follower, generation + 1)
    assert world.leave(follower).members[0][1] is None
    assert waiting[0].error in (E.REBALANCE_IN_PROGRESS, E.UNKNOWN_MEMBER)


def test_groups_of_other_types_need_no_subscription_the_broker_understands() -> None:
    world = World()
    members, generation = world.form(2, protocol_type="connect", protocols={"sessioned": b"\xff\xff"})
    assert world.commit(3, members[0], generation) == [None]
    assert world.groups.listing([], []) == [GroupListing("g", "connect", "Stable", "classic")]
    assert the_group(world).subscribed is None


# -- static members


def test_a_static_member_that_returns_keeps_its_assignment_and_disturbs_nobody() -> None:
    world = World()
    (leader,), _ = world.form()
    world.join(instance="i")
    world.join(leader)
    generation = the_group(world).generation
    old = the_group(world).static_members["i"]
    world.sync(old, generation, instance="i")
    world.sync(leader, generation, {leader: b"1", old: b"2"})
    (back,) = world.join(instance="i")
    assert back.error is None
    assert (back.generation, back.skip_assignment) == (generation, False)
    assert back.member_id != old
    assert world.sync(back.member_id, generation, instance="i")[0].assignment == b"2"
    assert world.beat(leader, generation) is None
    assert world.beat(old, generation, instance="i") is E.FENCED_INSTANCE
    assert world.commit(1, old, generation, instance="i") == [E.FENCED_INSTANCE]
    assert world.sync(old, generation, instance="i")[0].error is E.FENCED_INSTANCE
    assert world.join(old, instance="i")[0].error is E.FENCED_INSTANCE


def test_a_static_leader_that_returns_is_told_to_skip_the_assignment() -> None:
    world = World()
    (leader,), generation = world.form(instance="i")
    (back,) = world.join(instance="i")
    assert (back.leader, back.skip_assignment) == (back.member_id, True)
    assert [m.instance_id for m in back.members] == ["i"]
    (older,) = world.join(instance="i", can_skip=False)
    assert (older.leader, older.skip_assignment, older.members) == (back.member_id, False, [])
    assert the_group(world).generation == generation
    assert leader not in the_group(world).members


def test_a_static_member_with_other_protocols_begins_a_rebalance() -> None:
    world = World()
    world.form(instance="i", protocols={"range": b"", "sticky": b""})
    answers = world.join(instance="i", protocols={"sticky": b"", "range": b""})
    assert answers[0].protocol == "sticky"
    assert answers[0].generation == 2


def test_two_with_one_instance_id_in_a_rebalance_fence_the_first() -> None:
    world = World()
    first = world.join(instance="i")
    second = world.join(instance="i")
    world.pass_time(3 * DELAY_MS)
    assert first[0].error is E.FENCED_INSTANCE
    assert second[0].error is None
    assert len(the_group(world).members) == 1


def test_a_static_member_stays_through_rebalances_until_its_session_ends() -> None:
    world = World()
    (static,), _ = world.form(instance="i", session_ms=REBALANCE_MS * 3)
    other = world.join(session_ms=REBALANCE_MS * 4)
    world.pass_time(REBALANCE_MS)
    assert other[0].error is None
    assert static in the_group(world).members
    world.sync(other[0].member_id, other[0].generation, {})
    world.pass_time(REBALANCE_MS * 3)
    assert static not in the_group(world).members


def test_an_administrator_removes_a_static_member_by_its_instance_id() -> None:
    world = World()
    world.form(instance="i")
    assert world.leave("", instance="other").members[0][1] is E.UNKNOWN_MEMBER
    assert world.leave("", instance="i").members[0][1] is None
    assert the_group(world).state is State.EMPTY


# -- the log


def test_nobody_learns_an_assignment_before_it_is_durable() -> None:
    world = World()
    join = world.join()
    world.pass_time(2 * DELAY_MS)
    world.log.held = True
    answers = world.sync(join[0].member_id, 1, {join[0].member_id: b"a"})
    assert answers == []
    assert the_group(world).state is State.COMPLETING
    world.log.release()
    assert answers[0].assignment == b"a"
    assert the_group(world).state is State.STABLE


def test_an_assignment_that_becomes_durable_after_the_next_rebalance_began_is_dropped() -> None:
    world = World()
    join = world.join()
    world.pass_time(2 * DELAY_MS)
    world.log.held = True
    answers = world.sync(join[0].member_id, 1, {join[0].member_id: b"a"})
    world.join()
    assert answers[0].error is E.REBALANCE_IN_PROGRESS
    world.log.release()
    assert the_group(world).state is State.PREPARING


def test_on_a_full_disk_the_group_works_commits_are_refused_and_it_is_saved_when_there_is_room() -> None:
    world = World()
    world.log.error = E.STORE_FULL
    (member,), generation = world.form()
    assert the_group(world).state is State.STABLE
    assert world.commit(1, member, generation) == [E.STORE_FULL]
    assert world.committed() is None
    world.log.error = None
    world.pass_time(5_000)
    assert world.restart().beat(member, generation) is None


def test_a_failed_store_refuses_the_assignment() -> None:
    world = World()
    join = world.join()
    world.pass_time(2 * DELAY_MS)
    world.log.error = E.STORE_FAILED
    assert world.sync(join[0].member_id, 1, {})[0].error is E.COORDINATOR_NOT_AVAILABLE


# -- restarts


def test_after_a_restart_members_go_on_with_their_generation_and_assignments() -> None:
    world = World()
    members, generation = world.form(3)
    world = world.restart()
    for member in members:
        assert world.beat(member, generation) is None
        assert world.sync(member, generation)[0].assignment == member.encode()
        assert world.commit(1, member, generation) == [None]
    assert the_group(world).leader == members[0]


def test_after_a_restart_members_that_are_gone_run_out_of_their_sessions() -> None:
    world = World()
    (leader, gone), generation = world.form(2)
    world = world.restart()
    world.pass_time(SESSION_MS - 1)
    assert world.beat(leader, generation) is None
    world.pass_time(1)
    assert list(the_group(world).members) == [leader]
    assert world.beat(gone, generation) is E.UNKNOWN_MEMBER


def test_after_a_restart_in_a_rebalance_members_join_again() -> None:
    world = World()
    members, generation = world.form(2)
    for member in members:
        world.join(member)
    world = world.restart()
    assert world.sync(members[0], generation + 1)[0].error is E.ILLEGAL_GENERATION
    joins = [world.join(member) for member in members]
    assert {join[0].generation for join in joins} == {generation + 1}


def test_after_a_restart_static_members_are_known_by_their_instance() -> None:
    world = World()
    (old,), generation = world.form(instance="i")
    world = world.restart()
    (back,) = world.join(instance="i")
    assert back.generation == generation
    assert world.beat(old, generation, instance="i") is E.FENCED_INSTANCE
    world = world.restart()
    assert world.beat(back.member_id, generation, instance="i") is None


def test_a_stop_answers_whoever_waits_and_changes_nothing() -> None:
    world = World()
    (leader, follower), generation = world.form(2)
    waiting = [world.join(leader), world.join()]
    world.groups.stop()
    assert [answers[0].error for answers in waiting] == [E.COORDINATOR_NOT_AVAILABLE] * 2
    world = world.restart()
    assert world.beat(leader, generation) is None
    assert world.beat(follower, generation) is None


def test_an_empty_group_is_empty_after_a_restart() -> None:
    world = World()
    (member,), _ = world.form()
    world.commit(7, member, 1)
    world.leave(member)
    world = world.restart()
    assert world.groups.listing([], []) == [GroupListing("g", "consumer", "Empty", "classic")]
    assert world.committed() == 7


# -- administration


def test_listing_filters_by_state_and_type_in_any_case_of_letters() -> None:
    world = World()
    world.form(group="a")
    world.commit(1, group="b")
    assert [g.group_id for g in world.groups.listing(["STABLE"], [])] == ["a"]
    assert [g.group_id for g in world.groups.listing(["empty", "stable"], ["Classic"])] == ["a", "b"]
    assert world.groups.listing([], ["consumer"]) == []


def test_describing_shows_members_and_assignments_only_when_stable() -> None:
    world = World()
    (member,), _ = world.form()
    view = world.groups.describe("g")
    assert (view.state, view.protocol, view.members[0].assignment) == ("Stable", "range", member.encode())
    world.join()
    view = world.groups.describe("g")
    assert (view.state, view.protocol, view.members[0].assignment) == ("PreparingRebalance", "", b"")
