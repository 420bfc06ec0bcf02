"""Configs of topics, groups and this broker as Kafka's tools read them: DescribeConfigs, ListConfigResources.

A value is told with where it comes from: set for the topic or group, set for this broker or for all while it ran, set
in the configuration file, or the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

from core.dynamic_configs import BROKER_CONFIGS, GROUP_CONFIGS, Scope
from core.errors import CoreFailure
from core.topic_config import BROKER_NAMES, TOPIC_CONFIGS, ConfigKey, ConfigType
from core.topics import check_name
from gateway.protocols.kafka.broker_configs import CONFIG_TYPES, BrokerConfig, ConfigSource
from gateway.protocols.kafka.config_documentation import (
    BROKER_DOCUMENTATION,
    GROUP_DOCUMENTATION,
    TOPIC_DOCUMENTATION,
)
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    DescribeConfigsRequest,
    DescribeConfigsResponse,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

RETENTION_HOURS = DescribeConfigsResponse.DescribeConfigsSynonym(name="log.retention.hours", value="168", source=5)
"""Kafka's own default of `log.retention.ms`, which is unset, under the name it stands under."""
Described = DescribeConfigsResponse.DescribeConfigsResourceResult
Synonym = DescribeConfigsResponse.DescribeConfigsSynonym


class Resource(IntEnum):
    """What a config belongs to, as requests number it."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


DOCUMENTATION = {
    Resource.TOPIC: TOPIC_DOCUMENTATION,
    Resource.BROKER: BROKER_DOCUMENTATION,
    Resource.GROUP: GROUP_DOCUMENTATION,
}


class Refusal(Exception):
    """A resource's request that cannot be met: Kafka's code and words."""

    def __init__(self, code: ErrorCode, message: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# -- describe


async def describe_configs(context: Context, request: Request) -> Message:
    body: DescribeConfigsRequest = request.body  # type: ignore[assignment]
    unknown = [resource.resource_type for resource in body.resources if resource.resource_type not in set(Resource)]
    results = []
    for resource in body.resources:
        result = DescribeConfigsResponse.DescribeConfigsResult(
            error_code=0,
            error_message="",
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
            configs=[],
        )
        try:
            if unknown:  # then nothing is looked at
                raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown resource type {unknown[0]}")
            found = _describe(context, resource.resource_type, resource.resource_name)
        except Refusal as refusal:
            result.error_code, result.error_message = refusal.code, refusal.message
        except CoreFailure as failure:
            result.error_code, result.error_message = CODES[failure.error], failure.message
        else:
            wanted = set(resource.configuration_keys or ())
            result.configs = [one for one in found if not wanted or one.name in wanted]
            if not body.include_synonyms:
                for one in result.configs:
                    one.synonyms = []
            if body.include_documentation:
                for one in result.configs:
                    one.documentation = DOCUMENTATION[Resource(resource.resource_type)][one.name]
        results.append(result)
    return DescribeConfigsResponse(results=results)


def _describe(context: Context, kind: int, name: str) -> Iterable[Described]:
    if kind == Resource.TOPIC:
        check_name(name)
        topic = context.broker.topics.get(name)
        if topic is None:
            raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
        return describe_topic(context, topic.config)
    if kind == Resource.BROKER:
        if is_own_id(context, name):
            return [_broker_config(context, row) for row in context.broker_configs.values()]
        return [_cluster_config(name, value) for name, value in context.broker.configs.get(Scope.CLUSTER).items()]
    if kind == Resource.BROKER_LOGGER:
        if not is_own_id(context, name):
            raise Refusal(ErrorCode.INVALID_REQUEST, "Broker id must not be empty")
        return []
    if kind == Resource.CLIENT_METRICS:
        if not name:
            raise Refusal(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
        return []
    check_group(name)
    return [_group_config(context, key, name) for key in GROUP_CONFIGS.values()]


def check_group(name: str) -> None:
    """Raises Refusal unless it names one group."""
    if not name:
        raise Refusal(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")


def is_own_id(context: Context, name: str) -> bool:
    """False for the empty name (all brokers), True for this broker's id. Raises Refusal for another."""
    if not name:
        return False
    if not name.lstrip("-").isdigit() or not name.isascii():
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Broker id must be an integer, but it is: {name}")
    if int(name) != context.node_id:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"Unexpected broker id, expected {context.node_id} or empty string, but received {name}",
        )
    return True


