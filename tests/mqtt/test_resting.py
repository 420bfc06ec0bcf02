"""Sessions whose clients are away are rows, and come back as they were."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from conf.schema import Config
from core.broker import Broker
from core.store.embedded import EmbeddedEngine
from gateway.core_settings import broker_settings, engine_config, mqtt_settings
from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    ConnAck,
    Connect,
    Packet,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.protocols.mqtt.codec.properties import PUBACK
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.resting import Resting
from gateway.protocols.mqtt.server import MqttServer, bind_listeners, open_server
from gateway.protocols.mqtt.session import QOS1_SENT, QOS2_RELEASED, STORED, Delivery, Session, Subscription


class Client:
    """A client of a server in this process, without a socket."""

    def __init__(self, server: MqttServer, client_id: str) -> None:
        self.server = server
        self.client_id = client_id
        self.connection = Connection(Limits(), server.pump.outbox, 0.0)
        self.reader = Reader(1 << 20, 5)

    def send(self, packet: Packet) -> None:
        self.connection.receive(encode(packet, 5), 0.0)
        self.server.pump.flush()

    async def got(self) -> list[Packet]:
        packets: list[Packet] = []
        with trio.fail_after(10):
            while not packets:
                await trio.lowlevel.checkpoint()
                self.reader.feed(self.connection.take_output(), packets)
        return packets

    async def connect(self, expiry_s: int = 1000, *, present: bool = False) -> list[Packet]:
        """What came behind the CONNACK."""
        self.send(Connect(5, self.client_id, False, 0, properties={props.SESSION_EXPIRY: expiry_s}))
        connack, *others = await self.got()
        assert isinstance(connack, ConnAck)
        assert connack.session_present is present
        return others

    async def subscribe(self, filter_: str) -> None:
        self.send(Subscribe(1, [SubscriptionRequest(filter_, 1)]))
        assert isinstance((await self.got())[0], SubAck)

    async def publish(self, topic: str) -> None:
        self.send(Publish(topic, b"x", 1, False, False, 1, None))
        assert await self.got() == [Ack(PUBACK, 1, 0, None)]

    def leave(self) -> None:
        self.connection.eof()
        self.server.pump.flush()
        self.server.handler.sweep(time.time())


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[MqttServer]:
    config = Config.model_validate({"store": {"data_dir": str(directory)}, "mqtt": {"listen": "127.0.0.1:0"}})
    engine = EmbeddedEngine(config.store.data_dir, engine_config(config))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, broker_settings(config))
        await nursery.start(broker.run)
        settings = mqtt_settings(config)
        server = await open_server(broker, bind_listeners(settings), settings)
        nursery.start_soon(server.run)
        await trio.testing.wait_all_tasks_blocked()
        yield server
        nursery.cancel_scope.cancel()


async def test_a_session_whose_client_is_away_is_a_row_until_it_returns(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        handler, device = server.handler, Client(server, "device")
        await device.connect()
        await device.subscribe("rest/+")
        publisher = Client(server, "publisher")
        await publisher.connect(0)
        await publisher.publish("rest/first")
        (first,) = await device.got()
        assert isinstance(first, Publish)
        device.send(Ack(PUBACK, first.packet_id, 0, None))
        device.leave()
        assert len(handler.resting) == 1
        assert list(handler.devices) == ["publisher"]
        await publisher.publish("other/x")
        assert not handler.resting.pending  # what it does not want leaves it alone

        device = Client(server, "device")
        assert await device.connect(present=True) == []
        assert len(handler.resting) == 0
        assert handler.devices["device"].live  # without a look at the log
        device.leave()
        await publisher.publish("rest/second")
        await publisher.publish("rest/third")
        assert len(handler.resting.pending) == 1

        device = Client(server, "device")
        came = await device.connect(present=True)
        while len(came) < 2:
            came += await device.got()
        assert [one.topic for one in came if isinstance(one, Publish)] == ["rest/second", "rest/third"]
        assert not handler.resting.pending


async def test_a_session_at_rest_ends_when_its_time_is_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        device = Client(server, "device")
        await device.connect(100)
        await device.subscribe("rest/+")
        device.leave()
        assert len(server.handler.resting) == 1
        server.handler.sweep(time.time() + 50)
        assert len(server.handler.resting) == 1
        server.handler.sweep(time.time() + 101)
        assert len(server.handler.resting) == 0
        assert server.handler.expired == 1
        assert server.deliveries.index.count == 0
        again = Client(server, "device")
        await again.connect()


async def test_after_a_restart_sessions_rest_and_what_came_is_delivered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        device, publisher = Client(server, "device"), Client(server, "publisher")
        await device.connect()
        await device.subscribe("rest/+")
        device.leave()
        await publisher.connect(0)
        await publisher.publish("rest/first")
    async with serving(tmp_path) as server:
        server.handler.sweep(time.time())
        assert len(server.handler.resting) == 1
        device = Client(server, "device")
        came = await device.connect(present=True) or await device.got()
        assert [one.topic for one in came if isinstance(one, Publish)] == ["rest/first"]


def test_everything_of_a_session_rests() -> None:
    session = Session("c", 7, 100)
    session.inbound = {3: STORED}
    session.inflight = {4: Delivery(QOS1_SENT, 1, 2, True), 5: Delivery(QOS2_RELEASED, 1, 3)}
    session.next_packet_id = 6
    device = Device(session, 11)
    device.add("a/+", Subscription(1, True, True, 2, 9, 5))
    device.offsets = {1: 2}
    device.stored_out = {5}
    device.has_will = device.stored = device.pending = True
    device.stored_expiry_s = 99
    resting = Resting()
    resting.put([(device, 123.0)])
    assert resting.take("other") is None
    assert resting.due(122.9, 9) == []
    assert resting.due(123.0, 9) == ["c"]
    found = resting.take("c")
    assert found is not None
    back, expires_s = found
    assert expires_s == 123.0
    assert resting.take("c") is None
    for name in Session.__slots__:
        assert getattr(back.session, name) == getattr(session, name), name
    for name in set(Device.__slots__) - {"session"}:
        assert getattr(back, name) == getattr(device, name), name
    resting.close()
