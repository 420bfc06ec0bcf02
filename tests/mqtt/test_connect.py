"""CONNECT to the end of the connection, for the three versions."""

from __future__ import annotations

import pytest

from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Publish,
    Will,
)
from gateway.protocols.mqtt.errors import LocalProtocolError
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.session import Session
from tests.mqtt.driver import WILL, Driver, connected

clause = pytest.mark.clause
V = pytest.mark.parametrize("version", [3, 4, 5])


def raw_connect(flags: int, payload: bytes, version: int = 4, name: bytes = b"MQTT") -> bytes:
    body = (
        len(name).to_bytes(2, "big")
        + name
        + bytes((version, flags))
        + b"\0\0"
        + (b"\0" if version == 5 else b"")
        + payload
    )
    return bytes((0x10, len(body))) + body


@V
@clause("MQTT-3.1.0-1", v=4)
@clause("MQTT-3.1.0-1", v=5)
def test_mqtt_3_1_0_1_the_first_packet_is_connect(version: int) -> None:
    driver = Driver(version)
    driver.send(PingReq())
    assert driver.closed().code == reasons.PROTOCOL_ERROR
    assert driver.received() == []


@V
@clause("MQTT-3.1.0-2", "MQTT-4.8.0-1", v=4)
@clause("MQTT-3.1.0-2", "MQTT-4.13.1-1", v=5)
def test_mqtt_3_1_0_2_a_second_connect_is_a_protocol_error(version: int) -> None:
    driver = connected(version)
    driver.send(driver.packet())
    assert driver.closed().code == reasons.PROTOCOL_ERROR
    assert driver.received() == ([] if version < 5 else [Disconnect(0x82, {props.REASON_STRING: "a second CONNECT"})])


@pytest.mark.parametrize("name", [b"MQIsdx", b"HTTP", b""])
@clause("MQTT-3.1.2-1", v=4)
@clause("MQTT-3.1.2-1", v=5)
def test_mqtt_3_1_2_1_another_protocol_name_closes(name: bytes) -> None:
    driver = Driver(4)
    driver.raw(raw_connect(2, b"\0\1c", 4, name))
    driver.closed()
    assert driver.received() == []


@pytest.mark.parametrize(("level", "answer"), [(2, b"\x20\2\0\1"), (0x84, b"\x20\2\0\1"), (6, b"\x20")])
@clause("MQTT-3.1.2-2", v=4)
@clause("MQTT-3.1.2-2", v=5)
def test_mqtt_3_1_2_2_an_unknown_level_is_refused_in_a_form_the_client_reads(level: int, answer: bytes) -> None:
    driver = Driver(5)
    driver.raw(raw_connect(2, b"\0\1c", level))
    assert driver.closed().code == reasons.UNSUPPORTED_VERSION
    data = driver.connection.take_output()
    assert data.startswith(answer)
    assert data[3] == (0x84 if level == 6 else 1)


@pytest.mark.parametrize("version", [4, 5])
@clause("MQTT-3.1.2-3", "MQTT-3.1.4-1", v=4)
@clause("MQTT-3.1.2-3", "MQTT-3.1.4-1", v=5)
def test_mqtt_3_1_2_3_the_reserved_flag_is_checked(version: int) -> None:
    driver = Driver(version)
    driver.raw(raw_connect(3, b"\0\1c", version))
    assert driver.closed().code == reasons.MALFORMED_PACKET
    got = driver.received()
    assert got == [] if version == 4 else isinstance(got[0], ConnAck) and got[0].code == 0x81


@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22, 0x1E])
@pytest.mark.parametrize("version", [4, 5])
@clause("MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-14", "MQTT-3.1.2-15", v=4)
@clause("MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13", v=5)
def test_mqtt_3_1_2_11_will_flags_that_contradict_each_other_are_malformed(flags: int, version: int) -> None:
    driver = Driver(version)
    driver.raw(raw_connect(flags, b"\0\1c" + (b"\0" if version == 5 else b"") + b"\0\1t\0\1m", version))
    assert driver.closed().code == reasons.MALFORMED_PACKET


@V
@clause("MQTT-3.1.2-9", "MQTT-3.1.3-1", "MQTT-3.1.3-3", v=4)
@clause("MQTT-3.1.2-9", "MQTT-3.1.3-1", "MQTT-3.1.3-3", v=5)
def test_mqtt_3_1_2_9_every_field_of_connect_is_read_in_order(version: int) -> None:
    driver = Driver(version)
    will = Will("w/t", b"\0\xff", 2, True, {props.WILL_DELAY: 5} if version == 5 else {})
    packet = driver.packet(client_id="dev", username="u", password=b"\0p", will=will, keep_alive_s=7)
    driver.send(packet)
    assert driver.event().connect == packet


