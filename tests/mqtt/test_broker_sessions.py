"""Sessions, wills and subscriptions of the whole broker, with real clients: clauses that need more than the machine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.mqtt.child import WAIT_S, Child, Device, child_broker
from tests.mqtt.child import properties as make_properties

clause = pytest.mark.clause


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


def _nothing_came(device: Device, publisher: Device, marker: str) -> None:
    """What is published last is what comes next: nothing was before it."""
    publisher.publish(marker, b"marker")
    assert device.get().topic == marker


@clause("MQTT-3.1.2-8", v=4)
@clause("MQTT-3.1.2-8", v=5)
def test_a_will_is_published_when_the_connection_breaks(broker: Child) -> None:
    watcher = Device(broker.mqtt)
    watcher.subscribe("wills/#", qos=1)
    dying = Device(broker.mqtt, will={"topic": "wills/a", "payload": b"gone", "qos": 1})
    dying.break_off()
    message = watcher.get()
    assert (message.topic, message.payload, message.qos) == ("wills/a", b"gone", 1)
    watcher.close()


@clause("MQTT-3.1.2-10", v=4)
@clause("MQTT-3.14.4-3", v=4)
@clause("MQTT-3.14.4-3", v=5)
def test_a_will_is_removed_by_disconnect(broker: Child) -> None:
    watcher = Device(broker.mqtt)
    watcher.subscribe([("nowill/#", 1), ("marker/nowill", 1)])
    leaving = Device(broker.mqtt, will={"topic": "nowill/a", "payload": b"gone", "qos": 1})
    leaving.close()
    _nothing_came(watcher, watcher, "marker/nowill")
    watcher.close()


@clause("MQTT-3.1.2-17", v=4)
@clause("MQTT-3.1.2-15", v=5)
def test_a_retained_will_stays(broker: Child) -> None:
    watcher = Device(broker.mqtt)
    watcher.subscribe("wills/kept", qos=1)
    dying = Device(broker.mqtt, will={"topic": "wills/kept", "payload": b"gone", "qos": 1, "retain": True})
    dying.break_off()
    assert not watcher.get().retain
    late = Device(broker.mqtt)
    late.subscribe("wills/kept", qos=1)
    message = late.get()
    assert message.retain
    assert message.payload == b"gone"
    watcher.close()
    late.close()


@clause("MQTT-3.1.3-9", v=5)
def test_a_will_is_not_published_when_the_client_returns_within_its_delay(broker: Child) -> None:
    watcher = Device(broker.mqtt)
    watcher.subscribe([("late/#", 1), ("marker/late", 1)])
    delay = make_properties(PacketTypes.WILLMESSAGE)
    delay.WillDelayInterval = 3600
    will = {"topic": "late/a", "payload": b"gone", "qos": 1, "properties": delay}
    device = Device(broker.mqtt, "returns", v5=True, expiry_s=4000, will=will)
    device.break_off()
    device = Device(broker.mqtt, "returns", v5=True, clean=False, expiry_s=4000)
    assert device.session_present
    _nothing_came(watcher, watcher, "marker/late")
    # The session ends: the will it had would be due at once, but it was taken back.
    device.close()
    watcher.close()


def test_a_stored_will_is_published_after_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_WILL_GRACE_S", "1")
    with child_broker(tmp_path) as broker:
        watcher = Device(broker.mqtt, "watcher", clean=False)
        watcher.subscribe("killed/#", qos=1)
        dying = Device(broker.mqtt, will={"topic": "killed/a", "payload": b"gone", "qos": 1})
        broker.kill()
        watcher.break_off()
        dying.break_off()
        broker.start()
        watcher = Device(broker.mqtt, "watcher", clean=False)
        assert watcher.get().payload == b"gone"
        watcher.close()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_client_that_returns_after_a_restart_is_not_spoken_of_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whether its session outlived its connection or not: it was the broker that went."""
    monkeypatch.setenv("TRIVIUM_MQTT_WILL_GRACE_S", "3600")

    def will(name: str) -> dict[str, Any]:
        return {"topic": f"restarted/{name}", "payload": b"gone", "qos": 1}

    with child_broker(tmp_path) as broker:
        watcher = Device(broker.mqtt, "watcher", clean=False)
        watcher.publish("restarted/first", b"so that the topic is there")
        watcher.subscribe([("restarted/#", 1), ("marker", 1)])
        clients = [Device(broker.mqtt, name, clean=name != "durable", will=will(name)) for name in ("clean", "durable")]
        away = Device(broker.mqtt, "away", will=will("away"))
        broker.kill() if how == "kill" else broker.stop()
        for device in (watcher, away, *clients):
            device.break_off()
        broker.start()
        back = [Device(broker.mqtt, name, clean=name != "durable", will=will(name)) for name in ("clean", "durable")]
        watcher = Device(broker.mqtt, "watcher", clean=False)
        _nothing_came(watcher, back[0], "marker")
        for device in (*back, watcher):
            device.close()
        # Now nobody has time to come back: only of the one that never did it is said.
        broker.stop()
        monkeypatch.setenv("TRIVIUM_MQTT_WILL_GRACE_S", "0")
        broker.start()
        watcher = Device(broker.mqtt, "watcher", clean=False)
        assert watcher.get().topic == "restarted/away"
        _nothing_came(watcher, watcher, "marker")
        watcher.close()


