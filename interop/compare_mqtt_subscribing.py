"""SUBSCRIBE and UNSUBSCRIBE: filters, options, and what cannot be subscribed."""

from __future__ import annotations

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Subscribe, SubscriptionRequest, Unsubscribe
from interop.compare_mqtt_scenarios import EVERY, NEW, publish, raw, ready, scenario, subscribe
from interop.compare_mqtt_wire import Talk


@scenario(*EVERY)
def bad_filters(talk: Talk, version: int) -> None:
    filters = (
        "",
        "a/#/b",
        "a#",
        "a+",
        "+a/b",
        "#/a",
        "a/+/b",
        "+",
        "$share/g",
        "$share//a",
        "$share/g/",
        "$share/g+/a",
        "$share/g/a",
    )
    for number, filter_ in enumerate(filters):
        one = ready(talk, f"filter{number}", version)
        name = filter_.encode()
        body = b"\0\1" + (b"\0" if version == 5 else b"") + len(name).to_bytes(2, "big") + name + b"\1"
        talk.step(one, raw(0x82, body))


@scenario(*EVERY)
def several_filters(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version)
    requests = [SubscriptionRequest(name, qos) for qos, name in enumerate(("many/a", "many/+", "many/#"))]
    talk.step(one, Subscribe(3, requests))
    talk.step(one, publish("many/a", b"overlapping", 2, 1))
    talk.step(one, Ack(6, 1, 0, None))
    talk.step(one, Unsubscribe(4, ["many/+", "not/there"]))


@scenario(*EVERY)
def bad_subscribe_packets(talk: Talk, version: int) -> None:
    tail = b"\0" if version == 5 else b""
    for name, first, body in (
        ("no-filter", 0x82, b"\0\1" + tail),
        ("packet-id-0", 0x82, b"\0\0" + tail + b"\0\1a\0"),
        ("qos-3", 0x82, b"\0\1" + tail + b"\0\1a\3"),
        ("reserved-bits", 0x82, b"\0\1" + tail + b"\0\1a\xc0"),
        ("no-options", 0x82, b"\0\1" + tail + b"\0\1a"),
        ("unsubscribe-none", 0xA2, b"\0\1" + tail),
        ("unsubscribe-packet-id-0", 0xA2, b"\0\0" + tail + b"\0\1a"),
    ):
        one = ready(talk, name, version)
        talk.step(one, raw(first, body))


@scenario(*NEW)
def subscribe_options(talk: Talk, version: int) -> None:
    one, other = ready(talk, "a", version), ready(talk, "b", version)
    talk.step(one, subscribe(1, "opt/local", qos=1, no_local=True))
    talk.step(one, subscribe(2, "opt/kept", qos=1, retain_as_published=True))
    talk.step(one, subscribe(3, "opt/id", "opt/#", qos=1, properties={props.SUBSCRIPTION_ID: [7]}))
    talk.step(one, publish("opt/local", b"mine", 1, 1))
    talk.step(other, publish("opt/local", b"theirs", 1, 1))
    talk.step(other, publish("opt/kept", b"kept", 1, 2, retain=True))
    talk.step(other, publish("opt/id", b"id", 1, 3))
    talk.step(other, publish("opt/kept", b"", 1, 4, retain=True))
    talk.step(one, subscribe(4, "$share/g/x", qos=1, no_local=True))


@scenario(*NEW)
def bad_subscribe_properties(talk: Talk, version: int) -> None:
    for name, properties in (("id-0", b"\x02\x0b\0"), ("id-twice", b"\x04\x0b\1\x0b\2"), ("handling-3", b"\0")):
        one = ready(talk, name, version)
        options = b"\x31" if name == "handling-3" else b"\1"
        talk.step(one, raw(0x82, b"\0\1" + properties + b"\0\1a" + options))


@scenario(*EVERY)
def resubscribe(talk: Talk, version: int) -> None:
    """The same filter again: the new QoS counts, retained messages come again."""
    one = ready(talk, "a", version)
    talk.step(one, publish("resub", b"kept", 1, 1, retain=True))
    for qos in (0, 2, 1):
        talk.step(one, subscribe(qos + 1, "resub", qos=qos))
    talk.step(one, publish("resub", b"live", 2, 1))
    talk.step(one, Ack(6, 1, 0, None))
    talk.step(one, publish("resub", b"", 1, 1, retain=True))


@scenario(*EVERY)
def unsubscribe_behind_publish(talk: Talk, version: int) -> None:
    """In one piece: what stands before UNSUBSCRIBE is delivered, what stands behind it is not."""
    for clean, qos in ((True, 0), (True, 1), (True, 2), (False, 1)):
        one = ready(talk, f"{'clean' if clean else 'kept'}{qos}", version, clean)
        name = f"leave/{one.name}"
        talk.step(one, subscribe(1, name, qos=qos))
        first, second = (publish(name, text, qos, number if qos else 0) for text, number in ((b"1", 2), (b"2", 4)))
        talk.step(one, first, Unsubscribe(3, [name]), second)


@scenario(*EVERY)
def subscribe_behind_unsubscribe(talk: Talk, version: int) -> None:
    """In one piece, with a message before, between and behind them, and with one that is retained."""
    for clean, qos in ((True, 0), (True, 1), (False, 1)):
        one = ready(talk, f"{'clean' if clean else 'kept'}{qos}", version, clean)
        name = f"again/{one.name}"
        talk.step(one, publish(name, b"kept", retain=True), subscribe(1, name, qos=qos))
        before, between, behind = (
            publish(name, text, qos, number if qos else 0) for text, number in ((b"1", 2), (b"2", 4), (b"3", 6))
        )
        talk.step(one, before, Unsubscribe(3, [name]), between, subscribe(5, name, qos=qos), behind)
        talk.step(one, Unsubscribe(7, [name]), subscribe(8, name, qos=qos), publish(name, b"", retain=True))
