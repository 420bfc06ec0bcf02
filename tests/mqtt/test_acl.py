"""mosquitto's ACL file. The verdicts were taken down from mosquitto 2.0.11 with the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.protocols.mqtt.acl import READ, WRITE, Acl
from tests.mqtt.child import Device, child_broker

FILE = """# of anonymous clients
topic read open/#
topic rw/#
topic deny rw/secret
topic readwrite rw/#

user joe
topic joes/#
topic write w/#
topic read with spaces/+
pattern read dev/%c/#
pattern write dev/%u/out
pattern deny dev/%c/not
pattern read %c/%u
"""


def _acl(folder: Path, text: str = FILE) -> Acl:
    (folder / "acl").write_text(text)
    return Acl(folder / "acl")


@pytest.mark.parametrize(
    ("user", "client_id", "name", "read", "write"),
    [
        (None, "c", "open/a", True, False),
        (None, "c", "rw/a", True, True),
        (None, "c", "rw/secret", False, False),  # a denial, though a grant stands before it
        (None, "c", "none", False, False),
        (None, "c", "joes/a", False, False),
        (None, "c", "$SYS/broker/uptime", False, False),
        (None, "c", "dev/c/x/y", True, False),
        (None, "c", "dev/c/not", False, False),
        (None, "c", "dev/%u/out", False, False),
        (None, "+", "dev/c/x", False, False),  # a client id that would be a wildcard
        (None, "%u", "%u/", False, False),
        ("joe", "c", "joes/a", True, True),
        ("joe", "c", "w/a", False, True),
        ("joe", "c", "with spaces/a", True, False),
        ("joe", "c", "open/a", False, False),  # a named user does not have what anonymous ones have
        ("joe", "c", "dev/c/x", True, False),
        ("joe", "c", "dev/joe/out", False, True),
        ("joe", "%u", "%u/joe", True, False),  # what was put in is not looked at again
        ("#", "c", "dev/a/out", False, False),
        ("stranger", "c", "rw/a", False, False),
        ("stranger", "c", "dev/c/x", True, False),
    ],
)
def test_verdicts_are_mosquittos(
    tmp_path: Path, user: str | None, client_id: str, name: str, read: bool, write: bool
) -> None:
    acl = _acl(tmp_path)
    for _ in range(2):  # judged, then remembered
        assert acl.allows(user, client_id, READ, name.encode()) is read
        assert acl.allows(user, client_id, WRITE, name.encode()) is write


@pytest.mark.parametrize("line", ["bogus x", "topic", "topic foo x/y", "topic read a#b", "user"])
def test_a_line_that_is_none_is_refused_with_its_number_and_changes_nothing(tmp_path: Path, line: str) -> None:
    acl = _acl(tmp_path)
    (tmp_path / "acl").write_text(f"# first\n{line}\n")
    with pytest.raises(ValueError, match="acl, line 2"):
        acl.reload()
    assert acl.allows(None, "c", READ, b"open/a")


def test_a_reload_changes_verdicts_that_were_given(tmp_path: Path) -> None:
    acl = _acl(tmp_path)
    assert not acl.allows(None, "c", READ, b"none")
    (tmp_path / "acl").write_text("topic read none\n")
    acl.reload()
    assert acl.allows(None, "c", READ, b"none")
    assert not acl.allows(None, "c", READ, b"open/a")


@pytest.mark.parametrize("v5", [True, False])
@pytest.mark.parametrize("qos", [1, 2])
def test_publish_delivery_retained_and_wills_keep_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, v5: bool, qos: int
) -> None:
    (tmp_path / "acl").write_text(FILE + "user root\ntopic #\n")
    monkeypatch.setenv("TRIVIUM_MQTT_ACL_FILE", str(tmp_path / "acl"))
    with child_broker(tmp_path) as broker:
        root = Device(broker.mqtt, "root", user="root", v5=v5)
        root.subscribe("#", 2)
        root.publish("open/old", b"retained", retain=True)
        root.publish("none/old", b"retained", retain=True)
        assert root.payloads(2) == [b"retained", b"retained"]
        device = Device(broker.mqtt, "anon", v5=v5, will={"topic": "none/will", "payload": b"gone", "qos": 1})
        assert device.subscribe([("open/#", 1), ("none/#", 1), ("$share/g/+/live", 1)]) == [1, 1, 1]
        assert device.get().topic == "open/old"
        device.publish("none/x", b"denied", qos)
        device.publish("rw/secret", b"denied", 0)
        device.publish("rw/x", b"allowed", qos)
        # At QoS 2 paho sends PUBREL also after a refusing PUBREC, and shows what PUBCOMP says.
        assert device.published == [{1: 0x87, 2: 0x92}[qos] if v5 else 0, 0, 0]
        assert root.get().payload == b"allowed"
        for topic in ("none/live", "open/live"):
            root.publish(topic, topic.encode())
        # At QoS 1 of the plain filter and of the shared subscription, and nothing of none/.
        assert {device.get().topic for _ in range(2)} == {"open/live"}
        device.break_off()  # its will goes nowhere
        root.publish("rw/last", b"last")
        assert root.payloads(3) == [b"none/live", b"open/live", b"last"]
        (tmp_path / "acl").write_text("topic none/#\n")
        broker.reload()
        device = Device(broker.mqtt, "anon", v5=v5)
        device.subscribe("#", 1)
        assert device.get().topic == "none/old"
        device.publish("none/x", b"allowed now", 1)
        assert device.get().payload == b"allowed now"
        root.close()
        device.close()
