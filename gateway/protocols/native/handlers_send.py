"""Send: batches go to the store in the order the requests came, and each reply follows when its batches are durable.

The handler returns once the appends are begun, so that the next request can join the same sync. Only batches of topics
that look into records are awaited first, in a thread when they are large.
"""

from __future__ import annotations

import time
from functools import partial

import trio

from core.errors import CoreFailure
from core.store.engine import Append, Appended, Outcome
from core.topics import Topic
from core.tracing import trace_stored
from core.transaction_types import InitResult
from gateway.protocols.native.codes import OUTCOME_CODES, Refused
from gateway.protocols.native.context import Area, Call, Reply
from gateway.protocols.native.handlers_traces import actor_of
from gateway.protocols.native.incoming import IncomingBatch, must_open, prepare, prepare_opened
from trivium.errors import ErrorCode, RemoteProtocolError
from trivium.frames.sending import NewProducer, NewProducerReply, Send, SendReply, SendResult

IN_LINE_BYTES_MAX = 16 * 1024  # smaller batches are opened on the spot: a thread costs more

NOT_APPENDED = SendResult(ErrorCode.NOT_APPENDED, 0, -1)


async def send(call: Call, request: Send, reply: Reply) -> None:
    """Begins the appends. Raises RemoteProtocolError when sizes and payload disagree."""
    context, payload = call.context, call.payload
    if sum(entry.size for entry in request.entries) != len(payload):
        raise RemoteProtocolError("the batches' sizes do not add up to the payload")
    results = [NOT_APPENDED] * len(request.entries)
    appends: list[tuple[int, Append]] = []
    at = 0
    for index, entry in enumerate(request.entries):
        try:
            topic, partition = context.partition(entry.topic, entry.partition)
            ready = await _prepare(topic, payload[at : at + entry.size])
            appends.append((index, Append(partition, ready.header, ready.batch)))
        except Refused as refused:
            results[index] = SendResult(refused.code, 0, -1)
        at += entry.size
    if not appends or (request.atomic and len(appends) < len(results)):
        reply(SendReply(results))
        return
    tracer = context.broker.tracer
    groups = [appends] if request.atomic else [[one] for one in appends]
    waiting = len(groups)

    def answered(group: list[tuple[int, Append]], answers: list[Appended]) -> None:
        nonlocal waiting
        for (index, entry), answer in zip(group, answers, strict=True):
            results[index] = _result(answer)
            if tracer.active and answer.outcome is Outcome.APPENDED:
                trace_stored(tracer, context.broker.topics, entry, answer, actor_of(call.peer))
        waiting -= 1
        if not waiting:
            reply(SendReply(results))

    for group in groups:
        context.broker.engine.append([one for _, one in group], partial(answered, group))


async def _prepare(topic: Topic, batch: memoryview) -> IncomingBatch:
    now_ms = time.time_ns() // 1_000_000
    if not must_open(topic):
        return prepare(topic, batch, now_ms)
    if len(batch) <= IN_LINE_BYTES_MAX:
        return prepare_opened(topic, batch, now_ms)
    return await trio.to_thread.run_sync(prepare_opened, topic, batch, now_ms)


def _result(answer: Appended) -> SendResult:
    return SendResult(OUTCOME_CODES[answer.outcome], int(answer.outcome is Outcome.DUPLICATE), answer.base_offset)


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


AREA = Area(tasks={NewProducer: new_producer}, in_order={Send: send})
