"""The whole broker with a password file."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

from gateway.cli import main
from tests.mqtt.child import WAIT_S, Device, child_broker
from tests.mqtt.test_passwords import _file


def _connect(port: int, user: str | None, password: str | None) -> int:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
    answers: queue.Queue[Any] = queue.Queue()
    client.on_connect = lambda _c, _u, _f, code, _p: answers.put(code.value)
    client.username_pw_set(user, password)
    client.connect("127.0.0.1", port)
    client.loop_start()
    code: int = answers.get(timeout=WAIT_S)
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()
    return code


def test_only_users_of_the_password_file_may_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passwords").write_text(_file())
    monkeypatch.setenv("TRIVIUM_MQTT_PASSWORD_FILE", str(tmp_path / "passwords"))
    with child_broker(tmp_path) as broker:
        assert _connect(broker.mqtt, "new", "secret") == 0
        assert _connect(broker.mqtt, "new", "wrong") == 0x86
        assert _connect(broker.mqtt, None, None) == 0x87
        (tmp_path / "passwords").write_text(_file().replace("new:", "renamed:"))
        broker.reload()
        assert _connect(broker.mqtt, "renamed", "secret") == 0
        assert _connect(broker.mqtt, "new", "secret") == 0x86


def test_who_is_gone_from_the_password_file_is_cut_at_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passwords").write_text(_file())
    monkeypatch.setenv("TRIVIUM_MQTT_PASSWORD_FILE", str(tmp_path / "passwords"))
    monkeypatch.setenv("TRIVIUM_MQTT_ALLOW_ANONYMOUS", "true")
    with child_broker(tmp_path) as broker:
        gone = Device(broker.mqtt, user="new", password="secret", v5=True)
        stays = Device(broker.mqtt, user="old", password="older", v5=True)
        nobody = Device(broker.mqtt, v5=True)
        assert _connect(broker.mqtt, "nobody", None) == 0x86
        (tmp_path / "passwords").write_text("".join(line for line in _file().splitlines(True) if "new:" not in line))
        broker.reload()
        assert gone.ends.get(timeout=WAIT_S) == 0x87
        for device in (stays, nobody):
            device.publish("still", b"here")
            device.close()


def test_a_broker_that_nobody_could_connect_to_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_MQTT_ALLOW_ANONYMOUS", "false")
    done = CliRunner().invoke(main, ["serve"])
    assert done.exit_code == 2
