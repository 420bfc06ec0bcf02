"""The codec: round trips, rules of the data types and properties, byte by byte, hostile lengths, other codecs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
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
from gateway.protocols.mqtt.codec.primitives import encode_varint, read_varint
from gateway.protocols.mqtt.codec.properties import encode_properties, read_properties
from gateway.protocols.mqtt.errors import LocalProtocolError, RemoteProtocolError

clause = pytest.mark.clause
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=6)
DATA = st.binary(max_size=6)
IDS = st.integers(1, 65_535)
U16, U32 = st.integers(0, 65_535), st.integers(0, 0xFFFFFFFF)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
BITS = st.integers(0, 1)
SPECIAL: dict[int, st.SearchStrategy[Any]] = {
    props.PAYLOAD_FORMAT: BITS,
    props.MESSAGE_EXPIRY: U32,
    props.CONTENT_TYPE: TEXT,
    props.RESPONSE_TOPIC: NAME,
    props.CORRELATION_DATA: DATA,
    props.USER_PROPERTY: PAIRS,
    props.SESSION_EXPIRY: U32,
    props.RECEIVE_MAXIMUM: IDS,
    props.MAXIMUM_PACKET_SIZE: st.integers(1, 0xFFFFFFFF),
    props.TOPIC_ALIAS_MAXIMUM: U16,
    props.TOPIC_ALIAS: U16,
    props.REQUEST_PROBLEM_INFORMATION: BITS,
    props.REQUEST_RESPONSE_INFORMATION: BITS,
    props.AUTHENTICATION_METHOD: TEXT,
    props.WILL_DELAY: U32,
    props.ASSIGNED_CLIENT_ID: TEXT,
    props.SERVER_KEEP_ALIVE: U16,
    props.REASON_STRING: TEXT,
    props.RESPONSE_INFORMATION: TEXT,
    props.SERVER_REFERENCE: TEXT,
    props.MAXIMUM_QOS: BITS,
    props.RETAIN_AVAILABLE: BITS,
    props.WILDCARD_AVAILABLE: BITS,
    props.SUBSCRIPTION_IDS_AVAILABLE: BITS,
    props.SHARED_AVAILABLE: BITS,
}


def some(*keys: int) -> st.SearchStrategy[dict[int, Any]]:
    return st.fixed_dictionaries({}, optional={key: SPECIAL[key] for key in keys})


MESSAGE = some(*list(SPECIAL)[:6])
REASON = some(props.REASON_STRING, props.USER_PROPERTY)
CONNECT_PROPS = some(*list(SPECIAL)[5:10], *list(SPECIAL)[11:14])
REQUESTS = st.lists(
    st.builds(SubscriptionRequest, NAME, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1
)
WILLS = st.builds(Will, NAME, DATA, st.integers(0, 2), st.booleans(), MESSAGE)


def publishes(properties: st.SearchStrategy[Any]) -> st.SearchStrategy[Packet]:
    return st.one_of(
        st.builds(Publish, NAME, DATA, st.just(0), st.booleans(), st.just(False), st.just(0), properties),
        st.builds(Publish, NAME, DATA, st.integers(1, 2), st.booleans(), st.booleans(), IDS, properties),
    )


V5_PACKETS: st.SearchStrategy[Packet] = st.one_of(
    publishes(MESSAGE.map(lambda found: found or None)),
    st.builds(
        Ack,
        st.sampled_from((4, 5)),
        IDS,
        st.sampled_from(sorted(reasons.PUBACK_CODES)),
        REASON.map(lambda p: p or None),
    ),
    st.builds(Ack, st.sampled_from((6, 7)), IDS, st.sampled_from((0, 0x92)), REASON.map(lambda p: p or None)),
    st.builds(
        Connect,
        st.just(5),
        TEXT,
        st.booleans(),
        U16,
        st.none() | TEXT,
        st.none() | DATA,
        st.none() | WILLS,
        CONNECT_PROPS,
    ),
    st.builds(ConnAck, st.booleans(), st.sampled_from(sorted(reasons.CONNACK_CODES)), some(*list(SPECIAL)[15:])),
    st.builds(Subscribe, IDS, REQUESTS, some(props.USER_PROPERTY)),
    st.builds(SubAck, IDS, st.lists(st.sampled_from(sorted(reasons.SUBACK_CODES))), REASON),
    st.builds(Unsubscribe, IDS, st.lists(NAME, min_size=1), some(props.USER_PROPERTY)),
    st.builds(UnsubAck, IDS, st.lists(st.sampled_from(sorted(reasons.UNSUBACK_CODES))), REASON),
    st.builds(PingReq),
    st.builds(PingResp),
    st.builds(Disconnect, st.sampled_from(sorted(reasons.DISCONNECT_FROM_SERVER)), REASON),
    st.builds(
        Auth, st.sampled_from(sorted(reasons.AUTH_CODES)), some(props.AUTHENTICATION_METHOD, props.USER_PROPERTY)
    ),
)


def parse(data: bytes, version: int = 5, packet_bytes_max: int = 1 << 20) -> list[Packet]:
    packets: list[Packet] = []
    Reader(packet_bytes_max, version).feed(data, packets)
    return packets


def refused(data: bytes, version: int = 5) -> int:
    with pytest.raises(RemoteProtocolError) as caught:
        parse(data, version)
    return caught.value.code


@given(st.lists(V5_PACKETS, min_size=1, max_size=4))
def test_packets_of_mqtt_5_come_back_whole_and_byte_by_byte(sent: list[Packet]) -> None:
    data = b"".join([encode(packet, 5) for packet in sent])
    for step in (len(data), 1):
        reader, packets = Reader(1 << 20, 5), list[Packet]()
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step], packets)
        for _ in sent:  # parsing stops behind each CONNECT
            reader.feed(b"", packets)
        assert packets == sent
        assert reader.buffered_bytes == 0


@given(publishes(st.none()), st.sampled_from((3, 4)))
def test_publish_of_mqtt_3_comes_back(sent: Packet, version: int) -> None:
    assert parse(encode(sent, version), version) == [sent]


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers(value: int) -> None:
    data = encode_varint(value)
    assert read_varint(data, 0, len(data)) == (value, len(data))


@clause("MQTT-1.5.5-1", v=5)
def test_mqtt_1_5_5_1_longer_forms_of_an_integer_are_malformed() -> None:
    assert refused(bytes((0xC0, 0x80, 0))) == reasons.MALFORMED_PACKET
    assert refused(b"\x30\x05\0\x01t\x80\0") == reasons.MALFORMED_PACKET
    assert encode_varint(127) == b"\x7f"


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xff", b"\xc3"])
@pytest.mark.parametrize("version", [4, 5])
@clause("MQTT-1.5.4-1", "MQTT-3.3.2-1", v=5)
@clause("MQTT-1.5.3-1", "MQTT-3.3.2-1", v=4)
def test_mqtt_1_5_4_1_ill_formed_utf_8_is_malformed(text: bytes, version: int) -> None:
    body = len(text).to_bytes(2, "big") + text + (b"\0" if version == 5 else b"") + b"payload"
    assert refused(bytes((0x30, len(body))) + body, version) == reasons.MALFORMED_PACKET


@clause("MQTT-1.5.4-2", "MQTT-4.7.3-2", v=5)
@clause("MQTT-1.5.3-2", "MQTT-4.7.3-2", v=4)
def test_mqtt_1_5_4_2_a_nul_in_a_string_is_malformed() -> None:
    assert refused(b"\x30\x06\0\x03a\0b\0") == reasons.MALFORMED_PACKET
    assert refused(b"\x82\x09\0\x01\0\0\x03a\0b\0") == reasons.MALFORMED_PACKET


@clause("MQTT-1.5.4-3", v=5)
@clause("MQTT-1.5.3-3", v=4)
def test_mqtt_1_5_4_3_a_byte_order_mark_is_kept() -> None:
    packet = Publish("\ufeffa", b"x", 0, False, False, 0, None)
    assert parse(encode(packet, 4), 4) == [packet]


@clause("MQTT-1.5.7-1", v=5)
def test_mqtt_1_5_7_1_both_strings_of_a_pair_are_utf_8() -> None:
    for pair in (b"\0\x01\xff\0\x01a", b"\0\x01a\0\x01\xff", b"\0\x01\0\0\x01a"):
        body = b"\0\x01t" + bytes((1 + len(pair),)) + b"\x26" + pair
        assert refused(bytes((0x30, len(body))) + body) == reasons.MALFORMED_PACKET


@clause("MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", "MQTT-3.15.1-1", v=5)
@clause("MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", v=4)
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_2_1_3_1_reserved_flags_are_malformed(version: int) -> None:
    right = {1: 0, 2: 0, 4: 0, 5: 0, 6: 2, 7: 0, 8: 2, 9: 0, 10: 2, 11: 0, 12: 0, 13: 0, 14: 0, 15: 0}
    for kind, flags in right.items():
        for wrong in set(range(16)) - {flags}:
            assert refused(bytes((kind << 4 | wrong, 2, 0, 1)), version) == reasons.MALFORMED_PACKET


def test_mqtt_3_1_does_not_use_the_flags_of_packets_other_than_publish() -> None:
    connect = bytes.fromhex("0f 00 06") + b"MQIsdp" + bytes.fromhex("03 02 00 0a 00 01") + b"a"
    for flags in range(16):
        packets: list[Packet] = []
        reader = Reader(1 << 20)
        reader.feed(bytes((0x10 | flags,)) + connect, packets)
        rest = [(kind << 4 | flags, 2, 0, 1) for kind in (4, 5, 6, 7)] + [(12 << 4 | flags, 0), (14 << 4 | flags, 0)]
        reader.feed(b"".join(map(bytes, rest)), packets)
        assert [type(packet).__name__ for packet in packets[:1] + packets[-2:]] == ["Connect", "PingReq", "Disconnect"]


@clause("MQTT-2.2.1-2", v=5)
@clause("MQTT-2.3.1-5", v=4)
def test_mqtt_2_2_1_2_no_packet_id_at_qos_0() -> None:
    assert encode(Publish("t", b"", 0, False, False, 0, None), 4) == b"\x30\x03\0\x01t"
    with pytest.raises(LocalProtocolError):
        encode(Publish("t", b"", 0, False, False, 1, None), 4)


@clause("MQTT-2.2.1-3", v=5)
@clause("MQTT-2.3.1-1", v=4)
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_2_2_1_3_packet_id_0_is_refused(version: int) -> None:
    for data in (b"\x32\x06\0\x01t\0\0\0", b"\x82\x07\0\0\0\0\x01t\0", b"\xa2\x06\0\0\0\0\x01t", b"\x40\x02\0\0"):
        assert refused(data, version) == reasons.PROTOCOL_ERROR


@clause("MQTT-2.2.2-1", v=5)
def test_mqtt_2_2_2_1_no_properties_is_a_length_of_zero() -> None:
    assert encode_properties(None, props.PUBLISH) == encode_properties({}, props.CONNACK) == b"\0"
    assert encode(Publish("t", b"x", 0, False, False, 0, None), 5) == b"\x30\x05\0\x01t\0x"


@pytest.mark.parametrize("context", range(16))
def test_properties_of_other_packets_are_malformed_and_repetitions_protocol_errors(context: int) -> None:
    values: dict[int, Any] = {
        **dict.fromkeys(range(256), 1),
        **dict.fromkeys((3, 8, 18, 21, 26, 28, 31), "a"),
    }
    values |= {9: b"a", 0x16: b"a", 0x26: [("a", "b")]}
    for key in range(128):
        if key not in props._TABLE:
            with pytest.raises(RemoteProtocolError, match="belong"):
                read_properties(bytes((2, key, 0)), 0, 3, context)
            continue
        one = props.encode_property(key, values[key])
        whole = encode_varint(len(one)) + one
        if context not in props._TABLE[key][1]:
            with pytest.raises(RemoteProtocolError, match="belong") as caught:
                read_properties(whole, 0, len(whole), context)
            assert caught.value.code == reasons.MALFORMED_PACKET
            continue
        assert read_properties(whole, 0, len(whole), context)[0].keys() == {key}
        twice = encode_varint(2 * len(one)) + one * 2
        if key == props.USER_PROPERTY or (key == props.SUBSCRIPTION_ID and context == props.PUBLISH):
            assert len(read_properties(twice, 0, len(twice), context)[0][key]) == 2
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                read_properties(twice, 0, len(twice), context)
            assert caught.value.code == reasons.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("data", "context"),
    [
        (b"\x01\x02", 3),
        (b"\x0b\x00", 8),
        (b"\x21\0\0", 1),
        (b"\x27\0\0\0\0", 1),
        (b"\x17\x02", 1),
        (b"\x19\x02", 1),
        (b"\x24\x02", 2),
    ],
)
def test_values_outside_their_range_are_protocol_errors(data: bytes, context: int) -> None:
    whole = bytes((len(data),)) + data
    with pytest.raises(RemoteProtocolError) as caught:
        read_properties(whole, 0, len(whole), context)
    assert caught.value.code == reasons.PROTOCOL_ERROR


@clause("MQTT-3.3.1-4", v=5)
@clause("MQTT-3.3.1-4", v=4)
@pytest.mark.parametrize("version", [3, 4, 5])
def test_mqtt_3_3_1_4_qos_3_is_malformed(version: int) -> None:
    assert refused(b"\x36\x07\0\x01t\0\x01\0x", version) == reasons.MALFORMED_PACKET


@clause("MQTT-3.3.1-2", v=5)
@clause("MQTT-3.3.1-2", v=4)
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_3_3_1_2_dup_at_qos_0_is_malformed(version: int) -> None:
    assert refused(b"\x38\x05\0\x01t\0x", version) == reasons.MALFORMED_PACKET


@clause("MQTT-3.3.2-2", "MQTT-4.7.0-1", v=5)
@clause("MQTT-3.3.2-2", "MQTT-4.7.1-1", v=4)
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("topic", [b"a/+", b"a/#", b"+", b"#a"])
def test_mqtt_3_3_2_2_wildcards_in_a_topic_name_are_malformed(version: int, topic: bytes) -> None:
    body = len(topic).to_bytes(2, "big") + topic + b"\0x"
    assert refused(bytes((0x30, len(body))) + body, version) == reasons.MALFORMED_PACKET


@clause("MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.3.2-19", v=5)
def test_mqtt_3_3_2_14_the_response_topic_is_a_topic_name() -> None:
    for body, code in (
        (b"\x08\0\x01#", 0x82),
        (b"\x08\0\x01+", 0x82),
        (b"\x08\0\x01\xff", 0x81),
        (b"\x03\0\x01\xff", 0x81),
    ):
        packet = b"\0\x01t" + bytes((len(body),)) + body
        assert refused(bytes((0x30, len(packet))) + packet) == code


@clause("MQTT-4.7.3-1", v=5)
@clause("MQTT-4.7.3-1", v=4)
def test_mqtt_4_7_3_1_empty_names_and_filters_are_refused() -> None:
    assert refused(b"\x30\x03\0\0x", 4) == reasons.MALFORMED_PACKET
    assert refused(b"\x30\x04\0\0\0x", 5) == reasons.PROTOCOL_ERROR
    assert refused(b"\x82\x06\0\x01\0\0\0\0", 5) == reasons.MALFORMED_PACKET
    assert refused(b"\x82\x05\0\x01\0\0\0", 4) == reasons.MALFORMED_PACKET


@clause("MQTT-4.7.3-3", v=5)
@clause("MQTT-4.7.3-3", v=4)
def test_mqtt_4_7_3_3_names_have_at_most_65535_bytes() -> None:
    packet = Publish("ä" * 32_767, b"x", 0, False, False, 0, None)
    assert parse(encode(packet, 4), 4) == [packet]
    with pytest.raises(LocalProtocolError):
        encode(Subscribe(1, [SubscriptionRequest("ä" * 32_768, 0)]), 4)


@clause("MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.1-1", "MQTT-4.7.1-2", v=5)
@clause("MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.1-2", "MQTT-4.7.1-3", v=4)
@pytest.mark.parametrize("name", [b"\xff", b"a/#/b", b"a#", b"a+/b", b"+a", b"##"])
def test_mqtt_4_7_1_filters_that_break_the_rules_are_malformed(name: bytes) -> None:
    for version, extra in ((4, b""), (5, b"\0")):
        field = len(name).to_bytes(2, "big") + name
        for first, body in ((0x82, b"\0\x01" + extra + field + b"\0"), (0xA2, b"\0\x01" + extra + field)):
            assert refused(bytes((first, len(body))) + body, version) == reasons.MALFORMED_PACKET


@clause("MQTT-4.8.2-1", "MQTT-4.8.2-2", v=5)
@pytest.mark.parametrize(
    "name", ["$share/", "$share//a", "$share/g", "$share/g/", "$share/a+/b", "$share/#/b", "$share"]
)
def test_mqtt_4_8_2_a_shared_subscription_has_a_name_and_a_filter(name: str) -> None:
    assert refused(encode(Subscribe(1, [SubscriptionRequest(name, 0)]), 5)) == reasons.MALFORMED_PACKET


@clause("MQTT-3.8.3-2", "MQTT-3.10.3-2", v=5)
@clause("MQTT-3.8.3-3", "MQTT-3.10.3-2", v=4)
def test_mqtt_3_8_3_2_no_filter_at_all_is_a_protocol_error() -> None:
    for data, version in (
        (b"\x82\x03\0\x01\0", 5),
        (b"\xa2\x03\0\x01\0", 5),
        (b"\x82\x02\0\x01", 4),
        (b"\xa2\x02\0\x01", 4),
    ):
        assert refused(data, version) == reasons.PROTOCOL_ERROR


@clause("MQTT-3.8.3-4", v=5)
def test_mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() -> None:
    assert refused(encode(Subscribe(1, [SubscriptionRequest("$share/g/a", 0, True)]), 5)) == reasons.PROTOCOL_ERROR


@clause("MQTT-3.8.3-5", v=5)
@clause("MQTT-3.8.3-4", v=4)
def test_mqtt_3_8_3_5_reserved_subscription_options_are_malformed() -> None:
    for options in (0x40, 0x80):
        assert refused(b"\x82\x07\0\x01\0\0\x01t" + bytes((options,))) == reasons.MALFORMED_PACKET
    for options in (3, 4, 8, 0x10, 0x80):
        assert refused(b"\x82\x06\0\x01\0\x01t" + bytes((options,)), 4) == reasons.MALFORMED_PACKET
    for options in (3, 0x30):
        assert refused(b"\x82\x07\0\x01\0\0\x01t" + bytes((options,))) == reasons.PROTOCOL_ERROR


@pytest.mark.parametrize("length", [b"\x80\x80\x80\x80", b"\xff\xff\xff\xff\x01"])
def test_a_remaining_length_of_more_than_four_bytes_is_malformed(length: bytes) -> None:
    assert refused(b"\x30" + length + b"\x01") == reasons.MALFORMED_PACKET
    reader = Reader(1 << 20, 5)
    for byte in b"\x30" + length[:3]:
        reader.feed(bytes((byte,)), [])
    with pytest.raises(RemoteProtocolError):
        reader.feed(length[3:], [])


def test_a_packet_over_the_limit_is_refused_when_it_is_announced() -> None:
    reader = Reader(1_000, 5)
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(b"\x30\xff\xff\xff\x7f", [])
    assert caught.value.code == reasons.PACKET_TOO_LARGE
    assert reader.buffered_bytes == 0


def test_an_announced_packet_takes_no_more_memory_than_what_came() -> None:
    reader = Reader(268_435_460, 5)
    reader.feed(b"\x30\xff\xff\xff\x7f" + b"a" * 10, [])
    assert reader.buffered_bytes == 15


@given(st.binary(max_size=60), st.sampled_from((0, 3, 4, 5)))
def test_any_bytes_yield_packets_or_a_protocol_error_the_same_byte_by_byte(data: bytes, version: int) -> None:
    def outcome(step: int) -> tuple[list[Packet], int | None]:
        reader, packets = Reader(4_096, version), list[Packet]()
        try:
            for at in range(0, len(data), step):
                reader.feed(data[at : at + step], packets)
            reader.feed(b"", packets)
        except RemoteProtocolError as error:
            return packets, error.code
        return packets, None

    assert outcome(max(1, len(data))) == outcome(1) or version == 0


@given(V5_PACKETS, st.data())
def test_a_damaged_packet_yields_packets_or_a_protocol_error(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(encode(packet, 5))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        parse(bytes(raw))
