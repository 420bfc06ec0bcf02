"""Configs that are set while the broker runs, of the broker and of groups, in an internal compacted topic.

Names, types and valid values are Kafka's. Broker configs are set for the whole cluster or for one broker; the
narrower one holds, and both stand above the configuration file. They are the defaults of topic configs
(`log.retention.ms` is that of `retention.ms`), and some that Kafka's operators set and that mean nothing here, which
are stored and reported as topic configs without effect are. Group configs are those of KIP-848 and share groups.

A record's key is the scope and the name, its value the overrides as JSON; no overrides, no record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from types import MappingProxyType
from typing import Final

import trio

from core.errors import CoreError, CoreFailure
from core.group_types import GroupLimits
from core.state import StateLog, raise_unless_appended
from core.topic_config import (
    BROKER_NAMES,
    LONG_MAX,
    TOPIC_CONFIGS,
    ConfigKey,
    ConfigType,
    Value,
    between,
    parse_value,
)

CONFIGURED_GROUPS_MAX: Final = 100_000


class Scope(Enum):
    """What overrides belong to. A value is the first part of a record's key."""

    CLUSTER = "cluster"
    BROKER = "broker"
    GROUP = "group"


Overrides = Mapping[str, str]
_NONE: Final[Overrides] = MappingProxyType({})

_WITHOUT_EFFECT = (
    ConfigKey("background.threads", ConfigType.INT, "10", False, between(1)),
    ConfigKey("follower.replication.throttled.rate", ConfigType.LONG, str(LONG_MAX), False, between(0)),
    ConfigKey("leader.replication.throttled.rate", ConfigType.LONG, str(LONG_MAX), False, between(0)),
    ConfigKey("log.cleaner.backoff.ms", ConfigType.LONG, "15000", False, between(0)),
    ConfigKey("log.cleaner.dedupe.buffer.size", ConfigType.LONG, "134217728", False),
    ConfigKey("log.cleaner.io.buffer.load.factor", ConfigType.DOUBLE, "0.9", False),
    ConfigKey("log.cleaner.io.buffer.size", ConfigType.INT, "524288", False, between(0)),
    ConfigKey("log.cleaner.io.max.bytes.per.second", ConfigType.DOUBLE, "1.7976931348623157E308", False),
    ConfigKey("log.cleaner.threads", ConfigType.INT, "1", False, between(0)),
    ConfigKey("num.io.threads", ConfigType.INT, "8", False, between(1)),
    ConfigKey("num.network.threads", ConfigType.INT, "3", False, between(1)),
    ConfigKey("num.recovery.threads.per.data.dir", ConfigType.INT, "2", False, between(1)),
    ConfigKey("num.replica.fetchers", ConfigType.INT, "1", False),
    ConfigKey("replica.alter.log.dirs.io.max.bytes.per.second", ConfigType.LONG, str(LONG_MAX), False, between(0)),
)

BROKER_CONFIGS: Final[Mapping[str, ConfigKey]] = MappingProxyType(
    {name: TOPIC_CONFIGS[topic_config]._replace(name=name) for topic_config, name in BROKER_NAMES.items()}
    | {row.name: row for row in _WITHOUT_EFFECT}
)
"""Broker configs that may be set while the broker runs, by name."""

_HEARTBEAT = "consumer.heartbeat.interval.ms"
_SESSION = "consumer.session.timeout.ms"
SHARE_RESET: Final = "share.auto.offset.reset"
SHARE_LOCK: Final = "share.record.lock.duration.ms"
SHARE_ISOLATION: Final = "share.isolation.level"
SHARE_HEARTBEAT: Final = "share.heartbeat.interval.ms"
SHARE_SESSION: Final = "share.session.timeout.ms"
_BY_DURATION: Final = "by_duration:"
_DURATION: Final = re.compile(
    r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{0,9})?)S)?)?", re.IGNORECASE
)


