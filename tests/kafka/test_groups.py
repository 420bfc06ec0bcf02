"""Groups and offsets over the wire: every served version of every API, and whole group lives against a running
broker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from core.broker import BrokerSettings
from core.errors import CoreError
from core.group_subscription import build_assignment, build_subscription, parse_assignment
from core.group_types import GroupLimits
from core.offsets import CommitRequest, OffsetToCommit
from core.store.memory import MemoryEngine
from gateway.protocols.kafka.api_versions import ADVERTISED, ApiKey
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_offsets import commit_code
from gateway.protocols.kafka.messages import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupHeartbeatRequest,
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListGroupsRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from tests.kafka.wire import Listener, WireClient, kafka_listener

QUICK = BrokerSettings(groups=GroupLimits(initial_rebalance_delay_ms=0))
TOPICS = {"t": 2, "u": 1}


def versions(api: ApiKey) -> list[int]:
    low, high = ADVERTISED[api]
    return list(range(low, high + 1))


def join_request(member_id: str = "", group: str = "g", instance: str | None = None) -> JoinGroupRequest:
    metadata = build_subscription(1, ["t"], {})
    return JoinGroupRequest(
        group_id=group,
        session_timeout_ms=300_000,
        rebalance_timeout_ms=300_000,
        member_id=member_id,
        group_instance_id=instance,
        protocol_type="consumer",
        protocols=[JoinGroupRequest.JoinGroupRequestProtocol(name="range", metadata=metadata)],
    )


async def join(client: WireClient, version: int = 9, group: str = "g", instance: str | None = None) -> Any:
    answer = await client.call(ApiKey.JOIN_GROUP, version, join_request(group=group, instance=instance))
    if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
        answer = await client.call(ApiKey.JOIN_GROUP, version, join_request(answer.member_id, group))
    return answer


def sync_request(joined: Any, group: str = "g", instance: str | None = None) -> SyncGroupRequest:
    assignment = build_assignment(0, {"t": [0, 1]})
    return SyncGroupRequest(
        group_id=group,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        group_instance_id=instance,
        protocol_type="consumer",
        protocol_name="range",
        assignments=[SyncGroupRequest.SyncGroupRequestAssignment(member_id=joined.member_id, assignment=assignment)],
    )


async def form(client: WireClient, group: str = "g", instance: str | None = None) -> Any:
    """A stable group of one; its join's answer."""
    joined = await join(client, group=group, instance=instance)
    assert (await client.call(ApiKey.SYNC_GROUP, 5, sync_request(joined, group, instance))).error_code == 0
    return joined


def commit_request(
    listener: Listener, offset: int, member_id: str = "", generation: int = -1, group: str = "g"
) -> OffsetCommitRequest:
    topic = listener.broker.topics.get("t")
    assert topic is not None
    return OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member_id,
        topics=[
            OffsetCommitRequest.OffsetCommitRequestTopic(
                name="t",
                topic_id=topic.id,
                partitions=[
                    OffsetCommitRequest.OffsetCommitRequestPartition(
                        partition_index=partition, committed_offset=offset, committed_metadata="m"
                    )
                    for partition in (0, 7)
                ],
            )
        ],
    )


def fetch_request(listener: Listener, version: int, everything: bool = False, group: str = "g") -> OffsetFetchRequest:
    topic = listener.broker.topics.get("t")
    assert topic is not None
    if version < 8:
        one = OffsetFetchRequest.OffsetFetchRequestTopic(name="t", partition_indexes=[0, 1])
        return OffsetFetchRequest(group_id=group, topics=None if everything else [one])
    many = OffsetFetchRequest.OffsetFetchRequestTopics(name="t", topic_id=topic.id, partition_indexes=[0, 1])
    wanted = OffsetFetchRequest.OffsetFetchRequestGroup(
        group_id=group, member_id=None, member_epoch=-1, topics=None if everything else [many]
    )
    return OffsetFetchRequest(groups=[wanted])


