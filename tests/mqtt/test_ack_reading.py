"""Acknowledgements that are left to gather: whose are, and that nothing else waits for them, nor is lost."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from gateway.protocols.mqtt.ack_reading import TOGETHER_MAX, WAIT_S
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    Disconnect,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.protocols.mqtt.message import Run
from gateway.protocols.mqtt.peers import Peer
from tests.mqtt.child import child_broker
from tests.mqtt.fake_broker import message_of
from tests.mqtt.served import Client, Served, serving
from tests.mqtt.wire import Wire

SHOWN = 9  # acknowledgements one by one, and it is believed that nothing else comes
FULL = 4 * TOGETHER_MAX  # the mark of who is fast, in bytes
UNMARKED = 1


def stopped() -> float:
    """A clock by which nobody is ever late."""
    return 100.0


def ack(packet_id: int) -> bytes:
    return encode(Ack(props.PUBACK, packet_id, 0, None), 5)


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await trio.lowlevel.checkpoint()


class Subscriber:
    """One at QoS 1 and the broker's side of it, with a publisher for it."""

    def __init__(self, client: Client, publisher: Client, served: Served) -> None:
        self.client = client
        self.publisher = publisher
        self.connection = served.broker.online["c"]
        assert isinstance(self.connection.transport, Peer)
        assert self.connection.session is not None
        self.peer = self.connection.transport
        self.session = self.connection.session

    @classmethod
    async def open(cls, served: Served, messages: int = 40, tls: bool = False, **properties: Any) -> Subscriber:
        client = await Client.open(served.tls if tls else served.tcp, tls=tls, **properties)
        await client.send(Subscribe(1, [SubscriptionRequest("t", 1)]))
        assert isinstance(await client.next(), SubAck)
        subscriber = cls(client, await Client.open(served.tcp, "publisher"), served)
        await subscriber.publish(messages)
        return subscriber

    async def publish(self, count: int) -> None:
        for _ in range(count):
            await self.publisher.send(Publish("t", b"x", 1, False, False, 1, None))
            assert isinstance(await self.publisher.next(), Ack)

    @property
    def unacknowledged(self) -> list[int]:
        """As far as the broker has read."""
        return list(self.session.inflight or ())

    async def acknowledge(self, count: int = 1) -> None:
        """The oldest ones, one by one, each when the one before was read."""
        for _ in range(count):
            left = self.unacknowledged
            await self.client.stream.send_all(ack(left[0]))
            await until(lambda left=left: self.unacknowledged == left[1:])  # type: ignore[misc]

    async def left_unread(self, data: bytes) -> None:
        """Sends what the broker is not to look at by itself."""
        there = self.unread
        await self.client.stream.send_all(data)
        await until(lambda: self.unread != there)
        await trio.testing.wait_all_tasks_blocked()
        assert self.unread == there + len(data)

    def cut(self, *, reset: bool) -> None:
        stream = self.client.stream
        assert isinstance(stream, trio.SocketStream)
        if reset:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    @property
    def unread(self) -> int:
        try:
            return len(self.peer.socket.recv(1_000, socket.MSG_PEEK))
        except BlockingIOError:
            return 0

    @property
    def mark(self) -> int:
        return self.peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    async def answer(self) -> Any:
        """The next packet that is no message."""
        while isinstance(packet := await self.client.next(), Publish):
            pass
        return packet


async def test_who_only_acknowledges_is_read_once_for_several() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        assert subscriber.mark == UNMARKED
        await subscriber.acknowledge(SHOWN)
        assert subscriber.mark == FULL
        for _ in range(2):
            *first, last = subscriber.unacknowledged[:TOGETHER_MAX]
            for packet_id in first:
                await subscriber.left_unread(ack(packet_id))
            await subscriber.client.stream.send_all(ack(last))
            await until(lambda last=last: last not in subscriber.unacknowledged)  # type: ignore[misc]
        assert len(subscriber.unacknowledged) == 40 - SHOWN - 2 * TOGETHER_MAX
        assert subscriber.mark == FULL