def share_start(text: str) -> str | int:
    """What `share.auto.offset.reset` says: "latest", "earliest", or how many ms back. Raises ValueError."""
    if text in ("latest", "earliest"):
        return text
    found = _DURATION.fullmatch(text.removeprefix(_BY_DURATION)) if text.startswith(_BY_DURATION) else None
    if found is None:
        raise ValueError(text)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return int((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000)


def _share_reset(value: Value) -> str | None:
    try:
        share_start(str(value))
    except ValueError:
        return (
            f"Invalid value `{value}` for configuration {SHARE_RESET}. The value must be either 'earliest', "
            "'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'."
        )
    return None


def _isolation(value: Value) -> str | None:
    levels = ("read_committed", "read_uncommitted")
    return None if value in levels else f"String must be one of: {', '.join(levels)}"


GROUP_CONFIGS: Final[Mapping[str, ConfigKey]] = MappingProxyType(
    {
        _HEARTBEAT: ConfigKey(_HEARTBEAT, ConfigType.INT, "5000", True, between(1)),
        _SESSION: ConfigKey(_SESSION, ConfigType.INT, "45000", True, between(1)),
        SHARE_RESET: ConfigKey(SHARE_RESET, ConfigType.STRING, "latest", True, _share_reset),
        SHARE_ISOLATION: ConfigKey(SHARE_ISOLATION, ConfigType.STRING, "read_uncommitted", True, _isolation),
        SHARE_HEARTBEAT: ConfigKey(SHARE_HEARTBEAT, ConfigType.INT, "5000", True, between(1)),
        SHARE_SESSION: ConfigKey(SHARE_SESSION, ConfigType.INT, "45000", True, between(1)),
        SHARE_LOCK: ConfigKey(SHARE_LOCK, ConfigType.INT, "30000", True, between(1_000)),
    }
)

# Kafka's defaults of `group.share.min.` and `group.share.max.` settings.
_SHARE_RANGES: Final = {
    SHARE_HEARTBEAT: (5_000, 15_000),
    SHARE_SESSION: (45_000, 60_000),
    SHARE_LOCK: (15_000, 60_000),
}


def check_broker_configs(overrides: Mapping[str, str | None]) -> dict[str, str]:
    """The overrides as they are stored. Raises CoreFailure(INVALID_CONFIG), in Kafka's words."""
    unknown = sorted(set(overrides) - set(BROKER_CONFIGS))
    if unknown:
        raise CoreFailure(
            CoreError.INVALID_CONFIG, f"Cannot update these configs dynamically: Set({', '.join(unknown)})"
        )
    return {name: _checked(BROKER_CONFIGS[name], text)[0] for name, text in overrides.items()}


def check_group_configs(overrides: Mapping[str, str | None], limits: GroupLimits) -> dict[str, str]:
    """As `check_broker_configs`, of a group."""
    found: dict[str, str] = {}
    numbers = {
        _HEARTBEAT: limits.consumer_heartbeat_interval_ms,
        _SESSION: limits.consumer_session_timeout_ms,
        SHARE_HEARTBEAT: int(GROUP_CONFIGS[SHARE_HEARTBEAT].default),
        SHARE_SESSION: int(GROUP_CONFIGS[SHARE_SESSION].default),
    }
    for name, text in overrides.items():
        key = GROUP_CONFIGS.get(name)
        if key is None:
            raise CoreFailure(CoreError.INVALID_CONFIG, f"Unknown group config name: {name}")
        found[name], value = _checked(key, text)
        if isinstance(value, int):
            numbers[name] = value
    ranges = {
        _HEARTBEAT: (limits.consumer_heartbeat_interval_ms_min, limits.consumer_heartbeat_interval_ms_max),
        _SESSION: (limits.consumer_session_timeout_ms_min, limits.consumer_session_timeout_ms_max),
        **_SHARE_RANGES,
    }
    for name in found.keys() & ranges.keys():
        low, high = ranges[name]
        family, _, kind = name.partition(".")
        if numbers[name] < low:
            raise _out_of_range(name, f"greater than or equal to group.{family}.min.{kind}")
        if numbers[name] > high:
            raise _out_of_range(name, f"less than or equal to group.{family}.max.{kind}")
    for session, heartbeat in ((_SESSION, _HEARTBEAT), (SHARE_SESSION, SHARE_HEARTBEAT)):
        if numbers[session] <= numbers[heartbeat]:
            raise _out_of_range(session, f"greater than {heartbeat}")
    return found


def _out_of_range(name: str, must_be: str) -> CoreFailure:
    return CoreFailure(CoreError.INVALID_CONFIG, f"{name} must be {must_be}")


def _checked(key: ConfigKey, text: str | None) -> tuple[str, Value]:
    if text is None:
        raise CoreFailure(CoreError.INVALID_CONFIG, f"Null value not supported for : {key.name}")
    return text.strip(), parse_value(key, text)


class DynamicConfigs:
    """The table of overrides. `load` it before use."""

    def __init__(self, group_limits: GroupLimits) -> None:
        self._group_limits = group_limits
        self._state: StateLog | None = None
        self._overrides: dict[tuple[Scope, str], dict[str, str]] = {}
        self._limits: dict[str, GroupLimits] = {}  # of groups that have overrides
        self._changing = trio.Lock()
        self.on_broker_change: Callable[[], None] = lambda: None
        self.on_group_change: Callable[[str], None] = lambda _: None

    async def load(self, state: StateLog) -> None:
        """Folds the stored table. Raises ValueError for a log of a newer broker."""
        self._state = state
        await state.load(self._apply)

    def _apply(self, key: bytes, value: bytes | None) -> None:
        scope, _, name = key.decode().partition(":")
        self._set((Scope(scope), name), {} if value is None else json.loads(value))

    def _set(self, resource: tuple[Scope, str], overrides: dict[str, str]) -> None:
        if overrides:
            self._overrides[resource] = overrides
        else:
            self._overrides.pop(resource, None)
        scope, name = resource
        if scope is Scope.GROUP:
            self._limits.pop(name, None)
            if overrides:
                limits = self._group_limits
                self._limits[name] = replace(
                    limits,
                    consumer_heartbeat_interval_ms=int(
                        overrides.get(_HEARTBEAT, limits.consumer_heartbeat_interval_ms)
                    ),
                    consumer_session_timeout_ms=int(overrides.get(_SESSION, limits.consumer_session_timeout_ms)),
                )

    def get(self, scope: Scope, name: str = "") -> Overrides:
        """What was set, name -> text. Only groups have names."""
        return self._overrides.get((scope, name), _NONE)

    def groups(self) -> list[str]:
        """The groups for which something is set."""
        return [name for scope, name in self._overrides if scope is Scope.GROUP]

    def group_limits(self, group_id: str) -> GroupLimits:
        return self._limits.get(group_id, self._group_limits)

    def share_number(self, group_id: str, name: str) -> int:
        """A number that is configured for a share group, or its default."""
        return int(self.get(Scope.GROUP, group_id).get(name, GROUP_CONFIGS[name].default))

    def topic_defaults(self) -> dict[str, str]:
        """The topic configs whose defaults are overridden."""
        broker = {**self.get(Scope.CLUSTER), **self.get(Scope.BROKER)}
        return {topic_config: broker[name] for topic_config, name in BROKER_NAMES.items() if name in broker}

    async def update(self, scope: Scope, name: str, change: Callable[[Overrides], dict[str, str]]) -> None:
        """Sets the overrides that `change` makes of those there are; durable when this returns. Raises CoreFailure."""
        assert self._state is not None
        async with self._changing:
            known = self.get(scope, name)
            overrides = change(known)
            if overrides == known:
                return
            if scope is Scope.GROUP and not known and len(self._limits) >= CONFIGURED_GROUPS_MAX:
                raise CoreFailure(
                    CoreError.POLICY_VIOLATION, f"at most {CONFIGURED_GROUPS_MAX} groups have configs of their own"
                )
            value = json.dumps(overrides).encode() if overrides else None
            raise_unless_appended([await self._state.put([(f"{scope.value}:{name}".encode(), value)])])
            self._set((scope, name), overrides)
            if scope is Scope.GROUP:
                self.on_group_change(name)
            else:
                self.on_broker_change()
