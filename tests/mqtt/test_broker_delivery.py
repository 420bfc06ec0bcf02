"""Delivery of the whole broker under what goes wrong: shared members that leave, kill -9 in the middle of QoS 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.mqtt.child import WAIT_S, Child, Device, child_broker, properties

clause = pytest.mark.clause


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


def test_each_message_of_a_shared_subscription_goes_to_one_member(broker: Child) -> None:
    members = [Device(broker.mqtt, v5=True) for _ in range(3)]
    for member in members:
        assert member.subscribe("$share/workers/jobs/+", qos=1) == [1]
        member.subscribe("jobs-done", qos=1)
    publisher = Device(broker.mqtt)
    for number in range(60):
        publisher.publish("jobs/a", b"%d" % number)
    publisher.publish("jobs-done", b"")
    found: list[list[int]] = []
    for member in members:
        mine: list[int] = []
        while (message := member.get()).topic != "jobs-done":
            mine.append(int(message.payload))
        assert mine == sorted(mine)
        found.append(mine)
        member.close()
    assert sorted(number for mine in found for number in mine) == list(range(60))
    assert all(len(mine) == 20 for mine in found)
    publisher.close()


@clause("MQTT-4.8.2-5", v=5)
def test_what_a_member_did_not_acknowledge_goes_to_another_when_its_session_ends(broker: Child) -> None:
    leaver = Device(broker.mqtt, v5=True)
    leaver.client.manual_ack_set(True)
    leaver.subscribe("$share/leavers/left/#", qos=1)
    publisher = Device(broker.mqtt)
    for number in range(10):
        publisher.publish("left/a", b"%d" % number)
    assert len(leaver.payloads(10)) == 10
    stayer = Device(broker.mqtt, v5=True)
    stayer.subscribe("$share/leavers/left/#", qos=1)
    leaver.close()
    assert sorted(stayer.payloads(10)) == [b"%d" % number for number in range(10)]
    publisher.publish("left/b", b"next")
    assert stayer.payloads(1) == [b"next"]
    stayer.close()
    publisher.close()


@clause("MQTT-3.3.4-3", v=5)
def test_mqtt_3_3_4_3_what_is_sent_again_has_its_subscription_identifiers(broker: Child) -> None:
    first = Device(broker.mqtt, "identified", v5=True, expiry_s=1000)
    first.client.manual_ack_set(True)
    publisher = Device(broker.mqtt)
    publisher.publish("ident/kept", b"kept", retain=True)
    for identifier, name in enumerate(("ident/#", "ident/+", "$share/some/ident-shared"), start=7):
        given = properties(PacketTypes.SUBSCRIBE)
        given.SubscriptionIdentifier = identifier
        first.subscribe(name, options=SubscribeOptions(qos=1), properties=given)
    for name in ("ident/a", "ident-shared"):
        publisher.publish(name, b"live")

    def seen(device: Device) -> list[tuple[str, bytes, bool, set[int]]]:
        found = [device.get() for _ in range(4)]
        return sorted((m.topic, m.payload, m.retain, set(m.properties.SubscriptionIdentifier)) for m in found)

    before = seen(first)
    assert [one[3] for one in before if one[0] in ("ident/a", "ident-shared")] == [{9}, {7, 8}]
    first.break_off()
    again = seen(Device(broker.mqtt, "identified", v5=True, clean=False, expiry_s=1000))
    assert [one[:3] for one in again] == [one[:3] for one in before]
    assert all(one[3] <= other[3] for one, other in zip(before, again, strict=True))
    publisher.publish("ident/kept", b"", retain=True)
    publisher.close()


def test_a_durable_shared_subscription_waits_in_the_log_while_all_are_away(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        member = Device(broker.mqtt, "worker", v5=True, expiry_s=1000)
        member.subscribe("$share/night/shift", qos=2)
        member.close()
        publisher = Device(broker.mqtt)
        for number in range(20):
            publisher.publish("shift", b"%d" % number, 2)
        broker.kill()
        publisher.break_off()
        broker.start()
        member = Device(broker.mqtt, "worker", v5=True, clean=False, expiry_s=1000)
        assert member.session_present
        assert member.payloads(20) == [b"%d" % number for number in range(20)]
        member.close()


def test_what_a_durable_member_has_in_flight_survives_a_kill_whoever_had_the_groups_place_stored(
    tmp_path: Path,
) -> None:
    with child_broker(tmp_path) as broker:
        member = Device(broker.mqtt, "worker", v5=True, expiry_s=1000)
        member.client.manual_ack_set(True)
        member.subscribe("$share/crew/tasks", qos=1)
        publisher = Device(broker.mqtt)
        for number in range(20):
            publisher.publish("tasks", b"%d" % number)
        assert len(member.payloads(20)) == 20
        other = Device(broker.mqtt, "other", v5=True, expiry_s=1000)
        other.subscribe("something/else", qos=1)  # stores the group's place
        broker.kill()
        for device in (member, other, publisher):
            device.break_off()
        broker.start()
        member = Device(broker.mqtt, "worker", v5=True, clean=False, expiry_s=1000)
        assert sorted(map(int, member.payloads(20))) == list(range(20))
        member.close()


@clause("MQTT-4.3.3-13", v=5)
@clause("MQTT-4.1.0-1", v=4)
@clause("MQTT-4.1.0-1", v=5)
def test_qos_2_is_delivered_once_through_kill_in_the_middle(tmp_path: Path) -> None:
    """Both paho clients keep their state and resume with it, so a doubled or lost message would be seen."""
    total = 600
    with child_broker(tmp_path) as broker:
        receiver = Device(broker.mqtt, "receiver", clean=False)
        receiver.subscribe("once/a", qos=2)
        sender = Device(broker.mqtt, "sender", clean=False)
        infos = [sender.client.publish("once/a", b"%d" % number, 2) for number in range(total)]
        got = receiver.payloads(100)
        broker.kill()
        for device in (sender, receiver):
            device.pause()
        broker.start()
        for device in (receiver, sender):
            device.resume(broker.mqtt)
            assert device.session_present
        for info in infos:
            info.wait_for_publish(WAIT_S)
        sender.publish("once/a", b"end", 2)
        while (payload := receiver.get().payload) != b"end":
            got.append(payload)
        assert got == [b"%d" % number for number in range(total)]
        receiver.close()
        sender.close()


def test_wildcard_retained_messages_beyond_the_window_all_come(broker: Child) -> None:
    publisher = Device(broker.mqtt)
    for number in range(1500):
        publisher.client.publish(f"many/{number:04}", b"%d" % number, 1, retain=True)
    publisher.publish("many/last", b"last", 1, retain=True)
    late = Device(broker.mqtt)
    late.subscribe("many/+", qos=1)
    assert late.payloads(1501) == [*(b"%d" % number for number in range(1500)), b"last"]
    publisher.close()
    late.close()
