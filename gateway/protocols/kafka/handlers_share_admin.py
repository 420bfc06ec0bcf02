"""Share groups (KIP-932) as administrators see them: ShareGroupDescribe and the offsets of share groups."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from core.errors import CoreError, CoreFailure
from core.share_groups import ShareMember
from core.share_sessions import Place
from core.store.engine import UnknownPartition
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_groups import GROUP_OPERATIONS, OPERATIONS_NOT_ASKED, code
from gateway.protocols.kafka.messages import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsResponse,
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse,
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsResponse,
    Message,
    ShareGroupDescribeRequest,
    ShareGroupDescribeResponse,
)

if TYPE_CHECKING:
    from core.queue_partition import QueuePartition
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

Described = ShareGroupDescribeResponse
Offsets = DescribeShareGroupOffsetsResponse
ASSIGNOR = "simple"
NO_ID: Final = bytes(16)
NO_OFFSET: Final = -1


async def share_group_describe(context: Context, request: Request) -> Message:
    body: ShareGroupDescribeRequest = request.body  # type: ignore[assignment]
    operations = GROUP_OPERATIONS if body.include_authorized_operations else OPERATIONS_NOT_ASKED
    return Described(groups=[_describe(context, group_id, operations) for group_id in body.group_ids])


def _describe(context: Context, group_id: str, operations: int) -> Described.DescribedGroup:
    group = context.broker.share_groups.find(group_id)
    if group is None:
        error = ErrorCode.GROUP_ID_NOT_FOUND if group_id else ErrorCode.INVALID_GROUP_ID
        return Described.DescribedGroup(group_id=group_id, error_code=error, error_message=_no_group(group_id))
    return Described.DescribedGroup(
        error_code=ErrorCode.NONE,
        error_message=None,
        group_id=group_id,
        group_state=group.state,
        group_epoch=group.epoch,
        assignment_epoch=group.epoch,
        assignor_name=ASSIGNOR,
        members=[_member(context, member) for member in group.members.values()],
        authorized_operations=operations,
    )


def _no_group(group_id: str) -> str:
    return f"Group {group_id} not found."


def _member(context: Context, member: ShareMember) -> Described.Member:
    told = [
        Described.TopicPartitions(topic_id=topic_id, topic_name=topic.name, partitions=partitions)
        for topic_id, partitions in member.told.items()
        if (topic := context.broker.topics.by_id(topic_id)) is not None
    ]
    return Described.Member(
        member_id=member.id,
        rack_id=member.rack,
        member_epoch=member.epoch,
        client_id=member.client,
        client_host=member.host,
        subscribed_topic_names=sorted(member.topics),
        assignment=Described.Assignment(topic_partitions=told),
    )


# -- offsets


async def describe_share_group_offsets(context: Context, request: Request) -> Message:
    body: DescribeShareGroupOffsetsRequest = request.body  # type: ignore[assignment]
    return Offsets(groups=[_offsets(context, group) for group in body.groups])


def _offsets(
    context: Context, asked: DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup
) -> Offsets.DescribeShareGroupOffsetsResponseGroup:
    """As in Kafka, a group or partition that is not known is no error: it has no offset."""
    try:
        queues = context.broker.share_groups.queue_group(asked.group_id).queues
    except CoreFailure:
        queues = {}
    if asked.topics is None:
        places = sorted(place for place, queue in queues.items() if _is_read(context, place[0], queue))
    else:
        places = [(one.topic_name, index) for one in asked.topics for index in one.partitions]
    topics: dict[str, Offsets.DescribeShareGroupOffsetsResponseTopic] = {}
    for name, index in places:
        if name not in topics:
            topic = context.broker.topics.get(name)
            topic_id = NO_ID if topic is None else topic.id
            topics[name] = Offsets.DescribeShareGroupOffsetsResponseTopic(topic_name=name, topic_id=topic_id)
        topics[name].partitions.append(_offset(context, index, queues.get((name, index))))
    return Offsets.DescribeShareGroupOffsetsResponseGroup(
        group_id=asked.group_id, topics=list(topics.values()), error_code=ErrorCode.NONE, error_message=None
    )


def _is_read(context: Context, topic: str, queue: QueuePartition) -> bool:
    return context.broker.topics.get(topic) is not None and not queue.is_retry_only


def _offset(
    context: Context, index: int, queue: QueuePartition | None
) -> Offsets.DescribeShareGroupOffsetsResponsePartition:
    answer = Offsets.DescribeShareGroupOffsetsResponsePartition(
        partition_index=index, start_offset=NO_OFFSET, error_code=ErrorCode.NONE, error_message=None
    )
    if queue is not None:
        with contextlib.suppress(UnknownPartition):
            high_watermark = context.broker.engine.info(queue.partition).high_watermark
            answer.start_offset = queue.floor
            answer.leader_epoch = context.broker.engine.epoch
            answer.lag = max(high_watermark - queue.floor, 0)
    return answer


async def alter_share_group_offsets(context: Context, request: Request) -> Message:
    body: AlterShareGroupOffsetsRequest = request.body  # type: ignore[assignment]
    response = AlterShareGroupOffsetsResponse(error_code=ErrorCode.NONE, error_message=None)
    offsets: dict[Place, int] = {}
    for named in body.topics:
        topic = context.broker.topics.get(named.topic_name)
        parts = []
        for part in named.partitions:
            known = topic is not None and 0 <= part.partition_index < len(topic.partitions)
            error = ErrorCode.NONE if known else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            if known:
                offsets[named.topic_name, part.partition_index] = part.start_offset
            parts.append(
                AlterShareGroupOffsetsResponse.AlterShareGroupOffsetsResponsePartition(
                    partition_index=part.partition_index, error_code=error, error_message=None
                )
            )
        response.responses.append(
            AlterShareGroupOffsetsResponse.AlterShareGroupOffsetsResponseTopic(
                topic_name=named.topic_name, topic_id=NO_ID if topic is None else topic.id, partitions=parts
            )
        )
    try:
        if offsets:
            await context.broker.share_groups.reset(body.group_id, offsets)
    except CoreFailure as failure:
        return AlterShareGroupOffsetsResponse(error_code=code(failure.error), error_message=failure.message)
    return response


async def delete_share_group_offsets(context: Context, request: Request) -> Message:
    body: DeleteShareGroupOffsetsRequest = request.body  # type: ignore[assignment]
    response = DeleteShareGroupOffsetsResponse(error_code=ErrorCode.NONE, error_message=None)
    names = {one.topic_name for one in body.topics}
    try:
        read = await context.broker.share_groups.forget_topics(body.group_id, names)
    except CoreFailure as failure:
        message = _no_group(body.group_id) if failure.error is CoreError.GROUP_NOT_FOUND else failure.message
        return DeleteShareGroupOffsetsResponse(error_code=code(failure.error), error_message=message)
    for name in sorted(names):
        topic = context.broker.topics.get(name)
        error = ErrorCode.NONE if topic is not None and name in read else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        response.responses.append(
            DeleteShareGroupOffsetsResponse.DeleteShareGroupOffsetsResponseTopic(
                topic_name=name,
                topic_id=NO_ID if topic is None else topic.id,
                error_code=error,
                error_message=None if error == ErrorCode.NONE else "This server does not host this topic-partition.",
            )
        )
    return response
