"""The transaction coordinator: producers, fencing, ends and retries, time-outs, restarts."""

from __future__ import annotations

import pytest

from core.errors import CoreError
from core.store.engine import DeletePartition, Outcome, append
from core.transaction_types import EPOCH_MAX, Producer, TransactionLimits, TxnState
from tests.core.transactions_driver import DATA, TIMEOUT_MS, Coordinator, coordinator

X = "x"


async def _state(life: Coordinator) -> TxnState:
    txn = life.transactions.get(X)
    assert txn is not None
    return txn.state


async def test_producer_ids_are_unique_over_restarts() -> None:
    async with coordinator() as life:
        ids = {(await life.init(None)).producer.id for _ in range(3)}
        assert len(ids) == 3
        history = life.engine.appends
    async with coordinator(history=history, epoch=2) as life:
        assert (await life.init(None)).producer.id not in ids


async def test_each_init_raises_the_epoch_and_fences_the_one_before() -> None:
    async with coordinator() as life:
        first = await life.producer(X)
        second = await life.producer(X)
        assert second == Producer(first.id, first.epoch + 1)
        assert await life.produce(X, first, DATA[0], b"zombie") is CoreError.PRODUCER_FENCED
        assert await life.add(X, first, DATA[0]) is CoreError.PRODUCER_FENCED
        assert (await life.end(X, first, True)).error is CoreError.PRODUCER_FENCED
        assert await life.produce(X, second, DATA[0], b"ok") is None


async def test_init_in_an_open_transaction_aborts_it_and_fences_the_partitions() -> None:
    async with coordinator() as life:
        old = await life.producer(X)
        assert await life.produce(X, old, DATA[0], b"open") is None
        new = await life.producer(X)
        assert new.epoch == old.epoch + 1
        assert life.is_stable(DATA[0])
        [answer] = await append(life.engine, [life.batch(old, DATA[0], b"late")])
        assert answer.outcome is Outcome.PRODUCER_FENCED
        assert await life.produce(X, new, DATA[0], b"kept") is None
        assert (await life.end(X, new, True)).error is None
        assert await life.visible(DATA[0]) == [b"kept"]


async def test_a_producer_may_raise_its_own_epoch_and_ask_again() -> None:
    async with coordinator() as life:
        first = await life.producer(X)
        error, second = await life.init(X, expected=first)
        assert (error, second.epoch) == (None, first.epoch + 1)
        assert await life.init(X, expected=first) == (None, second)  # the answer was lost
        third = await life.producer(X)
        assert (await life.init(X, expected=second)).error is CoreError.PRODUCER_FENCED
        assert (await life.init(X, expected=Producer(99, 0))).error is CoreError.PRODUCER_FENCED
        assert (await life.init(X, expected=third)).error is None


async def test_a_fenced_producer_does_not_abort_its_successor() -> None:
    async with coordinator() as life:
        old = await life.producer(X)
        new = await life.producer(X)
        assert await life.produce(X, new, DATA[0], b"kept") is None
        assert (await life.init(X, expected=old)).error is CoreError.PRODUCER_FENCED
        assert (await life.end(X, new, True)).error is None
        assert await life.visible(DATA[0]) == [b"kept"]


@pytest.mark.parametrize("bump", [True, False])
async def test_commit_and_abort_reach_every_partition(bump: bool) -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        for commit, value in ((True, b"yes"), (False, b"no"), (True, b"again")):
            assert await life.add(X, producer, *DATA) is None
            for partition in DATA:
                assert await life.produce(X, producer, partition, value, implicit=False) is None
            error, after = await life.end(X, producer, commit, bump=bump)
            assert error is None
            assert after.epoch == producer.epoch + bump
            producer = after
        for partition in DATA:
            assert await life.visible(partition) == [b"yes", b"again"]
            assert life.is_stable(partition)


async def test_a_partition_must_be_added_before_older_clients_write_to_it() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"v", implicit=False) is CoreError.NOT_IN_TRANSACTION
        assert await life.add(X, producer, DATA[0]) is None
        assert await life.produce(X, producer, DATA[1], b"v", implicit=False) is CoreError.NOT_IN_TRANSACTION
        assert (await life.end(X, producer, True, bump=False)).error is None
        assert await life.produce(X, producer, DATA[0], b"v", implicit=False) is CoreError.NOT_IN_TRANSACTION


