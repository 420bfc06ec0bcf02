"""Parts of the coordinator around a transaction's end: markers, retries, and what a restart finds open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import structlog

from core.errors import CoreError
from core.state import Change, StateLog
from core.store.engine import Append, Engine, append
from core.transaction_types import EPOCH_MAX, InitResult, Producer, Transaction, TxnState
from trivium.record_batch import parse_header
from trivium.records import build_control

log = structlog.get_logger(__name__)


class TxnOffsets(Protocol):
    """Where offsets wait for the end of their transaction (core.offsets)."""

    def pending_changes(self, producer_id: int, committed: bool) -> list[Change]: ...

    def complete_txn(self, producer_id: int, committed: bool) -> None: ...

    def pending_producers(self) -> list[int]: ...


def markers(
    partitions: Iterable[int], producer: Producer, commit: bool, coordinator_epoch: int, wall_ms: int
) -> Iterator[Append]:
    """The control batches that end the producer's transaction in these partitions."""
    batch = build_control(producer.id, producer.epoch, commit, coordinator_epoch, wall_ms)
    header = parse_header(batch)
    for partition in partitions:
        yield Append(partition, header, batch)


def init_result(txn: Transaction, error: CoreError | None) -> InitResult:
    return InitResult(None, Producer(txn.producer_id, txn.epoch)) if error is None else InitResult(error)


def refused(txn: Transaction, producer: Producer) -> InitResult:
    """The answer to a producer that is not the present one."""
    is_other = producer.id != txn.producer_id
    return InitResult(CoreError.UNKNOWN_TRANSACTIONAL_ID if is_other else CoreError.PRODUCER_FENCED)


def answer_retry(txn: Transaction, producer: Producer, asked: TxnState) -> InitResult:
    """The answer to an EndTxn 5 that does not come from the present producer.

    It may be a retry: the end was done, the answer, which carried the next epoch, was lost.
    """
    by_epoch = producer.id == txn.producer_id and producer.epoch + 1 == txn.epoch
    by_id = producer == Producer(txn.previous_id, EPOCH_MAX - 1) and txn.epoch == 0
    if not by_epoch and not by_id:
        return refused(txn, producer)
    if txn.state not in (TxnState.COMMITTED, TxnState.ABORTED) or txn.last_epoch != producer.epoch:
        return InitResult(CoreError.PRODUCER_FENCED)
    if txn.state is not asked:
        return InitResult(CoreError.INVALID_TXN_STATE)
    return InitResult(None, Producer(txn.producer_id, txn.epoch))


async def square_with_engine(
    engine: Engine, table: Mapping[str, Transaction], offsets: TxnOffsets, offsets_state: StateLog, wall_ms: int
) -> None:
    """At start: transactions with open data or pending offsets are ongoing; what is open without one is aborted."""
    owners = {txn.producer_id: txn for txn in table.values()}
    orphans: list[Append] = []
    for partition in engine.partitions():
        for found in engine.producers(partition):
            if found.txn_start_offset < 0:
                continue
            owner = owners.get(found.producer_id)
            if owner is not None and owner.epoch == found.producer_epoch:
                _reopen(owner, wall_ms)
                owner.partitions.add(partition)
            else:
                producer = Producer(found.producer_id, found.producer_epoch)
                log.warning("aborting open data that is no transaction's", partition=partition, producer_id=producer.id)
                orphans += markers([partition], producer, False, engine.epoch, wall_ms)
    for producer_id in offsets.pending_producers():
        owner = owners.get(producer_id)
        if owner is not None:
            _reopen(owner, wall_ms)
            continue
        changes = offsets.pending_changes(producer_id, False)
        if changes:
            await offsets_state.put(changes)
        offsets.complete_txn(producer_id, False)
    for marker in orphans:
        await append(engine, [marker])


def _reopen(txn: Transaction, wall_ms: int) -> None:
    if txn.state is not TxnState.ONGOING:
        txn.state = TxnState.ONGOING
        txn.start_wall_ms = wall_ms
