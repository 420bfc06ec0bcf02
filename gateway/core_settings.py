"""From the configuration's sections to the core's settings: the core reads no configuration of its own."""

from __future__ import annotations

from conf.schema import Config
from core.broker import BrokerSettings
from core.group_types import GroupLimits
from core.store.embedded import EngineConfig
from core.transaction_types import TransactionLimits


def broker_settings(config: Config) -> BrokerSettings:
    topics = config.topics
    groups = config.groups
    return BrokerSettings(
        auto_create_topics=topics.auto_create,
        num_partitions=topics.num_partitions,
        partitions_max=topics.partitions_max,
        topic_defaults={
            "retention.ms": str(topics.retention_ms),
            "retention.bytes": str(topics.retention_bytes),
            "cleanup.policy": topics.cleanup_policy,
            "max.message.bytes": str(topics.message_bytes_max),
            "compression.type": topics.compression_type,
            "message.timestamp.type": topics.timestamp_type,
            "delete.retention.ms": str(topics.delete_retention_ms),
        },
        groups=GroupLimits(
            session_timeout_ms_min=groups.session_timeout_ms_min,
            session_timeout_ms_max=groups.session_timeout_ms_max,
            initial_rebalance_delay_ms=groups.initial_rebalance_delay_ms,
            members_max=groups.members_max,
            consumer_session_timeout_ms=groups.consumer_session_timeout_ms,
            consumer_heartbeat_interval_ms=groups.consumer_heartbeat_interval_ms,
            offsets_retention_ms=groups.offsets_retention_ms,
            offset_metadata_bytes_max=groups.offset_metadata_bytes_max,
        ),
        transactions=TransactionLimits(
            timeout_ms_max=config.transactions.timeout_ms_max,
            id_expiry_ms=config.transactions.id_expiry_ms,
            ids_max=config.transactions.ids_max,
        ),
    )


def engine_config(config: Config) -> EngineConfig:
    store = config.store
    return EngineConfig(
        flush=store.flush,
        flush_interval_ms=store.flush_interval_ms,
        segment_bytes=store.segment_bytes,
        reserve_bytes=store.disk_free_bytes_min,
        producer_expiry_ms=config.transactions.producer_id_expiry_ms,
    )
