"""The whole broker with real clients: devices among themselves, with Kafka clients, through kill -9 and restart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mqtt.child import WAIT_S, Child, Device, child_broker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

clause = pytest.mark.clause
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


@pytest.mark.parametrize("v5", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_a_device_publishes_reaches_exact_plus_and_hash_filters(broker: Child, v5: bool, qos: int) -> None:
    name = f"plant{qos}{v5}/line3/temp"
    subscribers = [Device(broker.mqtt, v5=v5) for _ in range(3)]
    for device, filter_ in zip(subscribers, [name, f"plant{qos}{v5}/+/temp", f"plant{qos}{v5}/#"], strict=True):
        assert device.subscribe(filter_, qos=2) == [2]
    publisher = Device(broker.mqtt, v5=v5)
    for number in range(50):
        publisher.publish(name, b"%d" % number, qos)
    for device in subscribers:
        messages = [device.get() for _ in range(50)]
        assert [message.payload for message in messages] == [b"%d" % number for number in range(50)]
        assert {(message.topic, message.qos, message.retain) for message in messages} == {(name, qos, False)}
        device.close()
    publisher.close()


def test_kafka_clients_read_what_devices_publish(broker: Child) -> None:
    device = Device(broker.mqtt)
    for number in range(20):
        device.publish("tokafka/line/a", b"%d" % number, number % 3)
    device.publish("tokafka/", b"empty key", 1)
    device.publish("tokafka", b"null key", 1)
    device.publish("/no/topic", b"other", 1)
    device.close()
    consumer = KafkaConsumer(bootstrap_servers=broker.kafka)
    consumer.assign([TopicPartition("tokafka", 0), TopicPartition("mqtt.other", 0)])
    consumer.seek_to_beginning()
    found: list[tuple[str, bytes, bytes, bytes]] = []
    while len(found) < 23:
        for records in consumer.poll(5000).values():
            found += [(r.topic, r.key, r.value, dict(r.headers)["trivium.qos"]) for r in records]
    consumer.close()
    ours = [row[1:] for row in found if row[0] == "tokafka"]
    assert ours[:20] == [(b"line/a", b"%d" % number, b"%d" % (number % 3)) for number in range(20)]
    assert ours[20:] == [(b"", b"empty key", b"1"), (None, b"null key", b"1")]
    assert [row[1:3] for row in found if row[0] == "mqtt.other"] == [(b"/no/topic", b"other")]


def test_devices_get_what_kafka_clients_produce(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    device.subscribe("fromkafka/+/temp", qos=1)
    producer = KafkaProducer(bootstrap_servers=broker.kafka, compression_type="gzip")
    for number in range(30):
        producer.send("fromkafka", key=b"line/temp", value=b"%d" % number, headers=[("unit", b"C")])
        producer.send("fromkafka", key=b"line/speed", value=b"not for us")
    producer.flush()
    producer.close()
    messages = [device.get() for _ in range(30)]
    assert [message.payload for message in messages] == [b"%d" % number for number in range(30)]
    assert messages[0].topic == "fromkafka/line/temp"
    assert messages[0].properties.UserProperty == [("unit", "C")]
    device.close()


def test_aborted_records_never_reach_a_device_open_ones_not_before_their_commit(broker: Child) -> None:
    device = Device(broker.mqtt)
    device.subscribe("ledger/#", qos=1)
    producer = KafkaProducer(bootstrap_servers=broker.kafka, transactional_id="ledger-writer")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("ledger", key=b"a", value=b"aborted").get(WAIT_S)
    publisher = Device(broker.mqtt)
    publisher.publish("ledger/b", b"behind an open transaction", 1)
    assert device.messages.empty()
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send("ledger", key=b"a", value=b"committed").get(WAIT_S)
    producer.commit_transaction()
    assert device.payloads(2) == [b"behind an open transaction", b"committed"]
    producer.close()
    for one in (device, publisher):
        one.close()


def test_internal_topics_do_not_exist_for_devices(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    assert device.subscribe("__trivium_sessions/#") == [0x87]
    device.close()


def test_a_durable_session_gets_what_came_while_it_was_away_also_after_kill(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        device = Device(broker.mqtt, "keeper", clean=False)
        assert not device.session_present
        device.subscribe("away/+", qos=2)
        publisher = Device(broker.mqtt)
        publisher.publish("away/a", b"at home", 1)
        assert device.payloads(1) == [b"at home"]
        device.close()
        for number in range(40):
            publisher.publish("away/a", b"%d" % number, 1 + number % 2)
        broker.kill()
        publisher.break_off()
        broker.start()
        device = Device(broker.mqtt, "keeper", clean=False)
        assert device.session_present
        messages = [device.get() for _ in range(40)]
        for qos in (1, 2):  # order holds among messages of one topic and quality
            payloads = [message.payload for message in messages if message.qos == qos]
            assert payloads == [b"%d" % number for number in range(qos - 1, 40, 2)]
        publisher = Device(broker.mqtt)
        publisher.publish("away/b", b"live again", 2)
        assert device.payloads(1) == [b"live again"]
        publisher.close()
        device.close()
        assert broker.stop() == 0


def test_retained_messages_survive_kill_and_are_found_by_wildcards(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        publisher = Device(broker.mqtt)
        publisher.publish("state/a/x", b"old", 1, retain=True)
        publisher.publish("state/a/x", b"1", 1, retain=True)
        publisher.publish("state/b/x", b"2", 2, retain=True)
        publisher.publish("state/b/y", b"not asked for", 1, retain=True)
        publisher.publish("state/c/x", b"gone", 1, retain=True)
        publisher.publish("state/c/x", b"", 1, retain=True)
        publisher.publish("state/a/x", b"unretained", 1)
        broker.kill()
        publisher.break_off()
        broker.start()
        device = Device(broker.mqtt)
        device.subscribe("state/+/x", qos=1)
        messages = [device.get() for _ in range(2)]
        found = [(m.topic, m.payload, m.retain) for m in messages]
        assert found == [
            ("state/a/x", b"1", True),
            ("state/b/x", b"2", True),
        ]
        publisher = Device(broker.mqtt)
        publisher.publish("state/b/x", b"3", 1, retain=True)
        message = device.get()
        assert (message.payload, message.retain) == (b"3", False)
        publisher.close()
        device.close()