@pytest.mark.parametrize("version", [4, 5])
@clause("MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.2-20", "MQTT-3.1.2-21", v=4)
@clause("MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.2-18", "MQTT-3.1.2-19", v=5)
def test_mqtt_3_1_2_18_user_name_and_password_are_there_exactly_as_flagged(version: int) -> None:
    bad = [(0x02, b"\0\1c\0\1u"), (0x82, b"\0\1c"), (0xC2, b"\0\1c\0\1u"), (0x82, b"\0\1c\0\1u\0\1p")]
    for flags, payload in bad:
        driver = Driver(version)
        driver.raw(raw_connect(flags, payload, version))
        assert driver.closed().code == reasons.MALFORMED_PACKET


@clause("MQTT-3.1.2-22", v=4)
def test_mqtt_3_1_2_22_a_password_needs_a_user_name_before_mqtt_5() -> None:
    driver = Driver(4)
    driver.raw(raw_connect(0x42, b"\0\1c\0\1p"))
    assert driver.closed().code == reasons.MALFORMED_PACKET
    driver = Driver(5)
    driver.raw(raw_connect(0x42, b"\0\1c\0\1p", 5))
    assert driver.event().connect.password == b"p"


def test_mqtt_3_1_lets_flagged_fields_be_missing() -> None:
    driver = Driver(3)
    driver.raw(raw_connect(0xC2, b"\0\1c", 3, b"MQIsdp"))
    assert driver.event().connect.username is None


@clause("MQTT-3.1.3-4", "MQTT-3.1.3-10", "MQTT-3.1.3-11", v=4)
@clause("MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12", v=5)
def test_mqtt_3_1_3_4_client_id_will_topic_and_user_name_are_utf_8() -> None:
    for flags, payload in ((2, b"\0\1\xff"), (6, b"\0\1c\0\1\xff\0\1m"), (0x82, b"\0\1c\0\1\xff")):
        driver = Driver(4)
        driver.raw(raw_connect(flags, payload))
        assert driver.closed().code == reasons.MALFORMED_PACKET


@V
@clause("MQTT-3.1.3-5", v=4)
@clause("MQTT-3.1.3-5", v=5)
def test_mqtt_3_1_3_5_plain_client_ids_are_taken(version: int) -> None:
    for name in ("a", "0123456789abcdefghijklm", "NOPQRSTUVWXYZnopqrstuvw", "x" * 300):
        driver = Driver(version)
        driver.connect(client_id=name)
        assert driver.connection.client_id == name


@clause("MQTT-3.1.3-6", v=4)
@clause("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16", v=5)
def test_mqtt_3_1_3_6_an_empty_client_id_is_assigned() -> None:
    driver = Driver(5)
    assert driver.connect(client_id="").properties[props.ASSIGNED_CLIENT_ID] == "given"
    assert driver.connection.client_id == "given"
    assert props.ASSIGNED_CLIENT_ID not in Driver(5).connect().properties
    driver = Driver(4)
    assert driver.connect(client_id="", clean_start=True).code == 0
    assert driver.connection.client_id == "given"


@clause("MQTT-3.1.3-8", "MQTT-3.1.3-7", v=4)
def test_mqtt_3_1_3_8_an_empty_client_id_without_clean_session_is_refused() -> None:
    for version, clean in ((4, False), (3, True), (3, False)):
        driver = Driver(version)
        driver.send(driver.packet(client_id="", clean_start=clean))
        assert driver.received() == [ConnAck(False, 2)]
        driver.closed()


@V
@clause("MQTT-3.1.3-9", "MQTT-3.1.4-5", "MQTT-3.2.2-4", "MQTT-3.2.2-5", v=4)
@clause("MQTT-3.1.3-8", "MQTT-3.1.4-2", "MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-4.13.2-1", v=5)
def test_mqtt_3_1_4_6_a_refused_connect_closes_and_what_followed_is_never_read(version: int) -> None:
    driver = Driver(version)
    driver.send(driver.packet(), Publish("t", b"x", 0, False, False, 0, None))
    event = driver.event()
    event.connection.refuse(reasons.CLIENT_ID_INVALID, "no")
    acknowledgement = driver.one()
    assert acknowledgement.code == (0x85 if version == 5 else 2)
    assert not acknowledgement.session_present
    assert [type(one) for one in driver.events()] == [ev.Closed]
    driver.send(PingReq())
    assert driver.received() == []
    assert driver.events() == []


