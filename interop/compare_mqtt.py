"""Sends the same packets to mosquitto 2 and to us over raw connections and prints where the answers differ:
`python -m interop.compare_mqtt [--show] [NAME ...]`.

A difference is a bug of ours or has its line in FINDINGS.md (`KNOWN` names those). Scenarios are functions of a `Talk`
and a protocol version; each begins with names of its own.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    Auth,
    Connect,
    Disconnect,
    PingReq,
    Publish,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.codec.properties import Properties
from interop.brokers import Broker, Mosquitto, Trivium
from interop.compare_mqtt_wire import Talk, Wire
from interop.places import scratch_root

Scenario = Callable[[Talk, int], None]
SCENARIOS: dict[str, Scenario] = {}
VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}


def scenario(*versions: int) -> Callable[[Scenario], Scenario]:
    def keep(function: Scenario) -> Scenario:
        for version in versions:
            SCENARIOS[f"{function.__name__.replace('_', '-')}-v{VERSIONS[version]}"] = (
                lambda talk, _=0, version=version: function(talk, version)
            )
        return function

    return keep


EVERY, NEW = (3, 4, 5), (5,)


def connect(
    client_id: str, version: int, clean: bool = True, properties: Properties | None = None, **more: object
) -> Connect:
    expiry: Properties = {props.SESSION_EXPIRY: 600} if version == 5 and not clean else {}
    return Connect(version, client_id, clean, 60, properties={**expiry, **(properties or {})}, **more)  # type: ignore[arg-type]


def publish(
    topic: str,
    payload: bytes = b"x",
    qos: int = 0,
    packet_id: int = 0,
    properties: Properties | None = None,
    retain: bool = False,
    dup: bool = False,
) -> Publish:
    return Publish(topic, payload, qos, retain, dup, packet_id, properties)


def subscribe(
    packet_id: int, *filters: str, qos: int = 0, properties: Properties | None = None, **options: object
) -> Subscribe:
    requests = [SubscriptionRequest(one, qos, **options) for one in filters]  # type: ignore[arg-type]
    return Subscribe(packet_id, requests, properties or {})


def ready(talk: Talk, name: str, version: int, clean: bool = True, **more: object) -> Wire:
    wire = talk.wire(name, version)
    talk.step(wire, connect(f"{talk.name}-{name}", version, clean, **more))  # type: ignore[arg-type]
    return wire


def raw(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((first, len(body))) + body


# -- connecting --------------------------------------------------------------------------------------------------------


@scenario(*EVERY)
def connect_and_ping(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version)
    talk.step(one, PingReq())
    talk.step(one, Disconnect())


@scenario(*EVERY)
def empty_client_id_clean(talk: Talk, version: int) -> None:
    talk.step(talk.wire("a", version), connect("", version))


@scenario(*EVERY)
def empty_client_id_not_clean(talk: Talk, version: int) -> None:
    talk.step(talk.wire("a", version), connect("", version, False))


@scenario(*EVERY)
def second_connect(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version)
    talk.step(one, connect(f"{talk.name}-a", version))


@scenario(4)
def first_packet_is_not_connect(talk: Talk, version: int) -> None:
    for packet in (PingReq(), publish("a"), subscribe(1, "a"), Disconnect()):
        talk.step(talk.wire("a", version), packet)


@scenario(4)
def wrong_protocol_name_and_level(talk: Talk, version: int) -> None:
    for name, level in ((b"MQTX", 4), (b"MQTT", 3), (b"MQTT", 6), (b"MQIsdp", 4), (b"MQTT", 0), (b"mqtt", 4)):
        body = len(name).to_bytes(2, "big") + name + bytes((level, 2, 0, 60)) + b"\0\1a"
        talk.step(talk.wire(f"{name.decode()}-{level}", version), raw(0x10, body))


@scenario(4, 5)
def connect_flags(talk: Talk, version: int) -> None:
    """Reserved bit, will QoS 3, will QoS or RETAIN without a will, password without a user name."""
    tail = b"\0" if version == 5 else b""
    for flags, rest in ((0x03, b""), (0x1E, b"\0\1w\0\0"), (0x0A, b""), (0x22, b""), (0x42, b"\0\1p")):
        body = b"\0\4MQTT" + bytes((version, flags, 0, 60)) + tail + b"\0\1a" + (tail if flags & 4 else b"") + rest
        talk.step(talk.wire(f"flags-{flags:02x}", version), raw(0x10, body))


@scenario(*EVERY)
def session_present(talk: Talk, version: int) -> None:
    for clean in (True, False, False, True, False):
        one = ready(talk, "a", version, clean)
        talk.step(one, Disconnect())


@scenario(*NEW)
def connect_properties(talk: Talk, version: int) -> None:
    values: list[Properties] = [
        {props.RECEIVE_MAXIMUM: 0},
        {props.MAXIMUM_PACKET_SIZE: 0},
        {props.REQUEST_PROBLEM_INFORMATION: 2},
        {props.REQUEST_RESPONSE_INFORMATION: 1},
        {props.AUTHENTICATION_METHOD: "x"},
        {props.AUTHENTICATION_DATA: b"x"},
        {props.SESSION_EXPIRY: 0xFFFFFFFF},
        {props.USER_PROPERTY: [("a", "b")]},
        {props.TOPIC_ALIAS_MAXIMUM: 65535},
    ]
    for number, value in enumerate(values):
        try:
            talk.step(talk.wire(f"{number}", version), connect(f"{talk.name}-{number}", version, properties=value))
        except Exception as error:  # our encoder will not write it
            talk.transcript.append(f"not sent: {type(error).__name__}")


@scenario(*EVERY)
def take_over(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version, False)
    talk.step(one, subscribe(1, "over/#", qos=1))
    two = ready(talk, "a", version, False)
    talk.step(two, publish("over/x", b"1", 1, 5))


@scenario(*EVERY)
def take_over_with_will(talk: Talk, version: int) -> None:
    watcher = ready(talk, "watcher", version)
    talk.step(watcher, subscribe(1, "takewill/#"))
    ready(talk, "a", version, will=Will("takewill/x", b"gone", 0, False))
    ready(talk, "a", version)


# -- publishing --------------------------------------------------------------------------------------------------------


@scenario(*EVERY)
def qos_matrix(talk: Talk, version: int) -> None:
    for granted in range(3):
        reader = ready(talk, f"reader{granted}", version)
        talk.step(reader, subscribe(1, "matrix/#", qos=granted))
    writer = ready(talk, "writer", version)
    for qos in range(3):
        talk.step(writer, publish("matrix/a", b"%d" % qos, qos, qos))
    talk.step(writer, Ack(6, 2, 0, None))


@scenario(*EVERY)
def qos_2_repeated(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version)
    talk.step(reader, subscribe(1, "twice", qos=0))
    writer = ready(talk, "writer", version)
    for _ in range(2):
        talk.step(writer, publish("twice", b"once", 2, 9, dup=bool(_)))
    for _ in range(2):
        talk.step(writer, Ack(6, 9, 0, None))
    talk.step(writer, publish("twice", b"new", 2, 9))
    talk.step(writer, Ack(6, 9, 0, None))


@scenario(*EVERY)
def qos_2_over_reconnection(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version)
    talk.step(reader, subscribe(1, "again", qos=0))
    writer = ready(talk, "writer", version, False)
    talk.step(writer, publish("again", b"once", 2, 9))
    writer.close()
    writer = ready(talk, "writer", version, False)
    talk.step(writer, publish("again", b"once", 2, 9, dup=True))
    talk.step(writer, Ack(6, 9, 0, None))
    talk.step(writer, Ack(6, 9, 0, None))


@scenario(*EVERY)
def qos_2_out_over_reconnection(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version, False)
    talk.step(reader, subscribe(1, "out/#", qos=2))
    writer = ready(talk, "writer", version)
    talk.step(writer, publish("out/a", b"1", 2, 1))
    talk.step(writer, Ack(6, 1, 0, None))
    reader.close()
    again = ready(talk, "reader", version, False)
    again.packet_ids[:0] = [one for one in reader.packet_ids if one not in again.packet_ids]
    talk.step(again, Ack(5, reader.packet_ids[0], 0, None))
    again.close()
    last = talk.wire("reader", version)
    last.packet_ids = list(reader.packet_ids)
    talk.step(last, connect(f"{talk.name}-reader", version, False))
    talk.step(last, Ack(7, reader.packet_ids[0], 0, None))


@scenario(*EVERY)
def unknown_acknowledgements(talk: Talk, version: int) -> None:
    for kind in (4, 5, 6, 7):
        one = ready(talk, f"kind{kind}", version)
        talk.step(one, Ack(kind, 77, 0, None))
        talk.step(one, PingReq())


@scenario(*EVERY)
def bad_topic_names(talk: Talk, version: int) -> None:
    for number, name in enumerate(
        (b"a/+", b"#", b"", b"a\0b", b"\xff", b"\xed\xa0\x80", b"$SYS/x", b"$other", b"/", b"a" * 60)
    ):
        one = ready(talk, f"name{number}", version)
        body = len(name).to_bytes(2, "big") + name + b"\0\1" + (b"\0" if version == 5 else b"") + b"x"
        talk.step(one, raw(0x32, body))
        if one.open:
            talk.step(one, PingReq())


@scenario(*EVERY)
def bad_publish_packets(talk: Talk, version: int) -> None:
    tail = b"\0" if version == 5 else b""
    for name, first, body in (
        ("qos-3", 0x36, b"\0\1a\0\1" + tail),
        ("packet-id-0", 0x32, b"\0\1a\0\0" + tail),
        ("dup-at-qos-0", 0x38, b"\0\1a" + tail),
        ("too-short", 0x32, b"\0\1a"),
        ("topic-longer-than-packet", 0x30, b"\0\x10a"),
    ):
        one = ready(talk, name, version)
        talk.step(one, raw(first, body))
        if one.open:
            talk.step(one, PingReq())


@scenario(*EVERY)
def wrong_header_flags(talk: Talk, version: int) -> None:
    tail = b"\0" if version == 5 else b""
    for name, data in (
        ("subscribe-80", raw(0x80, b"\0\1" + tail + b"\0\1a\0")),
        ("unsubscribe-a0", raw(0xA0, b"\0\1" + tail + b"\0\1a")),
        ("pubrel-60", raw(0x60, b"\0\1")),
        ("puback-41", raw(0x41, b"\0\1")),
        ("pingreq-c1", raw(0xC1, b"")),
        ("pingreq-with-body", raw(0xC0, b"x")),
        ("disconnect-e1", raw(0xE1, b"")),
        ("type-0", raw(0x00, b"")),
        ("type-15", raw(0xF0, b"")),
        ("connack", raw(0x20, b"\0\0")),
        ("suback", raw(0x90, b"\0\1" + tail + b"\0")),
        ("pingresp", raw(0xD0, b"")),
        ("length-of-5-bytes", b"\x30\xff\xff\xff\xff\x01"),
    ):
        one = ready(talk, name, version)
        talk.step(one, data)
        if one.open:
            talk.step(one, PingReq())


@scenario(*NEW)
def publish_properties(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version)
    talk.step(reader, subscribe(1, "props/#", qos=1))
    writer = ready(talk, "writer", version)
    user = [("b", "1"), ("a", "2"), ("b", "1")]
    values: list[Properties] = [
        {props.USER_PROPERTY: user, props.CONTENT_TYPE: "t", props.RESPONSE_TOPIC: "r", props.CORRELATION_DATA: b"\0"},
        {props.PAYLOAD_FORMAT: 1, props.MESSAGE_EXPIRY: 30},
        {props.PAYLOAD_FORMAT: 0, props.MESSAGE_EXPIRY: 0},
        {props.TOPIC_ALIAS: 1},
    ]
    for number, value in enumerate(values):
        talk.step(writer, publish(f"props/{number}", b"x", 1, number + 1, dict(value)))
    talk.step(writer, publish("", b"by alias", 1, 9, {props.TOPIC_ALIAS: 1}))
    talk.step(writer, publish("props/other", b"alias again", 1, 9, {props.TOPIC_ALIAS: 1}))
    talk.step(writer, publish("", b"by alias", 1, 9, {props.TOPIC_ALIAS: 1}))


@scenario(*NEW)
def bad_publish_properties(talk: Talk, version: int) -> None:
    for name, properties in (
        ("alias-0", b"\x03\x23\0\0"),
        ("alias-unknown", b"\x03\x23\0\5"),
        ("alias-65535", b"\x03\x23\xff\xff"),
        ("format-2", b"\x02\x01\x02"),
        ("format-twice", b"\x04\x01\x01\x01\x01"),
        ("subscription-id", b"\x02\x0b\x01"),
        ("session-expiry", b"\x05\x11\0\0\0\1"),
        ("unknown", b"\x02\x7f\0"),
        ("response-topic-with-wildcard", b"\x04\x08\0\1#"),
        ("length-beyond-packet", b"\x70"),
    ):
        one = ready(talk, name, version)
        topic = b"\0\0" if name == "alias-unknown" else b"\0\1a"
        talk.step(one, raw(0x32, topic + b"\0\1" + properties))
        if one.open:
            talk.step(one, PingReq())


# -- subscribing -------------------------------------------------------------------------------------------------------


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


# -- retained, wills, sessions -----------------------------------------------------------------------------------------


@scenario(*EVERY)
def retained(talk: Talk, version: int) -> None:
    writer = ready(talk, "writer", version)
    for number, (name, payload, qos) in enumerate(
        (("kept/a", b"1", 0), ("kept/b", b"2", 1), ("kept/c", b"3", 2), ("kept/b", b"", 1), ("kept/$d", b"4", 1))
    ):
        talk.step(writer, publish(name, payload, qos, number + 1 if qos else 0, retain=True))
    talk.step(writer, Ack(6, 3, 0, None))
    reader = ready(talk, "reader", version)
    for number, filter_ in enumerate(("kept/+", "kept/#", "kept/a", "kept/b", "+/a", "kept/a/#", "$share/g/kept/#")):
        talk.step(reader, subscribe(number + 1, filter_, qos=1))
    for name in ("a", "c", "$d"):
        talk.step(writer, publish(f"kept/{name}", b"", 1, 9, retain=True))


@scenario(*NEW)
def retain_handling(talk: Talk, version: int) -> None:
    writer = ready(talk, "writer", version)
    talk.step(writer, publish("handle", b"kept", 1, 1, retain=True))
    reader = ready(talk, "reader", version)
    for number, handling in enumerate((2, 1, 0, 1, 0)):
        talk.step(reader, subscribe(number + 1, "handle", qos=1, retain_handling=handling))
    talk.step(reader, Unsubscribe(9, ["handle"]))
    talk.step(reader, subscribe(10, "handle", qos=1, retain_handling=1))
    talk.step(writer, publish("handle", b"", 1, 1, retain=True))


@scenario(*EVERY)
def wills(talk: Talk, version: int) -> None:
    watcher = ready(talk, "watcher", version)
    talk.step(watcher, subscribe(1, "will/#", qos=2))
    one = ready(talk, "a", version, will=Will("will/a", b"disconnected", 1, False))
    talk.step(one, Disconnect())
    one = ready(talk, "b", version, will=Will("will/b", b"closed", 1, True))
    one.close()
    talk.settle()
    one = ready(talk, "c", version, will=Will("will/c", b"", 2, False))
    talk.step(one, b"\xff\xff\xff\xff\xff")
    late = ready(talk, "late", version)
    talk.step(late, subscribe(1, "will/#", qos=1))
    talk.step(late, publish("will/b", b"", 1, 1, retain=True))


@scenario(*NEW)
def will_with_disconnect_code(talk: Talk, version: int) -> None:
    watcher = ready(talk, "watcher", version)
    talk.step(watcher, subscribe(1, "wcode/#", qos=1))
    for code in (0x00, 0x04, 0x80):
        properties: Properties = {props.CONTENT_TYPE: "t", props.USER_PROPERTY: [("a", "b")], props.MESSAGE_EXPIRY: 9}
        one = ready(talk, f"code{code}", version, will=Will(f"wcode/{code}", b"gone", 1, False, properties))
        talk.step(one, Disconnect(code))


@scenario(*EVERY)
def bad_will_topic(talk: Talk, version: int) -> None:
    for name in ("a/#", "$SYS/x", "+"):
        one = talk.wire("a", version)
        talk.step(one, connect(f"{talk.name}-a", version, will=Will(name, b"", 0, False)))
        if one.open:
            talk.step(one, PingReq())


@scenario(*EVERY)
def offline_messages(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version, False)
    talk.step(reader, subscribe(1, "off/a", qos=0), subscribe(2, "off/b", qos=1), subscribe(3, "off/c", qos=2))
    talk.step(reader, Disconnect())
    writer = ready(talk, "writer", version)
    for number, name in enumerate("aabbcc"):
        talk.step(writer, publish(f"off/{name}", b"%d" % number, 1, number + 1))
    talk.step(writer, publish("off/c", b"two", 2, 9))
    talk.step(writer, Ack(6, 9, 0, None))
    reader = ready(talk, "reader", version, False)
    for packet_id in reader.packet_ids[:3]:
        talk.step(reader, Ack(4, packet_id, 0, None))


@scenario(*EVERY)
def unacknowledged_comes_again(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version, False)
    talk.step(reader, subscribe(1, "unack", qos=1))
    writer = ready(talk, "writer", version)
    for number in range(3):
        talk.step(writer, publish("unack", b"%d" % number, 1, number + 1))
    talk.step(reader, Ack(4, reader.packet_ids[1], 0, None))
    reader.close()
    ready(talk, "reader", version, False)


@scenario(*EVERY)
def release_before_receipt(talk: Talk, version: int) -> None:
    """PUBREL in one piece with its PUBLISH."""
    one = ready(talk, "a", version)
    talk.step(one, publish("early", b"x", 2, 1), Ack(6, 1, 0, None))


@scenario(*NEW)
def disconnect_and_expiry(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version, True)
    talk.step(one, Disconnect(0, {props.SESSION_EXPIRY: 10}))
    one = ready(talk, "b", version, False)
    talk.step(one, Disconnect(0, {props.SESSION_EXPIRY: 0}))
    ready(talk, "b", version, False)
    one = ready(talk, "c", version, False)
    talk.step(one, Disconnect(0x8E))
    one = ready(talk, "d", version)
    talk.step(one, Auth(0x18, {props.AUTHENTICATION_METHOD: "x"}))


@scenario(*NEW)
def receive_maximum(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version, properties={props.RECEIVE_MAXIMUM: 2})
    talk.step(reader, subscribe(1, "win", qos=2))
    writer = ready(talk, "writer", version)
    for number in range(5):
        talk.step(writer, publish("win", b"%d" % number, 1 + number % 2, number + 1))
        talk.step(writer, Ack(6, number + 1, 0, None)) if number % 2 else None
    for _ in range(2):
        talk.step(reader, Ack(4, reader.packet_ids[0], 0, None))
    talk.step(reader, Ack(5, reader.packet_ids[1], 0x80, None))


@scenario(*NEW)
def maximum_packet_size(talk: Talk, version: int) -> None:
    reader = ready(talk, "reader", version, properties={props.MAXIMUM_PACKET_SIZE: 40})
    talk.step(reader, subscribe(1, "size", qos=1))
    writer = ready(talk, "writer", version)
    for number, size in enumerate((10, 29, 30, 31, 32, 100, 10)):
        talk.step(writer, publish("size", b"x" * size, 1, number + 1))


@scenario(*NEW)
def shared(talk: Talk, version: int) -> None:
    members = [ready(talk, f"member{number}", version) for number in range(2)]
    for member in members:
        talk.step(member, subscribe(1, "$share/g/sh/#", qos=1))
    writer = ready(talk, "writer", version)
    for number in range(4):
        talk.step(writer, publish("sh/a", b"%d" % number, 1, number + 1))
    talk.step(members[0], Unsubscribe(2, ["$share/g/sh/#", "sh/#"]))
    talk.step(writer, publish("sh/a", b"rest", 1, 9))


@scenario(*EVERY)
def filters_and_dollar(talk: Talk, version: int) -> None:
    one = ready(talk, "a", version)
    talk.step(one, subscribe(1, "#", "+/x", "$dollar/#", "$dollar/+", qos=0))
    for name in ("$dollar/x", "dol/x", "/x", "dol//x"):
        talk.step(one, publish(name, name.encode()))


@scenario(4)
def byte_by_byte(talk: Talk, version: int) -> None:
    one = talk.wire("a", version)
    data = encode(connect(f"{talk.name}-a", version), version) + encode(subscribe(1, "bytes", qos=1), version)
    data += encode(publish("bytes", b"slowly", 1, 2), version) + encode(PingReq(), version)
    for byte in data:
        one.send(bytes((byte,)))
        time.sleep(0.001)
    talk.settle()


@scenario(*EVERY)
def many_in_one_piece(talk: Talk, version: int) -> None:
    """Everything in one write, CONNECT included: each is answered, in order."""
    one = talk.wire("a", version)
    packets = [publish("piece", b"%d" % number, 1, number + 1) for number in range(5)]
    talk.step(one, connect(f"{talk.name}-a", version), subscribe(9, "piece", qos=0), *packets, PingReq(), Disconnect())


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


def transcripts(broker: Broker, port: int, names: list[str]) -> dict[str, list[str]]:
    found = {}
    with broker:
        broker.start()
        for name in names:
            talk = Talk(port, name)
            try:
                SCENARIOS[name](talk, 0)
            except (OSError, IndexError) as error:
                talk.transcript.append(f"the scenario ended: {type(error).__name__}")
            talk.end()
            time.sleep(0.05)  # the connections' ends are seen
            found[name] = talk.transcript
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="scenarios; none: all")
    parser.add_argument("--show", action="store_true", help="print our whole transcripts")
    options = parser.parse_args()
    names = options.names or list(SCENARIOS)
    scratch_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compare-mqtt-", dir=scratch_root()))
    ours = Trivium(directory / "trivium")
    theirs = Mosquitto(directory / "mosquitto")
    with ThreadPoolExecutor() as both:
        asked = both.submit(transcripts, ours, ours.mqtt_port, names)
        wanted, found = transcripts(theirs, theirs.port, names), asked.result()
    shutil.rmtree(directory, ignore_errors=True)
    different = [name for name in names if found[name] != wanted[name]]
    for name in names:
        if options.show:
            print(f"== {name}", *found[name], sep="\n")
        if name in different:
            print(f"-- {name}: - mosquitto, + ours")
            for line in difflib.unified_diff(wanted[name], found[name], lineterm="", n=2):
                if not line.startswith(("---", "+++")):
                    print(f"   {line}")
    print(f"{len(names)} scenarios, {len(names) - len(different)} answered alike")
    return 0


if __name__ == "__main__":
    sys.exit(main())