@pytest.mark.parametrize(("each_s", "mark"), [(0.01, FULL), (0.025, 3 * 4), (0.05, UNMARKED), (0.0, FULL)])
async def test_how_many_are_left_to_gather_depends_on_how_fast_they_come(each_s: float, mark: int) -> None:
    now = [100.0]
    async with serving(clock=lambda: now[0]) as served:
        subscriber = await Subscriber.open(served)
        for _ in range(SHOWN if mark > UNMARKED else 4 * SHOWN):
            await subscriber.acknowledge()
            now[0] += each_s
        assert subscriber.mark == mark


@pytest.mark.parametrize(("receive_max", "mark"), [(4 * TOGETHER_MAX, FULL), (4 * TOGETHER_MAX - 1, UNMARKED)])
async def test_who_takes_few_messages_at_a_time_is_read_for_every_packet(receive_max: int, mark: int) -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served, 25, properties={props.RECEIVE_MAXIMUM: receive_max})
        await subscriber.acknowledge(20 if mark == UNMARKED else SHOWN)
        assert subscriber.mark == mark


async def test_whom_more_messages_wait_for_is_read_for_every_packet() -> None:
    """It may want all it can have before it acknowledges the next."""
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served, 50, properties={props.RECEIVE_MAXIMUM: 40})
        for _ in range(2 * SHOWN):
            assert subscriber.connection.stalled
            await subscriber.acknowledge()
            await subscriber.publish(2)
        assert subscriber.mark == UNMARKED


async def test_who_was_left_to_gather_is_read_when_more_messages_wait_for_it() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served, properties={props.RECEIVE_MAXIMUM: 40})
        await subscriber.acknowledge(SHOWN)
        assert subscriber.mark == FULL
        last = subscriber.unacknowledged[:3]
        await subscriber.left_unread(b"".join(map(ack, last)))
        await subscriber.publish(SHOWN + 1)
        served.pump._ack_reading.look(stopped())
        assert subscriber.mark == UNMARKED
        await until(lambda: not subscriber.unread)
        assert not set(last) & set(subscriber.unacknowledged)


async def test_acknowledgements_inside_tls_are_read_as_they_come() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served, tls=True)
        await subscriber.acknowledge(4 * SHOWN)
        assert subscriber.mark == UNMARKED


async def test_what_is_longer_is_seen_at_once() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        await subscriber.client.send(Subscribe(2, [SubscriptionRequest("x" * FULL, 1)]))
        assert await subscriber.answer() == SubAck(2, [1])
        assert subscriber.mark == UNMARKED
        await subscriber.client.send(PingReq())
        assert await subscriber.answer() == PingResp()


async def test_who_sends_something_else_among_them_is_read_for_every_packet() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        left = subscriber.unacknowledged
        await subscriber.client.stream.send_all(encode(PingReq(), 5) * 2 + b"".join(map(ack, left[: TOGETHER_MAX - 1])))
        assert [await subscriber.answer(), await subscriber.answer()] == [PingResp(), PingResp()]
        assert subscriber.unacknowledged == left[TOGETHER_MAX - 1 :]
        assert subscriber.mark == UNMARKED
        await subscriber.acknowledge(SHOWN)
        assert subscriber.mark == FULL


async def test_the_rest_of_an_acknowledgement_that_came_in_part_is_seen_at_once() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        left = subscriber.unacknowledged
        data = b"".join(map(ack, left[: TOGETHER_MAX + 1]))
        await subscriber.client.stream.send_all(data[:-2])
        await until(lambda: subscriber.unacknowledged == left[TOGETHER_MAX:])
        assert subscriber.mark == UNMARKED
        await subscriber.client.stream.send_all(data[-2:])
        await until(lambda: subscriber.unacknowledged == left[TOGETHER_MAX + 1 :])


