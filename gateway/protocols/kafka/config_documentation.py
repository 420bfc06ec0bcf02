"""One sentence about each config that DescribeConfigs can name, for clients that ask for documentation.

A config that is taken and has no effect here is said to have none: that is what an operator reads the sentence for. A
broker config that is the default of a topic config says that of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from core.topic_config import BROKER_NAMES

_LEVEL = "Without effect: records are compressed at the codec's own level."
_REPLICAS = "Without effect: there is one copy of each partition."
_TIERS = "Without effect: there is no tiered storage."
_SEGMENTS = "Without effect: partitions share the segments of one log."

TOPIC_DOCUMENTATION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cleanup.policy": "What becomes of old records: `delete` by age and size, `compact` to the newest of each key.",
        "compression.gzip.level": _LEVEL,
        "compression.lz4.level": _LEVEL,
        "compression.type": "The codec that batches are stored in; `producer` keeps them as they came.",
        "compression.zstd.level": _LEVEL,
        "delete.retention.ms": "How long a compacted topic keeps the marker of a deleted key, in milliseconds.",
        "file.delete.delay.ms": _SEGMENTS,
        "flush.messages": "Without effect: the broker's setting `store.flush` says when records reach the disk.",
        "flush.ms": "Without effect: the broker's setting `store.flush` says when records reach the disk.",
        "follower.replication.throttled.replicas": _REPLICAS,
        "index.interval.bytes": _SEGMENTS,
        "leader.replication.throttled.replicas": _REPLICAS,
        "local.retention.bytes": _TIERS,
        "local.retention.ms": _TIERS,
        "max.compaction.lag.ms": "A record is due for compaction at the latest when it is this old, in milliseconds.",
        "max.message.bytes": "The largest batch that producers may send, in bytes.",
        "message.timestamp.after.max.ms": "How far ahead of the broker's clock a timestamp may be, in milliseconds.",
        "message.timestamp.before.max.ms": "How far behind the broker's clock a timestamp may be, in milliseconds.",
        "message.timestamp.type": "Whether records carry the producer's time or that of their arrival.",
        "min.cleanable.dirty.ratio": "The share of a compacted partition that must be new before it is compacted.",
        "min.compaction.lag.ms": "A record is left alone by compaction until it is this old, in milliseconds.",
        "min.insync.replicas": _REPLICAS,
        "preallocate": _SEGMENTS,
        "remote.log.copy.disable": _TIERS,
        "remote.log.delete.on.disable": _TIERS,
        "remote.storage.enable": "Always `false`: there is no tiered storage.",
        "retention.bytes": "How much a partition keeps, in bytes; -1 sets no limit.",
        "retention.ms": "How long records are kept, in milliseconds; -1 sets no limit.",
        "segment.bytes": "How much new data of a compacted topic may wait before it can be compacted, in bytes.",
        "segment.index.bytes": _SEGMENTS,
        "segment.jitter.ms": _SEGMENTS,
        "segment.ms": "How long new data of a compacted topic may wait before it can be compacted, in milliseconds.",
        "unclean.leader.election.enable": _REPLICAS,
        "key.index": "Whether records can be looked up by their key without reading the partition.",
        "message.type": "The one kind of message that the topic takes, or `any` or `mixed`.",
        "mqtt.retain": "What new MQTT subscribers get: messages sent with RETAIN, the last of each key, or nothing.",
        "mqtt.store_qos0": "Whether MQTT messages of QoS 0 are stored, so that those who were away get them.",
        "mqtt.visible": "Whether MQTT clients can see the topic.",
        "once.ids.max": "How many ids of messages that are stored once the topic remembers.",
        "once.window.ms": "How long the id of a message that is stored once is remembered, in milliseconds; 0 never.",
        "trace": "Whether the way of all messages is traced, of none, or of those marked for it.",
        "validate": "Whether a batch's header alone is checked when it comes in, or each of its records.",
    }
)

_GROUP_DEFAULT = "{} of groups of the consumer protocol that do not set one, in milliseconds."
_GROUP_LIMIT = "The {} that groups of the consumer protocol may set, in milliseconds."
_CLEANER = "Without effect: compaction sizes its work itself."
_THREADS = "Without effect: the broker serves its clients from one thread."

BROKER_DOCUMENTATION: Final[Mapping[str, str]] = MappingProxyType(
    {name: f"The default of the topic config `{topic}`." for topic, name in BROKER_NAMES.items()}
    | {
        "advertised.listeners": "The address that clients are told to connect to.",
        "auto.create.topics.enable": "Whether a topic is made when a client asks for one that is not there.",
        "background.threads": _THREADS,
        "broker.id": "The number of this broker in the cluster, which has no other.",
        "connections.max.idle.ms": "A client that is silent for so long is disconnected, in milliseconds.",
        "default.replication.factor": "How many copies of a partition there are: always one.",
        "delete.topic.enable": "Whether topics can be deleted: always.",
        "fetch.max.bytes": "How much one answer to a fetch may hold, in bytes.",
        "follower.replication.throttled.rate": _REPLICAS,
        "group.consumer.heartbeat.interval.ms": _GROUP_DEFAULT.format("The time between heartbeats"),
        "group.consumer.max.heartbeat.interval.ms": _GROUP_LIMIT.format("longest time between heartbeats"),
        "group.consumer.max.session.timeout.ms": _GROUP_LIMIT.format("longest session time-out"),
        "group.consumer.min.heartbeat.interval.ms": _GROUP_LIMIT.format("shortest time between heartbeats"),
        "group.consumer.min.session.timeout.ms": _GROUP_LIMIT.format("shortest session time-out"),
        "group.consumer.session.timeout.ms": _GROUP_DEFAULT.format("The session time-out"),
        "group.initial.rebalance.delay.ms": "How long a new classic group waits for more members, in milliseconds.",
        "group.max.session.timeout.ms": "The longest session time-out that members of classic groups may ask for.",
        "group.max.size": "How many members a group may have.",
        "group.min.session.timeout.ms": "The shortest session time-out that members of classic groups may ask for.",
        "leader.replication.throttled.rate": _REPLICAS,
        "listeners": "The address that the broker listens on for Kafka clients.",
        "log.cleaner.backoff.ms": _CLEANER,
        "log.cleaner.dedupe.buffer.size": _CLEANER,
        "log.cleaner.enable": "Whether compacted topics are compacted: always.",
        "log.cleaner.io.buffer.load.factor": _CLEANER,
        "log.cleaner.io.buffer.size": _CLEANER,
        "log.cleaner.io.max.bytes.per.second": _CLEANER,
        "log.cleaner.threads": _CLEANER,
        "log.dirs": "The folder that holds the broker's data.",
        "log.flush.interval.ms": "How often written data is brought to the disk where producers do not wait for it.",
        "log.retention.hours": "Fixed: `log.retention.ms` says how long records are kept.",
        "log.retention.minutes": "Not used: `log.retention.ms` says how long records are kept.",
        "max.connections": "How many Kafka clients may be connected.",
        "max.incremental.fetch.session.cache.slots": "How many fetch sessions are kept for consumers.",
        "node.id": "The number of this broker in the cluster, which has no other.",
        "num.io.threads": _THREADS,
        "num.network.threads": _THREADS,
        "num.partitions": "How many partitions a topic gets that is made without a number.",
        "num.recovery.threads.per.data.dir": "Without effect: partitions share one log, which is read at start.",
        "num.replica.fetchers": _REPLICAS,
        "offset.metadata.max.bytes": "How much text may be committed with an offset, in bytes.",
        "offsets.retention.minutes": "How long the offsets of a group without members are kept, in minutes.",
        "process.roles": "What this process is: the one broker, and its own controller.",
        "producer.id.expiration.ms": "How long an idempotent producer that sends nothing is remembered.",
        "queued.max.request.bytes": "How much the requests of all clients may hold in memory, in bytes.",
        "replica.alter.log.dirs.io.max.bytes.per.second": "Without effect: there is one folder of data.",
        "socket.request.max.bytes": "The largest request, in bytes.",
        "transaction.max.timeout.ms": "The longest time-out that a transaction may ask for, in milliseconds.",
        "transaction.two.phase.commit.enable": "Whether transactions can be prepared from outside: never.",
        "transactional.id.expiration.ms": "How long a transactional id without a transaction is kept, in milliseconds.",
    }
)

GROUP_DOCUMENTATION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "consumer.heartbeat.interval.ms": "The time between heartbeats of a consumer group's members, in milliseconds.",
        "consumer.session.timeout.ms": "A consumer group's member that is silent for so long is removed.",
        "share.auto.offset.reset": "Where a new share group begins: `earliest`, `latest` or `by_duration:` ago.",
        "share.heartbeat.interval.ms": "The time between heartbeats of a share group's members, in milliseconds.",
        "share.isolation.level": "Whether a share group gets records of open and aborted transactions.",
        "share.record.lock.duration.ms": "How long a record is its member's before another may get it.",
        "share.session.timeout.ms": "A share group's member that is silent for so long is removed.",
    }
)
