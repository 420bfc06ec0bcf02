"""kafka-python 3.x: the shared tests, transactions, and the admin client of today."""

from __future__ import annotations

import sys
from typing import Any

from harness import eventually, main, raises, same, test, true, unique
from kafka import TopicPartition
from kafka.admin import ConfigResource, NewPartitions, OffsetSpec
from kafka.errors import (
    InvalidProducerEpochError,
    ProducerFencedError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.structs import OffsetAndMetadata
from kafka_python_data import NewTopic, admin, consumer, new_topic, producer, read, read_topic


@test("transaction-commit-and-abort")
def commit_and_abort() -> None:
    topic = new_topic("transaction", partitions=2)
    client = producer(transactional_id=unique("tx"))
    client.init_transactions()
    for name, commit in (("a", True), ("b", False), ("c", True)):
        client.begin_transaction()
        for number in range(10):
            client.send(topic, f"{name}{number}".encode(), partition=number % 2)
        client.flush()
        if commit:
            client.commit_transaction()
        else:
            client.abort_transaction()
    client.close()
    committed = read_topic(topic, 20, isolation_level="read_committed")
    same(sorted(r.value[:1] for r in committed), [b"a"] * 10 + [b"c"] * 10, "read_committed")
    everything = read_topic(topic, 30, isolation_level="read_uncommitted")
    same(len(everything), 30, "read_uncommitted")
    last = [record for record in everything if record.partition == 0][-1]
    same(last.offset, 16, "offset of the last record, two markers before it")


@test("transaction-open-holds-read-committed-back")
def open_transaction() -> None:
    topic = new_topic("open")
    partition = TopicPartition(topic, 0)
    client = producer(transactional_id=unique("tx"))
    client.init_transactions()
    client.begin_transaction()
    client.send(topic, b"open").get(20)
    plain = producer()
    plain.send(topic, b"plain").get(20)
    reader = consumer(isolation_level="read_committed")
    reader.assign([partition])
    reader.seek_to_beginning(partition)
    same(reader.poll(timeout_ms=500), {}, "records while the transaction is open")
    same(reader.end_offsets([partition])[partition], 0, "last stable offset")
    client.commit_transaction()
    same([record.value for record in read(reader, 2)], [b"open", b"plain"], "records after the commit")
    for each in (client, plain, reader):
        each.close()


@test("transaction-consume-transform-produce")
def consume_transform_produce() -> None:
    source, sink, group = new_topic("source"), new_topic("sink"), unique("group")
    plain = producer()
    for number in range(20):
        plain.send(source, str(number).encode())
    plain.close()
    reader = consumer(group_id=group, auto_offset_reset="earliest", enable_auto_commit=False)
    reader.subscribe([source])
    client = producer(transactional_id=unique("tx"))
    client.init_transactions()
    records = read(reader, 20)
    offsets = {TopicPartition(source, 0): OffsetAndMetadata(20, "", -1)}

    def transform(commit: bool) -> None:
        client.begin_transaction()
        for record in records:
            client.send(sink, b"done-" + record.value)
        client.send_offsets_to_transaction(offsets, reader.group_metadata())
        if commit:
            client.commit_transaction()
        else:
            client.abort_transaction()

    transform(commit=False)
    same(reader.committed(TopicPartition(source, 0)), None, "offset after the abort")
    transform(commit=True)
    same(reader.committed(TopicPartition(source, 0)), 20, "offset after the commit")
    reader.close()
    client.close()
    found = read_topic(sink, 20, isolation_level="read_committed")
    same([record.value for record in found], [f"done-{number}".encode() for number in range(20)], "transformed")


@test("transaction-fencing")
def fencing() -> None:
    topic, name = new_topic("fence"), unique("tx")
    old = producer(transactional_id=name)
    old.init_transactions()
    old.begin_transaction()
    old.send(topic, b"old").get(20)
    new = producer(transactional_id=name)
    new.init_transactions()
    with raises(ProducerFencedError, InvalidProducerEpochError):
        old.send(topic, b"late").get(20)
        old.commit_transaction()
    new.begin_transaction()
    new.send(topic, b"new").get(20)
    new.commit_transaction()
    new.close()
    old.close(timeout=1)
    same([r.value for r in read_topic(topic, 1, isolation_level="read_committed")], [b"new"], "committed values")


@test("admin-topics")
def admin_topics() -> None:
    client = admin()
    topic = unique("admin")
    client.create_topics([NewTopic(topic, 3, 1)])
    with raises(TopicAlreadyExistsError):
        client.create_topics([NewTopic(topic, 3, 1)])
    eventually(lambda: topic in client.list_topics(), "the topic to be listed")
    described = client.describe_topics([topic])[0]
    same(sorted(part["partition_index"] for part in described["partitions"]), [0, 1, 2], "partitions")
    client.create_partitions({topic: NewPartitions(5)})
    eventually(lambda: len(client.describe_topics([topic])[0]["partitions"]) == 5, "five partitions")
    paged = client.describe_topic_partitions([topic], response_partition_limit=2)
    same(len(paged["topics"][0]["partitions"]), 2, "partitions in the first page")
    same(paged["next_cursor"]["partition_index"], 2, "partition of the cursor")
    client.delete_topics([topic])
    eventually(lambda: topic not in client.list_topics(), "the topic to vanish")
    with raises(UnknownTopicOrPartitionError):
        client.delete_topics([topic])
    client.close()


@test("admin-configs")
def admin_configs() -> None:
    client = admin()
    topic = new_topic("configs", retention_ms="100000")
    resource = ConfigResource("TOPIC", topic)

    def value(name: str) -> str:
        answer: Any = client.describe_configs([resource], config_filter="all")
        return str(answer["topic"][topic][name]["value"])

    same(value("retention.ms"), "100000", "retention.ms")
    same(value("cleanup.policy"), "delete", "cleanup.policy")
    client.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": "54321"})])
    eventually(lambda: value("max.message.bytes") == "54321", "max.message.bytes to be 54321")
    same(value("retention.ms"), "100000", "retention.ms after an incremental change")
    client.reset_configs([ConfigResource("TOPIC", topic, ["max.message.bytes"])])
    eventually(lambda: value("max.message.bytes") == "1048588", "max.message.bytes to be the default again")
    client.close()


@test("admin-groups")
def admin_groups() -> None:
    topic, group = new_topic("groups", partitions=2), unique("group")
    parts = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    sender = producer()
    for number in range(10):
        sender.send(topic, b"x", partition=number % 2)
    sender.close()
    member = consumer(group_id=group, auto_offset_reset="earliest", client_id="a-member", enable_auto_commit=False)
    member.subscribe([topic])
    read(member, 10)
    member.commit()
    client = admin()
    described = client.describe_groups([group])[group]
    same((described["group_state"], len(described["members"])), ("Stable", 1), "state and members")
    same(described["members"][0]["client_id"], "a-member", "client id")
    true(group in [each["group_id"] for each in client.list_groups()], "the group is not listed")
    member.close()
    same(
        {p: o.offset for p, o in client.list_group_offsets([group])[group].items()}, dict.fromkeys(parts, 5), "offsets"
    )
    client.alter_group_offsets(group, {parts[0]: OffsetAndMetadata(2, "moved", -1)})
    same(client.list_group_offsets([group])[group][parts[0]].offset, 2, "altered offset")
    client.delete_group_offsets(group, [parts[1]])
    true(parts[1] not in client.list_group_offsets([group])[group], "the deleted offset is still there")
    client.delete_groups([group])
    true(group not in [each["group_id"] for each in client.list_groups()], "the group is still listed")
    same(client.describe_groups([group])[group]["group_state"], "Dead", "state of a group that is gone")
    client.close()


@test("admin-records-and-offsets")
def records_and_offsets() -> None:
    topic = new_topic("records")
    partition = TopicPartition(topic, 0)
    sender = producer()
    for number in range(10):
        sender.send(topic, str(number).encode(), timestamp_ms=1_700_000_000_000 + number).get(20)
    sender.close()
    client = admin()

    def offset(spec: Any) -> int:
        return int(client.list_partition_offsets({partition: spec})[partition].offset)

    same([offset(OffsetSpec.EARLIEST), offset(OffsetSpec.LATEST)], [0, 10], "first and end offset")
    same(offset(OffsetSpec.MAX_TIMESTAMP), 9, "offset of the greatest timestamp")
    same(client.delete_records({partition: 4})[partition]["low_watermark"], 4, "low watermark")
    same(offset(OffsetSpec.EARLIEST), 4, "first offset after DeleteRecords")
    client.close()
    same([record.value for record in read_topic(topic, 6)], [b"4", b"5", b"6", b"7", b"8", b"9"], "values left")


@test("admin-cluster")
def admin_cluster() -> None:
    client = admin()
    cluster = client.describe_cluster()
    true(cluster["cluster_id"], "no cluster id")
    same(len(cluster["brokers"]), 1, "brokers")
    features = client.describe_features()
    levels = [features[name]["finalized"][1] for name in ("transaction.version", "group.version")]
    same(levels, [2, 1], "finalized features")
    topic = new_topic("dirs")
    sender = producer()
    sender.send(topic, b"x" * 1000).get(20)
    sender.close()
    dirs = client.describe_log_dirs([topic])
    sizes = [p["partition_size"] for d in dirs[0]["log_dirs"] for t in d["topics"] for p in t["partitions"]]
    true(sum(sizes) >= 1000, f"size of the log {sizes}")
    quorum = client.describe_metadata_quorum()
    true(quorum["topics"][0]["partitions"][0]["leader_id"] >= 0, "no quorum leader")
    client.close()


@test("admin-transactions")
def admin_transactions() -> None:
    topic, name = new_topic("transactions"), unique("tx")
    sender = producer(transactional_id=name)
    sender.init_transactions()
    sender.begin_transaction()
    sender.send(topic, b"open").get(20)
    client = admin()
    listed = {each.transactional_id: each for listings in client.list_transactions().values() for each in listings}
    same(listed[name].state.value, "Ongoing", "state as listed")
    described = client.describe_transactions([name])[name]
    same([(p.topic, p.partition) for p in described.topic_partitions], [(topic, 0)], "partitions of the transaction")
    partition = TopicPartition(topic, 0)
    active = client.describe_producers([partition])[partition].active_producers
    same([each.producer_id for each in active], [described.producer_id], "producers of the partition")
    sender.abort_transaction()
    sender.close()
    client.close()


if __name__ == "__main__":
    sys.exit(main())
