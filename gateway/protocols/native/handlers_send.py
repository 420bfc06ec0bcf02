"""Send: batches go to the store in the order the requests came, and each reply follows when its batches are durable.

The handler returns once the appends are begun, so that the next request can join the same sync. Only batches that must
be looked into are awaited first, in a thread when they are large.
"""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import trio

from core.errors import CoreError, CoreFailure
from core.intake import Sorted, check_transactional
from core.store.engine import Append, Appended, Entry, Outcome
from core.topics import Topic
from core.tracing import trace_stored
from core.transaction_types import InitResult, Producer
from gateway.protocols.native.codes import CORE_CODES, OUTCOME_CODES, Refused
from gateway.protocols.native.context import Area, Call, Context, Reply
from gateway.protocols.native.handlers_traces import actor_of
from gateway.protocols.native.incoming import DECODED_BYTES_MAX, IncomingBatch, must_open, prepare, prepare_opened
from trivium.errors import ErrorCode, RemoteProtocolError
from trivium.frames.sending import (
    ATOMIC,
    LOOK,
    NO_REPLY,
    SCHEDULED,
    STORED_BEFORE,
    NewProducer,
    NewProducerReply,
    Note,
    Send,
    SendIf,
    SendIfReply,
    SendReply,
    SendResult,
)
from trivium.headers import DELIVER_AT, ONCE_ID

IN_LINE_BYTES_MAX = 16 * 1024  # smaller batches are opened on the spot: a thread costs more
REASON_CHARS_MAX = 1_000

NOT_APPENDED = SendResult(ErrorCode.NOT_APPENDED, "", 0, [], -1)


class _Ready(NamedTuple):
    """An entry of a request (by its number there), to be appended; `found` when its records were looked into."""

    number: int
    entries: list[Append]
    found: Sorted | None


async def send(call: Call, request: Send, reply: Reply) -> None:
    """Begins the appends. Raises RemoteProtocolError when sizes and payload disagree."""
    if sum(entry.size for entry in request.entries) != len(call.payload):
        raise RemoteProtocolError("the batches' sizes do not add up to the payload")
    if request.flags & NO_REPLY:
        answer = reply
        reply = lambda _: answer(None)  # noqa: E731
    results = [NOT_APPENDED] * len(request.entries)
    taken: list[tuple[int, Topic, int, IncomingBatch]] = []
    at = 0
    for index, entry in enumerate(request.entries):
        try:
            topic, partition = call.context.partition(entry.topic, entry.partition)
            batch = await _prepare(topic, call.payload[at : at + entry.size], request)
            taken.append((index, topic, partition, batch))
        except (Refused, CoreFailure) as refusal:
            results[index] = _refusal(refusal)
        at += entry.size
    # From here on nothing waits: what is sorted is appended in the same breath.
    atomic = bool(request.flags & ATOMIC)
    ready: list[_Ready] = []
    if not (atomic and len(taken) < len(results)):
        for index, topic, partition, batch in taken:
            try:
                ready.append(_sort(call.context, request, index, topic, partition, batch))
            except (Refused, CoreFailure) as refusal:
                results[index] = _refusal(refusal)
    if atomic and len(ready) < len(results):
        for one in ready:
            if one.found is not None:
                call.context.broker.intake.settle(one.found, Outcome.NOT_APPENDED)
        ready = []
    if not ready:
        reply(SendReply(results))
        return
    _append(call, [ready] if atomic else [[one] for one in ready], results, reply)


def _append(call: Call, groups: list[list[_Ready]], results: list[SendResult], reply: Reply) -> None:
    """One append for each group; the reply after the last answer."""
    tracer = call.context.broker.tracer
    waiting = len(groups)

    def answered(group: list[_Ready], answers: list[Appended]) -> None:
        nonlocal waiting
        at = 0
        for one in group:
            answer = answers[at]
            at += len(one.entries)
            results[one.number] = _result(call.context, one, answer)
            if tracer.active and answer.outcome is Outcome.APPENDED:
                waits = () if one.found is None else one.found.waits
                trace_stored(tracer, call.context.broker.topics, one.entries[0], answer, actor_of(call.peer), waits)
        waiting -= 1
        if not waiting:
            reply(SendReply(results))

    for group in groups:
        entries: list[Entry] = [entry for one in group for entry in one.entries]
        call.context.broker.engine.append(entries, partial(answered, group))


