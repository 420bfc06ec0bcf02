"""Queue groups: what is handed out, settled, tried again, buried, reset; one rule a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, groupby
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import trio
from trio.testing import MockClock

from core.dead_letters import topic_of
from core.errors import CoreError, CoreFailure
from core.queue_codec import failed_key
from core.queue_partition import QueuePartition
from core.queue_types import (
    START_EARLIEST,
    START_LATEST,
    Order,
    Policy,
    QueueLimits,
    Settle,
    Settled,
    Subscription,
    Verb,
)
from core.store.engine import Appended, Entry, Outcome
from tests.core.queues_driver import SUBSCRIPTION, TOPIC, Consumer, Driver, Got, driving
from trivium import headers
from trivium.records import Record, decode

BY_KEY = replace(SUBSCRIPTION, order=Order.KEY)


async def some(driver: Driver, count: int = 5) -> list[bytes]:
    values = [b"%d" % number for number in range(count)]
    await driver.produce(*values)
    return values


async def test_messages_are_handed_out_once_and_not_again_when_acknowledged(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        values = await some(driver)
        consumer = await driver.join()
        await driver.settled()
        got = consumer.taken()
        assert [one.value for one in got] == values
        assert {one.attempt for one in got} == {1}
        assert await consumer.settle(*got) == [Settled.DONE] * 5
        await trio.sleep(1_000)
        assert consumer.taken() == []
        await driver.crash()
        again = await driver.join()
        await trio.sleep(1_000)
        assert again.taken() == []
        await driver.produce(b"new")
        await driver.settled()
        assert again.values == [b"new"]


async def test_what_is_not_settled_in_time_comes_again_with_its_attempts_counted(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        got = consumer.taken()
        await consumer.settle(got[1])
        await trio.sleep(29)
        assert consumer.taken() == []
        await trio.sleep(2)
        again = consumer.taken()
        assert [(one.value, one.attempt) for one in again] == [(b"0", 2), (b"2", 2)]
        assert await consumer.settle(got[0]) == [Settled.LATE]
        assert await consumer.settle(*again) == [Settled.DONE] * 2


async def test_after_a_crash_what_was_out_comes_again_and_acknowledged_holes_do_not(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 2_500)
        consumer = await driver.join(credit=10_000)
        await driver.settled()
        got = consumer.taken()
        assert len(got) == 2_500
        await consumer.settle(*got[::3])
        await driver.crash()
        again = await driver.join(credit=10_000)
        await driver.settled()
        assert [one.offset for one in again.taken()] == [one for one in range(2_500) if one % 3]


async def test_a_nack_waits_for_the_backoff_and_the_last_becomes_a_dead_letter(
    autojump_clock: MockClock,
) -> None:
    async with driving() as driver:
        await driver.produce(b"poison", keys=[b"k"])
        await driver.queues.configure("g", {"attempts_max": 3, "backoff_ms": (1_000, 5_000)})
        consumer = await driver.join()
        for wait_s, attempt in ((0, 1), (1, 2), (5, 3)):
            if wait_s:
                await trio.sleep(wait_s - 0.01)
                assert consumer.got == []
            await trio.sleep(0.02)
            (got,) = consumer.taken()
            assert got.attempt == attempt
            assert await consumer.settle(got, verb=Verb.NACK, reason="no such customer") == [Settled.DONE]
        await trio.sleep(100)
        assert consumer.taken() == []
        letters = driver.topics.get(topic_of("g"))
        assert letters is not None
        assert not letters.settings.mqtt_visible
        read = await driver.engine.read(letters.partitions[0], 0, 1_000)
        (record,) = decode(read.buffers[0], 10_000)
        assert (record.key, record.value) == (b"k", b"poison")
        said = dict(record.headers)
        assert said[headers.DEAD_LETTER_REASON] == b"no such customer"
        assert said[headers.DEAD_LETTER_ATTEMPTS] == b"3"
        assert (said[headers.DEAD_LETTER_TOPIC], said[headers.DEAD_LETTER_OFFSET]) == (b"t", b"0")
        assert said[headers.MESSAGE_ID]
        await driver.crash()
        again = await driver.join()
        await trio.sleep(100)
        assert again.taken() == []


async def test_a_dead_letter_is_sent_again_to_this_group_only_and_can_die_again(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.produce(b"poison")
        first, other = await driver.join(), await driver.join(group="other")
        await driver.settled()
        await first.settle(*first.taken(), verb=Verb.REJECT, reason="bad")
        await other.settle(*other.taken())
        await driver.settled()
        await driver.queues.resend("g", [0])
        await driver.settled()
        (again,) = first.taken()
        assert (again.topic, again.value, again.attempt) == (topic_of("g"), b"poison", 1)
        await driver.crash()
        first = await driver.join()
        await driver.settled()
        (again,) = first.taken()
        await first.settle(again, verb=Verb.REJECT, reason="still bad")
        await driver.settled()
        letters = driver.topics.get(topic_of("g"))
        assert letters is not None
        assert driver.engine.info(letters.partitions[0]).high_watermark == 2
        with pytest.raises(CoreFailure):
            await driver.queues.resend("g", [2])
        await driver.queues.resend("g", [1])
        await driver.settled()
        (again,) = first.taken()
        await first.settle(again)
        await trio.sleep(1_000)
        assert first.taken() == other.taken() == []


async def test_postponing_counts_no_attempt_and_extending_keeps_the_receipt(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 2)
        consumer = await driver.join()
        await driver.settled()
        one, two = consumer.taken()
        assert await consumer.settle(one, verb=Verb.POSTPONE, delay_ms=10_000) == [Settled.DONE]
        assert await consumer.settle(two, verb=Verb.EXTEND, delay_ms=100_000) == [Settled.DONE]
        await trio.sleep(11)
        (again,) = consumer.taken()
        assert (again.value, again.attempt) == (b"0", 1)
        await consumer.settle(again)
        await trio.sleep(80)
        assert consumer.taken() == []
        assert await consumer.settle(two) == [Settled.DONE]
        assert await consumer.settle(two) == [Settled.DONE]
        assert await consumer.settle(two, verb=Verb.EXTEND) == [Settled.LATE]


async def test_a_late_acknowledgement_counts_while_nobody_else_has_the_message(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 1)
        consumer = await driver.join(credit=1)
        await driver.settled()
        (got,) = consumer.taken()
        await trio.sleep(40)
        assert consumer.taken() == []
        assert await consumer.settle(got) == [Settled.DONE]
        consumer.grant(10)
        await trio.sleep(100)
        assert consumer.taken() == []


async def test_credit_is_never_exceeded_and_members_share(autojump_clock: MockClock) -> None:
    async with driving(partitions=1) as driver:
        await some(driver, 100)
        one, two = await driver.join("a", credit=0), await driver.join("b", credit=0)
        one.grant(7)
        two.grant(30)
        await driver.settled()
        assert (len(one.got), len(two.got)) == (7, 30)
        one.grant(1_000)
        await driver.settled()
        assert len(one.got) == 70
        assert sorted(got.offset for got in one.got + two.got) == list(range(100))


async def test_who_is_gone_leaves_what_it_had_to_others_and_who_comes_back_keeps_it(
    autojump_clock: MockClock,
) -> None:
    async with driving() as driver:
        await some(driver, 4)
        one = await driver.join("a", credit=2)
        await driver.settled()
        had = one.taken()
        two = await driver.join("b")
        await driver.settled()
        assert await two.settle(*two.taken()) == [Settled.DONE] * 2
        one.lost()
        await trio.sleep(4)
        back = await driver.join("a", credit=0, held=[had[0].lease])
        await trio.sleep(20)
        assert two.taken() == []
        assert await back.settle(had[0]) == [Settled.DONE]
        back.lost()
        await trio.sleep(6)
        assert two.values == [had[1].value]
        assert [member.id for member in two.group.members.values()] == ["b"]


async def test_one_subscription_a_group_and_who_contradicts_sees_both(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        consumer = await driver.join("a", replace(SUBSCRIPTION, key_pattern="line/+"))
        with pytest.raises(CoreFailure, match=r"line/\+.*line/#") as failed:
            await driver.join("b", replace(SUBSCRIPTION, key_pattern="line/#"))
        assert failed.value.error is CoreError.CONTRADICTS_GROUP
        with pytest.raises(CoreFailure, match="in order per key"):
            await driver.join("b", BY_KEY)
        consumer.leave()
        await driver.join("b", replace(SUBSCRIPTION, key_pattern="line/#"))
        with pytest.raises(CoreFailure, match="keeps its order"):
            await driver.join("b", BY_KEY)
        with pytest.raises(CoreFailure) as failed:
            await driver.join("b", Subscription(("missing",)), group="new")
        assert failed.value.error is CoreError.UNKNOWN_TOPIC


async def test_what_does_not_match_counts_as_done(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        keys = [b"line/1", b"line/2/x", None, b"other", b"\xff", b"line/3"]
        await driver.produce(*[b"%d" % number for number in range(6)], keys=keys)
        consumer = await driver.join(subscription=replace(SUBSCRIPTION, key_pattern="line/+"))
        await driver.settled()
        got = consumer.taken()
        assert [one.value for one in got] == [b"0", b"5"]
        await consumer.settle(*got)
        assert consumer.group.queues[TOPIC, 0].floor == 6
        with pytest.raises(CoreFailure) as failed:
            await driver.join(subscription=replace(SUBSCRIPTION, selector="sql:a = "), group="bad")
        assert failed.value.error is CoreError.INVALID_FILTER


async def test_order_per_key_one_at_a_time_and_a_stuck_key_delays_no_other(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.produce(b"a0", b"b0", b"a1", b"b1", b"a2", keys=[b"a", b"b", b"a", b"b", b"a"])
        one, two = await driver.join("1", BY_KEY), await driver.join("2", BY_KEY)
        await driver.settled()

        def both() -> dict[bytes | None, tuple[Consumer, object]]:
            return {got.value: (consumer, got) for consumer in (one, two) for got in consumer.taken()}

        got = both()
        assert set(got) == {b"a0", b"b0"}
        holder, stuck = got[b"a0"]
        other, done = got[b"b0"]
        await holder.settle(stuck, verb=Verb.NACK, delay_ms=50_000)  # type: ignore[arg-type]
        await other.settle(done)  # type: ignore[arg-type]
        await driver.settled()
        got = both()
        assert set(got) == {b"b1"}
        await driver.crash()
        one = two = await driver.join("1", BY_KEY)
        await trio.sleep(1)
        assert one.values == [b"b1"]
        await trio.sleep(60)
        (again,) = [one for one in one.taken() if one.key == b"a"]
        assert (again.value, again.attempt) == (b"a0", 2)
        await one.settle(again, verb=Verb.REJECT)
        await driver.settled()
        (following,) = one.taken()
        assert following.value == b"a1"
        await one.settle(following)
        await driver.settled()
        assert one.values == [b"a2"]


async def test_order_of_a_partition_is_one_at_a_time(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.produce(b"0", b"1", keys=[b"x", b"y"])
        await driver.produce(b"2", keys=[None])
        consumer = await driver.join(subscription=replace(SUBSCRIPTION, order=Order.PARTITION))
        for number in range(3):
            await driver.settled()
            (got,) = consumer.taken()
            assert got.value == b"%d" % number
            await consumer.settle(got)


async def test_a_reset_replays_or_skips_and_makes_old_receipts_void(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 4)
        consumer = await driver.join()
        await driver.settled()
        old = consumer.taken()
        await consumer.settle(*old[:2])
        await driver.queues.reset("g", {(TOPIC, 0): 1})
        await driver.settled()
        again = consumer.taken()
        assert [one.value for one in again] == [b"1", b"2", b"3"]
        assert await consumer.settle(*old) == [Settled.LATE] * 4
        await driver.crash()
        consumer = await driver.join()
        await driver.settled()
        assert [one.value for one in consumer.taken()] == [b"1", b"2", b"3"]
        await driver.queues.reset("g", {(TOPIC, 0): 1 << 50})
        await driver.produce(b"new")
        await driver.settled()
        assert consumer.values == [b"new"]


async def test_a_paused_group_gets_nothing_also_after_a_restart_and_may_settle(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 2)
        consumer = await driver.join(credit=1)
        await driver.settled()
        await driver.queues.pause("g", True)
        consumer.grant(10)
        await driver.settled()
        (got,) = consumer.taken()
        assert await consumer.settle(got) == [Settled.DONE]
        await driver.crash()
        consumer = await driver.join()
        await trio.sleep(1_000)
        assert consumer.taken() == []
        await driver.queues.pause("g", False)
        await driver.settled()
        assert consumer.values == [b"1"]


async def test_what_is_asked_of_a_group_while_it_is_deleted_finds_none(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        (await driver.join()).leave()
        answers: list[tuple[str, CoreError | None]] = []  # in the order in which the changes took their turn

        async def ask(name: str, change: Callable[[], Awaitable[None]]) -> None:
            try:
                await change()
            except CoreFailure as failure:
                answers.append((name, failure.error))
            else:
                answers.append((name, None))

        queues = driver.queues
        async with trio.open_nursery() as nursery:  # which starts its tasks in any order
            nursery.start_soon(ask, "delete", lambda: queues.delete("g"))
            nursery.start_soon(ask, "delete", lambda: queues.delete("g"))
            nursery.start_soon(ask, "pause", lambda: queues.pause("g", True))
            nursery.start_soon(ask, "unshare", lambda: queues.unshare("g", {TOPIC}))
        gone = answers.index(("delete", None))
        assert all(error is None for _, error in answers[:gone])
        assert [error for _, error in answers[gone + 1 :]] == [CoreError.GROUP_NOT_FOUND] * (3 - gone)
        await driver.crash()
        assert driver.queues.all() == []  # no row of it has come back


async def test_a_broadcast_without_members_is_forgotten_in_time(autojump_clock: MockClock) -> None:
    async with driving(QueueLimits(broadcast_expiry_ms=3_600_000)) as driver:
        subscription = replace(SUBSCRIPTION, broadcast=True)
        listener = await driver.join("a", subscription)
        await driver.join("a", SUBSCRIPTION, group="other")
        await trio.sleep(7_200)
        assert driver.queues.find("g")
        listener.leave()
        await trio.sleep(1_800)
        await driver.crash()  # since when it is alone is known after a restart
        await trio.sleep(1_200)
        (await driver.join("a", subscription)).leave()
        await trio.sleep(3_000)
        assert driver.queues.find("g")
        await trio.sleep(900)
        assert [group.id for group in driver.queues.all()] == ["other"]


async def test_an_acknowledgement_from_before_a_restart_counts_until_the_message_goes_out_again(
    autojump_clock: MockClock,
) -> None:
    async with driving() as driver:
        await some(driver, 6)
        before = await driver.join()
        await driver.settled()
        got = before.taken()
        await before.settle(got[4], verb=Verb.NACK, delay_ms=50_000)
        await driver.crash()
        again = await driver.join(credit=2)
        await driver.settled()
        out = again.taken()
        assert [one.offset for one in out] == [0, 1]
        # A receipt of this run is none for what was not handed out in it.
        assert await again.settle(got[2]._replace(lease=out[0].lease)) == [Settled.LATE]
        late = [Settled.LATE, Settled.DONE, Settled.DONE, Settled.LATE]
        never = Got(0, 6, got[0].lease, 1, None, None)  # nothing that comes later can be acknowledged ahead
        assert await again.settle(got[0], got[2], got[4], never) == late
        assert await again.settle(got[3], verb=Verb.NACK) == [Settled.LATE]
        assert await again.settle(got[5], verb=Verb.EXTEND) == [Settled.LATE]
        await driver.produce(b"6")
        again.grant()
        await trio.sleep(60)
        assert {one.value for one in again.taken()} == {b"0", b"1", b"3", b"5", b"6"}


async def test_an_acknowledgement_from_before_a_reset_and_a_restart_moves_nothing(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 2)
        before = await driver.join()
        await driver.settled()
        got = before.taken()
        await driver.queues.reset("g", {(TOPIC, 0): 0})
        await driver.crash()
        again = await driver.join(credit=0)
        assert await again.settle(*got) == [Settled.LATE] * 2
        again.grant()
        await driver.settled()
        assert again.values == [b"0", b"1"]


async def test_broadcast_needs_no_acknowledgement_and_keeps_its_position(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        subscription = replace(SUBSCRIPTION, broadcast=True)
        consumer = await driver.join(subscription=subscription)
        await driver.settled()
        assert [one.lease for one in consumer.taken()] == [0, 0, 0]
        await driver.crash(lose=False)
        consumer = await driver.join(subscription=subscription)
        await trio.sleep(100)
        assert consumer.taken() == []


async def test_a_new_group_starts_where_it_is_told_new_partitions_at_their_beginning(
    autojump_clock: MockClock,
) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join(start=START_LATEST)
        await driver.topics.add_partitions(TOPIC, 2)
        await driver.produce(b"there", partition=1)
        await driver.produce(b"here")
        await driver.settled()
        assert sorted(one or b"" for one in consumer.values) == [b"here", b"there"]


async def test_at_the_window_nothing_new_goes_out_until_something_comes_back(autojump_clock: MockClock) -> None:
    async with driving(QueueLimits(window_offsets_max=10, failed_max=5)) as driver:
        for _ in range(6):
            await some(driver, 5)
        consumer = await driver.join()
        await driver.settled()
        got = consumer.taken()
        assert len(got) == 10
        await consumer.settle(*got[1:])
        await driver.settled()
        assert consumer.taken() == []
        await consumer.settle(got[0])
        await driver.settled()
        assert len(consumer.taken()) == 10
        assert await driver.settle(consumer.group, [Settle(TOPIC, 0, got[0].lease, 0, 1 << 60, Verb.ACK)]) == [
            Settled.INVALID
        ]


async def test_a_deleted_topic_and_a_deleted_group_leave_no_rows(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        got = consumer.taken()
        await consumer.settle(got[1])
        await consumer.settle(got[2], verb=Verb.NACK)
        with pytest.raises(CoreFailure):
            await driver.queues.delete("g")
        await driver.topics.delete(TOPIC)
        assert await consumer.settle(got[0]) == [Settled.LATE]
        consumer.leave()
        await driver.queues.delete("g")
        await driver.settled()
        rows: dict[bytes, bytes | None] = {}
        await driver.queues._log.state.load(lambda key, value: rows.__setitem__(key, value))
        assert {key: value for key, value in rows.items() if value is not None} == {}


async def test_settling_far_from_what_is_out_costs_nothing(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        got = consumer.taken()
        for verb in Verb:
            far = Settle(TOPIC, 0, got[0].lease, 1 << 60, 1 << 60, verb, -1)
            assert await driver.settle(consumer.group, [far]) == [Settled.LATE]
            late = Settle(TOPIC, 0, got[0].lease, 0, 0, verb, (1 << 63) - 1)
            assert await driver.settle(consumer.group, [late]) == [Settled.INVALID]
        assert await consumer.settle(*got) == [Settled.DONE] * 3


async def test_a_group_that_cannot_be_made_leaves_no_task(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        for number in range(3):
            with pytest.raises(CoreFailure):
                await driver.join(subscription=Subscription(("missing",)), group=f"g{number}")
        await driver.settled()
        assert driver.queues.all() == []
        assert driver.queues._nursery is not None
        assert not driver.queues._nursery.child_tasks


async def test_what_failed_comes_again_in_time_though_more_waits_behind_it(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        for _ in range(3):
            await some(driver, 1)
        await driver.queues.configure("g", {"backoff_ms": (1_000,)})
        subscription = replace(SUBSCRIPTION, order=Order.PARTITION)
        leaving = await driver.join("a", subscription, credit=5)
        await driver.settled()
        await leaving.settle(*leaving.taken(), verb=Verb.NACK)
        leaving.leave()
        consumer = await driver.join("b", subscription, credit=0)
        await driver.settled()
        consumer.grant()
        await driver.settled()
        await trio.sleep(2)
        assert [(one.offset, one.attempt) for one in consumer.taken()] == [(0, 2)]


async def test_a_reset_may_come_while_a_message_is_becoming_a_dead_letter(autojump_clock: MockClock) -> None:
    for steps in range(0, 60, 3):
        async with driving() as driver:
            await some(driver, 2)
            consumer = await driver.join()
            await driver.settled()
            got = consumer.taken()
            await consumer.settle(*got, verb=Verb.REJECT)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await driver.queues.reset("g", {(TOPIC, 0): 0})
            await driver.settled()
            again = consumer.taken()
            assert [one.offset for one in again] == [0, 1]
            await consumer.settle(*again, verb=Verb.REJECT)
            await driver.settled()
            letters = driver.topics.get(topic_of("g"))
            assert letters is not None
            assert driver.engine.info(letters.partitions[0]).high_watermark in (2, 4)


async def test_who_asks_for_a_topic_that_is_not_there_leaves_the_group_as_it_was(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.queues.configure("g", {"attempts_max": 3})
        with pytest.raises(CoreFailure):
            await driver.join(subscription=Subscription(("missing",)))
        assert driver.queues.find("g").policy.attempts_max == 3


async def test_a_group_whose_topic_goes_while_a_member_joins_is_not_made(autojump_clock: MockClock) -> None:
    for steps in range(0, 60, 3):
        async with driving(partitions=3) as driver:
            await some(driver, 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.topics.delete, TOPIC)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                with suppress(CoreFailure):
                    await driver.join(start=1)
            await driver.settled()
            assert all(not group.queues for group in driver.queues.all())


def full(entries: Sequence[Entry], done: Callable[[list[Appended]], object]) -> None:
    """An engine's append, with a full disk."""
    done([Appended(Outcome.FULL)] * len(entries))


