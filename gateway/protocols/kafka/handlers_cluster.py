"""What tools ask about the cluster: one broker that is its own controller, quorum and only replica.

DescribeCluster, DescribeTopicPartitions (KIP-966), DescribeLogDirs, ElectLeaders, ListPartitionReassignments,
DescribeQuorum, UpdateFeatures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.errors import CoreFailure
from core.store.engine import UnknownPartition
from core.topics import Topic, check_name
from gateway.protocols.kafka.api_versions import FEATURES
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_admin import METADATA_TOPIC
from gateway.protocols.kafka.messages import (
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    ElectLeadersRequest,
    ElectLeadersResponse,
    ListPartitionReassignmentsResponse,
    Message,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

NO_ID = bytes(16)
NOT_ASKED = -2147483648  # authorized operations
CLUSTER_OPERATIONS = 8096  # every operation on a cluster, as bits of Kafka's AclOperation
TOPIC_OPERATIONS = 3576
PARTITIONS_PER_ANSWER_MAX = 2_000
BROKER_ENDPOINT, CONTROLLER_ENDPOINT = 1, 2
PREFERRED_ELECTION, UNCLEAN_ELECTION = 0, 1
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


async def describe_cluster(context: Context, request: Request) -> Message:
    body: DescribeClusterRequest = request.body  # type: ignore[assignment]
    if body.endpoint_type != BROKER_ENDPOINT:
        code = ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        message = f"Unsupported endpoint type {body.endpoint_type}"
        if body.endpoint_type == CONTROLLER_ENDPOINT:
            code = ErrorCode.MISMATCHED_ENDPOINT_TYPE
            message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
        return DescribeClusterResponse(error_code=code, error_message=message)
    broker = DescribeClusterResponse.DescribeClusterBroker(
        broker_id=context.node_id, host=context.host, port=context.port, rack=None, is_fenced=False
    )
    return DescribeClusterResponse(
        error_message=None,
        endpoint_type=BROKER_ENDPOINT,
        cluster_id=context.broker.topics.cluster_id,
        controller_id=context.node_id,
        brokers=[broker],
        cluster_authorized_operations=CLUSTER_OPERATIONS if body.include_cluster_authorized_operations else NOT_ASKED,
    )


# -- DescribeTopicPartitions


async def describe_topic_partitions(context: Context, request: Request) -> Message:
    """Topics in order of their names, cut at the limit of partitions, with a cursor to the next partition."""
    body: DescribeTopicPartitionsRequest = request.body  # type: ignore[assignment]
    first_name, first_partition = "", 0
    if body.cursor is not None:
        first_name, first_partition = body.cursor.topic_name, body.cursor.partition_index
        if first_partition < 0:
            return _invalid_cursor(body)
    known = context.broker.topics.all()
    wanted = {topic.name for topic in body.topics} or {topic.name for topic in known if not topic.internal}
    names = sorted(name for name in wanted if name >= first_name)
    if body.cursor is not None and body.topics and not names:
        return _invalid_cursor(body)
    room = max(1, min(body.response_partition_limit, PARTITIONS_PER_ANSWER_MAX))
    response = DescribeTopicPartitionsResponse()
    for name in names:
        topic = context.broker.topics.get(name)
        if topic is None:
            response.topics.append(_missing(name))
            continue
        start = first_partition if name == first_name else 0
        if room == 0:
            response.next_cursor = DescribeTopicPartitionsResponse.Cursor(topic_name=name, partition_index=start)
            break
        end = min(len(topic.partitions), start + room)
        response.topics.append(_described(context, topic, range(start, end)))
        room -= max(0, end - start)
        if end < len(topic.partitions):
            response.next_cursor = DescribeTopicPartitionsResponse.Cursor(topic_name=name, partition_index=end)
            break
    return response


def _invalid_cursor(body: DescribeTopicPartitionsRequest) -> Message:
    return DescribeTopicPartitionsResponse(
        topics=[
            DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic(
                error_code=ErrorCode.INVALID_REQUEST, name=topic.name, topic_authorized_operations=NOT_ASKED
            )
            for topic in body.topics
        ]
    )


def _missing(name: str) -> DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic:
    code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    try:
        check_name(name)
    except CoreFailure as failure:
        code = CODES[failure.error]
    return DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic(
        error_code=code, name=name, topic_authorized_operations=TOPIC_OPERATIONS
    )


def _described(
    context: Context, topic: Topic, indexes: Iterable[int]
) -> DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic:
    replicas = [context.node_id]
    return DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic(
        name=topic.name,
        topic_id=topic.id,
        is_internal=topic.internal,
        partitions=[
            DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponsePartition(
                partition_index=index,
                leader_id=context.node_id,
                leader_epoch=context.broker.engine.epoch,
                replica_nodes=replicas,
                isr_nodes=replicas,
                eligible_leader_replicas=[],
                last_known_elr=[],
                offline_replicas=[],
            )
            for index in indexes
        ],
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


# -- DescribeLogDirs


async def describe_log_dirs(context: Context, request: Request) -> Message:
    """One directory with everything; sizes are what the partitions' batches take."""
    body: DescribeLogDirsRequest = request.body  # type: ignore[assignment]
    topics = context.broker.topics
    found: list[tuple[Topic, Iterable[int]]] = []
    if body.topics is None:
        found = [(topic, range(len(topic.partitions))) for topic in topics.all() if not topic.internal]
    else:
        for wanted in body.topics:
            topic = topics.get(wanted.topic)
            if topic is not None:
                found.append((topic, [index for index in wanted.partitions if 0 <= index < len(topic.partitions)]))
    row = context.broker_configs.get("log.dirs")
    path = "" if row is None or row.value is None else row.value
    total_bytes = usable_bytes = -1
    try:
        disk = os.statvfs(path)
        total_bytes, usable_bytes = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    except OSError:
        pass  # -1 says that the sizes are not known
    result = DescribeLogDirsResponse.DescribeLogDirsResult(
        log_dir=path, topics=_log_dir_topics(context, found), total_bytes=total_bytes, usable_bytes=usable_bytes
    )
    return DescribeLogDirsResponse(results=[result])


