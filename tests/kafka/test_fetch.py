from __future__ import annotations

from typing import Any

import pytest

from conf.load import load
from core.store.engine import Append, DeleteBefore, Read, append
from core.store.memory import MemoryEngine
from gateway.core_settings import broker_settings
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetForLeaderEpochRequest,
)
from tests.kafka.wire import Listener, batch_of, kafka_listener
from trivium.record_batch import Codec, iter_batches, parse_header
from trivium.records import build_control, decode


async def store(listener: Listener, *batches: bytes, index: int = 0) -> None:
    topic = listener.broker.topics.get("t")
    assert topic is not None
    for batch in batches:
        await append(listener.broker.engine, [Append(topic.partitions[index], parse_header(batch), batch)])


def wanted(offset: int, *, index: int = 0, bytes_max: int = 100_000, epoch: int = -1, last_epoch: int = -1) -> Any:
    return FetchRequest.FetchPartition(
        partition=index,
        fetch_offset=offset,
        partition_max_bytes=bytes_max,
        current_leader_epoch=epoch,
        last_fetched_epoch=last_epoch,
    )


def request(*partitions: Any, topic_id: bytes = bytes(16), name: str = "t", **fields: Any) -> FetchRequest:
    topics = [FetchRequest.FetchTopic(topic=name, topic_id=topic_id, partitions=list(partitions))] if partitions else []
    return FetchRequest(**{"max_wait_ms": 0, "min_bytes": 1, "session_epoch": -1, "topics": topics, **fields})


def values(records: Any) -> list[bytes | None]:
    return [record.value for _, batch in iter_batches(records) for record in decode(batch, 1_000_000)]


