"""Messages that come together are handled together: the same outcome as one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Packet, PubAckRun, Publish, PublishRun
from gateway.protocols.mqtt.codec.properties import PUBACK
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.message import plain_run
from gateway.protocols.mqtt.session import Session
from tests.mqtt.driver import connected, message, run

PUBLISHES = st.builds(
    lambda topic, size, qos, packet_id, retain, marked: Publish(
        topic, b"p" * size, qos, retain, False, packet_id if qos else 0, {props.CONTENT_TYPE: "x"} if marked else None
    ),
    st.sampled_from(["a", "a", "b/c"]),
    st.sampled_from([0, 1, 2, 120, 127, 128, 200, 16_500]),
    st.sampled_from([0, 1, 1, 2]),
    st.integers(1, 0xFFFF),
    st.sampled_from([False, False, True]),
    st.sampled_from([False, False, True]),
)
ACKS = st.builds(lambda packet_id, kind: Ack(kind, packet_id, 0, None), st.integers(1, 0xFFFF), st.sampled_from([4, 7]))


def apart(packets: list[Packet]) -> list[Packet]:
    found: list[Packet] = []
    for packet in packets:
        match packet:
            case PublishRun(topic, raw_topic, qos, payloads, packet_ids):
                assert raw_topic == topic.encode()
                ids = packet_ids or [0] * len(payloads)
                found += [
                    Publish(topic, payload, qos, False, False, packet_id, None)
                    for payload, packet_id in zip(payloads, ids, strict=True)
                ]
            case PubAckRun(packet_ids):
                found += [Ack(PUBACK, packet_id, 0, None) for packet_id in packet_ids]
            case _:
                found.append(packet)
    return found


@given(st.lists(st.one_of(PUBLISHES, ACKS), max_size=12), st.sampled_from((3, 4, 5)), st.integers(1, 40))
def test_a_joining_reader_reads_the_same_packets(talk: list[Packet], version: int, piece_bytes: int) -> None:
    if version < 5:
        talk = [one._replace(properties=None) if isinstance(one, Publish) else one for one in talk]
    data = b"".join([encode(packet, version) for packet in talk])
    for pieces in ([data], [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]):
        alone, joining = list[Packet](), list[Packet]()
        one, other = Reader(1 << 20, version), Reader(1 << 20, version, joining=True)
        for piece in pieces:
            one.feed(piece, alone)
            other.feed(piece, joining)
        assert apart(joining) == apart(alone) == apart(talk)


@pytest.mark.parametrize("version", [4, 5])
def test_a_run_is_one_event_and_its_acknowledgements_keep_their_order(version: int) -> None:
    driver = connected(version)
    wire = [Publish("t", b"%d" % one, 1, False, False, one, None) for one in (1, 2, 3)]
    driver.send(*wire, Publish("t", b"x", 2, False, False, 9, None), wire[0]._replace(packet_id=4))
    first, single, second = driver.outbox.take_events()
    assert isinstance(first, ev.RunReceived)
    assert isinstance(single, ev.PublishReceived)
    assert isinstance(second, ev.RunReceived)
    assert second.payloads == [b"1"]
    assert driver.connection.unacknowledged == 5
    driver.connection.run_done(second.ticket)
    assert driver.received() == []
    driver.connection.publish_done(single.ticket)
    assert driver.received() == []
    driver.connection.run_done(first.ticket)
    assert [packet.packet_id for packet in driver.received() if isinstance(packet, Ack)] == [1, 2, 3, 9, 4]
    assert driver.connection.unanswered == 0
    assert driver.connection.unacknowledged == 1  # QoS 2 until PUBCOMP


def test_a_refused_run_is_refused_message_by_message() -> None:
    driver = connected(5)
    driver.send(*[Publish("t", b"x", 1, False, False, one, None) for one in (1, 2)])
    (event,) = driver.outbox.take_events()
    assert isinstance(event, ev.RunReceived)
    driver.connection.publish_done(event.ticket, reasons.QUOTA_EXCEEDED, "full")
    refused = {props.REASON_STRING: "full"}
    assert driver.received() == [Ack(PUBACK, one, reasons.QUOTA_EXCEEDED, refused) for one in (1, 2)]
    driver = connected(4)
    driver.send(*[Publish("t", b"x", 1, False, False, one, None) for one in (1, 2)])
    (event,) = driver.outbox.take_events()
    assert isinstance(event, ev.RunReceived)
    driver.connection.publish_done(event.ticket, reasons.QUOTA_EXCEEDED)
    assert driver.connection.closed


def test_what_exceeds_the_receive_maximum_in_a_run_ends_the_connection() -> None:
    driver = connected(5, limits=Limits(receive_max=2))
    driver.send(*[Publish("t", b"x", 1, False, False, one, None) for one in (1, 2, 3)])
    assert driver.one().code == reasons.RECEIVE_MAXIMUM_EXCEEDED


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_plain_run_is_delivered_as_its_messages_are(version: int, granted: int, qos: int) -> None:
    payloads = [b"", b"a", b"b" * 130, b"c"]
    made = [message("t", payload, qos, partition=3, offset=7 + at) for at, payload in enumerate(payloads)]
    outcomes = []
    for one in (run(*made), plain_run(b"t", payloads, qos, 3, 7)):
        driver = connected(version, session=(session := Session("c", expiry_s=100)))
        if not driver.connection.deliver_plain(one, granted):
            assert driver.connection.deliver(one, 0, granted, 0.0) == len(payloads)
        outcomes.append((driver.received(), session.inflight))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[1][0]) == len(payloads)


def test_a_plain_run_waits_like_its_messages_when_the_window_is_too_small() -> None:
    driver = connected(4, limits=Limits(inflight_max=3))
    one = plain_run(b"t", [b"x"] * 2, 1, 0, 0)
    assert driver.connection.deliver_plain(one, 1)
    assert not driver.connection.deliver_plain(one, 1)
    assert driver.connection.deliver(one, 0, 1, 0.0) == 1
    first, second, third = driver.received()
    driver.send(*[Ack(PUBACK, packet.packet_id, 0, None) for packet in (first, second, third)])  # type: ignore[union-attr]
    assert driver.events() == [ev.WindowOpened(driver.connection)]
    session = driver.connection.session
    assert session is not None
    assert not session.inflight


def test_packet_ids_in_use_are_not_given_again() -> None:
    session = Session("c")
    assert session.take_packet_ids(3) == 1
    session.inflight = {5: None}  # type: ignore[dict-item]
    assert session.take_packet_ids(2) == 0
    assert [session.take_packet_id(), session.take_packet_id()] == [4, 6]
    session.next_packet_id = 65_535
    assert session.take_packet_ids(1) == 0
