"""Which topics devices make, see and fall back to; keys that are no names; with Kafka clients beside."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.mqtt.child import WAIT_S, Device, child_broker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")


def _records(bootstrap: str, topic: str, count: int) -> list[tuple[bytes | None, bytes]]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    found: list[tuple[bytes | None, bytes]] = []
    while len(found) < count:
        for records in consumer.poll(5000).values():
            found += [(record.key, record.value) for record in records]
    consumer.close()
    return found


def test_topics_beyond_what_devices_may_make_go_to_the_catch_all_and_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_AUTO_TOPICS_MAX", "2")
    with child_broker(tmp_path) as broker:
        subscriber = Device(broker.mqtt)
        subscriber.subscribe([("dev3/#", 1), ("dev4/state", 1)])
        device = Device(broker.mqtt)
        for number in range(1, 5):
            device.publish(f"dev{number}/state", b"%d" % number, 1)
        assert subscriber.payloads(2) == [b"3", b"4"]
        assert _records(broker.kafka, "dev2", 1) == [(b"state", b"2")]
        assert _records(broker.kafka, "mqtt.other", 2) == [(b"dev3/state", b"3"), (b"dev4/state", b"4")]
        # One that somebody else makes takes what comes from then on; the way back holds for both.
        admin = KafkaAdminClient(bootstrap_servers=broker.kafka)
        admin.create_topics([NewTopic("dev3", 1, 1)])
        device.publish("dev3/state", b"5", 1)
        message = subscriber.get()
        assert (message.topic, message.payload) == ("dev3/state", b"5")
        assert _records(broker.kafka, "dev3", 1) == [(b"state", b"5")]
        # What devices make has a bounded retention, whatever the broker's default is.
        resource = ConfigResource(ConfigResourceType.TOPIC, "dev1")
        answer: Any = admin.describe_configs([resource], config_filter="all")
        found = {name: entry["value"] for name, entry in answer["topic"]["dev1"].items()}
        assert (found["retention.ms"], found["retention.bytes"]) == ("604800000", "1073741824")
        admin.close()
        for one in (subscriber, device):
            one.close()


def test_a_topic_that_is_not_visible_does_not_exist_for_devices(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.kafka)
        admin.create_topics([NewTopic("ledger", 1, 1, topic_configs={"mqtt.visible": "false"}), NewTopic("open", 1, 1)])
        admin.close()
        device = Device(broker.mqtt, v5=True)
        assert device.subscribe([("#", 1), ("ledger/a", 1), ("ledger/#", 1), ("open/#", 1)]) == [1, 0x87, 0x87, 1]
        device.publish("ledger/a", b"refused", 1)
        assert device.published == [0x87]
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        producer.send("ledger", key=b"a", value=b"hidden").get(WAIT_S)
        producer.send("open", key=b"a", value=b"shown").get(WAIT_S)
        producer.close()
        assert device.get().payload == b"shown"
        device.close()


def test_keys_that_are_no_names_reach_subscribers_of_the_bare_topic(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        bare, below = Device(broker.mqtt, v5=True), Device(broker.mqtt, v5=True)
        bare.subscribe("table", 1)
        below.subscribe("table/+", 1)
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        keys = [b"a/+", b"\xff", b"nul\0", None]
        for key in keys:
            producer.send("table", key=key, value=b"v").get(WAIT_S)
        producer.send("table", key=b"name", value=None).get(WAIT_S)
        producer.close()
        messages = [bare.get() for _ in keys]
        assert {message.topic for message in messages} == {"table"}
        marks = [getattr(message.properties, "UserProperty", []) for message in messages]
        assert marks == [
            [("trivium.key", "a/+")],
            [("trivium.key-base64", "/w==")],
            [("trivium.key-base64", "bnVsAA==")],
            [],  # a null key is the bare topic's own name
        ]
        message = below.get()
        assert (message.topic, message.payload) == ("table/name", b"")
        assert message.properties.UserProperty == [("trivium.null-value", "")]
        for one in (bare, below):
            one.close()


def test_one_name_has_one_partition_whoever_writes_it(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.kafka)
        admin.create_topics([NewTopic("spread", 8, 1)])
        admin.close()
        device = Device(broker.mqtt)
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        for number in range(20):
            key = f"line{number}/temp"
            placed = producer.send("spread", key=key.encode(), value=b"kafka").get(WAIT_S)
            device.publish(f"spread/{key}", b"device", 1)
            consumer = KafkaConsumer(bootstrap_servers=broker.kafka)
            consumer.assign([TopicPartition("spread", placed.partition)])
            consumer.seek(TopicPartition("spread", placed.partition), placed.offset)
            found: list[tuple[bytes, bytes]] = []
            while len(found) < 2:
                for records in consumer.poll(1000).values():
                    found += [(record.key, record.value) for record in records]
            assert found == [(key.encode(), b"kafka"), (key.encode(), b"device")]
            consumer.close()
        producer.close()
        device.close()
