"""The pump over real sockets: turns, slow readers, time, TLS, WebSocket, drain; and paho as a client."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import pytest
import trio
import trio.testing
from paho.mqtt.enums import CallbackAPIVersion
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, Request, TextMessage

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.accepting import STORM_ACCEPTS
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.protocols.mqtt.half_received import HalfReceived
from gateway.protocols.mqtt.limits import Limits
from tests.mqtt.served import OPENED, Client, client_tls, dial, serving
from tests.patience import PATIENCE_S

clause = pytest.mark.clause


@pytest.mark.parametrize("tls", [False, True])
@clause("MQTT-4.2.0-1", v=5)
@clause("MQTT-4.2.0-1", v=4)
async def test_mqtt_4_2_0_1_messages_travel_between_clients(tls: bool) -> None:
    async with serving() as served:
        port = served.tls if tls else served.tcp
        subscriber = await Client.open(port, "s", tls=tls)
        await subscriber.send(Subscribe(1, [SubscriptionRequest("a/+", 2)]))
        assert await subscriber.next() == SubAck(1, [2])
        publisher = await Client.open(port, "p", 4, tls=tls)
        big = b"x" * 300_000
        await publisher.send(
            Publish("a/b", b"0", 0, False, False, 0, None),
            Publish("a/b", big, 1, False, False, 1, None),
            Publish("a/b", b"2", 2, False, False, 2, None),
        )
        assert [await publisher.next(), await publisher.next()] == [Ack(4, 1, 0, None), Ack(5, 2, 0, None)]
        got = [await subscriber.next() for _ in range(3)]
        assert [(one.qos, one.payload) for one in got] == [(0, b"0"), (1, big), (2, b"2")]


async def test_a_reader_that_stops_costs_nobody_else_and_loses_qos_0_only() -> None:
    async with serving(Limits(output_bytes_max=50_000)) as served:
        stuck = await Client.open(served.tcp, "stuck")
        await stuck.send(Subscribe(1, [SubscriptionRequest("t", 0)]))
        await stuck.next()
        live = await Client.open(served.tcp, "live")
        await live.send(Subscribe(1, [SubscriptionRequest("t", 1)]))
        await live.next()
        connection = served.broker.online["stuck"]
        sent = 0
        while not connection.outbox.dropped:
            sent += 1
            await live.send(Publish("t", b"x" * 40_000, 1, False, False, 1, None))
            assert {type(await live.next()), type(await live.next())} == {Publish, Ack}
            await live.send(Ack(4, sent, 0, None))
        assert connection.output_bytes <= 100_000
        await stuck.send(PingReq())
        while not isinstance(await stuck.next(), PingResp):
            pass


async def test_time_closes_silent_connections_of_both_kinds() -> None:
    now = [100.0]
    async with serving(Limits(connect_timeout_s=5), clock=lambda: now[0]) as served:
        half_open = await dial(served.tcp)
        await half_open.send_all(b"\x10")
        client = await Client.open(served.tcp)
        idle = Client(await dial(served.tcp))
        await idle.send(Connect(5, "idle", True, 4))
        assert isinstance(await idle.next(), ConnAck)
        while served.pump.statistics()["connections"] < 3:
            await trio.lowlevel.checkpoint()
        now[0] = 107.5
        served.pump._sweep(now[0])
        assert await half_open.receive_some() == b""
        farewell = await idle.next()
        assert isinstance(farewell, Disconnect)
        assert farewell.code == reasons.KEEP_ALIVE_TIMEOUT
        await client.send(PingReq())
        assert await client.next() == PingResp()


@clause("MQTT-3.1.2-22", v=5)
@clause("MQTT-3.1.2-24", v=4)
async def test_a_keep_alive_shorter_than_the_time_for_connect_ends_in_its_own_time() -> None:
    now = [100.0]
    async with serving(Limits(connect_timeout_s=10), clock=lambda: now[0]) as served:
        idle = Client(await dial(served.tcp))
        await idle.send(Connect(5, "idle", True, 2))
        assert isinstance(await idle.next(), ConnAck)
        now[0] = 104.0
        served.pump._sweep(now[0])
        farewell = await idle.next()
        assert isinstance(farewell, Disconnect)
        assert farewell.code == reasons.KEEP_ALIVE_TIMEOUT


async def test_take_over_and_drain_say_why() -> None:
    async with serving() as served:
        old = await Client.open(served.tcp, "same")
        new = await Client.open(served.tcp, "same")
        gone = await old.next()
        assert gone.code == reasons.SESSION_TAKEN_OVER
        assert await old.next() is None
        await old.stream.aclose()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.pump.drain, 5.0)
            gone = await new.next()
            assert gone.code == reasons.SERVER_SHUTTING_DOWN
            assert await new.next() is None
            await new.stream.aclose()
        assert served.pump.statistics()["connections"] == 0
        with pytest.raises(OSError, match="connect"):
            await Client.open(served.tcp)


async def test_a_fault_in_one_machine_ends_that_connection_alone() -> None:
    async with serving() as served:
        one, other = await Client.open(served.tcp, "one"), await Client.open(served.tcp, "other")
        served.broker.online["one"].session = None  # as no connected client's may be
        await one.send(Ack(props.PUBACK, 1, 0, None))
        assert await one.next() is None
        await other.send(PingReq())
        assert await other.next() == PingResp()


async def test_too_many_connections_are_closed_at_once() -> None:
    async with serving() as served:
        served.pump.accepting.connections_max = 1
        first = await Client.open(served.tcp)
        second = await dial(served.tcp)
        assert await second.receive_some() == b""
        await first.send(PingReq())
        assert await first.next() == PingResp()


@pytest.mark.parametrize("last", [b"", encode(PingReq(), 5), encode(Disconnect(), 5)])
async def test_who_leaves_and_comes_back_at_once_has_its_place(last: bytes) -> None:
    """Though the listener's news may be read first, and the end of a connection behind what it still sent."""
    async with serving() as served:
        served.pump.accepting.connections_max = 1
        await Client.open(served.tcp)
        await trio.testing.wait_all_tasks_blocked()
        old = OPENED[-1].socket
        os.write(old.fileno(), last)
        old.shutdown(socket.SHUT_WR)
        with socket.create_connection(("127.0.0.1", served.tcp)) as back:
            listener = served.listeners[0].socket.fileno()
            [fd] = served.pump._peers
            for _ in range(2):
                served.pump._turn([(listener, select.EPOLLIN), (fd, select.EPOLLIN | select.EPOLLRDHUP)])
            assert (served.pump.accepting.accepted, served.pump.accepting.refused) == (2, 0)
            [peer] = served.pump._peers.values()
            assert peer.socket.getpeername() == back.getsockname()


