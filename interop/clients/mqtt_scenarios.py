"""What every MQTT library is put through, whatever it is: `register(connect, versions)` adds the tests to the harness.

A message that must not come is proved absent by one that must come behind it on the same road: nothing here waits for
silence.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from harness import Skipped, eventually, same, test, true, unique
from mqtt_device import V5, V31, Device, Options, Will

Connect = Callable[[Options], Device]
_SCENARIOS: list[tuple[str, Callable[[Connect, int], None], bool]] = []
NAMES = {3: "3.1", 4: "3.1.1", 5: "5"}


def scenario(name: str, v5_only: bool = False) -> Callable[[Callable[[Connect, int], None]], Any]:
    def keep(function: Callable[[Connect, int], None]) -> Callable[[Connect, int], None]:
        _SCENARIOS.append((name, function, v5_only))
        return function

    return keep


def register(connect: Connect, versions: Iterable[int], leave_out: Iterable[str] = ()) -> None:
    """Adds all scenarios for these protocol versions, except the tests named in `leave_out`."""
    for version in versions:
        for name, function, v5_only in _SCENARIOS:
            if f"{name}-v{NAMES[version]}" not in leave_out and (version == V5 or not v5_only):
                test(f"{name}-v{NAMES[version]}", connect, version)(function)


def control(command: str) -> None:
    """Has the broker restarted, see interop/control.py."""
    if "CONTROL" not in os.environ:
        raise Skipped("the broker cannot be restarted from here")
    host, _, port = os.environ["CONTROL"].rpartition(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(command.encode() + b"\n")
        same(connection.makefile().readline().strip(), "ok", f"{command} of the broker")


def check_present(device: Device, expected: bool, when: str) -> None:
    """MQTT 3.1's CONNACK does not say it, and not every library tells."""
    if device.options.version != V31 and device.session_present is not None:
        same(device.session_present, expected, f"session present {when}")


def options(version: int, name: str = "device", **more: Any) -> Options:
    return Options(unique(name), version, **more)


def durable(version: int, client_id: str, clean: bool = False, **more: Any) -> Options:
    """A session that outlives its connection; before MQTT 5 only one that was not begun clean does."""
    return Options(client_id, version, clean=clean and version == V5, expiry_s=3600 if version == V5 else 0, **more)


@scenario("qos-both-ways")
def qos_both_ways(connect: Connect, version: int) -> None:
    """Each published QoS to each granted QoS: the lower counts, all arrive, in order."""
    topic = unique("qos")
    publisher = connect(options(version))
    subscribers = [connect(options(version)) for _ in range(3)]
    for granted, subscriber in enumerate(subscribers):
        same(subscriber.subscribe(f"{topic}/+", granted), granted, "granted QoS")
    for qos in range(3):
        begun = [publisher.publish_nowait(f"{topic}/{qos}", b"%d" % number, qos) for number in range(60)]
        for one in begun:
            same(publisher.wait_published(one), 0, f"answer at QoS {qos}")
    for granted, subscriber in enumerate(subscribers):
        subscriber.wait(180)
        for qos in range(3):
            found = [got for got in subscriber.messages if got.topic == f"{topic}/{qos}"]
            same([got.payload for got in found], [b"%d" % number for number in range(60)], f"payloads {qos}->{granted}")
            same({got.qos for got in found}, {min(qos, granted)}, f"QoS {qos}->{granted}")
            same({got.retain for got in found}, {False}, "RETAIN of live messages")
    for device in (publisher, *subscribers):
        device.disconnect()


@scenario("retained")
def retained(connect: Connect, version: int) -> None:
    topic = unique("retained")
    publisher, early = connect(options(version)), connect(options(version))
    early.subscribe(f"{topic}/#", 2)
    for number in range(5):
        publisher.publish(f"{topic}/{number}", b"first", 1, retain=True)
        publisher.publish(f"{topic}/{number}", b"second-%d" % number, number % 3, retain=True)
    publisher.publish(f"{topic}/1", b"", 1, retain=True)  # deletes
    publisher.publish(f"{topic}/2", b"not retained", 1)  # does not replace
    early.wait(12)
    same({got.retain for got in early.messages}, {False}, "RETAIN to an established subscription")
    late = connect(options(version))
    late.subscribe(f"{topic}/+", 1)
    late.wait(4)
    found = {got.topic: (got.payload, got.qos, got.retain) for got in late.messages}
    wanted = {f"{topic}/{n}": (b"second-%d" % n, min(n % 3, 1), True) for n in (0, 2, 3, 4)}
    same(found, wanted, "retained messages by wildcard")
    exact = connect(options(version))
    exact.subscribe(f"{topic}/1", 1)
    exact.subscribe(f"{topic}/3", 1)
    same([got.payload for got in exact.wait(1)], [b"second-3"], "the deleted one did not come")
    for device in (publisher, early, late, exact):
        device.disconnect()


