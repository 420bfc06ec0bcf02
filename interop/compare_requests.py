"""Group and offset requests with few words, for `compare_groups`."""

from __future__ import annotations

from collections.abc import Sequence

from core.group_subscription import build_subscription
from gateway.protocols.kafka.messages import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupHeartbeatRequest,
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)

NO_ID = bytes(16)
RANGE = (("range", build_subscription(1, ["t"], {})),)


def join(
    group: str,
    member: str = "",
    instance: str | None = None,
    protocols: Sequence[tuple[str, bytes]] = RANGE,
    protocol_type: str = "consumer",
    session_ms: int = 10_000,
) -> JoinGroupRequest:
    named = [JoinGroupRequest.JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols]
    return JoinGroupRequest(
        group_id=group,
        session_timeout_ms=session_ms,
        rebalance_timeout_ms=10_000,
        member_id=member,
        group_instance_id=instance,
        protocol_type=protocol_type,
        protocols=named,
    )


def sync(
    group: str,
    generation: int,
    member: str,
    assignments: Sequence[tuple[str, bytes]] = (),
    instance: str | None = None,
    protocol_type: str = "consumer",
    protocol: str = "range",
) -> SyncGroupRequest:
    return SyncGroupRequest(
        group_id=group,
        generation_id=generation,
        member_id=member,
        group_instance_id=instance,
        protocol_type=protocol_type,
        protocol_name=protocol,
        assignments=[
            SyncGroupRequest.SyncGroupRequestAssignment(member_id=name, assignment=data) for name, data in assignments
        ],
    )


def beat(group: str, generation: int, member: str, instance: str | None = None) -> HeartbeatRequest:
    return HeartbeatRequest(group_id=group, generation_id=generation, member_id=member, group_instance_id=instance)


def leave(group: str, *members: tuple[str, str | None]) -> LeaveGroupRequest:
    identities = [LeaveGroupRequest.MemberIdentity(member_id=m, group_instance_id=i) for m, i in members]
    return LeaveGroupRequest(group_id=group, member_id=members[0][0], members=identities)


def commit(
    group: str,
    offset: int = 5,
    member: str = "",
    generation: int = -1,
    instance: str | None = None,
    topic: str = "t",
    topic_id: bytes = NO_ID,
    metadata: str | None = "m",
) -> OffsetCommitRequest:
    """Partition 0, and partition 9, which does not exist."""
    partitions = [
        OffsetCommitRequest.OffsetCommitRequestPartition(
            partition_index=index, committed_offset=offset, committed_metadata=metadata
        )
        for index in (0, 9)
    ]
    one = OffsetCommitRequest.OffsetCommitRequestTopic(name=topic, topic_id=topic_id, partitions=partitions)
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member,
        group_instance_id=instance,
        topics=[one],
    )


def fetch(
    group: str,
    version: int,
    *,
    everything: bool = False,
    member: str | None = None,
    epoch: int = -1,
    topic: str = "t",
    topic_id: bytes = NO_ID,
) -> OffsetFetchRequest:
    indexes = [0, 1, 9]
    if version < 8:
        old = OffsetFetchRequest.OffsetFetchRequestTopic(name=topic, partition_indexes=indexes)
        return OffsetFetchRequest(group_id=group, topics=None if everything else [old])
    new = OffsetFetchRequest.OffsetFetchRequestTopics(name=topic, topic_id=topic_id, partition_indexes=indexes)
    wanted = OffsetFetchRequest.OffsetFetchRequestGroup(
        group_id=group, member_id=member, member_epoch=epoch, topics=None if everything else [new]
    )
    return OffsetFetchRequest(groups=[wanted])


def delete_offsets(group: str, *topics: str) -> OffsetDeleteRequest:
    partitions = [OffsetDeleteRequest.OffsetDeleteRequestPartition(partition_index=index) for index in (0, 9)]
    return OffsetDeleteRequest(
        group_id=group,
        topics=[OffsetDeleteRequest.OffsetDeleteRequestTopic(name=name, partitions=partitions) for name in topics],
    )


def describe(*groups: str, operations: bool = False) -> DescribeGroupsRequest:
    return DescribeGroupsRequest(groups=list(groups), include_authorized_operations=operations)


def describe_modern(*groups: str, operations: bool = False) -> ConsumerGroupDescribeRequest:
    return ConsumerGroupDescribeRequest(group_ids=list(groups), include_authorized_operations=operations)


def delete(*groups: str) -> DeleteGroupsRequest:
    return DeleteGroupsRequest(groups_names=list(groups))


def modern(
    group: str,
    member: str,
    epoch: int,
    *,
    instance: str | None = None,
    topics: list[str] | None = None,
    regex: str | None = None,
    assignor: str | None = None,
    owned: list[tuple[bytes, list[int]]] | None = None,
    rebalance_ms: int = -1,
    rack: str | None = None,
) -> ConsumerGroupHeartbeatRequest:
    places = None
    if owned is not None:
        places = [ConsumerGroupHeartbeatRequest.TopicPartitions(topic_id=t, partitions=p) for t, p in owned]
    return ConsumerGroupHeartbeatRequest(
        group_id=group,
        member_id=member,
        member_epoch=epoch,
        instance_id=instance,
        rack_id=rack,
        rebalance_timeout_ms=rebalance_ms,
        subscribed_topic_names=topics,
        subscribed_topic_regex=regex,
        server_assignor=assignor,
        topic_partitions=places,
    )
