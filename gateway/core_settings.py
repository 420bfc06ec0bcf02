"""From the configuration's sections to the settings of the core and the front-ends, which read none of their own."""

from __future__ import annotations

from conf.schema import Config, MqttConfig
from core.broker import BrokerSettings, TraceSettings
from core.group_types import GroupLimits
from core.queue_types import QueueLimits
from core.store.embedded import EngineConfig
from core.topic_mapping import Rule, TopicMapping
from core.transaction_types import TransactionLimits
from gateway.protocols.mqtt.acl import Acl
from gateway.protocols.mqtt.admission import Admission
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.parked import PublishSettings
from gateway.protocols.mqtt.passwords import Passwords
from gateway.protocols.mqtt.server import ListenAt, MqttSettings
from gateway.tls import Certificate

CONNECT_BYTES_MAX = 131_072  # the first packet of an MQTT connection


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
            "mqtt.store_qos0": str(config.mqtt.store_qos0).lower(),
        },
        groups=GroupLimits(
            session_timeout_ms_min=groups.session_timeout_ms_min,
            session_timeout_ms_max=groups.session_timeout_ms_max,
            initial_rebalance_delay_ms=groups.initial_rebalance_delay_ms,
            members_max=groups.members_max,
            consumer_session_timeout_ms=groups.consumer_session_timeout_ms,
            consumer_heartbeat_interval_ms=groups.consumer_heartbeat_interval_ms,
            consumer_session_timeout_ms_min=groups.consumer_session_timeout_ms_min,
            consumer_session_timeout_ms_max=groups.consumer_session_timeout_ms_max,
            consumer_heartbeat_interval_ms_min=groups.consumer_heartbeat_interval_ms_min,
            consumer_heartbeat_interval_ms_max=groups.consumer_heartbeat_interval_ms_max,
            offsets_retention_ms=groups.offsets_retention_ms,
            offset_metadata_bytes_max=groups.offset_metadata_bytes_max,
        ),
        queues=QueueLimits(**config.queues.model_dump()),
        traces=TraceSettings(
            region=config.tracing.region,
            retention_ms=config.tracing.retention_ms,
            retention_bytes=config.tracing.retention_bytes,
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


def mqtt_settings(config: Config) -> MqttSettings:
    """Reads the files that it names. Raises ValueError (mapping rules that cannot be undone too) or OSError."""
    mqtt = config.mqtt
    return MqttSettings(
        listeners=_mqtt_listeners(mqtt),
        limits=Limits(
            packet_bytes_max=mqtt.packet_bytes_max,
            connect_bytes_max=min(mqtt.packet_bytes_max, CONNECT_BYTES_MAX),
            keep_alive_s_max=mqtt.keep_alive_s_max,
            receive_max=mqtt.receive_max,
            inflight_max=mqtt.inflight_max,
            output_bytes_max=mqtt.output_bytes_max,
            session_expiry_s_max=mqtt.session_expiry_s_max,
            publishes_per_s_max=mqtt.publishes_per_s_max,
            bytes_per_s_max=mqtt.bytes_per_s_max,
        ),
        publishing=PublishSettings(
            auto_topics_max=mqtt.auto_topics_max,
            partitions=config.topics.num_partitions,
            config={
                "retention.ms": str(mqtt.auto_topic_retention_ms),
                "retention.bytes": str(mqtt.auto_topic_retention_bytes),
            },
        ),
        mapping=_mapping(mqtt),
        connections_max=mqtt.connections_max,
        drain_s=config.limits.drain_ms_max / 1000,
        sessions_max=mqtt.sessions_max,
        will_grace_s=mqtt.will_grace_s,
        offline_messages_max=mqtt.offline_messages_max,
        sys_interval_s=mqtt.sys_interval_s,
        admission=_admission(mqtt),
        certificate=_certificate(mqtt),
    )


def _mapping(mqtt: MqttConfig) -> TopicMapping:
    try:
        return TopicMapping([Rule(rule.filter, rule.topic, rule.key) for rule in mqtt.rules], mqtt.catch_all)
    except ValueError as error:
        raise ValueError(f"[mqtt] rules, catch_all: {error}") from None


def _mqtt_listeners(mqtt: MqttConfig) -> list[ListenAt]:
    kinds = [
        (mqtt.listen, False, None),
        (mqtt.listen_tls, True, None),
        (mqtt.listen_ws, False, mqtt.ws_path),
        (mqtt.listen_wss, True, mqtt.ws_path),
    ]
    return [ListenAt(*address, tls, path) for address, tls, path in kinds if address is not None]


def _admission(mqtt: MqttConfig) -> Admission:
    passwords = Passwords(mqtt.password_file) if mqtt.password_file is not None else None
    acl = Acl(mqtt.acl_file) if mqtt.acl_file is not None else None
    anonymous = passwords is None if mqtt.allow_anonymous is None else mqtt.allow_anonymous
    return Admission(passwords, acl, anonymous=anonymous)


def _certificate(mqtt: MqttConfig) -> Certificate | None:
    if mqtt.tls_certificate is None or mqtt.tls_key is None:
        return None
    return Certificate(mqtt.tls_certificate, mqtt.tls_key)
