"""DescribeConfigs, AlterConfigs and IncrementalAlterConfigs as Apache Kafka 4.2 answers them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from conf.load import load
from core.store.memory import MemoryEngine
from core.topic_config import TOPIC_CONFIGS
from gateway.core_settings import broker_settings
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.broker_configs import broker_configs
from gateway.protocols.kafka.config_documentation import (
    BROKER_DOCUMENTATION,
    GROUP_DOCUMENTATION,
    TOPIC_DOCUMENTATION,
)
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    AlterConfigsRequest,
    ConsumerGroupHeartbeatRequest,
    DescribeConfigsRequest,
    IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
    ProduceRequest,
)
from tests.kafka.wire import Listener, WireClient, batch_of, kafka_listener

TOPIC, BROKER, LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)


async def _describe(
    client: WireClient,
    kind: int,
    name: str,
    keys: list[str] | None = None,
    *,
    version: int = 4,
    synonyms: bool = True,
    documentation: bool = False,
) -> Any:
    resource = DescribeConfigsRequest.DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=keys
    )
    request = DescribeConfigsRequest(
        resources=[resource], include_synonyms=synonyms, include_documentation=documentation
    )
    return (await client.call(ApiKey.DESCRIBE_CONFIGS, version, request)).results[0]


async def _value(client: WireClient, name: str, key: str) -> str | None:
    value: str | None = (await _describe(client, TOPIC, name, [key])).configs[0].value
    return value


async def _operate(
    client: WireClient,
    *operations: tuple[str, int, str | None],
    kind: int = TOPIC,
    name: str = "t",
    validate_only: bool = False,
) -> tuple[int, str | None]:
    configs = [
        IncrementalAlterConfigsRequest.AlterableConfig(name=key, config_operation=operation, value=value)
        for key, operation, value in operations
    ]
    resource = IncrementalAlterConfigsRequest.AlterConfigsResource(
        resource_type=kind, resource_name=name, configs=configs
    )
    request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only)
    [result] = (await client.call(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, request)).responses
    return result.error_code, result.error_message


async def _replace(
    client: WireClient, configs: Sequence[tuple[str, str | None]], **options: Any
) -> tuple[int, str | None]:
    resource = AlterConfigsRequest.AlterConfigsResource(
        resource_type=options.get("kind", TOPIC),
        resource_name=options.get("name", "t"),
        configs=[AlterConfigsRequest.AlterableConfig(name=key, value=value) for key, value in configs],
    )
    request = AlterConfigsRequest(resources=[resource], validate_only=options.get("validate_only", False))
    [result] = (await client.call(ApiKey.ALTER_CONFIGS, 2, request)).responses
    return result.error_code, result.error_message


@pytest.mark.parametrize("version", range(5))
async def test_a_topics_configs_in_every_version(version: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        assert await _operate(client, ("cleanup.policy", SET, "compact")) == (0, None)
        found = await _describe(client, TOPIC, "t", version=version)
        assert {one.name for one in found.configs} == set(TOPIC_CONFIGS)
        by_name = {one.name: one for one in found.configs}
        policy, lag = by_name["cleanup.policy"], by_name["min.compaction.lag.ms"]
        assert (policy.value, lag.value) == ("compact", "0")
        if version == 0:
            assert (policy.is_default, lag.is_default) == (False, True)
        else:
            assert (policy.config_source, lag.config_source) == (1, 5)
            assert [(one.name, one.value, one.source) for one in policy.synonyms] == [
                ("cleanup.policy", "compact", 1),
                ("log.cleanup.policy", "delete", 5),
            ]
        if version >= 3:
            assert (policy.config_type, lag.config_type, policy.documentation) == (7, 5, None)


async def test_keys_and_synonyms_are_told_when_asked_for() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        found = await _describe(client, TOPIC, "t", ["retention.ms", "nope"], synonyms=False)
        assert [(one.name, one.value, one.synonyms) for one in found.configs] == [("retention.ms", "604800000", [])]
        assert len((await _describe(client, TOPIC, "t", [])).configs) == len(TOPIC_CONFIGS)


@pytest.mark.parametrize(
    ("kind", "name", "documented"),
    [(TOPIC, "t", TOPIC_DOCUMENTATION), (BROKER, "1", BROKER_DOCUMENTATION), (GROUP, "g", GROUP_DOCUMENTATION)],
)
@pytest.mark.parametrize("version", [3, 4])
async def test_every_config_is_documented_for_who_asks(
    kind: int, name: str, documented: Mapping[str, str], version: int
) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        listener.context.broker_configs = broker_configs(load(None, {}))
        client = listener.connect()
        found = await _describe(client, kind, name, version=version, documentation=True)
        assert {one.name: one.documentation for one in found.configs} == documented
        assert all(re.fullmatch(r"[A-Z].{15,118}\.", text) for text in documented.values())
        found = await _describe(client, kind, name, version=version)
        assert {one.documentation for one in found.configs} == {None}


async def test_what_is_set_for_all_brokers_is_documented_too() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        assert await _operate(client, ("log.retention.ms", SET, "7"), kind=BROKER, name="") == (0, None)
        [one] = (await _describe(client, BROKER, "", documentation=True)).configs
        assert one.documentation == BROKER_DOCUMENTATION["log.retention.ms"]


async def test_the_brokers_own_defaults_are_told_as_static() -> None:
    config = load(None, {"TRIVIUM_TOPICS_RETENTION_MS": "5"})
    async with kafka_listener(topics={"t": 1}, settings=broker_settings(config)) as listener:
        listener.context.broker_configs = broker_configs(config)
        client = listener.connect()
        [one] = (await _describe(client, TOPIC, "t", ["retention.ms"])).configs
        assert (one.value, one.config_source) == ("5", 4)
        assert [(same.name, same.value, same.source) for same in one.synonyms] == [
            ("log.retention.ms", "5", 4),
            ("log.retention.hours", "168", 5),
        ]
        [one] = (await _describe(client, BROKER, "1", ["log.retention.ms"])).configs
        assert (one.value, one.config_source, one.read_only) == ("5", 4, False)
        [one] = (await _describe(client, BROKER, "1", ["num.partitions"])).configs
        assert one.read_only


async def test_the_brokers_settings_under_kafkas_names() -> None:
    async with kafka_listener() as listener:
        listener.context.broker_configs = broker_configs(load(None, {}))
        client = listener.connect()
        found = {one.name: one.value for one in (await _describe(client, BROKER, "1")).configs}
        assert found["num.partitions"] == "1"
        assert found["auto.create.topics.enable"] == "true"
        assert found["message.max.bytes"] == "1048588"
        assert found["log.flush.interval.messages"] == "1"  # flush = "sync"
        assert found["log.retention.hours"] == "168"
        assert (await _describe(client, BROKER, "")).configs == []
        for name in ("9", "x"):
            assert (await _describe(client, BROKER, name)).error_code == ErrorCode.INVALID_REQUEST
        group = {one.name: one.value for one in (await _describe(client, GROUP, "g")).configs}
        assert group == {
            "consumer.heartbeat.interval.ms": "5000",
            "consumer.session.timeout.ms": "45000",
            "share.auto.offset.reset": "latest",
            "share.heartbeat.interval.ms": "5000",
            "share.isolation.level": "read_uncommitted",
            "share.record.lock.duration.ms": "30000",
            "share.session.timeout.ms": "45000",
        }


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "no", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "bad name", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TOPIC, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (LOGGER, "", ErrorCode.INVALID_REQUEST),
        (CLIENT_METRICS, "", ErrorCode.INVALID_REQUEST),
        (GROUP, "", ErrorCode.INVALID_REQUEST),
        (3, "t", ErrorCode.INVALID_REQUEST),
        (0, "t", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_describe_refuses(kind: int, name: str, code: ErrorCode) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        assert (await _describe(listener.connect(), kind, name)).error_code == code


async def test_a_kind_of_resource_that_nobody_knows_refuses_the_whole_request() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        resources = [
            DescribeConfigsRequest.DescribeConfigsResource(
                resource_type=kind, resource_name="t", configuration_keys=None
            )
            for kind in (TOPIC, 3)
        ]
        answer = await listener.connect().call(ApiKey.DESCRIBE_CONFIGS, 4, DescribeConfigsRequest(resources=resources))
        assert [(one.error_code, one.configs) for one in answer.results] == [(ErrorCode.INVALID_REQUEST, [])] * 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("no", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("bad name", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_topics_that_cannot_be_altered(name: str, code: ErrorCode) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        assert (await _operate(client, ("retention.ms", SET, "5"), name=name))[0] == code
        assert (await _replace(client, [("retention.ms", "5")], name=name))[0] == code


async def test_set_append_subtract_delete() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        steps: list[tuple[int, str | None, str]] = [
            (SET, "compact", "compact"),
            (APPEND, "delete", "compact,delete"),
            (APPEND, "delete", "compact,delete"),
            (SUBTRACT, "compact", "delete"),
            (DELETE, None, "delete"),
        ]
        for operation, value, expected in steps:
            assert await _operate(client, ("cleanup.policy", operation, value)) == (0, None)
            assert await _value(client, "t", "cleanup.policy") == expected
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert topic.config == {}
        assert await _operate(client, ("retention.ms", SET, "7"), validate_only=True) == (0, None)
        assert await _value(client, "t", "retention.ms") == "604800000"
        assert await _operate(client, ("nope", DELETE, None)) == (0, None)


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        (("retention.ms", SET, "x"), ErrorCode.INVALID_CONFIG, "Not a number of type LONG"),
        (("nope", SET, "x"), ErrorCode.INVALID_CONFIG, "Unknown topic config name: nope"),
        (("nope", APPEND, "x"), ErrorCode.INVALID_CONFIG, "Unknown topic config name: nope"),
        (("retention.ms", APPEND, "1"), ErrorCode.INVALID_CONFIG, "Can't APPEND to key retention.ms"),
        (("retention.ms", SET, None), ErrorCode.INVALID_REQUEST, "Null value not supported for : retention.ms"),
        (("retention.ms", 7, "1"), ErrorCode.INVALID_REQUEST, "Unknown config operation 7"),
    ],
)
async def test_incremental_alter_refuses(operation: tuple[str, int, str | None], code: ErrorCode, message: str) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        found, text = await _operate(listener.connect(), operation)
        assert found == code
        assert message in (text or "")


async def test_doubled_keys_and_resources_are_refused() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        twice = (("retention.ms", SET, "1"), ("retention.ms", SET, "2"))
        assert await _operate(client, *twice) == (ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
        resource = IncrementalAlterConfigsRequest.AlterConfigsResource(resource_type=TOPIC, resource_name="t")
        request = IncrementalAlterConfigsRequest(resources=[resource, resource])
        results = (await client.call(ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, request)).responses
        assert [result.error_code for result in results] == [ErrorCode.INVALID_REQUEST] * 2


def _told(configs: Sequence[Any]) -> dict[str, tuple[str, int, list[tuple[str, str, int]]]]:
    return {
        one.name: (one.value, one.config_source, [(same.name, same.value, same.source) for same in one.synonyms])
        for one in configs
    }


async def test_broker_configs_that_are_set_while_it_runs_hold_for_its_topics() -> None:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        async with kafka_listener(engine=engine, topics={"t": 1, "own": 1}, start_engine=False) as listener:
            listener.context.broker_configs = broker_configs(load(None, {}))
            client = listener.connect()
            assert await _operate(client, ("max.message.bytes", SET, "77"), name="own") == (0, None)
            set_ = ("message.max.bytes", SET, "100"), ("log.retention.ms", SET, "5"), ("num.io.threads", SET, "9")
            assert await _operate(client, *set_, kind=BROKER, name="", validate_only=True) == (0, None)
            assert (await _describe(client, BROKER, "")).configs == []
            assert await _operate(client, *set_, kind=BROKER, name="") == (0, None)
            assert await _operate(client, ("message.max.bytes", SET, "200"), kind=BROKER, name="1") == (0, None)
            assert _told((await _describe(client, BROKER, "")).configs) == {
                name: (value, 3, [(name, value, 3)]) for name, _, value in set_
            }
            told = _told((await _describe(client, TOPIC, "t", ["max.message.bytes", "retention.ms"])).configs)
            in_order = [("message.max.bytes", "200", 2), ("message.max.bytes", "100", 3)]
            assert told == {
                "max.message.bytes": ("200", 2, [*in_order, ("message.max.bytes", "1048588", 5)]),
                "retention.ms": ("5", 3, [("log.retention.ms", "5", 3), ("log.retention.hours", "168", 5)]),
            }
            told = _told((await _describe(client, BROKER, "1", ["message.max.bytes", "num.io.threads"])).configs)
            assert told["num.io.threads"] == ("9", 3, [("num.io.threads", "9", 3), ("num.io.threads", "8", 5)])
            assert told["message.max.bytes"][:2] == ("200", 2)
            assert await _refused_size(listener, "t", 300)
            assert not await _refused_size(listener, "t", 90)
        # A broker over the same store: what was set is still there.
        async with kafka_listener(engine=engine, start_engine=False) as listener:
            client = listener.connect()
            assert await _refused_size(listener, "t", 300)
            assert await _refused_size(listener, "own", 90)
            assert await _operate(client, ("message.max.bytes", DELETE, None), kind=BROKER, name="1") == (0, None)
            assert await _refused_size(listener, "t", 110)
            assert await _replace(client, [], kind=BROKER, name="") == (0, None)
            assert not await _refused_size(listener, "t", 300)
            assert (await _describe(client, BROKER, "")).configs == []
        nursery.cancel_scope.cancel()


async def _refused_size(listener: Listener, name: str, size: int) -> bool:
    """Whether a batch of about this size is too large for the topic."""
    topic = listener.broker.topics.get(name)
    assert topic is not None
    data = ProduceRequest.PartitionProduceData(index=0, records=memoryview(batch_of(b"x" * (size - 70))))
    body = ProduceRequest(acks=-1, topic_data=[ProduceRequest.TopicProduceData(name=name, partition_data=[data])])
    answer = await listener.connect().call(ApiKey.PRODUCE, 9, body)
    code = answer.responses[0].partition_responses[0].error_code
    assert code in (0, ErrorCode.MESSAGE_TOO_LARGE)
    return bool(code)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (("message.max.bytes", SET, "x"), "Invalid value x for configuration message.max.bytes: Not a number"),
        (("message.max.bytes", SET, "-5"), "Value must be at least 0"),
        (("message.max.bytes", SET, None), "Null value"),
        (("node.id", SET, "3"), "Cannot update these configs dynamically: Set(node.id)"),
        (("log.retention.hours", DELETE, None), "Cannot update these configs dynamically: Set(log.retention.hours)"),
    ],
)
async def test_broker_configs_are_checked(operation: tuple[str, int, str | None], message: str) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        for name in ("", "1"):
            code, text = await _operate(client, operation, kind=BROKER, name=name)
            assert code == ErrorCode.INVALID_REQUEST
            assert message in (text or "")
        code, text = await _operate(client, ("log.cleanup.policy", APPEND, "compact"), kind=BROKER, name="")
        assert code == 0
        assert listener.broker.topics.defaults["cleanup.policy"] == "delete,compact"


async def test_throttles_of_reassignments_can_be_cleared() -> None:
    """`kafka-reassign-partitions --verify` does it where nothing was being moved too."""
    broker = ["follower.replication.throttled.rate", "leader.replication.throttled.rate"]
    broker += ["replica.alter.log.dirs.io.max.bytes.per.second"]
    topic = ["follower.replication.throttled.replicas", "leader.replication.throttled.replicas"]
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        for kind, name, keys in ((BROKER, "1", broker), (TOPIC, "t", topic)):
            assert await _operate(client, *((key, DELETE, None) for key in keys), kind=kind, name=name) == (0, None)


async def test_a_groups_configs_hold_for_its_members() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        beat = ConsumerGroupHeartbeatRequest(
            group_id="g",
            member_id="m",
            member_epoch=0,
            rebalance_timeout_ms=1000,
            subscribed_topic_names=["t"],
            topic_partitions=[],
        )
        assert (await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, beat)).heartbeat_interval_ms == 5_000
        changes = ("consumer.heartbeat.interval.ms", SET, "6000"), ("consumer.session.timeout.ms", SET, "50000")
        assert await _operate(client, *changes, kind=GROUP, name="g") == (0, None)
        assert (await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, beat)).heartbeat_interval_ms == 6_000
        assert listener.broker.groups.limits_of("g").consumer_session_timeout_ms == 50_000
        told = _told((await _describe(client, GROUP, "g")).configs)
        assert {name: one for name, one in told.items() if name.startswith("consumer.")} == {
            name: (value, 8, [(name, value, 8)]) for name, _, value in changes
        }
        listed = await client.call(ApiKey.LIST_CONFIG_RESOURCES, 1, ListConfigResourcesRequest(resource_types=[GROUP]))
        assert [(one.resource_type, one.resource_name) for one in listed.config_resources] == [(GROUP, "g")]
        assert await _replace(client, [], kind=GROUP, name="g") == (0, None)
        assert (await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, beat)).heartbeat_interval_ms == 5_000
        listed = await client.call(ApiKey.LIST_CONFIG_RESOURCES, 1, ListConfigResourcesRequest(resource_types=[GROUP]))
        assert listed.config_resources == []


@pytest.mark.parametrize(
    ("name", "key", "value", "code", "message"),
    [
        ("", "consumer.session.timeout.ms", "50000", ErrorCode.INVALID_REQUEST, "Default group"),
        ("g", "nope", "1", ErrorCode.INVALID_CONFIG, "Unknown group config name: nope"),
        (
            "g",
            "consumer.session.timeout.ms",
            "1",
            ErrorCode.INVALID_CONFIG,
            "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
        ),
        (
            "g",
            "consumer.heartbeat.interval.ms",
            "55000",
            ErrorCode.INVALID_CONFIG,
            "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms",
        ),
        ("g", "consumer.session.timeout.ms", "x", ErrorCode.INVALID_CONFIG, "Not a number of type INT"),
        (
            "g",
            "share.session.timeout.ms",
            "6000",
            ErrorCode.INVALID_CONFIG,
            "share.session.timeout.ms must be greater than or equal to group.share.min.session.timeout.ms",
        ),
        (
            "g",
            "share.record.lock.duration.ms",
            "6000",
            ErrorCode.INVALID_CONFIG,
            "share.record.lock.duration.ms must be greater than or equal to group.share.min.record.lock.duration.ms",
        ),
        ("g", "share.record.lock.duration.ms", "1", ErrorCode.INVALID_CONFIG, "Value must be at least 1000"),
        ("g", "share.auto.offset.reset", "by_duration:1h", ErrorCode.INVALID_CONFIG, "'by_duration:<PnDTnHnMn.nS>'"),
        ("g", "share.auto.offset.reset", "PT1H", ErrorCode.INVALID_CONFIG, "'by_duration:<PnDTnHnMn.nS>'"),
    ],
)
async def test_a_groups_configs_are_checked(name: str, key: str, value: str, code: ErrorCode, message: str) -> None:
    async with kafka_listener() as listener:
        found, text = await _operate(listener.connect(), (key, SET, value), kind=GROUP, name=name)
        assert found == code
        assert message in (text or "")
        assert listener.broker.configs.groups() == []


async def test_what_is_fixed_cannot_be_changed() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        code, message = await _operate(client, ("num.partitions", SET, "3"), kind=BROKER, name="1")
        assert (code, message) == (
            ErrorCode.INVALID_REQUEST,
            "Cannot update these configs dynamically: Set(num.partitions)",
        )
        assert (await _operate(client, ("x", SET, "3"), kind=BROKER, name="9"))[0] == ErrorCode.INVALID_REQUEST
        assert (await _operate(client, ("x", SET, "3"), kind=3))[0] == ErrorCode.INVALID_REQUEST
        assert await _operate(client, kind=BROKER, name="1") == (0, None)
        code, message = await _operate(client, ("retention.ms", SET, "3"), name="no")
        assert (code, message) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "The topic 'no' does not exist.")


async def test_alter_configs_replaces_all_overrides() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        assert await _replace(client, [("retention.ms", "5"), ("segment.ms", "6")]) == (0, None)
        assert await _replace(client, [("segment.ms", "7")]) == (0, None)
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert topic.config == {"segment.ms": "7"}
        assert (await _replace(client, [("segment.ms", None)]))[0] == ErrorCode.INVALID_REQUEST
        assert (await _replace(client, [("nope", "1")]))[0] == ErrorCode.INVALID_CONFIG
        assert (await _replace(client, [("segment.ms", "x")], validate_only=True))[0] == ErrorCode.INVALID_CONFIG
        assert await _replace(client, [], kind=BROKER, name="1") == (0, None)
        assert await _replace(client, []) == (0, None)
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert topic.config == {}
