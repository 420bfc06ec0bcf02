"""What decoding and encoding cost, in microseconds, beside kio where it is installed: `python -m interop.bench_codec`.

Not a timed test. The figures are the best of several runs on whatever machine this is.
"""

from __future__ import annotations

import io
import timeit
from collections.abc import Callable

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.messages import (
    FetchRequest,
    FetchResponse,
    MetadataResponse,
    ProduceRequest,
    ProduceResponse,
)
from gateway.protocols.kafka.schemas import SCHEMAS

RECORDS = memoryview(bytes(16_384))


def produce_request(partitions: int) -> Message:
    data = [ProduceRequest.PartitionProduceData(index=i, records=RECORDS) for i in range(partitions)]
    return ProduceRequest(
        acks=-1,
        timeout_ms=30_000,
        topic_data=[ProduceRequest.TopicProduceData(name="a-topic-name", partition_data=data)],
    )


def produce_response(partitions: int) -> Message:
    data = [ProduceResponse.PartitionProduceResponse(index=i, base_offset=10**9) for i in range(partitions)]
    return ProduceResponse(
        responses=[ProduceResponse.TopicProduceResponse(name="a-topic-name", partition_responses=data)]
    )


def fetch_request(partitions: int) -> Message:
    data = [
        FetchRequest.FetchPartition(partition=i, fetch_offset=10**9, partition_max_bytes=2**20)
        for i in range(partitions)
    ]
    topics = [FetchRequest.FetchTopic(topic="a-topic-name", topic_id=b"i" * 16, partitions=data)] if partitions else []
    return FetchRequest(max_wait_ms=500, min_bytes=1, topics=topics)


def fetch_response(partitions: int) -> Message:
    data = [
        FetchResponse.PartitionData(partition_index=i, high_watermark=10**9, aborted_transactions=None, records=RECORDS)
        for i in range(partitions)
    ]
    return FetchResponse(
        responses=[FetchResponse.FetchableTopicResponse(topic="a-topic-name", topic_id=b"i" * 16, partitions=data)]
    )


def metadata_response(topics: int) -> Message:
    partitions = [
        MetadataResponse.MetadataResponsePartition(
            partition_index=i, leader_id=1, leader_epoch=3, replica_nodes=[1], isr_nodes=[1]
        )
        for i in range(4)
    ]
    return MetadataResponse(
        brokers=[MetadataResponse.MetadataResponseBroker(node_id=1, host="localhost", port=9092)],
        topics=[
            MetadataResponse.MetadataResponseTopic(name=f"topic-{i}", partitions=partitions) for i in range(topics)
        ],
    )


CASES: list[tuple[str, int, Message]] = [
    ("1 partition", 7, produce_request(1)),
    ("1 partition", 11, produce_request(1)),
    ("12 partitions", 11, produce_request(12)),
    ("1 partition", 11, produce_response(1)),
    ("12 partitions", 11, produce_response(12)),
    ("empty (session)", 12, fetch_request(0)),
    ("12 partitions", 12, fetch_request(12)),
    ("1 partition", 12, fetch_response(1)),
    ("12 partitions", 12, fetch_response(12)),
    ("100 topics x 4", 12, metadata_response(100)),
]


def microseconds(function: Callable[[], object]) -> float:
    number = max(1, int(0.02 / max(timeit.timeit(function, number=3) / 3, 1e-7)))
    return min(timeit.repeat(function, number=number, repeat=7)) / number * 1e6


def kio_functions(name: str, version: int, data: bytes) -> tuple[Callable[[], object], Callable[[], object]] | None:
    try:
        from kio.index import load_request_schema, load_response_schema
        from kio.serial import entity_reader, entity_writer
    except ImportError:
        return None
    load = load_request_schema if name.endswith("Request") else load_response_schema
    entity = load(SCHEMAS[name][0], version)
    read, write = entity_reader(entity), entity_writer(entity)
    value = read(data, 0)[0]
    return lambda: read(data, 0), lambda: write(io.BytesIO(), value)


def our_functions(name: str, version: int, message: Message, data: bytes) -> tuple[Callable[[], object], ...]:
    view = memoryview(data)
    return lambda: codec.decode_message(name, version, view), lambda: codec.write_message(version, message, [])


def main() -> None:
    print(f"{'':40}{'decode':>10}{'encode':>10}{'kio':>10}{'kio':>10}")
    for label, version, message in CASES:
        name = type(message).__name__
        data = codec.encode_message(version, message)
        functions = (*our_functions(name, version, message, data), *(kio_functions(name, version, data) or ()))
        figures = "".join(f"{microseconds(function):10.2f}" for function in functions)
        print(f"{name + ' v' + str(version) + ' ' + label:40}{figures}")


if __name__ == "__main__":
    main()
