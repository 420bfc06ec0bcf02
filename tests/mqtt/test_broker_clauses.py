"""Statements of the specification that only the whole broker can keep, packet by packet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    Auth,
    Disconnect,
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
from tests.mqtt.child import Child, child_broker
from tests.mqtt.wire import Wire

clause = pytest.mark.clause
PUBACK, PUBREC, PUBREL, PUBCOMP = props.PUBACK, props.PUBREC, props.PUBREL, props.PUBCOMP


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


@clause("MQTT-3.1.2-7", v=4)
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_3_1_2_7_retained_messages_outlive_the_session_that_published_them(broker: Child, version: int) -> None:
    publisher = Wire.connected(broker.mqtt, "fleeting", version=version)
    assert publisher.publish(f"outlive/{version}", b"stays", retain=True) == Ack(PUBACK, 1, 0, None)
    publisher.send(Disconnect())
    assert publisher.next() is None
    reader = Wire.connected(broker.mqtt, version=version)
    reader.send(Subscribe(1, [SubscriptionRequest(f"outlive/{version}", 0)]))
    found = [reader.next(), reader.next()]
    [message] = [one for one in found if isinstance(one, Publish)]
    assert (message.payload, message.retain) == (b"stays", True)
    reader.close()


@pytest.mark.parametrize("expiry_s", [0, 1_000])
@pytest.mark.parametrize("topic", ["before-new", "before-known"])
def test_what_a_client_published_before_its_subscribe_is_not_new_to_it(
    broker: Child, topic: str, expiry_s: int
) -> None:
    name = f"{topic}-{expiry_s}/a"
    if topic == "before-known":
        publisher = Wire.connected(broker.mqtt)
        publisher.publish(name)
        publisher.close()
    wire = Wire.connected(broker.mqtt, name, properties={props.SESSION_EXPIRY: expiry_s})
    publishes = [Publish(name, payload, 0, retain, False, 0, None) for payload, retain in ((b"r", True), (b"x", False))]
    subscribe = Subscribe(1, [SubscriptionRequest(name, 0)])
    wire.send(*publishes, subscribe, Publish(name, b"behind", 0, False, False, 0, None))
    wire.send(Publish(name, b"last", 0, False, False, 0, None))
    found = [wire.next() for _ in range(4)]
    messages = [(one.payload, one.retain) for one in found if isinstance(one, Publish)]
    assert sorted(messages) == [(b"behind", False), (b"last", False), (b"r", True)]
    assert [payload for payload, retain in messages if not retain] == [b"behind", b"last"]
    wire.close()


@pytest.mark.parametrize("expiry_s", [0, 1_000])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_a_client_published_before_its_unsubscribe_is_delivered(broker: Child, qos: int, expiry_s: int) -> None:
    """Also where it subscribes again behind that: what stands between the two is nobody's. As mosquitto does it."""
    name = f"before-leaving-{qos}-{expiry_s}/a"
    wire = Wire.connected(broker.mqtt, name, properties={props.SESSION_EXPIRY: expiry_s})
    subscribe = Subscribe(1, [SubscriptionRequest(name, qos)])
    wire.send(subscribe)
    assert isinstance(wire.next(), SubAck)
    packet_ids = itertools.count(2)
    before, between, behind = (
        Publish(name, payload, qos, False, False, next(packet_ids) if qos else 0, None)
        for payload in (b"before", b"between", b"behind")
    )
    wire.send(before, Unsubscribe(8, [name]), between, subscribe, behind)
    found = [wire.next() for _ in range(4 + (3 if qos else 0))]
    assert [one.payload for one in found if isinstance(one, Publish)] == [b"before", b"behind"]
    kinds = [type(one) for one in found]
    assert kinds.index(Publish) < kinds.index(UnsubAck) < kinds.index(SubAck)
    wire.send(PingReq())
    assert isinstance(wire.next(), PingResp)
    wire.close()


@clause("MQTT-3.1.3-2", v=4)
@clause("MQTT-3.1.3-2", v=5)
@clause("MQTT-3.1.4-3", v=4)
@clause("MQTT-3.1.4-4", v=5)
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_3_1_3_2_state_belongs_to_a_client_id_and_a_clean_start_discards_it(broker: Child, version: int) -> None:
    name = f"state-{version}"
    keep = {"properties": {props.SESSION_EXPIRY: 1_000}} if version == 5 else {}
    first = Wire.connected(broker.mqtt, name, version=version, clean=False, **keep)
    assert not first.connack.session_present
    assert first.subscribe(f"{name}/+", 1) == [1]
    first.close()
    publisher = Wire.connected(broker.mqtt, version=version)
    publisher.publish(f"{name}/a", b"kept")
    other = Wire.connected(broker.mqtt, f"{name}-other", version=version, clean=False, **keep)
    assert not other.connack.session_present  # another id, another state
    again = Wire.connected(broker.mqtt, name, version=version, clean=False, **keep)
    assert again.connack.session_present
    assert again.next().payload == b"kept"
    again.close()
    clean = Wire.connected(broker.mqtt, name, version=version, clean=True, **keep)
    assert not clean.connack.session_present
    publisher.publish(f"{name}/a", b"nobody asked")
    assert clean.subscribe("end", 0) == [0]
    publisher.publish("end", b"end", 0)
    assert clean.next().payload == b"end"
    for wire in (publisher, other, clean):
        wire.close()


