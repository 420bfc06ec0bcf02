"""Asks Apache Kafka and Trivium the same questions about topics, configs and producers and prints where the answers
differ: `python -m interop.compare_topics`. Exit code 1 when they differ in more than DELIBERATE.

Metadata, CreateTopics, DeleteTopics, DescribeConfigs, IncrementalAlterConfigs and InitProducerId, in every version that
both serve: what is granted, and above all what is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from gateway.protocols.kafka.api_versions import ApiKey as Api
from gateway.protocols.kafka.messages import (
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
    FindCoordinatorRequest,
    IncrementalAlterConfigsRequest,
    InitProducerIdRequest,
    MetadataRequest,
)
from interop.compare_records import NO_ID, STRANGE_ID, Scene, compare_scenes
from interop.compare_wire import wait_until

DELIBERATE = {
    # Errors that say what is wrong, where Kafka's is an unknown server error or none of its own.
    "alter: an unknown operation",
    "metadata: no name and no id",
    # Ids and names in one request: all are answered, Kafka takes no notice of the names.
    "metadata: ids and names",
    # Names are answered one by one.
    "create: only validated",
    "delete: unknown twice",
    "delete: by name and by id",
}


def metadata(s: Scene) -> None:
    for version in range(14):

        def show(question: str, *names: str | bytes, v: int = version, **fields: Any) -> None:
            topics = [
                MetadataRequest.MetadataRequestTopic(name=None if v >= 10 else "", topic_id=name)
                if isinstance(name, bytes)
                else MetadataRequest.MetadataRequestTopic(name=name)
                for name in names
            ]
            message = MetadataRequest(topics=topics, allow_auto_topic_creation=False, **fields)
            s.ask(Api.METADATA, v, f"metadata: {question}", message)

        show("two", "t", "f")
        show("twice", "t", "t")
        if version >= 1:
            show("none")
        if version >= 4:  # before, what is not there is made
            for name in ("nope", "b/d", "", "..", "x" * 250):
                show(f"{name[:5]!r}", name, "t")
        if version >= 8:
            show("operations on topics", "t", "nope", include_topic_authorized_operations=True)
            show("operations on the cluster", "t", include_cluster_authorized_operations=True)
        if version >= 10:
            show("an id", s.ids["t"])
            show("an id twice", s.ids["t"], s.ids["t"])
            show("an id that is not there", STRANGE_ID)
            show("no name and no id", NO_ID)
            show("ids and names", s.ids["t"], "f")


def topics(s: Scene) -> None:
    Wanted = tuple[str, int, int, Sequence[tuple[int, list[int]]]]
    for version in range(2, 8):

        def create(question: str, *wanted: Wanted, v: int = version, timeout_ms: int = 5000, **fields: Any) -> None:
            rows = [
                CreateTopicsRequest.CreatableTopic(
                    name=name,
                    num_partitions=partitions,
                    replication_factor=replicas,
                    assignments=[
                        CreateTopicsRequest.CreatableReplicaAssignment(partition_index=index, broker_ids=brokers)
                        for index, brokers in assignments
                    ],
                )
                for name, partitions, replicas, assignments in wanted
            ]
            message = CreateTopicsRequest(topics=rows, timeout_ms=timeout_ms, **fields)
            answer = s.connection.call(Api.CREATE_TOPICS, v, message)
            for topic in answer.topics:
                topic.topic_id = b"given" if topic.topic_id != NO_ID else NO_ID
                topic.configs = None
            s.notes.note(f"create: {question} (v{v})", answer)

        name = f"made{version}"
        create("one", (name, 1, 1, ()))
        create("one that is there", (name, 1, 1, ()))
        create("only validated", (f"{name}-v", 1, 1, ()), validate_only=True)
        create("defaults", (f"{name}-d", -1, -1, ()))
        for partitions in (0, -2):
            create(f"{partitions} partitions", (f"{name}-x", partitions, 1, ()))
        for replicas in (0, -2):
            create(f"{replicas} replicas", (f"{name}-x", 1, replicas, ()))
        create("names", *((one, 1, 1, ()) for one in ("b/d", "", ".", "..", "y" * 250, f"{name}-ok")))
        create("twice", (f"{name}-t", 1, 1, ()), (f"{name}-t", 1, 1, ()), (f"{name}-u", 1, 1, ()))
        create("assigned", (f"{name}-a", -1, -1, [(0, [1]), (1, [1])]))
        for assignments in ([(0, [1]), (2, [1])], [(0, [1]), (0, [1])], [(0, [])], [(0, [7])], [(0, [1, 1])]):
            create(f"assigned {assignments}", (f"{name}-b", -1, -1, assignments))
        create("assigned and counted", (f"{name}-b", 1, -1, [(0, [1])]))
        create("none")
        create("no time", (f"{name}-z", 1, 1, ()), timeout_ms=0)
    for version in range(1, 7):

        def delete(question: str, *wanted: str | bytes, v: int = version, timeout_ms: int = 5000) -> None:
            states = [
                DeleteTopicsRequest.DeleteTopicState(name=None, topic_id=one)
                if isinstance(one, bytes)
                else DeleteTopicsRequest.DeleteTopicState(name=one)
                for one in wanted
            ]
            names = [one for one in wanted if isinstance(one, str)]
            message = DeleteTopicsRequest(topic_names=names, topics=states, timeout_ms=timeout_ms)
            answer = s.connection.call(Api.DELETE_TOPICS, v, message)
            for topic in answer.responses:
                topic.topic_id = b"given" if topic.topic_id not in (NO_ID, STRANGE_ID) else topic.topic_id
            s.notes.note(f"delete: {question} (v{v})", answer)

        delete("no time", f"made{version}", timeout_ms=0)
        delete("one", f"made{version}")
        delete("names", "nope", "b/d", "")
        delete("unknown twice", "nope", "nope")
        delete("none")
        if version >= 6:
            delete("an id that is not there", STRANGE_ID)
            delete("no name and no id", NO_ID)
            delete("an id twice", s.ids["gone"], s.ids["gone"])
            delete("by name and by id", "gone", s.ids["gone"])


def configs(s: Scene) -> None:
    for version in range(1, 5):
        for question, resources in (
            ("of a topic", [(2, "t")]),
            ("of topics that are not there", [(2, "nope"), (2, "b/d"), (2, "")]),
            ("of brokers that are not there", [(4, "9"), (4, "x"), (8, "x"), (8, "")]),
            ("of nothing", [(32, ""), (16, "")]),
            ("of a kind that is not there", [(2, "t"), (3, "t")]),
        ):
            rows = [
                DescribeConfigsRequest.DescribeConfigsResource(
                    resource_type=kind, resource_name=name, configuration_keys=["retention.ms"]
                )
                for kind, name in resources
            ]
            s.ask(Api.DESCRIBE_CONFIGS, version, f"configs: {question}", DescribeConfigsRequest(resources=rows))
    for version in range(2):
        for question, name, changes in (
            ("one", "alter", [("retention.ms", 0, "5")]),
            ("no number", "alter", [("retention.ms", 0, "x")]),
            ("null", "alter", [("retention.ms", 0, None)]),
            ("append to a number", "alter", [("retention.ms", 2, "5")]),
            ("append", "alter", [("cleanup.policy", 2, "compact")]),
            ("subtract", "alter", [("cleanup.policy", 3, "compact")]),
            ("reset", "alter", [("retention.ms", 1, None)]),
            ("reset an unknown one", "alter", [("nope", 1, None)]),
            ("an unknown one", "alter", [("nope", 0, "1")]),
            ("an unknown operation", "alter", [("retention.ms", 9, "1")]),
            ("one twice", "alter", [("retention.ms", 0, "5"), ("retention.ms", 0, "6")]),
            ("none", "alter", []),
            ("a topic that is not there", "nope", [("retention.ms", 0, "5")]),
            ("a name that no topic can have", "b/d", [("retention.ms", 0, "5")]),
            ("no name", "", [("retention.ms", 0, "5")]),
        ):
            rows = [
                IncrementalAlterConfigsRequest.AlterableConfig(name=key, config_operation=operation, value=value)
                for key, operation, value in changes
            ]
            resource = IncrementalAlterConfigsRequest.AlterConfigsResource(
                resource_type=2, resource_name=name, configs=rows
            )
            message = IncrementalAlterConfigsRequest(resources=[resource])
            s.ask(Api.INCREMENTAL_ALTER_CONFIGS, version, f"alter: {question}", message)


def producers(s: Scene) -> None:
    def begin(version: int, question: str, name: str | None, timeout_ms: int = 60_000, **fields: Any) -> Any:
        message = InitProducerIdRequest(transactional_id=name, transaction_timeout_ms=timeout_ms, **fields)
        return s.ask(Api.INIT_PRODUCER_ID, version, f"producer: {question}", message)

    warm = InitProducerIdRequest(transactional_id="warm", transaction_timeout_ms=1000)
    s.connection.call(Api.FIND_COORDINATOR, 2, FindCoordinatorRequest(key="warm", key_type=1))
    wait_until(lambda: s.connection.call(Api.INIT_PRODUCER_ID, 0, warm).error_code == 0)
    for version in range(6):
        name = f"tx{version}"
        begin(version, "idempotent", None)
        begin(version, "idempotent with a time of -5", None, -5)
        begin(version, "an empty name", "")
        begin(version, "transactional", name)
        begin(version, "transactional again", name)
        for timeout_ms in (0, -1, 2**31 - 1):
            begin(version, f"a time of {timeout_ms}", name, timeout_ms)
        if version >= 3:
            begin(version, "an epoch without an id", name, producer_epoch=1)
            begin(version, "an id without an epoch", name, producer_id=5)
            begin(version, "another's id", name, producer_id=99_999, producer_epoch=1)
            begin(version, "a new name with an id", f"new{version}", producer_id=99_999, producer_epoch=3)


SCENES = [metadata, topics, configs, producers]


if __name__ == "__main__":
    sys.exit(compare_scenes(SCENES, DELIBERATE))