@clause("MQTT-3.1.4-2", v=4)
@clause("MQTT-3.1.4-3", v=5)
def test_a_second_connection_takes_the_session_over(broker: Child) -> None:
    first = Device(broker.mqtt, "twin", v5=True, expiry_s=100)
    reasons: queue.Queue[int] = queue.Queue()
    first.client.on_disconnect = lambda _c, _u, _f, code, _p: reasons.put(code.value)
    first.subscribe("twins", qos=1)
    second = Device(broker.mqtt, "twin", v5=True, clean=False, expiry_s=100)
    assert reasons.get(timeout=WAIT_S) == 0x8E
    first.break_off()
    assert second.session_present
    second.publish("twins", b"still subscribed")
    assert second.get().payload == b"still subscribed"
    second.close()


@clause("MQTT-3.1.2-4", v=5)
@clause("MQTT-3.1.2-6", v=4)
def test_clean_start_discards_the_session(broker: Child) -> None:
    device = Device(broker.mqtt, "cleaned", v5=True, expiry_s=100)
    device.subscribe("cleaned", qos=1)
    device.close()
    device = Device(broker.mqtt, "cleaned", v5=True, expiry_s=100)
    assert not device.session_present
    device.subscribe("marker/cleaned", qos=1)
    device.publish("cleaned", b"nobody's")
    _nothing_came(device, device, "marker/cleaned")
    device.close()


