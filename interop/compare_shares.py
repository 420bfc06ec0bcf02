"""Asks Apache Kafka and Trivium the same questions about share groups (KIP-932) and prints where the answers differ:
`python -m interop.compare_shares`. Exit code 1 when they differ in more than DELIBERATE.

Sessions, acknowledgements, what becomes of records whose member or connection is gone, isolation, who is assigned
what, offsets, and what Kafka's tools are shown of groups.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from gateway.protocols.kafka.api_versions import ApiKey as Api
from gateway.protocols.kafka.messages import (
    AddPartitionsToTxnRequest,
    AlterShareGroupOffsetsRequest,
    DeleteGroupsRequest,
    DescribeShareGroupOffsetsRequest,
    EndTxnRequest,
    FindCoordinatorRequest,
    IncrementalAlterConfigsRequest,
    InitProducerIdRequest,
    ListGroupsRequest,
    ProduceRequest,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
    ShareGroupDescribeRequest,
    ShareGroupHeartbeatRequest,
)
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.compare_wire import Notes, compare, prepare, wait_until
from trivium.records import Record, build

# Kafka hands out the offset of a transaction's marker, which its clients then call a gap.
DELIBERATE = {
    f"isolation-{level}: {when}, commits {commits}"
    for level in ("default", "read_committed", "read_uncommitted")
    for when in ("open", "ended")
    for commits in (False, True)
}
ACCEPT, RELEASE, REJECT = 1, 2, 3
GROUP_RESOURCE, SET = 32, 0
WAIT_MS = 500
READ_S = 10.0
NAMES = "abcdefgh"


def member_id(name: str) -> str:
    """Kafka's client names its members by UUIDs in base 64."""
    return name and name * 21 + "A"


class Scene:
    def __init__(self, notes: Notes, ids: dict[str, bytes]) -> None:
        self.notes = notes
        self.ids = ids
        for name, topic_id in ids.items():
            notes.alias(topic_id, f"id of {name}")
        for name in NAMES:
            notes.alias(member_id(name), f"member {name}")
        self.connection = notes.connect()

    def configure(self, group: str, name: str, value: str) -> None:
        config = IncrementalAlterConfigsRequest.AlterableConfig(name=name, config_operation=SET, value=value)
        resource = IncrementalAlterConfigsRequest.AlterConfigsResource(
            resource_type=GROUP_RESOURCE, resource_name=group, configs=[config]
        )
        answer = self.connection.call(
            Api.INCREMENTAL_ALTER_CONFIGS, 1, IncrementalAlterConfigsRequest(resources=[resource])
        )
        self.notes.note(f"{group}: {name}={value}", answer.responses[0].error_code)

    def produce(self, topic: str, *values: bytes, partition: int = 0, **options: Any) -> None:
        batch = build([Record(i, 1_700_000_000_000, None, value, []) for i, value in enumerate(values)], **options)
        data = ProduceRequest.TopicProduceData(
            name=topic, partition_data=[ProduceRequest.PartitionProduceData(index=partition, records=batch)]
        )
        request = ProduceRequest(
            acks=-1, timeout_ms=10_000, topic_data=[data], transactional_id="x" if options else None
        )
        answer = self.connection.call(Api.PRODUCE, 9, request)
        assert not answer.responses[0].partition_responses[0].error_code, answer

    def list_types(self, group: str) -> list[tuple[str, str]]:
        found = self.connection.call(Api.LIST_GROUPS, 5, ListGroupsRequest()).groups
        return [(one.group_type, one.group_state) for one in found if one.group_id == group]


