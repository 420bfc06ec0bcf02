"""confluent-kafka (librdkafka): produce with every codec and acks, both group protocols, transactions, admin."""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any

from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)
from harness import BOOTSTRAP, WAIT_S, each_codec_and_acks, eventually, main, raises, same, test, true, unique

NOW_MS = int(time.time() * 1000)
QUIET = {"bootstrap.servers": BOOTSTRAP, "log_level": 3, "broker.address.family": "v4"}


@functools.cache
def admin() -> AdminClient:
    """One for the whole run: a request dies with the client that sent it, even while its future is waited for."""
    return AdminClient(dict(QUIET))


def done(futures: dict[Any, Any]) -> list[Any]:
    return [future.result(WAIT_S) for future in futures.values()]


def new_topic(prefix: str, partitions: int = 1, **configs: str) -> str:
    name = unique(prefix)
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    done(admin().create_topics([NewTopic(name, partitions, 1, config=settings)]))
    eventually(
        lambda: len(admin().list_topics(name, WAIT_S).topics[name].partitions) == partitions, f"metadata of {name}"
    )
    return name


def producer(**settings: Any) -> Producer:
    return Producer({**QUIET, "linger.ms": 2, **{name.replace("_", "."): value for name, value in settings.items()}})


def consumer(**settings: Any) -> ConfluentConsumer:
    base = {**QUIET, "group.id": unique("reader"), "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return ConfluentConsumer({**base, **{name.replace("_", "."): value for name, value in settings.items()}})


def read(client: ConfluentConsumer, count: int, timeout_s: float = WAIT_S) -> list[Any]:
    messages: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(messages) < count:
        for message in client.consume(500, 0.2):
            if message.error():
                raise KafkaException(message.error())
            messages.append(message)
        true(time.monotonic() < deadline, f"only {len(messages)} of {count} records after {timeout_s:.0f} s")
    return messages


def read_topic(topic: str, count: int, partitions: int = 1, **settings: Any) -> list[Any]:
    client = consumer(**settings)
    client.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    messages = read(client, count)
    client.close()
    return sorted(messages, key=lambda message: (message.partition(), message.offset()))


@each_codec_and_acks
def produce(codec: str, acks: str) -> None:
    topic = new_topic("produce")
    client = producer(acks=acks, compression_type=codec)
    sent, failures = [], []
    for number in range(300):
        key = None if number % 7 == 0 else f"key-{number % 10}".encode()
        value = None if number % 11 == 5 else (f"value-{number}-".encode() * (1 + number % 30))
        headers = [("number", str(number).encode()), ("empty", b""), ("null", None)] if number % 2 else None
        sent.append((key, value, headers, NOW_MS + number))
        client.produce(
            topic,
            value,
            key,
            partition=0,
            timestamp=NOW_MS + number,
            headers=headers,
            on_delivery=lambda e, _: failures.append(e),
        )
    same(client.flush(20), 0, "messages left after flush")
    same(failures, [None] * 300, "delivery errors")
    found = read_topic(topic, 300)
    same([message.offset() for message in found], list(range(300)), "offsets")
    same([(m.key(), m.value(), m.headers(), m.timestamp()[1]) for m in found], sent, "records")


@test("produce-idempotent")
def idempotent() -> None:
    topic = new_topic("idempotent", partitions=3)
    client = producer(enable_idempotence=True, compression_type="lz4", batch_num_messages=7)
    for number in range(2000):
        client.produce(topic, str(number).encode(), partition=number % 3)
    same(client.flush(20), 0, "messages left after flush")
    found = read_topic(topic, 2000, partitions=3)
    numbers = [[int(m.value()) for m in found if m.partition() == part] for part in range(3)]
    same(numbers, [list(range(part, 2000, 3)) for part in range(3)], "order in each partition")


@test("produce-one-record-per-request")
def one_per_request() -> None:
    topic = new_topic("single", partitions=4)
    client = producer(batch_num_messages=1)
    for number in range(500):
        client.produce(topic, str(number).encode(), partition=number % 4)
    same(client.flush(20), 0, "messages left after flush")
    same(len(read_topic(topic, 500, partitions=4)), 500, "records")


@test("topic-created-by-produce")
def auto_create() -> None:
    topic = unique("auto")
    client = producer()
    client.produce(topic, b"first")
    same(client.flush(20), 0, "messages left after flush")
    same([message.value() for message in read_topic(topic, 1)], [b"first"], "values")


@test("message-too-large-refused")
def too_large() -> None:
    topic = new_topic("large", max_message_bytes="20000")
    client = producer()
    errors: list[Any] = []
    client.produce(topic, b"x" * 50_000, on_delivery=lambda error, _: errors.append(error))
    client.flush(20)
    same([error.name() for error in errors], ["MSG_SIZE_TOO_LARGE"], "delivery errors")


@test("seek-by-time")
def seek_by_time() -> None:
    topic = new_topic("time")
    client = producer()
    for number in range(100):
        client.produce(topic, str(number).encode(), timestamp=NOW_MS + number * 10, partition=0)
        if number % 9 == 0:
            client.flush(20)
    client.flush(20)
    reader = consumer()
    for asked, offset in ((0, 0), (495, 50), (500, 50), (501, 51), (990, 99)):
        found = reader.offsets_for_times([TopicPartition(topic, 0, NOW_MS + asked)], timeout=WAIT_S)[0]
        same(found.offset, offset, f"offset at {asked} ms")
    same(
        reader.offsets_for_times([TopicPartition(topic, 0, NOW_MS + 10_000)], timeout=WAIT_S)[0].offset,
        -1,
        "after the end",
    )
    reader.assign([TopicPartition(topic, 0, 70)])
    same([int(message.value()) for message in read(reader, 30)], list(range(70, 100)), "values from there")
    same(reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=WAIT_S), (0, 100), "watermarks")
    reader.close()


