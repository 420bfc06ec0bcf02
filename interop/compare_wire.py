"""Asks two brokers the same questions over raw connections and notes the answers in a form that can be compared.

What must differ between brokers (generated member ids, topic ids) is given a name with `alias`; what a broker may
choose freely (the order of
partitions and groups, error texts, throttling) is left out or sorted.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import Any

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.codec import decode_response, decode_response_header, encode_request
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.messages import (
    CreateTopicsRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    MetadataRequest,
)
from interop.brokers import Broker

_TIMEOUT_S = 20.0
_LEFT_OUT = {"throttle_time_ms", "error_message"}
_SORTED_BY = ("partition_index", "group_id", "name")


class Connection:
    """One connection; requests may be sent without waiting for their answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        self._asked = (0, 0)
        self._correlation_id = 0

    def send(self, api: ApiKey, version: int, message: Message) -> None:
        self._correlation_id += 1
        self._asked = (api, version)
        self._socket.sendall(encode_request(api, version, self._correlation_id, "compare", message))

    def receive(self) -> Any:
        (size,) = struct.unpack(">i", self._exactly(4))
        frame = self._exactly(size)
        _, at = decode_response_header(*self._asked, frame)
        return decode_response(*self._asked, frame, at)

    def call(self, api: ApiKey, version: int, message: Message) -> Any:
        self.send(api, version, message)
        return self.receive()

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            chunk = self._socket.recv(count - len(taken))
            if not chunk:
                raise EOFError("the broker closed the connection")
            taken += chunk
        return taken


class Notes:
    """The answers of one broker, by question."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._aliases: dict[object, str] = {}
        self._connections: list[Connection] = []
        self.answers: dict[str, object] = {}

    def connect(self) -> Connection:
        self._connections.append(Connection(self._port))
        return self._connections[-1]

    def alias(self, value: str | bytes | None, name: str) -> None:
        if value:
            self._aliases.setdefault(value, name)

    def note(self, question: str, answer: object) -> None:
        assert question not in self.answers, question
        self.answers[question] = self._plain(answer)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _plain(self, value: object) -> object:
        if isinstance(value, list):
            items = [self._plain(item) for item in value]
            if items and isinstance(items[0], dict):
                field = next((name for name in _SORTED_BY if name in items[0]), None)
                if field is not None:
                    items.sort(key=lambda item: str(item[field]))  # type: ignore[index]
            return items
        if isinstance(value, memoryview):
            value = bytes(value)
        if isinstance(value, Message):
            names = [name for name in type(value).__slots__ if name not in _LEFT_OUT]
            return {name: self._plain(getattr(value, name)) for name in names}
        return self._aliases.get(value, value) if isinstance(value, str | bytes) else value


def prepare(broker: Broker, topics: dict[str, int]) -> dict[str, bytes]:
    """Makes the topics, waits until the group coordinator works; returns the topics' ids."""
    connection = Connection(broker.port)
    wanted = [
        CreateTopicsRequest.CreatableTopic(name=name, num_partitions=count, replication_factor=1)
        for name, count in topics.items()
    ]
    connection.call(ApiKey.CREATE_TOPICS, 5, CreateTopicsRequest(topics=wanted, timeout_ms=10_000))
    connection.call(ApiKey.FIND_COORDINATOR, 2, FindCoordinatorRequest(key="warm", key_type=0))
    beat = HeartbeatRequest(group_id="warm", member_id="m")
    wait_until(lambda: connection.call(ApiKey.HEARTBEAT, 3, beat).error_code == 25)
    ids = {}
    for name in topics:
        one = MetadataRequest.MetadataRequestTopic(name=name)
        request = MetadataRequest(topics=[one], allow_auto_topic_creation=False)

        wait_until(partial(_is_known, connection, request))
        ids[name] = bytes(connection.call(ApiKey.METADATA, 12, request).topics[0].topic_id)
    connection.close()
    return ids


def _is_known(connection: Connection, request: MetadataRequest) -> bool:
    return bool(connection.call(ApiKey.METADATA, 12, request).topics[0].error_code == 0)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the broker does not become ready")
        time.sleep(0.2)


def compare(
    answers_of: Callable[[Broker], dict[str, object]],
    trivium: Callable[[Path], Broker],
    kafka: Callable[[Path], Broker],
    deliberate: Set[str],
) -> int:
    """Asks both brokers, each over a directory of its own, and prints what they answer differently. Returns the exit
    code: 1 for a difference that is not `deliberate`."""
    directory = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        ours, theirs = answers_of(trivium(directory / "trivium")), answers_of(kafka(directory / "kafka"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    different = [question for question in theirs if theirs[question] != ours.get(question)]
    for question in different:
        print(f"{question}\n  trivium {ours.get(question)}\n  kafka   {theirs[question]}")
    print(f"{len(theirs) - len(different)} of {len(theirs)} answers are the same")
    return 1 if set(different) - deliberate else 0
