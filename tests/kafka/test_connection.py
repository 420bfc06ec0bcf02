from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from gateway.protocols.kafka.api_versions import ADVERTISED, ApiKey
from gateway.protocols.kafka.codec import decode_message
from gateway.protocols.kafka.connection import ConnectionLimits
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers import HANDLERS, PIPELINED
from gateway.protocols.kafka.messages import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    FetchRequest,
    MetadataRequest,
    ProduceRequest,
)
from tests.kafka.wire import LIMITS, WireClient, batch_of, kafka_listener

METADATA = MetadataRequest(topics=None)


def produce(records: bytes, acks: int = -1, name: str = "t", index: int = 0) -> ProduceRequest:
    partition = ProduceRequest.PartitionProduceData(index=index, records=memoryview(records))
    return ProduceRequest(
        acks=acks, topic_data=[ProduceRequest.TopicProduceData(name=name, partition_data=[partition])]
    )


def fetch(offset: int, *, max_wait_ms: int = 0, min_bytes: int = 1) -> FetchRequest:
    partition = FetchRequest.FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=10_000)
    topic = FetchRequest.FetchTopic(topic="t", partitions=[partition])
    return FetchRequest(max_wait_ms=max_wait_ms, min_bytes=min_bytes, session_epoch=-1, topics=[topic])


def test_every_advertised_api_has_a_handler() -> None:
    assert {ApiKey.API_VERSIONS, *HANDLERS, *PIPELINED} == set(ADVERTISED)


async def test_responses_leave_in_request_order_though_produce_is_answered_late() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        sent = [
            await client.send(ApiKey.PRODUCE, 9, produce(batch_of(b"1"))),
            await client.send(ApiKey.METADATA, 9, METADATA),
            await client.send(ApiKey.PRODUCE, 9, produce(batch_of(b"2"))),
            await client.send(ApiKey.METADATA, 9, METADATA),
        ]
        answers = [await client.receive() for _ in sent]
        assert [correlation_id for correlation_id, _ in answers] == sent
        offsets = [answers[i][1].responses[0].partition_responses[0].base_offset for i in (0, 2)]
        assert offsets == [0, 1]


async def test_acks_0_is_not_answered() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        await client.send(ApiKey.PRODUCE, 9, produce(batch_of(b"1"), acks=0))
        asked = await client.send(ApiKey.METADATA, 9, METADATA)
        assert (await client.receive())[0] == asked


async def test_a_failed_acks_0_produce_closes_the_connection() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        await client.send(ApiKey.PRODUCE, 9, produce(batch_of(b"1"), acks=0, name="missing"))
        await client.wait_closed()


@pytest.mark.parametrize("version", [5, 77, 32767])
async def test_an_unknown_version_of_api_versions_is_answered_in_v0(version: int) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        await client.stream.send_all(struct.pack(">ihhih", 10 + 4, ApiKey.API_VERSIONS, version, 7, 0) + b"\0\1\1\0")
        frame = bytes(await client.stream.receive_some())
        assert struct.unpack_from(">ii", frame) == (len(frame) - 4, 7)
        answer = decode_message("ApiVersionsResponse", 0, frame, 8)
        assert isinstance(answer, ApiVersionsResponse)
        assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert [(key.api_key, key.min_version, key.max_version) for key in answer.api_keys] == [(18, 0, 4)]
        # the connection lives on
        request = ApiVersionsRequest(client_software_name="x", client_software_version="1")
        assert (await client.call(ApiKey.API_VERSIONS, 3, request)).error_code == 0


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(struct.pack(">hhih", 999, 0, 1, -1), id="unknown API"),
        pytest.param(struct.pack(">hhih", ApiKey.METADATA, 99, 1, -1) + b"\0", id="unknown version"),
        pytest.param(struct.pack(">hhih", ApiKey.METADATA, 1, 1, 500), id="client id longer than the frame"),
        pytest.param(struct.pack(">hhihi", ApiKey.METADATA, 1, 1, -1, 2**31 - 1), id="lying array count"),
        pytest.param(b"\0", id="short header"),
    ],
)
async def test_a_request_that_cannot_be_read_closes_its_connection_alone(frame: bytes) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        bad, good = listener.connect(), listener.connect()
        await bad.stream.send_all(struct.pack(">i", len(frame)) + frame)
        await bad.wait_closed()
        assert (await good.call(ApiKey.METADATA, 9, METADATA)).topics[0].name == "t"


@pytest.mark.parametrize("length", [-1, 0, LIMITS.request_bytes_max + 1])
async def test_a_frame_length_out_of_range_closes_the_connection(length: int) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        await client.stream.send_all(struct.pack(">i", length))
        await client.wait_closed()