@clause("MQTT-3.3.1-7", v=4)
def test_mqtt_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before(broker: Child) -> None:
    publisher = Wire.connected(broker.mqtt, version=4)
    publisher.publish("replaced", b"first", 1, retain=True)
    publisher.publish("replaced", b"second", 0, retain=True)
    publisher.publish("replaced/end", b"", 1)  # answered behind it
    assert publisher.subscribe("replaced", 1) == [1]
    message = publisher.next()
    assert (message.payload, message.qos, message.retain) == (b"second", 0, True)
    publisher.close()


@clause("MQTT-3.8.3-2", v=4)
def test_mqtt_3_8_3_2_filters_with_wildcards_are_supported(broker: Child) -> None:
    wire = Wire.connected(broker.mqtt, version=4)
    filters = ("wild/+/x", "wild/#", "+", "#", "/+", "+/+/#")
    wire.send(Subscribe(1, [SubscriptionRequest(filter_, 2) for filter_ in filters]))
    assert wire.next().codes == [2] * len(filters)
    wire.close()


@clause("MQTT-3.1.2-7", v=5)
def test_mqtt_3_1_2_7_a_will_is_stored_with_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_WILL_GRACE_S", "1")
    with child_broker(tmp_path) as broker:
        watcher = Wire.connected(broker.mqtt, "watcher", clean=False, properties={props.SESSION_EXPIRY: 1_000})
        assert watcher.subscribe("last/words", 1) == [1]
        will = Will("last/words", b"of one", 1, False)
        delayed = Will("last/words", b"no", 1, False, {props.WILL_DELAY: 1_000})
        keep = {props.SESSION_EXPIRY: 1_000}
        dying = Wire.connected(broker.mqtt, "dying", will=will, properties=keep)
        returning = Wire.connected(broker.mqtt, "returning", will=delayed, properties=keep)
        broker.kill()
        broker.start()
        watcher.close()
        watcher = Wire.connected(broker.mqtt, "watcher", clean=False, properties={props.SESSION_EXPIRY: 1_000})
        message = watcher.next()  # the dying one's, when its grace is over
        assert (message.topic, message.payload) == ("last/words", b"of one")
        watcher.send(Ack(PUBACK, message.packet_id, 0, None))
        # The other comes back after the grace, but within its will's delay, which goes on over the restart.
        back = Wire.connected(broker.mqtt, "returning", clean=False, properties=keep)
        back.send(Disconnect())
        last = Wire.connected(broker.mqtt)
        last.publish("last/words", b"end")
        assert watcher.next().payload == b"end"
        for wire in (dying, returning, back, last, watcher):
            wire.close()


@clause("MQTT-3.9.3-2", v=5)
def test_mqtt_3_9_3_2_suback_has_one_code_of_the_specification_for_each_filter(broker: Child) -> None:
    wire = Wire.connected(broker.mqtt)
    filters = [("a", 0), ("b", 1), ("c/+", 2), ("__internal/x", 1), ("$share/g/d", 1), ("a", 2)]
    wire.send(Subscribe(9, [SubscriptionRequest(*one) for one in filters]))
    answer = wire.next()
    assert (answer.packet_id, answer.codes) == (9, [0, 1, 2, 0x87, 1, 2])
    wire.close()


@clause("MQTT-3.11.3-2", v=5)
def test_mqtt_3_11_3_2_unsuback_has_one_code_of_the_specification_for_each_filter(broker: Child) -> None:
    wire = Wire.connected(broker.mqtt)
    wire.subscribe("is/there", 1)
    wire.send(Unsubscribe(3, ["is/there", "is/not", "is/there"]))
    assert wire.next() == UnsubAck(3, [0x00, 0x11, 0x11])
    wire.close()


