"""What outlives a packet: retained messages, wills, sessions, windows; and the framing of all."""

from __future__ import annotations

import time

from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Auth, Disconnect, PingReq, Unsubscribe, Will
from gateway.protocols.mqtt.codec.properties import Properties
from interop.compare_mqtt_scenarios import EVERY, NEW, connect, publish, ready, scenario, subscribe
from interop.compare_mqtt_wire import Talk


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
