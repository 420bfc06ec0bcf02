"""Topic configs: one table with a row for each of Apache Kafka 4.2's and for our own.

Names, types, defaults and valid values are Kafka's, so that tools which ask for them, set them and read them back find
what they expect. A row that is not `honoured` is stored and reported, and changes nothing here: there are no replicas,
no segments of one partition, no tiers, and codecs run at their own level. (`segment.ms` and `segment.bytes` say how
much of a compacted topic may wait in the open log segment, where no clean takes it.) Values are kept as the text that
was given; the broker's own defaults (`defaults` below, name -> text) take the place of the table's. Errors carry the
words Kafka uses, because tools show them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from core.errors import CoreError, CoreFailure
from core.store.engine import PartitionPolicy

INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1
VALUE_CHARS_MAX: Final = 32_767
NO_DEFAULTS: Final[Mapping[str, str]] = MappingProxyType({})


class ConfigType(enum.Enum):
    BOOLEAN = "BOOLEAN"
    STRING = "STRING"
    INT = "INT"
    LONG = "LONG"
    DOUBLE = "DOUBLE"
    LIST = "LIST"


Value = bool | int | float | str | list[str]
Check = Callable[[Value], str | None]
"""Says what is wrong with a parsed value, None when nothing is."""


class ConfigKey(NamedTuple):
    """One row. `default` is text as it would be given; `honoured` says whether it changes what the broker does."""

    name: str
    type: ConfigType
    default: str
    honoured: bool
    check: Check | None = None
    own: bool = False  # ours, unknown to Kafka


def between(low: float, high: float | None = None) -> Check:
    def check(value: Value) -> str | None:
        assert isinstance(value, (int, float))
        if value < low:
            return f"Value must be at least {low}"
        if high is not None and value > high:
            return f"Value must be no more than {high}"
        return None

    return check


def _gzip_level(value: Value) -> str | None:
    assert isinstance(value, int)
    return None if value == -1 or 1 <= value <= 9 else "Value must be between 1 and 9 or equal to -1"


def _one_of(*names: str) -> Check:
    def check(value: Value) -> str | None:
        return None if value in names else f"String must be one of: {', '.join(names)}"

    return check


def _list_of(*names: str) -> Check:
    def check(value: Value) -> str | None:
        assert isinstance(value, list)
        return None if set(value) <= set(names) else f"String must be one of: {', '.join(names)}"

    return check


def _replicas(value: Value) -> str | None:
    assert isinstance(value, list)
    if value in ([], ["*"]) or all(re.fullmatch(r"[0-9]+:[0-9]+", item) for item in value):
        return None
    return "must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],..."


def _only_false(value: Value) -> str | None:
    return "Tiered storage is not available in this broker." if value else None


_B, _S, _I, _L, _D, _LS = (
    ConfigType.BOOLEAN,
    ConfigType.STRING,
    ConfigType.INT,
    ConfigType.LONG,
    ConfigType.DOUBLE,
    ConfigType.LIST,
)
MESSAGE_TYPES = ("any", "normal", "fifo", "delay", "transaction", "mixed")
TRACE_MODES = ("off", "on", "marked")
_CODECS = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")

_ROWS = (
    ConfigKey("cleanup.policy", _LS, "delete", True, _list_of("compact", "delete")),
    ConfigKey("compression.gzip.level", _I, "-1", False, _gzip_level),
    ConfigKey("compression.lz4.level", _I, "9", False, between(1, 17)),
    ConfigKey("compression.type", _S, "producer", True, _one_of(*_CODECS)),
    ConfigKey("compression.zstd.level", _I, "3", False, between(-131072, 22)),
    ConfigKey("delete.retention.ms", _L, "86400000", True, between(0)),
    ConfigKey("file.delete.delay.ms", _L, "60000", False, between(0)),
    ConfigKey("flush.messages", _L, str(LONG_MAX), False, between(1)),
    ConfigKey("flush.ms", _L, str(LONG_MAX), False, between(0)),
    ConfigKey("follower.replication.throttled.replicas", _LS, "", False, _replicas),
    ConfigKey("index.interval.bytes", _I, "4096", False, between(0)),
    ConfigKey("leader.replication.throttled.replicas", _LS, "", False, _replicas),
    ConfigKey("local.retention.bytes", _L, "-2", False, between(-2)),
    ConfigKey("local.retention.ms", _L, "-2", False, between(-2)),
    ConfigKey("max.compaction.lag.ms", _L, str(LONG_MAX), True, between(1)),
    ConfigKey("max.message.bytes", _I, "1048588", True, between(0)),
    ConfigKey("message.timestamp.after.max.ms", _L, "3600000", True, between(0)),
    ConfigKey("message.timestamp.before.max.ms", _L, str(LONG_MAX), True, between(0)),
    ConfigKey("message.timestamp.type", _S, "CreateTime", True, _one_of("CreateTime", "LogAppendTime")),
    ConfigKey("min.cleanable.dirty.ratio", _D, "0.5", True, between(0, 1)),
    ConfigKey("min.compaction.lag.ms", _L, "0", True, between(0)),
    ConfigKey("min.insync.replicas", _I, "1", False, between(1)),
    ConfigKey("preallocate", _B, "false", False),
    ConfigKey("remote.log.copy.disable", _B, "false", False),
    ConfigKey("remote.log.delete.on.disable", _B, "false", False),
    ConfigKey("remote.storage.enable", _B, "false", False, _only_false),
    ConfigKey("retention.bytes", _L, "-1", True),
    ConfigKey("retention.ms", _L, "604800000", True, between(-1)),
    ConfigKey("segment.bytes", _I, "1073741824", True, between(1048576)),
    ConfigKey("segment.index.bytes", _I, "10485760", False, between(4)),
    ConfigKey("segment.jitter.ms", _L, "0", False, between(0)),
    ConfigKey("segment.ms", _L, "604800000", True, between(1)),
    ConfigKey("unclean.leader.election.enable", _B, "false", False),
    # Ours: how deep produced batches are checked, the store's key index, what MQTT devices see and keep.
    ConfigKey("key.index", _B, "false", True, own=True),
    # What kinds of message a topic takes (core.intake), and how long and how many ids of `once-id` it remembers.
    ConfigKey("message.type", _S, "any", True, _one_of(*MESSAGE_TYPES), own=True),
    ConfigKey("mqtt.retain", _S, "true", True, _one_of("true", "false", "last"), own=True),
    ConfigKey("mqtt.store_qos0", _B, "true", True, own=True),
    ConfigKey("mqtt.visible", _B, "true", True, own=True),
    ConfigKey("once.ids.max", _I, "100000", True, between(1, 10_000_000), own=True),
    ConfigKey("once.window.ms", _L, "0", True, between(0, 7 * 86_400_000), own=True),
    # Whether the topic's messages are traced (core.tracing): none, all, those with a header `trivium.trace`.
    ConfigKey("trace", _S, "off", True, _one_of(*TRACE_MODES), own=True),
    ConfigKey("validate", _S, "header", True, _one_of("header", "records"), own=True),
)

TOPIC_CONFIGS: Final[Mapping[str, ConfigKey]] = MappingProxyType({row.name: row for row in _ROWS})

BROKER_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cleanup.policy": "log.cleanup.policy",
        "compression.gzip.level": "compression.gzip.level",
        "compression.lz4.level": "compression.lz4.level",
        "compression.type": "compression.type",
        "compression.zstd.level": "compression.zstd.level",
        "delete.retention.ms": "log.cleaner.delete.retention.ms",
        "file.delete.delay.ms": "log.segment.delete.delay.ms",
        "flush.messages": "log.flush.interval.messages",
        "index.interval.bytes": "log.index.interval.bytes",
        "local.retention.bytes": "log.local.retention.bytes",
        "local.retention.ms": "log.local.retention.ms",
        "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
        "max.message.bytes": "message.max.bytes",
        "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
        "message.timestamp.type": "log.message.timestamp.type",
        "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
        "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
        "min.insync.replicas": "min.insync.replicas",
        "preallocate": "log.preallocate",
        "retention.bytes": "log.retention.bytes",
        "retention.ms": "log.retention.ms",
        "segment.bytes": "log.segment.bytes",
        "segment.index.bytes": "log.index.size.max.bytes",
        "unclean.leader.election.enable": "unclean.leader.election.enable",
    }
)
"""Topic config -> the broker config that gives its default."""


def parse_value(key: ConfigKey, text: str) -> Value:
    """The typed value of `text`. Raises CoreFailure(INVALID_CONFIG) in Kafka's words."""
    text = text.strip()
    if len(text) > VALUE_CHARS_MAX:
        raise _invalid(key, text[:40] + "...", f"Longer than {VALUE_CHARS_MAX} characters")
    value: Value
    match key.type:
        case ConfigType.BOOLEAN:
            if text.lower() not in ("true", "false"):
                raise _invalid(key, text, "Expected value to be either true or false")
            value = text.lower() == "true"
        case ConfigType.INT | ConfigType.LONG:
            limit = INT_MAX if key.type is ConfigType.INT else LONG_MAX
            if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -limit - 1 <= int(text) <= limit:
                raise _invalid(key, text, f"Not a number of type {key.type.value}")
            value = int(text)
        case ConfigType.DOUBLE:
            if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text):
                raise _invalid(key, text, "Not a number of type DOUBLE")
            value = float(text)
        case ConfigType.LIST:
            value = [item.strip() for item in text.split(",")] if text else []
        case ConfigType.STRING:
            value = text
    problem = key.check(value) if key.check is not None else None
    if problem is not None:
        raise _invalid(key, text, problem)
    return value


