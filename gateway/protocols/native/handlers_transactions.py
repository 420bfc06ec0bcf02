"""Transactions of native clients: the same coordinator as Kafka's, whose ends are one append."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from core.errors import CoreError, CoreFailure
from core.offsets import CommitRequest, OffsetToCommit
from core.transaction_types import InitResult, Producer
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Area, Call
from trivium.errors import ErrorCode
from trivium.frames.offsets import CommitReply
from trivium.frames.transactions import EndTransaction, OpenTransactions, SendOffsets, TransactionalProducer

ID_BYTES_MAX = 255

T = TypeVar("T")


class _Answer(Generic[T]):
    """An answer that the core gives by calling back."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._values: list[T] = []

    def __call__(self, value: T) -> None:
        self._values.append(value)
        self._given.set()

    async def wait(self) -> T:
        await self._given.wait()
        return self._values[0]


async def open_transactions(call: Call, request: OpenTransactions) -> TransactionalProducer:
    if not 0 < len(request.transactional_id.encode()) <= ID_BYTES_MAX:
        raise Refused(ErrorCode.UNKNOWN_TRANSACTIONAL_ID, f"a transactional id has 1 to {ID_BYTES_MAX} bytes")
    answer = _Answer[InitResult]()
    call.context.broker.transactions.init_producer(
        request.transactional_id, request.timeout_ms, None, call.context.now_ms(), answer
    )
    return _producer(await answer.wait())


def _producer(result: InitResult) -> TransactionalProducer:
    if result.error is not None:
        raise CoreFailure(result.error)
    return TransactionalProducer(result.producer.id, result.producer.epoch)


async def send_offsets(call: Call, request: SendOffsets) -> CommitReply:
    """Offsets that wait for the end of the transaction; the group joins it by this."""
    context = call.context
    broker = context.broker
    producer = Producer(request.producer_id, request.producer_epoch)
    offsets: list[OffsetToCommit] = []
    for entry in request.entries:
        context.partition(entry.topic, entry.partition)
        if entry.offset < 0:
            raise Refused(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {entry.offset}")
        offsets.append(OffsetToCommit(entry.topic, entry.partition, entry.offset, metadata=entry.metadata))
    error = broker.transactions.ensure_group(request.transactional_id, producer, request.group, context.now_ms())
    if error is not None:
        raise CoreFailure(error)
    answered = trio.Event()
    outcome: list[CoreError | None] = []

    def reply(error: CoreError | None, errors: list[CoreError | None]) -> None:
        outcome.extend(errors or [error] * len(offsets))
        answered.set()

    commit: Callable[..., None] = broker.offsets.commit_pending
    commit(producer.id, CommitRequest(request.group, "", None, -1, offsets), reply, context.now_ms())
    await answered.wait()
    return CommitReply([ErrorCode.NONE if error is None else CORE_CODES[error] for error in outcome])


async def end_transaction(call: Call, request: EndTransaction) -> TransactionalProducer:
    """One append: markers, offsets, state. The answer is the producer for the next transaction."""
    producer = Producer(request.producer_id, request.producer_epoch)
    answer = _Answer[InitResult]()
    call.context.broker.transactions.end(request.transactional_id, producer, bool(request.commit), True, answer)
    return _producer(await answer.wait())


AREA = Area(tasks={OpenTransactions: open_transactions, SendOffsets: send_offsets, EndTransaction: end_transaction})
