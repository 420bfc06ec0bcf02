"""A Kafka client of few words for tests: one connection over an in-memory stream, any API in any version."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from core.broker import Broker, BrokerSettings
from core.store.engine import Engine
from core.store.memory import MemoryEngine
from gateway.memory_budget import MemoryBudget
from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.codec import decode_response, decode_response_header, encode_request
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.connection import Connection, ConnectionLimits
from gateway.protocols.kafka.context import Context
from gateway.protocols.kafka.dispatch import Dispatcher
from gateway.protocols.kafka.fetch_sessions import FetchSessions
from gateway.protocols.kafka.handlers import HANDLERS, PIPELINED
from trivium.records import Record, build

LIMITS = ConnectionLimits(
    request_bytes_max=1024 * 1024, output_bytes_max=4 * 1024 * 1024, idle_ms_max=600_000, send_timeout_ms_max=30_000
)


class WireClient:
    """Requests by message, or raw bytes; responses in the order in which they come."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = bytearray()
        self._correlation_id = 0
        self._sent: dict[int, tuple[int, int]] = {}

    async def send(self, api: ApiKey, version: int, message: Message) -> int:
        """Sends without waiting; returns the correlation id."""
        self._correlation_id += 1
        self._sent[self._correlation_id] = (api, version)
        await self.stream.send_all(encode_request(api, version, self._correlation_id, "test", message))
        return self._correlation_id

    async def receive(self) -> tuple[int, Any]:
        """The next response: (correlation id, message). Raises EOFError when the broker has closed."""
        (size,) = struct.unpack(">i", await self._exactly(4))
        frame = await self._exactly(size)
        (correlation_id,) = struct.unpack_from(">i", frame)
        api, version = self._sent.pop(correlation_id)
        _, at = decode_response_header(api, version, frame)
        return correlation_id, decode_response(api, version, frame, at)

    async def call(self, api: ApiKey, version: int, message: Message) -> Any:
        """One request and its response."""
        sent = await self.send(api, version, message)
        correlation_id, response = await self.receive()
        assert correlation_id == sent
        return response

    async def wait_closed(self) -> None:
        """Returns when the broker has closed the connection; raises AssertionError if it sends more first."""
        try:
            assert await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            pass

    async def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise EOFError
            self._received += chunk
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


class Listener:
    """A broker's Kafka side without sockets."""

    def __init__(self, broker: Broker, nursery: trio.Nursery, limits: ConnectionLimits) -> None:
        self.broker = broker
        self.context = Context(broker, 1, "localhost", 9092, FetchSessions(100, 120_000), 50 * 1024 * 1024)
        self.budget = MemoryBudget(8 * 1024 * 1024)
        self.responses = MemoryBudget(64 * 1024 * 1024)
        self.connections: list[Connection] = []
        self._dispatcher = Dispatcher(self.context, HANDLERS, PIPELINED)
        self._nursery = nursery
        self._limits = limits

    def connect(self, ours: trio.abc.Stream | None = None, theirs: trio.abc.Stream | None = None) -> WireClient:
        """Over a pair of streams, in memory where none is given."""
        if ours is None or theirs is None:
            ours, theirs = trio.testing.memory_stream_pair()
        connection = Connection(
            self._dispatcher,
            ours,
            "127.0.0.1:5",
            limits=self._limits,
            budget=self.budget,
            responses=self.responses,
        )
        self.connections.append(connection)

        async def serve() -> None:
            try:
                await connection.run()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self.broker.share_groups.sessions.connection_gone(connection)
                await ours.aclose()

        self._nursery.start_soon(serve)
        return WireClient(theirs)


@asynccontextmanager
async def kafka_listener(
    *,
    engine: Engine | None = None,
    limits: ConnectionLimits = LIMITS,
    topics: Mapping[str, int] | None = None,
    settings: BrokerSettings | None = None,
    start_engine: bool = True,
) -> AsyncIterator[Listener]:
    """A running broker with these topics (name -> partitions)."""
    engine = engine or MemoryEngine()
    async with trio.open_nursery() as nursery:
        if isinstance(engine, MemoryEngine) and start_engine:
            await nursery.start(engine.run)
        broker = Broker(engine, settings or BrokerSettings())
        await nursery.start(broker.run)
        for name, partitions in (topics or {}).items():
            await broker.topics.create(name, partitions)
        yield Listener(broker, nursery, limits)
        nursery.cancel_scope.cancel()


def batch_of(*values: bytes, key: bytes | None = b"k", timestamp_ms: int = 1_700_000_000_000, **options: Any) -> bytes:
    """One batch with these values."""
    return build([Record(i, timestamp_ms + i, key, value, []) for i, value in enumerate(values)], **options)