async def test_in_a_storm_each_turn_begins_with_accepting() -> None:
    """Whatever else is ready: the system drops whom it cannot keep, and they try again after a second or more."""
    async with serving() as served:
        await trio.testing.wait_all_tasks_blocked()
        pump, listener = served.pump, served.listeners[0].socket
        clients: list[socket.socket] = []

        def come(count: int) -> None:
            clients.extend(socket.create_connection(("127.0.0.1", served.tcp)) for _ in range(count))

        come(STORM_ACCEPTS + 1)
        pump._turn([(listener.fileno(), select.EPOLLIN)])
        come(5)
        pump._turn([])
        assert pump.accepting.accepted == STORM_ACCEPTS + 6
        come(1)
        pump._turn([])  # it is over
        assert pump.accepting.accepted == STORM_ACCEPTS + 6
        for client in clients:
            client.close()


async def test_what_is_half_received_is_bounded_over_all_connections() -> None:
    async with serving() as served:
        served.pump._half_received = HalfReceived(3000)
        small, great, last = [await Client.open(served.tcp, name) for name in ("small", "great", "last")]
        packet = encode(Publish("t", b"x" * 5000, 0, False, False, 0, None), 5)
        await small.stream.send_all(packet[:500])
        await great.stream.send_all(packet[:2000])
        while served.pump._half_received.bytes < 2500:
            await trio.lowlevel.checkpoint()
        await last.stream.send_all(packet[:1500])
        assert (await great.next()).code == reasons.QUOTA_EXCEEDED
        await last.stream.send_all(packet[1500:])
        await last.send(PingReq())
        assert await last.next() == PingResp()
        assert served.pump._half_received.bytes == 500
        await small.stream.aclose()
        while served.pump._half_received.bytes:
            await trio.lowlevel.checkpoint()


async def test_who_sends_everything_at_once_and_leaves_is_still_answered() -> None:
    async with serving() as served:
        client = Client(await dial(served.tcp))
        await client.send(Connect(5, "c", True, 0), PingReq(), Disconnect())
        assert isinstance(await client.next(), ConnAck)
        assert await client.next() == PingResp()
        assert await client.next() is None


async def test_closed_connections_leave_nothing_behind() -> None:
    async with serving() as served:
        for _ in range(5):
            client = await Client.open(served.tcp)
            await client.send(Disconnect())
            assert await client.next() is None
            await client.stream.aclose()
        while len(served.broker.closed) < 5:
            await trio.lowlevel.checkpoint()
        assert all(event.connection.transport is None for event in served.broker.closed)
        assert served.pump.statistics()["connections"] == 0


async def _websocket(
    port: int, path: str = "/mqtt", subprotocols: tuple[str, ...] = ("mqtt",)
) -> tuple[trio.SocketStream, WSConnection, list[Any]]:
    stream = await dial(port)
    ws = WSConnection(ConnectionType.CLIENT)
    await stream.send_all(ws.send(Request(host="localhost", target=path, subprotocols=list(subprotocols))))
    return stream, ws, []


