"""Shared subscriptions of a whole broker: over many topics, with sessions and qualities of all kinds, and kill -9."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.mqtt.child import WAIT_S, Child, Device, child_broker, properties

clause = pytest.mark.clause
TOPICS = 12


def member(broker: Child, name: str, *, clean: bool = False, holds: bool = False) -> Device:
    """A client of a durable session; `holds`: it acknowledges nothing."""
    return Device(broker.mqtt, name, v5=True, clean=clean, expiry_s=1000, holds=holds)


def numbers(device: Device, count: int) -> list[int]:
    return [int(payload) for payload in device.payloads(count)]


def publish_all(publisher: Device, first: int, qos: int = 1) -> None:
    """One message to each of many topics, numbered."""
    for number in range(TOPICS):
        publisher.publish(f"line{number}/x/y", b"%d" % (first + number), qos)


def test_a_filter_over_many_topics_is_shared_among_sessions_and_qualities_of_all_kinds(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        publisher = Device(broker.mqtt)
        publish_all(publisher, 0)  # from before
        kinds = [(member(broker, "once"), 2), (member(broker, "often"), 1), (Device(broker.mqtt, v5=True), 0)]
        for device, qos in kinds:
            assert device.subscribe("$share/g/+/x/#", qos=qos) == [qos]
        for first in range(0, 36, TOPICS):
            publish_all(publisher, 100 + first, 2)
        found = [numbers(device, TOPICS) for device, _ in kinds]
        assert sorted(number for mine in found for number in mine) == list(range(100, 136))
        for device, _ in kinds[:2]:
            device.break_off()
        publish_all(publisher, 200)
        assert numbers(kinds[2][0], TOPICS) == list(range(200, 212))
        kinds[2][0].close()
        publish_all(publisher, 300)  # nobody is there
        broker.kill()
        publisher.break_off()
        broker.start()
        often = member(broker, "often")
        owed = set(range(300, 312))
        while owed:  # what it acknowledged last may come again too
            owed -= set(numbers(often, 1))
        often.close()


@clause("MQTT-4.8.2-5", v=5)
def test_what_a_durable_member_had_in_flight_goes_to_another_when_its_session_ends_after_a_restart(
    tmp_path: Path,
) -> None:
    with child_broker(tmp_path) as broker:
        holder, other = member(broker, "holder", holds=True), member(broker, "other")
        holder.subscribe("$share/g/+/x/#", qos=1)
        publisher = Device(broker.mqtt)
        publish_all(publisher, 0)
        assert len(holder.payloads(TOPICS)) == TOPICS
        holder.break_off()
        other.subscribe("$share/g/+/x/#", qos=1)  # stored: the group, and what is in flight to the holder
        broker.kill()
        for device in (other, publisher):
            device.break_off()
        broker.start()
        other, publisher = member(broker, "other"), Device(broker.mqtt)
        publisher.publish("line0/x/y", b"1000")
        assert numbers(other, 1) == [1000]  # the rest is the holder's, as long as it may come back
        holder = member(broker, "holder", holds=True)
        again = [holder.get() for _ in range(TOPICS)]
        assert all(message.dup for message in again)
        assert [int(message.payload) for message in again] == list(range(TOPICS))
        for message in again[:5]:
            holder.client.ack(message.mid, 1)
        for number in (1001, 1002):
            publisher.publish("line1/x/y", b"%d" % number)
        [others], [holders] = numbers(other, 1), numbers(holder, 1)  # behind its acknowledgements
        assert sorted((others, holders)) == [1001, 1002]
        holder.break_off()
        member(broker, "holder", clean=True).close()
        assert sorted(numbers(other, TOPICS - 4)) == [*range(5, TOPICS), holders]
        other.close()
        publisher.close()


def test_what_is_in_flight_to_a_member_that_unsubscribed_is_not_lost_with_its_session(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        leaver, stayer = member(broker, "leaver", holds=True), Device(broker.mqtt, v5=True)
        leaver.subscribe("$share/g/a/#", qos=1)
        publisher = Device(broker.mqtt)
        for number in range(3):
            publisher.publish("a/b", b"%d" % number)
        messages = [leaver.get() for _ in range(3)]
        stayer.subscribe("$share/g/a/#", qos=1)
        leaver.unsubscribe("$share/g/a/#")
        leaver.client.ack(messages[1].mid, 1)
        publisher.publish("a/b", b"3")
        assert numbers(stayer, 1) == [3]
        leaver.break_off()
        member(broker, "leaver", clean=True).close()
        assert sorted(numbers(stayer, 2)) == [0, 2]
        stayer.close()
        publisher.close()


def test_qos_2_of_a_shared_subscription_comes_once_through_kills(tmp_path: Path) -> None:
    with child_broker(tmp_path) as broker:
        publisher = Device(broker.mqtt, "publisher", clean=False)
        members = [Device(broker.mqtt, name, clean=False) for name in ("a", "b")]
        arrived: queue.Queue[Any] = queue.Queue()
        for device in members:
            device.messages = arrived
            device.subscribe("$share/g/+/x/#", qos=2)
        publish_all(publisher, 0, 2)
        publish_all(publisher, 100, 2)
        broker.kill()
        for device in (*members, publisher):
            device.pause()
        broker.start()
        for device in (*members, publisher):
            device.resume(broker.mqtt)
        publish_all(publisher, 200, 2)
        found = [int(arrived.get(timeout=WAIT_S).payload) for _ in range(3 * TOPICS)]
        publish_all(publisher, 300, 2)
        found += [int(arrived.get(timeout=WAIT_S).payload) for _ in range(TOPICS)]
        for device in (*members, publisher):
            device.close()
        assert arrived.empty()
        assert sorted(found) == [first + at for first in (0, 100, 200, 300) for at in range(TOPICS)]


def test_a_filter_over_properties_counts_for_members_that_are_behind_and_after_a_restart(tmp_path: Path) -> None:
    def given(kind: int, name: str, value: str) -> Any:
        found = properties(kind)
        found.UserProperty = [(name, value)]
        return found

    with child_broker(tmp_path) as broker:
        device = member(broker, "worker")
        options = SubscribeOptions(qos=1)
        tags = given(PacketTypes.SUBSCRIBE, "trivium-tags", "red || blue")
        assert device.subscribe("$share/g/+/x/#", options=options, properties=tags) == [1]
        publisher = Device(broker.mqtt, v5=True)

        def publish(first: int) -> None:
            for number, tag in enumerate(("red", "green", "blue", "grey")):
                tagged = given(PacketTypes.PUBLISH, "trivium.tag", tag)
                publisher.publish(f"line{number}/x/y", b"%d" % (first + number), properties=tagged)

        publish(0)
        assert numbers(device, 2) == [0, 2]
        device.close()
        publish(10)
        broker.kill()
        publisher.break_off()
        broker.start()
        publisher = Device(broker.mqtt, v5=True)
        publish(20)
        device = member(broker, "worker")
        publish(30)
        found: set[int] = set()
        while not found >= {10, 12, 20, 22, 30, 32}:
            found |= set(numbers(device, 1))
        assert found <= {0, 2, 10, 12, 20, 22, 30, 32}
        contradicting = Device(broker.mqtt, v5=True)
        assert contradicting.subscribe("$share/g/+/x/#", options=options) == [0x83]
        assert "'tags:red || blue'" in contradicting.reason
        contradicting.close()
        device.close()
        publisher.close()