class Member(threading.Thread):
    """A group member in its own thread, the only one that touches the client: polls, commits, notes what it saw."""

    def __init__(self, topic: str, group: str, **settings: Any) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self.assigned: set[int] = set()
        self.error: BaseException | None = None
        self.client = consumer(group_id=group, **settings)
        self.client.subscribe([topic])
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                messages = self.client.consume(100, 0.1)
                self.assigned = {place.partition for place in self.client.assignment()}
                for message in messages:
                    if message.error():
                        raise KafkaException(message.error())
                if messages:
                    self.client.commit(asynchronous=False)
                self.seen += [int(message.value()) for message in messages]
            self.client.close()
        except BaseException as error:
            self.error = error

    def stop(self) -> list[int]:
        self._stopping.set()
        self.join(20)
        true(not self.is_alive(), "a member did not stop")
        if self.error is not None:
            raise self.error
        return self.seen


CLASSIC = {"session_timeout_ms": 10_000}


@test("group-rebalance-and-restart", CLASSIC)
@test("group-rebalance-and-restart-cooperative", {**CLASSIC, "partition_assignment_strategy": "cooperative-sticky"})
@test("group-rebalance-and-restart-kip848", {"group_protocol": "consumer"})
@test("group-rebalance-and-restart-kip848-range", {"group_protocol": "consumer", "group_remote_assignor": "range"})
def group_rebalance_and_restart(settings: dict[str, Any]) -> None:
    topic, group = new_topic("group", partitions=4), unique("group")
    sender = producer()

    def send(first: int, last: int) -> None:
        for number in range(first, last):
            sender.produce(topic, str(number).encode(), partition=number % 4)
        same(sender.flush(20), 0, "messages left after flush")

    send(0, 100)
    one = Member(topic, group, **settings)
    eventually(lambda: len(one.seen) >= 100, "the first member to read 100 records")
    two = Member(topic, group, **settings)
    eventually(lambda: (len(one.assigned), len(two.assigned)) == (2, 2), "each member to get half", 30)
    send(100, 200)
    eventually(lambda: len(one.seen) + len(two.seen) >= 200, "both members to read 200 records")
    true(two.seen, "the second member read nothing")
    seen = two.stop()
    send(200, 300)
    eventually(lambda: len(one.seen) + len(seen) >= 300, "the first member to read all partitions again", 30)
    same(sorted(one.stop() + seen), list(range(300)), "each record seen once")
    send(300, 350)
    again = Member(topic, group, **settings)
    eventually(lambda: len(again.seen) >= 50, "the restarted member to go on")
    same(sorted(again.stop()), list(range(300, 350)), "records after the restart")


@test("group-static-member-returns-without-rebalance")
def static_member() -> None:
    topic, group = new_topic("static", partitions=4), unique("group")
    sender = producer()
    for number in range(40):
        sender.produce(topic, str(number).encode(), partition=number % 4)
    sender.flush(20)
    settings: dict[str, Any] = {"session_timeout_ms": 20_000}
    one = Member(topic, group, group_instance_id="one", **settings)
    two = Member(topic, group, group_instance_id="two", **settings)
    eventually(lambda: (len(one.assigned), len(two.assigned)) == (2, 2), "each member to get half", 30)
    eventually(lambda: len(one.seen) + len(two.seen) >= 40, "all records")
    before = two.assigned
    two.stop()
    two = Member(topic, group, group_instance_id="two", **settings)
    eventually(lambda: len(two.assigned) == 2, "the static member to be back", 15)
    same(two.assigned, before, "partitions of the member that came back")
    same(len(one.assigned), 2, "partitions of the member that stayed")
    two.stop()
    one.stop()


