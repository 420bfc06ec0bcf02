"""The bytes of a PUBLISH with what is one receiver's own: topic alias, subscription identifiers, remaining expiry, DUP.

What all receivers share is in message.py.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from gateway.protocols.mqtt.codec.packets import V5
from gateway.protocols.mqtt.codec.primitives import encode_varint
from gateway.protocols.mqtt.codec.writer import publish_head
from gateway.protocols.mqtt.message import Message

_EXPIRY_BYTES: Final = 5  # of the encoded property
_ALIAS_BYTES: Final = 3


class AliasesOut:
    """The aliases that a client has been told: the first topics get one, as many as it allows."""

    __slots__ = ("_aliases_max", "known")

    def __init__(self, aliases_max: int) -> None:
        self.known: dict[bytes, int] = {}
        self._aliases_max = aliases_max

    def of(self, topic: bytes) -> tuple[bytes, bytes]:
        """(topic to send, topic alias property)."""
        alias = self.known.get(topic)
        if alias is not None:
            return b"", b"\x23" + alias.to_bytes(2, "big")
        if len(self.known) >= self._aliases_max or len(topic) < 4:
            return topic, b""
        self.known[topic] = alias = len(self.known) + 1
        return topic, b"\x23" + alias.to_bytes(2, "big")


def own_form(
    message: Message,
    version: int,
    qos: int,
    retain: bool,
    dup: bool,
    packet_id: int,
    identifiers: bytes,
    now_s: float,
    aliases: AliasesOut | None,
    bytes_max: int,
) -> bytes:
    """A PUBLISH for one receiver; `identifiers` are encoded. Empty if it is larger than `bytes_max`."""
    known = len(aliases.known) if aliases is not None else 0
    rest = packet_id.to_bytes(2, "big") if qos else b""
    topic = message.topic
    if version == V5:
        properties = message.properties + identifiers
        if message.expires_s is not None:
            left_s = max(1, ceil(message.expires_s - now_s))
            properties += b"\x02" + min(left_s, 0xFFFFFFFF).to_bytes(4, "big")
        if aliases is not None:
            topic, alias = aliases.of(topic)
            properties += alias
        rest += encode_varint(len(properties)) + properties
    rest += message.payload
    data = publish_head(topic, qos, retain, dup, len(rest)) + rest
    if len(data) <= bytes_max:
        return data
    if aliases is None or len(aliases.known) == known:
        return b""
    aliases.known.popitem()  # the client would never hear of this alias
    return own_form(message, version, qos, retain, dup, packet_id, identifiers, now_s, None, bytes_max)


def fits(message: Message, version: int, identifiers: bytes, *, aliased: bool, bytes_max: int) -> bool:
    """Whether a PUBLISH with a packet id is not larger than `bytes_max`, whatever becomes its receiver's own."""
    if bytes_max == 0xFFFFFFFF:
        return True
    rest = 2 + len(message.payload)
    if version == V5:
        properties_bytes = len(message.properties) + len(identifiers)
        properties_bytes += (_EXPIRY_BYTES if message.expires_s is not None else 0) + (_ALIAS_BYTES if aliased else 0)
        rest += len(encode_varint(properties_bytes)) + properties_bytes
    return len(publish_head(message.topic, 2, False, False, rest)) + rest <= bytes_max
