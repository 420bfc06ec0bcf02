"""Who is measured over MQTT: our broker in both flush modes, mosquitto without persistence, amqtt and nats-server.

Each gets a configuration that lets it run as fast as it can: no limit on connections, in-flight messages or queues, no
authentication, no log per connection. mosquitto and amqtt keep nothing on disk; nats-server (JetStream, file storage)
leaves what it writes in the page cache, as we do with `flush = "async"`.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from interop.brokers import Broker, Trivium, free_port
from interop.places import scratch_root

_CONNECT = b"\x10\x11\0\4MQTT\4\2\0\x3c\0\5probe"


def connack(port: int, timeout_s: float = 0.5) -> bool:
    """Whether a CONNECT is accepted there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            connection.sendall(_CONNECT)
            return connection.recv(4) == b"\x20\2\0\0"
    except OSError:
        return False


class MqttBroker(Broker):
    """A broker whose `port` speaks MQTT, and `tls_port` MQTT over TLS where it has one."""

    tls_port = 0

    def answers(self) -> bool:
        return connack(self.port)

    def certificate(self) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key."""
        files = self.directory / "server.pem", self.directory / "server.key"
        if not files[0].exists():
            made = trustme.CA().issue_cert("127.0.0.1")
            made.cert_chain_pems[0].write_to_path(files[0])
            made.private_key_pem.write_to_path(files[1])
        return files


class MqttTrivium(Trivium, MqttBroker):
    """Ours; `port` is the MQTT listener's."""

    def _command(self) -> list[str]:
        mqtt, self.port = self.port, free_port()
        command = super()._command()
        self.port = mqtt
        command[command.index("--mqtt") + 1] = f"127.0.0.1:{mqtt}"
        self.tls_port = self.tls_port or free_port()
        certificate, key = self.certificate()
        command += ["--mqtts", f"127.0.0.1:{self.tls_port}", "--mqtt-certificate", str(certificate)]
        return [*command, "--mqtt-key", str(key)]


class Mosquitto(MqttBroker):
    name = "mosquitto"

    def _prepare(self) -> None:
        self.tls_port = self.tls_port or free_port()
        certificate, key = self.certificate()
        lines = ["user root", "persistence false", "log_type error", "max_queued_messages 0", "max_inflight_messages 0"]
        lines += [f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        lines += [f"listener {self.tls_port} 127.0.0.1", f"certfile {certificate}", f"keyfile {key}"]
        (self.directory / "mosquitto.conf").write_text("\n".join(["per_listener_settings false", *lines, ""]))

    def _command(self) -> list[str]:
        return ["mosquitto", "-c", str(self.directory / "mosquitto.conf")]


class Amqtt(MqttBroker):
    name = "amqtt"

    def _prepare(self) -> None:
        text = (
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{self.port}\n    max_connections: 0\n"
            "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        )
        (self.directory / "amqtt.yaml").write_text(text)

    def _command(self) -> list[str]:
        return [str(Path(sys.executable).parent / "amqtt"), "-c", str(self.directory / "amqtt.yaml")]


class Nats(MqttBroker):
    name = "nats"

    def _prepare(self) -> None:
        text = (
            f"server_name: figures\nlisten: 127.0.0.1:{free_port()}\nmax_connections: 100000\n"
            f"jetstream {{ store_dir: {self.data} }}\n"
            f"mqtt {{ listen: 127.0.0.1:{self.port}, max_ack_pending: 60000 }}\n"
        )
        (self.directory / "nats.conf").write_text(text)

    def _command(self) -> list[str]:
        return ["nats-server", "-c", str(self.directory / "nats.conf")]


@dataclass(frozen=True)
class Contender:
    """A broker in one setting."""

    name: str
    make: Callable[[Path], MqttBroker]

    @contextlib.contextmanager
    def running(self) -> Iterator[MqttBroker]:
        """A started broker over a new data directory, which is deleted afterwards."""
        scratch_root().mkdir(parents=True, exist_ok=True)
        with self.make(Path(tempfile.mkdtemp(prefix="mqtt-figures-", dir=scratch_root()))) as broker:
            yield broker.start()


MOSQUITTO = Contender("mosquitto", Mosquitto)
TRIVIUM_ASYNC = Contender("trivium async", lambda directory: MqttTrivium(directory, flush="async"))
TRIVIUM_SYNC = Contender("trivium sync", MqttTrivium)
AMQTT = Contender("amqtt", Amqtt)
NATS = Contender("nats", Nats)
ALL = (MOSQUITTO, TRIVIUM_ASYNC, TRIVIUM_SYNC, NATS, AMQTT)
