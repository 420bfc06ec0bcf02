"""What queue groups and shared subscriptions have in common: members in turn, leases without a time, their rows."""

from __future__ import annotations

import pytest

from core.errors import CoreError, CoreFailure
from core.queue_members import Holder, Holders
from core.queue_partition import QueuePartition
from core.queue_replay import QueueRows
from core.queue_types import FOREVER_MS, Policy, QueueLimits, Subscription

READS = Subscription(("t",))


def holders(*names: str) -> Holders[Holder]:
    found = Holders[Holder]("g", READS, Policy(), QueueLimits(members_max=3), lambda: None)
    for name in names:
        found.join(Holder(name), (), 0)
    return found


def queue_of(*handed: str, floor: int = 100) -> QueuePartition:
    """A queue of which these members have the first messages, one each."""
    queue = QueuePartition("g", "t", 0, 7, floor)
    for at, member in enumerate(handed):
        queue.hand_out(at + 1, member, floor + at, FOREVER_MS)
    return queue


def stored(queue: QueuePartition) -> QueuePartition:
    """As it is after a restart."""
    rows = QueueRows(0)
    for key, value in queue.changes(lambda _: 0):
        rows.apply(key, value)
    return rows.take(QueuePartition("g", "t", 0, 7))


def taken(group: Holders[Holder]) -> list[str]:
    return [member.id for member in group.in_turn()]


def test_members_have_their_turns() -> None:
    group = holders("a", "b", "c")
    assert taken(group) == ["a", "b", "c"]
    assert [next(group.in_turn()).id for _ in range(4)] == ["a", "b", "c", "a"]
    assert group.first is group.members["b"]
    group.pass_turn()
    assert taken(group) == ["c", "a", "b"]


def test_who_is_away_gets_nothing_and_keeps_what_it_has() -> None:
    group, queue = holders("a", "b"), queue_of("a")
    group.touch(queue)
    group.away(group.members["a"])
    assert taken(group) == ["b"]
    assert group.held() == {"a": 1}
    group.back(group.members["a"])
    assert sorted(taken(group)) == ["a", "b"]


def test_what_a_retired_member_has_stays_its_own_until_it_is_given_back() -> None:
    group, queue = holders("a"), queue_of("a", "b")
    group.touch(queue)
    group.retire(group.members["a"])
    assert (group.members, taken(group), queue.due(0)) == ({}, [], None)
    group.give_back("a", 0)
    assert (queue.due(0), queue.take_due(100)) == (100, 1)  # that was no attempt
    assert group.held() == {"b": 1}


def test_a_member_that_contradicts_or_is_one_too_many_is_refused() -> None:
    group = holders("a", "b")
    with pytest.raises(CoreFailure, match=r"has 1 other members and reads: topics t\. This member asks: .*'sql:n > 1'"):
        group.check_join("b", Subscription(("t",), selector="sql:n > 1"))
    group.retire(group.members["a"])
    group.check_join("b", Subscription(("t",), selector="sql:n > 1"))
    group = holders("a", "b", "c")
    group.check_join("c", READS)
    with pytest.raises(CoreFailure) as caught:
        group.check_join("d", READS)
    assert caught.value.error is CoreError.GROUP_FULL


def test_a_lease_without_a_time_never_ends_by_itself() -> None:
    queue = queue_of("a")
    assert (queue.next_expiry_ms(), list(queue.expire(1 << 60))) == (None, [])
    queue.prolong("a", 5 + FOREVER_MS)
    assert queue.next_expiry_ms() is None


def test_what_was_passed_over_is_done() -> None:
    queue = queue_of("a")
    queue.hand_out(9, "a", 5_000, FOREVER_MS)
    assert (queue.floor, queue.end, queue.undone(4_990, 20)) == (100, 5_001, 0b11111111110000000000)
    assert queue.acknowledge(1, 100, 100)
    assert queue.floor == 5_000
    assert queue.acknowledge(9, 5_000, 5_000)
    assert queue.is_idle


def test_what_is_set_aside_holds_back_the_floor_no_longer_and_stays_its_members() -> None:
    queue = queue_of("a", "b", "a")
    queue.set_aside(0)
    assert (queue.floor, queue.due(0), queue.is_idle) == (103, None, False)
    assert queue.acknowledge(2, 101, 101)
    assert list(queue.failed) == [100, 102]
    assert [(lease.first, mask) for lease, mask in queue.release("a", ())] == [(100, 1), (102, 1)]
    again = stored(queue)
    assert (again.floor, again.due(0), sorted(again.failed)) == (103, 100, [100, 102])


def test_after_a_restart_what_was_not_done_is_read_again_from_the_floor() -> None:
    queue = queue_of("a", "b", "a", "b")
    queue.acknowledge(1, 100, 100)
    queue.acknowledge(3, 102, 102)
    again = stored(queue)
    assert (again.floor, again.end) == (101, 101)
    assert again.undone(101, 3) == 0b101


def test_after_a_restart_a_member_claims_what_it_had() -> None:
    queue = queue_of("a", "b", "a", "b", "a")
    queue.acknowledge(1, 100, 100)
    queue.acknowledge(3, 102, 102)
    [released] = queue.release("a", ())
    queue.fail(released.lease.first, 0, 0, "given back", 5)
    again = stored(queue)
    assert not again.claim(21, "a", 100, FOREVER_MS)
    assert not again.claim(22, "a", 102, FOREVER_MS)
    assert again.claim(23, "a", 104, FOREVER_MS)  # as it was to be handed out again
    assert again.claim(24, "b", 103, FOREVER_MS)
    assert (again.due(0), again.undone(101, 4)) == (None, 0b0001)
    assert again.claim(25, "c", 200, FOREVER_MS)  # what is stored of the group may be older than what is of the member
    assert again.undone(200, 1) == 0
    again.hand_out(26, "b", 101, FOREVER_MS)
    for number, offset in ((26, 101), (24, 103), (23, 104), (25, 200)):
        assert again.acknowledge(number, offset, offset)
    assert (again.leases, again.failed, again.floor) == ({}, {}, 105)


def test_times_that_were_moved_are_not_kept() -> None:
    queue = queue_of("a", "a", "a")
    for step in range(5_000):
        assert queue.extend(1, 100, 100, 1 << 40 | step)
        assert queue.extend(2, 101, 101, 50)
        queue.fail(102, 0, 1 << 40, "", 3)
        queue.complete(102, 1)
    assert len(queue._until) + len(queue._failed._due) < 4_000
    assert [lease.id for lease, _ in queue.expire(1 << 40)] == [2]
    assert [lease.id for lease, _ in queue.expire(1 << 41)] == [1]
    queue.fail(102, 0, 70, "", 3)
    assert (queue.due(69), queue.due(70)) == (None, 102)


def test_the_end_of_a_row_that_was_refused_is_written_again() -> None:
    table: dict[bytes, bytes] = {}
    queue = queue_of("a", "b", "a")
    queue.acknowledge(2, 101, 101)
    for key, value in queue.changes(lambda _: 0):
        assert value is not None
        table[key] = value
    queue.written()
    assert len(table) == 2
    queue.acknowledge(1, 100, 100)
    queue.changes(lambda _: 0)
    queue.not_written()
    assert dict(queue.changes(lambda _: 0)).keys() == table.keys()  # the floor, and the end of the bits above it