def _broker_synonyms(context: Context, row: BrokerConfig) -> list[Synonym]:
    """The values a broker config has, the one that holds first."""
    configs = context.broker.configs
    found = [
        (configs.get(Scope.BROKER).get(row.name), ConfigSource.DYNAMIC_BROKER),
        (configs.get(Scope.CLUSTER).get(row.name), ConfigSource.DYNAMIC_DEFAULT_BROKER),
        (row.value if row.source is ConfigSource.STATIC_BROKER else None, ConfigSource.STATIC_BROKER),
        (row.default, ConfigSource.DEFAULT),
    ]
    synonyms = [Synonym(name=row.name, value=value, source=source) for value, source in found if value is not None]
    if row.name == BROKER_NAMES["retention.ms"] and synonyms:
        synonyms.append(RETENTION_HOURS)
    return synonyms


def _broker_config(context: Context, row: BrokerConfig) -> Described:
    synonyms = _broker_synonyms(context, row)
    value, source = (synonyms[0].value, synonyms[0].source) if synonyms else (None, ConfigSource.DEFAULT)
    return _described(row.name, row.type, value, source, synonyms, read_only=row.name not in BROKER_CONFIGS)


def _cluster_config(name: str, value: str) -> Described:
    source = ConfigSource.DYNAMIC_DEFAULT_BROKER
    synonyms = [Synonym(name=name, value=value, source=source)]
    return _described(name, BROKER_CONFIGS[name].type, value, source, synonyms)


def _group_config(context: Context, key: ConfigKey, group: str) -> Described:
    row = context.broker_configs.get(f"group.{key.name}")
    default, source = (key.default, ConfigSource.DEFAULT) if row is None else (row.value, row.source)
    override = context.broker.configs.get(Scope.GROUP, group).get(key.name)
    value, source = (default, source) if override is None else (override, ConfigSource.GROUP)
    synonyms = [Synonym(name=key.name, value=value, source=source)]
    return _described(key.name, key.type, value, source, synonyms)


def _described(
    name: str, kind: ConfigType, value: str | None, source: int, synonyms: list[Synonym], *, read_only: bool = False
) -> Described:
    return Described(
        name=name,
        value=value,
        read_only=read_only,
        is_default=source == ConfigSource.DEFAULT,
        config_source=source,
        is_sensitive=False,
        synonyms=synonyms,
        config_type=CONFIG_TYPES[kind],
        documentation=None,
    )


def describe_topic(context: Context, overrides: Mapping[str, str]) -> list[Described]:
    """Every topic config as DescribeConfigs reports it, for a topic with these overrides."""
    return [_topic_config(context, row, overrides.get(row.name)) for row in TOPIC_CONFIGS.values()]


def _topic_config(context: Context, row: ConfigKey, override: str | None) -> Described:
    default = context.broker.settings.topic_defaults.get(row.name, row.default)
    synonyms: list[Synonym] = []
    broker_name = BROKER_NAMES.get(row.name)
    if broker_name is not None:
        broker = BrokerConfig(broker_name, row.type, default, row.default)
        if row.name == "retention.ms":
            broker = BrokerConfig(broker_name, row.type, None if default == row.default else default, None)
        synonyms = _broker_synonyms(context, broker)
    value, source = (synonyms[0].value, synonyms[0].source) if synonyms else (default, ConfigSource.DEFAULT)
    if override is not None:
        value, source = override, ConfigSource.TOPIC
        synonyms.insert(0, Synonym(name=row.name, value=override, source=source))
    return _described(row.name, row.type, value, source, synonyms)


# -- list


async def list_config_resources(context: Context, request: Request) -> Message:
    body: ListConfigResourcesRequest = request.body  # type: ignore[assignment]
    known = {int(kind) for kind in Resource}
    kinds = {int(Resource.CLIENT_METRICS)} if request.version == 0 else set(body.resource_types) or known
    if not kinds <= known:
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, config_resources=[])
    names: list[tuple[int, str]] = []
    if Resource.BROKER_LOGGER in kinds:
        names.append((Resource.BROKER_LOGGER, str(context.node_id)))
    if Resource.BROKER in kinds:
        names.append((Resource.BROKER, str(context.node_id)))
    if Resource.TOPIC in kinds:
        names += [(Resource.TOPIC, topic.name) for topic in context.broker.topics.all() if not topic.internal]
    if Resource.GROUP in kinds:
        names += [(Resource.GROUP, name) for name in context.broker.configs.groups()]
    return ListConfigResourcesResponse(
        config_resources=[
            ListConfigResourcesResponse.ConfigResource(resource_name=name, resource_type=kind) for kind, name in names
        ]
    )
