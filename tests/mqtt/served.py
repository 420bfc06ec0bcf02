"""A pump over real sockets with the fake broker behind it, and clients of it in the same trio loop."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio
import trustme

from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec.packets import ConnAck, Connect, Packet
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.peers import Listener
from gateway.protocols.mqtt.pump import Pump
from tests.mqtt.fake_broker import FakeBroker
from tests.patience import PATIENCE_S

CA = trustme.CA()
OPENED: list[trio.SocketStream] = []


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("localhost").configure_cert(context)
    return context


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    return context


class Served:
    """A pump with all four kinds of listeners."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.broker = FakeBroker()
        self.pump = Pump(self.broker, linger_s=1.0, clock=clock)
        tls = server_tls()
        self.listeners = [
            Listener(_bound(), limits),
            Listener(_bound(), limits, tls),
            Listener(_bound(), limits, None, "/mqtt"),
            Listener(_bound(), limits, tls, "/mqtt"),
        ]
        self.tcp, self.tls, self.ws, self.wss = [one.socket.getsockname()[1] for one in self.listeners]


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Served]:
    served = Served(limits or Limits(), clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.pump.run, served.listeners)
        try:
            with trio.fail_after(PATIENCE_S):
                yield served
        finally:
            for stream in OPENED:
                stream.socket.close()
            OPENED.clear()
        nursery.cancel_scope.cancel()


async def dial(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    OPENED.append(stream)
    return stream


class Client:
    """A client on a stream, packet by packet."""

    def __init__(self, stream: trio.abc.Stream, version: int = 5) -> None:
        self.stream = stream
        self.version = version
        self._reader = Reader(1 << 24, version)
        self._packets: list[Packet] = []

    @classmethod
    async def open(cls, port: int, client_id: str = "c", version: int = 5, tls: bool = False, **fields: Any) -> Client:
        stream: trio.abc.Stream = await dial(port)
        if tls:
            stream = trio.SSLStream(stream, client_tls(), server_hostname="localhost", https_compatible=True)
        client = cls(stream, version)
        await client.send(Connect(version, client_id, True, 0, **fields))
        assert isinstance(await client.next(), ConnAck)
        return client

    async def send(self, *packets: Packet) -> None:
        await self.stream.send_all(b"".join([encode(packet, self.version) for packet in packets]))

    async def next(self) -> Any:
        while not self._packets:
            data = await self.stream.receive_some(65_536)
            if not data:
                return None
            self._reader.feed(bytes(data), self._packets)
        return self._packets.pop(0)
