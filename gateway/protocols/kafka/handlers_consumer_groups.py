"""KIP-848 groups: ConsumerGroupHeartbeat and ConsumerGroupDescribe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.consumer_group import ConsumerMemberView
from core.consumer_groups_heartbeat import HeartbeatRequest, HeartbeatResult
from core.errors import CoreFailure
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_groups import (
    GROUP_OPERATIONS,
    OPERATIONS_NOT_ASKED,
    Answer,
    client_of,
    code,
)
from gateway.protocols.kafka.messages import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

Beat = ConsumerGroupHeartbeatResponse
Described = ConsumerGroupDescribeResponse
_CLASSIC, _CONSUMER = 0, 1  # member types (KIP-1099)


async def consumer_group_heartbeat(context: Context, request: Request) -> Message:
    body: ConsumerGroupHeartbeatRequest = request.body  # type: ignore[assignment]
    owned = None
    if body.topic_partitions is not None:
        owned = {one.topic_id: set(one.partitions) for one in body.topic_partitions}
    asked = HeartbeatRequest(
        body.group_id,
        body.member_id,
        body.member_epoch,
        body.instance_id,
        body.rack_id,
        body.rebalance_timeout_ms,
        body.subscribed_topic_names,
        body.subscribed_topic_regex,
        body.server_assignor,
        owned,
        client_of(request),
        chooses_member_id=request.version >= 1,
    )
    answer = Answer[HeartbeatResult]()
    context.broker.groups.consumer_heartbeat(asked, answer.reply, context.now_ms())
    result = await answer.wait()
    if result.error is not None:
        return Beat(error_code=code(result.error), error_message=result.message or result.error.value)
    assignment = None
    if result.assignment is not None:
        assignment = Beat.Assignment(
            topic_partitions=[
                Beat.TopicPartitions(topic_id=topic_id, partitions=sorted(partitions))
                for topic_id, partitions in result.assignment.items()
            ]
        )
    return Beat(
        error_code=ErrorCode.NONE,
        error_message=None,
        member_id=result.member_id,
        member_epoch=result.epoch,
        heartbeat_interval_ms=result.interval_ms,
        assignment=assignment,
    )


async def consumer_group_describe(context: Context, request: Request) -> Message:
    body: ConsumerGroupDescribeRequest = request.body  # type: ignore[assignment]
    operations = GROUP_OPERATIONS if body.include_authorized_operations else OPERATIONS_NOT_ASKED
    return Described(groups=[_describe(context, group_id, operations) for group_id in body.group_ids])


def _describe(context: Context, group_id: str, operations: int) -> Described.DescribedGroup:
    try:
        if not group_id:
            return Described.DescribedGroup(group_id=group_id, error_code=ErrorCode.INVALID_GROUP_ID)
        view = context.broker.groups.describe_consumer(group_id)
    except CoreFailure as failure:
        return Described.DescribedGroup(
            group_id=group_id, error_code=code(failure.error), error_message=failure.message
        )
    return Described.DescribedGroup(
        error_code=ErrorCode.NONE,
        error_message=None,
        group_id=group_id,
        group_state=view.state,
        group_epoch=view.epoch,
        assignment_epoch=view.target_epoch,
        assignor_name=view.assignor,
        members=[_member(context, one) for one in view.members],
        authorized_operations=operations,
    )


def _member(context: Context, view: ConsumerMemberView) -> Described.Member:
    member = view.member
    return Described.Member(
        member_id=member.id,
        instance_id=member.instance_id,
        rack_id=member.rack,
        member_epoch=member.epoch,
        client_id=member.client.id,
        client_host=member.client.host,
        subscribed_topic_names=sorted(member.topics),
        subscribed_topic_regex=member.regex,
        assignment=_assignment(context, member.assigned),
        target_assignment=_assignment(context, view.target),
        member_type=_CONSUMER if member.classic is None else _CLASSIC,
    )


def _assignment(context: Context, partitions: Mapping[bytes, set[int] | dict[int, int]]) -> Described.Assignment:
    found = []
    for topic_id, indexes in partitions.items():
        topic = context.broker.topics.by_id(topic_id)
        if topic is not None:
            found.append(
                Described.TopicPartitions(topic_id=topic_id, topic_name=topic.name, partitions=sorted(indexes))
            )
    return Described.Assignment(topic_partitions=found)
