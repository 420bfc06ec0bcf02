"""A blocking Kafka client of few words, for attacks and for the client that they must not disturb."""

from __future__ import annotations

import socket
import struct
from typing import Any

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.codec import decode_response, decode_response_header, encode_request
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import CreateTopicsRequest, FetchRequest, ProduceRequest
from interop.fuzz_outcomes import MIB, TIMEOUT_S, Address


class Client:
    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self._correlation_id = 0

    def send(self, api: int, version: int, request: Message) -> None:
        self._correlation_id += 1
        self.socket.sendall(encode_request(api, version, self._correlation_id, "fuzz", request))

    def call(self, api: int, version: int, request: Message) -> Any:
        """The response. Raises ConnectionError when the broker closes instead."""
        self.send(api, version, request)
        frame = self._exactly(struct.unpack(">i", self._exactly(4))[0])
        _, at = decode_response_header(api, version, frame)
        return decode_response(api, version, frame, at)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(min(count - len(data), MIB))
            if not piece:
                raise ConnectionResetError("closed by the broker")
            data += piece
        return bytes(data)

    def closed_by_peer(self) -> bool:
        """Waits for the end of the connection; False when an answer comes instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_topic(address: Address, name: str, partitions: int = 1, **configs: str) -> None:
    """Creates a topic; one that exists is left alone. Config names with `_` for `.`."""
    pairs = [CreateTopicsRequest.CreatableTopicConfig(name=k.replace("_", "."), value=v) for k, v in configs.items()]
    topic = CreateTopicsRequest.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=1, assignments=[], configs=pairs
    )
    with Client(address) as client:
        answer = client.call(ApiKey.CREATE_TOPICS, 5, CreateTopicsRequest(topics=[topic], timeout_ms=10_000))
    assert answer.topics[0].error_code in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS), answer


def produce_request(topic: str, records: bytes, acks: int = -1) -> ProduceRequest:
    part = ProduceRequest.PartitionProduceData(index=0, records=memoryview(records))
    data = ProduceRequest.TopicProduceData(name=topic, partition_data=[part])
    return ProduceRequest(acks=acks, timeout_ms=30_000, topic_data=[data])


def produce(client: Client, topic: str, records: bytes, version: int = 9) -> Any:
    """The partition's answer."""
    return client.call(ApiKey.PRODUCE, version, produce_request(topic, records)).responses[0].partition_responses[0]


def fetch_request(topic: str, offset: int, *, bytes_max: int, min_bytes: int = 1, wait_ms: int = 0) -> FetchRequest:
    part = FetchRequest.FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=bytes_max)
    return FetchRequest(
        max_wait_ms=wait_ms,
        min_bytes=min_bytes,
        max_bytes=bytes_max,
        session_epoch=-1,
        topics=[FetchRequest.FetchTopic(topic=topic, partitions=[part])],
    )
