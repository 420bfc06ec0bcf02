"""Sessions whose clients are away are rows, and come back as they were."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
import trio.testing

from conf.schema import Config
from core.broker import Broker
from core.retroactive import Target, To
from core.sessions import session_change
from core.store.embedded import EmbeddedEngine
from core.store.engine import Append, Outcome, append
from gateway.core_settings import broker_settings, engine_config, mqtt_settings
from gateway.protocols.mqtt import checkpoints
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
from gateway.protocols.mqtt.pending import Pending
from gateway.protocols.mqtt.resting import Resting
from gateway.protocols.mqtt.server import MqttServer, bind_listeners, open_server
from gateway.protocols.mqtt.session import QOS1_SENT, QOS2_RELEASED, STORED, Delivery, Session, Subscription
from tests.patience import PATIENCE_S
from trivium.record_batch import parse_header
from trivium.records import Record, build, build_control


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
        with trio.fail_after(PATIENCE_S):
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
async def serving(directory: Path, *, killed: bool = False) -> AsyncIterator[MqttServer]:
    """A server over the directory; `killed`: it is not told to stop, but ends."""
    async with serving_with_broker(directory, killed=killed) as (_, server):
        yield server


@asynccontextmanager
async def serving_with_broker(directory: Path, *, killed: bool = False) -> AsyncIterator[tuple[Broker, MqttServer]]:
    config = Config.model_validate({"store": {"data_dir": str(directory)}, "mqtt": {"listen": "127.0.0.1:0"}})
    engine = EmbeddedEngine(config.store.data_dir, engine_config(config))
    async with AsyncExitStack() as after_store, trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, broker_settings(config))
        await nursery.start(broker.run)
        settings = mqtt_settings(config)
        server = await open_server(broker, bind_listeners(settings), settings)
        after_store.callback(server.close)
        async with trio.open_nursery() as running:
            running.start_soon(server.run)
            await trio.testing.wait_all_tasks_blocked()
            yield broker, server
            if killed:
                running.cancel_scope.cancel()
            server.stop()
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
        assert len(handler.sessions.resting) == 1
        assert list(handler.sessions.devices) == ["publisher"]
        await publisher.publish("other/x")
        assert not handler.sessions.resting.pending  # what it does not want leaves it alone

        device = Client(server, "device")
        assert await device.connect(present=True) == []
        assert len(handler.sessions.resting) == 0
        assert handler.sessions.devices["device"].live  # without a look at the log
        device.leave()
        await publisher.publish("rest/second")
        await publisher.publish("rest/third")
        assert len(handler.sessions.resting.pending) == 1

        device = Client(server, "device")
        came = await device.connect(present=True)
        while len(came) < 2:
            came += await device.got()
        assert [one.topic for one in came if isinstance(one, Publish)] == ["rest/second", "rest/third"]
        assert not handler.sessions.resting.pending


async def test_a_session_at_rest_ends_when_its_time_is_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        device = Client(server, "device")
        await device.connect(100)
        await device.subscribe("rest/+")
        device.leave()
        assert len(server.handler.sessions.resting) == 1
        server.handler.sweep(time.time() + 50)
        assert len(server.handler.sessions.resting) == 1
        server.handler.sweep(time.time() + 101)
        assert len(server.handler.sessions.resting) == 0
        assert server.handler.sessions.expired == 1
        assert server.deliveries.subscribers.index.count == 0
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
        assert len(server.handler.sessions.resting) == 1
        device = Client(server, "device")
        came = await device.connect(present=True) or await device.got()
        assert [one.topic for one in came if isinstance(one, Publish)] == ["rest/first"]


async def leave_two(server: MqttServer) -> Client:
    """Two sessions that rest, `one` of which wants what the publisher that is returned publishes under `one/`."""
    for name in ("one", "two"):
        device = Client(server, name)
        await device.connect()
        await device.subscribe(f"{name}/+")
        device.leave()
    publisher = Client(server, "publisher")
    await publisher.connect(0)
    return publisher


async def comes_back(server: MqttServer, client_id: str) -> tuple[bool, list[str]]:
    """Whether it is served without a look at the log, and what comes."""
    device = Client(server, client_id)
    with patch.object(server.deliveries.cursors, "catch_up", wraps=server.deliveries.cursors.catch_up) as read:
        came = await device.connect(present=True)
    with trio.fail_after(PATIENCE_S):
        while not server.handler.sessions.devices[client_id].live:
            await trio.lowlevel.checkpoint()
            device.reader.feed(device.connection.take_output(), came)
    device.reader.feed(device.connection.take_output(), came)
    publishes = [one for one in came if isinstance(one, Publish)]
    for publish in publishes:
        device.send(Ack(PUBACK, publish.packet_id, 0, None))
    return not read.called, [one.topic for one in publishes]


@pytest.mark.parametrize("killed", [False, True])
async def test_a_restart_knows_for_whom_nothing_came(tmp_path: Path, killed: bool) -> None:
    """Also after a kill: what was published since the last time that it was stored is looked through."""
    async with serving(tmp_path, killed=killed) as server:
        publisher = await leave_two(server)
        await server.handler.keep_positions()
        await publisher.publish("one/first")
    async with serving(tmp_path) as server:
        assert await comes_back(server, "one") == (False, ["one/first"])
        assert await comes_back(server, "two") == (True, [])


async def test_what_came_before_two_restarts_is_not_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await (await leave_two(server)).publish("one/first")
    async with serving(tmp_path):
        pass
    async with serving(tmp_path, killed=True) as server:
        assert await comes_back(server, "two") == (True, [])
        await trio.testing.wait_all_tasks_blocked()
    async with serving(tmp_path) as server:
        assert await comes_back(server, "one") == (False, ["one/first"])


async def test_a_device_that_got_it_has_nothing_to_look_for_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await (await leave_two(server)).publish("one/first")
        assert await comes_back(server, "one") == (False, ["one/first"])
    async with serving(tmp_path) as server:
        assert await comes_back(server, "one") == (True, [])


async def test_a_transaction_that_was_open_when_it_was_stored_is_not_missed(tmp_path: Path) -> None:
    """Its records stand before the place up to which the log was looked through."""
    async with serving_with_broker(tmp_path, killed=True) as (broker, server):
        await (await leave_two(server)).publish("one/first")
        assert (await comes_back(server, "one"))[1] == ["one/first"]
        held = build([Record(0, 1, b"held", b"x", [])], producer_id=7, producer_epoch=0, transactional=True)
        await store(broker, held)
        await server.handler.keep_positions()
        await store(broker, build_control(7, 0, True, 0, 1))
    async with serving(tmp_path) as server:
        assert await comes_back(server, "two") == (True, [])
        assert await comes_back(server, "one") == (False, ["one/held"])


async def store(broker: Broker, batch: bytes) -> None:
    """One batch for the topic `one`, as another road would bring it."""
    topic = broker.topics.get("one")
    assert topic is not None
    (answer,) = await append(broker.engine, [Append(topic.partitions[0], parse_header(batch), batch)])
    assert answer.outcome is Outcome.APPENDED


async def test_what_could_not_be_stored_makes_all_look_at_the_log(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await leave_two(server)
        await server.handler.keep_positions()
        server.handler._log.failed = True
    async with serving(tmp_path) as server:
        assert await comes_back(server, "one") == (False, [])


async def test_positions_are_kept_when_they_are_durable_whatever_turn_put_them(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (await leave_two(server)).leave()
        await server.handler.keep_positions()
        assert not server.handler._log._under_way


async def test_a_moved_session_is_read_for_after_a_kill(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path, killed=True) as (broker, server):
        await (await leave_two(server)).publish("one/first")
        assert (await comes_back(server, "one"))[1] == ["one/first"]
        server.handler.positions.put()
        await broker.retroactive.reset("session", "one", ["one"], Target(To.EARLIEST))
    async with serving(tmp_path) as server:
        assert (await comes_back(server, "one"))[1] == ["one/first"]


async def test_more_than_can_be_looked_through_makes_all_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MARK_BYTES_MAX", 0)
    async with serving(tmp_path, killed=True) as server:
        publisher = await leave_two(server)
        await server.handler.keep_positions()
        await publisher.publish("one/first")
    async with serving(tmp_path) as server:
        assert await comes_back(server, "two") == (False, [])
        assert await comes_back(server, "one") == (False, ["one/first"])


async def test_numbers_are_given_out_again_and_never_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        publisher = await leave_two(server)
        number = server.handler.sessions.devices["publisher"].session.number
        publisher.leave()
        again = Client(server, "again")
        await again.connect(0)
        assert server.handler.sessions.devices["again"].session.number == number
        await (await leave_three_with_the_number_of_one(server)).connect(0)
    async with serving(tmp_path) as server:
        numbers = [server.handler.sessions.find(name).session.number for name in ("one", "two", "three")]  # type: ignore[union-attr]
        assert len(set(numbers)) == 3


async def test_groups_are_not_given_the_numbers_of_stored_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await leave_two(server)
        member = Client(server, "member")
        await member.connect()
        await member.subscribe("$share/group/shared/+")
        member.leave()
    async with serving(tmp_path) as server:
        publisher = Client(server, "publisher")
        await publisher.connect(0)
        assert await comes_back(server, "one") == (True, [])
        assert (await comes_back(server, "member"))[1] == []
        member = Client(server, "member")
        await member.connect(present=True)
        await publisher.publish("shared/x")
        (message,) = await member.got()
        assert isinstance(message, Publish)
        assert message.topic == "shared/x"


async def leave_three_with_the_number_of_one(server: MqttServer) -> Client:
    """As if the end of a session could not be stored, and its number was another's by then."""
    one = server.handler.sessions.find("one")
    assert one is not None
    change = session_change("three", 1000, one.session.number, [["three/+", 1, False, False, 0, 0, 0, ""]])
    stored = trio.Event()
    server.handler.store([change], lambda _: stored.set())
    await stored.wait()
    return Client(server, "other")


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
    resting = Resting(Pending())
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


def test_the_row_of_one_who_has_returned_does_not_count_until_it_rests_again() -> None:
    resting = Resting(Pending())
    devices = [(Device(Session(name, number, 100), 0), 50.0) for number, name in enumerate(("a", "b", "c"), 1)]
    resting.put(devices)
    assert resting.take("a") is not None
    assert resting.take("b") is not None
    assert len(resting) == 1
    assert resting.take("a") is None
    assert resting.due(60.0, 9) == ["c"]
    assert resting.due(60.0, 1) == ["c"]  # those that are awake do not stand in its way
    again = Device(Session("a", 1, 100), 77)
    resting.put([(again, 70.0)])
    resting.forget("b")
    resting.forget("c")  # rests, and so stays
    assert len(resting) == 2
    assert resting.due(80.0, 9) == ["c", "a"]
    found = resting.take("a")
    assert found is not None
    assert (found[0].position, found[1]) == (77, 70.0)
    assert resting.take("b") is None
    resting.put([(Device(Session("b", 9, 100), 5), 90.0)])
    assert resting.take("b") is not None
    resting.close()