def fetched(answer: Any, version: int) -> list[tuple[int, int, str, int]]:
    topics = answer.groups[0].topics if version >= 8 else answer.topics
    return [
        (part.partition_index, part.committed_offset, part.metadata, part.error_code)
        for topic in topics
        for part in topic.partitions
    ]


def test_every_core_error_has_a_kafka_code() -> None:
    assert set(CODES) == set(CoreError)


# -- classic groups


@pytest.mark.parametrize("version", versions(ApiKey.FIND_COORDINATOR))
async def test_this_broker_coordinates_everything(version: int) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        for key_type in (0, 1)[: version + 1]:
            request = FindCoordinatorRequest(key="g", key_type=key_type, coordinator_keys=["g", "h"])
            answer = await client.call(ApiKey.FIND_COORDINATOR, version, request)
            found = answer.coordinators if version >= 4 else [answer]
            assert [(c.error_code, c.node_id, c.host, c.port) for c in found] == [(0, 1, "localhost", 9092)] * len(
                found
            )


@pytest.mark.parametrize("version", versions(ApiKey.JOIN_GROUP))
async def test_join_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        first = await client.call(ApiKey.JOIN_GROUP, version, join_request())
        if version >= 4:
            assert (first.error_code, first.generation_id) == (ErrorCode.MEMBER_ID_REQUIRED, -1)
            assert first.member_id.startswith("test-")
            first = await client.call(ApiKey.JOIN_GROUP, version, join_request(first.member_id))
        assert (first.error_code, first.generation_id, first.protocol_name) == (0, 1, "range")
        assert first.leader == first.member_id
        assert [m.member_id for m in first.members] == [first.member_id]
        assert first.protocol_type == ("consumer" if version >= 7 else None)
        refused = await client.call(ApiKey.JOIN_GROUP, version, join_request("stranger"))
        assert refused.error_code == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("version", versions(ApiKey.SYNC_GROUP))
async def test_sync_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        joined = await join(client)
        answer = await client.call(ApiKey.SYNC_GROUP, version, sync_request(joined))
        assert answer.error_code == 0
        assert parse_assignment(answer.assignment) == {"t": [0, 1]}
        if version >= 5:
            assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")
            unnamed = sync_request(joined)
            unnamed.protocol_name = None
            refused = await client.call(ApiKey.SYNC_GROUP, version, unnamed)
            assert refused.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


@pytest.mark.parametrize("version", versions(ApiKey.HEARTBEAT))
async def test_heartbeat_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        joined = await form(client)
        for generation, expected in [(1, ErrorCode.NONE), (0, ErrorCode.ILLEGAL_GENERATION)]:
            request = HeartbeatRequest(group_id="g", generation_id=generation, member_id=joined.member_id)
            assert (await client.call(ApiKey.HEARTBEAT, version, request)).error_code == expected


@pytest.mark.parametrize("version", versions(ApiKey.LEAVE_GROUP))
async def test_leave_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        joined = await form(client)
        for expected in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID):
            member = LeaveGroupRequest.MemberIdentity(member_id=joined.member_id)
            request = LeaveGroupRequest(group_id="g", member_id=joined.member_id, members=[member])
            answer = await client.call(ApiKey.LEAVE_GROUP, version, request)
            if version >= 3:
                assert answer.error_code == 0
                assert [(m.member_id, m.error_code) for m in answer.members] == [(joined.member_id, expected)]
            else:
                assert answer.error_code == expected


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_GROUPS))
async def test_describe_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        joined = await form(client, instance="i")
        request = DescribeGroupsRequest(groups=["g", "none"], include_authorized_operations=version >= 3)
        found, missing = (await client.call(ApiKey.DESCRIBE_GROUPS, version, request)).groups
        assert (found.group_state, found.protocol_type, found.protocol_data) == ("Stable", "consumer", "range")
        assert [(m.member_id, m.client_id, m.client_host) for m in found.members] == [
            (joined.member_id, "test", "/127.0.0.1")
        ]
        assert found.members[0].group_instance_id == ("i" if version >= 4 else None)
        assert missing.group_state == "Dead"
        assert missing.error_code == (ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else 0)
        assert found.authorized_operations == (3400 if version >= 3 else -(2**31))