@clause("MQTT-3.8.3-3", v=5)
def test_no_local_keeps_a_device_from_its_own_messages(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    other = Device(broker.mqtt, v5=True)
    device.subscribe("nolocal", options=SubscribeOptions(qos=1, noLocal=True))
    device.publish("nolocal", b"mine")
    other.publish("nolocal", b"yours")
    assert device.get().payload == b"yours"
    device.close()
    other.close()


@clause("MQTT-3.3.4-3", v=5)
@clause("MQTT-3.3.4-5", v=5)
def test_a_message_carries_the_identifiers_of_all_its_subscriptions(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    for number, filter_ in enumerate(["ids/a", "ids/+", "ids/#"], 1):
        properties = make_properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = number
        device.subscribe(filter_, qos=number % 3, properties=properties)
    device.publish("ids/a", b"x", 2)
    message = device.get()
    assert sorted(message.properties.SubscriptionIdentifier) == [1, 2, 3]
    assert message.qos == 2
    device.close()


@clause("MQTT-3.3.1-9", v=5)
@clause("MQTT-3.3.1-10", v=5)
@clause("MQTT-3.3.1-11", v=5)
def test_retain_handling_says_when_retained_messages_are_sent(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    device.publish("handling", b"kept", retain=True)
    device.subscribe("marker/handling", qos=1)
    device.subscribe("handling", options=SubscribeOptions(qos=1, retainHandling=2))
    _nothing_came(device, device, "marker/handling")
    device.subscribe("handling", options=SubscribeOptions(qos=1, retainHandling=1))
    _nothing_came(device, device, "marker/handling")
    device.subscribe("handling", options=SubscribeOptions(qos=1, retainHandling=0))
    assert device.get().payload == b"kept"
    device.unsubscribe("handling")
    device.subscribe("handling", options=SubscribeOptions(qos=1, retainHandling=1))
    assert device.get().payload == b"kept"
    device.close()


@clause("MQTT-3.3.1-12", v=5)
@clause("MQTT-3.3.1-13", v=5)
def test_retain_as_published_keeps_the_flag(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    plain = Device(broker.mqtt, v5=True)
    device.subscribe("published", options=SubscribeOptions(qos=1, retainAsPublished=True))
    plain.subscribe("published", options=SubscribeOptions(qos=1))
    device.publish("published", b"x", retain=True)
    assert device.get().retain
    assert not plain.get().retain
    device.close()
    plain.close()


@clause("MQTT-3.10.4-1", v=4)
@clause("MQTT-3.10.4-2", v=4)
def test_after_unsubscribe_nothing_comes(broker: Child) -> None:
    device = Device(broker.mqtt)
    device.subscribe([("unsub/+", 1), ("marker/unsub", 1)])
    device.publish("unsub/a", b"x")
    assert device.get().payload == b"x"
    device.unsubscribe("unsub/+")
    device.publish("unsub/a", b"y")
    _nothing_came(device, device, "marker/unsub")
    device.close()


@clause("MQTT-4.7.2-1", v=4)
@clause("MQTT-4.7.2-1", v=5)
def test_wildcards_in_the_first_level_do_not_match_dollar_names(broker: Child) -> None:
    device = Device(broker.mqtt)
    device.subscribe([("+/dollar", 1), ("marker/dollar", 1)])
    device.publish("$other/dollar", b"hidden")
    _nothing_came(device, device, "marker/dollar")
    device.close()


@clause("MQTT-3.3.2-5", v=5)
def test_an_expired_message_is_not_delivered_a_living_one_says_what_remains(broker: Child) -> None:
    device = Device(broker.mqtt, "expects", v5=True, expiry_s=100)
    device.subscribe("expiring", qos=1)
    device.close()
    publisher = Device(broker.mqtt, v5=True)
    for expiry_s, payload in ((1, b"short"), (500, b"long")):
        properties = make_properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = expiry_s
        publisher.publish("expiring", payload, properties=properties)
    threading.Event().wait(1.1)  # the broker's clock is the real one
    device = Device(broker.mqtt, "expects", v5=True, clean=False, expiry_s=100)
    message = device.get()
    assert message.payload == b"long"
    assert 400 < message.properties.MessageExpiryInterval <= 500
    device.close()
    publisher.close()


def test_a_device_whose_window_is_small_gets_everything_in_order(broker: Child) -> None:
    device = Device(broker.mqtt, "narrow", clean=False)
    device.client.manual_ack_set(True)
    device.subscribe("narrow/#", qos=1)
    publisher = Device(broker.mqtt)
    infos = [publisher.client.publish("narrow/a", b"%d" % number, 1) for number in range(2500)]
    infos[-1].wait_for_publish(WAIT_S)
    found = []
    for _ in range(2500):
        message = device.get()
        found.append(message.payload)
        device.client.ack(message.mid, message.qos)
    assert found == [b"%d" % number for number in range(2500)]
    device.close()
    publisher.close()


@clause("MQTT-3.1.2-4", v=4)
@clause("MQTT-3.1.2-5", v=4)
@clause("MQTT-3.1.2-5", v=5)
@clause("MQTT-4.1.0-2", v=4)
@clause("MQTT-4.1.0-2", v=5)
def test_a_session_is_kept_with_its_subscriptions_and_messages(broker: Child) -> None:
    device = Device(broker.mqtt, "kept", clean=False)
    device.subscribe("kept/#", qos=1)
    device.close()
    publisher = Device(broker.mqtt)
    publisher.publish("kept/a", b"1", 1)
    publisher.publish("kept/a", b"2", 2)
    device = Device(broker.mqtt, "kept", clean=False)
    assert device.session_present
    messages = [device.get(), device.get()]
    assert [(message.payload, message.qos) for message in messages] == [(b"1", 1), (b"2", 1)]
    device.close()
    publisher.close()


@clause("MQTT-3.1.2-6", v=5)
def test_without_a_session_none_is_present(broker: Child) -> None:
    device = Device(broker.mqtt, "never-seen", v5=True, clean=False, expiry_s=10)
    assert not device.session_present
    device.close()


@clause("MQTT-3.1.2-23", v=5)
def test_a_session_without_expiry_ends_with_its_connection(broker: Child) -> None:
    device = Device(broker.mqtt, "ends", v5=True)
    device.subscribe("ends", qos=1)
    device.close()
    device = Device(broker.mqtt, "ends", v5=True, clean=False)
    assert not device.session_present
    device.close()


@clause("MQTT-3.1.2-16", v=4)
@clause("MQTT-3.1.2-14", v=5)
def test_a_will_without_retain_is_not_kept(broker: Child) -> None:
    watcher = Device(broker.mqtt)
    watcher.subscribe("wills/passing", qos=1)
    dying = Device(broker.mqtt, will={"topic": "wills/passing", "payload": b"gone", "qos": 1})
    dying.break_off()
    assert watcher.get().payload == b"gone"
    late = Device(broker.mqtt)
    late.subscribe([("wills/passing", 1), ("marker/passing", 1)])
    _nothing_came(late, late, "marker/passing")
    watcher.close()
    late.close()


@clause("MQTT-3.3.1-5", v=4)
@clause("MQTT-3.3.1-6", v=4)
@clause("MQTT-3.3.1-8", v=4)
@clause("MQTT-3.3.1-5", v=5)
@clause("MQTT-3.8.4-3", v=4)
@clause("MQTT-3.8.4-3", v=5)
@clause("MQTT-3.8.4-4", v=5)
def test_the_last_retained_message_comes_with_every_subscription(broker: Child) -> None:
    device = Device(broker.mqtt)
    for payload, qos in ((b"1", 1), (b"2", 0), (b"3", 2)):
        device.publish("last/kept", payload, qos, retain=True)
    for asked in (0, 1, 2, 2):  # subscribing again replaces the subscription and sends it again
        device.subscribe("last/kept", qos=asked)
        message = device.get()
        assert (message.payload, message.retain, message.qos) == (b"3", True, asked)
    device.publish("last/kept", b"live", 2)
    message = device.get()
    assert (message.payload, message.retain, message.qos) == (b"live", False, 2)
    assert device.messages.empty()
    device.close()


@clause("MQTT-3.3.1-9", v=4)
@clause("MQTT-3.3.1-10", v=4)
@clause("MQTT-3.3.1-11", v=4)
@clause("MQTT-3.3.1-12", v=4)
@clause("MQTT-3.3.1-6", v=5)
@clause("MQTT-3.3.1-7", v=5)
@clause("MQTT-3.3.1-8", v=5)
def test_an_empty_retained_message_is_delivered_and_removes_an_unretained_one_does_neither(broker: Child) -> None:
    device = Device(broker.mqtt)
    device.publish("removed/a", b"kept", 1, retain=True)
    device.subscribe("removed/#", qos=1)
    assert device.get().retain
    device.publish("removed/a", b"passing", 1)
    message = device.get()
    assert (message.payload, message.retain) == (b"passing", False)
    device.unsubscribe("removed/#")
    device.subscribe("removed/#", qos=1)
    assert device.get().payload == b"kept"
    device.publish("removed/a", b"", 1, retain=True)
    message = device.get()
    assert (message.payload, message.retain) == (b"", False)
    late = Device(broker.mqtt)
    late.subscribe([("removed/#", 1), ("marker/removed", 1)])
    _nothing_came(late, late, "marker/removed")
    device.close()
    late.close()


@clause("MQTT-3.3.5-1", v=4)
@clause("MQTT-3.3.4-2", v=5)
@clause("MQTT-3.3.2-3", v=4)
@clause("MQTT-3.3.2-3", v=5)
def test_overlapping_subscriptions_get_the_highest_granted_qos(broker: Child) -> None:
    device = Device(broker.mqtt)
    device.subscribe([("over/#", 0), ("over/+", 2), ("over/a", 1)])
    device.publish("over/a", b"x", 2)
    message = device.get()
    assert (message.topic, message.qos) == ("over/a", 2)
    device.close()


@clause("MQTT-3.10.4-1", v=5)
@clause("MQTT-3.10.4-2", v=5)
@clause("MQTT-3.10.4-3", v=4)
@clause("MQTT-3.10.4-3", v=5)
def test_unsubscribe_lets_begun_deliveries_end_and_no_others_begin(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    device.client.manual_ack_set(True)
    device.subscribe("begun", qos=1)
    device.subscribe("marker/begun", qos=1)
    device.publish("begun", b"begun")
    message = device.get()
    device.unsubscribe("begun")
    device.client.ack(message.mid, message.qos)
    device.publish("begun", b"not begun")
    _nothing_came(device, device, "marker/begun")
    device.close()


@clause("MQTT-4.5.0-1", v=4)
@clause("MQTT-4.5.0-1", v=5)
@clause("MQTT-4.6.0-5", v=4)
@clause("MQTT-4.6.0-6", v=5)
def test_messages_of_one_topic_keep_their_order_for_every_matching_session(broker: Child) -> None:
    away = Device(broker.mqtt, "ordered", clean=False)
    away.subscribe("ordered/+", qos=2)
    away.close()
    here = Device(broker.mqtt)
    here.subscribe("ordered/#", qos=2)
    publisher = Device(broker.mqtt)
    for number in range(300):
        publisher.client.publish("ordered/a", b"%d" % number, 2)
    publisher.publish("ordered/a", b"300", 2)
    back = Device(broker.mqtt, "ordered", clean=False)
    for device in (here, back):
        assert device.payloads(301) == [b"%d" % number for number in range(301)]
        device.close()
    publisher.close()
