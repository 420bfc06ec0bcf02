"""kafka-python 1.4.7 and 2.0.2: the shared tests, and the admin client as it was in these releases."""

from __future__ import annotations

import sys

from harness import Skipped, eventually, main, raises, same, test, true, unique
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from kafka_python_data import MAJOR, NewTopic, admin, consumer, new_topic, producer, read


@test("admin-topics")
def admin_topics() -> None:
    client = admin()
    topic = unique("admin")
    client.create_topics([NewTopic(topic, 3, 1)])
    with raises(TopicAlreadyExistsError):
        client.create_topics([NewTopic(topic, 3, 1)])
    reader = consumer()
    same(eventually(lambda: reader.partitions_for_topic(topic), "metadata"), {0, 1, 2}, "partitions")
    true(topic in reader.topics(), "the topic is not listed")
    client.create_partitions({topic: NewPartitions(5)})
    reader.close()
    reader = consumer()
    same(reader.partitions_for_topic(topic), {0, 1, 2, 3, 4}, "partitions")
    client.delete_topics([topic])
    eventually(lambda: topic not in reader.topics(), "the topic to vanish")
    with raises(UnknownTopicOrPartitionError):
        client.delete_topics([topic])
    reader.close()
    client.close()


@test("admin-configs")
def admin_configs() -> None:
    client = admin()
    topic = new_topic("configs", retention_ms="100000")

    def value(name: str) -> str:
        answer = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        resources = (answer if MAJOR == 1 else answer[0]).resources
        return next(str(config[1]) for config in resources[0][4] if config[0] == name)

    same(value("retention.ms"), "100000", "retention.ms")
    same(value("cleanup.policy"), "delete", "cleanup.policy")
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "54321"})])
    eventually(lambda: value("max.message.bytes") == "54321", "max.message.bytes to be 54321")
    same(value("retention.ms"), "604800000", "retention.ms after AlterConfigs, which replaces everything")
    client.close()


@test("admin-groups")
def admin_groups() -> None:
    topic, group = new_topic("groups"), unique("group")
    sender = producer(acks="all")
    sender.send(topic, b"x").get(20)
    sender.close()
    member = consumer(group_id=group, auto_offset_reset="earliest", client_id="a-member")
    member.subscribe([topic])
    read(member, 1)
    client = admin()
    described = client.describe_consumer_groups([group])[0]
    if MAJOR == 1:
        # 1.4.7 answers with the raw response; its group is a plain tuple: error, group, state, type, protocol, members.
        described = described.groups[0] if hasattr(described, "groups") else described
        state, members = described[2], described[5]
        same(members[0][1], "a-member", "client id")
    else:
        state, members = described.state, described.members
        same(members[0].client_id, "a-member", "client id")
        same(members[0].member_assignment.assignment[0][0], topic, "assigned topic")
    same((state, len(members)), ("Stable", 1), "state and members")
    true((group, "consumer") in client.list_consumer_groups(), "the group is not listed")
    member.close()
    if MAJOR == 1:
        client.close()
        return
    result = client.delete_consumer_groups([group])
    same(result[0][1].errno, 0, "error of DeleteGroups")
    true((group, "consumer") not in client.list_consumer_groups(), "the group is still listed")
    client.close()


@test("admin-cluster")
def admin_cluster() -> None:
    if MAJOR == 1:
        raise Skipped("this release has no describe_cluster")
    client = admin()
    cluster = client.describe_cluster()
    true(cluster["cluster_id"], "no cluster id")
    same(len(cluster["brokers"]), 1, "brokers")
    topic = new_topic("describe", partitions=2)
    described = client.describe_topics([topic])[0]
    same([part["leader"] >= 0 for part in described["partitions"]], [True, True], "leaders")
    true(topic in client.list_topics(), "the topic is not listed")
    client.close()


if __name__ == "__main__":
    sys.exit(main())
