"""What consumers of classic groups exchange through the coordinator: subscriptions and assignments. Sans-IO.

The coordinator passes them on as they are; it reads them only to tell which topics a group subscribes to
(OffsetDelete), and to serve classic members of KIP-848 groups. Both begin with a version of 2 bytes. A version above
ours is read as our newest, bytes behind what we know being later additions (KIP-429 and KIP-792 grew the format so).
"""

from __future__ import annotations

import struct
from typing import Final, cast

from gateway.protocols.kafka.codec import decode_prefix, encode_message
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.codec_runtime import Buffer
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.messages import ConsumerProtocolAssignment, ConsumerProtocolSubscription

VERSION_MAX: Final = 3

_VERSION: Final = struct.Struct(">h")


def decode_subscription(data: Buffer) -> ConsumerProtocolSubscription:
    """Decode a member's metadata. Raises RemoteProtocolError."""
    return cast(ConsumerProtocolSubscription, _decode("ConsumerProtocolSubscription", data))


def decode_assignment(data: Buffer) -> ConsumerProtocolAssignment:
    """Decode a member's assignment. Raises RemoteProtocolError."""
    return cast(ConsumerProtocolAssignment, _decode("ConsumerProtocolAssignment", data))


def encode_subscription(subscription: ConsumerProtocolSubscription, version: int = VERSION_MAX) -> bytes:
    return _VERSION.pack(version) + encode_message(version, subscription)


def encode_assignment(assignment: ConsumerProtocolAssignment, version: int = VERSION_MAX) -> bytes:
    return _VERSION.pack(version) + encode_message(version, assignment)


def _decode(name: str, data: Buffer) -> Message:
    if len(data) < 2:
        raise RemoteProtocolError(f"{name}: {len(data)} bytes, too few for its version")
    (version,) = _VERSION.unpack_from(data)
    if version < 0:
        raise RemoteProtocolError(f"{name}: version {version}")
    message, _ = decode_prefix(name, min(version, VERSION_MAX), data, 2)
    return message
