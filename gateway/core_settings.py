"""From the configuration's sections to the core's settings: the core reads no configuration of its own."""

from __future__ import annotations

from conf.schema import Config
from core.broker import BrokerSettings


def broker_settings(config: Config) -> BrokerSettings:
    topics = config.topics
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
    )