async def test_what_is_shorter_is_seen_when_no_more_came_in_time() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        await subscriber.left_unread(encode(PingReq(), 5))
        served.pump._ack_reading.look(stopped() + WAIT_S - 0.01)
        assert subscriber.mark == FULL
        served.pump._ack_reading.look(stopped() + WAIT_S + 0.01)
        assert subscriber.mark == UNMARKED
        assert await subscriber.answer() == PingResp()


async def test_who_goes_on_acknowledging_is_left_to_gather() -> None:
    now = [100.0]
    async with serving(clock=lambda: now[0]) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        now[0] += WAIT_S / 2
        left = subscriber.unacknowledged
        await subscriber.client.stream.send_all(b"".join(map(ack, left[:TOGETHER_MAX])))
        await until(lambda: subscriber.unacknowledged == left[TOGETHER_MAX:])
        served.pump._ack_reading.look(now[0] + WAIT_S - 0.01)
        assert subscriber.mark == FULL


async def test_the_pump_looks_itself_whenever_somebody_is_left_to_gather() -> None:
    now = [100.0]
    async with serving(clock=lambda: now[0]) as served:
        subscriber = await Subscriber.open(served)
        for _ in range(2):
            await subscriber.acknowledge(SHOWN)
            assert subscriber.mark == FULL
            await subscriber.left_unread(encode(PingReq(), 5))
            now[0] += WAIT_S + 0.01
            assert await subscriber.answer() == PingResp()
            assert subscriber.mark == UNMARKED
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("how", ["goodbye", "end", "reset"])
async def test_what_was_acknowledged_before_the_end_counts(how: str) -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        left = subscriber.unacknowledged
        await subscriber.left_unread(b"".join(map(ack, left[:3])))
        if how == "goodbye":
            await subscriber.client.send(Disconnect())
        subscriber.cut(reset=how == "reset")
        await until(lambda: bool(served.broker.closed))
        assert subscriber.unacknowledged == left[3:]
        assert not served.pump._ack_reading._gathering


async def test_what_was_acknowledged_counts_where_a_send_finds_the_connection_broken() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        left = subscriber.unacknowledged
        await subscriber.left_unread(b"".join(map(ack, left[:3])))
        subscriber.cut(reset=True)
        message = message_of(Publish("t", b"last", 1, False, False, 0, None))
        subscriber.connection.deliver(Run([message]), 0, 1, time.time())
        [added] = set(subscriber.unacknowledged) - set(left)
        served.pump.flush()
        assert [event.connection for event in served.broker.closed] == [subscriber.connection]
        assert subscriber.unacknowledged == [*left[3:], added]


async def test_what_was_acknowledged_before_a_stop_counts() -> None:
    async with serving(clock=stopped) as served:
        subscriber = await Subscriber.open(served)
        await subscriber.acknowledge(SHOWN)
        left = subscriber.unacknowledged
        await subscriber.left_unread(b"".join(map(ack, left[:3])))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.pump.drain, 5.0)
            assert isinstance(await subscriber.answer(), Disconnect)
            await subscriber.client.stream.aclose()
            await subscriber.publisher.stream.aclose()
        assert subscriber.unacknowledged == left[3:]


def test_what_was_acknowledged_before_a_stop_does_not_come_again(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        subscriber = Wire.connected(broker.mqtt, "keeper", version=4, clean=False)
        assert subscriber.subscribe("kept", 1) == [1]
        publisher = Wire.connected(broker.mqtt, version=4)
        for number in range(TOGETHER_MAX * 8 + SHOWN + 3):
            assert publisher.publish("kept", b"%d" % number).kind == props.PUBACK
            message = subscriber.next()
            assert message.payload == b"%d" % number
            subscriber.send(Ack(props.PUBACK, message.packet_id, 0, None))
        assert broker.stop() == 0
        subscriber.close()
        publisher.close()
        broker.start()
        publisher = Wire.connected(broker.mqtt, version=4)
        publisher.publish("kept", b"new")
        subscriber = Wire.connected(broker.mqtt, "keeper", version=4, clean=False)
        assert subscriber.connack.session_present
        assert subscriber.next().payload == b"new"
        subscriber.close()
        publisher.close()
