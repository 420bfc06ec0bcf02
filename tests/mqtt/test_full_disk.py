"""What a client is refused because nothing can be stored has not happened, also when there is room again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from core.store.engine import Appended, Entry, Outcome
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    Publish,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
)
from gateway.protocols.mqtt.server import MqttServer
from tests.mqtt.test_resting import Client, serving
from tests.patience import PATIENCE_S


@asynccontextmanager
async def full(server: MqttServer) -> AsyncIterator[None]:
    """Nothing is under way, as answers come in the order of the appends, and these at once."""
    log = server.handler._log
    with trio.fail_after(PATIENCE_S):
        while log._under_way:
            await trio.lowlevel.checkpoint()

    def append(entries: Sequence[Entry], done: Callable[[list[Appended]], object]) -> None:
        done([Appended(Outcome.FULL)] * len(entries))

    with patch.object(log._engine, "append", append):
        yield


async def refused(server: MqttServer, expiry_s: int) -> None:
    client = Client(server, "device")
    async with full(server):
        client.send(Connect(5, "device", False, 0, properties={props.SESSION_EXPIRY: expiry_s}))
        (answer,) = await client.got()
    assert isinstance(answer, ConnAck)
    assert answer.code == reasons.QUOTA_EXCEEDED


async def test_a_new_session_that_cannot_be_stored_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await refused(server, 1000)
        assert len(server.handler.sessions) == 0
        await Client(server, "device").connect()
    async with serving(tmp_path) as server:
        await Client(server, "device").connect(present=True)


async def test_an_expiry_that_cannot_be_stored_is_stored_with_the_next_connect(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        first = Client(server, "device")
        await first.connect(1000)
        first.leave()
        await refused(server, 2000)
        await Client(server, "device").connect(2000, present=True)
    async with serving(tmp_path, killed=True) as server:
        device = server.handler.sessions.find("device")
        assert device is not None
        assert device.session.expiry_s == 2000


async def test_a_session_that_ended_on_a_full_disk_does_not_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        first = Client(server, "device")
        await first.connect(1000)
        first.leave()
        async with full(server):
            server.handler.sweep(time.time() + 1001)
        assert len(server.handler.sessions) == 0
    async with serving(tmp_path) as server:
        await Client(server, "device").connect(present=False)


@pytest.mark.parametrize(
    "packet",
    [
        Ack(props.PUBREL, 7, 0, None),
        Subscribe(1, [SubscriptionRequest("a/+", 1)]),
        Unsubscribe(1, ["f/+"]),
        Ack(props.PUBREC, 1, 0, None),
    ],
    ids=lambda packet: str(packet)[:20],
)
async def test_who_is_cut_because_its_packet_cannot_be_stored_may_come_back(tmp_path: Path, packet: Packet) -> None:
    async with serving(tmp_path) as server:
        client = Client(server, "device")
        await client.connect(1000)
        client.send(Subscribe(1, [SubscriptionRequest("f/+", 2)]))
        await client.got()
        client.send(Publish("f/1", b"x", 2, False, False, 7, None))
        got: list[Packet] = []
        while len(got) < 2:  # PUBREC, and the message
            got += await client.got()
        async with full(server):
            client.send(packet)
            (answer,) = await client.got()
        assert isinstance(answer, Disconnect)
        assert answer.code == reasons.QUOTA_EXCEEDED
        client.leave()
        await Client(server, "device").connect(1000, present=True)