async def test_requests_under_a_wrong_name_or_id_are_refused() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.add("y", producer, DATA[0]) is CoreError.UNKNOWN_TRANSACTIONAL_ID
        assert await life.add(X, Producer(99, 0), DATA[0]) is CoreError.UNKNOWN_TRANSACTIONAL_ID
        assert (await life.end(X, Producer(99, 0), True)).error is CoreError.UNKNOWN_TRANSACTIONAL_ID
        assert (await life.init("y", timeout_ms=0)).error is CoreError.INVALID_TXN_TIMEOUT
        assert (await life.init("y", timeout_ms=900_001)).error is CoreError.INVALID_TXN_TIMEOUT


async def test_a_retried_end_is_answered_again_and_touches_nothing_later() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"one") is None
        first = await life.end(X, producer, True)
        assert await life.end(X, producer, True) == first
        assert (await life.end(X, producer, False)).error is CoreError.INVALID_TXN_STATE
        assert await life.produce(X, first.producer, DATA[0], b"two") is None
        assert (await life.end(X, producer, True)).error is CoreError.PRODUCER_FENCED  # late: another one is open
        assert await _state(life) is TxnState.ONGOING
        assert (await life.end(X, first.producer, False)).error is None
        assert await life.visible(DATA[0]) == [b"one"]


async def test_ends_of_older_clients_are_retried_by_state() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert (await life.end(X, producer, True, bump=False)).error is CoreError.INVALID_TXN_STATE
        assert await life.add(X, producer, DATA[0]) is None
        assert (await life.end(X, producer, True, bump=False)).error is None
        assert (await life.end(X, producer, True, bump=False)).error is None
        assert (await life.end(X, producer, False, bump=False)).error is CoreError.INVALID_TXN_STATE


async def test_an_abort_without_a_transaction_still_gives_the_next_epoch() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        error, after = await life.end(X, producer, False)
        assert (error, after.epoch) == (None, producer.epoch + 1)
        assert (await life.end(X, after, True)).error is CoreError.INVALID_TXN_STATE


async def test_everybody_waits_while_an_end_is_on_its_way() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"v") is None
        answers: list[object] = []
        life.transactions.end(X, producer, True, True, answers.append)
        assert await life.produce(X, producer, DATA[0], b"late") is CoreError.CONCURRENT_TRANSACTIONS
        assert (await life.init(X)).error is CoreError.CONCURRENT_TRANSACTIONS
        assert (await life.end(X, producer, True)).error is CoreError.CONCURRENT_TRANSACTIONS


@pytest.mark.parametrize("by", ["end", "init", "expected", "time-out"])
async def test_exhausted_epochs_continue_under_a_new_producer_id(by: str) -> None:
    async with coordinator() as life:
        last = Producer((await life.producer(X)).id, EPOCH_MAX - 1)
        txn = life.transactions.get(X)
        assert txn is not None
        txn.epoch = last.epoch
        if by != "expected":
            assert await life.produce(X, last, DATA[0], b"v") is None
        if by == "end":
            result = await life.end(X, last, True)
            assert await life.end(X, last, True) == result
        elif by == "time-out":
            life.now_ms += TIMEOUT_MS
            life.transactions.sweep(life.now_ms)
            await append(life.engine, [])
            result = await life.end(X, last, False)
        else:
            result = await life.init(X, last if by == "expected" else None)
        if by == "expected":
            assert await life.init(X, last) == result
        assert result.error is None
        assert result.producer.id != last.id
        assert result.producer.epoch == 0
        assert life.is_stable(DATA[0])
        [answer] = await append(life.engine, [life.batch(last, DATA[0], b"late")])
        assert answer.outcome is (Outcome.APPENDED if by == "expected" else Outcome.PRODUCER_FENCED)


