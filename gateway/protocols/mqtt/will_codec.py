"""A will as it is stored: QoS and RETAIN, topic, will properties as in CONNECT, payload."""

from __future__ import annotations

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Will
from gateway.protocols.mqtt.codec.primitives import encode_string, read_string
from gateway.protocols.mqtt.codec.properties import encode_properties, read_properties


def pack_will(will: Will) -> bytes:
    flags = bytes((will.qos << 1 | will.retain,))
    return flags + encode_string(will.topic) + encode_properties(will.properties, props.WILL) + will.payload


def unpack_will(data: bytes) -> Will:
    """Raises RemoteProtocolError for what `pack_will` has not made."""
    topic, at = read_string(data, 1, len(data))
    properties, at = read_properties(data, at, len(data), props.WILL)
    return Will(topic, data[at:], data[0] >> 1, bool(data[0] & 1), properties)
