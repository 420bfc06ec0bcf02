"""kafka-python, any release: produce, consume, groups and time, written against the calls that 1.4.7 and 3.x share."""

from __future__ import annotations

import threading
import time
from typing import Any

import kafka
from harness import BOOTSTRAP, WAIT_S, Skipped, each_codec_and_acks, eventually, raises, same, test, true, unique
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.codec import has_lz4, has_snappy
from kafka.errors import MessageSizeTooLargeError
from kafka.structs import OffsetAndMetadata

MAJOR = int(kafka.__version__.split(".")[0])
NOW_MS = int(time.time() * 1000)


def admin() -> Any:
    return KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def new_topic(prefix: str, partitions: int = 1, **configs: str) -> str:
    name = unique(prefix)
    client = admin()
    client.create_topics(
        [NewTopic(name, partitions, 1, topic_configs={k.replace("_", "."): v for k, v in configs.items()})]
    )
    client.close()
    return name


def producer(**settings: Any) -> Any:
    return KafkaProducer(bootstrap_servers=BOOTSTRAP, **settings)


def consumer(**settings: Any) -> Any:
    return KafkaConsumer(bootstrap_servers=BOOTSTRAP, **settings)


def read(client: Any, count: int, timeout_s: float = WAIT_S) -> list[Any]:
    """At least `count` records in the order polled. Raises AssertionError after the time limit."""
    records: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count:
        for batch in client.poll(timeout_ms=1000).values():
            records += batch
        true(time.monotonic() < deadline, f"only {len(records)} of {count} records after {timeout_s:.0f} s")
    return records


def read_topic(topic: str, count: int, **settings: Any) -> list[Any]:
    """All records of a topic, ordered by partition and offset."""
    client = consumer(**settings)
    partitions = eventually(lambda: client.partitions_for_topic(topic), f"metadata of {topic}")
    client.assign([TopicPartition(topic, number) for number in sorted(partitions)])
    client.seek_to_beginning()
    records = read(client, count)
    client.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _codec_available(codec: str) -> bool:
    if codec == "zstd":
        if MAJOR < 2:
            return False
        from kafka.codec import has_zstd

        return bool(has_zstd())
    return {"snappy": has_snappy, "lz4": has_lz4}.get(codec, lambda: True)()


@each_codec_and_acks
def produce(codec: str, acks: str) -> None:
    """Order, keys, values, nulls, headers and timestamps survive, in several batches."""
    if not _codec_available(codec):
        raise Skipped(f"this release has no {codec}")
    topic = new_topic("produce", partitions=1)
    settings: dict[str, Any] = {"acks": "all" if acks == "all" else int(acks), "linger_ms": 5}
    if codec != "none":
        settings["compression_type"] = codec
    if MAJOR >= 3 and acks != "all":
        settings["enable_idempotence"] = False
    client = producer(**settings)
    sent = []
    for number in range(300):
        key = None if number % 7 == 0 else f"key-{number % 10}".encode()
        value = None if key and number % 11 == 5 else (f"value-{number}-".encode() * (1 + number % 30))
        headers = [("number", str(number).encode()), ("empty", b"")] if number % 2 else []
        timestamp = NOW_MS - 1_000_000 + number
        sent.append((key, value, headers, timestamp))
        client.send(topic, value=value, key=key, headers=headers, timestamp_ms=timestamp, partition=0)
    client.flush(20)
    client.close()
    found = read_topic(topic, len(sent))
    same([record.offset for record in found], list(range(len(sent))), "offsets")
    same([(r.key, r.value, list(r.headers), r.timestamp) for r in found], sent, "records")


@test("produce-offsets-and-timestamps-returned")
def produce_metadata() -> None:
    topic = new_topic("metadata")
    client = producer(acks="all")
    answers = [client.send(topic, b"x", timestamp_ms=NOW_MS + i).get(20) for i in range(5)]
    client.close()
    same([answer.offset for answer in answers], list(range(5)), "offsets")
    same([answer.timestamp for answer in answers], [NOW_MS + i for i in range(5)], "timestamps")


@test("log-append-time")
def log_append_time() -> None:
    topic = new_topic("append-time", message_timestamp_type="LogAppendTime")
    client = producer(acks="all", compression_type="gzip")
    before = int(time.time() * 1000)
    answer = client.send(topic, b"x", timestamp_ms=1000).get(20)
    client.close()
    record = read_topic(topic, 1)[0]
    true(before - 1000 <= record.timestamp <= int(time.time() * 1000) + 1000, f"timestamp {record.timestamp}")
    same(record.timestamp_type, 1, "timestamp type")
    same(answer.timestamp, record.timestamp, "timestamp in the answer")


@test("keys-keep-order-over-partitions")
def keys_keep_order() -> None:
    topic = new_topic("keys", partitions=5)
    client = producer(acks="all", linger_ms=5)
    for number in range(1000):
        client.send(topic, str(number).encode(), key=f"k{number % 20}".encode())
    client.flush(20)
    client.close()
    by_key: dict[bytes, list[int]] = {}
    places: dict[bytes, set[int]] = {}
    for record in read_topic(topic, 1000):
        by_key.setdefault(record.key, []).append(int(record.value))
        places.setdefault(record.key, set()).add(record.partition)
    same({key: sorted(numbers) for key, numbers in by_key.items()}, by_key, "order per key")
    true(all(len(found) == 1 for found in places.values()), "a key was in two partitions")
    true(len(set().union(*places.values())) > 1, "all keys in one partition")


@test("topic-created-by-produce")
def auto_create() -> None:
    topic = unique("auto")
    client = producer(acks="all")
    client.send(topic, b"first").get(20)
    client.close()
    same([record.value for record in read_topic(topic, 1)], [b"first"], "values")