@scenario("retain-handling", v5_only=True)
def retain_handling(connect: Connect, version: int) -> None:
    topic = unique("handling")
    publisher = connect(options(version))
    publisher.publish(topic, b"kept", 1, retain=True)
    device = connect(options(version))
    device.subscribe(topic, 1, handling=2)  # never
    device.subscribe(topic, 1, handling=1)  # only a new subscription
    device.subscribe(topic, 1, handling=0)  # always
    same(len(device.wait(1)), 1, "messages after handling 2, 1, 0")
    device.unsubscribe(topic)
    device.subscribe(topic, 1, handling=1, retain_as_published=True)
    device.wait(2)
    publisher.publish(topic, b"live", 1, retain=True)
    same([(got.payload, got.retain) for got in device.wait(3)][1:], [(b"kept", True), (b"live", True)], "as published")
    publisher.disconnect()
    device.disconnect()


@scenario("will")
def will(connect: Connect, version: int) -> None:
    topic = unique("will")
    watcher = connect(options(version))
    watcher.subscribe(f"{topic}/#", 2)
    connect(options(version, will=Will(f"{topic}/clean", b"no", 1))).disconnect()
    connect(options(version, will=Will(f"{topic}/cut", b"gone", 2, retain=True))).drop()
    same([(got.topic, got.payload, got.qos) for got in watcher.wait(1)], [(f"{topic}/cut", b"gone", 2)], "wills")
    late = connect(options(version))
    late.subscribe(f"{topic}/#", 1)
    same([(got.payload, got.retain) for got in late.wait(1)], [(b"gone", True)], "the retained will")
    watcher.disconnect()
    late.disconnect()


@scenario("will-delay", v5_only=True)
def will_delay(connect: Connect, version: int) -> None:
    topic, client_id = unique("delay"), unique("device")
    watcher = connect(options(version))
    watcher.subscribe(f"{topic}/#", 1)
    connect(durable(version, client_id, will=Will(f"{topic}/back", b"no", 1, delay_s=1_000))).drop()
    again = connect(durable(version, client_id, will=Will(f"{topic}/asked", b"yes", 1)))
    again.disconnect(0x04)  # with will
    same([got.topic for got in watcher.wait(1)], [f"{topic}/asked"], "only the will that was asked for")
    connect(durable(version, client_id, will=Will(f"{topic}/late", b"late", 1, delay_s=1))).drop()
    began = time.monotonic()
    watcher.wait(2)
    true(time.monotonic() - began > 0.8, "the will came before its delay")
    same([got.topic for got in watcher.messages], [f"{topic}/asked", f"{topic}/late"], "wills")
    watcher.disconnect()


def _offline_then_back(connect: Connect, version: int, between: Callable[[], None]) -> None:
    topic, client_id = unique("session"), unique("device")
    device = connect(durable(version, client_id, clean=True))
    check_present(device, False, "at first")
    device.subscribe(f"{topic}/a/#", 1)
    device.subscribe(f"{topic}/b/+", 2)
    device.disconnect()
    publisher = connect(options(version))
    for number in range(40):
        publisher.publish(f"{topic}/a/x/y", b"a%d" % number, 1)
        publisher.publish(f"{topic}/b/z", b"b%d" % number, 2)
    publisher.disconnect()
    between()
    device = connect(durable(version, client_id))
    check_present(device, True, "on return")
    device.wait(80)
    publisher = connect(options(version))
    publisher.publish(f"{topic}/b/z", b"b40", 2)  # the subscriptions still count
    device.wait(81)
    for letter, count, qos in (("a", 40, 1), ("b", 41, 2)):
        found = [got for got in device.messages if got.topic.startswith(f"{topic}/{letter}/")]
        same([got.payload for got in found], [f"{letter}{n}".encode() for n in range(count)], f"QoS {qos}")
        same({got.qos for got in found}, {qos}, "QoS")
    device.disconnect()
    device = connect(durable(version, client_id))
    publisher.publish(f"{topic}/a/last", b"last", 1)
    same([got.payload for got in device.wait(1)], [b"last"], "nothing came twice")
    device.disconnect()
    device = connect(Options(client_id, version, clean=True))
    check_present(device, False, "after a clean start")
    device.disconnect()
    publisher.disconnect()


