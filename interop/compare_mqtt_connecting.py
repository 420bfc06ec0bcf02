"""CONNECT: what is refused, who is taken over, what a session is told to be."""

from __future__ import annotations

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Disconnect, PingReq, Will
from gateway.protocols.mqtt.codec.properties import Properties
from interop.compare_mqtt_scenarios import EVERY, NEW, connect, publish, raw, ready, scenario, subscribe
from interop.compare_mqtt_wire import Talk


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