def _invalid(key: ConfigKey, text: str, problem: str) -> CoreFailure:
    return CoreFailure(CoreError.INVALID_CONFIG, f"Invalid value {text} for configuration {key.name}: {problem}")


def check_topic_config(config: Mapping[str, str | None], defaults: Mapping[str, str] = NO_DEFAULTS) -> dict[str, str]:
    """The overrides as they are stored.

    Raises CoreFailure(INVALID_CONFIG): unknown name, null, bad value, or values that contradict each other.
    """
    checked: dict[str, str] = {}
    for name, text in config.items():
        key = TOPIC_CONFIGS.get(name)
        if key is None:
            raise CoreFailure(CoreError.INVALID_CONFIG, f"Unknown topic config name: {name}")
        if text is None:
            raise CoreFailure(CoreError.INVALID_CONFIG, f"Null value not supported for topic configs: {name}")
        parse_value(key, text)
        checked[name] = text.strip()
    settings = topic_settings(checked, defaults)
    if settings.policy.min_compaction_lag_ms > settings.policy.max_compaction_lag_ms:
        raise CoreFailure(
            CoreError.INVALID_CONFIG,
            f"conflict topic config setting min.compaction.lag.ms ({settings.policy.min_compaction_lag_ms}) > "
            f"max.compaction.lag.ms ({settings.policy.max_compaction_lag_ms})",
        )
    return checked


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The honoured configs of one topic, parsed. Sizes are bytes, times milliseconds."""

    policy: PartitionPolicy
    message_bytes_max: int
    compression_type: str  # "producer": as it came
    log_append_time: bool
    timestamp_before_ms_max: int
    timestamp_after_ms_max: int
    validate_records: bool
    mqtt_visible: bool
    mqtt_retain: str  # "true": what is published with RETAIN; "last": the latest record of each key; "false": none
    mqtt_store_qos0: bool
    message_type: str  # one of MESSAGE_TYPES
    trace: str  # one of TRACE_MODES
    once_window_ms: int  # 0: ids are not looked for
    once_ids_max: int


def topic_settings(config: Mapping[str, str], defaults: Mapping[str, str] = NO_DEFAULTS) -> TopicSettings:
    """What `config` (a topic's stored overrides) and the broker's `defaults` come to. Unknown names are passed over."""

    def text(name: str) -> str:
        found = config.get(name)
        return defaults.get(name, TOPIC_CONFIGS[name].default) if found is None else found

    def integer(name: str) -> int:
        return int(text(name))

    def flag(name: str) -> bool:
        return text(name).lower() == "true"

    cleanup = {item.strip() for item in text("cleanup.policy").split(",")}
    compact = "compact" in cleanup
    policy = PartitionPolicy(
        delete="delete" in cleanup,
        compact=compact,
        retention_ms=integer("retention.ms"),
        retention_bytes=max(integer("retention.bytes"), -1),
        min_compaction_lag_ms=integer("min.compaction.lag.ms"),
        max_compaction_lag_ms=integer("max.compaction.lag.ms"),
        delete_retention_ms=integer("delete.retention.ms"),
        min_cleanable_dirty_ratio=float(text("min.cleanable.dirty.ratio")),
        segment_ms=integer("segment.ms"),
        segment_bytes=integer("segment.bytes"),
        key_index=flag("key.index"),
    )
    return TopicSettings(
        policy=policy,
        message_bytes_max=integer("max.message.bytes"),
        compression_type=text("compression.type"),
        log_append_time=text("message.timestamp.type") == "LogAppendTime",
        timestamp_before_ms_max=integer("message.timestamp.before.max.ms"),
        timestamp_after_ms_max=integer("message.timestamp.after.max.ms"),
        validate_records=compact or text("validate") == "records",
        mqtt_visible=flag("mqtt.visible"),
        mqtt_retain=text("mqtt.retain"),
        mqtt_store_qos0=flag("mqtt.store_qos0"),
        message_type=text("message.type"),
        trace=text("trace"),
        once_window_ms=integer("once.window.ms"),
        once_ids_max=integer("once.ids.max"),
    )