async def _ws_next(stream: trio.SocketStream, ws: WSConnection, seen: list[Any]) -> Any:
    while not seen:
        data = await stream.receive_some(65_536)
        ws.receive_data(data or None)
        seen.extend(ws.events())
    return seen.pop(0)


@clause("MQTT-6.0.0-2", "MQTT-6.0.0-3", "MQTT-6.0.0-4", v=5)
@clause("MQTT-6.0.0-2", "MQTT-6.0.0-3", "MQTT-6.0.0-4", v=4)
async def test_mqtt_6_0_0_2_packets_and_frames_need_not_agree() -> None:
    async with serving() as served:
        stream, ws, seen = await _websocket(served.ws, subprotocols=("other", "mqtt"))
        accepted = await _ws_next(stream, ws, seen)
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "mqtt"
        data = encode(Connect(4, "w", True, 0), 4) + encode(PingReq(), 4)
        for piece in (data[:3], data[3:9], data[9:]):
            await stream.send_all(ws.send(BytesMessage(data=piece)))
        got = b""
        while len(got) < 6:
            got += (await _ws_next(stream, ws, seen)).data
        assert got == b"\x20\x02\0\0\xd0\0"


@clause("MQTT-6.0.0-1", v=5)
@clause("MQTT-6.0.0-1", v=4)
async def test_mqtt_6_0_0_1_text_frames_close() -> None:
    async with serving() as served:
        stream, ws, seen = await _websocket(served.ws)
        assert isinstance(await _ws_next(stream, ws, seen), AcceptConnection)
        await stream.send_all(ws.send(TextMessage(data="hello")))
        closed = await _ws_next(stream, ws, seen)
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1003


@pytest.mark.parametrize(("path", "subprotocols", "status"), [("/other", ("mqtt",), 404), ("/mqtt", ("x",), 400)])
async def test_other_paths_and_subprotocols_are_rejected(path: str, subprotocols: tuple[str, ...], status: int) -> None:
    async with serving() as served:
        stream, ws, seen = await _websocket(served.ws, path, subprotocols)
        rejected = await _ws_next(stream, ws, seen)
        assert isinstance(rejected, RejectConnection)
        assert rejected.status_code == status


@pytest.mark.parametrize("road", ["tcp", "tls", "ws", "wss"])
@pytest.mark.parametrize("version", [paho.MQTTv31, paho.MQTTv311, paho.MQTTv5])
async def test_paho_speaks_to_us_on_every_road(road: str, version: int) -> None:
    async with serving() as served:
        port = getattr(served, road)
        await trio.to_thread.run_sync(_paho_round, road, port, version)


def _paho_round(road: str, port: int, version: int) -> None:
    transport: Any = "websockets" if road.startswith("ws") else "tcp"
    client = paho.Client(CallbackAPIVersion.VERSION2, f"paho-{road}", protocol=version, transport=transport)  # type: ignore[arg-type]
    if road in ("tls", "wss"):
        client.tls_set_context(client_tls())
    got: list[tuple[str, bytes, int]] = []
    subscribed: list[int] = []
    client.on_message = lambda _client, _data, one: got.append((one.topic, bytes(one.payload), one.qos))
    client.on_subscribe = lambda _client, _data, mid, codes, properties: subscribed.append(mid)
    client.connect("localhost", port)
    client.loop_start()
    try:
        client.subscribe("road/#", 2)
        _until(lambda: bool(subscribed))
        for qos in (0, 1, 2):
            client.publish("road/x", b"%d" % qos, qos).wait_for_publish(PATIENCE_S)
        _until(lambda: len(got) == 3)
        assert sorted(got) == [("road/x", b"%d" % qos, qos) for qos in (0, 1, 2)]
    finally:
        client.disconnect()
        client.loop_stop()


def _until(done: Callable[[], bool]) -> None:
    """Wait for paho's own thread."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        if done():
            return
        pause.wait(0.01)
    raise AssertionError("not in time")


async def test_who_is_above_its_rate_waits_and_others_do_not() -> None:
    now = [100.0]
    async with serving(Limits(publishes_per_s_max=1), clock=lambda: now[0]) as served:
        loud, other = await Client.open(served.tcp, "loud"), await Client.open(served.tcp, "other")
        for number in range(1, 5):
            await loud.send(Publish("t", b"x", 1, False, False, number, None))
            assert (await loud.next()).packet_id == number
            if number == 3:
                assert not served.broker.online["loud"].reading
                break
        await loud.send(Publish("t", b"x", 1, False, False, 4, None))
        await other.send(PingReq())
        assert await other.next() == PingResp()
        now[0] = 103.0
        served.pump._sweep(now[0])
        assert (await loud.next()).packet_id == 4