@clause("MQTT-3.2.2-6", v=4)
def test_mqtt_3_2_2_6_a_refusal_that_mqtt_3_has_no_code_for_closes_in_silence() -> None:
    driver = Driver(4)
    driver.send(driver.packet())
    driver.event().connection.refuse(reasons.QOS_NOT_SUPPORTED)
    assert driver.received() == []
    driver.closed()


@V
@clause("MQTT-3.1.4-4", "MQTT-3.2.0-1", v=4)
@clause("MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.0-2", v=5)
def test_mqtt_3_2_0_1_connack_comes_first_and_once(version: int) -> None:
    driver = Driver(version)
    driver.send(driver.packet(), PingReq())
    assert driver.received() == []
    event = driver.event()
    event.connection.accept(Session("c"), 0.0)
    first, second = driver.received()
    assert isinstance(first, ConnAck)
    assert first.code == 0
    assert second == PingResp()
    with pytest.raises(LocalProtocolError):
        event.connection.accept(Session("c"), 0.0)


@V
@clause("MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3", v=4)
@clause("MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3", v=5)
def test_mqtt_3_2_2_3_session_present_is_what_the_core_says(version: int) -> None:
    for present in (False, True):
        driver = Driver(version)
        driver.send(driver.packet())
        driver.event().connection.accept(Session("c"), 0.0, session_present=present)
        data = driver.connection.take_output()
        assert data[2] == (present and version != 3)


@clause("MQTT-3.2.2-8", v=5)
def test_mqtt_3_2_2_8_only_errors_refuse() -> None:
    driver = Driver(5)
    driver.send(driver.packet())
    with pytest.raises(LocalProtocolError):
        driver.event().connection.refuse(0)


def test_connack_announces_our_limits_and_agreed_values() -> None:
    driver = Driver(
        5,
        Limits(
            receive_max=9, packet_bytes_max=5_000, connect_bytes_max=5_000, topic_alias_max=3, session_expiry_s_max=60
        ),
    )
    properties = driver.connect(properties={props.SESSION_EXPIRY: 100}).properties
    assert properties == {
        props.RECEIVE_MAXIMUM: 9,
        props.MAXIMUM_PACKET_SIZE: 5_000,
        props.TOPIC_ALIAS_MAXIMUM: 3,
        props.SESSION_EXPIRY: 60,
    }


@clause("MQTT-3.1.2-28", v=5)
def test_mqtt_3_1_2_28_response_information_is_never_sent() -> None:
    assert (
        props.RESPONSE_INFORMATION
        not in Driver(5).connect(properties={props.REQUEST_RESPONSE_INFORMATION: 0}).properties
    )


@clause("MQTT-3.1.2-24", "MQTT-3.2.2-19", "MQTT-3.2.2-20", v=5)
def test_mqtt_3_2_2_19_a_reason_that_makes_connack_too_large_is_left_out() -> None:
    for size, code in ((1_000, 1), (20, 0)):
        driver = Driver(5)
        driver.send(driver.packet(properties={props.MAXIMUM_PACKET_SIZE: size}))
        driver.event().connection.refuse(reasons.NOT_AUTHORIZED, "because of this and that")
        assert len(driver.one().properties) == code
    driver = Driver(5)
    driver.send(driver.packet(properties={props.MAXIMUM_PACKET_SIZE: 5}))
    assert not driver.event().connection.accept(Session("c"), 0.0)
    assert driver.received() == []


@clause("MQTT-4.12.0-1", v=5)
def test_mqtt_4_12_0_1_an_authentication_method_is_refused() -> None:
    driver = Driver(5)
    driver.send(driver.packet(properties={props.AUTHENTICATION_METHOD: "SCRAM"}))
    assert driver.one().code == reasons.BAD_AUTHENTICATION_METHOD
    driver.closed()


@clause("MQTT-4.12.0-6", "MQTT-4.12.0-7", v=5)
def test_mqtt_4_12_0_7_auth_without_a_method_is_a_protocol_error() -> None:
    driver = Driver(5)
    assert props.AUTHENTICATION_METHOD not in driver.connect().properties
    driver.send(Auth(0x19, {props.AUTHENTICATION_METHOD: "x"}))
    assert driver.one().code == reasons.PROTOCOL_ERROR


@V
@clause("MQTT-3.12.4-1", v=4)
@clause("MQTT-3.12.4-1", v=5)
def test_mqtt_3_12_4_1_ping(version: int) -> None:
    driver = connected(version)
    driver.send(PingReq())
    assert driver.one() == PingResp()


