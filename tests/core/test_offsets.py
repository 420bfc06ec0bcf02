"""Committed offsets: durability, transactions, expiry, deletion."""

from __future__ import annotations

import random

from core.errors import CoreError
from tests.core.groups_driver import World

E = CoreError
RETENTION_MS = 7 * 86_400_000


def test_a_commit_is_answered_and_seen_when_it_is_durable_and_not_before() -> None:
    world = World()
    world.log.held = True
    outcome = world.commit(5)
    assert (outcome, world.committed()) == ([], None)
    world.log.release()
    assert (outcome, world.committed()) == ([None], 5)


def test_metadata_is_bounded_and_kept() -> None:
    world = World(offset_metadata_bytes_max=4)
    assert world.commit(1, metadata="12345") == [E.OFFSET_METADATA_TOO_LARGE]
    assert world.commit(1, metadata="1234") == [None]
    assert world.restart().offsets.fetch("g", None, -1)["t", 0].metadata == "1234"


def test_a_commit_keeps_the_members_session_alive() -> None:
    world = World()
    (member,), generation = world.form()
    for _ in range(5):
        world.pass_time(9_000)
        assert world.commit(1, member, generation) == [None]
    assert world.beat(member, generation) is None


def test_offsets_are_there_after_a_restart() -> None:
    world = World()
    for partition in range(4):
        world.commit(partition * 10, partition=partition)
    world.commit(31, partition=3)
    world = world.restart()
    assert [world.committed(partition=p) for p in range(4)] == [0, 10, 20, 31]


# -- transactions


def test_offsets_of_a_transaction_count_when_it_commits() -> None:
    world = World()
    world.commit(1)
    assert world.commit(9, producer=7) == [None]
    assert world.committed() == 1
    assert world.offsets.is_unstable("g", "t", 0)
    world.end_txn(7, committed=True)
    assert world.committed() == 9
    assert not world.offsets.is_unstable("g", "t", 0)
    assert world.restart().committed() == 9


def test_offsets_of_a_transaction_are_gone_when_it_aborts() -> None:
    world = World()
    world.commit(9, producer=7)
    world.end_txn(7, committed=False)
    for one in (world, world.restart()):
        assert one.committed() is None
        assert not one.offsets.is_unstable("g", "t", 0)
        assert one.offsets.pending_producers() == []


def test_pending_offsets_survive_a_restart_and_still_follow_their_transaction() -> None:
    for committed in (True, False):
        world = World()
        world.commit(1)
        world.commit(9, producer=7)
        world = world.restart()
        assert (world.committed(), world.offsets.pending_producers()) == (1, [7])
        world.end_txn(7, committed=committed)
        assert world.restart().committed() == world.committed() == (9 if committed else 1)


def test_a_plain_commit_after_the_transactions_is_the_last_word() -> None:
    world = World()
    world.commit(9, producer=7)
    world.commit(2)
    world.end_txn(7, committed=True)
    assert world.committed() == world.restart().committed() == 2


def test_a_plain_commit_still_on_its_way_when_the_transaction_ends_is_the_last_word() -> None:
    world = World()
    world.commit(9, producer=7)
    world.log.held = True
    world.commit(2)
    changes = world.offsets.pending_changes(7, True)
    world.log.release()
    world.log.put(changes)
    world.offsets.complete_txn(7, True)
    assert world.committed() == world.restart().committed() == 2


def test_the_end_of_a_transaction_does_not_touch_what_came_after_it_was_decided() -> None:
    world = World()
    world.commit(9, producer=7)
    changes = world.offsets.pending_changes(7, True)
    world.commit(20, producer=7)  # the next transaction of the same producer
    world.log.put(changes)
    world.offsets.complete_txn(7, True)
    assert world.committed() == 9
    assert world.offsets.is_unstable("g", "t", 0)
    world.end_txn(7, committed=False)
    assert world.committed() == 9


def test_the_end_of_one_producers_transaction_leaves_the_others_alone() -> None:
    world = World()
    world.commit(9, producer=7)
    world.commit(10, producer=8)
    world.end_txn(7, committed=True)
    assert (world.committed(), world.offsets.is_unstable("g", "t", 0)) == (9, True)
    world.end_txn(8, committed=True)
    assert world.committed() == 10


def test_a_refused_pending_commit_leaves_nothing() -> None:
    world = World()
    world.log.error = E.STORE_FULL
    assert world.commit(9, producer=7) == [E.STORE_FULL]
    assert not world.offsets.is_unstable("g", "t", 0)


