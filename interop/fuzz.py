"""Bad input against a real broker process: `python -m interop.fuzz [--scale 1] [--only NAME]`.

Prints one line per attack: the broker's anonymous memory before and at its peak, the slowest request of a well-behaved
client meanwhile, and what became of the attack. Fails if the broker ends, if the well-behaved client is disturbed, or
if anything that was acknowledged to it is missing in the end.
"""

from __future__ import annotations

import resource
import shutil

import click

from interop.brokers import Trivium
from interop.fuzz_attacks import ATTACKS, MIB
from interop.fuzz_native_attacks import NATIVE_ATTACKS
from interop.fuzz_witness import PeakMemory, Witness
from interop.places import scratch_root

OPEN_FILES = 4096


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="1 is a thousand clients; less is quicker.")
@click.option("--only", default="", help="One attack instead of all.")
def main(scale: float, only: str) -> None:
    """Attack a broker and say what it cost."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    directory = scratch_root() / "fuzz"
    shutil.rmtree(directory, ignore_errors=True)
    with Trivium(directory) as broker:
        broker.start()
        address = ("127.0.0.1", broker.port)
        witness = Witness(address)
        witness.start()
        native = ("127.0.0.1", broker.native_port)
        for name, attack in (ATTACKS | NATIVE_ATTACKS).items():
            if only not in ("", name):
                continue
            with PeakMemory(broker.rss_anon_bytes) as memory:
                seen = attack(native if name in NATIVE_ATTACKS else address, scale)
            broker.check()
            click.echo(
                f"{name:18} RssAnon {memory.before_bytes // MIB:5} -> {memory.peak_bytes // MIB:5} MiB"
                f"  slowest {witness.take_slowest_s() * 1000:7.0f} ms  {seen}"
            )
        witness.finish()
        failures = [line for line in broker.log_file.read_text().splitlines() if "connection failed" in line]
        click.echo(f"{len(witness.acknowledged)} acknowledged records, all there; {len(failures)} unexpected failures")
        broker.stop()
        click.echo("\n".join(failures))
        raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
