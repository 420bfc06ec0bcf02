"""Wills and what is stored of them."""

from __future__ import annotations

import time
from pathlib import Path

import trio.testing

from core.store.engine import Outcome
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import ConnAck, Connect, Publish, Will
from gateway.protocols.mqtt.server import MqttServer
from tests.mqtt.test_full_disk import full
from tests.mqtt.test_resting import Client, serving, serving_with_broker
from tests.mqtt.test_turns import held


async def test_a_will_that_is_not_stored_is_said_once(tmp_path: Path) -> None:
    """At QoS 0 in a topic with `mqtt.store_qos0=false`, it does not come again after a restart."""
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("fleeting", 1, {"mqtt.store_qos0": "false"})
        watcher, device = Client(server, "watcher"), Client(server, "device")
        await watcher.connect()
        await watcher.subscribe("fleeting/+")
        will = Will("fleeting/a", b"gone", 0, False)
        device.send(Connect(5, "device", False, 0, will=will, properties={props.SESSION_EXPIRY: 1000}))
        assert isinstance((await device.got())[0], ConnAck)
        device.leave()
        (said,) = await watcher.got()
        assert isinstance(said, Publish)
        assert said.payload == b"gone"
        watcher.leave()
    async with serving(tmp_path) as server:
        watcher = Client(server, "watcher")
        await watcher.connect(present=True)
        server.handler.sweep(time.time() + 1_000)
        await trio.testing.wait_all_tasks_blocked()
        assert watcher.connection.take_output() == b""


async def connect_with_will(server: MqttServer, topic: str, delay_s: int) -> Client:
    device = Client(server, "device")
    properties = {props.WILL_DELAY: delay_s} if delay_s else {}
    will = Will(topic, b"gone", 1, False, properties)
    device.send(Connect(5, "device", False, 0, will=will, properties={props.SESSION_EXPIRY: 100_000}))
    assert isinstance((await device.got())[0], ConnAck)
    return device


async def watched(server: MqttServer, topic: str) -> Client:
    watcher = Client(server, "watcher")
    await watcher.connect(0)
    await watcher.subscribe(topic)
    return watcher


async def said_after(server: MqttServer, watcher: Client, seconds: float) -> list[bytes]:
    """The payloads that the watcher gets when so much time has passed."""
    server.handler.sweep(time.time() + seconds)
    marker = Client(server, "marker")
    await marker.connect(0)
    await marker.publish(watcher_topic(watcher))
    said: list[bytes] = []
    while b"x" not in said:
        said += [packet.payload for packet in await watcher.got() if isinstance(packet, Publish)]
    marker.leave()
    return said[:-1]


def watcher_topic(watcher: Client) -> str:
    device = watcher.server.handler.sessions.devices["watcher"]
    return next(iter(device.session.subscriptions or {}))


async def test_a_will_that_is_refused_for_good_is_forgotten(tmp_path: Path) -> None:
    """It does not come back with a restart when its topic can be seen again."""
    async with serving_with_broker(tmp_path, killed=True) as (broker, server):
        await broker.topics.create("hidden", 1)
        device = await connect_with_will(server, "hidden/a", 0)
        await broker.topics.update_config("hidden", lambda _: {"mqtt.visible": "false"})
        device.leave()
        server.handler.sweep(time.time())
        await trio.testing.wait_all_tasks_blocked()
        await broker.topics.update_config("hidden", lambda _: {"mqtt.visible": "true"})
    async with serving(tmp_path) as server:
        assert await said_after(server, await watched(server, "hidden/a"), 1_000) == []


async def test_a_will_that_a_full_disk_refused_is_said_when_there_is_room(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("gone", 1)
        device = await connect_with_will(server, "gone/a", 50)
        device.leave()
        async with full(server):
            server.handler.sweep(time.time() + 60)
        watcher = await watched(server, "gone/a")
        assert await said_after(server, watcher, 60) == [b"gone"]
        assert await said_after(server, watcher, 1_000) == []
    async with serving(tmp_path) as server:
        assert await said_after(server, await watched(server, "gone/a"), 1_000) == []


async def test_a_will_that_a_full_disk_refused_is_void_when_its_client_is_back(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("gone", 1)
        device = await connect_with_will(server, "gone/a", 0)
        async with full(server):
            device.leave()
        await Client(server, "device").connect(100_000, present=True)
        assert await said_after(server, await watched(server, "gone/a"), 1_000) == []
    async with serving(tmp_path) as server:
        assert await said_after(server, await watched(server, "gone/a"), 1_000) == []


async def test_a_will_on_its_way_leaves_the_next_will_of_its_client_alone(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path, killed=True) as (broker, server):
        await broker.topics.create("gone", 1)
        device = await connect_with_will(server, "gone/a", 0)
        with held(server) as engine:
            device.leave()
            await engine.until(1)
            await connect_with_will(server, "gone/a", 0)
            engine.refuse(Outcome.NOT_APPENDED)  # another's topic was deleted: it goes again
            await engine.store()
    async with serving(tmp_path) as server:
        assert await said_after(server, await watched(server, "gone/a"), 1_000) == [b"gone"]


async def test_a_will_that_fails_when_its_client_is_back_leaves_nothing(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("gone", 1)
        device = await connect_with_will(server, "gone/a", 0)
        with held(server) as engine:
            device.leave()
            await engine.until(1)
            await Client(server, "device").connect(100_000, present=True)
            engine.refuse(Outcome.FULL)
    async with serving(tmp_path) as server:
        assert await said_after(server, await watched(server, "gone/a"), 1_000) == []
