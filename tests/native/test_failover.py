"""Several addresses: dead ones, silent ones, brokers that go or hang; and what cancellation leaves behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

import trivium
from tests.native.harness import serving
from tests.patience import PATIENCE_S
from trivium import connection as connection_module
from trivium import reconnecting


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return f"127.0.0.1:{port}"


async def test_dead_and_silent_addresses_are_passed_over(
    silent: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_connection(host: str, port: int, *rest: Any) -> connection_module.Connection:
        monkeypatch.setattr(connection_module, "CONNECT_S_MAX", 0.01 if silent.endswith(f":{port}") else PATIENCE_S)
        return await connection_module.open_connection(host, port, *rest)

    monkeypatch.setattr(reconnecting, "open_connection", open_connection)
    async with serving() as live:
        for _ in range(4):  # the order is random
            async with trivium.connect(f"{silent},{dead},{live.native}") as client:
                assert await client.topics() == []


async def test_a_client_goes_to_another_broker_when_its_own_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.reconnecting.random.sample", lambda addresses, count: list(addresses))
    async with serving() as second, trio.open_nursery() as nursery:
        first_is_there = trio.Event()
        scope = trio.CancelScope()
        addresses: list[str] = []

        async def first() -> None:
            with scope:
                async with serving() as at:
                    addresses.append(at.native)
                    first_is_there.set()
                    await trio.sleep_forever()

        nursery.start_soon(first)
        await first_is_there.wait()
        async with trivium.connect(f"{addresses[0]},{second.native}") as client, client.producer() as producer:
            await client.create_topic("of-the-first", 1)
            assert (await producer.send("of-the-first", b"1")).offset == 0
            scope.cancel()
            while any(topic.name == "of-the-first" for topic in await client.topics()):
                await anyio.lowlevel.checkpoint()
            assert (await producer.send("of-the-second", b"2")).offset == 0


async def test_a_connection_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "SILENT_S_MAX", 0.05)
    hanging = trio.Event()

    async def relay(stream: trio.SocketStream) -> None:
        host, port = broker.native.split(":")
        async with stream, await trio.open_tcp_stream(host, int(port)) as there, trio.open_nursery() as nursery:

            async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                while data := await source.receive_some(65_536):
                    if hanging.is_set():
                        await trio.sleep_forever()
                    await sink.send_all(data)

            nursery.start_soon(pump, stream, there)
            await pump(there, stream)

    async with serving() as broker, trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, relay, listeners)
        way = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trivium.connect(way) as client:
            await client.topics()
            client._addresses = reconnecting.parse_addresses(broker.native)
            hanging.set()
            client.request_timeout_s = 0.1
            with pytest.raises(trivium.RequestTimedOut, match="no answer to Metadata"):
                await client.topics()
            client.request_timeout_s = PATIENCE_S
            assert await client.topics() == []
        nursery.cancel_scope.cancel()


async def test_what_is_cancelled_leaves_nothing_behind() -> None:
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        connection = await client.connection()
        for _ in range(50):
            for turns in range(4):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(client.topics)
                        nursery.start_soon(producer.send, "t", b"x")
                        for _ in range(turns):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
        await producer.send("t", b"last")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            with trio.CancelScope() as scope:
                async for message in consumer:
                    if message.value == b"last":
                        scope.cancel()
        live = await client.connection()
        assert live._waiting == {}
        assert producer._waiting_bytes == 0
        assert live is connection or connection.closed


class Cut:
    """A connection that is lost with the first request."""

    frame_bytes_max = 1_000_000

    def __init__(self, made: list[Cut]) -> None:
        made.append(self)
        assert len(made) < 1_000
        self.closed = False
        self.heard_s = 0.0

    async def receive(self) -> None:
        await trio.sleep_forever()

    async def request(self, *_: Any) -> Any:
        self.closed = True
        raise trivium.Disconnected("cut")

    async def aclose(self) -> None:
        self.closed = True


async def test_a_broker_that_ends_every_connection_is_not_stormed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    made: list[Cut] = []

    async def open_connection(*_: Any) -> Cut:
        return Cut(made)

    monkeypatch.setattr(reconnecting, "open_connection", open_connection)
    async with trivium.connect("127.0.0.1:1", request_timeout_s=30) as client:
        with pytest.raises(trivium.RequestTimedOut):
            await client.topics()
    assert 10 < len(made) < 100