class Consumer:
    """A share consumer of few words."""

    def __init__(self, scene: Scene, name: str, group: str, topic: str, partitions: int = 1) -> None:
        self.scene, self.group, self.topic = scene, group, topic
        self.id = member_id(name)
        self.partitions = partitions
        self.connection = scene.notes.connect()
        self.epoch = self.session = 0

    def beat(self, epoch: int | None = None, topics: list[str] | None = None) -> Any:
        request = ShareGroupHeartbeatRequest(
            group_id=self.group,
            member_id=self.id,
            member_epoch=self.epoch if epoch is None else epoch,
            subscribed_topic_names=topics,
        )
        answer = self.connection.call(Api.SHARE_GROUP_HEARTBEAT, 1, request)
        if not answer.error_code:
            self.epoch = answer.member_epoch
        return answer

    def join(self) -> Consumer:
        deadline = time.monotonic() + READ_S
        answer = self.beat(0, [self.topic])
        while answer.error_code or not answer.assignment or not answer.assignment.topic_partitions:
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
            answer = self.beat(None if self.epoch else 0, [self.topic])
        return self

    def fetch(
        self,
        *acks: tuple[int, int, list[int]],
        wait_ms: int = 0,
        epoch: int | None = None,
        records: int = 500,
        version: int = 1,
    ) -> Any:
        batches = [
            ShareFetchRequest.AcknowledgementBatch(first_offset=first, last_offset=last, acknowledge_types=types)
            for first, last, types in acks
        ]
        parts = [
            ShareFetchRequest.FetchPartition(partition_index=one, acknowledgement_batches=[] if one else batches)
            for one in range(self.partitions)
        ]
        request = ShareFetchRequest(
            group_id=self.group,
            member_id=self.id,
            share_session_epoch=self.session if epoch is None else epoch,
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=1 << 20,
            max_records=records,
            batch_size=records,
            topics=[ShareFetchRequest.FetchTopic(topic_id=self.scene.ids[self.topic], partitions=parts)],
        )
        answer = self.connection.call(Api.SHARE_FETCH, version, request)
        if not answer.error_code and epoch is None:
            self.session += 1
        return answer

    def acknowledge(self, first: int, last: int, types: list[int], epoch: int | None = None) -> Any:
        batch = ShareAcknowledgeRequest.AcknowledgementBatch(
            first_offset=first, last_offset=last, acknowledge_types=types
        )
        part = ShareAcknowledgeRequest.AcknowledgePartition(partition_index=0, acknowledgement_batches=[batch])
        request = ShareAcknowledgeRequest(
            group_id=self.group,
            member_id=self.id,
            share_session_epoch=self.session if epoch is None else epoch,
            topics=[ShareAcknowledgeRequest.AcknowledgeTopic(topic_id=self.scene.ids[self.topic], partitions=[part])],
        )
        answer = self.connection.call(Api.SHARE_ACKNOWLEDGE, 1, request)
        if not answer.error_code and epoch is None:
            self.session += 1
        return answer

    def read(self, count: int) -> list[tuple[int, int, int]]:
        """Until so many records have come, or a time is over: (partition, offset, delivery count), sorted."""
        found: list[tuple[int, int, int]] = []
        deadline = time.monotonic() + READ_S
        while len(found) < count and time.monotonic() < deadline:
            found += acquired(self.fetch(wait_ms=WAIT_MS))
        return sorted(found)


def acquired(answer: Any) -> list[tuple[int, int, int]]:
    assert not answer.error_code, answer
    return [
        (part.partition_index, offset, one.delivery_count)
        for topic in answer.responses
        for part in topic.partitions
        for one in part.acquired_records
        for offset in range(one.first_offset, one.last_offset + 1)
    ]


def outcome(answer: Any) -> tuple[int, list[int]]:
    """The error of the whole, and those of acknowledging."""
    name = "error_code" if not hasattr(answer, "node_endpoints") or "Acknowledge" in type(answer).__name__ else ""
    errors = [
        getattr(part, "acknowledge_error_code" if hasattr(part, "acknowledge_error_code") else name or "error_code")
        for topic in answer.responses
        for part in topic.partitions
    ]
    return answer.error_code, errors


def consumer(s: Scene, name: str, group: str, topic: str, partitions: int = 1) -> Consumer:
    return Consumer(s, name, group, topic, partitions).join()


def strangers(s: Scene) -> None:
    s.configure("known", "share.auto.offset.reset", "earliest")
    consumer(s, "a", "known", "t")
    for group in ("none", "known"):
        for epoch in (3, -1):
            stranger = Consumer(s, "b", group, "t")
            s.notes.note(f"stranger in {group}: beat {epoch}", stranger.beat(epoch).error_code)
        for epoch in (0, 3, -1):
            stranger = Consumer(s, "b", group, "t")
            s.notes.note(f"stranger in {group}: fetch {epoch}", outcome(stranger.fetch(epoch=epoch))[0])
            s.notes.note(
                f"stranger in {group}: acknowledge {epoch}",
                outcome(stranger.acknowledge(0, 0, [ACCEPT], epoch=epoch))[0],
            )
    s.notes.note("no member id", Consumer(s, "", "known", "t").beat(0, ["t"]).error_code)
    described = s.connection.call(Api.SHARE_GROUP_DESCRIBE, 1, ShareGroupDescribeRequest(group_ids=["none"]))
    s.notes.note("describe none", described.groups[0].error_code)