def test_memory_and_log_agree_whatever_is_interleaved() -> None:
    """Seeded runs of commits, transactions and restarts: a restart never changes what a fetch sees."""
    for seed in range(200):
        chance = random.Random(seed)
        world = World()
        for step in range(30):
            partition, producer = chance.randrange(2), chance.randrange(3)
            action = chance.randrange(6)
            if action <= 1:
                world.commit(step, partition=partition)
            elif action == 2:
                world.commit(step, partition=partition, producer=producer)
            elif action == 3:
                world.end_txn(producer, committed=chance.random() < 0.6)
            elif action == 4:
                world.log.held = chance.random() < 0.5
                if not world.log.held:
                    world.log.release()
            else:
                world.log.held = False
                world.log.release()
                again = world.restart()
                for p in range(2):
                    assert again.committed(partition=p) == world.committed(partition=p), (seed, step)
                    assert again.offsets.is_unstable("g", "t", p) == world.offsets.is_unstable("g", "t", p)
                world = again


# -- expiry (KIP-211)


def test_a_simple_groups_offsets_expire_after_their_commit() -> None:
    world = World()
    world.commit(1)
    world.wall += RETENTION_MS - 1
    world.offsets.expire(world.wall)
    assert world.committed() == 1
    world.offsets.expire(world.wall + 1)
    assert world.committed() is None
    assert list(world.groups.all()) == []
    assert list(world.restart().groups.all()) == []


def test_an_empty_groups_offsets_expire_after_it_became_empty() -> None:
    world = World()
    (member,), generation = world.form()
    world.commit(1, member, generation)
    world.wall += 3 * RETENTION_MS
    world.offsets.expire(world.wall)
    assert world.committed() == 1
    world.leave(member)
    world = world.restart()
    world.offsets.expire(world.wall + RETENTION_MS - 1)
    assert world.committed() == 1
    world.offsets.expire(world.wall + RETENTION_MS)
    assert world.committed() is None
    assert list(world.groups.all()) == []


def test_a_live_group_keeps_what_it_subscribes_and_loses_the_rest() -> None:
    world = World()
    world.topics.put("old", 1)
    (member,), generation = world.form()
    world.commit(1, member, generation)
    world.commit(2, member, generation, topic="old")
    world.offsets.expire(world.wall + 2 * RETENTION_MS)
    assert world.committed() == 1
    assert world.committed(topic="old") is None


def test_a_retention_that_the_request_names_rules() -> None:
    world = World()
    world.commit(1, retention_ms=1_000)
    world.offsets.expire(world.wall + 1_000)
    assert world.committed() is None


def test_pending_offsets_hold_expiry_back() -> None:
    world = World()
    world.commit(1)
    world.commit(2, producer=7)
    world.offsets.expire(world.wall + 2 * RETENTION_MS)
    assert world.committed() == 1
    world.end_txn(7, committed=True)
    assert world.committed() == 2


# -- deletion


def delete(world: World, *places: tuple[str, int]) -> tuple[CoreError | None, list[CoreError | None]]:
    answers: list[tuple[CoreError | None, list[CoreError | None]]] = []
    world.offsets.delete("g", list(places), lambda error, errors: answers.append((error, errors)))
    return answers[0]


def test_offsets_are_deleted_unless_the_group_subscribes_the_topic() -> None:
    world = World()
    assert delete(world, ("t", 0)) == (E.GROUP_NOT_FOUND, [])
    (member,), generation = world.form()
    world.commit(1, member, generation)
    world.commit(2, member, generation, topic="u")
    assert delete(world, ("t", 0), ("u", 0), ("u", 1)) == (None, [E.GROUP_SUBSCRIBED, None, None])
    assert (world.committed(), world.committed(topic="u")) == (1, None)
    assert world.restart().committed(topic="u") is None


def test_offsets_of_a_live_group_that_is_no_consumer_group_cannot_be_deleted() -> None:
    world = World()
    world.form(protocol_type="connect")
    assert delete(world, ("t", 0)) == (E.GROUP_NOT_EMPTY, [])


def test_a_deleted_topic_takes_its_offsets_along() -> None:
    world = World()
    world.commit(1)
    world.commit(2, topic="u")
    world.offsets.drop_topic("t")
    for one in (world, world.restart()):
        assert (one.committed(), one.committed(topic="u")) == (None, 2)