async def test_half_received_requests_are_bounded_over_all_connections_together() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        hogs = [listener.connect() for _ in range(20)]
        for hog in hogs:
            await hog.stream.send_all(struct.pack(">i", 1024 * 1024) + bytes(900 * 1024))
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < listener.budget.held_bytes <= 8 * 1024 * 1024
        assert (await listener.connect().call(ApiKey.METADATA, 9, METADATA)).topics[0].name == "t"


async def test_a_long_poll_ends_with_the_data(autojump_clock: trio.testing.MockClock) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        consumer, producer = listener.connect(), listener.connect()
        await consumer.send(ApiKey.FETCH, 12, fetch(0, max_wait_ms=10_000))
        began = trio.current_time()
        await producer.call(ApiKey.PRODUCE, 9, produce(batch_of(b"1")))
        _, answer = await consumer.receive()
        assert len(answer.responses[0].partitions[0].records) == len(batch_of(b"1"))
        assert trio.current_time() - began < 1


async def test_a_long_poll_ends_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        began = trio.current_time()
        answer = await client.call(ApiKey.FETCH, 12, fetch(0, max_wait_ms=10_000))
        assert 9.9 < trio.current_time() - began < 10.1
        assert answer.responses[0].partitions[0].error_code == 0


async def test_min_bytes_are_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        consumer, producer = listener.connect(), listener.connect()
        size = len(batch_of(b"1"))
        await consumer.send(ApiKey.FETCH, 12, fetch(0, max_wait_ms=10_000, min_bytes=3 * size))
        for _ in range(3):
            await producer.call(ApiKey.PRODUCE, 9, produce(batch_of(b"1")))
        _, answer = await consumer.receive()
        assert len(answer.responses[0].partitions[0].records) == 3 * size


async def test_a_drain_answers_what_was_begun_and_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        poller, idle, busy = listener.connect(), listener.connect(), listener.connect()
        await poller.send(ApiKey.FETCH, 12, fetch(0, max_wait_ms=60_000))
        await busy.send(ApiKey.PRODUCE, 9, produce(batch_of(b"1")))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        for connection in listener.connections:
            connection.drain()
        await poller.receive()
        assert (await busy.receive())[1].responses[0].partition_responses[0].error_code == 0
        for client in (poller, idle, busy):
            await client.wait_closed()
        assert trio.current_time() - began < 1


async def test_a_client_that_never_reads_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    limits = ConnectionLimits(
        request_bytes_max=1024 * 1024, output_bytes_max=1000, idle_ms_max=600_000, send_timeout_ms_max=5_000
    )
    async with kafka_listener(topics={"t": 1}, limits=limits) as listener:
        client = listener.connect()
        ours, theirs = trio.testing.lockstep_stream_pair()
        stuck = type(listener.connections[0])(
            listener.connections[0]._dispatcher,
            ours,
            "127.0.0.1:6",
            limits=limits,
            budget=listener.budget,
            responses=listener.responses,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.run)
            with trio.move_on_after(60) as sending:
                reader = WireClient(theirs)
                for _ in range(100):
                    await reader.send(ApiKey.METADATA, 9, METADATA)
            assert sending.cancelled_caught  # the broker stopped reading, then gave up
        assert (await client.call(ApiKey.METADATA, 9, METADATA)).topics[0].name == "t"


async def test_an_idle_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        began = trio.current_time()
        await client.wait_closed()
        assert 599 < trio.current_time() - began < 601


async def test_unread_answers_are_bounded_over_all_connections_together() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        producer = listener.connect()
        for _ in range(4):
            await producer.call(ApiKey.PRODUCE, 9, produce(batch_of(bytes(900 * 1024))))
        request = fetch(0, max_wait_ms=600_000, min_bytes=2**31 - 1)
        request.topics[0].partitions[0].partition_max_bytes = request.max_bytes = 50 * 1024 * 1024
        for _ in range(40):
            await listener.connect().send(ApiKey.FETCH, 4, request)
        await trio.testing.wait_all_tasks_blocked()
        assert 32 * 1024 * 1024 < listener.responses.held_bytes <= 64 * 1024 * 1024
        assert (await producer.call(ApiKey.METADATA, 9, METADATA)).topics[0].name == "t"
        for connection in listener.connections:
            connection.close("the test is over")
        await trio.testing.wait_all_tasks_blocked()
        assert listener.responses.held_bytes == 0
        assert listener.budget.room_bytes == 8 * 1024 * 1024