@scenario("persistent-session")
def persistent_session(connect: Connect, version: int) -> None:
    _offline_then_back(connect, version, lambda: None)


@scenario("persistent-session-over-restart")
def persistent_session_over_restart(connect: Connect, version: int) -> None:
    _offline_then_back(connect, version, lambda: control("restart"))


@scenario("persistent-session-over-kill")
def persistent_session_over_kill(connect: Connect, version: int) -> None:
    _offline_then_back(connect, version, lambda: control("kill"))


@scenario("retained-over-kill")
def retained_over_kill(connect: Connect, version: int) -> None:
    topic = unique("kept")
    publisher = connect(options(version))
    for number in range(20):
        publisher.publish(f"{topic}/{number}", b"%d" % number, 1, retain=True)
    publisher.publish(f"{topic}/7", b"", 1, retain=True)
    control("kill")
    device = connect(options(version))
    device.subscribe(f"{topic}/#", 1)
    device.wait(19)
    same(sorted(map(int, device.payloads())), [n for n in range(20) if n != 7], "retained messages")
    device.disconnect()


@scenario("session-expiry", v5_only=True)
def session_expiry(connect: Connect, version: int) -> None:
    client_id = unique("expiry")
    connect(Options(client_id, version, clean=True, expiry_s=1)).drop()
    same(_present(connect, Options(client_id, version, clean=False, expiry_s=1)), True, "at once")
    eventually(lambda: not _present(connect, Options(client_id, version, clean=False, expiry_s=0)), "the session ended")


def _present(connect: Connect, chosen: Options) -> bool:
    device = connect(chosen)
    device.disconnect()
    return device.session_present


@scenario("shared-subscription")
def shared(connect: Connect, version: int) -> None:
    topic, group = unique("shared"), unique("group")
    members = [connect(options(version)) for _ in range(3)]
    whole = connect(options(version))
    for member in members:
        same(member.subscribe(f"$share/{group}/{topic}/#", 1), 1, "granted QoS")
    whole.subscribe(f"{topic}/#", 1)
    publisher = connect(options(version))
    begun = [publisher.publish_nowait(f"{topic}/{n % 5}", b"%d" % n, 1) for n in range(300)]
    for one in begun:
        publisher.wait_published(one)
    eventually(lambda: sum(len(member.messages) for member in members) >= 300, "300 messages to the members")
    every = sorted(int(payload) for member in members for payload in member.payloads())
    same(every, list(range(300)), "each message to one member")
    true(all(member.messages for member in members), "every member got some")
    whole.wait(300)
    members[0].drop()
    members[1].disconnect()
    for number in range(300, 330):
        publisher.publish(f"{topic}/x", b"%d" % number, 1)
    before = len(members[2].messages)
    eventually(lambda: members[2].payloads()[-1:] == [b"329"], f"the rest at the last member ({before})")
    for device in (members[2], whole, publisher):
        device.disconnect()


@scenario("large-payload")
def large_payload(connect: Connect, version: int) -> None:
    topic = unique("large")
    device, publisher = connect(options(version)), connect(options(version))
    device.subscribe(topic, 2)
    payloads = [bytes(range(256)) * (1 << shift) for shift in (0, 6, 11)] + [b"x" * 1_000_000]
    for payload in payloads:
        for qos in range(3):
            publisher.publish(topic, payload, qos)
    device.wait(len(payloads) * 3)
    for qos in range(3):  # libraries hand over QoS 2 at PUBREL, so what was sent behind it may come first
        found = [got.payload for got in device.messages if got.qos == qos]
        same([len(payload) for payload in found], [len(payload) for payload in payloads], f"sizes at QoS {qos}")
        true(found == payloads, f"payloads at QoS {qos}")
    device.disconnect()
    publisher.disconnect()


@scenario("keep-alive")
def keep_alive(connect: Connect, version: int) -> None:
    """An idle client that pings stays; what it subscribed to still comes after more than two keep alives."""
    topic = unique("idle")
    device, publisher = connect(options(version, keep_alive_s=2)), connect(options(version))
    device.subscribe(topic, 1)
    time.sleep(5.0)
    publisher.publish(topic, b"still there", 1)
    same([got.payload for got in device.wait(1)], [b"still there"], "after more than two keep alives")
    device.disconnect()
    publisher.disconnect()


