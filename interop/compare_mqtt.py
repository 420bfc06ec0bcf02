"""Sends the same packets to mosquitto 2 and to us over raw connections and prints where the answers differ:
`python -m interop.compare_mqtt [--show] [NAME ...]`.

A difference is a bug of ours or has its line in FINDINGS.md.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Importing these enters their scenarios.
from interop import compare_mqtt_connecting, compare_mqtt_publishing, compare_mqtt_sessions, compare_mqtt_subscribing  # noqa: F401
from interop.brokers import Broker, Mosquitto, Trivium
from interop.compare_mqtt_scenarios import SCENARIOS
from interop.compare_mqtt_wire import Talk
from interop.places import scratch_root


def transcripts(broker: Broker, port: int, names: list[str]) -> dict[str, list[str]]:
    found = {}
    with broker:
        broker.start()
        for name in names:
            talk = Talk(port, name)
            try:
                SCENARIOS[name](talk, 0)
            except (OSError, IndexError) as error:
                talk.transcript.append(f"the scenario ended: {type(error).__name__}")
            talk.end()
            time.sleep(0.05)  # the connections' ends are seen
            found[name] = talk.transcript
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="scenarios; none: all")
    parser.add_argument("--show", action="store_true", help="print our whole transcripts")
    options = parser.parse_args()
    names = options.names or list(SCENARIOS)
    scratch_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compare-mqtt-", dir=scratch_root()))
    ours = Trivium(directory / "trivium")
    theirs = Mosquitto(directory / "mosquitto")
    with ThreadPoolExecutor() as both:
        asked = both.submit(transcripts, ours, ours.mqtt_port, names)
        wanted, found = transcripts(theirs, theirs.port, names), asked.result()
    shutil.rmtree(directory, ignore_errors=True)
    different = [name for name in names if found[name] != wanted[name]]
    for name in names:
        if options.show:
            print(f"== {name}", *found[name], sep="\n")
        if name in different:
            print(f"-- {name}: - mosquitto, + ours")
            for line in difflib.unified_diff(wanted[name], found[name], lineterm="", n=2):
                if not line.startswith(("---", "+++")):
                    print(f"   {line}")
    print(f"{len(names)} scenarios, {len(names) - len(different)} answered alike")
    return 0


if __name__ == "__main__":
    sys.exit(main())
