"""A group's offsets are reset while it runs: nothing from before undoes it, whatever is on its way and wherever the
broker dies.
"""

from __future__ import annotations

from core.errors import CoreError
from tests.core.groups_driver import DELAY_MS, World
from tests.core.test_groups_consumer import Member

E = CoreError


def test_classic_members_are_strangers_until_they_join_again() -> None:
    world = World()
    (leader, other), generation = world.form(2)
    world.commit(50, leader, generation)
    assert world.reset(3) == [None]
    assert world.committed() == 3
    assert world.beat(leader, generation) is E.UNKNOWN_MEMBER
    for member in (leader, other):
        assert world.commit(60, member, generation) == [E.UNKNOWN_MEMBER]
        assert world.commit(60, member, generation, producer=7) == [E.UNKNOWN_MEMBER]
    (member,), newer = world.form()
    assert newer > generation
    assert world.committed() == 3
    assert world.commit(4, member, newer) == [None]


def test_who_waits_in_a_rebalance_is_told_at_once() -> None:
    world = World()
    (first, second), generation = world.form(2)
    joining = world.join(first)
    assert joining == []
    world.reset(3)
    assert [answer.error for answer in joining] == [E.UNKNOWN_MEMBER]
    assert world.beat(second, generation) is E.UNKNOWN_MEMBER
    assert world.form()[1] > generation


def test_who_waits_for_its_assignment_is_told_at_once() -> None:
    world = World()
    joins = [world.join(), world.join()]
    world.pass_time(6_000)
    follower = next(one[0] for one in joins if one[0].member_id != one[0].leader)
    syncing = world.sync(follower.member_id, follower.generation)
    world.reset(3)
    assert [answer.error for answer in syncing] == [E.UNKNOWN_MEMBER]
    assert world.commit(9, follower.member_id, follower.generation) == [E.UNKNOWN_MEMBER]


def test_members_come_back_to_a_rebalance_that_everybody_was_removed_from() -> None:
    world = World()
    assert world.join() == []  # the delay of a first rebalance runs
    world.reset(3)
    back = world.join()
    world.pass_time(2 * DELAY_MS)
    assert [answer.error for answer in back] == [None]


def test_what_a_member_commits_in_nobodys_name_before_it_joins_again_is_refused() -> None:
    for member in (None, Member):
        world = World()
        if member is None:
            world.form()
        else:
            member(world, "one").beat()
        world.reset(3)
        assert world.commit(50) == [E.UNKNOWN_MEMBER]
        world.pass_time(60_000)  # nobody came back
        assert world.commit(50) == [None]


def test_when_members_came_back_and_left_anybody_may_commit() -> None:
    world = World()
    world.form()
    world.reset(3)
    (member,), _ = world.form()
    world.leave(member)
    assert world.commit(50) == [None]


def test_who_was_in_no_group_commits_after_a_reset_as_before() -> None:
    world = World()
    assert world.commit(50) == [None]
    world.reset(3)
    assert world.commit(50) == [None]


def test_kip848_members_are_fenced_and_come_back_with_a_higher_epoch() -> None:
    world = World()
    one, two = Member(world, "one"), Member(world, "two")
    for _ in range(3):
        one.beat()
        two.beat()
    world.commit(50, "one", one.epoch)
    before = one.epoch
    assert world.reset(3) == [None]
    assert world.consumer_beat("one", before, owned=one.owned).error is E.UNKNOWN_MEMBER
    assert world.commit(60, "one", before) == [E.UNKNOWN_MEMBER]
    one.join()
    assert one.epoch > before
    assert world.commit(60, "one", before) == [E.STALE_MEMBER_EPOCH]
    assert world.committed() == 3
    assert world.commit(4, "one", one.epoch) == [None]


def test_a_kip848_member_joins_again_where_a_classic_one_was_faster() -> None:
    world = World()
    one = Member(world, "one")
    one.beat()
    world.join()
    world.reset(3)
    world.join()
    assert world.consumer_beat("one", one.epoch, owned=one.owned).error is E.UNKNOWN_MEMBER
    one.join()
    assert one.epoch > 0


def test_a_commit_that_is_on_its_way_does_not_undo_it() -> None:
    world = World()
    (member,), generation = world.form()
    world.log.held = True
    late = world.commit(50, member, generation)
    done = world.reset(3)
    assert (late, done) == ([], [])
    world.log.release()
    assert (late, done) == ([None], [None])
    assert world.committed() == 3
    assert world.restart().committed() == 3


def test_an_offset_of_an_open_transaction_does_not_undo_it() -> None:
    world = World()
    world.commit(50, producer=7)
    world.reset(3)
    world.end_txn(7, committed=True)
    assert world.committed() == 3
    assert world.restart().committed() == 3


def test_a_broker_that_dies_in_between_knows_the_members_no_more() -> None:
    world = World()
    (member,), generation = world.form()
    world.commit(50, member, generation)
    world.log.held = True
    done = world.reset(3)
    world.log.release(1)
    assert done == []
    world = world.restart()
    assert world.committed() == 50
    assert world.commit(60, member, generation) == [E.UNKNOWN_MEMBER]


def test_from_outside_the_group_the_count_of_resets_tells() -> None:
    world = World()
    assert world.commit(5, resets=0) == [None]
    world.reset(1)
    assert world.commit(6, resets=0) == [E.GROUP_WAS_RESET]
    world = world.restart()
    assert world.commit(6, resets=0) == [E.GROUP_WAS_RESET]
    assert world.committed() == 1
    assert world.commit(2, resets=1) == [None]
    assert world.commit(7) == [None]  # who names no count is not asked


def test_the_count_is_told_with_the_offsets_that_it_stands_for() -> None:
    """Who would take the new count with the old offsets could undo the reset."""
    world = World()
    world.commit(5, resets=0)
    world.log.held = True
    done = [world.reset(1), world.reset(2)]
    assert (world.committed(), world.resets()) == (5, 0)
    assert world.commit(6, resets=0) == [E.GROUP_WAS_RESET]
    world.log.release(1)
    assert done == [[None], []]
    assert (world.committed(), world.resets()) == (1, 1)
    assert world.commit(6, resets=1) == [E.GROUP_WAS_RESET]
    world.log.release()
    assert (world.committed(), world.resets()) == (2, 2)
    assert (world.restart().committed(), world.resets()) == (2, 2)


def test_what_the_store_refuses_is_not_reset() -> None:
    world = World()
    world.commit(5)
    world.log.error = E.STORE_FULL
    assert world.reset(1) == [E.STORE_FULL]
    world.log.error = None
    assert world.committed() == 5
    assert world.commit(6, resets=0) == [None]