def acknowledgements(s: Scene) -> None:
    s.configure("acks", "share.auto.offset.reset", "earliest")
    one = consumer(s, "a", "acks", "acks")
    s.produce("acks", *(b"%d" % i for i in range(10)))
    s.notes.note("acks: first", one.read(10))
    s.notes.note("acks: mixed", outcome(one.acknowledge(0, 3, [ACCEPT, RELEASE, REJECT, RELEASE])))
    s.notes.note("acks: again", one.read(2))
    s.notes.note("acks: accepted twice", outcome(one.acknowledge(0, 0, [ACCEPT])))
    s.notes.note("acks: beyond", outcome(one.acknowledge(20, 20, [ACCEPT])))
    s.notes.note("acks: backwards", outcome(one.acknowledge(5, 4, [ACCEPT])))
    s.notes.note("acks: too many types", outcome(one.acknowledge(4, 5, [ACCEPT] * 3)))
    s.notes.note("acks: unknown type", outcome(one.acknowledge(4, 4, [9])))
    s.notes.note("acks: no type", outcome(one.acknowledge(4, 4, [])))
    s.notes.note("acks: with a fetch", outcome(one.fetch((4, 5, [ACCEPT]))))
    two = consumer(s, "b", "acks", "acks")
    two.fetch()
    s.notes.note("acks: another's", outcome(two.acknowledge(6, 6, [ACCEPT])))


def sessions(s: Scene) -> None:
    s.configure("sessions", "share.auto.offset.reset", "earliest")
    one = consumer(s, "a", "sessions", "t")
    s.notes.note("session: not open", one.fetch(epoch=5).error_code)
    s.notes.note("session: acknowledge opens none", one.acknowledge(0, 0, [ACCEPT], epoch=0).error_code)
    s.notes.note("session: acknowledge with the first fetch", one.fetch((0, 0, [ACCEPT]), epoch=0).error_code)
    one.fetch()
    s.notes.note("session: wrong epoch", one.fetch(epoch=7).error_code)
    s.notes.note("session: goes on", one.fetch().error_code)
    s.notes.note("session: closed", one.fetch(epoch=-1).error_code)
    s.notes.note("session: closed twice", one.fetch(epoch=-1).error_code)


def gone(s: Scene) -> None:
    """What becomes of the records of who goes, in each way of going."""
    for name, how in {"connection": 0, "session": 1, "leave": 2, "reopen": 3}.items():
        group = f"gone-{name}"
        topic = f"gone-{name}"
        s.configure(group, "share.auto.offset.reset", "earliest")
        one, two = consumer(s, "a", group, topic), consumer(s, "b", group, topic)
        two.fetch()
        s.produce(topic, b"0", b"1", b"2")
        s.notes.note(f"{group}: first", one.read(3))
        s.notes.note(f"{group}: nothing for the other", two.read(0))
        if how == 0:
            one.connection.close()
        elif how == 1:
            one.fetch((0, 0, [ACCEPT]), epoch=-1)
        elif how == 2:
            s.notes.note(f"{group}: left", one.beat(-1).error_code)
            s.notes.note(f"{group}: fetch after leaving", outcome(one.fetch())[0])
        else:
            one.session = 0
            one.fetch()
        time.sleep(0.3)
        wanted = {0: 3, 1: 2, 2: 0, 3: 3}[how]
        s.notes.note(f"{group}: what the other gets", two.read(wanted) if wanted else acquired(two.fetch(wait_ms=500)))


def new_producer(s: Scene) -> Any:
    answers: list[Any] = []

    def answered() -> bool:
        init = InitProducerIdRequest(transactional_id="x", transaction_timeout_ms=60_000)
        answers.append(s.connection.call(Api.INIT_PRODUCER_ID, 4, init))
        return not answers[-1].error_code

    wait_until(answered)
    return answers[-1]


def isolation(s: Scene) -> None:
    find = FindCoordinatorRequest(key_type=1, coordinator_keys=["x"])
    wait_until(lambda: not s.connection.call(Api.FIND_COORDINATOR, 4, find).coordinators[0].error_code)
    for level in ("default", "read_committed", "read_uncommitted"):
        group = f"isolation-{level}"
        topic = f"isolation-{level}"
        s.configure(group, "share.auto.offset.reset", "earliest")
        if level != "default":
            s.configure(group, "share.isolation.level", level)
        one = consumer(s, "a", group, topic)
        one.fetch()
        for commits in (False, True):
            producer = new_producer(s)
            who = {
                "producer_id": producer.producer_id,
                "producer_epoch": producer.producer_epoch,
            }
            added = AddPartitionsToTxnRequest(
                v3_and_below_transactional_id="x",
                v3_and_below_producer_id=producer.producer_id,
                v3_and_below_producer_epoch=producer.producer_epoch,
                v3_and_below_topics=[
                    AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(name=topic, partitions=[0]),
                ],
            )
            s.connection.call(Api.ADD_PARTITIONS_TO_TXN, 3, added)
            s.produce(topic, b"0", b"1", base_sequence=0, transactional=True, **who)
            s.notes.note(f"{group}: open, commits {commits}", acquired(one.fetch(wait_ms=1_000)))
            end = EndTxnRequest(transactional_id="x", committed=commits, **who)
            assert not s.connection.call(Api.END_TXN, 3, end).error_code
            time.sleep(0.3)
            s.notes.note(f"{group}: ended, commits {commits}", acquired(one.fetch(wait_ms=1_000)))
        s.notes.note(f"{group}: released", outcome(one.acknowledge(4, 4, [RELEASE]))[0])
    s.configure("isolation", "share.isolation.level", "nonsense")