@pytest.mark.parametrize("version", versions(ApiKey.LIST_GROUPS))
async def test_list_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await form(client)
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 1, group="simple"))
        request = ListGroupsRequest()
        if version >= 4:
            request.states_filter = ["Stable", "empty"]
        if version >= 5:
            request.types_filter = ["CLASSIC"]
        groups = (await client.call(ApiKey.LIST_GROUPS, version, request)).groups
        assert [(g.group_id, g.protocol_type) for g in groups] == [("g", "consumer"), ("simple", "")]
        if version >= 4:
            assert [g.group_state for g in groups] == ["Stable", "Empty"]


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_GROUPS))
async def test_delete_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await form(client)
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 1, group="simple"))
        request = DeleteGroupsRequest(groups_names=["g", "simple", "none"])
        answer = await client.call(ApiKey.DELETE_GROUPS, version, request)
        assert {r.group_id: r.error_code for r in answer.results} == {
            "g": ErrorCode.NON_EMPTY_GROUP,
            "simple": ErrorCode.NONE,
            "none": ErrorCode.GROUP_ID_NOT_FOUND,
        }
        gone = await client.call(ApiKey.OFFSET_FETCH, 8, fetch_request(listener, 8, group="simple"))
        assert [offset for _, offset, _, _ in fetched(gone, 8)] == [-1, -1]


# -- offsets


@pytest.mark.parametrize("version", versions(ApiKey.OFFSET_COMMIT))
async def test_commit_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        answer = await client.call(ApiKey.OFFSET_COMMIT, version, commit_request(listener, 5))
        assert [(p.partition_index, p.error_code) for p in answer.topics[0].partitions] == [
            (0, ErrorCode.NONE),
            (7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ]
        found = await client.call(ApiKey.OFFSET_FETCH, 5, fetch_request(listener, 5))
        assert fetched(found, 5) == [(0, 5, "m", 0), (1, -1, "", 0)]
        request = commit_request(listener, 9, "stranger", 1)
        answer = await client.call(ApiKey.OFFSET_COMMIT, version, request)
        expected = {0: ErrorCode.NONE}.get(version, ErrorCode.UNKNOWN_MEMBER_ID)
        assert answer.topics[0].partitions[0].error_code == expected
        unknown = commit_request(listener, 5, group="nobody", generation=3, member_id="m")
        answer = await client.call(ApiKey.OFFSET_COMMIT, version, unknown)
        if version >= 1:
            expected = ErrorCode.GROUP_ID_NOT_FOUND if version >= 9 else ErrorCode.ILLEGAL_GENERATION
            assert answer.topics[0].partitions[0].error_code == expected


@pytest.mark.parametrize("version", [8, 9, 10])
async def test_commits_to_topics_that_do_not_exist_are_refused_one_by_one(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        request = commit_request(listener, 5)
        request.topics[0].name, request.topics[0].topic_id = "none", b"x" * 16
        answer = await client.call(ApiKey.OFFSET_COMMIT, version, request)
        expected = ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert [p.error_code for p in answer.topics[0].partitions] == [expected] * 2


@pytest.mark.parametrize("version", versions(ApiKey.OFFSET_FETCH))
async def test_fetch_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 5))
        answer = await client.call(ApiKey.OFFSET_FETCH, version, fetch_request(listener, version))
        missing = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if version == 0 else ErrorCode.NONE
        assert fetched(answer, version) == [(0, 5, "m", 0), (1, -1, "", missing)]
        if version >= 2:
            answer = await client.call(ApiKey.OFFSET_FETCH, version, fetch_request(listener, version, everything=True))
            assert fetched(answer, version) == [(0, 5, "m", 0)]


