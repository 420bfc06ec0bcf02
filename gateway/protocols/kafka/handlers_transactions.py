"""Producers and transactions on Kafka's wire (KIP-98, KIP-360, KIP-447, KIP-890, KIP-664).

A transactional batch or offset is checked against its transaction before it is taken. Clients that speak Produce 12 or
TxnOffsetCommit 5 add partitions and groups by using them; older ones name them first. Older versions of a request get
the codes that they know.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from core.errors import CoreError
from core.store.engine import UnknownPartition
from core.transaction_types import InitResult, Producer, Transaction, TxnState
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_groups import Answer
from gateway.protocols.kafka.handlers_offsets import txn_offsets
from gateway.protocols.kafka.messages import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    DescribeProducersRequest,
    DescribeProducersResponse,
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    EndTxnRequest,
    EndTxnResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ListTransactionsRequest,
    ListTransactionsResponse,
    Message,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)
from trivium.record_batch import BatchHeader

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

PRODUCE_WITH_IMPLICIT_ADD = 12
PRODUCE_WITH_ABORTABLE_ERROR = 11
TXN_OFFSET_COMMIT_WITH_IMPLICIT_ADD = 5
TXN_OFFSET_COMMIT_WITH_ABORTABLE_ERROR = 4
END_TXN_WITH_BUMP = 5
PATTERN_CHARS_MAX = 1_000
KAFKA_STATES = frozenset(
    {
        "Empty",
        "Ongoing",
        "PrepareCommit",
        "PrepareAbort",
        "CompleteCommit",
        "CompleteAbort",
        "Dead",
        "PrepareEpochFence",
    }
)


def _code(error: CoreError | None, version: int, fenced_since: int) -> ErrorCode:
    """`fenced_since`: the first version that knows PRODUCER_FENCED."""
    if error is None:
        return ErrorCode.NONE
    if error in (CoreError.STORE_FULL, CoreError.STORE_FAILED):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE  # as Kafka when its transaction log cannot be written: ask again
    if error is CoreError.PRODUCER_FENCED and version < fenced_since:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return CODES[error]


async def init_producer_id(context: Context, request: Request) -> Message:
    body: InitProducerIdRequest = request.body  # type: ignore[assignment]
    expected = Producer(body.producer_id, body.producer_epoch) if body.producer_id >= 0 else None
    if body.transactional_id == "" or (body.producer_id >= 0) != (body.producer_epoch >= 0):
        return _not_initialized(ErrorCode.INVALID_REQUEST)
    answer = Answer[InitResult]()
    context.broker.transactions.init_producer(
        body.transactional_id, body.transaction_timeout_ms, expected, context.now_ms(), answer.reply
    )
    error, producer = await answer.wait()
    if error is not None:
        return _not_initialized(_code(error, request.version, 4))
    return InitProducerIdResponse(producer_id=producer.id, producer_epoch=producer.epoch)


def _not_initialized(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)


async def add_partitions_to_txn(context: Context, request: Request) -> Message:
    body: AddPartitionsToTxnRequest = request.body  # type: ignore[assignment]
    wanted: list[int] = []
    unknown: set[tuple[str, int]] = set()
    for named in body.v3_and_below_topics:
        topic = context.broker.topics.get(named.name)
        for index in named.partitions:
            if topic is None or topic.internal or not 0 <= index < len(topic.partitions):
                unknown.add((named.name, index))
            else:
                wanted.append(topic.partitions[index])
    code = ErrorCode.OPERATION_NOT_ATTEMPTED  # one that is not there refuses all
    if not body.v3_and_below_transactional_id:
        code = ErrorCode.INVALID_REQUEST
    elif not unknown:
        answer = Answer[CoreError | None]()
        producer = Producer(body.v3_and_below_producer_id, body.v3_and_below_producer_epoch)
        context.broker.transactions.add(
            body.v3_and_below_transactional_id, producer, wanted, (), context.now_ms(), answer.reply
        )
        code = _code(await answer.wait(), request.version, 2)
    return AddPartitionsToTxnResponse(
        results_by_topic_v3_and_below=[
            AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult(
                name=named.name,
                results_by_partition=[
                    AddPartitionsToTxnResponse.AddPartitionsToTxnPartitionResult(
                        partition_index=index,
                        partition_error_code=(
                            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if (named.name, index) in unknown else code
                        ),
                    )
                    for index in named.partitions
                ],
            )
            for named in body.v3_and_below_topics
        ]
    )


async def add_offsets_to_txn(context: Context, request: Request) -> Message:
    body: AddOffsetsToTxnRequest = request.body  # type: ignore[assignment]
    if not body.transactional_id:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    if not body.group_id:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    answer = Answer[CoreError | None]()
    producer = Producer(body.producer_id, body.producer_epoch)
    context.broker.transactions.add(
        body.transactional_id, producer, (), (body.group_id,), context.now_ms(), answer.reply
    )
    return AddOffsetsToTxnResponse(error_code=_code(await answer.wait(), request.version, 2))


async def end_txn(context: Context, request: Request) -> Message:
    body: EndTxnRequest = request.body  # type: ignore[assignment]
    if not body.transactional_id:
        return EndTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    answer = Answer[InitResult]()
    producer = Producer(body.producer_id, body.producer_epoch)
    bump = request.version >= END_TXN_WITH_BUMP
    context.broker.transactions.end(body.transactional_id, producer, body.committed, bump, answer.reply)
    error, following = await answer.wait()
    if error is not None:
        return EndTxnResponse(error_code=_code(error, request.version, 2))
    return EndTxnResponse(producer_id=following.id, producer_epoch=following.epoch)


async def txn_offset_commit(context: Context, request: Request) -> Message:
    body: TxnOffsetCommitRequest = request.body  # type: ignore[assignment]
    transactions = context.broker.transactions
    producer = Producer(body.producer_id, body.producer_epoch)
    if not body.group_id:
        code = ErrorCode.INVALID_GROUP_ID
    elif request.version >= TXN_OFFSET_COMMIT_WITH_IMPLICIT_ADD:
        error = transactions.ensure_group(body.transactional_id, producer, body.group_id, context.now_ms())
        code = _checked(error, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    else:
        error = transactions.check_group(body.transactional_id, producer, body.group_id)
        code = _checked(error, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if error is CoreError.NOT_IN_TRANSACTION and request.version >= TXN_OFFSET_COMMIT_WITH_ABORTABLE_ERROR:
            code = ErrorCode.TRANSACTION_ABORTABLE
    if code is ErrorCode.NONE:
        return await txn_offsets(context, request)
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    TxnOffsetCommitResponse.TxnOffsetCommitResponsePartition(
                        partition_index=partition.partition_index, error_code=code
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in body.topics
        ]
    )


def check_transactional_produce(
    context: Context, transactional_id: str | None, header: BatchHeader, partition: int, version: int
) -> ErrorCode:
    """Whether a transactional batch may be appended to the engine's `partition`. The append must follow at once."""
    if not transactional_id:
        return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    transactions = context.broker.transactions
    producer = Producer(header.producer_id, header.producer_epoch)
    if version >= PRODUCE_WITH_IMPLICIT_ADD:
        if header.base_sequence > 0 and _begins_late(context, transactional_id, producer, partition):
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        error = transactions.ensure_partition(transactional_id, producer, partition, context.now_ms())
        return _checked(error, ErrorCode.CONCURRENT_TRANSACTIONS)
    error = transactions.check_partition(transactional_id, producer, partition)
    if error is CoreError.NOT_IN_TRANSACTION and version >= PRODUCE_WITH_ABORTABLE_ERROR:
        return ErrorCode.TRANSACTION_ABORTABLE
    # Older producers retry this one without asking for metadata.
    return _checked(error, ErrorCode.NOT_ENOUGH_REPLICAS)