async def test_what_a_full_disk_kept_of_a_deleted_group_goes_with_the_next_write(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        await consumer.settle(consumer.taken()[1])
        consumer.leave()

        with patch.object(driver.engine, "append", full), pytest.raises(CoreFailure):
            await driver.queues.delete("g")
        await driver.join(group="other")
        await driver.settled()
        await driver.crash()
        assert [group.id for group in driver.queues.all()] == ["other"]
        consumer = await driver.join()
        await driver.settled()
        assert len(consumer.values) == 3


async def test_a_change_of_a_group_that_a_full_disk_refused_has_not_happened(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.topic("other")
        await some(driver, 2)
        queues = driver.queues
        await queues.share("g", {TOPIC}, START_EARLIEST, Policy())
        mine = await driver.join(group="mine")
        mine.leave()
        rows = [one.row for one in queues.all()]
        read = [sorted(one.queues) for one in queues.all()]
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: queues.unshare("g", {TOPIC}),
            lambda: queues.share("g", {"other"}, START_EARLIEST, Policy()),
            lambda: queues.share("mine", {TOPIC}, START_EARLIEST, Policy()),
            lambda: queues.share("mine", {"other"}, START_EARLIEST, Policy()),
            lambda: driver.join("a", Subscription(("other",)), group="mine"),
            lambda: queues.pause("g", True),
            lambda: queues.configure("g", {"invisible_ms": 1}),
        ]
        for change in changes:
            with patch.object(driver.engine, "append", full), pytest.raises(CoreFailure):
                await change()
            assert [one.row for one in queues.all()] == rows
            assert [sorted(one.queues) for one in queues.all()] == read
        await driver.join(group="third")  # a write: what the refused ones left behind would go with it
        await driver.settled()
        await driver.crash()
        assert [one.row for one in driver.queues.all()][:2] == rows
        assert [sorted(one.queues) for one in driver.queues.all()][:2] == read
        consumer = await driver.join(group="mine")
        await driver.settled()
        assert len(consumer.values) == 2


async def test_a_reset_or_a_resend_that_a_full_disk_refused_has_not_happened(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        dead, *others = consumer.taken()
        await consumer.settle(dead, verb=Verb.REJECT)
        await consumer.settle(*others)
        await driver.settled()
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: driver.queues.reset("g", {(TOPIC, 0): 0}),
            lambda: driver.queues.resend("g", [0]),
        ]
        for change in changes:
            with patch.object(driver.engine, "append", full), pytest.raises(CoreFailure):
                await change()
            await driver.settled()
            assert consumer.taken() == []
        await driver.join(group="other")  # a write
        await driver.settled()
        await driver.crash()
        consumer = await driver.join()
        await trio.sleep(100)
        assert consumer.taken() == []


async def test_a_reset_for_which_there_is_no_room_all_at_once_waits_for_it(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await some(driver, 3)
        consumer = await driver.join()
        await driver.settled()
        await consumer.settle(*consumer.taken())
        consumer.leave()
        append = driver.engine.append
        refused = 0

        def at_first(entries: Sequence[Entry], done: Callable[[list[Appended]], None]) -> None:
            nonlocal refused
            if driver.queues.find("g").queues[TOPIC, 0].floor == 0 and refused < 3:
                refused += 1
                full(entries, done)
            else:
                append(entries, done)

        with patch.object(driver.engine, "append", at_first):
            await driver.queues.reset("g", {(TOPIC, 0): 0})
        assert refused == 3
        await driver.crash()
        consumer = await driver.join()
        await driver.settled()
        assert len(consumer.values) == 3


async def test_a_topic_that_a_group_no_longer_reads_begins_anew_also_after_a_crash(autojump_clock: MockClock) -> None:
    async with driving() as driver:
        await driver.topic("other")
        await some(driver, 2)
        await driver.queues.share("g", {TOPIC, "other"}, START_LATEST, Policy())
        await driver.queues.unshare("g", {TOPIC})
        await driver.crash()
        group = await driver.queues.share("g", {TOPIC}, START_EARLIEST, Policy())
        assert [queue.floor for queue in group.queues.values()] == [0, 0]


async def letters_of(driver: Driver) -> list[bytes | None]:
    """The values of the group's dead letters."""
    topic = driver.topics.get(topic_of("g"))
    if topic is None:
        return []
    read = await driver.engine.read(topic.partitions[0], 0, 1 << 20)
    return [record.value for buffer in read.buffers for record in decode(buffer, 1 << 20)]


@pytest.mark.parametrize("seed", range(8))
async def test_a_dead_letter_is_out_of_the_queue_whatever_is_written_meanwhile(
    autojump_clock: MockClock, seed: int
) -> None:
    async with driving(seed=seed) as driver:
        await some(driver, 4)
        consumer = await driver.join()
        await driver.settled()
        first, second, third, fourth = consumer.taken()
        await consumer.settle(first, verb=Verb.REJECT)
        await driver.settled()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.settle, second)  # is on its way when the next is to die
            await trio.lowlevel.checkpoint()
            nursery.start_soon(partial(consumer.settle, third, verb=Verb.REJECT))
        await driver.settled()
        assert await letters_of(driver) == [b"0", b"2"]
        await driver.crash()
        again = await driver.join()
        await trio.sleep(100)
        assert {one.offset for one in again.taken()} == {fourth.offset}
        assert await letters_of(driver) == [b"0", b"2"]


@pytest.mark.parametrize("lose", [True, False])
async def test_what_was_rejected_is_a_dead_letter_though_the_broker_is_killed_before_it_has_moved(
    autojump_clock: MockClock, lose: bool
) -> None:
    async with driving() as driver:
        await some(driver, 1)
        consumer = await driver.join()
        await driver.settled()
        assert await consumer.settle(*consumer.taken(), verb=Verb.REJECT, reason="bad") == [Settled.DONE]
        assert await letters_of(driver) == []
        await driver.crash(lose=lose)
        again = await driver.join()
        await trio.sleep(100)
        assert again.taken() == []
        assert await letters_of(driver) == [b"0"]


def test_the_row_of_a_message_that_is_being_buried_is_not_written_behind_its_end() -> None:
    queue = QueuePartition("g", TOPIC, 0, 7)

    def is_written() -> bool:
        return any(key == failed_key("g", 7, 3) for key, _ in queue.changes(lambda then_ms: then_ms))

    queue.fail(3, 1, 0, "bad", 1).dying = True
    assert not queue.bury(3)  # its row is to be written first
    assert is_written()
    assert queue.bury(3)
    queue.not_written()  # the disk was full
    assert not is_written()
    queue.written()
    queue.not_dead(3)
    assert is_written()
    queue.written()
    assert queue.bury(3)
    queue.dead(3)
    assert not queue.failed
    assert not queue.is_dirty


async def test_filters_that_cost_much_leave_the_loop_to_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group looks at one message, as each takes longer than its time, and then another group does."""
    monkeypatch.setattr("core.queue_dealer.time", SimpleNamespace(perf_counter=count().__next__))
    looks: list[str] = []

    def matcher(group: str) -> Callable[[Record], bool]:
        def matches(_: Record) -> bool:
            looks.append(group)
            return True

        return matches

    async with driving() as driver:
        await some(driver, 20)
        consumers = [await driver.join(group=name, credit=0) for name in ("one", "two")]
        for consumer in consumers:
            consumer.group.matches = matcher(consumer.group.id)
        for consumer in consumers:
            consumer.grant()
        await driver.settled()
        assert [len(consumer.taken()) for consumer in consumers] == [20, 20]
    assert sorted(looks) == ["one"] * 20 + ["two"] * 20
    assert max(len(list(run)) for _, run in groupby(looks[:30])) <= 2


async def test_a_member_that_takes_one_at_a_time_gets_from_all_partitions_in_turn(autojump_clock: MockClock) -> None:
    async with driving(partitions=3) as driver:
        for partition in range(3):
            await driver.produce(*(b"%d" % number for number in range(20)), partition=partition)
        consumer = await driver.join(credit=0)
        seen: list[int] = []
        for _ in range(30):
            consumer.grant(1)
            await driver.settled()
            (one,) = consumer.taken()
            seen.append(one.partition)
            await consumer.settle(one)
        assert [seen.count(partition) for partition in range(3)] == [10, 10, 10]