async def test_an_offset_that_awaits_a_transaction_is_unstable_for_who_asks_for_stable_ones() -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 5))
        done = trio.Event()
        request = CommitRequest("g", "", None, -1, [OffsetToCommit("t", 0, 9)])
        listener.broker.offsets.commit_pending(1, request, lambda error, errors: done.set(), 0)
        await done.wait()
        for stable, expected in [(True, (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)), (False, (5, ErrorCode.NONE))]:
            wanted = fetch_request(listener, 9)
            wanted.require_stable = stable
            answer = await client.call(ApiKey.OFFSET_FETCH, 9, wanted)
            assert (fetched(answer, 9)[0][1], fetched(answer, 9)[0][3]) == expected


async def test_offset_delete() -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        joined = await form(client)
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 5, joined.member_id, 1))
        request = OffsetDeleteRequest(
            group_id="g",
            topics=[
                OffsetDeleteRequest.OffsetDeleteRequestTopic(
                    name=name,
                    partitions=[OffsetDeleteRequest.OffsetDeleteRequestPartition(partition_index=0)],
                )
                for name in ("t", "u", "none")
            ],
        )
        answer = await client.call(ApiKey.OFFSET_DELETE, 0, request)
        assert [topic.partitions[0].error_code for topic in answer.topics] == [
            ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC,
            ErrorCode.NONE,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ]
        request.group_id = "none"
        assert (await client.call(ApiKey.OFFSET_DELETE, 0, request)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


# -- KIP-848


def beat_request(epoch: int, **fields: Any) -> ConsumerGroupHeartbeatRequest:
    request = ConsumerGroupHeartbeatRequest(group_id="g", member_id="m", member_epoch=epoch)
    if epoch == 0:
        request.rebalance_timeout_ms = 10_000
        request.subscribed_topic_names = ["t"]
        request.topic_partitions = []
    for name, value in fields.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize("version", versions(ApiKey.CONSUMER_GROUP_HEARTBEAT))
async def test_consumer_heartbeat_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        answer = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, beat_request(0))
        assert (answer.error_code, answer.member_id, answer.member_epoch) == (0, "m", 1)
        assert [p.partitions for p in answer.assignment.topic_partitions] == [[0, 1]]
        answer = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, beat_request(1))
        assert (answer.error_code, answer.assignment) == (0, None)
        answer = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, beat_request(2))
        assert (answer.error_code, bool(answer.error_message)) == (ErrorCode.FENCED_MEMBER_EPOCH, True)
        nameless = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, beat_request(0, member_id=""))
        assert (nameless.error_code == 0) == (version == 0)
        if version >= 1:
            bad = beat_request(0, member_id="n", subscribed_topic_names=None, subscribed_topic_regex="(")
            answer = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, bad)
            assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION


