"""Properties of MQTT 5 (section 2.2.2): one table says type, packets and repetition; reader and writer follow it.

A set of properties is a dict from identifier to value: int, str, bytes; a list of (name, value) for user properties,
in order and with duplicates; a list of int for subscription identifiers. The will has its own context, as the spec
gives its properties a list of their own. Violations: unknown identifier, wrong packet or broken type are malformed
(0x81); a repetition or a value outside its range is a protocol error (0x82).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from gateway.protocols.mqtt.codec.primitives import (
    encode_binary,
    encode_string,
    encode_varint,
    read_binary,
    read_string,
    read_u8,
    read_u16,
    read_u32,
    read_varint,
)
from gateway.protocols.mqtt.errors import LocalProtocolError, malformed, protocol_error

Properties: TypeAlias = dict[int, Any]
UserProperties: TypeAlias = list[tuple[str, str]]

PAYLOAD_FORMAT: Final = 0x01
MESSAGE_EXPIRY: Final = 0x02
CONTENT_TYPE: Final = 0x03
RESPONSE_TOPIC: Final = 0x08
CORRELATION_DATA: Final = 0x09
SUBSCRIPTION_ID: Final = 0x0B
SESSION_EXPIRY: Final = 0x11
ASSIGNED_CLIENT_ID: Final = 0x12
SERVER_KEEP_ALIVE: Final = 0x13
AUTHENTICATION_METHOD: Final = 0x15
AUTHENTICATION_DATA: Final = 0x16
REQUEST_PROBLEM_INFORMATION: Final = 0x17
WILL_DELAY: Final = 0x18
REQUEST_RESPONSE_INFORMATION: Final = 0x19
RESPONSE_INFORMATION: Final = 0x1A
SERVER_REFERENCE: Final = 0x1C
REASON_STRING: Final = 0x1F
RECEIVE_MAXIMUM: Final = 0x21
TOPIC_ALIAS_MAXIMUM: Final = 0x22
TOPIC_ALIAS: Final = 0x23
MAXIMUM_QOS: Final = 0x24
RETAIN_AVAILABLE: Final = 0x25
USER_PROPERTY: Final = 0x26
MAXIMUM_PACKET_SIZE: Final = 0x27
WILDCARD_AVAILABLE: Final = 0x28
SUBSCRIPTION_IDS_AVAILABLE: Final = 0x29
SHARED_AVAILABLE: Final = 0x2A

# Contexts are packet types; 0 stands for the will's own list inside CONNECT.
WILL: Final = 0
CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14
AUTH: Final = 15

_U8, _U16, _U32, _VARINT, _STRING, _BINARY, _PAIR = range(7)
_READERS = {_U8: read_u8, _U16: read_u16, _U32: read_u32, _VARINT: read_varint, _STRING: read_string}
_ACKS = (CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)

# identifier: (type, contexts, lowest value, highest value); the range counts for integers only.
_TABLE: Final[dict[int, tuple[int, frozenset[int], int, int]]] = {
    PAYLOAD_FORMAT: (_U8, frozenset((PUBLISH, WILL)), 0, 1),
    MESSAGE_EXPIRY: (_U32, frozenset((PUBLISH, WILL)), 0, 0xFFFFFFFF),
    CONTENT_TYPE: (_STRING, frozenset((PUBLISH, WILL)), 0, 0),
    RESPONSE_TOPIC: (_STRING, frozenset((PUBLISH, WILL)), 0, 0),
    CORRELATION_DATA: (_BINARY, frozenset((PUBLISH, WILL)), 0, 0),
    SUBSCRIPTION_ID: (_VARINT, frozenset((PUBLISH, SUBSCRIBE)), 1, 268_435_455),
    SESSION_EXPIRY: (_U32, frozenset((CONNECT, CONNACK, DISCONNECT)), 0, 0xFFFFFFFF),
    ASSIGNED_CLIENT_ID: (_STRING, frozenset((CONNACK,)), 0, 0),
    SERVER_KEEP_ALIVE: (_U16, frozenset((CONNACK,)), 0, 0xFFFF),
    AUTHENTICATION_METHOD: (_STRING, frozenset((CONNECT, CONNACK, AUTH)), 0, 0),
    AUTHENTICATION_DATA: (_BINARY, frozenset((CONNECT, CONNACK, AUTH)), 0, 0),
    REQUEST_PROBLEM_INFORMATION: (_U8, frozenset((CONNECT,)), 0, 1),
    WILL_DELAY: (_U32, frozenset((WILL,)), 0, 0xFFFFFFFF),
    REQUEST_RESPONSE_INFORMATION: (_U8, frozenset((CONNECT,)), 0, 1),
    RESPONSE_INFORMATION: (_STRING, frozenset((CONNACK,)), 0, 0),
    SERVER_REFERENCE: (_STRING, frozenset((CONNACK, DISCONNECT)), 0, 0),
    REASON_STRING: (_STRING, frozenset(_ACKS), 0, 0),
    RECEIVE_MAXIMUM: (_U16, frozenset((CONNECT, CONNACK)), 1, 0xFFFF),
    TOPIC_ALIAS_MAXIMUM: (_U16, frozenset((CONNECT, CONNACK)), 0, 0xFFFF),
    TOPIC_ALIAS: (_U16, frozenset((PUBLISH,)), 0, 0xFFFF),  # 0 has its own reason code, given by the machine
    MAXIMUM_QOS: (_U8, frozenset((CONNACK,)), 0, 1),
    RETAIN_AVAILABLE: (_U8, frozenset((CONNACK,)), 0, 1),
    USER_PROPERTY: (_PAIR, frozenset((*_ACKS, WILL, CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE)), 0, 0),
    MAXIMUM_PACKET_SIZE: (_U32, frozenset((CONNECT, CONNACK)), 1, 0xFFFFFFFF),
    WILDCARD_AVAILABLE: (_U8, frozenset((CONNACK,)), 0, 1),
    SUBSCRIPTION_IDS_AVAILABLE: (_U8, frozenset((CONNACK,)), 0, 1),
    SHARED_AVAILABLE: (_U8, frozenset((CONNACK,)), 0, 1),
}


def read_properties(data: bytes, at: int, end: int, context: int) -> tuple[Properties, int]:
    """Read a property length and that many bytes of properties for a packet type (0: will).

    The number of properties is bounded by the bytes of the packet. Raises RemoteProtocolError.
    """
    length, at = read_varint(data, at, end)
    stop = at + length
    if stop > end:
        raise malformed("properties reach beyond the packet")
    found: Properties = {}
    while at < stop:
        identifier, at = read_varint(data, at, stop)
        entry = _TABLE.get(identifier)
        if entry is None or context not in entry[1]:
            raise malformed(f"property 0x{identifier:02x} does not belong in this packet")
        kind, _, low, high = entry
        if kind == _PAIR:
            name, at = read_string(data, at, stop)
            text, at = read_string(data, at, stop)
            found.setdefault(USER_PROPERTY, []).append((name, text))
            continue
        if kind == _BINARY:
            value: Any
            value, at = read_binary(data, at, stop)
        else:
            value, at = _READERS[kind](data, at, stop)
            if kind != _STRING and not low <= value <= high:
                raise protocol_error(f"property 0x{identifier:02x} has the value {value}")
        if identifier == SUBSCRIPTION_ID and context == PUBLISH:
            found.setdefault(SUBSCRIPTION_ID, []).append(value)
        elif identifier in found:
            raise protocol_error(f"property 0x{identifier:02x} is there twice")
        else:
            found[identifier] = value
    return found, stop


def encode_property(identifier: int, value: Any) -> bytes:
    """One property, or all of a repeated one (user properties, subscription identifiers of a PUBLISH)."""
    kind, _, low, high = _TABLE[identifier]
    head = bytes((identifier,))
    if kind == _PAIR:
        return b"".join([head + encode_string(name) + encode_string(text) for name, text in value])
    if kind == _STRING:
        return head + encode_string(value)
    if kind == _BINARY:
        return head + encode_binary(value)
    if isinstance(value, list):
        return b"".join([encode_property(identifier, one) for one in value])
    if not low <= value <= high:
        raise LocalProtocolError(f"property 0x{identifier:02x} cannot have the value {value}")
    if kind == _VARINT:
        return head + encode_varint(value)
    return head + int(value).to_bytes((1, 2, 4)[kind], "big")


def encode_properties(properties: Mapping[int, Any] | None, context: int) -> bytes:
    """The properties with their length in front; none is a length of zero ([MQTT-2.2.2-1])."""
    if not properties:
        return b"\0"
    for identifier in properties:
        if identifier not in _TABLE or context not in _TABLE[identifier][1]:
            raise LocalProtocolError(f"property 0x{identifier:02x} does not belong in packet type {context}")
    body = b"".join([encode_property(identifier, value) for identifier, value in properties.items()])
    return encode_varint(len(body)) + body
