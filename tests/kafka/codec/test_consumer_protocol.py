"""Subscriptions and assignments inside groups: our bytes are kafka-python's, and later versions are still read."""

from __future__ import annotations

import warnings

import pytest

from gateway.protocols.kafka.consumer_protocol import (
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.messages import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from tests.kafka.codec.random_messages import RandomMessages

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka.protocol.consumer.metadata as theirs

Subscription = ConsumerProtocolSubscription


def test_a_subscription_by_hand() -> None:
    data = encode_subscription(Subscription(topics=["a", "bc"], user_data=b"u"), 0)
    assert data == bytes.fromhex("0000 00000002 0001 61 0002 6263 00000001 75")


@pytest.mark.parametrize("version", range(4))
def test_kafka_python_reads_and_writes_the_same(version: int) -> None:
    for seed in range(6):
        randoms = RandomMessages(f"consumer protocol {version} {seed}")
        subscription = randoms.message("ConsumerProtocolSubscription", version)
        assert isinstance(subscription, Subscription)
        data = encode_subscription(subscription, version)
        assert theirs.ConsumerProtocolSubscription.decode(data).encode() == data
        assert decode_subscription(data) == subscription
        assignment = randoms.message("ConsumerProtocolAssignment", version)
        assert isinstance(assignment, ConsumerProtocolAssignment)
        data = encode_assignment(assignment, version)
        assert theirs.ConsumerProtocolAssignment.decode(data).encode() == data
        assert decode_assignment(data) == assignment


def test_a_later_version_is_read_as_our_newest() -> None:
    subscription = Subscription(topics=["t"], generation_id=4, rack_id="r")
    later = b"\x00\x09" + encode_subscription(subscription)[2:] + b"what later versions add"
    assert decode_subscription(later) == subscription


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\xff\xff", b"\0\0\x7f\xff\xff\xff"])
def test_broken_ones_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_subscription(data)
    with pytest.raises(RemoteProtocolError):
        decode_assignment(data)
