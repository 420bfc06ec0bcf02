"""The topic config table against Apache Kafka 4.2's, and what each row does."""

from __future__ import annotations

import pytest

from core.errors import CoreError, CoreFailure
from core.topic_config import TOPIC_CONFIGS, ConfigType, check_topic_config, parse_value, topic_settings

# What LogConfig of Kafka 4.2 defines (internal ones left out): name -> type, default.
KAFKA = {
    "cleanup.policy": ("LIST", "delete"),
    "compression.gzip.level": ("INT", "-1"),
    "compression.lz4.level": ("INT", "9"),
    "compression.type": ("STRING", "producer"),
    "compression.zstd.level": ("INT", "3"),
    "delete.retention.ms": ("LONG", "86400000"),
    "file.delete.delay.ms": ("LONG", "60000"),
    "flush.messages": ("LONG", "9223372036854775807"),
    "flush.ms": ("LONG", "9223372036854775807"),
    "follower.replication.throttled.replicas": ("LIST", ""),
    "index.interval.bytes": ("INT", "4096"),
    "leader.replication.throttled.replicas": ("LIST", ""),
    "local.retention.bytes": ("LONG", "-2"),
    "local.retention.ms": ("LONG", "-2"),
    "max.compaction.lag.ms": ("LONG", "9223372036854775807"),
    "max.message.bytes": ("INT", "1048588"),
    "message.timestamp.after.max.ms": ("LONG", "3600000"),
    "message.timestamp.before.max.ms": ("LONG", "9223372036854775807"),
    "message.timestamp.type": ("STRING", "CreateTime"),
    "min.cleanable.dirty.ratio": ("DOUBLE", "0.5"),
    "min.compaction.lag.ms": ("LONG", "0"),
    "min.insync.replicas": ("INT", "1"),
    "preallocate": ("BOOLEAN", "false"),
    "remote.log.copy.disable": ("BOOLEAN", "false"),
    "remote.log.delete.on.disable": ("BOOLEAN", "false"),
    "remote.storage.enable": ("BOOLEAN", "false"),
    "retention.bytes": ("LONG", "-1"),
    "retention.ms": ("LONG", "604800000"),
    "segment.bytes": ("INT", "1073741824"),
    "segment.index.bytes": ("INT", "10485760"),
    "segment.jitter.ms": ("LONG", "0"),
    "segment.ms": ("LONG", "604800000"),
    "unclean.leader.election.enable": ("BOOLEAN", "false"),
}

# A value other than the default for every row, and one that is refused, with the reason (None: every value is taken).
SAMPLES: dict[str, tuple[str, str | None, str]] = {
    "cleanup.policy": ("compact, delete", "compact,shred", "String must be one of: compact, delete"),
    "compression.gzip.level": ("9", "0", "Value must be between 1 and 9 or equal to -1"),
    "compression.lz4.level": ("17", "18", "Value must be no more than 17"),
    "compression.type": ("zstd", "rar", "String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer"),
    "compression.zstd.level": ("-131072", "23", "Value must be no more than 22"),
    "delete.retention.ms": ("0", "-1", "Value must be at least 0"),
    "file.delete.delay.ms": ("0", "-1", "Value must be at least 0"),
    "flush.messages": ("1", "0", "Value must be at least 1"),
    "flush.ms": ("0", "-1", "Value must be at least 0"),
    "follower.replication.throttled.replicas": ("*", "1", "must be the literal '*'"),
    "index.interval.bytes": ("0", "-1", "Value must be at least 0"),
    "leader.replication.throttled.replicas": ("0:1,1:1", "0:1,x", "must be the literal '*'"),
    "local.retention.bytes": ("-1", "-3", "Value must be at least -2"),
    "local.retention.ms": ("-1", "-3", "Value must be at least -2"),
    "max.compaction.lag.ms": ("1", "0", "Value must be at least 1"),
    "max.message.bytes": ("2147483647", "2147483648", "Not a number of type INT"),
    "message.timestamp.after.max.ms": ("0", "-1", "Value must be at least 0"),
    "message.timestamp.before.max.ms": ("0", "-1", "Value must be at least 0"),
    "message.timestamp.type": ("LogAppendTime", "logappendtime", "String must be one of: CreateTime, LogAppendTime"),
    "min.cleanable.dirty.ratio": ("1.0", "1.1", "Value must be no more than 1"),
    "min.compaction.lag.ms": ("1", "x", "Not a number of type LONG"),
    "min.insync.replicas": ("2", "0", "Value must be at least 1"),
    "preallocate": ("TRUE", "yes", "Expected value to be either true or false"),
    "remote.log.copy.disable": ("true", "1", "Expected value to be either true or false"),
    "remote.log.delete.on.disable": ("true", "", "Expected value to be either true or false"),
    "remote.storage.enable": ("FALSE", "true", "Tiered storage is not available"),
    "retention.bytes": ("1000", "9223372036854775808", "Not a number of type LONG"),
    "retention.ms": ("-1", "-2", "Value must be at least -1"),
    "segment.bytes": ("1048576", "1048575", "Value must be at least 1048576"),
    "segment.index.bytes": ("4", "3", "Value must be at least 4"),
    "segment.jitter.ms": ("1", "-1", "Value must be at least 0"),
    "segment.ms": ("1", "0", "Value must be at least 1"),
    "unclean.leader.election.enable": ("true", "no", "Expected value to be either true or false"),
    "key.index": ("true", "2", "Expected value to be either true or false"),
    "mqtt.retain": ("last", "2", "String must be one of: true, false, last"),
    "mqtt.store_qos0": ("false", "2", "Expected value to be either true or false"),
    "message.type": ("fifo", "FIFO", "String must be one of: any, normal, fifo, delay, transaction, mixed"),
    "once.ids.max": ("10", "0", "Value must be at least 1"),
    "trace": ("on", "yes", "String must be one of: off, on, marked"),
    "once.window.ms": ("1000", "-1", "Value must be at least 0"),
    "mqtt.visible": ("false", "2", "Expected value to be either true or false"),
    "validate": ("records", "all", "String must be one of: header, records"),
}


