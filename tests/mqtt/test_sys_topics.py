"""$SYS: mosquitto's names and numbers, to subscribers only."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import pytest

from core.topic_mapping import TopicMapping
from gateway.protocols.mqtt.figures import _resident_bytes
from gateway.protocols.mqtt.sys_topics import SysTopics
from tests.mqtt.child import Device, child_broker

# What mosquitto 2.0.11 shows with `mosquitto_sub -t '$SYS/#'`, and two counters more.
MOSQUITTO = """
bytes/received bytes/sent clients/active clients/connected clients/disconnected clients/expired clients/inactive
clients/maximum clients/total heap/current heap/maximum load/bytes/received load/bytes/sent load/connections
load/messages/received load/messages/sent load/publish/dropped load/publish/received load/publish/sent load/sockets
messages/received messages/sent messages/stored publish/bytes/received publish/bytes/sent publish/messages/dropped
publish/messages/received publish/messages/sent retained+messages/count shared_subscriptions/count store/messages/bytes
connections/count connections/socket/count store/messages/count subscriptions/count uptime version
"""


class Counters(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return 0


def test_values_follow_their_counters_and_only_changes_are_told() -> None:
    now = Counters({"clients/total": 3, "bytes/received": 100})
    topics = SysTopics("1.2", 10, lambda: Counters(now), 50.0)
    retained = {m.topic.decode(): m.payload.decode() for m in topics.retained("$SYS/broker/#")}
    assert retained["$SYS/broker/version"] == "trivium version 1.2"
    assert retained["$SYS/broker/uptime"] == "0 seconds"
    assert retained["$SYS/broker/clients/maximum"] == "3"
    assert retained["$SYS/broker/load/bytes/received/1min"] == "0.00"
    now.update({"clients/total": 1, "bytes/received": 700})
    assert topics.update(59.9) == []
    told = {name.removeprefix("$SYS/broker/"): message.payload.decode() for name, message in topics.update(60.0)}
    # 600 bytes in 10 s are 3,600 a minute; after 10 s an average over a minute has come to 1 - e^(-1/6) of it.
    assert told == {
        "uptime": "10 seconds",
        "bytes/received": "700",
        "clients/total": "1",
        "load/bytes/received/1min": "552.67",
        "load/bytes/received/5min": "118.02",
        "load/bytes/received/15min": "39.78",
    }
    again = {name.removeprefix("$SYS/broker/") for name, _ in topics.update(70.0)}
    assert again == {"uptime"} | {f"load/bytes/received/{minutes}min" for minutes in (1, 5, 15)}


def test_without_an_interval_there_is_no_sys() -> None:
    topics = SysTopics("1.2", 0, Counters, 0.0)
    assert list(topics.retained("$SYS/#")) == []
    assert topics.update(1e6) == []


def test_a_record_of_another_road_cannot_pass_for_the_brokers_own() -> None:
    mapping = TopicMapping()
    assert mapping.name("mqtt.other", b"$SYS/broker/version") is None
    assert mapping.name("mqtt.other", b"$share/g/a") is None
    assert mapping.name("mqtt.other", b"$SYSTEM/x") == "$SYSTEM/x"


def test_devices_see_mosquittos_names_first_retained_then_what_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_SYS_INTERVAL_S", "1")
    expected = {name.replace("+", " ") for name in MOSQUITTO.split()}
    expected = {f"{name}/{minutes}min" for name in expected if name.startswith("load/") for minutes in (1, 5, 15)} | {
        name for name in expected if not name.startswith("load/")
    }
    with child_broker(tmp_path) as broker:
        device = Device(broker.mqtt, v5=True)
        other = Device(broker.mqtt)
        other.subscribe("#", 2)
        other.publish("a/b", b"kept", 1, retain=True)
        assert device.subscribe("$SYS/#", 2) == [2]
        first: dict[str, Any] = {}
        while len(first) < len(expected):
            message = device.get()
            if message.retain:
                first[message.topic.removeprefix("$SYS/broker/")] = message
        assert set(first) == expected
        assert {message.qos for message in first.values()} == {0}
        assert re.fullmatch(rb"trivium version [0-9.]+", first["version"].payload)
        told = {name: message.payload for name, message in first.items()}  # which may have changed by then, or not yet
        later: set[str] = set()
        while (
            (told["clients/connected"], told["retained messages/count"]) != (b"2", b"1")
            or int(told["publish/messages/sent"]) < len(expected)
            or "uptime" not in later
        ):
            message = device.get()
            assert not message.retain
            name = message.topic.removeprefix("$SYS/broker/")
            told[name] = message.payload
            later.add(name)
        device.publish("$SYS/broker/version", b"forged", 1)
        assert device.published == [0x87]
        other.publish("a/c", b"end")
        assert other.payloads(2) == [b"kept", b"end"]  # `#` does not match $SYS
        device.close()
        other.close()


def test_the_heap_is_without_mapped_files(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    path = tmp_path / "log"
    path.write_bytes(bytes(size))
    before = _resident_bytes()
    assert before > 1024 * 1024
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert _resident_bytes() < before + size // 4
