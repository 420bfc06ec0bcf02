"""Metadata: which topics there are and who leads their partitions (always this broker). Missing topics are made
where Kafka makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.errors import CoreError, CoreFailure
from core.topics import INTERNAL_PREFIX, Topic, check_name
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_admin import check_collision
from gateway.protocols.kafka.handlers_cluster import CLUSTER_OPERATIONS, NOT_ASKED, TOPIC_OPERATIONS
from gateway.protocols.kafka.messages import Message, MetadataRequest, MetadataResponse

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

NO_ID = bytes(16)
FIRST_ID_VERSION = 12  # in which topics can be asked for by id; 10 and 11 have the field, and Kafka refuses to look


async def metadata(context: Context, request: Request) -> Message:
    body: MetadataRequest = request.body  # type: ignore[assignment]
    if body.topics is None or (request.version == 0 and not body.topics):
        topics = [_describe(context, topic) for topic in context.broker.topics.all() if not topic.internal]
    elif request.version < FIRST_ID_VERSION and any(
        wanted.name is None or wanted.topic_id != NO_ID for wanted in body.topics
    ):
        return _refused(body.topics)
    else:
        asked = {(wanted.name, wanted.topic_id): wanted for wanted in body.topics}
        topics = [await _wanted(context, body, wanted) for wanted in asked.values()]
    if body.include_topic_authorized_operations:
        for topic in topics:
            topic.topic_authorized_operations = TOPIC_OPERATIONS
    broker = MetadataResponse.MetadataResponseBroker(
        node_id=context.node_id, host=context.host, port=context.port, rack=None
    )
    return MetadataResponse(
        brokers=[broker],
        cluster_id=context.broker.topics.cluster_id,
        controller_id=context.node_id,
        topics=topics,
        cluster_authorized_operations=CLUSTER_OPERATIONS if body.include_cluster_authorized_operations else NOT_ASKED,
    )


def _refused(wanted: Sequence[MetadataRequest.MetadataRequestTopic]) -> Message:
    """The answer to a request that cannot be met: it says nothing of the cluster."""
    topics = [_failed(ErrorCode.INVALID_REQUEST, one.name or "", one.topic_id) for one in wanted]
    return MetadataResponse(brokers=[], topics=topics)


async def _wanted(
    context: Context, body: MetadataRequest, wanted: MetadataRequest.MetadataRequestTopic
) -> MetadataResponse.MetadataResponseTopic:
    topics = context.broker.topics
    if wanted.name is None or wanted.topic_id != NO_ID:
        topic = topics.by_id(wanted.topic_id)
        if topic is None:
            return _failed(ErrorCode.UNKNOWN_TOPIC_ID, None, wanted.topic_id)
        return _describe(context, topic)
    topic = topics.get(wanted.name)
    if topic is None:
        may_create = body.allow_auto_topic_creation  # True is what versions without the field stand for
        try:
            check_name(wanted.name)
            if not (may_create and context.broker.settings.auto_create_topics) or wanted.name.startswith(
                INTERNAL_PREFIX
            ):
                raise CoreFailure(CoreError.UNKNOWN_TOPIC)
            check_collision(topics, wanted.name)
            topic = await topics.ensure(wanted.name, context.broker.settings.num_partitions)
        except CoreFailure as failure:
            return _failed(CODES[failure.error], wanted.name, NO_ID)
    return _describe(context, topic)


def _failed(error: ErrorCode, name: str | None, topic_id: bytes) -> MetadataResponse.MetadataResponseTopic:
    return MetadataResponse.MetadataResponseTopic(
        error_code=error, name=name, topic_id=topic_id, partitions=[], topic_authorized_operations=NOT_ASKED
    )


def _describe(context: Context, topic: Topic) -> MetadataResponse.MetadataResponseTopic:
    node_id = context.node_id
    epoch = context.broker.engine.epoch
    return MetadataResponse.MetadataResponseTopic(
        error_code=0,
        name=topic.name,
        topic_id=topic.id,
        is_internal=topic.internal,
        partitions=[
            MetadataResponse.MetadataResponsePartition(
                error_code=0,
                partition_index=index,
                leader_id=node_id,
                leader_epoch=epoch,
                replica_nodes=[node_id],
                isr_nodes=[node_id],
                offline_replicas=[],
            )
            for index in range(len(topic.partitions))
        ],
        topic_authorized_operations=NOT_ASKED,
    )
