"""Wills and what is stored of them."""

from __future__ import annotations

import time
from pathlib import Path

import trio.testing

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import ConnAck, Connect, Publish, Will
from tests.mqtt.test_resting import Client, serving, serving_with_broker


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
