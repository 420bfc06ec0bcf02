"""Share groups over the wire: membership, sessions, acknowledgements, offsets; and librdkafka's share consumer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import trio
from confluent_kafka import AcknowledgeType
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from trio.testing import MockClock

import trivium.blocking
from core.dynamic_configs import SHARE_ISOLATION, SHARE_RESET, Scope
from core.errors import CoreFailure
from core.queue_types import START_LATEST, Order, Subscription
from core.store.engine import Append, append
from core.store.memory import MemoryEngine
from core.tracing import Actor
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    AlterShareGroupOffsetsRequest,
    DeleteGroupsRequest,
    DeleteShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequest,
    ListGroupsRequest,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
    ShareFetchResponse,
    ShareGroupDescribeRequest,
    ShareGroupHeartbeatRequest,
)
from gateway.testing import free_port
from tests.kafka.wire import Listener, WireClient, batch_of, kafka_listener
from tests.mqtt.child import Child, child_broker
from tests.patience import PATIENCE_S
from trivium import headers
from trivium.record_batch import parse_header
from trivium.records import Record, build_control, decode

ACCEPT, RELEASE, REJECT, RENEW = 1, 2, 3, 4


class Member:
    """A share consumer of few words."""

    def __init__(self, listener: Listener, client: WireClient, name: str, group: str = "g", topic: str = "t") -> None:
        self.client = client
        self.name, self.group, self.topic = name, group, topic
        found = listener.broker.topics.get(topic)
        assert found is not None
        self.topic_id = found.id
        self.epoch = 0
        self.session = 0

    async def beat(self, epoch: int | None = None, topics: list[str] | None = None) -> Any:
        request = ShareGroupHeartbeatRequest(
            group_id=self.group,
            member_id=self.name,
            member_epoch=self.epoch if epoch is None else epoch,
            subscribed_topic_names=topics,
        )
        answer = await self.client.call(ApiKey.SHARE_GROUP_HEARTBEAT, 1, request)
        if not answer.error_code:
            self.epoch = answer.member_epoch
        return answer

    async def fetch(
        self, *acks: tuple[int, int, list[int]], wait_ms: int = 0, epoch: int | None = None, records: int = 500
    ) -> Any:
        batches = [
            ShareFetchRequest.AcknowledgementBatch(first_offset=first, last_offset=last, acknowledge_types=types)
            for first, last, types in acks
        ]
        partition = ShareFetchRequest.FetchPartition(partition_index=0, acknowledgement_batches=batches)
        request = ShareFetchRequest(
            group_id=self.group,
            member_id=self.name,
            share_session_epoch=self.session if epoch is None else epoch,
            max_wait_ms=wait_ms,
            max_bytes=1 << 20,
            max_records=records,
            topics=[ShareFetchRequest.FetchTopic(topic_id=self.topic_id, partitions=[partition])],
        )
        answer = await self.client.call(ApiKey.SHARE_FETCH, 2, request)
        if not answer.error_code and epoch is None:
            self.session += 1
        return answer

    async def acknowledge(self, first: int, last: int, types: list[int], epoch: int | None = None) -> Any:
        batch = ShareAcknowledgeRequest.AcknowledgementBatch(
            first_offset=first, last_offset=last, acknowledge_types=types
        )
        partition = ShareAcknowledgeRequest.AcknowledgePartition(partition_index=0, acknowledgement_batches=[batch])
        request = ShareAcknowledgeRequest(
            group_id=self.group,
            member_id=self.name,
            share_session_epoch=self.session if epoch is None else epoch,
            topics=[ShareAcknowledgeRequest.AcknowledgeTopic(topic_id=self.topic_id, partitions=[partition])],
        )
        answer = await self.client.call(ApiKey.SHARE_ACKNOWLEDGE, 2, request)
        if not answer.error_code and epoch is None:
            self.session += 1
        return answer


def only(answer: Any) -> ShareFetchResponse.PartitionData:
    assert answer.error_code == 0
    assert len(answer.responses) == 1
    found: ShareFetchResponse.PartitionData = answer.responses[0].partitions[0]
    return found


def acquired(answer: Any) -> list[tuple[int, int, int]]:
    if not answer.responses:
        return []
    return [(one.first_offset, one.last_offset, one.delivery_count) for one in only(answer).acquired_records]


def batches(answer: Any) -> list[bytes]:
    found: list[bytes] = []
    left = bytes(only(answer).records)  # type: ignore[arg-type]
    while left:
        size_bytes = parse_header(left).size_bytes
        found.append(left[:size_bytes])
        left = left[size_bytes:]
    return found


async def joined(listener: Listener, name: str = "m", group: str = "g", reset: str = "earliest") -> Member:
    await listener.broker.configs.update(Scope.GROUP, group, lambda _: {SHARE_RESET: reset})
    member = Member(listener, listener.connect(), name, group)
    answer = await member.beat(0, ["t"])
    assert answer.error_code == 0
    assert [(one.topic_id, one.partitions) for one in answer.assignment.topic_partitions] == [(member.topic_id, [0])]
    return member


async def store(listener: Listener, *values: bytes, **options: Any) -> None:
    topic = listener.broker.topics.get("t")
    assert topic is not None
    batch = batch_of(*values, **options)
    await append(listener.broker.engine, [Append(topic.partitions[0], parse_header(batch), batch)])


async def letters(listener: Listener) -> list[Record]:
    """The dead letters of g, when those that are on their way are there. Under an autojump clock."""
    await trio.sleep(10)
    topic = listener.broker.topics.get("dead-letters.g")
    assert topic is not None
    read = await listener.broker.engine.read(topic.partitions[0], 0, 1 << 20)
    return [record for one in read.buffers for record in decode(one, 1 << 20)]


async def offsets_of(listener: Listener, group: str) -> list[tuple[str, int]]:
    asked = DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup(group_id=group, topics=None)
    request = DescribeShareGroupOffsetsRequest(groups=[asked])
    answer = await listener.connect().call(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, 1, request)
    return [(topic.topic_name, part.start_offset) for topic in answer.groups[0].topics for part in topic.partitions]


async def test_records_are_acquired_accepted_released_and_rejected() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await store(listener, b"0", b"1", b"2", b"3")
        first = await member.fetch(wait_ms=60_000)
        assert acquired(first) == [(0, 3, 1)]
        records = only(first).records
        assert [one.value for one in decode(records, 1 << 20)] == [b"0", b"1", b"2", b"3"]  # type: ignore[arg-type]
        answer = await member.acknowledge(0, 3, [ACCEPT, RELEASE, REJECT, RELEASE])
        assert answer.responses[0].partitions[0].error_code == 0
        again: list[tuple[int, int, int]] = []
        while len(again) < 2:
            again += acquired(await member.fetch(wait_ms=60_000))
        assert sorted(again) == [(1, 1, 2), (3, 3, 2)]
        settled = only(await member.fetch((1, 1, [ACCEPT]), (3, 3, [ACCEPT])))
        assert settled.acknowledge_error_code == 0
        again_accepted = only(await member.fetch((1, 1, [ACCEPT])))
        assert again_accepted.acknowledge_error_code == 0  # as Kafka, for what all are done with


async def test_a_dead_letter_sent_again_comes_from_its_topic(autojump_clock: MockClock) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member, queues = await joined(listener), listener.broker.queues
        await store(listener, b"bad", b"good")
        assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 1, 1)]
        await member.acknowledge(0, 1, [REJECT, ACCEPT])
        dead = await letters(listener)
        assert dict(dead[0].headers)[headers.DEAD_LETTER_REASON] == b"rejected"
        await queues.resend("g", [0])
        again = await member.fetch(wait_ms=60_000)
        assert acquired(again) == [(0, 0, 1)]
        assert b"bad" in batches(again)[0]
        await queues.resend("g", [0])  # it is on its way
        assert acquired(await member.fetch()) == []
        await member.acknowledge(0, 0, [REJECT])
        assert [one.value for one in await letters(listener)] == [b"bad", b"bad"]
        shown = await offsets_of(listener, "g")
        assert shown == [("t", 2)]
        await listener.broker.topics.delete("t")
        await listener.broker.topics.create("t", 1)
        await store(listener, b"another")
        await member.beat(topics=["t"])
        with pytest.raises(CoreFailure, match="no longer has the message"):
            await queues.resend("g", [0])


async def test_of_a_topic_made_anew_nothing_is_handed_out_to_who_does_not_know_it() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await member.fetch()
        await listener.broker.topics.delete("t")
        topic = await listener.broker.topics.create("t", 1)
        await store(listener, b"0")
        await member.beat()
        nothing = await member.client.call(
            ApiKey.SHARE_FETCH,
            2,
            ShareFetchRequest(group_id="g", member_id="m", share_session_epoch=1, max_wait_ms=100, max_bytes=1 << 20),
        )
        assert (nothing.error_code, nothing.responses) == (0, [])
        member.topic_id, member.session = topic.id, 2
        assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 0, 1)]


async def test_records_of_different_delivery_counts_come_in_one_order() -> None:
    """Clients pass once over the records and what they have acquired, and call what they do not meet there a gap."""
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await store(listener, b"0", b"1", b"2", b"3")
        assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 3, 1)]
        await member.acknowledge(0, 2, [RENEW, RELEASE, RENEW])
        assert acquired(await member.fetch(wait_ms=60_000)) == [(1, 1, 2)]
        await member.acknowledge(0, 3, [RELEASE])
        answer = await member.fetch(wait_ms=60_000)
        assert acquired(answer) == [(0, 0, 2), (1, 1, 3), (2, 3, 2)]
        assert [record.value for batch in batches(answer) for record in decode(batch, 1 << 20)] == [
            b"0",
            b"1",
            b"2",
            b"3",
        ]


async def test_two_members_share_a_partition_and_one_that_closes_gives_back() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        one, two = await joined(listener, "one"), await joined(listener, "two")
        await one.fetch()
        await two.fetch()
        await store(listener, b"0", b"1", b"2", b"3")
        assert acquired(await one.fetch(wait_ms=60_000, records=2)) == [(0, 1, 1)]
        assert acquired(await two.fetch(wait_ms=60_000)) == [(2, 3, 1)]
        assert (await two.acknowledge(0, 1, [ACCEPT])).responses[0].partitions[
            0
        ].error_code == ErrorCode.INVALID_RECORD_STATE
        closed = await one.fetch((0, 0, [ACCEPT]), epoch=-1)
        assert only(closed).acknowledge_error_code == 0
        assert acquired(await two.fetch(wait_ms=60_000)) == [(1, 1, 2)]


async def test_sessions_are_numbered() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        assert (await member.fetch(epoch=5)).error_code == ErrorCode.SHARE_SESSION_NOT_FOUND
        assert (await member.acknowledge(0, 0, [ACCEPT], epoch=0)).error_code == ErrorCode.INVALID_SHARE_SESSION_EPOCH
        assert (await member.fetch((0, 0, [ACCEPT]), epoch=0)).error_code == ErrorCode.INVALID_REQUEST
        await member.fetch()
        assert (await member.fetch(epoch=7)).error_code == ErrorCode.INVALID_SHARE_SESSION_EPOCH
        assert (await member.fetch()).error_code == 0
        stranger = Member(listener, listener.connect(), "stranger")
        assert (await stranger.fetch()).error_code == 0  # a session asks for no membership
        assert (await Member(listener, stranger.client, "").fetch()).error_code == ErrorCode.INVALID_REQUEST


async def test_a_connection_that_is_gone_gives_back_what_it_had() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        one, two = await joined(listener, "one"), await joined(listener, "two")
        await one.fetch()
        await two.fetch()
        await store(listener, b"0", b"1")
        assert acquired(await one.fetch(wait_ms=60_000)) == [(0, 1, 1)]
        await one.client.stream.aclose()
        assert acquired(await two.fetch(wait_ms=60_000)) == [(0, 1, 2)]


async def test_a_session_that_is_opened_anew_keeps_what_it_has() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        one, two = await joined(listener, "one"), await joined(listener, "two")
        await one.fetch()
        await store(listener, b"0")
        assert acquired(await one.fetch(wait_ms=60_000)) == [(0, 0, 1)]
        one.session = 0
        await one.fetch()
        await two.fetch()
        assert acquired(await two.fetch(wait_ms=1_000)) == []
        assert (await one.acknowledge(0, 0, [ACCEPT])).responses[0].partitions[0].error_code == 0


async def test_a_session_can_be_opened_before_its_group_is_there() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await member.fetch()
        await member.beat(-1)
        await member.client.call(ApiKey.DELETE_GROUPS, 2, DeleteGroupsRequest(groups_names=["g"]))
        assert (await member.fetch()).error_code == ErrorCode.SHARE_SESSION_NOT_FOUND
        member.session = 0
        assert acquired(await member.fetch(wait_ms=100)) == []
        lost = (await member.acknowledge(0, 0, [ACCEPT])).responses[0].partitions[0]
        assert lost.error_code == ErrorCode.GROUP_ID_NOT_FOUND
        await store(listener, b"0")
        await member.beat(0, ["t"])
        assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 0, 1)]


async def test_who_is_not_known_after_a_restart_is_told_to_join_again() -> None:
    engine = MemoryEngine()
    async with kafka_listener(topics={"t": 1}, engine=engine) as listener:
        member = await joined(listener)
        epoch = member.epoch
    async with kafka_listener(engine=engine, start_engine=False) as listener, trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        again = Member(listener, listener.connect(), "m")
        assert (await again.beat(epoch)).error_code == ErrorCode.UNKNOWN_MEMBER_ID  # which clients join again for
        assert (await again.fetch()).error_code == 0
        await store(listener, b"0")
        assert acquired(await again.fetch(wait_ms=60_000)) == [(0, 0, 1)]
        nursery.cancel_scope.cancel()


async def test_partitions_are_spread_over_the_members() -> None:
    async with kafka_listener(topics={"t": 3}) as listener:
        members = [Member(listener, listener.connect(), name) for name in "abcde"]

        async def told(member: Member) -> list[int]:
            answer = await member.beat(topics=["t"])
            assert answer.error_code == 0
            return [index for one in answer.assignment.topic_partitions for index in one.partitions]

        assert await told(members[0]) == [0, 1, 2]
        assert await told(members[1]) == [1]
        assert await told(members[0]) == [0, 2]
        for member in members[2:]:
            await told(member)
        assert sorted([await told(member) for member in members]) == [[0], [0], [1], [1], [2]]
        await members[1].beat(-1)
        assert {index for member in (members[0], *members[2:]) for index in await told(member)} == {0, 1, 2}
        assert (await members[0].beat()).assignment is None


@pytest.mark.parametrize("level", [None, "read_uncommitted", "read_committed"])
async def test_the_isolation_level_is_the_groups(level: str | None) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        configs = {SHARE_RESET: "earliest"} | ({SHARE_ISOLATION: level} if level else {})
        await member.fetch()
        await listener.broker.configs.update(Scope.GROUP, "g", lambda _: configs)
        number = listener.broker.topics.get("t").partitions[0]  # type: ignore[union-attr]
        batch = batch_of(b"0", b"1", base_sequence=0, producer_id=7, producer_epoch=0, transactional=True)
        await append(listener.broker.engine, [Append(number, parse_header(batch), batch)])
        dirty = [] if level == "read_committed" else [(0, 1, 1)]
        assert acquired(await member.fetch(wait_ms=60_000 if dirty else 1_000)) == dirty
        marker = build_control(7, 0, commit=False, coordinator_epoch=0, timestamp_ms=1)
        await append(listener.broker.engine, [Append(number, parse_header(marker), marker)])
        assert acquired(await member.fetch(wait_ms=1_000)) == []
        if dirty:
            await member.acknowledge(0, 1, [RELEASE])
            assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 1, 2)]


async def test_queue_groups_are_no_share_groups() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        queues = listener.broker.queues
        await queues.join("native", "m", Actor("native", "m", ""), Subscription(("t",)), START_LATEST, lambda _: None)
        client = listener.connect()
        listed = await client.call(ApiKey.LIST_GROUPS, 5, ListGroupsRequest())
        assert listed.groups == []
        described = await client.call(ApiKey.SHARE_GROUP_DESCRIBE, 1, ShareGroupDescribeRequest(group_ids=["native"]))
        assert described.groups[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND
        deleted = await client.call(ApiKey.DELETE_GROUPS, 2, DeleteGroupsRequest(groups_names=["native"]))
        assert deleted.results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND
        assert queues.find("native").subscription == Subscription(("t",))


@pytest.mark.parametrize("bad", [(3, 1, [ACCEPT]), (0, 3, [ACCEPT, ACCEPT]), (0, 0, [9]), (0, 0, [])])
async def test_acknowledgements_that_contradict_themselves(bad: tuple[int, int, list[int]]) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await member.fetch()
        assert only(await member.fetch(bad)).acknowledge_error_code == ErrorCode.INVALID_REQUEST
        assert (await member.acknowledge(*bad)).responses[0].partitions[0].error_code == ErrorCode.INVALID_REQUEST
        huge = (0, 1 << 40, [ACCEPT])
        assert only(await member.fetch(huge)).acknowledge_error_code == ErrorCode.INVALID_RECORD_STATE  # nothing is out
        await store(listener, b"0")
        assert acquired(await member.fetch(wait_ms=60_000)) == [(0, 0, 1)]
        assert only(await member.fetch(huge)).acknowledge_error_code == ErrorCode.INVALID_REQUEST


async def test_who_is_refused_leaves_no_group_behind() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        ordered = Subscription(("t",), order=Order.KEY)
        await listener.broker.queues.join("g", "m", Actor("native", "m", ""), ordered, START_LATEST, lambda _: None)
        refused = await Member(listener, listener.connect(), "x").beat(0, ["t"])
        assert refused.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert (await listener.connect().call(ApiKey.LIST_GROUPS, 5, ListGroupsRequest())).groups == []


async def test_membership() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        assert (await member.beat()).assignment is None
        assert (await member.beat(member.epoch + 3)).error_code == ErrorCode.FENCED_MEMBER_EPOCH
        assert (await Member(listener, member.client, "").beat(0, ["t"])).error_code == ErrorCode.INVALID_REQUEST
        assert (await Member(listener, member.client, "x").beat(3)).error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert (await Member(listener, member.client, "x", "none").beat(3)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
        described = await member.client.call(
            ApiKey.SHARE_GROUP_DESCRIBE, 1, ShareGroupDescribeRequest(group_ids=["g", "none"])
        )
        assert [(one.group_state, len(one.members), one.error_code) for one in described.groups] == [
            ("Stable", 1, 0),
            ("", 0, ErrorCode.GROUP_ID_NOT_FOUND),
        ]
        listed = await member.client.call(ApiKey.LIST_GROUPS, 5, ListGroupsRequest(types_filter=["share"]))
        assert [(one.group_id, one.group_type, one.group_state) for one in listed.groups] == [("g", "share", "Stable")]
        delete = DeleteGroupsRequest(groups_names=["g"])
        refused = await member.client.call(ApiKey.DELETE_GROUPS, 2, delete)
        assert refused.results[0].error_code == ErrorCode.NON_EMPTY_GROUP
        assert (await member.beat(-1)).member_epoch == -1
        assert (await member.client.call(ApiKey.DELETE_GROUPS, 2, delete)).results[0].error_code == 0
        assert (await member.beat(3)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_offsets_are_shown_set_and_deleted() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        await store(listener, b"0", b"1", b"2")
        client = member.client
        group = DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup(group_id="g", topics=None)

        async def offsets() -> list[tuple[int, int]]:
            request = DescribeShareGroupOffsetsRequest(groups=[group])
            answer = await client.call(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, 1, request)
            return [(part.start_offset, part.lag) for topic in answer.groups[0].topics for part in topic.partitions]

        assert await offsets() == [(0, 3)]
        part = AlterShareGroupOffsetsRequest.AlterShareGroupOffsetsRequestPartition(partition_index=0, start_offset=2)
        topic = AlterShareGroupOffsetsRequest.AlterShareGroupOffsetsRequestTopic(topic_name="t", partitions=[part])
        alter = AlterShareGroupOffsetsRequest(group_id="g", topics=[topic])
        assert (await client.call(ApiKey.ALTER_SHARE_GROUP_OFFSETS, 0, alter)).error_code == ErrorCode.NON_EMPTY_GROUP
        await member.beat(-1)
        assert (await client.call(ApiKey.ALTER_SHARE_GROUP_OFFSETS, 0, alter)).error_code == 0
        assert await offsets() == [(2, 1)]
        named = [
            DeleteShareGroupOffsetsRequest.DeleteShareGroupOffsetsRequestTopic(topic_name=name) for name in ("t", "u")
        ]
        delete = DeleteShareGroupOffsetsRequest(group_id="g", topics=named)
        answer = await client.call(ApiKey.DELETE_SHARE_GROUP_OFFSETS, 0, delete)
        assert [(one.topic_name, one.error_code, one.error_message) for one in answer.responses] == [
            ("t", 0, None),
            ("u", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition."),
        ]
        delete.group_id = "none"
        answer = await client.call(ApiKey.DELETE_SHARE_GROUP_OFFSETS, 0, delete)
        assert (answer.error_code, answer.error_message) == (ErrorCode.GROUP_ID_NOT_FOUND, "Group none not found.")
        assert await offsets() == []


async def test_offsets_of_groups_and_partitions_that_are_not_known_are_none_and_no_error() -> None:
    """Kafka 4.2's admin client shows null for -1, and raises for an error."""
    Group = DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup
    Topic = DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestTopic
    async with kafka_listener(topics={"t": 1}) as listener:
        client = (await joined(listener)).client
        topics = [Topic(topic_name="t", partitions=[0, 7]), Topic(topic_name="u", partitions=[0])]
        asked = [
            Group(group_id="g", topics=topics),
            Group(group_id="x", topics=topics),
            Group(group_id="x", topics=None),
        ]
        request = DescribeShareGroupOffsetsRequest(groups=asked)
        answer = await client.call(ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS, 1, request)
        assert [group.error_code for group in answer.groups] == [0, 0, 0]
        assert [
            [
                (topic.topic_name, part.partition_index, part.start_offset)
                for topic in group.topics
                for part in topic.partitions
            ]
            for group in answer.groups
        ] == [[("t", 0, 0), ("t", 7, -1), ("u", 0, -1)], [("t", 0, -1), ("t", 7, -1), ("u", 0, -1)], []]