@pytest.mark.parametrize("version", versions(ApiKey.CONSUMER_GROUP_DESCRIBE))
async def test_consumer_describe_in_every_version(version: int) -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, beat_request(0))
        await form(client, "classic")
        request = ConsumerGroupDescribeRequest(group_ids=["g", "classic", "none"])
        answer = await client.call(ApiKey.CONSUMER_GROUP_DESCRIBE, version, request)
        found, classic, missing = answer.groups
        assert (found.group_state, found.group_epoch, found.assignment_epoch) == ("Stable", 1, 1)
        (member,) = found.members
        assert (member.member_id, member.subscribed_topic_names) == ("m", ["t"])
        for assignment in (member.assignment, member.target_assignment):
            assert [(p.topic_name, p.partitions) for p in assignment.topic_partitions] == [("t", [0, 1])]
        assert [classic.error_code, missing.error_code] == [ErrorCode.GROUP_ID_NOT_FOUND] * 2
        described = await client.call(ApiKey.DESCRIBE_GROUPS, 6, DescribeGroupsRequest(groups=["g"]))
        assert described.groups[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND


# -- lives


async def test_a_waiting_join_is_answered_when_another_connections_member_leaves() -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener, trio.open_nursery() as nursery:
        one, two = listener.connect(), listener.connect()
        first = await form(one)
        required = await two.call(ApiKey.JOIN_GROUP, 9, join_request())
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await two.call(ApiKey.JOIN_GROUP, 9, join_request(required.member_id)))

        nursery.start_soon(wait)
        beat = HeartbeatRequest(group_id="g", generation_id=1, member_id=first.member_id)
        while (await one.call(ApiKey.HEARTBEAT, 4, beat)).error_code != ErrorCode.REBALANCE_IN_PROGRESS:
            pass
        assert answers == []
        member = LeaveGroupRequest.MemberIdentity(member_id=first.member_id)
        await one.call(ApiKey.LEAVE_GROUP, 5, LeaveGroupRequest(group_id="g", members=[member]))
        while not answers:
            await trio.testing.wait_all_tasks_blocked()
        assert (answers[0].error_code, answers[0].generation_id, len(answers[0].members)) == (0, 2, 1)


async def test_groups_and_offsets_are_there_after_the_broker_is() -> None:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        async with kafka_listener(engine=_Running(engine), settings=QUICK, topics=TOPICS) as listener:
            client = listener.connect()
            joined = await form(client)
            await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 5, joined.member_id, 1))
            modern = await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, beat_request(0, group_id="modern"))
        async with kafka_listener(engine=_Running(engine), settings=QUICK) as listener:
            client = listener.connect()
            beat = HeartbeatRequest(group_id="g", generation_id=1, member_id=joined.member_id)
            assert (await client.call(ApiKey.HEARTBEAT, 4, beat)).error_code == 0
            answer = await client.call(ApiKey.OFFSET_FETCH, 9, fetch_request(listener, 9))
            assert fetched(answer, 9)[0][:2] == (0, 5)
            again = beat_request(modern.member_epoch, group_id="modern")
            assert (await client.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, again)).error_code == 0
        nursery.cancel_scope.cancel()


async def test_a_deleted_topic_takes_its_offsets_along() -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        await client.call(ApiKey.OFFSET_COMMIT, 8, commit_request(listener, 5))
        await listener.broker.topics.delete("t")
        await listener.broker.topics.create("t", 2)
        await client.call(ApiKey.OFFSET_COMMIT, 8, replace_group(commit_request(listener, 1), "other"))
        answer = await client.call(ApiKey.OFFSET_FETCH, 9, fetch_request(listener, 9))
        assert fetched(answer, 9)[0][:2] == (0, -1)


async def test_ids_as_long_as_can_be_disturb_nobody() -> None:
    async with kafka_listener(settings=QUICK, topics=TOPICS) as listener:
        client = listener.connect()
        longest = "i" * 32_767
        joined = await join(client, instance=longest)
        assert joined.error_code == 0
        described = await client.call(ApiKey.DESCRIBE_GROUPS, 6, DescribeGroupsRequest(groups=["g"]))
        assert described.groups[0].members[0].group_instance_id == longest


def replace_group(request: OffsetCommitRequest, group: str) -> OffsetCommitRequest:
    request.group_id = group
    return request


class _Running:
    """A memory engine that somebody else runs and that outlives the broker over it."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_the_limits_of_the_tests_are_those_of_the_broker_but_for_the_delay() -> None:
    assert replace(QUICK.groups, initial_rebalance_delay_ms=3_000) == GroupLimits()


def test_a_commit_for_which_there_is_no_room_is_asked_again() -> None:
    """Kafka's clients end at a code that they do not expect of a commit; Kafka has this one where its log fails."""
    for error in (CoreError.STORE_FULL, CoreError.STORE_FAILED):
        assert commit_code(error) is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert commit_code(None) is ErrorCode.NONE
