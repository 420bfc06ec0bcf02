"""Configs of topics, groups and this broker changed: AlterConfigs, IncrementalAlterConfigs (KIP-339).

Any config of a topic can be changed, the broker configs of `core.dynamic_configs` for all brokers (the empty name) or
this one, and a group's of KIP-848. Loggers and client metrics cannot. Codes and words are Kafka's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from core.dynamic_configs import BROKER_CONFIGS, GROUP_CONFIGS, Scope, check_broker_configs, check_group_configs
from core.errors import CoreError, CoreFailure
from core.topic_config import TOPIC_CONFIGS, ConfigKey, ConfigType, check_topic_config
from core.topics import Topic, check_name
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_configs import Refusal, Resource, check_group, is_own_id
from gateway.protocols.kafka.messages import (
    AlterConfigsRequest,
    AlterConfigsResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request


class Operation(IntEnum):
    """What IncrementalAlterConfigs does to one config."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


Answer = TypeVar("Answer")
Overrides = Mapping[str, str]
Change = Callable[[Overrides, "Kind"], dict[str, str | None]]
"""From a resource's overrides to those it shall have, not checked yet. Raises Refusal."""


class Kind:
    """What a resource of one kind may have: the configs, and the defaults that lists are appended to."""

    def __init__(self, label: str, keys: Mapping[str, ConfigKey], defaults: Mapping[str, str]) -> None:
        self.label = label
        self.keys = keys
        self._defaults = defaults

    def default(self, name: str) -> str:
        return self._defaults.get(name, self.keys[name].default)


async def alter_configs(context: Context, request: Request) -> Message:
    body: AlterConfigsRequest = request.body  # type: ignore[assignment]
    answer = AlterConfigsResponse.AlterConfigsResourceResponse
    return AlterConfigsResponse(responses=await _alter_all(context, body, _replaced, answer))


async def incremental_alter_configs(context: Context, request: Request) -> Message:
    body: IncrementalAlterConfigsRequest = request.body  # type: ignore[assignment]
    answer = IncrementalAlterConfigsResponse.AlterConfigsResourceResponse
    return IncrementalAlterConfigsResponse(responses=await _alter_all(context, body, _operated, answer))


async def _alter_all(
    context: Context,
    body: AlterConfigsRequest | IncrementalAlterConfigsRequest,
    changed: Callable[[Any, Overrides, Kind], dict[str, str | None]],
    answer: Callable[..., Answer],
) -> list[Answer]:
    """One answer for each resource. `changed` makes of its overrides what its part of the request asks for."""
    counts = Counter((resource.resource_type, resource.resource_name) for resource in body.resources)
    answers: list[Answer] = []
    for resource in body.resources:
        kind, name = key = resource.resource_type, resource.resource_name
        names = [config.name for config in resource.configs]
        change = partial(changed, resource.configs)
        code, message = await _alter(context, key, names, change, counts[key] > 1, body.validate_only)
        answers.append(answer(error_code=code, error_message=message, resource_type=kind, resource_name=name))
    return answers


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
        elif kind == Resource.BROKER:
            await _alter_broker(context, name, names, change, validate_only)
        elif kind == Resource.GROUP:
            await _alter_group(context, name, change, validate_only)
        else:
            _refuse_change(context, kind, name, names)
    except Refusal as refusal:
        return refusal.code, refusal.message
    except CoreFailure as failure:
        return CODES[failure.error], failure.message
    return ErrorCode.NONE, None


async def _alter_topic(context: Context, name: str, change: Change, validate_only: bool) -> None:
    topics = context.broker.topics
    if not name:
        raise Refusal(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
    check_name(name)
    topic = topics.get(name)
    if topic is None or topic.internal:
        raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
    kind = Kind("topic", TOPIC_CONFIGS, topics.defaults)

    def checked(topic: Topic) -> dict[str, str]:
        return check_topic_config(change(topic.config, kind), topics.defaults)

    if validate_only:
        checked(topic)
    else:
        await topics.update_config(name, checked)


async def _alter_broker(context: Context, name: str, names: Sequence[str], change: Change, validate_only: bool) -> None:
    scope = Scope.BROKER if is_own_id(context, name) else Scope.CLUSTER
    fixed = sorted(set(names) - set(BROKER_CONFIGS))
    if fixed:
        raise _not_dynamic(fixed)
    kind = Kind("broker", BROKER_CONFIGS, {one.name: one.value or "" for one in context.broker_configs.values()})

    def checked(overrides: Overrides) -> dict[str, str]:
        try:
            return check_broker_configs(change(overrides, kind))
        except CoreFailure as failure:
            if failure.error is CoreError.INVALID_CONFIG:
                raise Refusal(ErrorCode.INVALID_REQUEST, failure.message) from None
            raise

    if validate_only:
        checked(context.broker.configs.get(scope))
    else:
        await context.broker.configs.update(scope, "", checked)


async def _alter_group(context: Context, name: str, change: Change, validate_only: bool) -> None:
    check_group(name)
    kind = Kind("group", GROUP_CONFIGS, {})

    def checked(overrides: Overrides) -> dict[str, str]:
        return check_group_configs(change(overrides, kind), context.broker.settings.groups)

    if validate_only:
        checked(context.broker.configs.get(Scope.GROUP, name))
    else:
        await context.broker.configs.update(Scope.GROUP, name, checked)


def _refuse_change(context: Context, kind: int, name: str, names: Sequence[str]) -> None:
    """Of what cannot be changed while the broker runs; asking for no change is no error."""
    if kind not in set(Resource):
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")
    if kind == Resource.BROKER_LOGGER:
        is_own_id(context, name)
    if names:
        raise _not_dynamic(sorted(names))


def _not_dynamic(names: Sequence[str]) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, f"Cannot update these configs dynamically: Set({', '.join(names)})")


def _replaced(
    configs: Sequence[AlterConfigsRequest.AlterableConfig], overrides: Overrides, kind: Kind
) -> dict[str, str | None]:
    for config in configs:
        if config.value is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {config.name}")
    return {config.name: config.value for config in configs}


def _operated(
    configs: Sequence[IncrementalAlterConfigsRequest.AlterableConfig], overrides: Overrides, kind: Kind
) -> dict[str, str | None]:
    changed: dict[str, str | None] = dict(overrides)
    for config in configs:
        operation, name = config.config_operation, config.name
        if operation == Operation.DELETE:
            changed.pop(name, None)
            continue
        if operation not in set(Operation):
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown config operation {operation}")
        if config.value is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {name}")
        if operation == Operation.SET:
            changed[name] = config.value
            continue
        key = kind.keys.get(name)
        if key is None:
            raise CoreFailure(CoreError.INVALID_CONFIG, f"Unknown {kind.label} config name: {name}")
        if key.type is not ConfigType.LIST:
            verb = Operation(operation).name
            raise Refusal(ErrorCode.INVALID_CONFIG, f"Can't {verb} to key {name} because its type is not LIST.")
        current = changed.get(name)
        changed[name] = _merged(operation, kind.default(name) if current is None else current, config.value)
    return changed


def _merged(operation: int, current: str, value: str) -> str:
    items = [item.strip() for item in current.split(",") if item.strip()]
    named = [item.strip() for item in value.split(",") if item.strip()]
    if operation == Operation.APPEND:
        items += [item for item in named if item not in items]
    else:
        items = [item for item in items if item not in named]
    return ",".join(items)
