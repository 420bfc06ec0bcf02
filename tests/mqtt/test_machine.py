"""The machine against everything: every state and every packet, random talk whole and byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    Auth,
    ConnAck,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.replies import State
from gateway.protocols.mqtt.session import STORED, Session
from tests.mqtt.driver import Driver, connected, message, run

PACKETS: dict[str, Packet] = {
    "CONNACK": ConnAck(False, 0),
    "PUBLISH": Publish("t", b"x", 1, False, False, 1, None),
    "PUBACK": Ack(4, 1, 0, None),
    "PUBREC": Ack(5, 1, 0, None),
    "PUBREL": Ack(6, 1, 0, None),
    "PUBCOMP": Ack(7, 1, 0, None),
    "SUBSCRIBE": Subscribe(1, [SubscriptionRequest("t", 0)]),
    "SUBACK": SubAck(1, [0]),
    "UNSUBSCRIBE": Unsubscribe(1, ["t"]),
    "UNSUBACK": UnsubAck(1, [0]),
    "PINGREQ": PingReq(),
    "PINGRESP": PingResp(),
    "DISCONNECT": Disconnect(),
}
BY_SERVERS = {"CONNACK", "SUBACK", "UNSUBACK", "PINGRESP"}


def _packet(name: str, driver: Driver) -> Packet:
    if name == "CONNECT":
        return driver.packet()
    return Auth(0x19) if name == "AUTH" else PACKETS[name]


NAMES = pytest.mark.parametrize("name", ["CONNECT", *PACKETS])
V = pytest.mark.parametrize("version", [3, 4, 5])


@V
@NAMES
def test_await_connect_takes_connect_only(name: str, version: int) -> None:
    driver = Driver(version)
    driver.send(_packet(name, driver))
    assert driver.received() == []
    if name == "CONNECT":
        assert driver.connection.state is State.CONNECTING
    else:
        assert driver.closed().code >= 0x80


@V
@NAMES
def test_connecting_holds_everything(name: str, version: int) -> None:
    driver = Driver(version)
    driver.send(driver.packet())
    driver.events()
    driver.send(_packet(name, driver))
    assert driver.connection.state is State.CONNECTING
    assert driver.events() == []
    assert driver.received() == []


@V
@NAMES
def test_connected_handles_what_clients_send(name: str, version: int) -> None:
    driver = connected(version)
    driver.send(_packet(name, driver))
    if name in BY_SERVERS | {"CONNECT"}:
        assert driver.closed().code == reasons.PROTOCOL_ERROR
    elif name == "DISCONNECT":
        assert driver.closed().by_client
    else:
        assert driver.connection.state is State.CONNECTED


@V
@NAMES
def test_closed_ignores_everything(name: str, version: int) -> None:
    driver = connected(version)
    driver.connection.eof()
    driver.events()
    driver.send(_packet(name, driver))
    driver.connection.check_time(1e9)
    driver.connection.eof()
    driver.connection.disconnect(reasons.SERVER_BUSY)
    assert driver.events() == []
    assert driver.received() == []
    assert driver.connection.deliver(run(message()), 0, 0, 0.0) == 0


@V
@NAMES
def test_leaving_answers_what_came_before_and_ignores_everything(name: str, version: int) -> None:
    """As mosquitto: PUBACK, PUBREC and SUBACK of what stands before DISCONNECT go out before the connection ends."""
    driver = Driver(version)
    driver.connect(will=Will("w", b"", 0, False))
    driver.send(PACKETS["PUBLISH"], PACKETS["SUBSCRIBE"], Disconnect())
    publish, subscribe = driver.events()
    assert driver.connection.state is State.LEAVING
    assert not driver.connection.reading
    driver.send(_packet(name, driver))
    assert driver.connection.deliver(run(message()), 0, 0, 0.0) == 0
    assert driver.events() == []
    assert isinstance(subscribe, ev.SubscribeReceived)
    driver.connection.subscribe_done(subscribe.ticket, [0])
    assert driver.received() == []
    assert isinstance(publish, ev.PublishReceived)
    driver.connection.publish_done(publish.ticket)
    assert [type(packet) for packet in driver.received()] == [Ack, SubAck]
    closed = driver.closed()
    assert closed.by_client
    assert closed.will is None


@pytest.mark.parametrize("broken", [False, True])
def test_one_that_is_leaving_has_said_goodbye_whatever_ends_it(broken: bool) -> None:
    driver = Driver(5)
    driver.connect(will=Will("w", b"", 0, False), properties={props.SESSION_EXPIRY: 100})
    driver.publish(qos=2)
    driver.send(Disconnect(0, {props.SESSION_EXPIRY: 50}))
    (publish,) = driver.events()
    if broken:
        driver.connection.eof()
    else:
        driver.connection.disconnect(reasons.SESSION_TAKEN_OVER)
    closed = driver.closed()
    assert (closed.by_client, closed.code, closed.will, closed.session_expiry_s) == (True, 0, None, 50)
    assert driver.connection.unanswered == 1
    assert isinstance(publish, ev.PublishReceived)
    driver.connection.publish_done(publish.ticket)
    assert driver.connection.session is not None
    assert driver.connection.session.inbound == {1: STORED}
    assert driver.received() == []


def test_a_run_that_is_answered_lets_its_publisher_leave() -> None:
    driver = connected(4)
    driver.send(*(Publish("t", b"x", 1, False, False, number, None) for number in (1, 2, 3)), Disconnect())
    (event,) = driver.outbox.take_events()
    assert isinstance(event, ev.RunReceived)
    driver.connection.run_done(event.ticket)
    assert len(driver.received()) == 3
    assert driver.closed().by_client


def test_auth_closes_before_mqtt_5_and_without_a_method() -> None:
    driver = connected(4)
    driver.raw(b"\xf0\0")
    assert driver.closed().code == reasons.MALFORMED_PACKET
    driver = connected(5)
    driver.raw(b"\xf0\0")
    assert driver.closed().code == reasons.PROTOCOL_ERROR


SMALL = Limits(packet_bytes_max=200, connect_bytes_max=200, receive_max=4, topic_alias_max=2, inflight_max=3)
IDS = st.integers(1, 4)
TALK: st.SearchStrategy[Packet] = st.one_of(
    st.builds(
        Publish,
        st.sampled_from(["a", "b/c"]),
        st.binary(max_size=3),
        st.just(0),
        st.booleans(),
        st.just(False),
        st.just(0),
        st.none(),
    ),
    st.builds(Publish, st.just("a"), st.just(b"x"), st.integers(1, 2), st.booleans(), st.booleans(), IDS, st.none()),
    st.builds(Ack, st.integers(4, 7), IDS, st.just(0), st.none()),
    st.builds(Subscribe, IDS, st.just([SubscriptionRequest("a", 1)])),
    st.builds(Unsubscribe, IDS, st.just(["a"])),
    st.builds(PingReq),
    st.sampled_from([Disconnect(), PingResp()]),
)


def _answer(driver: Driver, event: ev.Event) -> None:
    match event:
        case ev.PublishReceived(connection, ticket) if ticket:
            connection.publish_done(ticket)
        case ev.ReleaseReceived(connection, ticket):
            connection.release_done(ticket)
        case ev.ReceiptReceived(connection, ticket):
            connection.receipt_done(ticket)
        case ev.SubscribeReceived(connection, ticket):
            connection.subscribe_done(ticket, [1])
        case ev.UnsubscribeReceived(connection, ticket):
            connection.unsubscribe_done(ticket, [0])
        case _:
            pass


@settings(max_examples=150)
@given(
    st.lists(TALK, max_size=12),
    st.binary(max_size=8),
    st.integers(3, 5),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_random_talk_ends_in_events_the_same_in_any_pieces(
    talk: list[Packet], noise: bytes, version: int, keeps: bool, random: object
) -> None:
    data = b"".join([encode(packet, version) for packet in talk]) + noise
    outcomes = []
    for bytewise in (False, True):
        session = Session("c", expiry_s=100 if keeps else 0)
        driver = connected(version, session=session, limits=SMALL)
        driver.connection.deliver(run(message(qos=1), message(qos=2)), 0, 2, 0.0)
        driver.connection.take_unstored()
        driver.connection.send_stored(9, 0.0)
        driver.raw(data, bytewise=bytewise)
        events = driver.events()
        for event in events:
            _answer(driver, event)
        events += driver.events()  # one that said goodbye is closed by the last answer
        assert sum(isinstance(event, ev.Closed) for event in events) == driver.connection.closed
        if not driver.connection.closed:
            assert driver.connection.unanswered == 0
        assert len(session.inflight or ()) <= 3
        outcomes.append(([type(event) for event in events], session.inbound, session.inflight))
    assert outcomes[0] == outcomes[1]


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 5))
def test_any_bytes_end_in_events_or_a_closed_connection(data: bytes, version: int) -> None:
    driver = Driver(5, SMALL) if version < 3 else connected(version, limits=SMALL)
    driver.raw(data)
    driver.received()


@given(st.integers(3, 5), st.data())
def test_a_damaged_connect_never_breaks_the_machine(version: int, data: st.DataObject) -> None:
    driver = Driver(version)
    raw = bytearray(encode(driver.packet(username="u", password=b"p", client_id="abc"), version))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    driver.raw(bytes(raw))
    for event in driver.events():
        if isinstance(event, ev.ConnectReceived):
            event.connection.accept(Session("c"), 0.0)
    driver.connection.take_output()