@test("message-too-large-refused")
def too_large() -> None:
    topic = new_topic("large", max_message_bytes="20000")
    client = producer(acks="all", retries=0) if MAJOR < 3 else producer(acks="all")
    with raises(MessageSizeTooLargeError):
        client.send(topic, b"x" * 50_000).get(20)
    client.close()
    # Another producer, as 3.x closes its accumulator after an error of this kind.
    client = producer(acks="all")
    client.send(topic, b"small").get(20)
    client.close()
    same([record.value for record in read_topic(topic, 1)], [b"small"], "values")


@test("large-message")
def large_message() -> None:
    topic = new_topic("large", max_message_bytes="8000000")
    client = producer(acks="all", max_request_size=8_000_000)
    client.send(topic, b"y" * 5_000_000).get(20)
    client.close()
    same(len(read_topic(topic, 1, max_partition_fetch_bytes=1000)[0].value), 5_000_000, "size of the value")


@test("seek-by-time")
def seek_by_time() -> None:
    topic = new_topic("time", partitions=1)
    client = producer(acks="all")
    for number in range(100):
        client.send(topic, str(number).encode(), timestamp_ms=NOW_MS + number * 10, partition=0)
        if number % 9 == 0:
            client.flush(20)
    client.flush(20)
    client.close()
    partition = TopicPartition(topic, 0)
    client = consumer()
    client.assign([partition])
    for asked, offset in ((0, 0), (495, 50), (500, 50), (501, 51), (990, 99)):
        found = client.offsets_for_times({partition: NOW_MS + asked})[partition]
        same((found.offset, found.timestamp), (offset, NOW_MS + offset * 10), f"offset at {asked} ms")
    same(client.offsets_for_times({partition: NOW_MS + 10_000})[partition], None, "offset after the end")
    client.seek(partition, client.offsets_for_times({partition: NOW_MS + 700})[partition].offset)
    same([int(record.value) for record in read(client, 30)], list(range(70, 100)), "values from there")
    same(client.beginning_offsets([partition])[partition], 0, "first offset")
    same(client.end_offsets([partition])[partition], 100, "end offset")
    client.close()


@test("position-out-of-range-resets")
def out_of_range() -> None:
    topic = new_topic("range")
    client = producer(acks="all")
    for number in range(3):
        client.send(topic, str(number).encode()).get(20)
    client.close()
    client = consumer(auto_offset_reset="earliest")
    client.assign([TopicPartition(topic, 0)])
    client.seek(TopicPartition(topic, 0), 1000)
    same([record.value for record in read(client, 3)], [b"0", b"1", b"2"], "values after the reset")
    client.close()


class Member(threading.Thread):
    """A group member in its own thread, as joins block: polls, notes what it saw, commits after every poll."""

    def __init__(self, topic: str, group: str, **settings: Any) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self.error: BaseException | None = None
        self.client = consumer(
            group_id=group,
            auto_offset_reset="earliest",
            session_timeout_ms=10_000,
            enable_auto_commit=False,
            **settings,
        )
        self.client.subscribe([topic])
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                # Long enough for a join to end in it: kafka-python 3 may forget one that does not, see FINDINGS.
                polled = [record for batch in self.client.poll(timeout_ms=1000).values() for record in batch]
                if polled:
                    self.client.commit()
                self.seen += [int(record.value) for record in polled]
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


@test("group-rebalance-and-restart")
def group_rebalance_and_restart() -> None:
    """One member, then two (each gets half), then one leaves, then all restart: each record is seen once."""
    topic, group = new_topic("group", partitions=4), unique("group")
    sender = producer(acks="all")

    def send(first: int, last: int) -> None:
        for number in range(first, last):
            sender.send(topic, str(number).encode(), partition=number % 4)
        sender.flush(20)

    send(0, 100)
    one = Member(topic, group)
    eventually(lambda: len(one.seen) == 100, "the first member to read 100 records")
    two = Member(topic, group)
    members = (one, two)
    eventually(lambda: [len(member.client.assignment()) for member in members] == [2, 2], "each member to get half")
    true(not (one.client.assignment() & two.client.assignment()), "two members share a partition")
    send(100, 200)
    eventually(lambda: len(one.seen) + len(two.seen) >= 200, "both members to read 200 records")
    true(two.seen, "the second member read nothing")
    seen = two.stop()
    send(200, 300)
    eventually(lambda: len(one.seen) + len(seen) >= 300, "the first member to read all partitions again")
    same(sorted(one.stop() + seen), list(range(300)), "each record seen once")
    send(300, 350)
    again = Member(topic, group)
    eventually(lambda: len(again.seen) >= 50, "the restarted member to go on")
    same(sorted(again.stop()), list(range(300, 350)), "records after the restart")
    sender.close()


@test("commit-with-metadata")
def commit_with_metadata() -> None:
    topic, group = new_topic("commit", partitions=2), unique("group")
    partition = TopicPartition(topic, 1)
    client = consumer(group_id=group, enable_auto_commit=False)
    client.assign([partition])
    offset = OffsetAndMetadata(7, "a note", -1) if MAJOR >= 3 else OffsetAndMetadata(7, "a note")
    client.commit({partition: offset})
    same(client.committed(partition), 7, "committed offset")
    same(client.committed(TopicPartition(topic, 0)), None, "offset never committed")
    client.close()
    client = admin()
    listed = client.list_group_offsets([group])[group] if MAJOR >= 3 else client.list_consumer_group_offsets(group)
    client.close()
    same((listed[partition].offset, listed[partition].metadata), (7, "a note"), "offset and metadata as listed")