def _log_dir_topics(
    context: Context, found: list[tuple[Topic, Iterable[int]]]
) -> list[DescribeLogDirsResponse.DescribeLogDirsTopic]:
    result = []
    for topic, indexes in found:
        partitions = []
        for index in indexes:
            try:
                size_bytes = context.broker.engine.info(topic.partitions[index]).size_bytes
            except UnknownPartition:
                continue
            partitions.append(
                DescribeLogDirsResponse.DescribeLogDirsPartition(
                    partition_index=index, partition_size=size_bytes, offset_lag=0, is_future_key=False
                )
            )
        if partitions:
            result.append(DescribeLogDirsResponse.DescribeLogDirsTopic(name=topic.name, partitions=partitions))
    return result


# -- ElectLeaders


async def elect_leaders(context: Context, request: Request) -> Message:
    """There is one replica and it leads: no election is ever needed."""
    body: ElectLeadersRequest = request.body  # type: ignore[assignment]
    topics = context.broker.topics
    if body.topic_partitions is None:
        results = [
            ElectLeadersResponse.ReplicaElectionResult(topic=topic.name, partition_result=[])
            for topic in topics.all()
            if not topic.internal
        ]
        return ElectLeadersResponse(replica_election_results=results)
    is_known = body.election_type in (PREFERRED_ELECTION, UNCLEAN_ELECTION)
    results = []
    for wanted in body.topic_partitions:
        topic = topics.get(wanted.topic)
        partitions = []
        for index in wanted.partitions:
            code, message = ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition."
            if not is_known:
                code, message = ErrorCode.INVALID_REQUEST, f"Unknown election type {body.election_type}"
            elif topic is None:
                code, message = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such topic as {wanted.topic}"
            elif not 0 <= index < len(topic.partitions):
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                message = f"No such partition as {wanted.topic}-{index}"
            partitions.append(
                ElectLeadersResponse.PartitionResult(partition_id=index, error_code=code, error_message=message)
            )
        results.append(ElectLeadersResponse.ReplicaElectionResult(topic=wanted.topic, partition_result=partitions))
    code = ErrorCode.NONE if is_known else ErrorCode.INVALID_REQUEST
    return ElectLeadersResponse(error_code=code, replica_election_results=results)


