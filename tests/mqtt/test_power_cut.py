"""Power cuts under MQTT: a device talks to the whole front-end over the engine on a traced disk, then the trace is cut
at many points, the broker starts on what is left, and the device goes on with what it knew at that moment.

Then everything it published at QoS 2 stands in the log once and at QoS 1 at least once, what it subscribed to has come
once at QoS 2 and in the order of the log, and what is retained is what the log has last.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from conf.schema import Config
from core.broker import Broker
from core.store.embedded import EmbeddedEngine, EngineConfig
from gateway.core_settings import broker_settings, mqtt_settings
from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec.packets import (
    V311,
    Ack,
    ConnAck,
    Connect,
    Packet,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.protocols.mqtt.codec.properties import PUBACK, PUBCOMP, PUBREC, PUBREL
from gateway.protocols.mqtt.server import MqttServer, bind_listeners, open_server
from tests.patience import PATIENCE_S
from tests.store.batches import read_all
from tests.store.simulated_disk import SimulatedDisk
from trivium.record_batch import parse_header
from trivium.records import decode

CONFIG = EngineConfig(segment_bytes=24 * 1024, reserve_bytes=0, hot_batches_max=8, settle_bytes_per_s_max=0)
END = b"end"


@dataclass
class Known:
    """What the device knows, and would still know after the broker's end. A packet id is in one of the first three."""

    subscribed: bool = False
    sent: dict[int, Publish] = field(default_factory=dict)  # not acknowledged
    releasing: dict[int, None] = field(default_factory=dict)  # PUBREC came, PUBCOMP has not
    held: set[int] = field(default_factory=set)  # ids of the broker's that came and were not released
    got: list[tuple[int, str, bytes]] = field(default_factory=list)  # QoS, name, payload, as handed to the application
    published: list[tuple[int, str, bytes]] = field(default_factory=list)
    next_id: int = 1


class Device:
    """One connection. Whatever changes what it knows is noted in the trace before anything is sent on it."""

    def __init__(self, stream: trio.SocketStream, known: Known, disk: SimulatedDisk | None) -> None:
        self.known = known
        self.end_id: int | None = None  # under which END has come
        self._stream = stream
        self._disk = disk
        self._reader = Reader(1 << 20, V311)
        self._packets: list[Packet] = []

    async def send(self, packet: Packet) -> None:
        if self._disk is not None:
            self._disk.mark("known", copy.deepcopy(self.known))
        await self._stream.send_all(encode(packet, V311))

    async def next(self) -> Packet:
        while not self._packets:
            self._reader.feed(bytes(await self._stream.receive_some(65_536)), self._packets)
        return self._packets.pop(0)

    async def open(self) -> bool:
        """CONNECT, SUBSCRIBE where that was not done, and again what was under way. Whether the session was there."""
        await self.send(Connect(V311, "device", False, 0))
        answer = await self.next()
        assert isinstance(answer, ConnAck)
        for packet in list(self.known.sent.values()):
            await self.send(packet._replace(dup=True))
        for packet_id in list(self.known.releasing):
            await self.send(Ack(PUBREL, packet_id, 0, None))
        if not self.known.subscribed:
            await self.send(Subscribe(60_000, [SubscriptionRequest("t/#", 2)]))
            while not self.known.subscribed:
                await self.step()
        return answer.session_present

    async def publish(self, name: str, payload: bytes, qos: int, retain: bool = False) -> None:
        packet_id, self.known.next_id = self.known.next_id, self.known.next_id + 1
        self.known.sent[packet_id] = packet = Publish(name, payload, qos, retain, False, packet_id, None)
        self.known.published.append((qos, name, payload))
        await self.send(packet)

    async def step(self) -> None:
        """Takes one packet, and answers it."""
        match await self.next():
            case Publish(topic, payload, qos, _, _, packet_id):
                if payload == END:
                    self.end_id = packet_id
                if packet_id not in self.known.held:
                    self.known.got.append((qos, topic, payload))
                if qos == 2:
                    self.known.held.add(packet_id)
                    await self.send(Ack(PUBREC, packet_id, 0, None))
                elif qos == 1:
                    await self.send(Ack(PUBACK, packet_id, 0, None))
            case Ack(kind, packet_id) if kind == PUBACK:
                del self.known.sent[packet_id]
            case Ack(kind, packet_id) if kind == PUBREC:
                self.known.sent.pop(packet_id, None)
                self.known.releasing[packet_id] = None
                await self.send(Ack(PUBREL, packet_id, 0, None))
            case Ack(kind, packet_id) if kind == PUBCOMP:
                self.known.releasing.pop(packet_id, None)
            case Ack(kind, packet_id) if kind == PUBREL:
                self.known.held.discard(packet_id)
                await self.send(Ack(PUBCOMP, packet_id, 0, None))
            case SubAck():
                self.known.subscribed = True
            case other:
                raise AssertionError(other)


