"""This broker's settings under the names Kafka's tools ask for (DescribeConfigs of a broker), as they were at start.

Listed are settings that mean something here, and what may be set while the broker runs (`core.dynamic_configs`). A
value that differs from Kafka's default is reported as set in the broker's configuration (STATIC_BROKER_CONFIG), as
Kafka does.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from conf.schema import Config
from core.dynamic_configs import BROKER_CONFIGS
from core.topic_config import BROKER_NAMES, LONG_MAX, TOPIC_CONFIGS, ConfigType


class ConfigSource(IntEnum):
    """Where a reported value comes from, as DescribeConfigs numbers it."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    GROUP = 8


CONFIG_TYPES: Final = {
    ConfigType.BOOLEAN: 1,
    ConfigType.STRING: 2,
    ConfigType.INT: 3,
    ConfigType.LONG: 5,
    ConfigType.DOUBLE: 6,
    ConfigType.LIST: 7,
}
"""Type -> its number in DescribeConfigs."""


class BrokerConfig(NamedTuple):
    """`default` is Kafka's; both are None where Kafka has no value unless one is set."""

    name: str
    type: ConfigType
    value: str | None
    default: str | None

    @property
    def source(self) -> ConfigSource:
        return ConfigSource.DEFAULT if self.value == self.default else ConfigSource.STATIC_BROKER


def broker_configs(config: Config) -> dict[str, BrokerConfig]:
    """The table for this configuration, by name."""
    advertised = config.kafka.advertised or config.kafka.listen
    sync = config.store.flush == "sync"
    rows: list[tuple[str, ConfigType, object, object]] = [
        ("advertised.listeners", ConfigType.LIST, f"PLAINTEXT://{advertised}", None),
        ("auto.create.topics.enable", ConfigType.BOOLEAN, config.topics.auto_create, True),
        ("broker.id", ConfigType.INT, config.kafka.node_id, -1),
        ("connections.max.idle.ms", ConfigType.LONG, config.limits.connection_idle_ms_max, 600_000),
        ("default.replication.factor", ConfigType.INT, 1, 1),
        ("delete.topic.enable", ConfigType.BOOLEAN, True, True),
        ("fetch.max.bytes", ConfigType.INT, config.limits.fetch_bytes_max, 57_671_680),
        (
            "group.consumer.heartbeat.interval.ms",
            ConfigType.INT,
            config.groups.consumer_heartbeat_interval_ms,
            5_000,
        ),
        (
            "group.consumer.max.heartbeat.interval.ms",
            ConfigType.INT,
            config.groups.consumer_heartbeat_interval_ms_max,
            15_000,
        ),
        (
            "group.consumer.max.session.timeout.ms",
            ConfigType.INT,
            config.groups.consumer_session_timeout_ms_max,
            60_000,
        ),
        (
            "group.consumer.min.heartbeat.interval.ms",
            ConfigType.INT,
            config.groups.consumer_heartbeat_interval_ms_min,
            5_000,
        ),
        (
            "group.consumer.min.session.timeout.ms",
            ConfigType.INT,
            config.groups.consumer_session_timeout_ms_min,
            45_000,
        ),
        ("group.consumer.session.timeout.ms", ConfigType.INT, config.groups.consumer_session_timeout_ms, 45_000),
        ("group.initial.rebalance.delay.ms", ConfigType.INT, config.groups.initial_rebalance_delay_ms, 3_000),
        ("group.max.session.timeout.ms", ConfigType.INT, config.groups.session_timeout_ms_max, 1_800_000),
        ("group.max.size", ConfigType.INT, config.groups.members_max, 2**31 - 1),
        ("group.min.session.timeout.ms", ConfigType.INT, config.groups.session_timeout_ms_min, 6_000),
        ("listeners", ConfigType.LIST, f"PLAINTEXT://{config.kafka.listen}", "PLAINTEXT://:9092"),
        ("log.cleaner.enable", ConfigType.BOOLEAN, True, True),
        ("log.dirs", ConfigType.LIST, config.store.data_dir, None),
        ("log.flush.interval.ms", ConfigType.LONG, None if sync else config.store.flush_interval_ms, None),
        ("log.retention.hours", ConfigType.INT, 168, 168),
        ("log.retention.minutes", ConfigType.INT, None, None),
        ("max.connections", ConfigType.INT, config.limits.connections_max, 2**31 - 1),
        ("max.incremental.fetch.session.cache.slots", ConfigType.INT, config.limits.fetch_sessions_max, 1_000),
        ("node.id", ConfigType.INT, config.kafka.node_id, None),
        ("num.partitions", ConfigType.INT, config.topics.num_partitions, 1),
        ("offset.metadata.max.bytes", ConfigType.INT, config.groups.offset_metadata_bytes_max, 4_096),
        ("offsets.retention.minutes", ConfigType.INT, config.groups.offsets_retention_ms // 60_000, 10_080),
        ("process.roles", ConfigType.LIST, "broker,controller", None),
        ("producer.id.expiration.ms", ConfigType.INT, config.transactions.producer_id_expiry_ms, 86_400_000),
        ("queued.max.request.bytes", ConfigType.LONG, config.limits.request_memory_bytes_max, -1),
        ("socket.request.max.bytes", ConfigType.INT, config.limits.request_bytes_max, 104_857_600),
        ("transaction.max.timeout.ms", ConfigType.INT, config.transactions.timeout_ms_max, 900_000),
        ("transaction.two.phase.commit.enable", ConfigType.BOOLEAN, False, False),
        ("transactional.id.expiration.ms", ConfigType.INT, config.transactions.id_expiry_ms, 604_800_000),
    ]
    table = {name: BrokerConfig(name, kind, _text(value), _text(default)) for name, kind, value, default in rows}
    table |= {row.name: BrokerConfig(row.name, row.type, row.default, row.default) for row in BROKER_CONFIGS.values()}
    table |= _topic_defaults(config, sync)
    return dict(sorted(table.items()))


def _topic_defaults(config: Config, sync: bool) -> dict[str, BrokerConfig]:
    """The broker configs behind the topic configs."""
    topics = config.topics
    values: dict[str, object] = {
        "cleanup.policy": topics.cleanup_policy,
        "compression.type": topics.compression_type,
        "delete.retention.ms": topics.delete_retention_ms,
        "flush.messages": 1 if sync else LONG_MAX,
        "max.message.bytes": topics.message_bytes_max,
        "message.timestamp.type": topics.timestamp_type,
        "retention.bytes": topics.retention_bytes,
    }
    table = {}
    for topic_config, name in BROKER_NAMES.items():
        row = TOPIC_CONFIGS[topic_config]
        table[name] = BrokerConfig(name, row.type, _text(values.get(topic_config, row.default)), row.default)
    # Kafka has log.retention.hours beside it, which holds unless this one is set.
    retention_ms = _text(topics.retention_ms)
    is_set = retention_ms != TOPIC_CONFIGS["retention.ms"].default
    table["log.retention.ms"] = BrokerConfig(
        "log.retention.ms", ConfigType.LONG, retention_ms if is_set else None, None
    )
    return table


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