def assignments(s: Scene) -> None:
    """How often each partition is assigned, for some numbers of members; and whether any has nothing."""
    for members in (1, 2, 3, 6):
        group = f"assigned-{members}"
        made = [consumer(s, NAMES[i], group, "six") for i in range(members)]
        time.sleep(1.0)
        for _ in range(3):
            for one in made:
                one.beat()
            time.sleep(0.7)
        described = s.connection.call(Api.SHARE_GROUP_DESCRIBE, 1, ShareGroupDescribeRequest(group_ids=[group]))
        sizes, covered = [], set()
        for one in described.groups[0].members:
            mine = [part for topic in one.assignment.topic_partitions for part in topic.partitions]
            sizes.append(len(mine))
            covered |= set(mine)
        s.notes.note(f"{group}: sizes", sorted(sizes))
        s.notes.note(f"{group}: covered", sorted(covered))
        s.notes.note(f"{group}: state", [described.groups[0].group_state, described.groups[0].assignor_name])


def administration(s: Scene) -> None:
    group = "admin"
    s.configure(group, "share.auto.offset.reset", "earliest")
    one = consumer(s, "a", group, "t")
    one.fetch()
    s.notes.note("admin: listed", s.list_types(group))
    delete = DeleteGroupsRequest(groups_names=[group])
    s.notes.note("admin: delete with a member", s.connection.call(Api.DELETE_GROUPS, 2, delete).results[0].error_code)
    part = AlterShareGroupOffsetsRequest.AlterShareGroupOffsetsRequestPartition(partition_index=0, start_offset=0)
    topic = AlterShareGroupOffsetsRequest.AlterShareGroupOffsetsRequestTopic(topic_name="t", partitions=[part])
    alter = AlterShareGroupOffsetsRequest(group_id=group, topics=[topic])
    s.notes.note("admin: alter with a member", s.connection.call(Api.ALTER_SHARE_GROUP_OFFSETS, 0, alter).error_code)
    s.notes.note("admin: left", one.beat(-1).error_code)
    s.notes.note("admin: listed when empty", s.list_types(group))
    s.notes.note("admin: alter", s.connection.call(Api.ALTER_SHARE_GROUP_OFFSETS, 0, alter).error_code)
    asked = DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup(group_id=group, topics=None)
    offsets = s.connection.call(Api.DESCRIBE_SHARE_GROUP_OFFSETS, 1, DescribeShareGroupOffsetsRequest(groups=[asked]))
    s.notes.note(
        "admin: offsets",
        [(p.partition_index, p.start_offset) for t in offsets.groups[0].topics for p in t.partitions],
    )
    s.notes.note("admin: delete", s.connection.call(Api.DELETE_GROUPS, 2, delete).results[0].error_code)
    s.notes.note("admin: listed when gone", s.list_types(group))


SCENES: list[Callable[[Scene], None]] = [
    strangers,
    acknowledgements,
    sessions,
    gone,
    isolation,
    assignments,
    administration,
]
TOPICS = {
    "t": 1,
    "acks": 1,
    "six": 6,
    **{f"gone-{how}": 1 for how in ("connection", "session", "leave", "reopen")},
    **{f"isolation-{level}": 1 for level in ("default", "read_committed", "read_uncommitted")},
}


def answers_of(broker: Broker) -> dict[str, object]:
    with broker:
        broker.start()
        ids = prepare(broker, TOPICS)
        notes = Notes(broker.port)
        for scene in SCENES:
            scene(Scene(notes, ids))
        notes.close()
        return notes.answers


def main() -> int:
    return compare(answers_of, Trivium, ApacheKafka, DELIBERATE)


if __name__ == "__main__":
    sys.exit(main())