@scenario("take-over")
def take_over(connect: Connect, version: int) -> None:
    topic, client_id = unique("over"), unique("device")
    first = connect(durable(version, client_id, clean=True))
    first.subscribe(topic, 1)
    second = connect(durable(version, client_id))
    check_present(second, True, "then")
    code = first.wait_closed()
    if version == V5 and first.tells_codes:
        same(code, 0x8E, "reason code of the first connection's end")
    publisher = connect(options(version))
    publisher.publish(topic, b"to the second", 1)
    same([got.payload for got in second.wait(1)], [b"to the second"], "messages")
    second.disconnect()
    publisher.disconnect()


@scenario("unsubscribe")
def unsubscribe(connect: Connect, version: int) -> None:
    topic = unique("unsubscribe")
    device, publisher = connect(options(version)), connect(options(version))
    device.subscribe(f"{topic}/a", 1)
    device.subscribe(f"{topic}/b", 1)
    publisher.publish(f"{topic}/a", b"1", 1)
    device.wait(1)
    same(device.unsubscribe(f"{topic}/a"), 0, "answer")
    if version == V5 and device.tells_codes:
        same(device.unsubscribe(f"{topic}/a"), 0x11, "answer without such a subscription")
    publisher.publish(f"{topic}/a", b"2", 1)
    publisher.publish(f"{topic}/b", b"3", 1)
    same([got.payload for got in device.wait(2)], [b"1", b"3"], "messages")
    device.disconnect()
    publisher.disconnect()


@scenario("filters")
def filters(connect: Connect, version: int) -> None:
    """Which names which filters match, empty levels and Unicode included."""
    topic = unique("f")
    names = ["", "/", "/a", "/a/b", "//b", "/ä/ü", "/a/"]
    wanted = {
        f"{topic}": {""},
        f"{topic}/#": {"", "/", "/a", "/a/b", "//b", "/ä/ü", "/a/"},
        f"{topic}/+": {"/", "/a"},
        f"{topic}/+/+": {"/a/b", "//b", "/ä/ü", "/a/"},
        f"{topic}/+/b": {"/a/b", "//b"},
        f"{topic}/a/#": {"/a", "/a/b", "/a/"},
        "+/a": {"/a"},
        f"{topic}/ä/+": {"/ä/ü"},
    }
    publisher = connect(options(version))
    devices = {filter_: connect(options(version)) for filter_ in wanted}
    for filter_, device in devices.items():
        device.subscribe(filter_, 1)
    for name in [*names, "/end/end/end"]:
        publisher.publish(topic + name, b"x", 1)
    for filter_, device in devices.items():
        expected = wanted[filter_]
        device.wait(len(expected))
        found = {got.topic.removeprefix(topic) for got in device.messages if got.topic.startswith(topic)}
        same(found - {"/end/end/end"}, expected, f"names for {filter_}")
        device.disconnect()
    publisher.disconnect()


@scenario("properties", v5_only=True)
def properties(connect: Connect, version: int) -> None:
    topic = unique("properties")
    device, publisher = connect(options(version)), connect(options(version))
    device.subscribe(f"{topic}/#", 2, identifier=7)
    device.subscribe(f"{topic}/a", 1, identifier=268_435_455)
    user = [("b", "2"), ("a", "1"), ("b", "2"), ("ä", ""), ("", "x")]
    sent = {
        "user": user,
        "content_type": "text/plain",
        "response_topic": f"{topic}/answers",
        "correlation": b"\x00\xff\x01",
        "format": 1,
        "expiry": 60,
    }
    publisher.publish(f"{topic}/a", b"text", 2, **sent)
    got = device.wait(1)[0]
    found = dict(got.properties)
    true(55 <= found.pop("expiry") <= 60, "expiry")
    same(sorted(found.pop("identifiers")), [7, 268_435_455], "subscription identifiers")
    same(found, {name: value for name, value in sent.items() if name != "expiry"}, "properties")
    same(got.qos, 2, "QoS of the highest subscription")
    device.disconnect()
    publisher.disconnect()


