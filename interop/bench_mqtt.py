"""What a QoS 1 message costs in the MQTT front-end without sockets: `python -m interop.bench_mqtt [--profile]`.

Pairs of a publisher and a subscriber with one message in flight each, over a real store with `flush = async`; then 100
publishers and a shared subscription of 4 members (`--shared`: only that). Sockets are replaced by lists, so that what
is left is the work of pump, machines, publishing, store and delivery.
"""

from __future__ import annotations

import cProfile
import pstats
import select
import sys
import tempfile
import time
from typing import Any

import trio

from conf.schema import Config
from core.broker import Broker
from core.store.embedded import EmbeddedEngine
from gateway.collector import Collector
from gateway.core_settings import broker_settings, engine_config, mqtt_settings
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec.packets import Connect, Publish, Subscribe, SubscriptionRequest
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.peers import Peer
from gateway.protocols.mqtt.server import MqttServer, bind_listeners, open_server
from trivium.records import preload

TURNS = 400
ENOUGH_MESSAGES = 60_000
SHARED_PUBLISHERS = 100
MEMBERS = 4


class Wire:
    """What stands in for a socket: bytes to be read, bytes that were sent."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.coming = b""
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return self.fd

    def recv_into(self, buffer: memoryview) -> int:
        data, self.coming = self.coming, b""
        if not data:
            raise BlockingIOError
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def close(self) -> None:
        pass


class Clients:
    """Publishers of `pairs` names, and a subscriber of each or `members` of a shared subscription of all."""

    def __init__(self, server: MqttServer, pairs: int, members: int) -> None:
        self.pump = server.pump
        self.publishers = [self._join(10_000 + at) for at in range(pairs)]
        self.subscribers = [self._join(100_000 + at) for at in range(members or pairs)]
        names = [f"bench/{at:04}/v" for at in range(pairs)]
        self.filters = ["$share/bench/bench/#"] * members or names
        self.publishes = [encode(Publish(name, b"p" * 100, 1, False, False, 7, None), 4) for name in names]

    def _join(self, fd: int) -> Wire:
        wire = Wire(fd)
        pump: Any = self.pump
        connection = Connection(Limits(), pump.outbox, time.monotonic())
        peer = Peer(wire, "bench", connection, None)  # type: ignore[arg-type]
        connection.transport = peer
        pump._peers[fd] = peer
        self.turn([wire], [encode(Connect(4, f"c{fd}", True, 0), 4)])
        return wire

    def turn(self, wires: list[Wire], data: list[bytes]) -> None:
        """One turn of the pump in which all of these are ready."""
        for wire, coming in zip(wires, data, strict=True):
            wire.coming = coming
        self.pump._turn([(wire.fd, select.EPOLLIN) for wire in wires])

    async def subscribe(self) -> None:
        wires = self.subscribers
        self.turn(wires, [encode(Subscribe(1, [SubscriptionRequest(name, 1)]), 4) for name in self.filters])
        await self.got(wires)

    async def got(self, wires: list[Wire]) -> list[bytes]:
        """Waits until each has got something; returns it."""
        while not all(wire.sent for wire in wires):
            await trio.lowlevel.checkpoint()
        found = [b"".join(wire.sent) for wire in wires]
        for wire in wires:
            wire.sent.clear()
        return found

    async def exchange(self) -> float:
        """A message of each publisher to its subscriber and all acknowledgements; returns the seconds of our side."""
        for wire, data in zip(self.publishers, self.publishes, strict=True):
            wire.coming = data
        ready = [(wire.fd, select.EPOLLIN) for wire in self.publishers]
        began = time.perf_counter()
        self.pump._turn(ready)
        while not self.publishers[-1].sent:
            await trio.lowlevel.checkpoint()
        took = time.perf_counter() - began
        await self.got(self.publishers)
        acks = [_acks(data) for data in await self.got(self.subscribers)]
        for wire, data in zip(self.subscribers, acks, strict=True):
            wire.coming = data
        ready = [(wire.fd, select.EPOLLIN) for wire in self.subscribers]
        began = time.perf_counter()
        self.pump._turn(ready)
        return took + time.perf_counter() - began


def _acks(publishes: bytes) -> bytes:
    """PUBACKs of PUBLISH packets, all of one size: header, name, packet id, 100 bytes."""
    size = 2 + publishes[1]
    return b"".join([b"\x40\2" + publishes[at - 102 : at - 100] for at in range(size, len(publishes) + 1, size)])


async def measure(pairs: int, members: int, profile: cProfile.Profile | None) -> float:
    """Microseconds a message."""
    with tempfile.TemporaryDirectory() as directory:
        config = Config.model_validate(
            {"store": {"data_dir": directory, "flush": "async"}, "mqtt": {"listen": "127.0.0.1:0"}}
        )
        engine = EmbeddedEngine(config.store.data_dir, engine_config(config))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            preload()
            broker = Broker(engine, broker_settings(config))
            await nursery.start(broker.run)
            settings = mqtt_settings(config)
            server = await open_server(broker, bind_listeners(settings), settings)
            nursery.start_soon(server.run)
            Collector().install()
            clients = Clients(server, pairs, members)
            await clients.subscribe()
            for _ in range(3):
                await clients.exchange()
            turns = max(3, min(TURNS, ENOUGH_MESSAGES // pairs))
            if profile is not None:
                profile.enable()
            took = sorted([await clients.exchange() for _ in range(turns)])
            if profile is not None:
                profile.disable()
            for wire in (*clients.publishers, *clients.subscribers):
                server.pump._peers.pop(wire.fd)
            nursery.cancel_scope.cancel()
    return took[len(took) // 2] / pairs * 1e6


def main() -> None:
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    shared_only = "--shared" in sys.argv
    for pairs in () if shared_only else (1, 10, 100, 1000):
        profiled = profile if pairs == 100 else None
        print(f"{pairs:5} pairs: {trio.run(measure, pairs, 0, profiled):6.1f} us a message")
    took = trio.run(measure, SHARED_PUBLISHERS, MEMBERS, profile if shared_only else None)
    print(f"{SHARED_PUBLISHERS:5} publishers, {MEMBERS} members: {took:6.1f} us a message")
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