async def test_a_transaction_past_its_time_out_is_aborted_and_its_producer_fenced() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"v") is None
        life.now_ms += TIMEOUT_MS - 1
        life.transactions.sweep(life.now_ms)
        assert await _state(life) is TxnState.ONGOING
        life.now_ms += 1
        life.transactions.sweep(life.now_ms)
        await append(life.engine, [])
        assert await _state(life) is TxnState.ABORTED
        assert life.is_stable(DATA[0])
        assert await life.visible(DATA[0]) == []
        assert (await life.end(X, producer, True, bump=False)).error is CoreError.PRODUCER_FENCED
        assert (await life.end(X, producer, True)).error is CoreError.INVALID_TXN_STATE
        error, after = await life.end(X, producer, False)
        assert error is None
        assert await life.produce(X, after, DATA[0], b"again") is None


async def test_a_deleted_partition_does_not_hold_up_the_others() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        for partition in DATA:
            assert await life.produce(X, producer, partition, b"v") is None
        await append(life.engine, [DeletePartition(DATA[1])])
        assert (await life.end(X, producer, True)).error is None
        assert await life.visible(DATA[0]) == await life.visible(DATA[2]) == [b"v"]


async def test_an_end_that_finds_the_disk_full_can_be_tried_again() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"v") is None
        assert await life.send_offset(X, producer, 7) is None
        life.engine.refuse = Outcome.FULL
        assert (await life.end(X, producer, True)).error is CoreError.STORE_FULL
        assert (await life.init("y")).error is CoreError.STORE_FULL
        assert life.transactions.get("y") is None
        life.engine.refuse = None
        assert life.committed_offset() == -1
        assert (await life.end(X, producer, True)).error is None
        assert await life.visible(DATA[0]) == [b"v"]
        assert life.committed_offset() == 7


async def test_offsets_count_only_when_their_transaction_commits() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.send_offset(X, producer, 5, implicit=False) is CoreError.NOT_IN_TRANSACTION
        assert await life.send_offset(X, producer, 5) is None
        assert life.committed_offset() == -1
        _, producer = await life.end(X, producer, True)
        assert life.committed_offset() == 5
        assert await life.add(X, producer, group="g") is None
        assert await life.send_offset(X, producer, 9, implicit=False) is None
        assert (await life.end(X, producer, False)).error is None
        assert life.committed_offset() == 5


async def test_an_open_transaction_goes_on_after_a_restart() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"before") is None
        assert await life.send_offset(X, producer, 3) is None
        history, sequences = life.engine.appends, life.sequences
    async with coordinator(history=history, epoch=2) as life:
        life.sequences = sequences
        assert await _state(life) is TxnState.ONGOING
        assert await life.produce(X, producer, DATA[0], b"after") is None
        assert (await life.end(X, producer, True)).error is None
        assert await life.visible(DATA[0]) == [b"before", b"after"]
        assert life.committed_offset() == 3


async def test_an_open_transaction_times_out_after_a_restart() -> None:
    async with coordinator() as life:
        producer = await life.producer(X)
        assert await life.produce(X, producer, DATA[0], b"v") is None
        history = life.engine.appends
    async with coordinator(history=history, epoch=2) as life:
        life.now_ms += TIMEOUT_MS
        life.transactions.sweep(life.now_ms)
        await append(life.engine, [])
        assert life.is_stable(DATA[0])
        assert await life.visible(DATA[0]) == []


async def test_open_data_without_a_transaction_is_aborted_at_start() -> None:
    async with coordinator() as life:
        stray = Producer(4711, 3)
        await append(life.engine, [life.batch(stray, DATA[0], b"stray")])
        assert not life.is_stable(DATA[0])
        history = life.engine.appends
    async with coordinator(history=history, epoch=2) as life:
        assert life.is_stable(DATA[0])
        assert await life.visible(DATA[0]) == []


async def test_unused_transactional_ids_are_forgotten_and_new_ones_bounded() -> None:
    async with coordinator(limits=TransactionLimits(id_expiry_ms=1_000, ids_max=2)) as life:
        busy = await life.producer("busy")
        await life.producer("idle")
        assert (await life.init("third")).error is CoreError.POLICY_VIOLATION
        assert await life.produce("busy", busy, DATA[0], b"v") is None
        life.wall_ms += 1_000
        life.transactions.expire()
        await append(life.engine, [])
        assert [txn.id for txn in life.transactions.all()] == ["busy"]
        history = life.engine.appends
    async with coordinator(history=history, epoch=2) as life:
        assert [txn.id for txn in life.transactions.all()] == ["busy"]