@test("group-subscribe-by-pattern-kip848")
def pattern_kip848() -> None:
    prefix = unique("pattern")
    topics = [f"{prefix}-a", f"{prefix}-b"]
    done(admin().create_topics([NewTopic(topic, 1, 1) for topic in topics]))
    sender = producer()
    for number, topic in enumerate(topics):
        sender.produce(topic, str(number).encode())
    sender.flush(20)
    member = Member(f"^{prefix}-.*", unique("group"), group_protocol="consumer")
    eventually(lambda: sorted(member.seen) == [0, 1], "records of both topics")
    member.stop()


@test("transaction-commit-and-abort")
def commit_and_abort() -> None:
    topic = new_topic("transaction", partitions=2)
    client = producer(transactional_id=unique("tx"))
    client.init_transactions(20)
    for name, commit in (("a", True), ("b", False), ("c", True)):
        client.begin_transaction()
        for number in range(10):
            client.produce(topic, f"{name}{number}".encode(), partition=number % 2)
        client.flush(20)
        if commit:
            client.commit_transaction(20)
        else:
            client.abort_transaction(20)
    committed = read_topic(topic, 20, partitions=2, isolation_level="read_committed")
    same(sorted(m.value()[:1] for m in committed), [b"a"] * 10 + [b"c"] * 10, "read_committed")
    same(len(read_topic(topic, 30, partitions=2, isolation_level="read_uncommitted")), 30, "read_uncommitted")


@test("transaction-consume-transform-produce", "classic")
@test("transaction-consume-transform-produce-kip848", "consumer")
def consume_transform_produce(protocol: str) -> None:
    source, sink, group = new_topic("source"), new_topic("sink"), unique("group")
    plain = producer()
    for number in range(20):
        plain.produce(source, str(number).encode())
    plain.flush(20)
    reader = consumer(group_id=group, group_protocol=protocol)
    reader.subscribe([source])
    messages = read(reader, 20)
    client = producer(transactional_id=unique("tx"))
    client.init_transactions(20)
    place = TopicPartition(source, 0)
    for commit, offset in ((False, -1001), (True, 20)):
        client.begin_transaction()
        for message in messages:
            client.produce(sink, b"done-" + message.value())
        client.send_offsets_to_transaction(reader.position([place]), reader.consumer_group_metadata(), 20)
        if commit:
            client.commit_transaction(20)
        else:
            client.abort_transaction(20)
        same(reader.committed([place], timeout=WAIT_S)[0].offset, offset, f"offset after commit={commit}")
    reader.close()
    found = read_topic(sink, 20, isolation_level="read_committed")
    same([message.value() for message in found], [f"done-{number}".encode() for number in range(20)], "transformed")


@test("transaction-fencing")
def fencing() -> None:
    topic, name = new_topic("fence"), unique("tx")
    old, new = producer(transactional_id=name), producer(transactional_id=name)
    old.init_transactions(20)
    old.begin_transaction()
    old.produce(topic, b"old")
    old.flush(20)
    new.init_transactions(20)
    with raises(KafkaException):
        old.produce(topic, b"late")
        old.commit_transaction(20)
    new.begin_transaction()
    new.produce(topic, b"new")
    new.commit_transaction(20)
    found = read_topic(topic, 1, isolation_level="read_committed")
    same([message.value() for message in found], [b"new"], "committed values")


@test("admin-topics")
def admin_topics() -> None:
    client, topic = admin(), unique("admin")
    done(client.create_topics([NewTopic(topic, 3, 1)]))
    with raises(KafkaException):
        done(client.create_topics([NewTopic(topic, 3, 1)]))
    done(client.create_partitions([NewPartitions(topic, 5)]))
    eventually(lambda: len(client.list_topics(topic, 20).topics[topic].partitions) == 5, "five partitions")
    described = done(client.describe_topics(TopicCollection([topic])))[0]
    same((described.name, len(described.partitions)), (topic, 5), "description")
    done(client.delete_topics([topic]))
    eventually(lambda: topic not in client.list_topics(timeout=WAIT_S).topics, "the topic to vanish")
    with raises(KafkaException):
        done(client.delete_topics([topic]))


