"""A whole broker in a child process, and paho clients that wait for what they expect instead of sleeping."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.patience import PATIENCE_S

WAIT_S = PATIENCE_S


class Child:
    """A broker over `folder`; `kill` is kill -9, `stop` a clean stop; `start` again finds what was stored."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder = folder
        self._flags = flags
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(self._folder / "data")]
        ports = ["--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--native", "127.0.0.1:0", *self._flags]
        self._log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        addresses: dict[str, str] = {}
        while "native" not in addresses:
            line = self._process.stdout.readline()
            assert line, (self._folder / "log").read_text()[-3000:]
            addresses[line.split()[0]] = line.split()[-1]
        self.kafka, self.native = addresses["kafka"], addresses["native"]
        self.ports = {name: int(address.rpartition(":")[2]) for name, address in addresses.items()}
        self.mqtt = self.ports.get("mqtt", 0)

    def reload(self) -> None:
        """SIGHUP; returns when the broker has read its files again."""
        lines = (self._folder / "log").read_text().count("read again")
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + WAIT_S
        while (self._folder / "log").read_text().count("read again") == lines:
            assert time.monotonic() < deadline
            assert self._process.poll() is None

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        code = self._process.wait(WAIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        return code


def properties(kind: int) -> Any:
    """Empty MQTT 5 properties for a packet type."""
    return Properties(kind)  # type: ignore[no-untyped-call]


@contextmanager
def child_broker(folder: Path, *flags: str) -> Iterator[Child]:
    child = Child(folder, *flags)
    try:
        yield child
    finally:
        if child._process.poll() is None:
            child.kill()


class Device:
    """A paho client on a thread of its own. `messages` is what came."""

    def __init__(self, port: int, client_id: str = "", *, v5: bool = False, clean: bool = True, **options: Any) -> None:
        version = paho.MQTTv5 if v5 else paho.MQTTv311
        clean_session = None if v5 else clean
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session, protocol=version, reconnect_on_failure=False
        )
        self.messages: queue.Queue[Any] = queue.Queue()
        self.published: list[int] = []  # reason codes, in the order of the acknowledgements
        self.ends: queue.Queue[int] = queue.Queue()  # reason codes of DISCONNECT
        self._answers: queue.Queue[Any] = queue.Queue()
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_connect = lambda _c, _u, flags, code, _p: self._answers.put((flags.session_present, code))
        self.client.on_subscribe = self._on_subscribe
        self.reason = ""  # the reason string of the last SUBACK
        self.client.on_unsubscribe = lambda _c, _u, _m, _r, _p: self._answers.put("unsubscribed")
        self.client.manual_ack_set(options.get("holds", False))  # acknowledges only what it is told to
        self.client.username_pw_set(options.get("user"), options.get("password"))
        self.client.on_publish = lambda _c, _u, _m, code, _p: self.published.append(code.value)
        self.client.on_disconnect = lambda _c, _u, _f, code, _p: self.ends.put(code.value)
        if "will" in options:
            self.client.will_set(**options["will"])
        connect: dict[str, Any] = {}
        if v5:
            connect["clean_start"] = clean
            if options.get("expiry_s"):
                connect["properties"] = properties(PacketTypes.CONNECT)
                connect["properties"].SessionExpiryInterval = options["expiry_s"]
        self.client.connect("127.0.0.1", port, keepalive=30, **connect)
        self.client.loop_start()
        self.session_present, code = self._answers.get(timeout=WAIT_S)
        assert code == 0, code

    def _on_subscribe(self, _client: Any, _user: Any, _id: int, codes: list[Any], answered: Any) -> None:
        self.reason = getattr(answered, "ReasonString", "")
        self._answers.put([one.value for one in codes])

    def subscribe(self, *args: Any, **options: Any) -> list[int]:
        self.client.subscribe(*args, **options)
        codes: list[int] = self._answers.get(timeout=WAIT_S)
        return codes

    def unsubscribe(self, name: str) -> None:
        self.client.unsubscribe(name)
        assert self._answers.get(timeout=WAIT_S) == "unsubscribed"

    def publish(self, topic: str, payload: bytes, qos: int = 1, **options: Any) -> None:
        """Returns when the broker has acknowledged it (QoS 1 and 2)."""
        self.client.publish(topic, payload, qos, **options).wait_for_publish(WAIT_S)

    def get(self) -> Any:
        """The next message (a paho.MQTTMessage)."""
        return self.messages.get(timeout=WAIT_S)

    def payloads(self, count: int) -> list[bytes]:
        return [self.get().payload for _ in range(count)]

    def close(self) -> None:
        """DISCONNECT."""
        self.client.disconnect()
        self.break_off()

    def pause(self) -> None:
        """The network connection is lost; the client keeps its state and what it has to send again."""
        self.client.loop_stop()
        self.client._reset_sockets()  # paho forgets the pair it wakes its thread with

    def resume(self, port: int) -> None:
        self.client.connect("127.0.0.1", port, keepalive=30)
        self.client.loop_start()
        self.session_present, code = self._answers.get(timeout=WAIT_S)
        assert code == 0, code

    def break_off(self) -> None:
        """The network connection is lost."""
        self.client.loop_stop()
        sock = self.client.socket()
        if sock is not None:
            sock.close()
        self.client._reset_sockets()  # the pair it wakes its thread with
