"""Topics made, grown, deleted and cut: CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords.

Codes and words are those of Kafka 4.2's ReplicationControlManager and KafkaApis. There is one replica of everything: a
larger replication factor is accepted with a warning, since many tools ask for three, and the answer tells the truth. A
request whose time is over when it comes (`timeout_ms` of 0 or less) does nothing, as in Kafka; no other time is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from core.errors import CoreError, CoreFailure
from core.store.engine import DeleteBefore, Outcome, UnknownPartition, append
from core.topic_config import check_topic_config
from core.topics import INTERNAL_PREFIX, Topic, Topics
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_configs import Refusal, describe_topic
from gateway.protocols.kafka.messages import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

log = structlog.get_logger(__name__)

NO_ID = bytes(16)
DEFAULT = -1  # partitions or replication factor: the broker's
HIGH_WATERMARK = -1  # an offset of DeleteRecords: everything there is
REPLICATION_FACTOR = 1
METADATA_TOPIC = "__cluster_metadata"  # Kafka's own, which its tools ask about


# -- CreateTopics


async def create_topics(context: Context, request: Request) -> Message:
    body: CreateTopicsRequest = request.body  # type: ignore[assignment]
    if body.timeout_ms <= 0:
        late = ErrorCode.REQUEST_TIMED_OUT
        return CreateTopicsResponse(topics=[_not_created(topic.name, late, None) for topic in body.topics])
    doubled = {name for name, count in Counter(topic.name for topic in body.topics).items() if count > 1}
    results = [_not_created(name, ErrorCode.INVALID_REQUEST, "Duplicate topic name.") for name in sorted(doubled)]
    for wanted in body.topics:
        if wanted.name in doubled:
            continue
        results.append(await _create_topic(context, wanted, body.validate_only))
    return CreateTopicsResponse(topics=results)


async def _create_topic(
    context: Context, wanted: CreateTopicsRequest.CreatableTopic, validate_only: bool
) -> CreateTopicsResponse.CreatableTopicResult:
    topics = context.broker.topics
    try:
        if wanted.name == METADATA_TOPIC or wanted.name.startswith(INTERNAL_PREFIX):
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Creation of internal topic {wanted.name} is prohibited.")
        partitions = _partition_count(context, wanted)
        config = check_topic_config({one.name: one.value for one in wanted.configs}, topics.defaults)
        topic_id = NO_ID
        topics.check_new(wanted.name, partitions)
        check_collision(topics, wanted.name)
        if not validate_only:
            topic_id = (await topics.create(wanted.name, partitions, config)).id
    except Refusal as refusal:
        return _not_created(wanted.name, refusal.code, refusal.message)
    except CoreFailure as failure:
        return _not_created(wanted.name, CODES[failure.error], failure.message)
    if wanted.replication_factor > REPLICATION_FACTOR:
        log.warning(
            "replication factor not met: this broker keeps one copy",
            topic=wanted.name,
            replication_factor=wanted.replication_factor,
        )
    return CreateTopicsResponse.CreatableTopicResult(
        name=wanted.name,
        topic_id=topic_id,
        error_message=None,
        num_partitions=partitions,
        replication_factor=REPLICATION_FACTOR,
        configs=[
            CreateTopicsResponse.CreatableTopicConfigs(
                name=one.name,
                value=one.value,
                read_only=one.read_only,
                config_source=one.config_source,
                is_sensitive=one.is_sensitive,
            )
            for one in describe_topic(context, config)
        ],
    )


def check_collision(topics: Topics, name: str) -> None:
    """Raises CoreFailure(INVALID_TOPIC) where Kafka would not make a topic beside the one that is there."""
    other = topics.collision(name)
    if other is not None:
        raise CoreFailure(CoreError.INVALID_TOPIC, f"Topic '{name}' collides with existing topic: {other}")


def _not_created(name: str, code: int, message: str | None) -> CreateTopicsResponse.CreatableTopicResult:
    return CreateTopicsResponse.CreatableTopicResult(
        name=name, error_code=code, error_message=message, num_partitions=-1, replication_factor=-1, configs=[]
    )


def _partition_count(context: Context, wanted: CreateTopicsRequest.CreatableTopic) -> int:
    """How many partitions are asked for, by number or by a manual assignment. Raises Refusal."""
    if wanted.assignments:
        return _assigned_count(context, wanted)
    if wanted.replication_factor == 0 or wanted.replication_factor < DEFAULT:
        raise Refusal(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if wanted.num_partitions == DEFAULT:
        return context.broker.settings.num_partitions
    if wanted.num_partitions <= 0:
        raise Refusal(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    return wanted.num_partitions


def _assigned_count(context: Context, wanted: CreateTopicsRequest.CreatableTopic) -> int:
    for given, what in ((wanted.replication_factor, "replication factor"), (wanted.num_partitions, "numPartitions")):
        if given != DEFAULT:
            raise Refusal(
                ErrorCode.INVALID_REQUEST, f"A manual partition assignment was specified, but {what} was not set to -1."
            )
    seen: set[int] = set()
    for assignment in wanted.assignments:
        if assignment.partition_index in seen:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Found multiple manual partition assignments for partition {assignment.partition_index}",
            )
        seen.add(assignment.partition_index)
        _check_replicas(context, assignment.broker_ids)
    if seen != set(range(len(seen))):
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence"
        )
    return len(seen)


def _check_replicas(context: Context, broker_ids: Sequence[int]) -> None:
    if not broker_ids:
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The manual partition assignment includes an empty replica list."
        )
    for broker_id in broker_ids:
        if broker_id != context.node_id:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment includes broker {broker_id}, but no such broker is registered.",
            )
    if len(broker_ids) > 1:
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"The manual partition assignment includes the broker {context.node_id} more than once.",
        )


# -- CreatePartitions


async def create_partitions(context: Context, request: Request) -> Message:
    body: CreatePartitionsRequest = request.body  # type: ignore[assignment]
    if body.timeout_ms <= 0:
        late = ErrorCode.REQUEST_TIMED_OUT
        return CreatePartitionsResponse(results=[_grown(topic.name, late, None) for topic in body.topics])
    doubled = {name for name, count in Counter(topic.name for topic in body.topics).items() if count > 1}
    results = [_grown(name, ErrorCode.INVALID_REQUEST, "Duplicate topic name.") for name in sorted(doubled)]
    for wanted in body.topics:
        if wanted.name in doubled:
            continue
        try:
            _check_growth(context, wanted)
            if not body.validate_only:
                await context.broker.topics.add_partitions(wanted.name, wanted.count)
        except Refusal as refusal:
            results.append(_grown(wanted.name, refusal.code, refusal.message))
        except CoreFailure as failure:
            results.append(_grown(wanted.name, CODES[failure.error], failure.message))
        else:
            results.append(_grown(wanted.name, ErrorCode.NONE, None))
    return CreatePartitionsResponse(results=results)


def _grown(name: str, code: int, message: str | None) -> CreatePartitionsResponse.CreatePartitionsTopicResult:
    return CreatePartitionsResponse.CreatePartitionsTopicResult(name=name, error_code=code, error_message=message)


def _check_growth(context: Context, wanted: CreatePartitionsRequest.CreatePartitionsTopic) -> None:
    topics = context.broker.topics
    topic = topics.get(wanted.name)
    if topic is None or topic.internal:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None)
    count = len(topic.partitions)
    if wanted.count == count:
        raise Refusal(ErrorCode.INVALID_PARTITIONS, f"Topic already has {count} partition(s).")
    if wanted.count < count:
        raise Refusal(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {wanted.name} currently has {count} partition(s); {wanted.count} would not be an increase.",
        )
    topics.check_growth(topic, wanted.count)
    if wanted.assignments is not None:
        if len(wanted.assignments) != wanted.count - count:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Attempted to add {wanted.count - count} additional partition(s), "
                f"but only {len(wanted.assignments)} assignment(s) were specified.",
            )
        for assignment in wanted.assignments:
            _check_replicas(context, assignment.broker_ids)


# -- DeleteTopics


async def delete_topics(context: Context, request: Request) -> Message:
    body: DeleteTopicsRequest = request.body  # type: ignore[assignment]
    named: list[tuple[str | None, bytes]]
    if request.version < 6:
        named = [(name, NO_ID) for name in body.topic_names]
    else:
        named = [(topic.name, topic.topic_id) for topic in body.topics]
    if body.timeout_ms <= 0:
        late = ErrorCode.REQUEST_TIMED_OUT
        return DeleteTopicsResponse(responses=[_deleted(name, topic_id, late, None) for name, topic_id in named])
    valid = [(name, topic_id) for name, topic_id in named if (name is None) != (topic_id == NO_ID)]
    names, ids = Counter(name for name, _ in valid), Counter(topic_id for _, topic_id in valid)
    answered: set[tuple[str | None, bytes]] = set()
    responses = []
    for name, topic_id in named:
        if (name, topic_id) in answered:
            continue
        answered.add((name, topic_id))
        try:
            topic = _topic_to_delete(context, name, topic_id)
            if names[topic.name] + ids[topic.id] > 1:
                word = "name" if name is not None else "id"
                raise Refusal(ErrorCode.INVALID_REQUEST, f"Duplicate topic {word}.")
            await context.broker.topics.delete(topic.name)
        except Refusal as refusal:
            responses.append(_deleted(name, topic_id, refusal.code, refusal.message))
        except CoreFailure as failure:
            responses.append(_deleted(name, topic_id, CODES[failure.error], failure.message))
        else:
            responses.append(_deleted(topic.name, topic.id, ErrorCode.NONE, None))
    return DeleteTopicsResponse(responses=responses)


def _deleted(
    name: str | None, topic_id: bytes, code: int, message: str | None
) -> DeleteTopicsResponse.DeletableTopicResult:
    return DeleteTopicsResponse.DeletableTopicResult(
        name=name, topic_id=topic_id, error_code=code, error_message=message
    )


def _topic_to_delete(context: Context, name: str | None, topic_id: bytes) -> Topic:
    topics = context.broker.topics
    if name is None and topic_id == NO_ID:
        raise Refusal(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
    if name is not None and topic_id != NO_ID:
        raise Refusal(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
    topic = topics.by_id(topic_id) if name is None else topics.get(name)
    if topic is None and name is None:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
    if topic is None or topic.internal:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.")
    return topic


# -- DeleteRecords


async def delete_records(context: Context, request: Request) -> Message:
    body: DeleteRecordsRequest = request.body  # type: ignore[assignment]
    results = []
    for wanted in body.topics:
        topic = context.broker.topics.get(wanted.name)
        partitions = []
        for partition in wanted.partitions:
            code, low_watermark = await _delete_records(context, topic, partition.partition_index, partition.offset)
            partitions.append(
                DeleteRecordsResponse.DeleteRecordsPartitionResult(
                    partition_index=partition.partition_index, low_watermark=low_watermark, error_code=code
                )
            )
        results.append(DeleteRecordsResponse.DeleteRecordsTopicResult(name=wanted.name, partitions=partitions))
    return DeleteRecordsResponse(topics=results)


async def _delete_records(context: Context, topic: Topic | None, index: int, offset: int) -> tuple[ErrorCode, int]:
    """The error code and the partition's log start, -1 with an error."""
    if topic is None or not 0 <= index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1
    if topic.internal:
        return ErrorCode.INVALID_TOPIC_EXCEPTION, -1
    if topic.settings.policy.compact and not topic.settings.policy.delete:
        return ErrorCode.POLICY_VIOLATION, -1
    engine = context.broker.engine
    number = topic.partitions[index]
    try:
        high_watermark = engine.info(number).high_watermark
    except UnknownPartition:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1
    if offset == HIGH_WATERMARK:
        offset = high_watermark
    if not 0 <= offset <= high_watermark:
        return ErrorCode.OFFSET_OUT_OF_RANGE, -1
    [answer] = await append(engine, [DeleteBefore(number, offset)])
    if answer.outcome is Outcome.APPENDED:
        return ErrorCode.NONE, answer.log_start
    if answer.outcome is Outcome.UNKNOWN_PARTITION:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1
    if answer.outcome is Outcome.OFFSET_MISMATCH:
        return ErrorCode.OFFSET_OUT_OF_RANGE, -1
    return ErrorCode.KAFKA_STORAGE_ERROR, -1
