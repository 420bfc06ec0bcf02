"""Bad input against the MQTT listeners of a broker: `python -m interop.fuzz_mqtt [--scale 1] [--only NAME]`.

As interop.fuzz does it for Kafka: a line per attack with the broker's memory and the slowest round trip of a device
that publishes to itself meanwhile. Fails if the broker ends, if that device is disturbed or loses anything.
"""

from __future__ import annotations

import resource
import shutil
import threading
import time

import click

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Publish, Subscribe, SubscriptionRequest
from interop.brokers import Trivium
from interop.fuzz_mqtt_attacks import ATTACKS, MIB, Addresses, Client
from interop.fuzz_witness import PeakMemory
from interop.places import scratch_root

OPEN_FILES = 8192
PAUSE_S = 0.005


class Witness(threading.Thread):
    """A device that publishes to itself at QoS 1, a message at a time, on a connection that must never break."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__(daemon=True)
        self._addresses = addresses
        self._done = threading.Event()
        self.count = 0
        self.slowest_s = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._addresses.tcp, client_id="witness") as client:
                client.send(Subscribe(1, [SubscriptionRequest("witness/a", 1)]))
                client.next()
                self._round(client)
                while not self._done.wait(PAUSE_S):
                    self._round(client)
        except BaseException as error:  # told to the one who waits for this thread
            self.failure = error

    def _round(self, client: Client) -> None:
        began = time.monotonic()
        payload = b"%d" % self.count
        client.send(Publish("witness/a", payload, 1, False, False, self.count % 60_000 + 1, None))
        answers = [client.next(), client.next()]
        message = next(one for one in answers if isinstance(one, Publish))
        assert message.payload == payload, (message, payload)
        assert any(isinstance(one, Ack) and one.code == 0 for one in answers), answers
        client.send(Ack(props.PUBACK, message.packet_id, 0, None))
        self.count += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def take_slowest_s(self) -> float:
        slowest, self.slowest_s = self.slowest_s, 0.0
        return slowest

    def finish(self) -> None:
        """Raises AssertionError if it failed."""
        self._done.set()
        self.join(60)
        assert self.failure is None, f"the well-behaved device failed: {self.failure!r}"
        assert not self.is_alive()
        assert self.count


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="1 is thousands of clients; less is quicker.")
@click.option("--only", default="", help="One attack instead of all.")
def main(scale: float, only: str) -> None:
    """Attack a broker's MQTT listeners and say what it cost."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    directory = scratch_root() / "fuzz-mqtt"
    shutil.rmtree(directory, ignore_errors=True)
    with Trivium(directory) as broker:
        broker.start()
        at = Addresses(("127.0.0.1", broker.mqtt_port), ("127.0.0.1", broker.websocket_port))
        witness = Witness(at)
        witness.start()
        for name, attack in ATTACKS.items():
            if only not in ("", name):
                continue
            with PeakMemory(broker.rss_anon_bytes) as memory:
                seen = attack(at, scale)
            broker.check()
            click.echo(
                f"{name:16} RssAnon {memory.before_bytes // MIB:5} -> {memory.peak_bytes // MIB:5} MiB"
                f"  slowest {witness.take_slowest_s() * 1000:7.0f} ms  {seen}"
            )
        witness.finish()
        failures = [
            line for line in broker.log_file.read_text().splitlines() if " failed" in line or "Traceback" in line
        ]
        click.echo(f"{witness.count} round trips of the well-behaved device; {len(failures)} unexpected failures")
        broker.stop()
        click.echo("\n".join(failures))
        raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
