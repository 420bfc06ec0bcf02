"""A SUBSCRIBE waits for all that its client published before it, however many appends that takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import trio
import trio.testing

from core.store.engine import Appended, Engine, Entry, Outcome
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Packet, Publish, SubAck, Subscribe, SubscriptionRequest
from gateway.protocols.mqtt.server import MqttServer
from tests.mqtt.test_resting import Client, serving_with_broker
from tests.patience import PATIENCE_S

SUBSCRIBE = Subscribe(9, [SubscriptionRequest("seen/#", 1)])


class HeldEngine:
    """Takes the publisher's appends, each of which goes to the engine, or is refused, when the test says so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: deque[tuple[Sequence[Entry], Callable[[list[Appended]], object]]] = deque()

    def append(self, entries: Sequence[Entry], done: Callable[[list[Appended]], object]) -> None:
        self._held.append((entries, done))

    def write_now(self) -> None:
        pass

    async def until(self, count: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self._held) < count:
                await trio.lowlevel.checkpoint()
        assert len(self._held) == count

    async def store(self) -> None:
        entries, done = self._held.popleft()
        stored = trio.Event()

        def answered(answers: list[Appended]) -> None:
            done(answers)
            stored.set()

        self._engine.append(entries, answered)
        await stored.wait()

    def refuse(self, outcome: Outcome) -> None:
        entries, done = self._held.popleft()
        done([Appended(outcome)] * len(entries))


@contextmanager
def held(server: MqttServer) -> Iterator[HeldEngine]:
    before = server.publisher._engine
    engine = HeldEngine(before)
    server.publisher._engine = cast(Engine, engine)
    try:
        yield engine
    finally:
        server.publisher._engine = before


def publish(packet_id: int, topic: str, once_id: str = "") -> Publish:
    properties = {props.USER_PROPERTY: [("once-id", once_id)]} if once_id else None
    return Publish(topic, b"x", 1, False, False, packet_id, properties)


def send(client: Client, *packets: Packet) -> None:
    client.connection.receive(b"".join(encode(packet, 5) for packet in packets), 0.0)
    client.server.pump.flush()


def received(client: Client) -> list[int]:
    """The packet ids of the acknowledgements since the last call, 9 for the SUBACK."""
    client.server.pump.flush()
    packets: list[Packet] = []
    client.reader.feed(client.connection.take_output(), packets)
    assert all(isinstance(packet, Ack | SubAck) for packet in packets)
    return [packet.packet_id for packet in packets if isinstance(packet, Ack | SubAck)]


def subscribed(client: Client) -> bool:
    """Whether the subscription is made: its answer would wait for those of what came before it anyhow."""
    return bool(client.server.handler.sessions.devices[client.client_id].session.subscriptions)


async def test_a_turn_of_several_appends_is_stored_with_the_last_of_them(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("counts", 1, {"once.window.ms": "3600000"})
        client = Client(server, "device")
        await client.connect(0)
        with held(server) as engine:
            send(client, publish(1, "counts/a"), publish(2, "counts/a", "7"))
            await engine.until(2)
            await engine.store()
            assert received(client) == [1]
            send(client, SUBSCRIBE)
            assert not subscribed(client)
            await engine.store()
            assert received(client) == [2, 9]


async def test_what_is_published_again_as_anothers_topic_was_deleted_is_waited_for(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("plain", 1)
        client = Client(server, "device")
        await client.connect(0)
        with held(server) as engine:
            send(client, publish(1, "plain/a"), SUBSCRIBE)
            await engine.until(1)
            engine.refuse(Outcome.NOT_APPENDED)
            await engine.until(1)
            assert not subscribed(client)
            await engine.store()
            assert received(client) == [1, 9]


async def test_what_waits_for_its_topic_is_waited_for_until_it_is_stored(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("plain", 1)
        client = Client(server, "device")
        await client.connect(0)
        with held(server) as engine:
            send(client, publish(1, "plain/a"), publish(2, "new/a"))
            await engine.until(2)
            await engine.store()
            assert received(client) == [1]
            send(client, SUBSCRIBE)
            assert not subscribed(client)
            await engine.store()
            assert received(client) == [2, 9]


async def test_several_that_wait_in_one_piece_go_one_after_the_other(tmp_path: Path) -> None:
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("plain", 1)
        client = Client(server, "device")
        await client.connect(0)
        with held(server) as engine:
            subscribe = [Subscribe(packet_id, [SubscriptionRequest("seen/#", 1)]) for packet_id in (2, 4, 5)]
            send(
                client,
                publish(1, "plain/a"),
                subscribe[0],
                publish(3, "plain/a"),
                *subscribe[1:],
                publish(6, "plain/a"),
            )
            kept = server.handler._kept[client.connection]
            for answered in ([1, 2], [3, 4, 5], [6]):
                # What is left is not gone through again: with thousands in one piece that would cost their square.
                assert answered == [6] or server.handler._kept[client.connection] is kept
                await engine.until(1)  # what is published behind a SUBSCRIBE that waits, waits with it
                await engine.store()
                assert received(client) == answered
        assert not client.connection.kept_waiting


async def test_a_subscribe_whose_turn_is_stored_after_the_servers_end_is_still_served(tmp_path: Path) -> None:
    """The store answers until its own end, and what waits for it looks into the table of retained messages."""
    async with serving_with_broker(tmp_path) as (broker, server):
        await broker.topics.create("seen", 1)
        client = Client(server, "device")
        await client.connect(0)
        with held(server) as engine:
            send(client, Publish("seen/r", b"kept", 1, False, True, 1, None))
            await engine.until(1)
            await engine.store()
            assert received(client) == [1]
            send(client, publish(2, "seen/a"), SUBSCRIBE)
            await engine.until(1)
            server.stop()
            await trio.testing.wait_all_tasks_blocked()
            await engine.store()
            assert subscribed(client)