@V
@clause("MQTT-3.1.2-24", v=4)
@clause("MQTT-3.1.2-22", "MQTT-3.2.2-22", v=5)
def test_mqtt_3_1_2_22_silence_for_one_and_a_half_keep_alives_closes(version: int) -> None:
    driver = connected(version, keep_alive_s=10, will=WILL)
    driver.now = 9.0
    driver.send(PingReq())
    driver.received()
    driver.connection.check_time(23.9)
    assert not driver.connection.closed
    assert driver.connection.deadline == 24.0
    driver.connection.check_time(24.0)
    end = driver.closed()
    assert end.will == WILL
    assert end.code == reasons.KEEP_ALIVE_TIMEOUT
    got = driver.received()
    assert got == [] if version < 5 else isinstance(got[0], Disconnect) and got[0].code == 0x8D


@V
def test_half_a_packet_does_not_keep_a_connection_alive(version: int) -> None:
    driver = connected(version, keep_alive_s=10)
    driver.now = 14.0
    driver.raw(b"\x30\x7f\0\x01")
    driver.connection.check_time(15.0)
    driver.closed()


@V
def test_keep_alive_0_never_times_out(version: int) -> None:
    assert connected(version).connection.deadline is None


def test_server_keep_alive_replaces_longer_ones_and_none_in_mqtt_5_only() -> None:
    limits = Limits(keep_alive_s_max=30)
    for asked, told in ((0, 30), (60, 30), (20, None)):
        driver = Driver(5, limits)
        assert driver.connect(keep_alive_s=asked).properties.get(props.SERVER_KEEP_ALIVE) == told
        assert driver.connection.keep_alive_s == (told or asked)
    assert connected(4, limits=limits, keep_alive_s=60).connection.keep_alive_s == 60


def test_a_connection_without_connect_is_closed_in_time() -> None:
    driver = Driver(5, Limits(connect_timeout_s=10))
    driver.raw(b"\x10\x7f\0\4MQ")
    driver.connection.check_time(9.9)
    assert not driver.connection.closed
    driver.connection.check_time(10.0)
    driver.closed()
    assert driver.received() == []


@V
@clause("MQTT-3.14.4-3", "MQTT-3.1.2-10", "MQTT-3.1.2-12", v=4)
@clause("MQTT-3.14.4-3", "MQTT-3.1.2-10", v=5)
def test_mqtt_3_14_4_3_disconnect_discards_the_will(version: int) -> None:
    driver = connected(version, will=WILL)
    driver.send(Disconnect())
    end = driver.closed()
    assert end.by_client
    assert end.will is None
    assert driver.received() == []


@V
@clause("MQTT-3.1.2-8", v=4)
@clause("MQTT-3.1.2-8", v=5)
def test_mqtt_3_1_2_8_the_will_is_due_however_else_the_connection_ends(version: int) -> None:
    def lost(driver: Driver) -> None:
        driver.connection.eof()

    def broken(driver: Driver) -> None:
        driver.raw(b"\0\0")

    def taken(driver: Driver) -> None:
        driver.connection.disconnect(reasons.SESSION_TAKEN_OVER)

    for end in (lost, broken, taken):
        driver = connected(version, will=WILL)
        end(driver)
        assert driver.closed().will == WILL
        assert connected(version).connection.will is None


def test_disconnect_with_will_publishes_it() -> None:
    driver = connected(5, will=WILL)
    driver.send(Disconnect(reasons.DISCONNECT_WITH_WILL))
    assert driver.closed().will == WILL


def test_session_expiry_may_change_at_disconnect_but_not_from_zero() -> None:
    driver = connected(5, properties={props.SESSION_EXPIRY: 10})
    driver.send(Disconnect(0, {props.SESSION_EXPIRY: 99}))
    assert driver.closed().session_expiry_s == 99
    driver = connected(5)
    driver.send(Disconnect(0, {props.SESSION_EXPIRY: 99}))
    assert driver.one().code == reasons.PROTOCOL_ERROR
    assert connected(4, clean_start=False).connection.session_expiry_s == 0xFFFFFFFF


def test_codes_that_only_servers_send_are_protocol_errors() -> None:
    for code in sorted(reasons.DISCONNECT_FROM_SERVER - reasons.DISCONNECT_FROM_CLIENT):
        driver = connected(5)
        driver.send(Disconnect(code))
        assert driver.one().code == reasons.PROTOCOL_ERROR