@asynccontextmanager
async def serving(disk: SimulatedDisk) -> AsyncIterator[tuple[EmbeddedEngine, Broker, MqttServer]]:
    config = Config.model_validate({"mqtt": {"listen": "127.0.0.1:0", "sys_interval_s": 0}})
    settings = mqtt_settings(config)
    async with AsyncExitStack() as after_store, trio.open_nursery() as nursery:
        engine = EmbeddedEngine("", CONFIG, disk=disk)
        await nursery.start(engine.run)
        broker = Broker(engine, broker_settings(config))
        await nursery.start(broker.run)
        server = await open_server(broker, bind_listeners(settings), settings)
        after_store.callback(server.close)
        nursery.start_soon(server.run)
        yield engine, broker, server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(server: MqttServer, known: Known, disk: SimulatedDisk | None) -> AsyncIterator[Device]:
    port = int(server.listening[0][1].rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Device(stream, known, disk)


async def traced_run(seed: int, publishes: int) -> SimulatedDisk:
    """A device in two connections, the second after a clean stop of the broker; segments are sealed and settled."""
    disk = SimulatedDisk(seed=seed)
    rng = random.Random(seed)
    known = Known()
    for _ in range(2):
        async with serving(disk) as (engine, _, server), connected(server, known, disk) as device:
            await device.open()
            for number in range(publishes // 2):
                qos = rng.choice([1, 2, 2])
                name = rng.choice(["t/a", "t/b", "t/kept"])
                payload = b"%d-%d " % (known.next_id, number) + b"x" * rng.choice([0, 10, 800])
                await device.publish(name, payload, qos, retain=name == "t/kept")
                while len(known.sent) + len(known.releasing) > rng.choice([0, 2, 5]):
                    await device.step()
                if number % 25 == 24:
                    await engine.settler.run_once()
    return disk


async def go_on_and_check(disk: SimulatedDisk, known: Known) -> None:
    async with serving(disk) as (engine, broker, server), connected(server, known, None) as device:
        assert await device.open(), "the session is gone"
        while known.sent or known.releasing:
            await device.step()
        await device.publish("t/a", END, 2)
        # Nothing is delivered behind END, and no PUBREL comes behind its own.
        while device.end_id is None or device.end_id in known.held or known.sent or known.releasing:
            await device.step()
        assert not known.held, "the broker has forgotten what it was to release"
        topic = broker.topics.get("t")
        assert topic is not None
        records: list[Any] = []
        for batch in await read_all(engine, topic.partitions[0]):
            if not parse_header(batch).is_control:
                records += decode(batch, 1 << 24)
        log = [("t/" + record.key.decode(), record.value) for record in records]
        for qos, name, payload in known.published:
            count = log.count((name, payload))
            assert count >= 1, f"{payload!r} at QoS {qos} is lost"
            assert qos == 1 or count == 1, f"{payload!r} stands {count} times"
        got_2 = [(name, payload) for qos, name, payload in known.got if qos == 2]
        sent_2 = {(name, payload) for qos, name, payload in known.published if qos == 2}
        assert got_2 == [one for one in log if one in sent_2], "QoS 2 came otherwise than it stands in the log"
        assert {(name, payload) for _, name, payload in known.got} == set(log), "something has not come"
        kept = [value for name, value in log if name == "t/kept"]
        retained = server._table.get("t/kept")
        assert (retained.record.value if retained is not None else None) == (kept[-1] if kept else None)


@pytest.mark.parametrize("seed", range(2))
async def test_a_device_loses_nothing_and_gets_nothing_twice_over_a_power_cut(seed: int) -> None:
    disk = await traced_run(seed, 120)
    marks = [(at, op[2]) for at, op in enumerate(disk.trace) if op[:2] == ("mark", "known") and op[2].subscribed]
    rng = random.Random(seed)
    points = sorted(rng.sample(range(marks[0][0] + 1, len(disk.trace)), 25))
    for point, cut in disk.cuts(points, seed):
        known = next(known for at, known in reversed(marks) if at < point)
        try:
            with trio.fail_after(PATIENCE_S):
                await go_on_and_check(cut, copy.deepcopy(known))
        except BaseException as error:
            error.add_note(f"seed {seed}, cut before {point} of {len(disk.trace)}")
            raise


async def test_without_syncs_the_same_checks_do_find_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would prove nothing: `flush = async` acknowledges what a power cut may take."""
    lazy = dataclasses.replace(CONFIG, flush="async", flush_interval_ms=3_600_000)
    with monkeypatch.context() as patched:
        patched.setattr("tests.mqtt.test_power_cut.CONFIG", lazy)
        disk = await traced_run(1, 60)
    marks = [(at, op[2]) for at, op in enumerate(disk.trace) if op[:2] == ("mark", "known") and op[2].subscribed]
    losses = 0
    for point, cut in disk.cuts(range(marks[0][0] + 20, len(disk.trace), len(disk.trace) // 8), 1):
        known = next(known for at, known in reversed(marks) if at < point)
        try:
            await go_on_and_check(cut, copy.deepcopy(known))
        except* AssertionError:
            losses += 1
    assert losses >= 2
