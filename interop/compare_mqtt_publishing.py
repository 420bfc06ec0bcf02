"""PUBLISH and its acknowledgements: right ones, wrong ones, and those that nobody asked for."""

from __future__ import annotations

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, PingReq
from gateway.protocols.mqtt.codec.properties import Properties
from interop.compare_mqtt_scenarios import EVERY, NEW, connect, publish, raw, ready, scenario, subscribe
from interop.compare_mqtt_wire import Talk


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
