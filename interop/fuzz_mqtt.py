"""Bad input against the MQTT listeners of a broker: `python -m interop.fuzz_mqtt [--scale 1] [--only NAME]`.

As interop.fuzz does it for Kafka: a line per attack with the broker's memory and the slowest round trip of a device
that publishes to itself meanwhile. Fails if the broker ends, if that device is disturbed or loses anything.
"""

from __future__ import annotations

import shutil
from functools import partial

import click

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Ack, Publish, Subscribe, SubscriptionRequest
from interop.brokers import Trivium
from interop.fuzz_mqtt_attacks import MQTT_ATTACKS, Addresses, Client
from interop.fuzz_run import Witness, allow_open_files, attack_all
from interop.places import scratch_root

OPEN_FILES = 8192


class MqttWitness(Witness):
    """A device that publishes to itself at QoS 1, a message at a time."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__()
        self._addresses = addresses
        self.count = 0

    def _serve(self) -> None:
        with Client(self._addresses.tcp, client_id="witness") as client:
            client.send(Subscribe(1, [SubscriptionRequest("witness/a", 1)]))
            client.next()
            self._go_on(lambda: self._round(client))

    def _round(self, client: Client) -> None:
        payload = b"%d" % self.count
        client.send(Publish("witness/a", payload, 1, False, False, self.count % 60_000 + 1, None))
        answers = [client.next(), client.next()]
        message = next(one for one in answers if isinstance(one, Publish))
        assert message.payload == payload, (message, payload)
        assert any(isinstance(one, Ack) and one.code == 0 for one in answers), answers
        client.send(Ack(props.PUBACK, message.packet_id, 0, None))
        self.count += 1


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="1 is thousands of clients; less is quicker.")
@click.option("--only", default="", help="One attack instead of all.")
def main(scale: float, only: str) -> None:
    """Attack a broker's MQTT listeners and say what it cost."""
    allow_open_files(OPEN_FILES)
    directory = scratch_root() / "fuzz-mqtt"
    shutil.rmtree(directory, ignore_errors=True)
    with Trivium(directory) as broker:
        broker.start()
        at = Addresses(("127.0.0.1", broker.mqtt_port), ("127.0.0.1", broker.websocket_port))
        attacks = {name: partial(attack, at, scale) for name, attack in MQTT_ATTACKS.items()}
        witness = MqttWitness(at)
        failures = attack_all(broker, {only: attacks[only]} if only else attacks, witness, [" failed", "Traceback"])
        click.echo(f"{witness.count} round trips of the well-behaved device; {failures} unexpected failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
