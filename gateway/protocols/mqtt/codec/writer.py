"""Values -> bytes, for every control packet and version; `encode` is the general way.

What is sent once per message has functions of its own: `acks` for runs of PUBACK, PUBREC, PUBREL and PUBCOMP without
reason, `publish_head` for the constant beginning of a PUBLISH. Raises LocalProtocolError for what cannot be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from struct import Struct
from typing import Final

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    V5,
    V31,
    Ack,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAckRun,
    Publish,
    PublishRun,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
    Will,
)
from gateway.protocols.mqtt.codec.primitives import encode_binary, encode_string, encode_varint
from gateway.protocols.mqtt.codec.properties import Properties, encode_properties
from gateway.protocols.mqtt.errors import LocalProtocolError
from gateway.protocols.mqtt.reasons import CONNACK_V3

_pack_ack = Struct(">BBH").pack
_ACK_FIRST: Final = {props.PUBACK: 0x40, props.PUBREC: 0x50, props.PUBREL: 0x62, props.PUBCOMP: 0x70}
PINGREQ: Final = b"\xc0\0"
PINGRESP: Final = b"\xd0\0"


def acks(kind: int, packet_ids: Sequence[int]) -> bytes:
    """Acknowledgements of one kind, all successful, one after another; the same bytes in every version."""
    if len(packet_ids) == 1:
        return _pack_ack(_ACK_FIRST[kind], 2, packet_ids[0])
    return b"".join(map(_pack_ack, repeat(_ACK_FIRST[kind]), repeat(2), packet_ids))


def _frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _ack(packet: Ack, version: int) -> bytes:
    body = _u16(packet.packet_id)
    if version == V5 and (packet.code or packet.properties):
        body += bytes((packet.code,))
        if packet.properties:
            body += encode_properties(packet.properties, packet.kind)
    return _frame(_ACK_FIRST[packet.kind], body)


def publish_head(topic: bytes, qos: int, retain: bool, dup: bool, rest_bytes: int) -> bytes:
    """Fixed header and topic of a PUBLISH behind which `rest_bytes` follow (packet id, properties, payload)."""
    length = 2 + len(topic) + rest_bytes
    first = 0x30 | dup << 3 | qos << 1 | retain
    if length < 0x80:
        return bytes((first, length, len(topic) >> 8, len(topic) & 0xFF)) + topic
    return bytes((first,)) + encode_varint(length) + len(topic).to_bytes(2, "big") + topic


def _publish(packet: Publish, version: int) -> bytes:
    if packet.qos not in (0, 1, 2) or bool(packet.qos) != bool(packet.packet_id):
        raise LocalProtocolError("a packet identifier belongs to QoS 1 and 2, and only there")
    rest = _u16(packet.packet_id) if packet.qos else b""
    if version == V5:
        rest += encode_properties(packet.properties, props.PUBLISH)
    rest += packet.payload
    return publish_head(packet.topic.encode(), packet.qos, packet.retain, packet.dup, len(rest)) + rest


def _connect(packet: Connect, version: int) -> bytes:
    will = packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    body = encode_string("MQIsdp" if packet.version == V31 else "MQTT")
    body += bytes((packet.version, flags)) + _u16(packet.keep_alive_s)
    if packet.version == V5:
        body += encode_properties(packet.properties, props.CONNECT)
    body += encode_string(packet.client_id)
    if will is not None:
        body += _will(will, packet.version)
    if packet.username is not None:
        body += encode_string(packet.username)
    if packet.password is not None:
        body += encode_binary(packet.password)
    return _frame(0x10, body)


def _will(will: Will, version: int) -> bytes:
    head = encode_properties(will.properties, props.WILL) if version == V5 else b""
    return head + encode_string(will.topic) + encode_binary(will.payload)


def _connack(packet: ConnAck, version: int) -> bytes:
    if version == V5:
        tail = encode_properties(packet.properties, props.CONNACK)
        return _frame(0x20, bytes((packet.session_present, packet.code)) + tail)
    if packet.code not in CONNACK_V3:
        raise LocalProtocolError(f"MQTT 3 has no return code for 0x{packet.code:02x}")
    # MQTT 3.1 has no session present flag; the byte is reserved there.
    present = packet.session_present and version != V31
    return _frame(0x20, bytes((present, CONNACK_V3[packet.code])))


def _subscribe(packet: Subscribe, version: int) -> bytes:
    body = _u16(packet.packet_id)
    if version == V5:
        body += encode_properties(packet.properties, props.SUBSCRIBE)
    return _frame(0x82, body + b"".join([_request(request, version) for request in packet.requests]))


def _request(request: SubscriptionRequest, version: int) -> bytes:
    options = request.qos
    if version == V5:
        options |= request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
    return encode_string(request.filter) + bytes((options,))


def _suback(packet: SubAck, version: int) -> bytes:
    head = encode_properties(packet.properties, props.SUBACK) if version == V5 else b""
    codes = packet.codes if version == V5 else [code if code < 0x80 else 0x80 for code in packet.codes]
    return _frame(0x90, _u16(packet.packet_id) + head + bytes(codes))


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    head = encode_properties(packet.properties, props.UNSUBSCRIBE) if version == V5 else b""
    return _frame(0xA2, _u16(packet.packet_id) + head + b"".join(map(encode_string, packet.filters)))


def _unsuback(packet: UnsubAck, version: int) -> bytes:
    if version != V5:
        return _frame(0xB0, _u16(packet.packet_id))
    return _frame(
        0xB0, _u16(packet.packet_id) + encode_properties(packet.properties, props.UNSUBACK) + bytes(packet.codes)
    )


def _end(first: int, kind: int, code: int, properties: Properties, version: int) -> bytes:
    if version != V5:
        if kind == props.AUTH:
            raise LocalProtocolError("AUTH is a packet of MQTT 5")
        return bytes((first, 0))
    if not properties:
        return bytes((first, 1, code)) if code else bytes((first, 0))
    return _frame(first, bytes((code,)) + encode_properties(properties, kind))


def encode(packet: Packet, version: int) -> bytes:
    """The packet as bytes in an MQTT version (3, 4 or 5; CONNECT names its own)."""
    match packet:
        case Publish():
            return _publish(packet, version)
        case Ack():
            return _ack(packet, version)
        case Connect():
            return _connect(packet, version)
        case ConnAck():
            return _connack(packet, version)
        case Subscribe():
            return _subscribe(packet, version)
        case SubAck():
            return _suback(packet, version)
        case Unsubscribe():
            return _unsubscribe(packet, version)
        case UnsubAck():
            return _unsuback(packet, version)
        case PingReq():
            return PINGREQ
        case PingResp():
            return PINGRESP
        case Disconnect():
            return _end(0xE0, props.DISCONNECT, packet.code, packet.properties, version)
        case PublishRun() | PubAckRun():
            raise LocalProtocolError("runs are for reading")
        case Auth():
            return _end(0xF0, props.AUTH, packet.code, packet.properties, version)
