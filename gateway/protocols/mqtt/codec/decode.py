"""Bodies of control packets -> values. One function per packet type, called with bytes that are all here.

`parse` is the table; `first` is the first byte of the fixed header (type and flags), `version` the protocol level that
the connection speaks (0 before CONNECT). Raises RemoteProtocolError. CONNECT keeps to the rules of its own version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from core.filters import check_topic, parse_filter
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    V5,
    V31,
    V311,
    Ack,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
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
from gateway.protocols.mqtt.codec.primitives import decode_string, read_binary, read_string, read_u8, read_u16
from gateway.protocols.mqtt.codec.properties import Properties, read_properties
from gateway.protocols.mqtt.errors import RemoteProtocolError, malformed, protocol_error

_PROTOCOLS: Final = {("MQIsdp", V31), ("MQTT", V311), ("MQTT", V5)}


def _packet_id(data: bytes, at: int, end: int) -> tuple[int, int]:
    packet_id, at = read_u16(data, at, end)
    if packet_id == 0:
        raise protocol_error("packet identifier 0")
    return packet_id, at


def _at_end(at: int, end: int) -> None:
    if at != end:
        raise malformed("bytes left over at the end of the packet")


def decode_topic(raw: bytes) -> str:
    """A topic name as it stands in a PUBLISH or a will; raises RemoteProtocolError for wildcards, NUL, bad UTF-8."""
    topic = decode_string(raw)
    if (problem := check_topic(topic)) is not None:
        raise malformed(problem)
    return topic


def _publish(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    qos = first >> 1 & 3
    dup = bool(first & 8)
    if qos == 3:
        raise malformed("PUBLISH with QoS 3")
    if dup and qos == 0 and version != V31:
        raise malformed("PUBLISH at QoS 0 with DUP set")
    raw, at = read_binary(data, at, end)
    topic = decode_topic(raw) if raw or version != V5 else ""
    packet_id = 0
    if qos:
        packet_id, at = _packet_id(data, at, end)
    properties: Properties | None = None
    if version == V5:
        properties, at = read_properties(data, at, end, props.PUBLISH)
        if not topic and props.TOPIC_ALIAS not in properties:
            raise protocol_error("PUBLISH without a topic name and without a topic alias")
        if (response := properties.get(props.RESPONSE_TOPIC)) is not None and check_topic(response) is not None:
            raise protocol_error("the response topic is no topic name")
    return Publish(topic, data[at:end], qos, bool(first & 1), dup, packet_id, properties or None)


_ACK_CODES: Final = {
    props.PUBACK: reasons.PUBACK_CODES,
    props.PUBREC: reasons.PUBREC_CODES,
    props.PUBREL: reasons.PUBREL_CODES,
    props.PUBCOMP: reasons.PUBCOMP_CODES,
}


def _ack(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    kind = first >> 4
    packet_id, at = _packet_id(data, at, end)
    code, properties = _code_and_properties(data, at, end, kind, _ACK_CODES[kind], version)
    return Ack(kind, packet_id, code, properties or None)


def _code_and_properties(
    data: bytes, at: int, end: int, kind: int, codes: frozenset[int], version: int
) -> tuple[int, Properties]:
    """The optional end of acknowledgements, DISCONNECT and AUTH: reason code, then properties."""
    if at == end:
        return 0, {}
    if version != V5:
        raise malformed("bytes left over at the end of the packet")
    code, at = read_u8(data, at, end)
    if code not in codes:
        raise protocol_error(f"reason code 0x{code:02x} does not belong in this packet")
    properties: Properties = {}
    if at < end:
        properties, at = read_properties(data, at, end, kind)
    _at_end(at, end)
    return code, properties


def _connect(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    name, at = read_string(data, at, end)
    level, at = read_u8(data, at, end)
    if (name, level) not in _PROTOCOLS:
        if name not in ("MQTT", "MQIsdp"):
            raise malformed("the protocol is not MQTT")
        raise UnsupportedVersion(level)
    if first & 0x0F and level != V31:
        raise _wrong_flags(first)
    flags, at = read_u8(data, at, end)
    will_qos = flags >> 3 & 3
    if flags & 1 and level != V31:
        raise malformed("the reserved flag of CONNECT is set")
    if will_qos == 3 or (not flags & 4 and flags & 0x38):
        raise malformed("the will flags of CONNECT contradict each other")
    if flags & 0x40 and not flags & 0x80 and level != V5:
        raise malformed("CONNECT with a password but no user name")
    keep_alive_s, at = read_u16(data, at, end)
    properties: Properties = {}
    if level == V5:
        properties, at = read_properties(data, at, end, props.CONNECT)
        if props.AUTHENTICATION_DATA in properties and props.AUTHENTICATION_METHOD not in properties:
            raise protocol_error("authentication data without a method")
    client_id, at = read_string(data, at, end)
    will: Will | None = None
    if flags & 4:
        will, at = _will(data, at, end, level)
        will.qos = will_qos
        will.retain = bool(flags & 0x20)
    username: str | None = None
    password: bytes | None = None
    # MQTT 3.1: the remaining length takes precedence over the user name and password flags.
    if flags & 0x80 and not (level == V31 and at == end):
        username, at = read_string(data, at, end)
    if flags & 0x40 and not (level == V31 and at == end):
        password, at = read_binary(data, at, end)
    _at_end(at, end)
    return Connect(level, client_id, bool(flags & 2), keep_alive_s, username, password, will, properties)


def _will(data: bytes, at: int, end: int, level: int) -> tuple[Will, int]:
    properties: Properties = {}
    if level == V5:
        properties, at = read_properties(data, at, end, props.WILL)
        if (response := properties.get(props.RESPONSE_TOPIC)) is not None and check_topic(response) is not None:
            raise protocol_error("the response topic of the will is no topic name")
    raw, at = read_binary(data, at, end)
    payload, at = read_binary(data, at, end)
    return Will(decode_topic(raw), payload, 0, False, properties), at


class UnsupportedVersion(RemoteProtocolError):
    """CONNECT for MQTT at a level that is not spoken here; `level` says which, as it decides the form of the answer."""

    def __init__(self, level: int) -> None:
        super().__init__(reasons.UNSUPPORTED_VERSION, f"protocol level {level} is not supported")
        self.level = level


def _connack(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    flags, at = read_u8(data, at, end)
    code, at = read_u8(data, at, end)
    if flags > 1:
        raise malformed("reserved flags of CONNACK are set")
    properties: Properties = {}
    if version == V5:
        properties, at = read_properties(data, at, end, props.CONNACK)
    _at_end(at, end)
    return ConnAck(bool(flags), code, properties)


def _subscribe(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    packet_id, at = _packet_id(data, at, end)
    properties: Properties = {}
    if version == V5:
        properties, at = read_properties(data, at, end, props.SUBSCRIBE)
    requests: list[SubscriptionRequest] = []
    while at < end:
        name, at = read_string(data, at, end)
        options, at = read_u8(data, at, end)
        requests.append(_request(name, options, version))
    if not requests:
        raise protocol_error("SUBSCRIBE without a topic filter")
    return Subscribe(packet_id, requests, properties)


def _request(name: str, options: int, version: int) -> SubscriptionRequest:
    share, _, problem = parse_filter(name)
    if problem is not None:
        raise malformed(problem)
    if options & (0xC0 if version == V5 else 0xFC):
        raise malformed("reserved bits of the subscription options are set")
    qos = options & 3
    if qos == 3:
        raise malformed("subscription at QoS 3") if version != V5 else protocol_error("subscription at QoS 3")
    if version != V5:
        return SubscriptionRequest(name, qos)
    handling = options >> 4
    if handling == 3:
        raise protocol_error("retain handling 3")
    no_local = bool(options & 4)
    if no_local and share is not None:
        raise protocol_error("no-local on a shared subscription")
    return SubscriptionRequest(name, qos, no_local, bool(options & 8), handling)


def _suback(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    packet_id, at = _packet_id(data, at, end)
    properties: Properties = {}
    if version == V5:
        properties, at = read_properties(data, at, end, first >> 4)
    codes = list(data[at:end])
    made = SubAck if first >> 4 == props.SUBACK else UnsubAck
    return made(packet_id, codes, properties)


def _unsubscribe(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    packet_id, at = _packet_id(data, at, end)
    properties: Properties = {}
    if version == V5:
        properties, at = read_properties(data, at, end, props.UNSUBSCRIBE)
    filters: list[str] = []
    while at < end:
        name, at = read_string(data, at, end)
        if (problem := parse_filter(name)[2]) is not None:
            raise malformed(problem)
        filters.append(name)
    if not filters:
        raise protocol_error("UNSUBSCRIBE without a topic filter")
    return Unsubscribe(packet_id, filters, properties)


def _ping(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    _at_end(at, end)
    return PingReq() if first >> 4 == props.PINGREQ else PingResp()


_DISCONNECT_CODES: Final = reasons.DISCONNECT_FROM_CLIENT | reasons.DISCONNECT_FROM_SERVER


def _disconnect(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    return Disconnect(*_code_and_properties(data, at, end, props.DISCONNECT, _DISCONNECT_CODES, version))


def _auth(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    if version != V5:
        raise malformed("AUTH is a packet of MQTT 5")
    return Auth(*_code_and_properties(data, at, end, props.AUTH, reasons.AUTH_CODES, version))


_Parser = Callable[[bytes, int, int, int, int], Packet]
# packet type: (flags that the fixed header must have, or -1 for any; parser)
_PARSERS: Final[dict[int, tuple[int, _Parser]]] = {
    props.CONNECT: (-1, _connect),
    props.CONNACK: (0, _connack),
    props.PUBLISH: (-1, _publish),
    props.PUBACK: (0, _ack),
    props.PUBREC: (0, _ack),
    props.PUBREL: (2, _ack),
    props.PUBCOMP: (0, _ack),
    props.SUBSCRIBE: (2, _subscribe),
    props.SUBACK: (0, _suback),
    props.UNSUBSCRIBE: (2, _unsubscribe),
    props.UNSUBACK: (0, _suback),
    props.PINGREQ: (0, _ping),
    props.PINGRESP: (0, _ping),
    props.DISCONNECT: (0, _disconnect),
    props.AUTH: (0, _auth),
}


def _wrong_flags(first: int) -> RemoteProtocolError:
    return malformed(f"the flags of packet type {first >> 4} are 0x{first & 0x0F:x}")


def parse(data: bytes, at: int, end: int, first: int, version: int) -> Packet:
    """Parse the body `data[at:end]` of a packet whose fixed header begins with `first`."""
    kind = first >> 4
    entry = _PARSERS.get(kind)
    if entry is None:
        raise malformed("packet type 0")
    flags, parser = entry
    # MQTT 3.1 calls the flags of packets other than PUBLISH unused (its section 3); later versions reserve them.
    if flags >= 0 and first & 0x0F != flags and version != V31:
        raise _wrong_flags(first)
    return parser(data, at, end, first, version)