@test("admin-configs")
def admin_configs() -> None:
    client, topic = admin(), new_topic("configs", retention_ms="100000")

    def value(name: str) -> str:
        return str(done(client.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]))[0][name].value)

    same((value("retention.ms"), value("cleanup.policy")), ("100000", "delete"), "configs")
    entries = [
        ConfigEntry("max.message.bytes", "54321", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
    ]
    done(
        client.incremental_alter_configs(
            [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)]
        )
    )
    eventually(lambda: value("max.message.bytes") == "54321", "max.message.bytes to be 54321")
    same((value("retention.ms"), value("cleanup.policy")), ("604800000", "delete,compact"), "configs")
    bad = [ConfigEntry("retention.ms", "soon", incremental_operation=AlterConfigOpType.SET)]
    with raises(KafkaException):
        done(
            client.incremental_alter_configs(
                [ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=bad)]
            )
        )
    brokers = list(client.list_topics(timeout=WAIT_S).brokers)
    broker = done(client.describe_configs([ConfigResource(ConfigResource.Type.BROKER, str(brokers[0]))]))[0]
    true(len(broker) > 5, "the broker has no configs")


@test("admin-groups", "classic")
@test("admin-groups-kip848", "consumer")
def admin_groups(protocol: str) -> None:
    client, topic, group = admin(), new_topic("groups", partitions=2), unique("group")
    sender = producer()
    for number in range(10):
        sender.produce(topic, str(number).encode(), partition=number % 2)
    sender.flush(20)
    member = Member(topic, group, group_protocol=protocol, client_id="a-member")
    eventually(lambda: len(member.seen) == 10, "the member to read")
    described = done(client.describe_consumer_groups([group]))[0]
    same((described.state.name, described.type.name), ("STABLE", protocol.upper()), "state and type")
    same([each.client_id for each in described.members], ["a-member"], "members")
    same(len(described.members[0].assignment.topic_partitions), 2, "assigned partitions")
    listed = client.list_consumer_groups(request_timeout=WAIT_S).result(WAIT_S).valid
    same([each.type.name for each in listed if each.group_id == group], [protocol.upper()], "the group in the list")
    member.stop()

    def offsets() -> dict[int, int]:
        answer = done(client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))[0]
        return {part.partition: part.offset for part in answer.topic_partitions}

    same(offsets(), {0: 5, 1: 5}, "offsets")
    eventually(lambda: done(client.describe_consumer_groups([group]))[0].state.name == "EMPTY", "the group to be empty")
    done(client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1, 2)])]))
    same(offsets(), {0: 5, 1: 2}, "altered offsets")
    done(client.delete_consumer_groups([group]))
    listed = client.list_consumer_groups(request_timeout=WAIT_S).result(WAIT_S).valid
    same([each.group_id for each in listed if each.group_id == group], [], "the group in the list after its deletion")


@test("admin-records-and-offsets")
def records_and_offsets() -> None:
    client, topic = admin(), new_topic("records")
    place = TopicPartition(topic, 0)
    sender = producer()
    for number in range(10):
        sender.produce(topic, str(number).encode(), timestamp=NOW_MS + number)
    sender.flush(20)

    def offset(spec: Any, isolation: Any = IsolationLevel.READ_COMMITTED) -> int:
        return int(done(client.list_offsets({place: spec}, isolation_level=isolation))[0].offset)

    specs = (
        OffsetSpec.earliest(),
        OffsetSpec.latest(),
        OffsetSpec.for_timestamp(NOW_MS + 5),
        OffsetSpec.max_timestamp(),
    )
    same([offset(spec) for spec in specs], [0, 10, 5, 9], "offsets by time")
    same(done(client.delete_records([TopicPartition(topic, 0, 4)]))[0].low_watermark, 4, "low watermark")
    same(offset(OffsetSpec.earliest()), 4, "first offset after DeleteRecords")
    reader = consumer()
    reader.assign([TopicPartition(topic, 0, 0)])
    same([int(message.value()) for message in read(reader, 6)], [4, 5, 6, 7, 8, 9], "values left")
    reader.close()


@test("admin-cluster")
def admin_cluster() -> None:
    client = admin()
    cluster = client.describe_cluster(request_timeout=WAIT_S).result(WAIT_S)
    true(cluster.cluster_id, "no cluster id")
    same(len(cluster.nodes), 1, "nodes")
    true(cluster.controller is not None, "no controller")


if __name__ == "__main__":
    sys.exit(main())
