"""Bad input against a real broker process: `python -m interop.fuzz [--scale 1] [--only NAME]`.

Prints one line per attack: the broker's anonymous memory before and at its peak, the slowest request of a well-behaved
client meanwhile, and what became of the attack. Fails if the broker ends, if the well-behaved client is disturbed, or
if anything that was acknowledged to it is missing in the end.
"""

from __future__ import annotations

import shutil
from functools import partial

import click

from interop.brokers import Trivium
from interop.fuzz_kafka_attacks import KAFKA_ATTACKS
from interop.fuzz_kafka_witness import KafkaWitness
from interop.fuzz_native_attacks import NATIVE_ATTACKS
from interop.fuzz_run import allow_open_files, attack_all
from interop.places import scratch_root

OPEN_FILES = 4096


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="1 is a thousand clients; less is quicker.")
@click.option("--only", default="", help="One attack instead of all.")
def main(scale: float, only: str) -> None:
    """Attack a broker and say what it cost."""
    allow_open_files(OPEN_FILES)
    directory = scratch_root() / "fuzz"
    shutil.rmtree(directory, ignore_errors=True)
    with Trivium(directory) as broker:
        broker.start()
        kafka, native = ("127.0.0.1", broker.port), ("127.0.0.1", broker.native_port)
        attacks = {name: partial(attack, kafka, scale) for name, attack in KAFKA_ATTACKS.items()}
        attacks |= {name: partial(attack, native, scale) for name, attack in NATIVE_ATTACKS.items()}
        witness = KafkaWitness(kafka)
        failures = attack_all(broker, {only: attacks[only]} if only else attacks, witness, ["connection failed"])
        click.echo(f"{len(witness.acknowledged)} acknowledged records, all there; {failures} unexpected failures")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
