"""MQTT sessions and shared subscriptions moved while they are connected, and while they are away, with real clients."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

import trivium
import trivium.blocking
from tests.mqtt.child import Child, Device, child_broker
from trivium.errors import ErrorCode, RequestRefused


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_connected_session_gets_again_what_it_had_acknowledged(broker: Child, qos: int) -> None:
    name = f"again{qos}"
    with trivium.blocking.connect(broker.native) as admin:
        publisher, device = Device(broker.mqtt), Device(broker.mqtt, name, clean=qos == 0)
        publisher.publish(f"{name}/early", b"before the subscription", qos=1)
        device.subscribe(f"{name}/#", qos=qos)
        payloads = [b"%d" % number for number in range(300)]  # more than a window
        for payload in payloads:
            publisher.publish(f"{name}/x", payload, qos=1)
        assert device.payloads(300) == payloads
        assert admin.reset(name, offset=101, kind="session") == {(name, 0): 101}
        assert device.payloads(200) == payloads[100:]
        assert admin.reset(name, trivium.EARLIEST, kind="session") == {(name, 0): 0}
        assert device.payloads(301) == [b"before the subscription", *payloads]
        publisher.publish(f"{name}/x", b"live", qos=1)
        assert device.payloads(1) == [b"live"]
        publisher.close()
        device.close()


def test_a_session_that_is_away_begins_there_also_after_kill_9(broker: Child) -> None:
    device, publisher = Device(broker.mqtt, "away", clean=False), Device(broker.mqtt)
    device.subscribe("away/#", qos=1)
    for number in range(20):
        publisher.publish("away/x", b"%d" % number)
    assert len(device.payloads(20)) == 20
    device.close()
    publisher.close()
    with trivium.blocking.connect(broker.native) as admin:
        assert admin.reset("away", offset=15, kind="session") == {("away", 0): 15}
    broker.kill()
    broker.start()
    device = Device(broker.mqtt, "away", clean=False)
    assert device.payloads(5) == [b"15", b"16", b"17", b"18", b"19"]
    device.close()


def test_a_session_can_be_moved_to_the_end_and_to_a_time(broker: Child) -> None:
    device, publisher = Device(broker.mqtt, "skips", clean=False), Device(broker.mqtt)
    device.subscribe("skips/#", qos=1)
    device.close()
    for number in range(10):
        publisher.publish("skips/x", b"%d" % number)
    middle = datetime.now(UTC)
    publisher.publish("skips/x", b"later")
    with trivium.blocking.connect(broker.native) as admin:
        assert admin.reset("skips", trivium.LATEST, kind="session") == {("skips", 0): 11}
        assert 0 < admin.reset("skips", middle, kind="session")["skips", 0] <= 10
        assert admin.reset("skips", trivium.LATEST, kind="session") == {("skips", 0): 11}
    publisher.publish("skips/x", b"new")
    device = Device(broker.mqtt, "skips", clean=False)
    assert device.payloads(1) == [b"new"]
    device.close()
    publisher.close()


def test_a_shared_subscription_is_moved_for_all_its_members(broker: Child) -> None:
    members, publisher = [Device(broker.mqtt), Device(broker.mqtt)], Device(broker.mqtt)
    for member in members:
        member.subscribe("$share/g/shared/#", qos=1)
    for number in range(10):
        publisher.publish("shared/x", b"%d" % number)
    assert len([member.payloads(5) for member in members]) == 2
    with trivium.blocking.connect(broker.native) as admin:
        assert admin.reset("$share/g/shared/#", offset=4, kind="session") == {("shared", 0): 4}
        again = sorted(payload for member in members for payload in member.payloads(3))
        assert again == [b"4", b"5", b"6", b"7", b"8", b"9"]
    for device in (*members, publisher):
        device.close()


def test_what_cannot_be_moved_is_refused(broker: Child) -> None:
    device = Device(broker.mqtt, "refused")
    device.subscribe("some/#")
    with trivium.blocking.connect(broker.native) as admin:
        for code, name, topics in (
            (ErrorCode.GROUP_NOT_FOUND, "nobody", []),
            (ErrorCode.GROUP_NOT_FOUND, "$share/no/body", []),
            (ErrorCode.UNKNOWN_TOPIC, "refused", ["other"]),
        ):
            with pytest.raises(RequestRefused) as caught:
                admin.reset(name, trivium.EARLIEST, topics=topics, kind="session")
            assert caught.value.code == code
    device.close()
