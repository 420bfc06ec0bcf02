"""Configs of topics and of this broker, as Kafka's tools read and change them.

DescribeConfigs, AlterConfigs, IncrementalAlterConfigs (KIP-339), ListConfigResources (KIP-1142).

Topic configs can be changed; everything else is read from the configuration at start and reported as read-only. Groups
have Kafka's configs of KIP-848 reported with the broker's values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from core.errors import CoreError, CoreFailure
from core.topic_config import TOPIC_CONFIGS, ConfigKey, ConfigType, check_topic_config
from core.topics import Topic, check_name
from gateway.protocols.kafka.broker_configs import CONFIG_TYPES, TOPIC_SYNONYMS, BrokerConfig, ConfigSource
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    AlterConfigsRequest,
    AlterConfigsResponse,
    DescribeConfigsRequest,
    DescribeConfigsResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

Described = DescribeConfigsResponse.DescribeConfigsResourceResult
Synonym = DescribeConfigsResponse.DescribeConfigsSynonym


class Resource(IntEnum):
    """What a config belongs to, as requests number it."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class Operation(IntEnum):
    """What IncrementalAlterConfigs does to one config."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


GROUP_CONFIGS = {
    "consumer.heartbeat.interval.ms": "group.consumer.heartbeat.interval.ms",
    "consumer.session.timeout.ms": "group.consumer.session.timeout.ms",
}
"""Group config -> the broker config that gives it."""


class Refusal(Exception):
    """A resource's request that cannot be met: Kafka's code and words."""

    def __init__(self, code: ErrorCode, message: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# -- describe


async def describe_configs(context: Context, request: Request) -> Message:
    body: DescribeConfigsRequest = request.body  # type: ignore[assignment]
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
        # The empty name asks for what was set for the whole cluster while it ran: there is nothing of that kind here.
        return [_broker_config(row) for row in context.broker_configs.values()] if _is_own_id(context, name) else []
    if kind == Resource.BROKER_LOGGER:
        _is_own_id(context, name)
        return []
    if kind == Resource.CLIENT_METRICS:
        return []
    if kind == Resource.GROUP:
        if not name:
            raise Refusal(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
        rows = ((alias, context.broker_configs.get(broker)) for alias, broker in GROUP_CONFIGS.items())
        return [_broker_config(row._replace(name=alias)) for alias, row in rows if row is not None]
    raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")


def _is_own_id(context: Context, name: str) -> bool:
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


def _broker_config(row: BrokerConfig) -> Described:
    synonyms = [] if row.value is None else [Synonym(name=row.name, value=row.value, source=row.source)]
    if row.source is ConfigSource.STATIC_BROKER and row.default is not None:
        synonyms.append(Synonym(name=row.name, value=row.default, source=ConfigSource.DEFAULT))
    return Described(
        name=row.name,
        value=row.value,
        read_only=True,
        is_default=row.source is ConfigSource.DEFAULT,
        config_source=row.source,
        is_sensitive=False,
        synonyms=synonyms,
        config_type=CONFIG_TYPES[row.type],
        documentation=None,
    )


def describe_topic(context: Context, overrides: Mapping[str, str]) -> list[Described]:
    """Every topic config as DescribeConfigs reports it, for a topic with these overrides."""
    return [_topic_config(context, row, overrides.get(row.name)) for row in TOPIC_CONFIGS.values()]


def _topic_config(context: Context, row: ConfigKey, override: str | None) -> Described:
    default = context.broker.settings.topic_defaults.get(row.name, row.default)
    source = ConfigSource.DEFAULT if default == row.default else ConfigSource.STATIC_BROKER
    synonyms = []
    broker_name = TOPIC_SYNONYMS.get(row.name)
    # Kafka's own default of retention.ms stands under log.retention.hours, so that it names no synonym for it.
    if broker_name is not None and not (row.name == "retention.ms" and source is ConfigSource.DEFAULT):
        synonyms.append(Synonym(name=broker_name, value=default, source=source))
        if source is ConfigSource.STATIC_BROKER:
            synonyms.append(Synonym(name=broker_name, value=row.default, source=ConfigSource.DEFAULT))
    if override is not None:
        source = ConfigSource.TOPIC
        synonyms.insert(0, Synonym(name=row.name, value=override, source=ConfigSource.TOPIC))
    return Described(
        name=row.name,
        value=default if override is None else override,
        read_only=False,
        is_default=source is not ConfigSource.TOPIC,
        config_source=source,
        is_sensitive=False,
        synonyms=synonyms,
        config_type=CONFIG_TYPES[row.type],
        documentation=None,
    )


# -- alter

Change = Callable[[Topic], dict[str, str | None]]
"""From a topic to the overrides it shall have, not checked yet. Raises Refusal."""


async def alter_configs(context: Context, request: Request) -> Message:
    body: AlterConfigsRequest = request.body  # type: ignore[assignment]
    doubled = _doubled((resource.resource_type, resource.resource_name) for resource in body.resources)
    responses = []
    for resource in body.resources:
        changed = [config.name for config in resource.configs]

        key = (resource.resource_type, resource.resource_name)
        change = partial(_replaced, resource.configs)
        code, message = await _alter(context, key, changed, change, key in doubled, body.validate_only)
        responses.append(
            AlterConfigsResponse.AlterConfigsResourceResponse(
                error_code=code, error_message=message, resource_type=key[0], resource_name=key[1]
            )
        )
    return AlterConfigsResponse(responses=responses)


async def incremental_alter_configs(context: Context, request: Request) -> Message:
    body: IncrementalAlterConfigsRequest = request.body  # type: ignore[assignment]
    doubled = _doubled((resource.resource_type, resource.resource_name) for resource in body.resources)
    responses = []
    for resource in body.resources:
        changed = [config.name for config in resource.configs]

        key = (resource.resource_type, resource.resource_name)
        change = partial(_operated, context, resource.configs)
        code, message = await _alter(context, key, changed, change, key in doubled, body.validate_only)
        responses.append(
            IncrementalAlterConfigsResponse.AlterConfigsResourceResponse(
                error_code=code, error_message=message, resource_type=key[0], resource_name=key[1]
            )
        )
    return IncrementalAlterConfigsResponse(responses=responses)


def _doubled(resources: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    return {resource for resource, count in Counter(resources).items() if count > 1}


async def _alter(
    context: Context,
    resource: tuple[int, str],
    names: Sequence[str],
    change: Change,
    is_doubled: bool,
    validate_only: bool,
) -> tuple[int, str | None]:
    """The error code and message for one resource."""
    kind, name = resource
    try:
        if is_doubled:
            raise Refusal(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        if len(set(names)) != len(names):
            raise Refusal(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
        if kind == Resource.TOPIC:
            await _alter_topic(context, name, change, validate_only)
        else:
            _refuse_change(context, kind, name, names)
    except Refusal as refusal:
        return refusal.code, refusal.message
    except CoreFailure as failure:
        return CODES[failure.error], failure.message
    return ErrorCode.NONE, None


async def _alter_topic(context: Context, name: str, change: Change, validate_only: bool) -> None:
    topics = context.broker.topics
    topic = topics.get(name)
    if topic is None or topic.internal:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")

    def checked(topic: Topic) -> dict[str, str]:
        return check_topic_config(change(topic), context.broker.settings.topic_defaults)

    if validate_only:
        checked(topic)
    else:
        await topics.update_config(name, checked)


def _refuse_change(context: Context, kind: int, name: str, names: Sequence[str]) -> None:
    """What is no topic cannot be changed while the broker runs; asking for no change is no error."""
    if kind not in set(Resource):
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")
    if kind in (Resource.BROKER, Resource.BROKER_LOGGER):
        _is_own_id(context, name)
    if names:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"Cannot update these configs dynamically: Set({', '.join(sorted(names))})"
        )


def _replaced(configs: Sequence[AlterConfigsRequest.AlterableConfig], topic: Topic) -> dict[str, str | None]:
    for config in configs:
        if config.value is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {config.name}")
    return {config.name: config.value for config in configs}


def _operated(
    context: Context, configs: Sequence[IncrementalAlterConfigsRequest.AlterableConfig], topic: Topic
) -> dict[str, str | None]:
    overrides: dict[str, str | None] = dict(topic.config)
    for config in configs:
        operation, name = config.config_operation, config.name
        if operation == Operation.DELETE:
            overrides.pop(name, None)
            continue
        if operation not in set(Operation):
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown config operation {operation}")
        if config.value is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {name}")
        if operation == Operation.SET:
            overrides[name] = config.value
            continue
        row = TOPIC_CONFIGS.get(name)
        if row is None:
            raise CoreFailure(CoreError.INVALID_CONFIG, f"Unknown topic config name: {name}")
        if row.type is not ConfigType.LIST:
            verb = Operation(operation).name
            raise Refusal(ErrorCode.INVALID_CONFIG, f"Can't {verb} to key {name} because its type is not LIST.")
        current = overrides.get(name)
        if current is None:
            current = context.broker.settings.topic_defaults.get(name, row.default)
        overrides[name] = _merged(operation, current, config.value)
    return overrides


def _merged(operation: int, current: str, value: str) -> str:
    items = [item.strip() for item in current.split(",") if item.strip()]
    named = [item.strip() for item in value.split(",") if item.strip()]
    if operation == Operation.APPEND:
        items += [item for item in named if item not in items]
    else:
        items = [item for item in items if item not in named]
    return ",".join(items)


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
    return ListConfigResourcesResponse(
        config_resources=[
            ListConfigResourcesResponse.ConfigResource(resource_name=name, resource_type=kind) for kind, name in names
        ]
    )