def consumer(child: Child, **settings: Any) -> confluent_kafka.ShareConsumer:
    made = confluent_kafka.ShareConsumer(
        {"bootstrap.servers": child.kafka, "group.id": "g", "broker.address.family": "v4", **settings}
    )
    made.subscribe(["t"])
    return made


def test_librdkafkas_share_consumers_and_what_is_accepted_over_kill_9(tmp_path: Path) -> None:
    explicit = {"share.acknowledgement.mode": "explicit"}
    with child_broker(tmp_path) as child:
        admin = AdminClient({"bootstrap.servers": child.kafka})
        earliest = ConfigEntry(SHARE_RESET, "earliest", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.GROUP, "g", incremental_configs=[earliest])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(PATIENCE_S)
        with trivium.blocking.connect(child.native) as client, client.producer() as producer:
            client.create_topic("t", 1)
            for number in range(10):
                producer.send("t", b"%d" % number)
        first = consumer(child, **explicit)
        seen: set[bytes] = set()
        while len(seen) < 10:  # what was released comes again at once
            for message in first.poll(1.0):
                assert message.error() is None
                seen.add(message.value())
                accepts = message.offset() % 2 == 0
                first.acknowledge(message, AcknowledgeType.ACCEPT if accepts else AcknowledgeType.RELEASE)
            if len(seen) < 10:
                first.commit_sync(PATIENCE_S)
        assert set(first.commit_sync(PATIENCE_S).values()) <= {None}
        child.kill()
        child.start()
        first.close()
        second = consumer(child)
        again: set[bytes] = set()
        while len(again) < 5:
            again |= {message.value() for message in second.poll(1.0) if message.error() is None}
        second.commit_sync(PATIENCE_S)
        assert again == {b"%d" % number for number in range(1, 10, 2)}
        assert len(second.poll(1.0)) == 0
        second.close()