async def _prepare(topic: Topic, batch: memoryview, request: Send) -> IncomingBatch:
    now_ms = time.time_ns() // 1_000_000
    transactional = bool(request.transactional_id)
    check_transactional(topic.settings, transactional)
    if not must_open(topic, batch, bool(request.flags & LOOK)):
        return prepare(topic, batch, now_ms, transactional)
    if len(batch) <= IN_LINE_BYTES_MAX:
        return prepare_opened(topic, batch, now_ms, transactional)
    return await trio.to_thread.run_sync(prepare_opened, topic, batch, now_ms, transactional)


def _sort(context: Context, request: Send, index: int, topic: Topic, partition: int, batch: IncomingBatch) -> _Ready:
    """Checks the batch against its transaction, and its records against the topic. Raises Refused, CoreFailure."""
    if request.transactional_id:
        producer = Producer(batch.header.producer_id, batch.header.producer_epoch)
        transactions = context.broker.transactions
        error = transactions.ensure_partition(request.transactional_id, producer, partition, context.now_ms())
        if error is not None:
            raise CoreFailure(error)
    if batch.records is None:
        return _Ready(index, [Append(partition, batch.header, batch.batch)], None)
    if request.flags & LOOK and not topic.settings.once_window_ms:
        _refuse_once_ids(topic, batch)
    found = context.broker.intake.sort(
        topic, partition, batch.header, batch.batch, batch.records, time.time_ns() // 1_000_000, DECODED_BYTES_MAX
    )
    return _Ready(index, found.entries, found)


def _refuse_once_ids(topic: Topic, batch: IncomingBatch) -> None:
    if any(name == ONCE_ID for record in batch.records or () for name, _ in record.headers):
        raise Refused(
            ErrorCode.WRONG_MESSAGE_TYPE,
            f"topic {topic.name} keeps no ids of messages: set its once.window.ms to send with {ONCE_ID}",
        )


def _refusal(error: Refused | CoreFailure) -> SendResult:
    code = error.code if isinstance(error, Refused) else CORE_CODES[error.error]
    return SendResult(code, str(error)[:REASON_CHARS_MAX], 0, [], -1)


def _result(context: Context, one: _Ready, answer: Appended) -> SendResult:
    notes: list[Note] = []
    if one.found is not None:
        try:
            duplicates = context.broker.intake.settle(one.found, answer.outcome)
        except CoreFailure as failure:
            return _refusal(failure)
        notes = [Note(at, "", SCHEDULED) for at in one.found.scheduled]
        notes += [Note(found.at, found.claim.message_id, STORED_BEFORE) for found in duplicates]
    code = OUTCOME_CODES[answer.outcome]
    return SendResult(code, "", int(answer.outcome is Outcome.DUPLICATE), notes, answer.base_offset)


async def send_if(call: Call, request: SendIf) -> SendIfReply:
    """Stores a batch of one key if the key's last record is where the client thinks. Raises Refused, CoreFailure."""
    topic, partition = call.context.partition(request.topic, request.partition)
    check_transactional(topic.settings, False)
    now_ms = time.time_ns() // 1_000_000
    batch = await trio.to_thread.run_sync(prepare_opened, topic, call.payload, now_ms)
    records = batch.records or ()
    keys = {record.key for record in records}
    if len(keys) != 1 or None in keys or batch.header.producer_id >= 0:
        raise Refused(ErrorCode.INVALID_BATCH, "records of one key, without a producer id, can be sent on a condition")
    if any(name in (DELIVER_AT, ONCE_ID) for record in records for name, _ in record.headers):
        raise CoreFailure(CoreError.INVALID_MESSAGE, f"{DELIVER_AT} and {ONCE_ID} cannot be sent on a condition")
    key = records[0].key or b""
    guarded = await call.context.broker.key_guard.append(partition, key, request.last_offset, batch.header, batch.batch)
    return SendIfReply(int(guarded.base_offset >= 0), guarded.last_offset, guarded.base_offset)


async def new_producer(call: Call, request: NewProducer) -> NewProducerReply:
    answered = trio.Event()
    results: list[InitResult] = []

    def done(result: InitResult) -> None:
        results.append(result)
        answered.set()

    call.context.broker.transactions.init_producer(None, 0, None, call.context.now_ms(), done)
    await answered.wait()
    if results[0].error is not None:
        raise CoreFailure(results[0].error)
    return NewProducerReply(results[0].producer.id, results[0].producer.epoch)


AREA = Area(tasks={NewProducer: new_producer, SendIf: send_if}, in_order={Send: send})
