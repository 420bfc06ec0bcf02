"""Other codecs as oracles: what paho and amqtt write, we read, and what we write, amqtt reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.subscribe import SubscribePacket
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import MQTTException
from paho.mqtt import properties as paho
from paho.mqtt.packettypes import PacketTypes

from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Connect, Packet, Publish, Subscribe, SubscriptionRequest, Will
from gateway.protocols.mqtt.codec.properties import encode_properties, read_properties
from tests.mqtt.test_codec import DATA, IDS, MESSAGE, NAME, TEXT, U16


def _by_amqtt(kind: Any, data: bytes) -> Any:
    async def read() -> Any:
        stream = BufferReader(data)
        header = await MQTTFixedHeader.from_stream(stream)
        return await kind.from_stream(stream, fixed_header=header)

    return asyncio.run(read())


@given(NAME, DATA, st.integers(0, 2), st.booleans(), st.booleans(), IDS)
def test_amqtt_reads_our_publish_and_we_read_its(
    topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int
) -> None:
    packet = Publish(topic, payload, qos, retain, dup and qos > 0, packet_id if qos else 0, None)
    theirs = _by_amqtt(PublishPacket, encode(packet, 4))
    assert (theirs.topic_name, bytes(theirs.payload.data), theirs.qos) == (topic, payload, qos)
    assert (theirs.retain_flag, theirs.packet_id or 0) == (retain, packet.packet_id)
    packets: list[Packet] = []
    Reader(1 << 20, 4).feed(bytes(theirs.to_bytes()), packets)
    assert packets == [packet]


@given(
    TEXT.filter(bool),
    st.booleans(),
    U16,
    st.none() | TEXT,
    st.none() | st.builds(Will, NAME, DATA, st.integers(0, 2), st.booleans()),
)
def test_amqtt_reads_our_connect(
    client_id: str, clean: bool, keep_alive_s: int, user: str | None, will: Will | None
) -> None:
    theirs = _by_amqtt(ConnectPacket, encode(Connect(4, client_id, clean, keep_alive_s, user, None, will), 4))
    assert (theirs.client_id, theirs.clean_session_flag, theirs.keep_alive) == (client_id, clean, keep_alive_s)
    assert theirs.username == user
    assert bool(theirs.will_flag) is (will is not None)
    if will is not None:
        assert (theirs.will_topic, bytes(theirs.will_message), theirs.will_qos) == (will.topic, will.payload, will.qos)


@given(IDS, st.lists(st.builds(SubscriptionRequest, NAME, st.integers(0, 2)), min_size=1, max_size=4))
def test_amqtt_reads_our_subscribe(packet_id: int, requests: list[SubscriptionRequest]) -> None:
    theirs = _by_amqtt(SubscribePacket, encode(Subscribe(packet_id, requests), 4))
    assert theirs.variable_header.packet_id == packet_id
    assert [tuple(topic) for topic in theirs.payload.topics] == [(one.filter, one.qos) for one in requests]


Properties: Any = paho.Properties  # untyped there
_NAMES = {
    props.PAYLOAD_FORMAT: "PayloadFormatIndicator",
    props.MESSAGE_EXPIRY: "MessageExpiryInterval",
    props.CONTENT_TYPE: "ContentType",
    props.RESPONSE_TOPIC: "ResponseTopic",
    props.CORRELATION_DATA: "CorrelationData",
    props.USER_PROPERTY: "UserProperty",
}


@given(MESSAGE)
def test_paho_and_we_write_and_read_the_same_properties(ours: dict[int, Any]) -> None:
    theirs = Properties(PacketTypes.PUBLISH)
    for key, value in ours.items():
        setattr(theirs, _NAMES[key], value)
    packed = theirs.pack()
    assert read_properties(packed, 0, len(packed), props.PUBLISH) == (ours, len(packed))
    read = Properties(PacketTypes.PUBLISH)
    data = encode_properties(ours, props.PUBLISH)
    read.unpack(data)
    for key, value in ours.items():
        assert getattr(read, _NAMES[key]) == value


def test_paho_refuses_what_we_refuse() -> None:
    with pytest.raises(MQTTException):
        Properties(PacketTypes.PUBLISH).unpack(b"\x04\x01\x00\x01\x00")