def test_every_config_of_kafka_is_there_with_its_type_and_default() -> None:
    ours = {row.name: (row.type.value, row.default) for row in TOPIC_CONFIGS.values() if not row.own}
    assert ours == KAFKA


def test_every_row_has_samples() -> None:
    assert set(SAMPLES) == set(TOPIC_CONFIGS)


@pytest.mark.parametrize("name", TOPIC_CONFIGS)
def test_a_row_takes_its_default_and_valid_values_and_refuses_others(name: str) -> None:
    valid, invalid, reason = SAMPLES[name]
    row = TOPIC_CONFIGS[name]
    parse_value(row, row.default)
    assert check_topic_config({name: valid}) == {name: valid}
    assert invalid is not None
    with pytest.raises(CoreFailure) as caught:
        check_topic_config({name: invalid})
    assert caught.value.error is CoreError.INVALID_CONFIG
    assert caught.value.message.startswith("Invalid value ")
    assert f"for configuration {name}: {reason}" in caught.value.message


@pytest.mark.parametrize("name", TOPIC_CONFIGS)
def test_honoured_rows_change_the_settings_and_others_nothing(name: str) -> None:
    changed = topic_settings({name: SAMPLES[name][0]}) != topic_settings({})
    assert changed == TOPIC_CONFIGS[name].honoured


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"retention": "1"}, "Unknown topic config name: retention"),
        ({"retention.ms": None}, "Null value not supported for topic configs: retention.ms"),
        ({"retention.ms": "1" * 40_000}, "Longer than 32767 characters"),
        ({"retention.ms": "1e3"}, "Not a number of type LONG"),
        ({"min.cleanable.dirty.ratio": "nan"}, "Not a number of type DOUBLE"),
        (
            {"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"},
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)",
        ),
    ],
)
def test_what_kafka_refuses_is_refused_in_its_words(config: dict[str, str | None], message: str) -> None:
    with pytest.raises(CoreFailure) as caught:
        check_topic_config(config)
    assert message in caught.value.message


def test_overrides_win_over_the_brokers_defaults_and_these_over_kafkas() -> None:
    defaults = {"retention.ms": "5", "cleanup.policy": "compact"}
    assert topic_settings({}, defaults).policy.retention_ms == 5
    assert topic_settings({"retention.ms": "6"}, defaults).policy.retention_ms == 6
    policy = topic_settings({}, defaults).policy
    assert (policy.compact, policy.delete) == (True, False)
    with pytest.raises(CoreFailure):
        check_topic_config({"max.compaction.lag.ms": "5"}, {"min.compaction.lag.ms": "10"})


def test_compacted_topics_have_their_records_checked() -> None:
    assert topic_settings({"cleanup.policy": "compact,delete"}).validate_records
    assert not topic_settings({}).validate_records


def test_types_cover_all_that_the_table_uses() -> None:
    assert {row.type for row in TOPIC_CONFIGS.values()} == set(ConfigType)