@pytest.mark.parametrize("version", range(4, 19))
async def test_every_version_with_batches(version: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a", b"b"), batch_of(b"c"))
        topic = listener.broker.topics.get("t")
        assert topic is not None
        answer = await listener.connect().call(ApiKey.FETCH, version, request(wanted(0), topic_id=topic.id))
        data = answer.responses[0].partitions[0]
        assert values(data.records) == [b"a", b"b", b"c"]
        assert (data.high_watermark, data.last_stable_offset) == (3, 3)


async def test_a_fetch_inside_a_batch_gets_all_of_it() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a", b"b", b"c"), batch_of(b"d"))
        data = (await listener.connect().call(ApiKey.FETCH, 12, request(wanted(1)))).responses[0].partitions[0]
        assert values(data.records) == [b"a", b"b", b"c", b"d"]


async def test_limits_keep_batches_whole_and_give_at_least_one() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        await store(listener, batch_of(b"a" * 1000), batch_of(b"b"))
        await store(listener, batch_of(b"c" * 1000), index=1)
        client = listener.connect()
        small = request(wanted(0, bytes_max=1), wanted(0, index=1, bytes_max=1))
        first, second = (await client.call(ApiKey.FETCH, 12, small)).responses[0].partitions
        assert values(first.records) == [b"a" * 1000]
        assert len(second.records) == 0
        assert second.high_watermark == 1
        whole = request(wanted(0), wanted(0, index=1), max_bytes=1500)
        first, second = (await client.call(ApiKey.FETCH, 12, whole)).responses[0].partitions
        assert values(first.records) == [b"a" * 1000, b"b"]
        assert len(second.records) == 0


@pytest.mark.parametrize(
    ("partition", "code"),
    [
        (wanted(9), ErrorCode.OFFSET_OUT_OF_RANGE),
        (wanted(-1), ErrorCode.OFFSET_OUT_OF_RANGE),
        (wanted(0, index=5), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (wanted(0, epoch=0), ErrorCode.FENCED_LEADER_EPOCH),
        (wanted(0, epoch=2), ErrorCode.UNKNOWN_LEADER_EPOCH),
        (wanted(0, epoch=1), ErrorCode.NONE),
        (wanted(0, last_epoch=2), ErrorCode.OFFSET_OUT_OF_RANGE),
    ],
)
async def test_what_cannot_be_read(partition: Any, code: ErrorCode) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a"))
        answer = await listener.connect().call(ApiKey.FETCH, 12, request(partition, max_wait_ms=60_000))
        [data] = answer.responses[0].partitions
        assert (data.error_code, data.diverging_epoch) == (code, None)
        assert (data.high_watermark, data.last_stable_offset, data.log_start_offset) == (
            (-1, -1, -1) if code else (1, 1, 0)
        )


@pytest.mark.parametrize("level", [2, -1])
async def test_an_isolation_level_that_nobody_knows_is_not_taken_for_another(level: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a"))
        client = listener.connect()
        for version in (4, 7):
            answer = await client.call(ApiKey.FETCH, version, request(wanted(0), isolation_level=level))
            [data] = answer.responses[0].partitions
            assert (data.error_code, len(data.records)) == (ErrorCode.UNKNOWN_SERVER_ERROR, 0)
            assert answer.error_code == (ErrorCode.UNKNOWN_SERVER_ERROR if version >= 7 else 0)
        partition = ListOffsetsRequest.ListOffsetsPartition(partition_index=0, timestamp=-1)
        topics = [ListOffsetsRequest.ListOffsetsTopic(name="t", partitions=[partition])]
        offsets = ListOffsetsRequest(isolation_level=level, topics=topics)
        [found] = (await client.call(ApiKey.LIST_OFFSETS, 2, offsets)).topics[0].partitions
        assert (found.error_code, found.offset) == (ErrorCode.UNKNOWN_SERVER_ERROR, -1)


@pytest.mark.parametrize(("epoch", "expected"), [(0, (-1, -1)), (1, (1, 1)), (2, (-1, -1))])
async def test_the_end_of_a_leader_epoch_is_told_of_epochs_that_have_begun(
    epoch: int, expected: tuple[int, int]
) -> None:
    """A client that knows a newer epoch has seen records that are gone: the end of ours is not the end of its own."""
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a"))
        partition = OffsetForLeaderEpochRequest.OffsetForLeaderPartition(partition=0, leader_epoch=epoch)
        topic = OffsetForLeaderEpochRequest.OffsetForLeaderTopic(topic="t", partitions=[partition])
        asked = OffsetForLeaderEpochRequest(topics=[topic])
        answer = await listener.connect().call(ApiKey.OFFSET_FOR_LEADER_EPOCH, 4, asked)
        [end] = answer.topics[0].partitions
        assert (end.error_code, end.leader_epoch, end.end_offset) == (0, *expected)


async def test_a_time_that_the_version_does_not_know_is_refused_before_the_partition_is_looked_for() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        for index in (0, 9):
            partition = ListOffsetsRequest.ListOffsetsPartition(partition_index=index, timestamp=-3)
            topics = [ListOffsetsRequest.ListOffsetsTopic(name="t", partitions=[partition])]
            answer = await listener.connect().call(ApiKey.LIST_OFFSETS, 6, ListOffsetsRequest(topics=topics))
            assert answer.topics[0].partitions[0].error_code == ErrorCode.UNSUPPORTED_VERSION


async def test_a_partition_that_list_offsets_names_twice_is_refused_once() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        await store(listener, batch_of(b"a"))
        topics = [
            ListOffsetsRequest.ListOffsetsTopic(
                name="t",
                partitions=[
                    ListOffsetsRequest.ListOffsetsPartition(partition_index=index, timestamp=-1) for index in indexes
                ],
            )
            for indexes in ([1, 9], [0, 9], [1])
        ]
        answer = await listener.connect().call(ApiKey.LIST_OFFSETS, 7, ListOffsetsRequest(topics=topics))
        [answered] = answer.topics
        found = [(one.partition_index, one.error_code, one.offset) for one in answered.partitions]
        refused = ErrorCode.INVALID_REQUEST
        assert found == [(1, refused, -1), (9, refused, -1), (0, 0, 1)]


async def test_zstd_is_not_given_to_clients_that_cannot_read_it() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await listener.broker.topics.create("compressed", 1, {"compression.type": "zstd"})
        await store(listener, batch_of(b"a", codec=Codec.ZSTD))
        client = listener.connect()
        # Where the topic leaves the codec to producers, a client that takes batches (v4) may well read zstd.
        for topic, version, code in (("t", 3, 76), ("t", 4, 0), ("t", 10, 0), *(("compressed", v, 76) for v in (3, 9))):
            asked = request(wanted(0))
            asked.topics[0].topic = topic
            answer = await client.call(ApiKey.FETCH, version, asked)
            assert answer.responses[0].partitions[0].error_code == code


async def test_committed_reads_stop_before_an_open_transaction_and_name_what_was_aborted() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        numbered: dict[str, Any] = {"producer_id": 5, "producer_epoch": 0, "transactional": True}
        await store(listener, batch_of(b"a"), batch_of(b"b", base_sequence=0, **numbered), batch_of(b"c"))
        client = listener.connect()
        for isolation, expected in ((0, [b"a", b"b", b"c"]), (1, [b"a"])):
            data = (await client.call(ApiKey.FETCH, 12, request(wanted(0), isolation_level=isolation))).responses[0]
            assert values(data.partitions[0].records) == expected
            assert data.partitions[0].last_stable_offset == 1
        await store(listener, build_control(5, 0, False, 0, 1_700_000_000_000))
        (topic,) = (await client.call(ApiKey.FETCH, 12, request(wanted(0), isolation_level=1))).responses
        (data,) = topic.partitions
        assert data.last_stable_offset == 4
        assert [(aborted.producer_id, aborted.first_offset) for aborted in data.aborted_transactions] == [(5, 1)]


async def test_an_incremental_session_names_only_what_is_new() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        client = listener.connect()
        full = await client.call(ApiKey.FETCH, 12, request(wanted(0), wanted(0, index=1), session_epoch=0))
        assert full.session_id > 0
        session = {"session_id": full.session_id}
        assert (await client.call(ApiKey.FETCH, 12, request(session_epoch=1, **session))).responses == []
        await store(listener, batch_of(b"a"), index=1)
        (topic,) = (await client.call(ApiKey.FETCH, 12, request(session_epoch=2, **session))).responses
        assert [(data.partition_index, values(data.records)) for data in topic.partitions] == [(1, [b"a"])]
        wrong = await client.call(ApiKey.FETCH, 12, request(session_epoch=2, **session))
        assert wrong.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
        moved = request(wanted(1, index=1), session_epoch=3, **session)
        assert (await client.call(ApiKey.FETCH, 12, moved)).responses == []
        await client.call(ApiKey.FETCH, 12, request(session_epoch=-1, **session))
        gone = await client.call(ApiKey.FETCH, 12, request(session_epoch=4, **session))
        assert gone.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


@pytest.mark.parametrize("version", [1, 7, 11])
@pytest.mark.parametrize(
    ("timestamp", "offset"),
    [(-1, 4), (-2, 0), (-3, 3), (-4, 0), (-5, -1), (0, 0), (1_700_000_000_001, 1), (1_700_000_000_500, 2), (2**50, -1)],
)
async def test_offsets_by_time(version: int, timestamp: int, offset: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a", b"b"), batch_of(b"c", b"d", timestamp_ms=1_700_000_001_000))
        partition = ListOffsetsRequest.ListOffsetsPartition(partition_index=0, timestamp=timestamp)
        topics = [ListOffsetsRequest.ListOffsetsTopic(name="t", partitions=[partition])]
        answer = await listener.connect().call(ApiKey.LIST_OFFSETS, version, ListOffsetsRequest(topics=topics))
        data = answer.topics[0].partitions[0]
        first_version = {-3: 7, -4: 8, -5: 9}.get(timestamp, 1)
        assert (data.error_code, data.offset) == ((0, offset) if version >= first_version else (35, -1))


@pytest.mark.parametrize(
    ("timestamp", "count", "offsets"),
    [(-1, 5, [4, 1]), (-1, 1, [4]), (-2, 5, [1]), (1_700_000_000_500, 5, [2, 1]), (2**50, 5, [4, 1]), (-1, 0, [])],
)
async def test_offsets_by_time_in_version_0_are_those_at_or_before_it(
    timestamp: int, count: int, offsets: list[int]
) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a", b"b"), batch_of(b"c", b"d", timestamp_ms=1_700_000_001_000))
        topic = listener.broker.topics.get("t")
        assert topic is not None
        await append(listener.broker.engine, [DeleteBefore(topic.partitions[0], 1)])
        partition = ListOffsetsRequest.ListOffsetsPartition(
            partition_index=0, timestamp=timestamp, max_num_offsets=count
        )
        topics = [ListOffsetsRequest.ListOffsetsTopic(name="t", partitions=[partition])]
        answer = await listener.connect().call(ApiKey.LIST_OFFSETS, 0, ListOffsetsRequest(topics=topics))
        assert answer.topics[0].partitions[0].old_style_offsets == offsets


@pytest.mark.parametrize("version", [0, 4, 13])
async def test_topics_are_not_made_by_themselves_where_that_is_switched_off(version: int) -> None:
    config = load(None, {"TRIVIUM_TOPICS_AUTO_CREATE": "false"})
    async with kafka_listener(settings=broker_settings(config)) as listener:
        asked = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name="new")], allow_auto_topic_creation=True
        )
        (missing,) = (await listener.connect().call(ApiKey.METADATA, version, asked)).topics
        assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert listener.broker.topics.get("new") is None


async def test_metadata_makes_a_topic_only_when_asked_to() -> None:
    async with kafka_listener(topics={"t": 3}) as listener:
        client = listener.connect()

        def ask(*names: str, create: bool) -> MetadataRequest:
            topics = [MetadataRequest.MetadataRequestTopic(name=name) for name in names]
            return MetadataRequest(topics=topics, allow_auto_topic_creation=create)

        (missing,) = (await client.call(ApiKey.METADATA, 9, ask("new", create=False))).topics
        assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        made, illegal, internal = (
            await client.call(ApiKey.METADATA, 9, ask("new", "sp ace", "__trivium_x", create=True))
        ).topics
        assert (made.error_code, len(made.partitions)) == (0, 1)
        assert illegal.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        assert internal.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        await client.call(ApiKey.METADATA, 9, ask("a.b", create=True))
        (alike,) = (await client.call(ApiKey.METADATA, 9, ask("a_b", create=True))).topics
        assert alike.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        await listener.broker.topics.delete("a.b")
        (alike,) = (await client.call(ApiKey.METADATA, 9, ask("a_b", create=True))).topics
        assert alike.error_code == 0
        await listener.broker.topics.delete("a_b")
        answer = await client.call(ApiKey.METADATA, 9, MetadataRequest(topics=None))
        assert {topic.name: len(topic.partitions) for topic in answer.topics} == {"t": 3, "new": 1}
        everything = await client.call(ApiKey.METADATA, 0, MetadataRequest(topics=[]))
        assert len(everything.topics) == 2
        assert (await client.call(ApiKey.METADATA, 1, MetadataRequest(topics=[]))).topics == []


@pytest.mark.parametrize(("version", "traced", "mapped"), [(4, False, True), (12, True, False), (3, False, False)])
async def test_batches_that_are_looked_into_are_not_only_the_kernels(
    monkeypatch: pytest.MonkeyPatch, version: int, traced: bool, mapped: bool
) -> None:
    """Traces and message sets are made of what the batches hold."""
    asked: list[bool] = []
    read_nowait = MemoryEngine.read_nowait

    def spy(engine: MemoryEngine, *arguments: Any, mapped: bool = False, **options: Any) -> Read | None:
        asked.append(mapped)
        return read_nowait(engine, *arguments, **options)

    monkeypatch.setattr(MemoryEngine, "read_nowait", spy)
    async with kafka_listener(topics={"t": 1}) as listener:
        await store(listener, batch_of(b"a"))
        listener.broker.tracer.active = traced
        asked.clear()
        answer = await listener.connect().call(ApiKey.FETCH, version, request(wanted(0)))
        assert answer.responses[0].partitions[0].records
        assert asked == [mapped]
