"""Messages in both directions at the three qualities: order, flow control, aliases, expiry, redelivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
)
from gateway.protocols.mqtt.codec.properties import encode_property
from gateway.protocols.mqtt.errors import LocalProtocolError
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.message import Message
from gateway.protocols.mqtt.outbound import Handed
from gateway.protocols.mqtt.session import QOS1_SENT, QOS2_RELEASED, QOS2_SENT, STORED, Delivery, Session
from tests.mqtt.driver import Driver, connected, message, run

clause = pytest.mark.clause
V = pytest.mark.parametrize("version", [3, 4, 5])
PUBACK, PUBREC, PUBREL, PUBCOMP = 4, 5, 6, 7


def durable() -> Session:
    return Session("c", expiry_s=100)


# -- from the client -----------------------------------------------------------------------------------------------


@V
@clause("MQTT-3.3.4-1", "MQTT-4.3.2-2", "MQTT-2.3.1-6", v=4)
@clause("MQTT-3.3.4-1", "MQTT-4.3.2-4", "MQTT-2.2.1-5", v=5)
def test_mqtt_3_3_4_1_each_quality_has_its_answer(version: int) -> None:
    driver = connected(version)
    driver.publish(qos=0)
    assert driver.event().ticket == 0
    for qos, kind in ((1, PUBACK), (2, PUBREC)):
        driver.publish(qos=qos, packet_id=40 + qos)
        event = driver.event()
        assert driver.received() == []  # nothing before the core owns the message
        driver.connection.publish_done(event.ticket)
        assert driver.one() == Ack(kind, 40 + qos, 0, None)


@clause("MQTT-3.4.2-1", "MQTT-3.5.2-1", v=5)
def test_mqtt_3_4_2_1_a_stored_message_is_acknowledged_with_0_only() -> None:
    driver = connected()
    driver.publish(qos=1)
    with pytest.raises(LocalProtocolError):
        driver.connection.publish_done(driver.event().ticket, reasons.NO_MATCHING_SUBSCRIBERS)


@given(st.permutations(range(6)), st.sampled_from((4, 5)))
def test_replies_keep_the_order_of_the_packets_whatever_the_order_of_the_answers(
    order: list[int], version: int
) -> None:
    driver = connected(version)
    for index in range(6):
        driver.publish(qos=1 + index % 2, packet_id=index + 1)
    tickets = [event.ticket for event in driver.events() if isinstance(event, ev.PublishReceived)]
    for index in order:
        driver.connection.publish_done(tickets[index])
    assert [packet.packet_id for packet in driver.received() if isinstance(packet, Ack)] == [1, 2, 3, 4, 5, 6]


@V
def test_a_run_of_publishes_is_answered_at_once(version: int) -> None:
    driver = connected(version)
    for index in range(5):
        driver.publish(qos=1 + (index == 2), packet_id=index + 1)
    tickets = [event.ticket for event in driver.events() if isinstance(event, ev.PublishReceived)]
    driver.connection.publishes_done(tickets[0], tickets[-1])
    assert [packet.packet_id for packet in driver.received() if isinstance(packet, Ack)] == [1, 2, 3, 4, 5]
    assert driver.connection.unanswered == 0
    assert driver.connection.unacknowledged == 1


@V
@clause("MQTT-4.3.2-2", v=4)
@clause("MQTT-4.3.2-5", v=5)
def test_mqtt_4_3_2_5_after_puback_the_packet_id_is_new(version: int) -> None:
    driver = connected(version)
    for _ in range(2):
        driver.publish(qos=1, packet_id=3, dup=True)
        driver.connection.publish_done(driver.event().ticket)
        assert driver.one() == Ack(PUBACK, 3, 0, None)


@V
@pytest.mark.parametrize("keeps", [False, True])
@clause("MQTT-4.3.3-2", v=4)
@clause("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12", v=5)
def test_mqtt_4_3_3_10_a_repeated_publish_is_answered_but_not_reported_until_pubrel(version: int, keeps: bool) -> None:
    session = durable() if keeps else Session("c")
    driver = connected(version, session=session)
    driver.publish(qos=2, packet_id=9)
    driver.connection.publish_done(driver.event().ticket)
    assert driver.one() == Ack(PUBREC, 9, 0, None)
    driver.publish(qos=2, packet_id=9, dup=True)
    assert driver.events() == []
    assert driver.one() == Ack(PUBREC, 9, 0, None)
    driver.send(Ack(PUBREL, 9, 0, None))
    if keeps:
        assert driver.received() == []  # the release is durable before PUBCOMP
        event = driver.event()
        assert isinstance(event, ev.ReleaseReceived)
        driver.connection.release_done(event.ticket)
    assert driver.one() == Ack(PUBCOMP, 9, 0, None)
    assert not session.inbound
    driver.publish(qos=2, packet_id=9)
    assert isinstance(driver.event(), ev.PublishReceived)


@V
def test_a_repetition_waits_for_the_first_publish_to_be_stored(version: int) -> None:
    driver = connected(version)
    driver.publish(qos=2, packet_id=9)
    ticket = driver.event().ticket
    driver.publish(qos=2, packet_id=9, dup=True)
    assert driver.events() == []
    assert driver.received() == []
    driver.connection.publish_done(ticket)
    assert driver.received() == [Ack(PUBREC, 9, 0, None)] * 2


@V
def test_qos_2_state_survives_the_connection(version: int) -> None:
    session = durable()
    driver = connected(version, session=session)
    driver.publish(qos=2, packet_id=9)
    ticket = driver.event().ticket
    driver.connection.eof()
    assert driver.connection.unanswered == 1
    driver.connection.publish_done(ticket)  # the answer comes after the end
    assert driver.connection.unanswered == 0
    assert session.inbound == {9: STORED}
    driver = connected(version, session=session)
    driver.publish(qos=2, packet_id=9, dup=True)
    assert driver.events() == []
    assert driver.one() == Ack(PUBREC, 9, 0, None)


@clause("MQTT-4.3.3-9", v=5)
def test_mqtt_4_3_3_9_a_refused_qos_2_packet_id_is_free() -> None:
    driver = connected()
    driver.publish(qos=2, packet_id=9)
    driver.connection.publish_done(driver.event().ticket, reasons.QUOTA_EXCEEDED, "full")
    assert driver.one() == Ack(PUBREC, 9, 0x97, {props.REASON_STRING: "full"})
    driver.publish(qos=2, packet_id=9)
    assert isinstance(driver.event(), ev.PublishReceived)


@clause("MQTT-3.3.5-2", "MQTT-4.8.0-2", v=4)
def test_mqtt_3_3_5_2_mqtt_3_cannot_be_told_a_refusal() -> None:
    driver = connected(4)
    for qos, kind in ((1, PUBACK), (2, PUBREC)):
        driver.publish(qos=qos, packet_id=qos)
        driver.connection.publish_done(driver.event().ticket, reasons.NOT_AUTHORIZED)
        assert driver.one() == Ack(kind, qos, 0, None)
    driver.publish(qos=1, packet_id=7)
    driver.connection.publish_done(driver.event().ticket, reasons.QUOTA_EXCEEDED)
    assert driver.received() == []
    driver.closed()


@clause("MQTT-3.1.2-29", "MQTT-3.4.2-2", "MQTT-3.5.2-2", "MQTT-3.9.2-1", "MQTT-3.11.2-1", v=5)
def test_mqtt_3_1_2_29_reasons_only_for_clients_that_want_and_can_take_them() -> None:
    for properties in ({props.REQUEST_PROBLEM_INFORMATION: 0}, {props.MAXIMUM_PACKET_SIZE: 16}):
        driver = connected(5, properties=properties)
        driver.publish(qos=1)
        driver.connection.publish_done(driver.event().ticket, reasons.NOT_AUTHORIZED, "you may not do this")
        assert driver.one() == Ack(PUBACK, 1, 0x87, None)
        driver.publish(qos=2)
        driver.connection.publish_done(driver.event().ticket, reasons.NOT_AUTHORIZED, "you may not do this")
        assert driver.one() == Ack(PUBREC, 1, 0x87, None)
        driver.subscribe()
        driver.connection.subscribe_done(driver.event().ticket, [0x87], "you may not do this")
        assert driver.one() == SubAck(7, [0x87])
        driver.send(Unsubscribe(8, ["t"]))
        driver.connection.unsubscribe_done(driver.event().ticket, [0x87], "you may not do this")
        assert driver.one() == UnsubAck(8, [0x87])


@clause("MQTT-3.4.2-3", "MQTT-3.5.2-3", "MQTT-3.9.2-2", "MQTT-3.11.2-2", "MQTT-3.14.2-4", v=5)
@clause("MQTT-3.6.2-1", "MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-1", "MQTT-3.7.2-2", "MQTT-3.7.2-3", v=5)
def test_mqtt_3_4_2_3_replies_hold_no_user_properties_and_pubrel_and_pubcomp_none_at_all() -> None:
    driver = connected(5, session=durable())
    driver.publish(qos=1, packet_id=1)
    driver.connection.publish_done(driver.event().ticket, reasons.QUOTA_EXCEEDED, "full")
    driver.publish(qos=2, packet_id=2)
    driver.connection.publish_done(driver.event().ticket)
    driver.send(Ack(PUBREL, 2, 0, None))
    driver.connection.release_done(driver.event().ticket)
    driver.send(Ack(PUBREL, 3, 0, None), Ack(PUBREC, 4, 0, None))
    got = driver.received()
    assert [(packet.kind, packet.code) for packet in got if isinstance(packet, Ack)] == [
        (PUBACK, 0x97),
        (PUBREC, 0),
        (PUBCOMP, 0),
        (PUBCOMP, 0x92),
        (PUBREL, 0x92),
    ]
    assert [packet.properties for packet in got if isinstance(packet, Ack)] == [{props.REASON_STRING: "full"}] + [
        None
    ] * 4
    driver.subscribe()
    driver.connection.subscribe_done(driver.event().ticket, [0x80], "no")
    driver.send(Unsubscribe(8, ["t"]))
    driver.connection.unsubscribe_done(driver.event().ticket, [0x80], "no")
    driver.connection.disconnect(reasons.SERVER_BUSY, "no")
    for packet in driver.received():
        assert packet.properties == {props.REASON_STRING: "no"}  # type: ignore[union-attr]


def test_pubrel_of_an_unknown_packet_id() -> None:
    for version, code in ((4, 0), (5, reasons.PACKET_ID_NOT_FOUND)):
        driver = connected(version)
        driver.send(Ack(PUBREL, 5, 0, None))
        assert driver.one() == Ack(PUBCOMP, 5, code, None)


def test_a_packet_id_of_a_qos_2_exchange_is_refused_at_qos_1() -> None:
    driver = connected(5, session=durable())
    driver.publish(qos=2, packet_id=9)
    driver.connection.publish_done(driver.event().ticket)
    driver.received()
    driver.publish(qos=1, packet_id=9)
    assert driver.one() == Ack(PUBACK, 9, reasons.PACKET_ID_IN_USE, None)
    assert driver.connection.unacknowledged == 1


@clause("MQTT-3.3.4-7", v=5)
def test_mqtt_3_3_4_7_more_than_our_receive_maximum_is_an_error() -> None:
    driver = connected(5, limits=Limits(receive_max=2))
    for packet_id in (1, 2):
        driver.publish(qos=2, packet_id=packet_id)
        driver.connection.publish_done(driver.event().ticket)
    driver.received()
    driver.send(Ack(PUBREL, 1, 0, None))  # PUBCOMP frees a place
    driver.received()
    driver.publish(qos=1, packet_id=3)
    assert isinstance(driver.event(), ev.PublishReceived)
    driver.publish(qos=1, packet_id=4)
    assert driver.one().code == reasons.RECEIVE_MAXIMUM_EXCEEDED


def test_mqtt_3_clients_are_not_read_while_too_many_answers_are_due() -> None:
    driver = connected(4, limits=Limits(receive_max=2))
    for packet_id in range(1, 7):
        driver.publish(qos=1, packet_id=packet_id)
    assert not driver.connection.reading
    for event in driver.events():
        assert isinstance(event, ev.PublishReceived)
        driver.connection.publish_done(event.ticket)
    assert driver.connection.reading


@clause("MQTT-3.3.2-7", "MQTT-3.3.2-12", v=5)
def test_mqtt_3_3_2_12_topic_aliases_up_to_our_maximum() -> None:
    limits = Limits(topic_alias_max=2)
    driver = connected(5, limits=limits)
    for alias, topic in ((1, "one"), (2, "two"), (1, "uno")):
        driver.publish(topic, properties={props.TOPIC_ALIAS: alias})
        assert driver.event().publish.properties is None
        driver.publish("", properties={props.TOPIC_ALIAS: alias, props.CONTENT_TYPE: "x"})
        assert driver.event().publish[0::6] == (topic, {props.CONTENT_TYPE: "x"})
    for alias in (0, 3):
        driver = connected(5, limits=limits)
        driver.publish("t", properties={props.TOPIC_ALIAS: alias})
        assert driver.one().code == reasons.TOPIC_ALIAS_INVALID
    driver = connected(5, limits=limits)  # a new connection knows none of them
    driver.publish("", properties={props.TOPIC_ALIAS: 1})
    assert driver.one().code == reasons.PROTOCOL_ERROR


@clause("MQTT-3.3.4-6", v=5)
def test_mqtt_3_3_4_6_a_subscription_identifier_from_a_client_is_an_error() -> None:
    driver = connected()
    driver.publish(properties={props.SUBSCRIPTION_ID: [1]})
    assert driver.one().code == reasons.PROTOCOL_ERROR


@V
@clause(
    "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2", "MQTT-2.3.1-7", v=4
)
@clause("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1", v=5)
def test_mqtt_3_8_4_subscribe_has_one_suback_with_a_code_per_filter_in_order(version: int) -> None:
    driver = connected(version)
    driver.send(Subscribe(77, [SubscriptionRequest(name, 2) for name in ("a", "b", "c", "d")]))
    driver.connection.subscribe_done(driver.event().ticket, [2, 0x87, 0, 1])
    assert driver.one() == SubAck(77, [2, 0x87 if version == 5 else 0x80, 0, 1])


@V
@clause("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6", v=4)
@clause("MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-2.2.1-6", v=5)
def test_mqtt_3_10_4_unsubscribe_has_one_unsuback(version: int) -> None:
    driver = connected(version)
    driver.send(Unsubscribe(78, ["a", "b"]))
    driver.connection.unsubscribe_done(driver.event().ticket, [0x11, 0])
    assert driver.one() == UnsubAck(78, [0x11, 0] if version == 5 else [])


# -- to the client ---------------------------------------------------------------------------------------------------


@V
@clause("MQTT-3.8.4-6", "MQTT-4.3.1-1", v=4)
@clause("MQTT-3.8.4-8", "MQTT-4.3.1-1", "MQTT-4.8.2-3", v=5)
def test_mqtt_3_8_4_8_the_quality_is_the_lower_of_published_and_granted(version: int) -> None:
    for granted in (0, 1, 2):
        driver = connected(version)
        messages = run(*[message(qos=qos) for qos in (0, 1, 2)])
        assert driver.connection.deliver(messages, 0, granted, 0.0) == 3
        got = driver.received()
        assert [packet.qos for packet in got if isinstance(packet, Publish)] == [min(granted, qos) for qos in (0, 1, 2)]
        assert not any(packet.dup for packet in got if isinstance(packet, Publish))


@V
@clause("MQTT-2.3.1-2", "MQTT-2.3.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1", "MQTT-4.6.0-6", v=4)
@clause("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-4.3.3-1", "MQTT-4.3.3-2", "MQTT-4.6.0-5", v=5)
def test_mqtt_2_2_1_4_packet_ids_in_use_are_skipped_and_order_is_kept(version: int) -> None:
    session = Session("c")
    driver = connected(version, session=session)
    session.next_packet_id = 65_534
    driver.connection.deliver(run(*[message(payload=b"%d" % n, qos=1) for n in range(4)]), 0, 2, 0.0)
    got = [packet for packet in driver.received() if isinstance(packet, Publish)]
    assert [packet.packet_id for packet in got] == [65_534, 65_535, 1, 2]
    assert [packet.payload for packet in got] == [b"0", b"1", b"2", b"3"]
    session.next_packet_id = 65_535
    driver.connection.deliver(run(message(qos=2)), 0, 2, 0.0)
    assert driver.one().packet_id == 3


@V
@clause("MQTT-4.3.3-1", v=4)
@clause("MQTT-4.3.3-3", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.2-3", v=5)
def test_mqtt_4_3_3_4_qos_2_out_step_by_step(version: int) -> None:
    session = Session("c")
    driver = connected(version, session=session)
    driver.connection.deliver(run(message(qos=2)), 0, 2, 0.0)
    packet_id = driver.one().packet_id
    for _ in range(2):  # PUBREC again: PUBREL again
        driver.send(Ack(PUBREC, packet_id, 0, None))
        assert driver.one() == Ack(PUBREL, packet_id, 0, None)
    assert session.inflight
    driver.send(Ack(PUBCOMP, packet_id, 0, None))
    assert session.inflight is None
    assert driver.received() == []


def test_qos_2_out_of_a_durable_session_is_stored_before_each_step() -> None:
    session = durable()
    driver = connected(5, session=session)
    assert driver.connection.deliver(run(message(qos=2), message("u", qos=2)), 0, 2, 0.0) == 2
    assert driver.received() == []
    named = driver.connection.take_unstored()
    assert [(one.packet_id, one.message.topic) for one in named] == [(1, b"t"), (2, b"u")]
    assert driver.connection.take_unstored() == []
    driver.connection.send_stored(2, 0.0)
    assert [packet.packet_id for packet in driver.received() if isinstance(packet, Publish)] == [1, 2]
    driver.send(Ack(PUBREC, 2, 0, None), Ack(PUBREC, 1, 0, None))
    assert driver.received() == []
    tickets = [event.ticket for event in driver.events() if isinstance(event, ev.ReceiptReceived)]
    for ticket in tickets[::-1]:
        driver.connection.receipt_done(ticket)
    assert driver.received() == [Ack(PUBREL, 2, 0, None), Ack(PUBREL, 1, 0, None)]


def test_an_mqtt_3_client_is_read_however_many_messages_it_has_not_released() -> None:
    driver = connected(4, limits=Limits(receive_max=2))
    for packet_id in range(1, 20):
        driver.publish(qos=2, packet_id=packet_id)
        driver.connection.publish_done(driver.event().ticket)
        assert driver.connection.reading
    for packet_id in range(20, 30):
        driver.publish(qos=2, packet_id=packet_id)
    assert not driver.connection.reading  # their answers are due


def test_what_comes_behind_a_message_that_is_being_stored_waits_for_it() -> None:
    """One topic has one order, whatever the qualities."""
    session = durable()
    driver = connected(5, session=session)
    driver.connection.deliver(run(message(qos=2, payload=b"1"), message(qos=1, payload=b"2")), 0, 2, 0.0)
    driver.connection.deliver(run(message(qos=0, payload=b"3")), 0, 2, 0.0)
    assert driver.received() == []
    count = len(driver.connection.take_unstored())
    driver.connection.deliver(run(message(qos=1, payload=b"4")), 0, 2, 0.0)
    driver.connection.send_stored(count, 0.0)
    assert [packet.payload for packet in driver.received() if isinstance(packet, Publish)] == [b"1", b"2", b"3"]
    driver.connection.send_stored(len(driver.connection.take_unstored()), 0.0)
    assert driver.one().payload == b"4"
    driver.connection.deliver(run(message(qos=0, payload=b"5")), 0, 2, 0.0)
    assert driver.one().payload == b"5"


def test_what_waits_for_the_disk_counts_as_output() -> None:
    driver = connected(5, session=durable(), limits=Limits(output_bytes_max=1000))
    big = run(*[message(qos=2, payload=b"x" * 400) for _ in range(5)])
    assert driver.connection.deliver(big, 0, 2, 0.0) == 3
    assert driver.connection.deliver(big, 3, 2, 0.0) == 3
    driver.connection.send_stored(len(driver.connection.take_unstored()), 0.0)
    driver.received()
    assert driver.connection.deliver(big, 3, 2, 0.0) == 5


def test_a_message_whose_packet_id_was_not_stored_is_stored_before_it_is_sent_again() -> None:
    session = durable()
    connected(5, session=session).connection.deliver(run(one := message(qos=2)), 0, 2, 0.0)
    driver = connected(5, session=session)
    assert driver.connection.next_redelivery() == (1, (session.inflight or {})[1])
    driver.connection.redeliver(1, one, 0.0)
    assert driver.received() == []
    driver.connection.send_stored(len(driver.connection.take_unstored()), 0.0)
    again = driver.one()
    assert (again.packet_id, again.qos, again.dup) == (1, 2, False)


def shared(driver: Driver, one: Message, lease: int = 1, now_s: float = 0.0) -> Handed:
    return driver.connection.deliver_one(
        one, 2, now_s, retain_as_published=False, identifiers=b"", group="$share/g/t", lease=lease
    )


def test_a_message_of_a_shared_subscription_is_not_taken_leased_or_over() -> None:
    session = durable()
    driver = connected(5, session=session, properties={props.RECEIVE_MAXIMUM: 2, props.MAXIMUM_PACKET_SIZE: 100})
    assert shared(driver, message(qos=1)) is Handed.LEASED
    assert shared(driver, message(qos=0)) is Handed.OVER
    assert shared(driver, message(qos=1, payload=bytes(200))) is Handed.OVER  # too large counts as delivered
    late = message(qos=1)
    late.expires_s = 5.0
    assert shared(driver, late, now_s=5.0) is Handed.OVER
    assert shared(driver, message(qos=2)) is Handed.OVER  # stays with this member, whatever comes
    assert shared(driver, message(qos=1)) is Handed.NOT
    assert driver.connection.stalled
    assert [one.lease for one in (session.inflight or {}).values()] == [1, 0]
    driver.connection.disconnect(0x8B)
    assert shared(driver, message(qos=1)) is Handed.NOT


@clause("MQTT-4.4.0-2", "MQTT-4.8.2-6", v=5)
def test_mqtt_4_4_0_2_a_refusing_acknowledgement_ends_the_message() -> None:
    for qos, kind in ((1, PUBACK), (2, PUBREC)):
        session = Session("c")
        driver = connected(5, session=session)
        shared(driver, message(qos=qos), lease=7)
        driver.send(Ack(kind, driver.one().packet_id, 0x83, None))
        event = driver.event()
        assert isinstance(event, ev.DeliveriesEnded)
        [delivery] = event.deliveries
        assert (event.code, delivery.group, delivery.lease) == (0x83, "$share/g/t", 7 * (qos == 1))
        assert session.inflight is None
        assert driver.received() == []


@clause("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2", v=5)
def test_mqtt_3_3_4_9_no_more_than_the_clients_receive_maximum() -> None:
    driver = connected(5, properties={props.RECEIVE_MAXIMUM: 2})
    five = run(*[message(qos=qos) for qos in (1, 2, 1, 0, 1)])
    assert driver.connection.deliver(five, 0, 2, 0.0) == 2
    driver.received()
    assert driver.connection.deliver(five, 2, 2, 0.0) == 2
    driver.send(Ack(PUBREC, 2, 0, None))
    assert driver.events() == []  # PUBREC frees nothing, PUBCOMP does
    driver.send(Ack(PUBCOMP, 2, 0, None))
    assert driver.events() == [ev.WindowOpened(driver.connection)]
    driver.received()
    assert driver.connection.deliver(five, 2, 2, 0.0) == 4
    assert [packet.qos for packet in driver.received() if isinstance(packet, Publish)] == [1, 0]


@clause("MQTT-3.3.4-10", "MQTT-4.9.0-3", v=5)
def test_mqtt_4_9_0_3_everything_else_goes_on_without_quota() -> None:
    driver = connected(5, properties={props.RECEIVE_MAXIMUM: 1})
    driver.connection.deliver(run(message(qos=1), message(qos=1)), 0, 1, 0.0)
    driver.received()
    driver.connection.deliver(run(message(qos=0)), 0, 1, 0.0)
    driver.publish(qos=1, packet_id=9)
    driver.connection.publish_done(driver.event().ticket)
    driver.send(PingReq())
    assert [type(packet) for packet in driver.received()] == [Publish, Ack, PingResp]


@clause("MQTT-3.1.2-24", "MQTT-3.1.2-25", v=5)
def test_mqtt_3_1_2_25_what_is_too_large_counts_as_delivered() -> None:
    for qos in (0, 1, 2):
        session = durable()
        driver = connected(5, session=session, properties={props.MAXIMUM_PACKET_SIZE: 30})
        big, small = message(payload=b"x" * 30, qos=qos), message(payload=b"y", qos=qos)
        assert driver.connection.deliver(run(big, small), 0, 2, 0.0) == 2
        if driver.connection.take_unstored():
            driver.connection.send_stored(1, 0.0)
        assert driver.one().payload == b"y"
        assert len(session.inflight or {}) == (qos > 0)


@clause("MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-8", "MQTT-3.3.2-11", v=5)
def test_mqtt_3_3_2_11_aliases_towards_clients_that_allow_them() -> None:
    driver = connected(5, properties={props.TOPIC_ALIAS_MAXIMUM: 1})
    topics = ("topic/one", "topic/two", "topic/one", "topic/two")
    for topic in topics:
        driver.connection.deliver(run(message(topic)), 0, 0, 0.0)
    got = [packet for packet in driver.received() if isinstance(packet, Publish)]
    assert [packet.topic for packet in got] == ["topic/one", "topic/two", "", "topic/two"]
    assert [(packet.properties or {}).get(props.TOPIC_ALIAS) for packet in got] == [1, None, 1, None]
    for properties in ({}, {props.TOPIC_ALIAS_MAXIMUM: 0}):
        driver = connected(5, properties=properties)
        driver.connection.deliver(run(message("topic/one")), 0, 0, 0.0)
        assert driver.one().properties is None


@clause("MQTT-3.3.2-5", "MQTT-3.3.2-6", v=5)
def test_mqtt_3_3_2_6_expiry_counts_down_and_ends() -> None:
    for qos in (0, 1):
        driver = connected(5)
        one = message(qos=qos, expires_s=100.0)
        assert driver.connection.deliver(run(one), 0, 1, 70.0) == 1
        assert driver.one().properties == {props.MESSAGE_EXPIRY: 30}
        assert driver.connection.deliver(run(one), 0, 1, 100.0) == 1
        assert driver.received() == []


@clause("MQTT-3.3.1-12", "MQTT-3.3.1-13", v=5)
def test_mqtt_3_3_1_13_retain_as_published() -> None:
    for keep in (False, True):
        for qos in (0, 1):
            driver = connected(5)
            one = run(message(qos=qos, retain=True))
            driver.connection.deliver(one, 0, qos, 0.0, retain_as_published=keep)
            assert driver.one().retain is keep


@clause("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20", v=5)
@clause("MQTT-3.1.3-10", v=5)
def test_mqtt_3_3_2_17_properties_go_out_as_they_came() -> None:
    sent = {
        props.PAYLOAD_FORMAT: 1,
        props.RESPONSE_TOPIC: "answer/here",
        props.CORRELATION_DATA: b"\0\xff",
        props.CONTENT_TYPE: "text",
        props.USER_PROPERTY: [("b", "1"), ("a", "2"), ("b", "1")],
    }
    encoded = b"".join([encode_property(key, value) for key, value in sent.items()])
    for qos in (0, 1, 2):
        driver = connected(5)
        driver.connection.deliver(run(message(qos=qos, properties=encoded)), 0, 2, 0.0)
        assert driver.one().properties == sent


@clause("MQTT-3.3.4-3", "MQTT-3.3.4-4", v=5)
def test_mqtt_3_3_4_4_subscription_identifiers_are_added() -> None:
    driver = connected(5)
    ids = encode_property(props.SUBSCRIPTION_ID, [3, 200])
    driver.connection.deliver(run(message(qos=1), message()), 0, 1, 0.0, identifiers=ids)
    for packet in driver.received():
        assert isinstance(packet, Publish)
        assert packet.properties == {props.SUBSCRIPTION_ID: [3, 200]}


def test_a_slow_client_loses_qos_0_and_pauses_qos_1() -> None:
    driver = connected(4, limits=Limits(output_bytes_max=100))
    big = run(*[message(payload=b"x" * 60, qos=1) for _ in range(5)])
    assert driver.connection.deliver(big, 0, 1, 0.0) == 2
    assert driver.connection.deliver(run(message(), message()), 0, 1, 0.0) == 2
    assert driver.outbox.dropped == 2
    driver.connection.take_output()
    driver.connection.sent(90)
    assert driver.events() == []
    driver.connection.sent(10)
    assert driver.events() == [ev.WindowOpened(driver.connection)]
    assert driver.connection.deliver(big, 2, 1, 0.0) == 4


# -- again -------------------------------------------------------------------------------------------------------------


@V
@clause("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-3.3.1-3", "MQTT-2.3.1-3", v=4)
@clause("MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-3.3.1-3", "MQTT-4.3.3-6", "MQTT-4.3.3-7", v=5)
def test_mqtt_4_4_0_1_a_resumed_session_gets_again_what_it_did_not_acknowledge(version: int) -> None:
    session = durable()
    session.inflight = {
        5: Delivery(QOS1_SENT, 0, 50),
        3: Delivery(QOS2_RELEASED, 0, 30),
        4: Delivery(QOS2_SENT, 0, 40, True),
        6: Delivery(QOS1_SENT, 0, 60),
    }
    driver = Driver(version)
    driver.connect(session, present=True)
    assert driver.early == [Ack(PUBREL, 3, 0, None)]
    assert driver.connection.deliver(run(message("new", qos=1)), 0, 1, 0.0) == 0  # the old ones come first
    log = {50: message("a", qos=1, expires_s=1.0), 40: message("b", qos=2), 60: None}
    while (found := driver.connection.next_redelivery()) is not None:
        packet_id, delivery = found
        driver.connection.redeliver(packet_id, log[delivery.offset], 10.0)
    one, two = driver.received()
    assert isinstance(one, Publish)
    assert isinstance(two, Publish)
    assert (one.topic, one.packet_id, one.qos, one.dup, one.retain) == ("a", 5, 1, True, False)
    assert (two.topic, two.packet_id, two.qos, two.dup, two.retain) == ("b", 4, 2, True, True)
    assert set(session.inflight) == {5, 3, 4}
    assert driver.connection.deliver(run(message("new", qos=1)), 0, 1, 0.0) == 1


def test_a_qos_2_message_that_is_gone_is_released() -> None:
    session = durable()
    session.inflight = {4: Delivery(QOS2_SENT, 0, 40)}
    driver = Driver(5)
    driver.connect(session, present=True)
    driver.connection.redeliver(4, None, 0.0)
    assert driver.one() == Ack(PUBREL, 4, 0, None)
    driver.send(Ack(PUBCOMP, 4, 0x92, None))
    assert session.inflight is None


def test_redelivery_keeps_to_the_receive_maximum() -> None:
    session = durable()
    session.inflight = {packet_id: Delivery(QOS1_SENT, 0, packet_id) for packet_id in (1, 2, 3)}
    driver = Driver(5)
    driver.connect(session, present=True, properties={props.RECEIVE_MAXIMUM: 2})
    for expected in (1, 2):
        found = driver.connection.next_redelivery()
        assert found is not None
        assert found[0] == expected
        driver.connection.redeliver(found[0], message(qos=1), 0.0)
    assert driver.connection.next_redelivery() is None
    driver.send(Ack(PUBACK, 1, 0, None))
    assert driver.events() == [ev.WindowOpened(driver.connection)]
    assert driver.connection.next_redelivery() is not None


@V
def test_acknowledgements_out_of_step_are_errors_and_unknown_ones_are_not(version: int) -> None:
    driver = connected(version)
    driver.send(Ack(PUBACK, 7, 0, None), Ack(PUBCOMP, 7, 0, None))
    assert driver.received() == []
    assert driver.events() == []
    driver.send(Ack(PUBREC, 7, 0, None))
    assert driver.one() == Ack(PUBREL, 7, reasons.PACKET_ID_NOT_FOUND if version == 5 else 0, None)
    for qos, kind in ((2, PUBACK), (1, PUBREC), (1, PUBCOMP), (2, PUBCOMP)):
        driver = connected(version)
        driver.connection.deliver(run(message(qos=qos)), 0, 2, 0.0)
        driver.received()
        driver.send(Ack(kind, 1, 0, None))
        assert driver.closed().code == reasons.PROTOCOL_ERROR


def test_answers_that_do_not_fit_are_our_fault() -> None:
    driver = connected(5)
    driver.publish(qos=1)
    ticket = driver.event().ticket
    for answer in (driver.connection.release_done, driver.connection.receipt_done):
        with pytest.raises(LocalProtocolError):
            answer(ticket)
    driver.connection.publish_done(ticket)
    with pytest.raises(LocalProtocolError):
        driver.connection.publish_done(ticket)


def test_an_alias_is_not_used_before_a_message_has_told_the_client_of_it() -> None:
    driver = connected(properties={props.TOPIC_ALIAS_MAXIMUM: 5, props.MAXIMUM_PACKET_SIZE: 60})
    driver.connection.deliver(run(message("some/topic", b"x" * 100)), 0, 0, 0.0)
    assert driver.received() == []  # too large
    driver.connection.deliver(run(message("some/topic", b"x" * 44)), 0, 0, 0.0)
    assert driver.one().topic == "some/topic"  # fits without an alias only
    driver.connection.deliver(run(message("some/topic", b"x")), 0, 0, 0.0)
    first = driver.one()
    assert (first.topic, first.properties) == ("some/topic", {props.TOPIC_ALIAS: 1})
    driver.connection.deliver(run(message("some/topic", b"x")), 0, 0, 0.0)
    assert driver.one().topic == ""