@V
@clause("MQTT-3.1.4-2", v=4)
@clause("MQTT-3.1.4-3", "MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-1", "MQTT-3.14.4-2", v=5)
def test_mqtt_3_1_4_3_take_over_says_so_and_sends_nothing_more(version: int) -> None:
    driver = connected(version)
    driver.publish(qos=1)
    ticket = driver.event().ticket
    driver.connection.disconnect(reasons.SESSION_TAKEN_OVER)
    driver.connection.publish_done(ticket)
    driver.send(PingReq())
    assert driver.received() == ([Disconnect(reasons.SESSION_TAKEN_OVER)] if version == 5 else [])
    with pytest.raises(LocalProtocolError):
        driver.connection.disconnect(0x04)


@clause("MQTT-3.14.0-1", v=5)
def test_mqtt_3_14_0_1_no_disconnect_before_connack() -> None:
    driver = Driver(5)
    driver.send(driver.packet())
    driver.connection.disconnect(reasons.SERVER_SHUTTING_DOWN)
    assert driver.received() == []
    assert not driver.connection.accept(Session("c"), 0.0)


@clause("MQTT-3.14.2-3", v=5)
def test_mqtt_3_14_2_3_a_reason_that_makes_disconnect_too_large_is_left_out() -> None:
    driver = connected(5, properties={props.MAXIMUM_PACKET_SIZE: 20})
    driver.connection.disconnect(reasons.QUOTA_EXCEEDED, "a reason of more than twenty bytes")
    assert driver.one() == Disconnect(reasons.QUOTA_EXCEEDED)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x30\xff\xff\xff\x7f", reasons.PACKET_TOO_LARGE),
        (b"\x30\x80\x80\x80\x80\x01", reasons.MALFORMED_PACKET),
        (b"\xf1\0", reasons.MALFORMED_PACKET),
        (b"\x20\x03\0\0\0", reasons.PROTOCOL_ERROR),
        (b"\x90\x04\0\x01\0\0", reasons.PROTOCOL_ERROR),
        (b"\xd0\0", reasons.PROTOCOL_ERROR),
    ],
)
def test_broken_packets_are_answered_with_their_reason(data: bytes, code: int) -> None:
    driver = connected(5)
    driver.raw(data)
    assert driver.one().code == code
    assert driver.closed().code == code


def test_packets_before_a_broken_one_are_handled() -> None:
    driver = connected(5)
    driver.raw(encode(PingReq(), 5) + b"\0\0")
    assert [type(one) for one in driver.received()] == [PingResp, Disconnect]


def test_bytes_behind_connect_are_bounded() -> None:
    driver = Driver(5, Limits(packet_bytes_max=1_000, connect_bytes_max=1_000))
    driver.send(driver.packet())
    driver.raw(b"x" * 900)
    assert not driver.connection.closed
    assert not driver.connection.reading
    driver.raw(b"x" * 200)
    assert driver.closed().code == reasons.PACKET_TOO_LARGE


def test_a_client_that_leaves_before_the_verdict_is_not_accepted() -> None:
    driver = Driver(5)
    driver.send(Connect(5, "c", True, 0))
    event = driver.event()
    driver.connection.eof()
    assert not event.connection.accept(Session("c"), 0.0)
    event.connection.refuse(reasons.NOT_AUTHORIZED)
    assert driver.received() == []


def test_a_client_above_its_rate_is_not_read_from_until_it_has_paid() -> None:
    driver = connected(limits=Limits(publishes_per_s_max=10), keep_alive_s=1)
    for _ in range(19):
        driver.publish()  # not quite two seconds in advance
    assert driver.connection.reading
    for _ in range(16):
        driver.publish()  # what one read still brings is taken
    assert not driver.connection.reading
    assert driver.connection.deadline == pytest.approx(1.5)
    assert len(driver.events()) == 35
    driver.now = 1.4
    driver.connection.check_time(driver.now)
    assert not driver.connection.reading
    driver.now = 1.6
    driver.connection.check_time(driver.now)
    assert driver.connection.reading  # and the keep alive counts from here
    assert driver.connection.deadline == pytest.approx(3.1)
    driver.send(PingReq())  # costs nothing
    assert driver.connection.reading


def test_a_rate_of_bytes_counts_everything_a_client_sends() -> None:
    driver = connected(limits=Limits(bytes_per_s_max=1_000))
    driver.publish(payload=b"x" * 1_900)
    assert driver.connection.reading
    driver.publish(payload=b"x" * 200)
    assert not driver.connection.reading