@clause("MQTT-4.8.2-4", v=5)
@clause("MQTT-4.8.2-5", v=5)
def test_mqtt_4_8_2_4_qos_2_of_a_shared_subscription_is_completed_with_its_member_or_not_at_all(broker: Child) -> None:
    keep = {props.SESSION_EXPIRY: 1_000}
    member = Wire.connected(broker.mqtt, "member", clean=False, properties=keep)
    assert member.subscribe("$share/twice/once/#", 2) == [2]
    publisher = Wire.connected(broker.mqtt)
    for number in (1, 2):
        assert publisher.publish("once/a", b"%d" % number, 2, packet_id=number).kind == PUBREC
        publisher.send(Ack(PUBREL, number, 0, None))
        assert publisher.next().kind == PUBCOMP
    first, second = member.next(), member.next()
    member.close()  # neither was answered
    other = Wire.connected(broker.mqtt, "other")
    assert other.subscribe("$share/twice/once/#", 2) == [2]
    member = Wire.connected(broker.mqtt, "member", clean=False, properties=keep)
    again = [member.next(), member.next()]
    assert again == [first._replace(dup=True), second._replace(dup=True)]
    member.send(Ack(PUBREC, first.packet_id, 0, None))
    assert member.next() == Ack(PUBREL, first.packet_id, 0, None)
    member.send(Ack(PUBCOMP, first.packet_id, 0, None))
    member.send(Disconnect(0, {props.SESSION_EXPIRY: 0}))  # the session ends, with the second in flight
    assert member.next() is None
    # The other member gets what is new, and never the second.
    publisher.publish("once/a", b"3")
    message = other.next()
    assert (message.payload, message.qos) == (b"3", 1)
    for wire in (publisher, other):
        wire.close()


def test_auth_is_refused_where_no_method_was_agreed(broker: Child) -> None:
    wire = Wire(broker.mqtt)
    answer = wire.connect("c", properties={props.AUTHENTICATION_METHOD: "SCRAM-SHA-256"})
    assert answer.code == 0x8C
    assert wire.next() is None
    wire = Wire.connected(broker.mqtt)
    wire.send(Auth(0x19, {props.AUTHENTICATION_METHOD: "SCRAM-SHA-256"}))
    gone = wire.next()
    assert isinstance(gone, Disconnect)
    assert gone.code == 0x82
    assert wire.next() is None


def test_a_stop_says_goodbye_to_clients_of_mqtt_5(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        wire = Wire.connected(broker.mqtt)
        assert broker.stop() == 0
        gone = wire.next()
        assert (type(gone), gone.code) == (Disconnect, 0x8B)
        assert wire.next() is None


def test_request_and_response_travel_with_topic_and_correlation(broker: Child) -> None:
    asker, answerer = Wire.connected(broker.mqtt), Wire.connected(broker.mqtt)
    assert asker.subscribe("answers/1", 1) == [1]
    assert answerer.subscribe("questions/#", 1) == [1]
    asked = {props.RESPONSE_TOPIC: "answers/1", props.CORRELATION_DATA: b"\0\xff", props.CONTENT_TYPE: "text/plain"}
    asker.publish("questions/a", b"?", properties=dict(asked))
    question = answerer.next()
    assert question.properties == asked
    answerer.send(Ack(PUBACK, question.packet_id, 0, None))
    correlation = {props.CORRELATION_DATA: question.properties[props.CORRELATION_DATA]}
    answerer.publish(question.properties[props.RESPONSE_TOPIC], b"!", properties=correlation)
    answer = asker.next()
    assert (answer.payload, answer.properties) == (b"!", correlation)
    for wire in (asker, answerer):
        wire.close()


def test_what_was_announced_holds_both_ways(broker: Child) -> None:
    small = {props.MAXIMUM_PACKET_SIZE: 200, props.RECEIVE_MAXIMUM: 2, props.TOPIC_ALIAS_MAXIMUM: 1}
    reader = Wire.connected(broker.mqtt, properties=small)
    assert reader.connack.properties[props.RECEIVE_MAXIMUM] == 1_000
    assert reader.connack.properties[props.MAXIMUM_PACKET_SIZE] == 1_048_576
    assert reader.connack.properties[props.TOPIC_ALIAS_MAXIMUM] == 32
    assert reader.subscribe("both/#", 1) == [1]
    publisher = Wire.connected(broker.mqtt)
    for number, size in enumerate((300, 1, 2, 3), 1):
        alias = {props.TOPIC_ALIAS: 7}
        topic = "both/ways" if number == 1 else ""
        assert publisher.publish(topic, b"x" * size, packet_id=number, properties=alias).code == 0
    first, second = reader.next(), reader.next()  # the large one is left out, the fourth waits for an answer
    assert (first.topic, len(first.payload), first.properties[props.TOPIC_ALIAS]) == ("both/ways", 1, 1)
    assert (second.topic, len(second.payload), second.properties[props.TOPIC_ALIAS]) == ("", 2, 1)
    reader.send(Ack(PUBACK, first.packet_id, 0, None))
    assert len(reader.next().payload) == 3
    publisher.send(Publish("both/ways", b"x" * 1_048_600, 0, False, False, 0, None))
    assert publisher.next().code == 0x95
    assert publisher.next() is None
    reader.close()
