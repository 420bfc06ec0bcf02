from __future__ import annotations

import struct
from typing import Any

import pytest

from core.store.engine import Outcome
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_produce import OUTCOME_CODES
from gateway.protocols.kafka.messages import ProduceRequest
from tests.kafka.wire import WireClient, batch_of, kafka_listener
from trivium.record_batch import Codec, parse_header, seal
from trivium.records import decode


def request(
    records: bytes | None, *, name: str = "t", topic_id: bytes = bytes(16), index: int = 0, acks: int = -1
) -> Any:
    view = None if records is None else memoryview(records)
    partition = ProduceRequest.PartitionProduceData(index=index, records=view)
    topic = ProduceRequest.TopicProduceData(name=name, topic_id=topic_id, partition_data=[partition])
    return ProduceRequest(acks=acks, topic_data=[topic])


async def produced(client: WireClient, message: ProduceRequest, version: int = 9) -> Any:
    return (await client.call(ApiKey.PRODUCE, version, message)).responses[0].partition_responses[0]


def with_bad_crc(batch: bytes) -> bytes:
    return batch[:-1] + bytes([batch[-1] ^ 1])


def with_attributes(batch: bytes, attributes: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(">h", changed, 21, attributes)
    seal(changed)
    return bytes(changed)


def with_count(batch: bytes, count: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(">i", changed, 57, count)
    seal(changed)
    return bytes(changed)


def test_every_outcome_has_a_code() -> None:
    assert set(OUTCOME_CODES) == set(Outcome)


@pytest.mark.parametrize("version", range(3, 14))
async def test_every_version_with_batches_stores_what_came(version: int) -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        topic = listener.broker.topics.get("t")
        assert topic is not None
        named = {"name": "", "topic_id": topic.id} if version >= 13 else {"name": "t"}
        client = listener.connect()
        batch = batch_of(b"a", b"b")
        for base_offset in (0, 2):
            answer = await produced(client, request(batch, index=1, **named), version)
            assert (answer.error_code, answer.base_offset) == (0, base_offset)
        read = await listener.broker.engine.read(topic.partitions[1], 0, 10_000)
        assert bytes(read.buffers[0])[16:] == batch[16:]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request(batch_of(b"a"), name="missing"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (request(batch_of(b"a"), index=1), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (request(batch_of(b"a"), index=-1), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (request(batch_of(b"a"), acks=2), ErrorCode.INVALID_REQUIRED_ACKS),
        (request(batch_of(b"a"), acks=2, name="missing"), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (request(None), ErrorCode.INVALID_RECORD),
        (request(b""), ErrorCode.INVALID_RECORD),
        (request(batch_of(b"a") * 2), ErrorCode.INVALID_RECORD),
        (request(batch_of(b"a")[:-1]), ErrorCode.INVALID_RECORD),
        (request(b"x" * 10), ErrorCode.INVALID_RECORD),
        (request(with_bad_crc(batch_of(b"a"))), ErrorCode.CORRUPT_MESSAGE),
        (request(with_count(batch_of(b"a"), 2)), ErrorCode.INVALID_RECORD),
        (request(with_attributes(batch_of(b"a"), 0x20)), ErrorCode.INVALID_RECORD),
        (request(with_attributes(batch_of(b"a"), 0x08)), ErrorCode.INVALID_TIMESTAMP),
        (request(with_attributes(batch_of(b"a"), 0x05)), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (request(batch_of(b"a", timestamp_ms=2**62)), ErrorCode.INVALID_TIMESTAMP),
    ],
)
async def test_what_cannot_be_stored_is_refused_in_kafkas_terms(message: ProduceRequest, code: ErrorCode) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        answer = await produced(client, message)
        assert (answer.error_code, answer.base_offset) == (code, -1)
        topic = listener.broker.topics.get("t")
        assert topic is not None
        assert listener.broker.engine.info(topic.partitions[0]).high_watermark == 0


async def test_an_oversized_batch_is_refused_by_the_topics_limit() -> None:
    async with kafka_listener() as listener:
        await listener.broker.topics.create("t", 1, {"max.message.bytes": "100"})
        client = listener.connect()
        assert (await produced(client, request(batch_of(b"a" * 100)))).error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert (await produced(client, request(batch_of(b"a")))).error_code == 0


async def test_zstd_needs_produce_7() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        batch = batch_of(b"a", codec=Codec.ZSTD)
        assert (await produced(client, request(batch), 6)).error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        assert (await produced(client, request(batch), 7)).error_code == 0


async def test_a_compacted_topic_takes_no_record_without_a_key() -> None:
    async with kafka_listener() as listener:
        await listener.broker.topics.create("t", 1, {"cleanup.policy": "compact"})
        client = listener.connect()
        answer = await produced(client, request(batch_of(b"a", b"b", key=None)))
        assert answer.error_code == ErrorCode.INVALID_RECORD
        assert [error.batch_index for error in answer.record_errors] == [0, 1]
        assert (await produced(client, request(batch_of(b"a")))).error_code == 0


async def test_log_append_time_is_the_brokers() -> None:
    async with kafka_listener() as listener:
        topic = await listener.broker.topics.create("t", 1, {"message.timestamp.type": "LogAppendTime"})
        answer = await produced(listener.connect(), request(batch_of(b"a", timestamp_ms=5)))
        assert answer.log_append_time_ms > 1_700_000_000_000
        read = await listener.broker.engine.read(topic.partitions[0], 0, 10_000)
        assert decode(read.buffers[0], 10_000)[0].timestamp == answer.log_append_time_ms


@pytest.mark.parametrize(("name", "codec"), [("uncompressed", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
@pytest.mark.parametrize("sent", [Codec.NONE, Codec.LZ4])
async def test_a_topics_own_compression_replaces_the_producers(name: str, codec: int, sent: Codec) -> None:
    async with kafka_listener() as listener:
        topic = await listener.broker.topics.create("t", 1, {"compression.type": name})
        assert (await produced(listener.connect(), request(batch_of(b"a" * 500, codec=sent)))).error_code == 0
        (stored,) = (await listener.broker.engine.read(topic.partitions[0], 0, 10_000)).buffers
        assert parse_header(stored).codec == codec
        assert decode(stored, 10_000)[0].value == b"a" * 500


async def test_an_idempotent_retry_gets_the_first_offset() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        first = batch_of(b"a", producer_id=7, producer_epoch=0, base_sequence=0)
        second = batch_of(b"b", producer_id=7, producer_epoch=0, base_sequence=1)
        gap = batch_of(b"c", producer_id=7, producer_epoch=0, base_sequence=5)
        sent = [await client.send(ApiKey.PRODUCE, 9, request(batch)) for batch in (first, second, first, gap)]
        answers = [(await client.receive())[1].responses[0].partition_responses[0] for _ in sent]
        assert [(answer.error_code, answer.base_offset) for answer in answers] == [
            (0, 0),
            (0, 1),
            (0, 0),
            (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1),
        ]


@pytest.mark.parametrize("version", [3, 13])
async def test_of_a_partition_that_is_named_twice_the_last_batch_is_stored_and_answered(version: int) -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        topic = listener.broker.topics.get("t")
        assert topic is not None
        named = {"name": "", "topic_id": topic.id} if version >= 13 else {"name": "t"}
        wanted = [[(0, b"a"), (0, b"b"), (1, b"c")], [(1, b"d")]]
        rows = [
            ProduceRequest.TopicProduceData(
                **named,
                partition_data=[
                    ProduceRequest.PartitionProduceData(index=index, records=memoryview(batch_of(value)))
                    for index, value in parts
                ],
            )
            for parts in wanted
        ]
        answer = await listener.connect().call(ApiKey.PRODUCE, version, ProduceRequest(acks=-1, topic_data=rows))
        [answered] = answer.responses
        found = [(one.index, one.error_code, one.base_offset) for one in answered.partition_responses]
        assert found == [(0, 0, 0), (1, 0, 0)]
        values = []
        for partition in topic.partitions:
            read = await listener.broker.engine.read(partition, 0, 1 << 20)
            values += [record.value for buffer in read.buffers for record in decode(buffer, 1 << 20)]
        assert values == [b"b", b"d"]
