"""Admin APIs: codes and words as Apache Kafka 4.2 gave them to the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from conf.load import load
from gateway.core_settings import broker_settings
from gateway.protocols.kafka import handlers_admin
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.broker_configs import broker_configs
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    CreateAclsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteAclsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeAclsRequest,
    DescribeClusterRequest,
    DescribeLogDirsRequest,
    DescribeQuorumRequest,
    DescribeTopicPartitionsRequest,
    ElectLeadersRequest,
    ListConfigResourcesRequest,
    ListPartitionReassignmentsRequest,
    MetadataRequest,
    ProduceRequest,
    UpdateFeaturesRequest,
)
from tests.kafka.wire import Listener, WireClient, batch_of, kafka_listener

Assignments = Sequence[tuple[int, list[int]]]


def _topic(
    name: str = "new",
    partitions: int = 1,
    replicas: int = 1,
    assignments: Assignments = (),
    configs: Sequence[tuple[str, str | None]] = (),
) -> CreateTopicsRequest.CreatableTopic:
    return CreateTopicsRequest.CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=replicas,
        assignments=[
            CreateTopicsRequest.CreatableReplicaAssignment(partition_index=index, broker_ids=ids)
            for index, ids in assignments
        ],
        configs=[CreateTopicsRequest.CreatableTopicConfig(name=key, value=value) for key, value in configs],
    )


async def _create(
    client: WireClient, *topics: CreateTopicsRequest.CreatableTopic, validate_only: bool = False, version: int = 7
) -> list[Any]:
    request = CreateTopicsRequest(topics=list(topics), timeout_ms=1000, validate_only=validate_only)
    return list((await client.call(ApiKey.CREATE_TOPICS, version, request)).topics)


@pytest.mark.parametrize("version", range(8))
async def test_create_topics_in_every_version(version: int) -> None:
    async with kafka_listener() as listener:
        [result] = await _create(
            listener.connect(), _topic("t", 3, 3, configs=[("retention.ms", "5")]), version=version
        )
        assert (result.name, result.error_code) == ("t", 0)
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert (len(topic.partitions), dict(topic.config)) == (3, {"retention.ms": "5"})
        if version >= 5:
            assert (result.num_partitions, result.replication_factor) == (3, 1)
            configs = {config.name: (config.value, config.config_source) for config in result.configs}
            assert configs["retention.ms"] == ("5", 1)
            assert configs["cleanup.policy"] == ("delete", 5)
        if version >= 7:
            assert result.topic_id == topic.id


async def test_more_than_one_copy_is_accepted_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    # A logger that was used under an earlier configuration keeps it, so that nothing would be captured.
    monkeypatch.setattr(handlers_admin, "log", structlog.get_logger())
    async with kafka_listener() as listener:
        with capture_logs() as logs:
            [one, three] = await _create(listener.connect(), _topic("one", 1, 1), _topic("three", 1, 3))
        assert [one.error_code, three.error_code] == [0, 0]
        assert [line["topic"] for line in logs if line["log_level"] == "warning"] == ["three"]


async def test_create_topics_takes_the_brokers_defaults_for_minus_1() -> None:
    config = load(None, {"TRIVIUM_TOPICS_NUM_PARTITIONS": "4"})
    async with kafka_listener(settings=broker_settings(config)) as listener:
        [result] = await _create(listener.connect(), _topic("t", -1, -1))
        assert result.num_partitions == 4


async def test_validate_only_creates_nothing() -> None:
    async with kafka_listener() as listener:
        [result] = await _create(listener.connect(), _topic("t"), validate_only=True)
        assert (result.error_code, listener.broker.topics.get("t")) == (0, None)


@pytest.mark.parametrize(
    ("topic", "code", "message"),
    [
        (_topic("old"), ErrorCode.TOPIC_ALREADY_EXISTS, "Topic 'old' already exists."),
        (_topic("a.b_c.d"), ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic 'a.b_c.d' collides with existing topic: a_b.c.d"),
        (
            _topic("bad name"),
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            "Topic name is invalid: 'bad name' contains one or more characters other than ASCII alphanumerics, ",
        ),
        (_topic("n\n"), ErrorCode.INVALID_TOPIC_EXCEPTION, "characters other than ASCII"),
        (_topic(""), ErrorCode.INVALID_TOPIC_EXCEPTION, "the empty string is not allowed"),
        (_topic(".."), ErrorCode.INVALID_TOPIC_EXCEPTION, "'..' is not allowed"),
        (_topic("x" * 250), ErrorCode.INVALID_TOPIC_EXCEPTION, "is longer than the max allowed length 249"),
        (_topic("__cluster_metadata"), ErrorCode.INVALID_REQUEST, "prohibited"),
        (_topic("__trivium_groups2"), ErrorCode.INVALID_REQUEST, "prohibited"),
        (_topic(partitions=0), ErrorCode.INVALID_PARTITIONS, "non-positive"),
        (_topic(partitions=-2), ErrorCode.INVALID_PARTITIONS, "non-positive"),
        (_topic(partitions=2_000_000), ErrorCode.INVALID_PARTITIONS, ""),
        (_topic(replicas=0), ErrorCode.INVALID_REPLICATION_FACTOR, "larger than 0"),
        (_topic(replicas=-2), ErrorCode.INVALID_REPLICATION_FACTOR, "larger than 0"),
        (_topic(assignments=[(0, [1])]), ErrorCode.INVALID_REQUEST, "replication factor was not set to -1"),
        (_topic(replicas=-1, assignments=[(0, [1])]), ErrorCode.INVALID_REQUEST, "numPartitions was not set to -1"),
        (_topic("n", -1, -1, [(1, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "consecutive 0-based"),
        (_topic("n", -1, -1, [(0, [1]), (0, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "Found multiple"),
        (_topic("n", -1, -1, [(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "includes broker 7"),
        (_topic("n", -1, -1, [(0, [1, 1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "more than once"),
        (_topic("n", -1, -1, [(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "empty replica list"),
        (_topic(configs=[("nope", "1")]), ErrorCode.INVALID_CONFIG, "Unknown topic config name: nope"),
        (_topic(configs=[("retention.ms", "x")]), ErrorCode.INVALID_CONFIG, "Not a number of type LONG"),
        (_topic(configs=[("retention.ms", None)]), ErrorCode.INVALID_CONFIG, "Null value not supported"),
    ],
)
async def test_create_topics_refuses(topic: CreateTopicsRequest.CreatableTopic, code: ErrorCode, message: str) -> None:
    async with kafka_listener(topics={"old": 1, "a_b.c.d": 1}) as listener:
        client = listener.connect()
        for validate_only in (True, False):
            [result] = await _create(client, topic, validate_only=validate_only)
            assert result.error_code == code
            assert message in result.error_message


async def test_create_topics_answers_each_topic_and_refuses_doubled_names() -> None:
    async with kafka_listener() as listener:
        results = await _create(listener.connect(), _topic("a"), _topic("b"), _topic("b"), _topic("c", 0))
        codes = {result.name: result.error_code for result in results}
        assert codes == {"a": 0, "b": ErrorCode.INVALID_REQUEST, "c": ErrorCode.INVALID_PARTITIONS}


async def test_create_topics_by_assignment() -> None:
    async with kafka_listener() as listener:
        [result] = await _create(listener.connect(), _topic("t", -1, -1, [(1, [1]), (0, [1])]))
        assert (result.error_code, result.num_partitions) == (0, 2)


async def _grow(
    client: WireClient, name: str, count: int, assignments: list[list[int]] | None = None, version: int = 3
) -> tuple[int, str | None]:
    rows = (
        None
        if assignments is None
        else [CreatePartitionsRequest.CreatePartitionsAssignment(broker_ids=ids) for ids in assignments]
    )
    topic = CreatePartitionsRequest.CreatePartitionsTopic(name=name, count=count, assignments=rows)
    request = CreatePartitionsRequest(topics=[topic], timeout_ms=1000, validate_only=False)
    [result] = (await client.call(ApiKey.CREATE_PARTITIONS, version, request)).results
    return result.error_code, result.error_message


async def test_create_partitions() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        for version in range(4):
            assert await _grow(client, "t", 2 + version, version=version) == (0, None)
        assert await _grow(client, "t", 6, [[1]]) == (0, None)
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert len(topic.partitions) == 6
        invalid = ErrorCode.INVALID_PARTITIONS
        assert await _grow(client, "t", 6) == (invalid, "Topic already has 6 partition(s).")
        assert (await _grow(client, "t", 1))[0] == invalid
        assert (await _grow(client, "t", 2_000_000))[0] == invalid
        assert await _grow(client, "no", 3) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, None)
        for assignments in ([[1]], [[1], []], [[1], [9]]):
            assert (await _grow(client, "t", 8, assignments))[0] == ErrorCode.INVALID_REPLICA_ASSIGNMENT


async def test_delete_topics_by_name_and_by_id() -> None:
    async with kafka_listener(topics={"a": 1, "b": 1, "c": 1, "d": 1}) as listener:
        client = listener.connect()
        topic = listener.broker.topics.get("b")
        assert topic is not None
        by_name = DeleteTopicsRequest(topic_names=["a", "no", "c", "c"], timeout_ms=1000)
        results = (await client.call(ApiKey.DELETE_TOPICS, 1, by_name)).responses
        codes = {result.name: result.error_code for result in results}
        assert codes == {"a": 0, "no": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "c": ErrorCode.INVALID_REQUEST}
        state = DeleteTopicsRequest.DeleteTopicState
        by_id = DeleteTopicsRequest(
            topics=[
                state(name=None, topic_id=topic.id),
                state(name=None, topic_id=b"x" * 16),
                state(name=None, topic_id=bytes(16)),
                state(name="d", topic_id=topic.id),
            ],
            timeout_ms=1000,
        )
        results = (await client.call(ApiKey.DELETE_TOPICS, 6, by_id)).responses
        assert [(result.name, result.error_code) for result in results] == [
            ("b", 0),
            (None, ErrorCode.UNKNOWN_TOPIC_ID),
            (None, ErrorCode.INVALID_REQUEST),
            ("d", ErrorCode.INVALID_REQUEST),
        ]
        assert {topic.name for topic in listener.broker.topics.all() if not topic.internal} == {"c", "d"}


@pytest.mark.parametrize("timeout_ms", [0, -1])
async def test_what_has_no_time_is_not_done(timeout_ms: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        late = ErrorCode.REQUEST_TIMED_OUT
        create = CreateTopicsRequest(topics=[_topic("new"), _topic("new"), _topic("t")], timeout_ms=timeout_ms)
        created = (await client.call(ApiKey.CREATE_TOPICS, 7, create)).topics
        assert [(one.name, one.error_code) for one in created] == [("new", late), ("new", late), ("t", late)]
        more = CreatePartitionsRequest.CreatePartitionsTopic(name="t", count=5, assignments=None)
        grow = CreatePartitionsRequest(topics=[more], timeout_ms=timeout_ms, validate_only=False)
        [grown] = (await client.call(ApiKey.CREATE_PARTITIONS, 3, grow)).results
        assert (grown.name, grown.error_code) == ("t", late)
        delete = DeleteTopicsRequest(topic_names=["t", "no"], timeout_ms=timeout_ms)
        deleted = (await client.call(ApiKey.DELETE_TOPICS, 5, delete)).responses
        assert [(one.name, one.error_code) for one in deleted] == [("t", late), ("no", late)]
        left = {one.name: len(one.partitions) for one in listener.broker.topics.all() if not one.internal}
        assert left == {"t": 1}


async def test_internal_topics_cannot_be_deleted_or_changed() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        internal = next(topic.name for topic in listener.broker.topics.all() if topic.internal)
        request = DeleteTopicsRequest(topic_names=[internal], timeout_ms=1000)
        [result] = (await client.call(ApiKey.DELETE_TOPICS, 1, request)).responses
        assert result.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await _grow(client, internal, 3))[0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def _delete_records(client: WireClient, name: str, index: int, offset: int) -> tuple[int, int]:
    partition = DeleteRecordsRequest.DeleteRecordsPartition(partition_index=index, offset=offset)
    topic = DeleteRecordsRequest.DeleteRecordsTopic(name=name, partitions=[partition])
    answer = await client.call(ApiKey.DELETE_RECORDS, 2, DeleteRecordsRequest(topics=[topic], timeout_ms=1000))
    [result] = answer.topics[0].partitions
    return result.error_code, result.low_watermark


async def test_delete_records() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        data = ProduceRequest.PartitionProduceData(index=0, records=memoryview(batch_of(b"1", b"2", b"3")))
        topic = ProduceRequest.TopicProduceData(name="t", partition_data=[data])
        await client.call(ApiKey.PRODUCE, 9, ProduceRequest(acks=-1, topic_data=[topic]))
        assert await _delete_records(client, "t", 0, 2) == (0, 2)
        assert await _delete_records(client, "t", 0, 1) == (0, 2)
        for offset in (4, -2):
            assert await _delete_records(client, "t", 0, offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
        assert await _delete_records(client, "t", 0, -1) == (0, 3)
        assert await _delete_records(client, "t", 9, 0) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
        assert await _delete_records(client, "no", 0, 0) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)
        await _create(client, _topic("kept", configs=[("cleanup.policy", "")]))
        assert await _delete_records(client, "kept", 0, 0) == (0, 0)
        await _create(client, _topic("compacted", configs=[("cleanup.policy", "compact")]))
        assert await _delete_records(client, "compacted", 0, 0) == (ErrorCode.POLICY_VIOLATION, -1)


async def test_describe_cluster() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        for version in range(3):
            request = DescribeClusterRequest(include_cluster_authorized_operations=True)
            answer = await client.call(ApiKey.DESCRIBE_CLUSTER, version, request)
            assert (answer.error_code, answer.cluster_id) == (0, listener.broker.topics.cluster_id)
            assert [(broker.broker_id, broker.host) for broker in answer.brokers] == [(1, "localhost")]
        answer = await client.call(ApiKey.DESCRIBE_CLUSTER, 1, DescribeClusterRequest(endpoint_type=2))
        assert answer.error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE
        answer = await client.call(ApiKey.DESCRIBE_CLUSTER, 1, DescribeClusterRequest(endpoint_type=7))
        assert answer.error_code == ErrorCode.UNSUPPORTED_ENDPOINT_TYPE


async def _page(
    client: WireClient, names: list[str], limit: int, cursor: tuple[str, int] | None
) -> tuple[list[tuple[str, list[int]]], tuple[str, int] | None]:
    request = DescribeTopicPartitionsRequest(
        topics=[DescribeTopicPartitionsRequest.TopicRequest(name=name) for name in names],
        response_partition_limit=limit,
        cursor=None
        if cursor is None
        else DescribeTopicPartitionsRequest.Cursor(topic_name=cursor[0], partition_index=cursor[1]),
    )
    answer = await client.call(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
    following = answer.next_cursor
    pages = [(topic.name, [partition.partition_index for partition in topic.partitions]) for topic in answer.topics]
    return pages, None if following is None else (following.topic_name, following.partition_index)


async def test_metadata_names_a_topic_once_however_often_it_is_asked_for() -> None:
    async with kafka_listener(topics={"t": 1, "u": 1}) as listener:
        client = listener.connect()
        names = [MetadataRequest.MetadataRequestTopic(name=name) for name in ("t", "u", "t", "t")]
        answer = await client.call(ApiKey.METADATA, 12, MetadataRequest(topics=names))
        assert sorted(topic.name for topic in answer.topics) == ["t", "u"]
        ids = [MetadataRequest.MetadataRequestTopic(name=None, topic_id=answer.topics[0].topic_id)] * 2
        assert len((await client.call(ApiKey.METADATA, 12, MetadataRequest(topics=ids))).topics) == 1


@pytest.mark.parametrize(("version", "found"), [(10, False), (11, False), (12, True), (13, True)])
async def test_metadata_is_asked_for_by_id_from_version_12_on(version: int, found: bool) -> None:
    """Before, the field is there, and Kafka refuses the whole request."""
    async with kafka_listener(topics={"t": 1, "u": 1}) as listener:
        topic = listener.broker.topics.get("t")
        assert topic is not None
        asked = [MetadataRequest.MetadataRequestTopic(name=None if found else "", topic_id=topic.id)]
        answer = await listener.connect().call(ApiKey.METADATA, version, MetadataRequest(topics=asked))
        [one] = answer.topics
        assert (one.error_code, bytes(one.topic_id)) == (0 if found else ErrorCode.INVALID_REQUEST, topic.id)
        assert (len(one.partitions), len(answer.brokers)) == ((1, 1) if found else (0, 0))


async def test_metadata_says_what_is_allowed_if_asked() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        for asked, cluster, topic in ((False, -(2**31), -(2**31)), (True, 8096, 3576)):
            request = MetadataRequest(
                topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in ("t", "a/b")],
                include_cluster_authorized_operations=asked,
                include_topic_authorized_operations=asked,
            )
            answer = await client.call(ApiKey.METADATA, 8, request)
            assert answer.cluster_authorized_operations == cluster
            assert [one.topic_authorized_operations for one in answer.topics] == [topic, topic]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 2000])
@pytest.mark.parametrize("names", [[], ["b", "a", "c"]])
async def test_describe_topic_partitions_pages_through_everything_once(limit: int, names: list[str]) -> None:
    async with kafka_listener(topics={"b": 3, "a": 2, "c": 2}) as listener:
        client = listener.connect()
        seen: list[tuple[str, int]] = []
        cursor: tuple[str, int] | None = None
        while True:
            pages, cursor = await _page(client, names, limit, cursor)
            found = [(name, index) for name, indexes in pages for index in indexes]
            assert len(found) <= limit
            seen += found
            if cursor is None:
                break
        assert seen == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0), ("c", 1)]


async def test_describe_topic_partitions_names_missing_topics_and_bad_cursors() -> None:
    async with kafka_listener(topics={"a": 1}) as listener:
        client = listener.connect()
        request = DescribeTopicPartitionsRequest(
            topics=[DescribeTopicPartitionsRequest.TopicRequest(name=name) for name in ("a", "no", "bad name")],
            response_partition_limit=10,
        )
        answer = await client.call(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
        assert {topic.name: topic.error_code for topic in answer.topics} == {
            "a": 0,
            "no": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            "bad name": ErrorCode.INVALID_TOPIC_EXCEPTION,
        }
        request.cursor = DescribeTopicPartitionsRequest.Cursor(topic_name="a", partition_index=-1)
        answer = await client.call(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
        assert {topic.error_code for topic in answer.topics} == {ErrorCode.INVALID_REQUEST}


async def test_elect_leaders_never_needs_an_election() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        wanted = [
            ElectLeadersRequest.TopicPartitions(topic="t", partitions=[0, 7]),
            ElectLeadersRequest.TopicPartitions(topic="no", partitions=[0]),
        ]
        answer = await client.call(ApiKey.ELECT_LEADERS, 2, ElectLeadersRequest(topic_partitions=wanted))
        codes = [row.error_code for topic in answer.replica_election_results for row in topic.partition_result]
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert codes == [ErrorCode.ELECTION_NOT_NEEDED, unknown, unknown]
        answer = await client.call(ApiKey.ELECT_LEADERS, 2, ElectLeadersRequest(topic_partitions=None))
        assert [topic.topic for topic in answer.replica_election_results] == ["t"]


@pytest.mark.parametrize("names", [None, [], ["t", "missing", "b/d"]])
async def test_no_partition_is_ever_being_reassigned(names: list[str] | None) -> None:
    """Kafka names no error for a partition that does not exist either."""
    topics = [
        ListPartitionReassignmentsRequest.ListPartitionReassignmentsTopics(name=name, partition_indexes=[0, 9])
        for name in names or ()
    ]
    async with kafka_listener(topics={"t": 1}) as listener:
        request = ListPartitionReassignmentsRequest(topics=None if names is None else topics)
        answer = await listener.connect().call(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, request)
        assert (answer.error_code, answer.error_message, answer.topics) == (0, None, [])


async def test_describe_quorum_is_a_quorum_of_one() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        for version in range(3):
            topic = DescribeQuorumRequest.TopicData(
                topic_name="__cluster_metadata", partitions=[DescribeQuorumRequest.PartitionData(partition_index=0)]
            )
            answer = await client.call(ApiKey.DESCRIBE_QUORUM, version, DescribeQuorumRequest(topics=[topic]))
            [partition] = answer.topics[0].partitions
            assert (partition.error_code, partition.leader_id) == (0, 1)
            assert [voter.replica_id for voter in partition.current_voters] == [1]
        topic.topic_name = "t"
        answer = await client.call(ApiKey.DESCRIBE_QUORUM, 2, DescribeQuorumRequest(topics=[topic]))
        assert answer.topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize(
    ("feature", "level", "kind", "code"),
    [
        ("transaction.version", 2, 1, 0),
        ("group.version", 1, 1, 0),
        ("transaction.version", 1, 2, ErrorCode.INVALID_UPDATE_VERSION),
        ("transaction.version", 9, 1, ErrorCode.INVALID_UPDATE_VERSION),
        ("nope", 1, 1, ErrorCode.INVALID_UPDATE_VERSION),
        ("group.version", 1, 0, ErrorCode.INVALID_UPDATE_VERSION),
    ],
)
async def test_features_can_be_confirmed_but_not_changed(feature: str, level: int, kind: int, code: int) -> None:
    async with kafka_listener() as listener:
        update = UpdateFeaturesRequest.FeatureUpdateKey(feature=feature, max_version_level=level, upgrade_type=kind)
        request = UpdateFeaturesRequest(timeout_ms=1000, feature_updates=[update])
        assert (await listener.connect().call(ApiKey.UPDATE_FEATURES, 2, request)).error_code == code


async def test_describe_log_dirs_and_list_config_resources_leave_out_internal_topics() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        _with_configs(listener)
        client = listener.connect()
        answer = await client.call(ApiKey.DESCRIBE_LOG_DIRS, 4, DescribeLogDirsRequest(topics=None))
        [directory] = answer.results
        assert [(topic.name, len(topic.partitions)) for topic in directory.topics] == [("t", 2)]
        answer = await client.call(ApiKey.LIST_CONFIG_RESOURCES, 1, ListConfigResourcesRequest(resource_types=[2]))
        assert [row.resource_name for row in answer.config_resources] == ["t"]
        answer = await client.call(ApiKey.LIST_CONFIG_RESOURCES, 1, ListConfigResourcesRequest(resource_types=[77]))
        assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert (await client.call(ApiKey.LIST_CONFIG_RESOURCES, 0, ListConfigResourcesRequest())).config_resources == []


def _with_configs(listener: Listener) -> None:
    listener.context.broker_configs = broker_configs(load(None, {}))


@pytest.mark.parametrize("version", range(4))
async def test_acls_are_refused_as_by_kafka_without_an_authorizer(version: int) -> None:
    """MirrorMaker 2 takes SECURITY_DISABLED for no access control to copy; a missing API is an error at each try."""
    async with kafka_listener() as listener:
        client = listener.connect()
        described = await client.call(ApiKey.DESCRIBE_ACLS, version, DescribeAclsRequest())
        assert (described.error_code, described.error_message, described.resources) == (
            ErrorCode.SECURITY_DISABLED,
            "No Authorizer is configured on the broker",
            [],
        )
        create = CreateAclsRequest(creations=[CreateAclsRequest.AclCreation(resource_type=2, resource_name="t")] * 2)
        created = await client.call(ApiKey.CREATE_ACLS, version, create)
        delete = DeleteAclsRequest(filters=[DeleteAclsRequest.DeleteAclsFilter()] * 3)
        deleted = await client.call(ApiKey.DELETE_ACLS, version, delete)
        for results, count in ((created.results, 2), (deleted.filter_results, 3)):
            said = [(one.error_code, one.error_message) for one in results]
            assert said == [(ErrorCode.SECURITY_DISABLED, "No Authorizer is configured.")] * count
