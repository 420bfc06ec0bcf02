"""Produce (KIP-98, KIP-890): batches go to the store as they came, and the response follows when all of them are
durable.

The handler returns at once, so that the next request of the connection can join the same sync. Only what must look
into the records (old message sets, recompression, topics with `validate=records` or compaction, what may have to wait
for its time) is awaited, in a thread when it is large.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from core.errors import CoreFailure
from core.intake import Sorted, mentions_time, must_open
from core.store.engine import Append, Appended, Outcome
from core.topics import Topic
from core.tracing import trace_stored
from gateway.protocols.kafka.conversion import (
    IN_LINE_BYTES_MAX,
    IN_LINE_DECODED_BYTES_MAX,
    decoded_bytes_max,
    in_thread,
)
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_transactions import check_transactional_produce
from gateway.protocols.kafka.incoming import (
    FIRST_BATCH_VERSION,
    IncomingBatch,
    RefusedBatch,
    needs_records,
    prepare,
    prepare_records,
    refused_by_core,
)
from gateway.protocols.kafka.messages import ProduceRequest, ProduceResponse
from gateway.protocols.kafka.traces import actor_of
from trivium.record_batch import BatchHeader

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

OUTCOME_CODES = {
    Outcome.APPENDED: ErrorCode.NONE,
    Outcome.DUPLICATE: ErrorCode.NONE,
    Outcome.NOT_APPENDED: ErrorCode.UNKNOWN_SERVER_ERROR,  # no other entry shares an append here
    Outcome.OUT_OF_ORDER_SEQUENCE: ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    Outcome.UNKNOWN_PRODUCER: ErrorCode.UNKNOWN_PRODUCER_ID,
    Outcome.PRODUCER_FENCED: ErrorCode.INVALID_PRODUCER_EPOCH,
    Outcome.INVALID_TXN_STATE: ErrorCode.INVALID_TXN_STATE,
    Outcome.OFFSET_MISMATCH: ErrorCode.UNKNOWN_SERVER_ERROR,  # no condition is set here
    Outcome.UNKNOWN_PARTITION: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    Outcome.FULL: ErrorCode.KAFKA_STORAGE_ERROR,
    Outcome.FAILED: ErrorCode.KAFKA_STORAGE_ERROR,
}

PartitionResponse = ProduceResponse.PartitionProduceResponse


class _Pending:
    """A produce request on its way: counts the partitions without an outcome and answers after the last."""

    __slots__ = ("request", "response", "waiting")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.response = ProduceResponse(responses=[], throttle_time_ms=0)
        self.waiting = 1  # the handler itself, until it has begun all partitions

    def done(self) -> None:
        self.waiting -= 1
        if self.waiting:
            return
        body: ProduceRequest = self.request.body  # type: ignore[assignment]
        if body.acks != 0:
            self.request.reply(self.response)
            return
        self.request.reply(None)
        for topic in self.response.responses:
            for partition in topic.partition_responses:
                if partition.error_code:
                    # A client that asked for no answer learns of a failure by the closed connection, as from Kafka.
                    self.request.connection.close(f"produce with acks=0 failed: error {partition.error_code}")
                    return


def produce(context: Context, request: Request) -> Awaitable[None] | None:
    """Begins every partition's append. Returns an awaitable when some batch must be looked into first."""
    body: ProduceRequest = request.body  # type: ignore[assignment]
    pending = _Pending(request)
    slow: list[tuple[Topic, int, memoryview | None, PartitionResponse]] = []
    for wanted in _each_once(body.topic_data):
        answers: list[PartitionResponse] = []
        pending.response.responses.append(
            ProduceResponse.TopicProduceResponse(
                name=wanted.name, topic_id=wanted.topic_id, partition_responses=answers
            )
        )
        topic = (
            context.broker.topics.by_id(wanted.topic_id)
            if request.version >= 13
            else context.broker.topics.get(wanted.name)
        )
        for part in wanted.partition_data:
            answer = PartitionResponse(index=part.index, base_offset=-1, log_append_time_ms=-1, log_start_offset=-1)
            answers.append(answer)
            error = _refusal(request, body, topic, part.index)
            if error:
                answer.error_code = error
            elif request.version < 3 or needs_records(topic) or mentions_time(topic.settings, part.records):  # type: ignore[arg-type,union-attr]
                slow.append((topic, part.index, part.records, answer))  # type: ignore[arg-type]
            else:
                _append_as_it_is(context, pending, body, topic, part.index, part.records, answer)  # type: ignore[arg-type]
    if slow:
        return _produce_slowly(context, pending, body, slow)
    pending.done()
    return None


def _each_once(topics: Sequence[ProduceRequest.TopicProduceData]) -> Sequence[ProduceRequest.TopicProduceData]:
    """Each partition once, as in Kafka: of one that is named twice the last batch counts, and is answered."""
    doubled = len(topics) > 1 and len({(one.name, one.topic_id) for one in topics}) < len(topics)
    for one in topics:
        parts = one.partition_data
        doubled = doubled or (len(parts) > 1 and len({part.index for part in parts}) < len(parts))
    if not doubled:
        return topics
    found: dict[tuple[str, bytes], dict[int, ProduceRequest.PartitionProduceData]] = {}
    for one in topics:
        found.setdefault((one.name, one.topic_id), {}).update({part.index: part for part in one.partition_data})
    return [
        ProduceRequest.TopicProduceData(name=name, topic_id=topic_id, partition_data=list(parts.values()))
        for (name, topic_id), parts in found.items()
    ]


