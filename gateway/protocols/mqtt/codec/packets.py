"""The control packets as plain values. Reason codes are those of MQTT 5 or, for MQTT 3, the return codes as sent.

PUBLISH and the acknowledgements are tuples, as they are made once per message; the rest are made once per connection
or subscription. `properties` is None or empty when there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gateway.protocols.mqtt.codec.properties import Properties

V31 = 3
V311 = 4
V5 = 5


class Publish(NamedTuple):
    topic: str  # empty only in MQTT 5, with a topic alias
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int  # 0 at QoS 0
    properties: Properties | None


class PublishRun(NamedTuple):
    """Consecutive PUBLISH packets of one name at QoS 0 or 1, without RETAIN, DUP or properties."""

    topic: str
    raw_topic: bytes
    qos: int
    payloads: list[bytes]
    packet_ids: list[int]  # empty at QoS 0


class PubAckRun(NamedTuple):
    """Consecutive plain PUBACK packets."""

    packet_ids: list[int]


class Ack(NamedTuple):
    """PUBACK, PUBREC, PUBREL or PUBCOMP; `kind` is the packet type."""

    kind: int
    packet_id: int
    code: int
    properties: Properties | None


@dataclass(slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connect:
    version: int
    client_id: str
    clean_start: bool
    keep_alive_s: int
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class ConnAck:
    session_present: bool
    code: int
    properties: Properties = field(default_factory=dict)


class SubscriptionRequest(NamedTuple):
    """One entry of a SUBSCRIBE: the filter as sent (with `$share/...`) and its options (retain_* are MQTT 5)."""

    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    requests: list[SubscriptionRequest]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class SubAck:
    packet_id: int
    codes: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: list[str]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class UnsubAck:
    """`codes` is empty in MQTT 3."""

    packet_id: int
    codes: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class PingReq:
    pass


@dataclass(slots=True)
class PingResp:
    pass


@dataclass(slots=True)
class Disconnect:
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    code: int = 0
    properties: Properties = field(default_factory=dict)


Packet: TypeAlias = (
    Publish
    | PublishRun
    | PubAckRun
    | Ack
    | Connect
    | ConnAck
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
