"""Filters over properties in MQTT subscriptions, with real clients: live, behind, retained, shared, and refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes

from tests.mqtt.child import Child, Device, child_broker, properties

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaProducer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


def user(kind: int, *pairs: tuple[str, str]) -> Any:
    found = properties(kind)
    found.UserProperty = list(pairs)
    return found


def subscribe(device: Device, topic: str, *pairs: tuple[str, str], qos: int = 1) -> list[int]:
    return device.subscribe(topic, qos=qos, properties=user(PacketTypes.SUBSCRIBE, *pairs))


def publish(device: Device, topic: str, payload: bytes, *pairs: tuple[str, str], **options: Any) -> None:
    device.publish(topic, payload, properties=user(PacketTypes.PUBLISH, *pairs), **options)


def test_subscribers_get_what_passes_their_filter_and_others_everything(broker: Child) -> None:
    cold, tagged, both, everything = (Device(broker.mqtt, v5=True) for _ in range(4))
    assert subscribe(cold, "live/#", ("trivium-filter", "temp < 5"), qos=2) == [2]
    assert subscribe(tagged, "live/+", ("trivium-tags", "alarm || test")) == [1]
    subscribe(both, "live/#", ("trivium-filter", "temp < 5"))
    subscribe(both, "live/a", ("trivium-filter", "temp > 50"))
    everything.subscribe("live/#", qos=1)
    publisher = Device(broker.mqtt, v5=True)
    for number, temperature in enumerate((3, 20, 70, 4)):
        tag = [("trivium.tag", "alarm")] if temperature == 70 else []
        publish(publisher, "live/a", b"%d" % number, ("temp", str(temperature)), *tag)
    publisher.publish("live/a", b"4")
    assert everything.payloads(5) == [b"0", b"1", b"2", b"3", b"4"]
    assert cold.payloads(2) == [b"0", b"3"]
    assert both.payloads(3) == [b"0", b"2", b"3"]
    message = tagged.get()
    assert message.payload == b"2"
    assert message.properties.UserProperty == [("temp", "70"), ("trivium.tag", "alarm")]
    for device in (cold, tagged, both, everything, publisher):
        assert device.messages.empty()
        device.close()


def test_an_offline_session_keeps_its_filter_over_kill_9(broker: Child) -> None:
    device = Device(broker.mqtt, "offline-filter", v5=True, clean=False, expiry_s=3600)
    subscribe(device, "later/#", ("trivium-filter", "color = 'red'"))
    device.close()
    broker.kill()
    broker.start()
    producer = KafkaProducer(bootstrap_servers=broker.kafka)
    for number in range(40):
        color = b"red" if number % 10 == 0 else b"blue"
        producer.send("later", key=b"x", value=b"%d" % number, headers=[("color", color)])
    producer.flush()
    producer.close()
    device = Device(broker.mqtt, "offline-filter", v5=True, clean=False, expiry_s=3600)
    assert device.session_present
    assert device.payloads(4) == [b"0", b"10", b"20", b"30"]
    publisher = Device(broker.mqtt, v5=True)
    publish(publisher, "later/x", b"blue", ("color", "blue"))
    publish(publisher, "later/x", b"red", ("color", "red"))
    assert device.payloads(1) == [b"red"]
    publisher.close()
    device.close()


def test_retained_messages_are_filtered_too(broker: Child) -> None:
    publisher = Device(broker.mqtt, v5=True)
    for name, size in (("a", "small"), ("b", "large"), ("c", "large")):
        publish(publisher, f"kept/{name}", name.encode(), ("size", size), retain=True)
    device = Device(broker.mqtt, v5=True)
    subscribe(device, "kept/#", ("trivium-filter", "size = 'large'"))
    assert sorted(device.payloads(2)) == [b"b", b"c"]
    publisher.close()
    device.close()


def test_the_members_of_a_shared_subscription_have_one_filter(broker: Child) -> None:
    first, second = Device(broker.mqtt, v5=True), Device(broker.mqtt, v5=True)
    assert subscribe(first, "$share/g/shared/#", ("trivium-filter", "n > 1")) == [1]
    assert subscribe(second, "$share/g/shared/#", ("trivium-filter", "n > 2")) == [0x83]
    assert "'sql:n > 1'" in second.reason
    assert "'sql:n > 2'" in second.reason
    assert subscribe(second, "$share/g/shared/#", ("trivium-filter", "n > 1")) == [1]
    publisher = Device(broker.mqtt, v5=True)
    for number in range(6):
        publish(publisher, "shared/x", b"%d" % number, ("n", str(number)))
    publisher.close()
    assert sorted(first.payloads(2) + second.payloads(2)) == [b"2", b"3", b"4", b"5"]
    second.close()
    assert subscribe(first, "$share/g/shared/#", ("trivium-filter", "n > 4")) == [1]  # alone, it may change it
    first.close()


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("trivium-filter", "temp <")], "at character 7: a property, a value or an opening bracket expected"),
        ([("trivium-filter", "(" * 4000)], "nested more than 50 deep"),
        ([("trivium-filter", "a" * 5000)], "at most 4096 characters"),
        ([("trivium-tags", "||")], "no tag"),
        ([("trivium-tags", "a"), ("trivium-filter", "b = 1")], "one trivium-filter or trivium-tags"),
    ],
)
def test_a_bad_filter_is_refused_at_subscribe(broker: Child, pairs: list[tuple[str, str]], words: str) -> None:
    device = Device(broker.mqtt, v5=True)
    assert subscribe(device, "bad/#", *pairs) == [0x83]
    assert words in device.reason
    device.close()