def _begins_late(context: Context, transactional_id: str, producer: Producer, partition: int) -> bool:
    """Whether a batch with a later sequence would be the producer's first in the partition: the one before was lost."""
    error = context.broker.transactions.check_partition(transactional_id, producer, partition)
    if error is not CoreError.NOT_IN_TRANSACTION:
        return False
    try:
        known = context.broker.engine.producers(partition)
    except UnknownPartition:
        return False
    return all(one.producer_id != producer.id for one in known)


def _checked(error: CoreError | None, while_pending: ErrorCode) -> ErrorCode:
    """Codes of Produce and TxnOffsetCommit: these know a fenced producer by its epoch alone.

    `while_pending` is what the client retries while an end of the transaction is on its way.
    """
    if error is CoreError.PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    if error is CoreError.CONCURRENT_TRANSACTIONS:
        return while_pending
    return ErrorCode.NONE if error is None else CODES[error]


# -- what tools ask


async def describe_producers(context: Context, request: Request) -> Message:
    body: DescribeProducersRequest = request.body  # type: ignore[assignment]
    topics = []
    for named in body.topics:
        topic = context.broker.topics.get(named.name)
        partitions = []
        for index in named.partition_indexes:
            if topic is None or not 0 <= index < len(topic.partitions):
                partitions.append(_unknown_partition(index))
            else:
                partitions.append(_producers(context, topic.partitions[index], index))
        topics.append(DescribeProducersResponse.TopicResponse(name=named.name, partitions=partitions))
    return DescribeProducersResponse(topics=topics)