def _refusal(request: Request, body: ProduceRequest, topic: Topic | None, index: int) -> ErrorCode:
    if topic is None:
        return ErrorCode.UNKNOWN_TOPIC_ID if request.version >= 13 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if not 0 <= index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if body.acks not in (-1, 0, 1):
        return ErrorCode.INVALID_REQUIRED_ACKS
    if topic.internal:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    return ErrorCode.NONE


def _append_as_it_is(
    context: Context,
    pending: _Pending,
    body: ProduceRequest,
    topic: Topic,
    index: int,
    records: memoryview | None,
    answer: PartitionResponse,
) -> None:
    try:
        batch = prepare(topic, records, pending.request.version, int(time.time() * 1000))
    except RefusedBatch as refused:
        _refuse(answer, refused)
        return
    _append(context, pending, body, topic, index, [batch], answer)


async def _produce_slowly(
    context: Context,
    pending: _Pending,
    body: ProduceRequest,
    slow: list[tuple[Topic, int, memoryview | None, PartitionResponse]],
) -> None:
    try:
        for topic, index, records, answer in slow:
            try:
                batches = await _prepare_slowly(topic, records, pending.request.version)
            except RefusedBatch as refused:
                _refuse(answer, refused)
            else:
                _append(context, pending, body, topic, index, batches, answer)
    finally:
        pending.done()  # also when the connection has ended, for what the request holds is counted until then


async def _prepare_slowly(topic: Topic, records: memoryview | None, version: int) -> list[IncomingBatch]:
    """On the spot what is small, also decompressed; the rest in a thread. Raises RefusedBatch."""
    settings = topic.settings
    sort = version >= FIRST_BATCH_VERSION and records is not None
    sort = sort and (must_open(settings) or mentions_time(settings, records))
    convert = partial(prepare_records, topic, records, version, int(time.time() * 1000), sort=sort)
    if records is None or len(records) <= IN_LINE_BYTES_MAX:
        try:
            return convert(decoded_bytes_max=IN_LINE_DECODED_BYTES_MAX)
        except RefusedBatch as refused:
            if refused.code != ErrorCode.RECORD_LIST_TOO_LARGE:
                raise
    return await in_thread(partial(convert, decoded_bytes_max=decoded_bytes_max(topic)))


def _refuse(answer: PartitionResponse, refused: RefusedBatch) -> None:
    answer.error_code = refused.code
    answer.error_message = str(refused)
    answer.record_errors = [
        ProduceResponse.BatchIndexAndErrorMessage(batch_index=at, batch_index_error_message=text)
        for at, text in refused.records
    ]


def _append(
    context: Context,
    pending: _Pending,
    body: ProduceRequest,
    topic: Topic,
    index: int,
    batches: list[IncomingBatch],
    answer: PartitionResponse,
) -> None:
    """Appends one partition's batches (more than one only from an old message set) as one atomic append."""
    partition = topic.partitions[index]
    header: BatchHeader = batches[0].header
    if header.is_transactional:
        error = check_transactional_produce(context, body.transactional_id, header, partition, pending.request.version)
        if error:
            answer.error_code = error
            return
    entries = [Append(partition, batch.header, batch.batch) for batch in batches]
    found: Sorted | None = None
    if batches[0].records is not None:
        try:
            found = _sort(context, topic, partition, batches[0])
            entries = found.entries
        except CoreFailure as failure:
            _refuse(answer, refused_by_core(failure))
            return
    pending.waiting += 1
    tracer = context.broker.tracer

    def done(answers: list[Appended]) -> None:
        first = answers[0]
        answer.error_code = OUTCOME_CODES[first.outcome]
        if first.outcome is Outcome.DUPLICATE and first.base_offset < 0:
            answer.error_code = ErrorCode.DUPLICATE_SEQUENCE_NUMBER
        answer.base_offset = first.base_offset
        answer.log_start_offset = first.log_start
        if tracer.active and first.outcome is Outcome.APPENDED:
            for entry, appended in zip(entries[: len(batches)], answers, strict=False):
                if isinstance(entry, Append):
                    waits = () if found is None else found.waits
                    trace_stored(tracer, context.broker.topics, entry, appended, actor_of(pending.request), waits)
        if header.is_log_append_time and not answer.error_code:
            answer.log_append_time_ms = header.max_timestamp
        if found is not None:
            try:
                context.broker.intake.settle(found, first.outcome)
            except CoreFailure as failure:
                _refuse(answer, refused_by_core(failure))
        pending.done()

    context.broker.engine.append(entries, done)


def _sort(context: Context, topic: Topic, partition: int, batch: IncomingBatch) -> Sorted:
    """The batch, and what goes with it. Raises CoreFailure."""
    records = batch.records or ()
    intake = context.broker.intake
    now_ms = int(time.time() * 1000)
    return intake.sort(topic, partition, batch.header, batch.batch, records, now_ms, decoded_bytes_max(topic))