def test_consumption_goes_on_over_kill_9(tmp_path: Path) -> None:
    """librdkafka's consumer, not made anew: it learns that it is unknown, and joins again."""
    count = 200
    with child_broker(tmp_path, "--kafka", f"127.0.0.1:{free_port()}") as child:
        admin = AdminClient({"bootstrap.servers": child.kafka})
        earliest = ConfigEntry(SHARE_RESET, "earliest", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.GROUP, "g", incremental_configs=[earliest])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(PATIENCE_S)
        with trivium.blocking.connect(child.native) as client, client.producer() as producer:
            client.create_topic("t", 2)
            for number in range(count):
                producer.send("t", b"%d" % number, key=b"%d" % number)
        one = consumer(child, **{"max.poll.records": 10})
        seen: set[bytes] = set()
        kills = 0
        while len(seen) < count:
            seen |= {message.value() for message in one.poll(1.0) if message.error() is None}
            if kills < 2 and len(seen) > count * (kills + 1) // 4:
                kills += 1
                child.kill()
                child.start()
        assert kills == 2
        one.close()


async def test_a_group_that_never_read_anything_goes_with_its_last_member() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = Member(listener, (await joined(listener)).client, "m", "ghost")
        assert (await member.beat(0, ["missing"])).error_code == 0
        listed = ListGroupsRequest(types_filter=["share"])
        answer = await member.client.call(ApiKey.LIST_GROUPS, 5, listed)
        assert {one.group_id for one in answer.groups} == {"g", "ghost"}
        await member.beat(-1)
        answer = await member.client.call(ApiKey.LIST_GROUPS, 5, listed)
        assert [one.group_id for one in answer.groups] == ["g"]