def _unknown_partition(index: int) -> DescribeProducersResponse.PartitionResponse:
    return DescribeProducersResponse.PartitionResponse(
        partition_index=index,
        error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        error_message="This server does not host this topic-partition.",
    )


def _producers(context: Context, partition: int, index: int) -> DescribeProducersResponse.PartitionResponse:
    try:
        found = context.broker.engine.producers(partition)
    except UnknownPartition:
        return _unknown_partition(index)
    return DescribeProducersResponse.PartitionResponse(
        partition_index=index,
        error_message=None,
        active_producers=[
            DescribeProducersResponse.ProducerState(
                producer_id=producer.producer_id,
                producer_epoch=producer.producer_epoch,
                last_sequence=producer.last_sequence,
                last_timestamp=producer.last_timestamp_ms,
                coordinator_epoch=producer.coordinator_epoch,
                current_txn_start_offset=producer.txn_start_offset,
            )
            for producer in found
        ],
    )


async def describe_transactions(context: Context, request: Request) -> Message:
    body: DescribeTransactionsRequest = request.body  # type: ignore[assignment]
    states = []
    for transactional_id in body.transactional_ids:
        txn = context.broker.transactions.get(transactional_id)
        if txn is None:
            code = ErrorCode.TRANSACTIONAL_ID_NOT_FOUND if transactional_id else ErrorCode.INVALID_REQUEST
            states.append(
                DescribeTransactionsResponse.TransactionState(error_code=code, transactional_id=transactional_id)
            )
        else:
            states.append(_described(context, txn))
    return DescribeTransactionsResponse(transaction_states=states)


def _described(context: Context, txn: Transaction) -> DescribeTransactionsResponse.TransactionState:
    by_topic: dict[str, list[int]] = {}
    for partition in sorted(txn.partitions):
        owner = context.broker.topics.owner(partition)
        if owner is not None:
            by_topic.setdefault(owner[0].name, []).append(owner[1])
    return DescribeTransactionsResponse.TransactionState(
        transactional_id=txn.id,
        transaction_state=txn.state.value,
        transaction_timeout_ms=txn.timeout_ms,
        transaction_start_time_ms=txn.start_wall_ms,
        producer_id=txn.producer_id,
        producer_epoch=txn.epoch,
        topics=[
            DescribeTransactionsResponse.TopicData(topic=name, partitions=partitions)
            for name, partitions in by_topic.items()
        ],
    )


async def list_transactions(context: Context, request: Request) -> Message:
    body: ListTransactionsRequest = request.body  # type: ignore[assignment]
    pattern = None
    if body.transactional_id_pattern:
        try:
            if len(body.transactional_id_pattern) > PATTERN_CHARS_MAX:
                raise ValueError
            pattern = re.compile(body.transactional_id_pattern)
        except (re.error, ValueError):
            return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    states, ids = set(body.state_filters), set(body.producer_id_filters)
    wall_ms = context.wall_ms()
    found = []
    for txn in context.broker.transactions.all():
        if txn.producer_id < 0 or (ids and txn.producer_id not in ids) or (states and txn.state.value not in states):
            continue
        if body.duration_filter >= 0:
            is_open = txn.state is TxnState.ONGOING
            if not is_open or wall_ms - txn.start_wall_ms <= body.duration_filter:
                continue
        if pattern is not None and not pattern.fullmatch(txn.id):
            continue
        found.append(
            ListTransactionsResponse.TransactionState(
                transactional_id=txn.id, producer_id=txn.producer_id, transaction_state=txn.state.value
            )
        )
    return ListTransactionsResponse(
        unknown_state_filters=[state for state in body.state_filters if state not in KAFKA_STATES],
        transaction_states=found,
    )