# -- ListPartitionReassignments (KIP-455)


async def list_partition_reassignments(context: Context, request: Request) -> Message:
    """Nothing ever moves, and a partition that does not exist does not move either: Kafka names no error for it."""
    return ListPartitionReassignmentsResponse(error_message=None)


# -- DescribeQuorum


async def describe_quorum(context: Context, request: Request) -> Message:
    """A quorum of one; its log is the store's, so that its end is the store's position."""
    body: DescribeQuorumRequest = request.body  # type: ignore[assignment]
    topics = []
    for wanted in body.topics:
        partitions = [
            _quorum_partition(context, wanted.topic_name, partition.partition_index) for partition in wanted.partitions
        ]
        topics.append(DescribeQuorumResponse.TopicData(topic_name=wanted.topic_name, partitions=partitions))
    listener = DescribeQuorumResponse.Listener(name="CONTROLLER", host=context.host, port=context.port)
    nodes = [DescribeQuorumResponse.Node(node_id=context.node_id, listeners=[listener])]
    is_answered = any(not partition.error_code for topic in topics for partition in topic.partitions)
    return DescribeQuorumResponse(error_message="", topics=topics, nodes=nodes if is_answered else [])


def _quorum_partition(context: Context, topic: str, index: int) -> DescribeQuorumResponse.PartitionData:
    if topic != METADATA_TOPIC or index != 0:
        return DescribeQuorumResponse.PartitionData(
            partition_index=index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, error_message=""
        )
    now_ms = int(time.time() * 1000)
    end = context.broker.engine.position
    voter = DescribeQuorumResponse.ReplicaState(
        replica_id=context.node_id,
        replica_directory_id=NO_ID,
        log_end_offset=end,
        last_fetch_timestamp=now_ms,
        last_caught_up_timestamp=now_ms,
    )
    return DescribeQuorumResponse.PartitionData(
        partition_index=index,
        error_message="",
        leader_id=context.node_id,
        leader_epoch=context.broker.engine.epoch,
        high_watermark=end,
        current_voters=[voter],
    )


# -- UpdateFeatures


async def update_features(context: Context, request: Request) -> Message:
    """The finalized features are what this broker does: they can be confirmed, not changed. All or nothing."""
    body: UpdateFeaturesRequest = request.body  # type: ignore[assignment]
    results = []
    for update in body.feature_updates:
        problem = _feature_problem(request, update)
        if problem is not None:
            return UpdateFeaturesResponse(
                error_code=ErrorCode.INVALID_UPDATE_VERSION,
                error_message="The update failed for all features since the following feature had an error: " + problem,
            )
        results.append(
            UpdateFeaturesResponse.UpdatableFeatureResult(feature=update.feature, error_code=0, error_message=None)
        )
    return UpdateFeaturesResponse(error_message=None, results=results if request.version <= 1 else [])


def _feature_problem(request: Request, update: UpdateFeaturesRequest.FeatureUpdateKey) -> str | None:
    name, level = update.feature, update.max_version_level
    start = f"Invalid update version {level} for feature {name}. "
    if name not in FEATURES:
        return start + "This broker does not support this feature."
    low, high, current = FEATURES[name]
    if not low <= level <= high:
        return start + f"This broker only supports versions {low}-{high}"
    if request.version >= 1 and update.upgrade_type not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        return start + "The upgrade type is unknown."
    if level != current:
        return start + f"It stays at {current}: it follows from the broker's version."
    return None
