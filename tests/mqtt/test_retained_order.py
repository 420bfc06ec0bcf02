"""Retained messages, while the SUBSCRIBE that they are for waits to be stored."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import trio.testing

from gateway.protocols.mqtt.codec.packets import Ack, Packet, Publish, SubAck, Subscribe, SubscriptionRequest
from gateway.protocols.mqtt.codec.properties import PUBACK
from tests.mqtt.test_resting import Client, serving_with_broker
from tests.mqtt.test_turns import HeldEngine


async def publish_retained(client: Client, topic: str, payload: bytes) -> None:
    client.send(Publish(topic, payload, 1, True, False, 1, None))
    assert await client.got() == [Ack(PUBACK, 1, 0, None)]


async def got_all(client: Client) -> list[Packet]:
    await trio.testing.wait_all_tasks_blocked()
    packets: list[Packet] = []
    client.reader.feed(client.connection.take_output(), packets)
    return packets


@pytest.mark.parametrize("config", [{}, {"mqtt.retain": "last"}])
async def test_what_is_published_meanwhile_comes_once_and_as_new(tmp_path: Path, config: dict[str, str]) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("kept", 1, config)
        publisher, subscriber = Client(server, "publisher"), Client(server, "subscriber")
        await publisher.connect(0)
        await subscriber.connect()
        for name in ("same", "changed", "deleted"):
            await publish_retained(publisher, f"kept/{name}", b"old")
        engine = HeldEngine(server.handler._log._engine)
        with patch.object(server.handler._log, "_engine", engine):
            subscriber.send(Subscribe(1, [SubscriptionRequest("kept/+", 1)]))
            await engine.until(1)
            await publish_retained(publisher, "kept/fresh", b"new")
            await publish_retained(publisher, "kept/changed", b"new")
            await publish_retained(publisher, "kept/deleted", b"")
            await engine.store()
        packets = await got_all(subscriber)
        assert [type(packet) for packet in packets].index(SubAck) == 3
        assert [(one.topic, one.payload, one.retain) for one in packets if isinstance(one, Publish)] == [
            ("kept/fresh", b"new", False),
            ("kept/changed", b"new", False),
            ("kept/deleted", b"", False),
            ("kept/same", b"old", True),
        ]
