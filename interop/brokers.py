"""The brokers that clients and figures run against: ours, Apache Kafka 4.2 and mosquitto, behind one small interface.

A broker here is one child process on loopback over one data directory. It dies with the process that started it
(Linux's parent-death signal), so that no run leaves a peer behind. `ready_s` is measured the same way for all: from
the exec to the first answered request (ApiVersions; CONNECT where only MQTT is spoken).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gateway.testing import free_port
from interop.places import KAFKA_JARS, PEERS, trivium_command

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 180.0
_PROBE = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_MQTT_PROBE = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
_PR_SET_PDEATHSIG = 1


class BrokerError(Exception):
    """A broker did not start, or ended when it should not have; the text holds the end of its log."""


def answers(host: str, port: int, probe: bytes = _PROBE, answer_bytes: int = 8, timeout_s: float = 0.5) -> bool:
    """Whether a request, ApiVersions v0 if no other is given, is answered there."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(probe)
            return len(connection.recv(answer_bytes)) == answer_bytes
    except OSError:
        return False


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Broker(ABC):
    """One broker process over `directory`; `start` may be called again after `stop` or `kill`, on the same port."""

    name = "broker"

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.ready_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "broker.log"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BrokerError(f"{self.name} is not running")
        return self._process.pid

    def _prepare(self) -> None:
        """Whatever has to be there before the first start."""
        self.directory.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def _command(self) -> list[str]: ...

    def answers(self) -> bool:
        """Whether it serves requests."""
        return answers("127.0.0.1", self.port)

    def environment(self) -> dict[str, str]:
        """Its addresses, as the client programs are told them."""
        return {"BOOTSTRAP": self.bootstrap}

    def start_unready(self) -> None:
        """Starts the process and waits for nothing."""
        self._prepare()
        self._log = self.log_file.open("ab")
        self._process = subprocess.Popen(
            self._command(), stdout=self._log, stderr=self._log, cwd=self.directory, preexec_fn=_die_with_parent
        )

    def start(self) -> Self:
        """Starts the process and waits until it answers. Raises BrokerError."""
        began = time.monotonic()
        self.start_unready()
        while not self.answers():
            self.check()
            if time.monotonic() - began > READY_TIMEOUT_S:
                self.kill()
                raise BrokerError(f"{self.name} was not ready in {READY_TIMEOUT_S:.0f} s\n{self.log_tail()}")
            time.sleep(0.005)
        self.ready_s = time.monotonic() - began
        return self

    def check(self) -> None:
        """Raises BrokerError if the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise BrokerError(f"{self.name} ended with {self._process.returncode}\n{self.log_tail()}")

    def stop(self) -> float:
        """A clean stop; returns the seconds it took. Raises BrokerError where the process had to be killed."""
        began = time.monotonic()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise BrokerError(f"{self.name} did not stop in {STOP_TIMEOUT_S:.0f} s\n{self.log_tail()}") from None
            self._ended()
        return time.monotonic() - began

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._ended()

    def _ended(self) -> None:
        self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def rss_anon_bytes(self) -> int:
        """The process' anonymous resident memory: what it took, without the page cache it maps."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def cpu_s(self) -> float:
        """User and system time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_tail(self, lines: int = 20) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def remove(self) -> None:
        """Kills the process if it still runs and deletes everything it wrote."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class Trivium(Broker):
    """Our broker. `flush` is "sync" (the default) or "async"; `config` is TOML text. Restarts keep all its ports."""

    name = "trivium"

    def __init__(self, directory: Path, port: int = 0, flush: str = "sync", config: str = "") -> None:
        super().__init__(directory, port)
        self.mqtt_port, self.websocket_port, self.native_port = free_port(), free_port(), free_port()
        self.flush = flush
        self.config = config

    def environment(self) -> dict[str, str]:
        websocket = f"ws://127.0.0.1:{self.websocket_port}/mqtt"
        return {**super().environment(), "MQTT": f"127.0.0.1:{self.mqtt_port}", "MQTT_WEBSOCKET": websocket}

    def _command(self) -> list[str]:
        command = [*trivium_command(), "serve", "--data-dir", str(self.data), "--kafka", self.bootstrap]
        command += ["--mqtt", f"127.0.0.1:{self.mqtt_port}", "--mqtt-ws", f"127.0.0.1:{self.websocket_port}"]
        command += ["--native", f"127.0.0.1:{self.native_port}", "--flush", self.flush]
        if self.config:
            file = self.directory / "trivium.toml"
            file.write_text(self.config)
            command += ["--config", str(file)]
        return command


class ApacheKafka(Broker):
    """Apache Kafka 4.2, KRaft, one node, default config; `settings` are further lines of server.properties."""

    name = "kafka"

    def __init__(self, directory: Path, port: int = 0, settings: dict[str, str] | None = None) -> None:
        super().__init__(directory, port)
        self.settings = settings or {}
        self._controller_port = free_port()

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _prepare(self) -> None:
        super()._prepare()
        if self._properties.exists():
            return
        ports = {"PORT": str(self.port), "CONTROLLER": str(self._controller_port), "DATA": str(self.data)}
        text = (PEERS / "kafka" / "server.properties").read_text()
        for name, value in ports.items():
            text = text.replace(f"@{name}@", value)
        text += "".join(f"{name}={value}\n" for name, value in self.settings.items())
        self._properties.write_text(text)
        tool = ["java", "-Xmx256m", "-cp", f"{KAFKA_JARS}/*", "kafka.tools.StorageTool"]
        cluster = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
        subprocess.run([*tool, "format", "-t", cluster, "-c", str(self._properties)], capture_output=True, check=True)

    def _command(self) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", "-Xms1g", "-Xmx1g", quiet, "-cp", f"{KAFKA_JARS}/*", "kafka.Kafka", str(self._properties)]


class Mosquitto(Broker):
    """mosquitto 2 from Debian, with its persistence on; `settings` are further lines of its configuration."""

    name = "mosquitto"

    def __init__(self, directory: Path, port: int = 0, settings: str = "") -> None:
        super().__init__(directory, port)
        self.websocket_port = free_port()
        self.settings = settings

    @property
    def mqtt_port(self) -> int:
        return self.port

    def environment(self) -> dict[str, str]:
        return {"MQTT": self.bootstrap, "MQTT_WEBSOCKET": f"ws://127.0.0.1:{self.websocket_port}/mqtt"}

    def answers(self) -> bool:
        return answers("127.0.0.1", self.port, _MQTT_PROBE, 4)

    def _prepare(self) -> None:
        super()._prepare()
        self.data.mkdir(exist_ok=True)
        lines = f"listener {self.port} 127.0.0.1\n"
        lines += f"listener {self.websocket_port} 127.0.0.1\nprotocol websockets\n"
        lines += f"allow_anonymous true\npersistence true\npersistence_location {self.data}/\nuser root\n"
        (self.directory / "mosquitto.conf").write_text(lines + self.settings)

    def _command(self) -> list[str]:
        program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise BrokerError("mosquitto is not installed: python -m interop.setup debian")
        return [program, "-c", str(self.directory / "mosquitto.conf")]