@scenario("message-expiry", v5_only=True)
def message_expiry(connect: Connect, version: int) -> None:
    topic, client_id = unique("expiry"), unique("device")
    connect_again = durable(version, client_id)
    device = connect(durable(version, client_id, clean=True))
    device.subscribe(topic, 1)
    device.disconnect()
    publisher = connect(options(version))
    publisher.publish(topic, b"short", 1, expiry=1)
    publisher.publish(topic, b"long", 1, expiry=1_000)
    publisher.publish(topic, b"kept short", 1, retain=True, expiry=1)
    time.sleep(2.1)
    publisher.publish(topic, b"end", 1)
    device = connect(connect_again)
    device.wait(2)
    same(device.payloads(), [b"long", b"end"], "what had not expired")
    true(
        700 <= device.messages[0].properties["expiry"] <= 998, f"remaining {device.messages[0].properties['expiry']} s"
    )
    late = connect(options(version))
    late.subscribe(topic, 1)
    late.subscribe(f"{topic}/end", 1)
    publisher.publish(f"{topic}/end", b"end", 1)
    same([got.payload for got in late.wait(1)], [b"end"], "the retained message had expired")
    for one in (device, publisher, late):
        one.disconnect()


@scenario("no-local", v5_only=True)
def no_local(connect: Connect, version: int) -> None:
    topic = unique("local")
    device, other = connect(options(version)), connect(options(version))
    device.subscribe(topic, 1, no_local=True)
    device.publish(topic, b"mine", 1)
    other.publish(topic, b"theirs", 1)
    same([got.payload for got in device.wait(1)], [b"theirs"], "messages")
    device.disconnect()
    other.disconnect()


@scenario("topic-alias", v5_only=True)
def topic_alias(connect: Connect, version: int) -> None:
    topic = unique("alias")
    device, publisher = connect(options(version)), connect(options(version))
    true(publisher.connack.get("alias_max", 0) >= 1, "no topic aliases are offered")
    device.subscribe(f"{topic}/#", 1)
    publisher.publish(f"{topic}/a", b"1", 1, alias=1)
    publisher.publish("", b"2", 1, alias=1)
    publisher.publish(f"{topic}/b", b"3", 1, alias=1)
    publisher.publish("", b"4", 1, alias=1)
    device.wait(4)
    found = [(got.topic[-2:], got.payload) for got in device.messages]
    same(found, [("/a", b"1"), ("/a", b"2"), ("/b", b"3"), ("/b", b"4")], "topics and payloads")
    device.disconnect()
    publisher.disconnect()


@scenario("receive-maximum", v5_only=True)
def receive_maximum(connect: Connect, version: int) -> None:
    """With two in flight a client still gets everything, in order."""
    topic, client_id = unique("window"), unique("device")
    connect(durable(version, client_id, clean=True)).disconnect()
    device = connect(durable(version, client_id, receive_max=2))
    device.subscribe(topic, 2)
    publisher = connect(options(version))
    begun = [publisher.publish_nowait(topic, b"%d" % number, 2) for number in range(200)]
    for one in begun:
        publisher.wait_published(one)
    device.wait(200)
    same(device.payloads(), [b"%d" % number for number in range(200)], "payloads")
    device.disconnect()
    publisher.disconnect()


@scenario("maximum-packet-size", v5_only=True)
def maximum_packet_size(connect: Connect, version: int) -> None:
    topic = unique("small")
    device, publisher = connect(options(version, packet_bytes_max=200)), connect(options(version))
    device.subscribe(topic, 2)
    for qos in range(3):
        publisher.publish(topic, b"x" * 300, qos)
        publisher.publish(topic, b"small", qos)
    same([got.payload for got in device.wait(3)], [b"small"] * 3, "what fits")
    device.disconnect()
    publisher.disconnect()


@scenario("assigned-client-id", v5_only=True)
def assigned_client_id(connect: Connect, version: int) -> None:
    device = connect(Options("", version))
    true(len(device.connack.get("client_id", "")) > 3, "no client id was assigned")
    device.disconnect()


@scenario("in-flight-over-kill")
def in_flight_over_kill(connect: Connect, version: int) -> None:
    """Publishing goes on through a kill -9: what was acknowledged before is all there, QoS 2 once."""
    topic, client_id = unique("through"), unique("device")
    device = connect(durable(version, client_id, clean=True))
    device.subscribe(topic, 2)
    publisher = connect(options(version))
    for number in range(50):
        publisher.publish(topic, b"%d" % number, 2)
    device.wait(50)
    control("kill")
    device = connect(durable(version, client_id))
    publisher = connect(options(version))
    for number in range(50, 60):
        publisher.publish(topic, b"%d" % number, 2)
    device.wait(10)
    same(device.payloads(), [b"%d" % number for number in range(50, 60)], "QoS 2 after the kill")
    device.disconnect()
    publisher.disconnect()
