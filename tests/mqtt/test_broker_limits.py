"""What is kept for devices that are away, and what is not stored at all."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from gateway.protocols.mqtt.codec.packets import Disconnect
from tests.mqtt.child import WAIT_S, Device, child_broker
from tests.mqtt.wire import Wire

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import KafkaAdminClient, NewTopic

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")


def test_a_session_gets_the_oldest_of_what_it_missed_up_to_its_cap_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_OFFLINE_MESSAGES_MAX", "10")
    monkeypatch.setenv("TRIVIUM_MQTT_SYS_INTERVAL_S", "1")
    with child_broker(tmp_path) as broker:
        device = Device(broker.mqtt, "away", clean=False, holds=True)
        device.subscribe("cap/#", 1)
        publisher = Device(broker.mqtt)
        publisher.publish("cap/a", b"at home")
        message = device.get()
        assert message.payload == b"at home"
        device.client.ack(message.mid, 1)  # before DISCONNECT, or it comes again
        device.close()
        for number in range(25):
            publisher.publish("cap/a", b"%d" % number)
        device = Device(broker.mqtt, "away", clean=False)
        assert device.session_present
        assert device.payloads(10) == [b"%d" % number for number in range(10)]
        publisher.publish("cap/a", b"back again")
        assert device.payloads(1) == [b"back again"]
        device.subscribe("$SYS/broker/publish/messages/dropped", 0)
        while device.get().payload != b"15":
            pass
        for one in (device, publisher):
            one.close()


def test_the_latest_record_of_each_key_of_a_kafka_table_is_retained_for_devices(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.kafka)
        config = {"mqtt.retain": "last", "cleanup.policy": "compact"}
        admin.create_topics([NewTopic("prices", 3, 1, topic_configs=config)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        for key, value in ((b"eur", b"1"), (b"usd", b"2"), (b"eur", b"3"), (b"gbp", b"4"), (b"gbp", None)):
            producer.send("prices", key=key, value=value).get(WAIT_S)
        producer.close()
        for _ in range(2):
            device = Device(broker.mqtt)
            device.subscribe("prices/+", 1)
            messages = [device.get() for _ in range(2)]
            assert {(m.topic, m.payload, m.retain, m.qos) for m in messages} == {
                ("prices/eur", b"3", True, 1),
                ("prices/usd", b"2", True, 1),
            }
            device.break_off()
            broker.kill()
            broker.start()


def test_kafka_clients_read_retained_state_as_a_compacted_topic(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        device = Device(broker.mqtt)
        device.publish("state/a", b"1", retain=True)
        device.publish("/odd", b"2", retain=True)
        device.publish("state/a", b"3")
        device.publish("/odd", b"", retain=True)
        device.close()
        consumer = KafkaConsumer(bootstrap_servers=broker.kafka)
        consumer.assign([TopicPartition("__trivium_retained", 0)])
        consumer.seek_to_beginning()
        found: list[tuple[bytes, bytes | None]] = []
        while len(found) < 3:
            for records in consumer.poll(5000).values():
                found += [(record.key, record.value) for record in records]
        assert found == [(b"state/a", b"1"), (b"/odd", b"2"), (b"/odd", None)]
        consumer.close()


def test_more_sessions_than_allowed_are_refused_those_that_are_there_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_SESSIONS_MAX", "2")
    with child_broker(tmp_path) as broker:
        kept = Wire.connected(broker.mqtt, "kept", version=4, clean=False)
        kept.close()
        fleeting = Wire.connected(broker.mqtt, "fleeting")
        for version, code in ((5, 0x97), (4, 3)):
            refused = Wire(broker.mqtt, version)
            assert refused.connect("third").code == code
            assert refused.next() is None
        kept = Wire.connected(broker.mqtt, "kept", version=4, clean=False)
        assert kept.connack.session_present
        fleeting.send(Disconnect())
        assert fleeting.next() is None
        third = Wire.connected(broker.mqtt, "third")
        for wire in (kept, third):
            wire.close()


def test_qos_0_of_a_topic_that_does_not_store_it_reaches_who_is_connected_and_nobody_else(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.kafka)
        admin.create_topics([NewTopic("fleeting", 1, 1, topic_configs={"mqtt.store_qos0": "false"})])
        admin.close()
        away = Device(broker.mqtt, "away", clean=False)
        away.subscribe("fleeting/#", 1)
        away.close()
        here = Device(broker.mqtt, v5=True)
        here.subscribe("fleeting/+", 1)
        publisher = Device(broker.mqtt, v5=True)
        publisher.publish("fleeting/a", b"gone", 0)
        publisher.publish("fleeting/a", b"kept", 1)
        publisher.publish("fleeting/a", b"retained", 0, retain=True)
        messages = [here.get() for _ in range(3)]
        assert [(m.payload, m.qos) for m in messages] == [(b"gone", 0), (b"kept", 1), (b"retained", 0)]
        away = Device(broker.mqtt, "away", clean=False)
        assert away.payloads(2) == [b"kept", b"retained"]
        consumer = KafkaConsumer(bootstrap_servers=broker.kafka)
        consumer.assign([TopicPartition("fleeting", 0)])
        consumer.seek_to_beginning()
        found: list[bytes] = []
        while len(found) < 2:
            for records in consumer.poll(5000).values():
                found += [record.value for record in records]
        assert found == [b"kept", b"retained"]
        consumer.close()
        for one in (away, here, publisher):
            one.close()
