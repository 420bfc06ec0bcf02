"""Real Kafka consumers that run through a reset of their group: with every group protocol and eager auto-commit, they
read everything again though what they had read was committed, and is being committed, from before.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import confluent_kafka
import pytest

import trivium
import trivium.blocking
from tests.native.harness import Addresses, in_thread
from tests.patience import PATIENCE_S

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, TopicPartition

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")
WAIT_S = PATIENCE_S
PARTITIONS = 4
RECORDS = 400
Seen = Callable[[int, int], None]  # partition, offset
Poll = Callable[[], None]


@pytest.fixture(scope="module")
def broker() -> Iterator[Addresses]:
    quick: dict[str, object] = {
        "initial_rebalance_delay_ms": 0,
        "consumer_heartbeat_interval_ms": 200,
        "consumer_heartbeat_interval_ms_min": 200,
    }
    with in_thread(groups=quick) as addresses:
        yield addresses


def kafka_python(broker: Addresses, topic: str, group: str, seen: Seen) -> tuple[Poll, Poll]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=broker.kafka,
        group_id=group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=20,
        heartbeat_interval_ms=100,
    )

    def poll() -> None:
        for records in consumer.poll(100).values():
            for record in records:
                seen(record.partition, record.offset)

    return poll, consumer.close


def librdkafka(**settings: str) -> Callable[[Addresses, str, str, Seen], tuple[Poll, Poll]]:
    def start(broker: Addresses, topic: str, group: str, seen: Seen) -> tuple[Poll, Poll]:
        base: dict[str, Any] = {
            "bootstrap.servers": broker.kafka,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 20,
            "broker.address.family": "v4",
        }
        if settings.get("group.protocol") != "consumer":
            base["heartbeat.interval.ms"] = 100
        consumer = confluent_kafka.Consumer({**base, **settings})
        consumer.subscribe([topic])

        def poll() -> None:
            for message in consumer.consume(100, 0.1):
                if message.error() is None:
                    seen(message.partition(), message.offset())

        return poll, consumer.close

    return start


CLIENTS = {
    "kafka-python": kafka_python,
    "librdkafka-range": librdkafka(),
    "librdkafka-cooperative": librdkafka(**{"partition.assignment.strategy": "cooperative-sticky"}),
    "librdkafka-kip848": librdkafka(**{"group.protocol": "consumer"}),
}


class Reading:
    """Members of one group, each on a thread of its own; what they read since the last `expect_all`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: set[tuple[int, int]] = set()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def saw(self, partition: int, offset: int) -> None:
        with self._changed:
            self._seen.add((partition, offset))
            self._changed.notify_all()

    def add(self, start: Callable[[], tuple[Poll, Poll]]) -> None:
        def run() -> None:
            poll, close = start()
            while not self._stop.is_set():
                poll()
            close()

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def forget(self) -> None:
        with self._changed:
            self._seen.clear()

    def expect(self, places: set[tuple[int, int]]) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: places <= self._seen, WAIT_S)
            assert done, f"{len(places - self._seen)} of {len(places)} records did not come"

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.mark.parametrize("client", CLIENTS)
def test_running_members_read_again_from_where_the_group_is_reset_to(broker: Addresses, client: str) -> None:
    topic = group = f"reset-{client}"
    everything = {(number % PARTITIONS, number // PARTITIONS) for number in range(RECORDS)}
    with trivium.blocking.connect(broker.native) as admin:
        admin.create_topic(topic, PARTITIONS)
        with admin.producer() as producer:
            for number in range(RECORDS):
                producer.send(topic, b"%d" % number, partition=number % PARTITIONS, timestamp_ms=1_000 * number)
        reading = Reading()
        for _ in range(2):
            reading.add(lambda: CLIENTS[client](broker, topic, group, reading.saw))
        reading.expect(everything)
        for _ in range(2):
            reading.forget()
            assert set(admin.reset(group, trivium.EARLIEST).values()) == {0}
            reading.expect(everything)
        reading.forget()
        half = admin.reset(group, 1_000 * RECORDS // 2)
        assert set(half.values()) == {RECORDS // PARTITIONS // 2}
        reading.expect({place for place in everything if place[1] >= RECORDS // PARTITIONS // 2})
        reading.stop()
        assert admin.committed(group) == {(topic, number): RECORDS // PARTITIONS for number in range(PARTITIONS)}


def test_a_commit_from_before_is_refused_until_the_member_has_joined_again(broker: Addresses) -> None:
    topic = group = "late-commit"
    with trivium.blocking.connect(broker.native) as admin:
        admin.create_topic(topic, 1)
        with admin.producer() as producer:
            for number in range(10):
                producer.send(topic, b"%d" % number)
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": broker.kafka,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 300_000,
                "heartbeat.interval.ms": 250_000,  # it does not hear of the reset before it commits
                "broker.address.family": "v4",
            }
        )
        consumer.subscribe([topic])
        messages: list[Any] = []
        while len(messages) < 10:
            messages += consumer.consume(10 - len(messages), 1.0)
        admin.reset(group, offset=2)
        with pytest.raises(confluent_kafka.KafkaException) as caught:
            consumer.commit(asynchronous=False)
        assert caught.value.args[0].code() == confluent_kafka.KafkaError.UNKNOWN_MEMBER_ID
        assert admin.committed(group) == {(topic, 0): 2}
        again: list[Any] = []
        while len(again) < 8:
            again += [one for one in consumer.consume(8 - len(again), 1.0) if one.error() is None]
        assert [message.offset() for message in again] == list(range(2, 10))
        consumer.commit(asynchronous=False)
        consumer.close()
        assert admin.committed(group) == {(topic, 0): 10}


def test_partitions_are_reset_that_nobody_has_committed(broker: Addresses) -> None:
    with trivium.blocking.connect(broker.native) as admin:
        admin.create_topic("uncommitted", 2)
        consumer = KafkaConsumer(
            "uncommitted", bootstrap_servers=broker.kafka, group_id="uncommitted", enable_auto_commit=False
        )
        while not consumer.assignment():
            consumer.poll(100)
        assert admin.reset("uncommitted", trivium.LATEST) == {("uncommitted", 0): 0, ("uncommitted", 1): 0}
        assert consumer.committed(TopicPartition("uncommitted", 1)) == 0
        consumer.close()
