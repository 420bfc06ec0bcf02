"""`deliver-at` with real clients: set by a device or a Kafka client, what Kafka's clients make of holes, kill -9."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from paho.mqtt.packettypes import PacketTypes

import trivium.blocking
from tests.mqtt.child import WAIT_S, Child, Device, child_broker, properties

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def deliver_at(due_ms: object) -> Any:
    found = properties(PacketTypes.PUBLISH)
    found.UserProperty = [("deliver-at", str(due_ms))]
    return found


def test_a_device_sends_later_and_another_gets_it_then(broker: Child) -> None:
    receiver, sender = Device(broker.mqtt, v5=True), Device(broker.mqtt, v5=True)
    receiver.subscribe("later/#", qos=1)
    sender.publish("later/a", b"much later", properties=deliver_at(now_ms() + HOUR_MS))
    sender.publish("later/a", b"now")
    sender.publish("later/a", b"past", properties=deliver_at(1))
    assert receiver.payloads(2) == [b"now", b"past"]
    due_ms = now_ms() + 100
    sender.publish("later/a", b"later", properties=deliver_at(due_ms))
    assert receiver.get().payload == b"later"
    assert now_ms() >= due_ms
    for device in (receiver, sender):
        device.close()


def test_a_kafka_client_sends_later_and_a_device_gets_it(broker: Child) -> None:
    receiver = Device(broker.mqtt)
    receiver.subscribe("fromkafka/#", qos=1)
    producer = KafkaProducer(bootstrap_servers=broker.kafka)
    much_later = [("deliver-at", b"%d" % (now_ms() + HOUR_MS))]
    producer.send("fromkafka", key=b"a/b", value=b"much later", headers=much_later)
    producer.send("fromkafka", key=b"a/b", value=b"now").get(WAIT_S)
    assert receiver.get().payload == b"now"
    due_ms = now_ms() + 100
    producer.send("fromkafka", key=b"a/b", value=b"later", headers=[("deliver-at", b"%d" % due_ms)])
    assert receiver.get().payload == b"later"
    assert now_ms() >= due_ms
    producer.close()
    receiver.close()


def send_with_holes(producer: confluent_kafka.Producer, topic: str, wait_ms: int) -> bool:
    """Whether all was stored before the first of it was due."""
    producer.produce(topic, b"first", partition=0)
    producer.flush(WAIT_S)  # makes the topic
    due_ms = now_ms() + wait_ms
    for number in range(60):  # mixed batches, then batches of nothing but holes
        waits = number % 3 == 0 or number >= 40
        headers = [("deliver-at", str(due_ms))] if waits else None
        producer.produce(topic, b"%d" % number, partition=0, headers=headers)
        if number % 10 == 9:
            producer.flush(WAIT_S)
    return now_ms() < due_ms


def test_kafkas_clients_read_over_holes_to_the_end(broker: Child) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.kafka, "enable.idempotence": True})
    waits_ms = [500, 5_000, 50_000, 500_000]  # the first that is long enough for this machine
    topic = next(topic for wait_ms in waits_ms if send_with_holes(producer, topic := f"holes{wait_ms}", wait_ms))
    now = [b"first", *(b"%d" % number for number in range(40) if number % 3)]
    later = [b"%d" % number for number in range(60) if number % 3 == 0 or number >= 40]
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.kafka, "group.id": "h"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    found: list[confluent_kafka.Message] = []
    while len(found) < 61:
        message = consumer.poll(WAIT_S)
        assert message is not None
        found.append(message)
    consumer.close()
    assert [message.value() for message in found[: len(now)]] == now
    assert [message.value() for message in found[len(now) :]] == later
    assert [message.offset() for message in found[len(now) :]] == list(range(61, 61 + len(later)))
    other = KafkaConsumer(bootstrap_servers=broker.kafka, consumer_timeout_ms=WAIT_S * 1000)
    other.assign([TopicPartition(topic, 0)])
    other.seek_to_beginning()
    assert [next(other).value for _ in range(61)] == now + later
    other.close()


def test_what_was_acknowledged_comes_once_through_kills(tmp_path: Path) -> None:
    with child_broker(tmp_path, "--kafka", "127.0.0.1:0") as broker:
        acknowledged: set[bytes] = set()
        for turn in range(2):
            producer = confluent_kafka.Producer(
                {"bootstrap.servers": broker.kafka, "enable.idempotence": True, "linger.ms": 1}
            )

            def delivered(error: object, message: Any) -> None:
                if error is None:
                    acknowledged.add(message.value())

            for number in range(400):
                due_ms = now_ms() + 50 + 3 * number  # some are due before the kill, some while the broker is down
                value = b"%d-%d" % (turn, number)
                producer.produce("t", value, partition=0, headers=[("deliver-at", str(due_ms))], on_delivery=delivered)
                producer.poll(0)
                if number % 100 == 0:
                    producer.flush(WAIT_S)
            deadline = time.monotonic() + WAIT_S
            while len(acknowledged) < 400 * turn + 300 and time.monotonic() < deadline:
                producer.poll(0.01)
            broker.kill()
            producer.purge()
            broker.start()
        consumer = KafkaConsumer(bootstrap_servers=broker.kafka, consumer_timeout_ms=WAIT_S * 1000)
        consumer.assign([TopicPartition("t", 0)])
        consumer.seek_to_beginning()
        found: list[bytes] = []
        while not acknowledged <= set(found):
            found.append(next(consumer).value)
        # Nothing comes twice, not of the unacknowledged either; a marker behind all that is due shows the end.
        marker = KafkaProducer(bootstrap_servers=broker.kafka)
        due_ms = now_ms() + 1_500
        marker.send("t", value=b"end", partition=0, headers=[("deliver-at", b"%d" % due_ms)]).get(WAIT_S)
        while found[-1] != b"end":
            found.append(next(consumer).value)
        marker.close()
        consumer.close()
        assert len(found) == len(set(found))


def once_id(value: str) -> Any:
    found = properties(PacketTypes.PUBLISH)
    found.UserProperty = [("once-id", value)]
    return found


def test_a_message_with_an_id_of_the_devices_own_is_stored_once_also_over_kill_9(tmp_path: Path) -> None:
    with child_broker(tmp_path) as child:
        with trivium.blocking.connect(child.native) as client:
            client.create_topic("counts", 1, {"once.window.ms": "3600000"})
        sender = Device(child.mqtt, v5=True)
        for qos in (1, 2, 0):
            sender.publish("counts/a", b"before")
            sender.publish("counts/a", b"%d" % qos, qos, properties=once_id("7"))
            sender.publish("counts/a", b"%d" % qos, qos, retain=True, properties=once_id("8"))
        sender.close()
        child.kill()
        child.start()
        sender = Device(child.mqtt, v5=True)
        sender.publish("counts/a", b"again", properties=once_id("7"))
        sender.publish("counts/a", b"after")
        retained = Device(child.mqtt, v5=True)
        retained.subscribe("counts/#", qos=1)
        assert retained.payloads(1) == [b"1"]  # as the first said, not those that were stored before
        for device in (sender, retained):
            device.close()
        with (
            trivium.blocking.connect(child.native) as client,
            client.consumer("counts", start=trivium.EARLIEST) as messages,
        ):
            values = [next(iter(messages)).value for _ in range(6)]
        assert values == [b"before", b"1", b"1", b"before", b"before", b"after"]
