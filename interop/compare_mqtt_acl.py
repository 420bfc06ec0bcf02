"""Gives mosquitto 2 and us the same `acl_file`s and prints where they let clients do different things:
`python -m interop.compare_mqtt_acl [--files 12] [--seed 1]`.

The files are made at random out of users, patterns with `%c` and `%u`, denials and all kinds of access. Every client
publishes to every topic at QoS 1 (PUBACK says whether it may), and every client subscribes to everything and to each
topic by itself while one that may write everywhere publishes (what comes says what it may read). Exits with 1 on a
difference.
"""

from __future__ import annotations

import argparse
import random
import select
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from gateway.protocols.mqtt.codec.packets import Connect, Publish, Subscribe, SubscriptionRequest
from interop.brokers import Broker, Mosquitto, Trivium
from interop.compare_mqtt_wire import Wire
from interop.places import scratch_root

TOPICS: Final = ("a", "a/b", "a/dev1", "ann/dev1", "dev2/b", "dev2/state", "a/ann/x", "$x/a", "bob/b")
FILTERS: Final = ("a", "a/#", "a/+", "+/b", "#", "dev2/+", "a/dev1", "ann/#", "$x/#", "+/+/x", "bob/b")
PATTERNS: Final = ("%c/#", "a/%c", "%u/%c", "a/%u/#", "+/%c", "%u/#", "%c/b", "a/b")
CLIENTS: Final = ((None, "dev1"), ("ann", "dev1"), ("ann", "dev2"), ("bob", "dev2"), ("bob", "dev+x"), ("a+", "dev1"))
ACCESS: Final = ("", "read ", "write ", "readwrite ", "deny ")
ADMIN: Final = "admin"
WAIT_S: Final = 5.0
Verdicts = dict[str, str]


def acl_text(seed: int) -> str:
    """A file of rules. The admin may write everything, so what does not come was not to be read."""
    dice = random.Random(seed)
    lines: list[str] = []
    for user in (None, "ann", "bob", "a+"):
        lines += [f"user {user}"] if user else []
        chosen = dice.sample(FILTERS, dice.randrange(0, 4))
        lines += [f"topic {dice.choice(ACCESS)}{one}" for one in chosen]
    # Patterns hold for the admin too, but its own list is asked first.
    lines += [f"pattern {dice.choice(ACCESS)}{one}" for one in dice.sample(PATTERNS, dice.randrange(0, 5))]
    lines += [f"user {ADMIN}", *(f"topic readwrite {one}" for one in ("#", "$x/#"))]
    return "\n".join(lines) + "\n"


def verdicts(broker: Broker, port: int) -> Verdicts:
    """What each client could do."""
    found: Verdicts = {}
    with broker:
        broker.start()
        for number, (user, client_id) in enumerate(CLIENTS):
            name = f"{user or '-'} {client_id}"
            one = _connected(port, client_id, user)
            for index, topic in enumerate(TOPICS, 1):
                one.send(Publish(topic, b"w", 1, False, False, index, None))
            for topic, line in zip(TOPICS, _lines(one, "PUBACK", len(TOPICS)), strict=True):
                # mosquitto says when nobody subscribes (0x10); we always say 0x00.
                found[f"{name} writes {topic}"] = line.partition("code=")[2].replace("0x10", "0x00")
            for kind, filters in (("by #", ["#", "$x/#"]), ("by name", list(TOPICS))):
                admin = _connected(port, f"{ADMIN}-{number}-{len(kind)}", ADMIN)
                one.send(Subscribe(1, [SubscriptionRequest(filter_, 1) for filter_ in [*filters, "end"]]))
                granted = _lines(one, "SUBACK", 1)[0]
                found[f"{name} subscribes {kind}"] = granted
                for index, topic in enumerate(TOPICS, 1):
                    admin.send(Publish(topic, b"r", 1, False, False, index, None))
                _lines(admin, "PUBACK", len(TOPICS))
                came = {line.split("'")[1] for line in _quiet(one) if line.startswith("PUBLISH")}
                found.update({f"{name} gets {topic} {kind}": str(topic in came) for topic in TOPICS})
                admin.close()
                one.close()
                one = _connected(port, client_id, user)
            one.close()
    return found


def _connected(port: int, client_id: str, user: str | None) -> Wire:
    wire = Wire(port, client_id, 5)
    wire.send(Connect(5, client_id, True, 60, username=user))
    _lines(wire, "CONNACK", 1)
    return wire


def _lines(wire: Wire, kind: str, count: int) -> list[str]:
    """The next `count` packets of a kind, others left out; fewer when the connection ends. Raises TimeoutError."""
    end = time.monotonic() + WAIT_S
    while len(found := [line for line in wire.lines if line.startswith(kind)]) < count and wire.open:
        if not select.select([wire], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(f"{wire.name}: {len(found)} of {count} {kind} came")
        wire.take()
    wire.lines = [line for line in wire.lines if not line.startswith(kind)]
    return found + ["none"] * (count - len(found))


def _quiet(wire: Wire) -> list[str]:
    while wire.open and select.select([wire], [], [], 0.2)[0]:
        wire.take()
    lines, wire.lines = wire.lines, []
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    scratch_root().mkdir(parents=True, exist_ok=True)
    asked = differences = 0
    for seed in range(options.seed, options.seed + options.files):
        directory = Path(tempfile.mkdtemp(prefix="compare-acl-", dir=scratch_root()))
        file = directory / "acl"
        file.write_text(acl_text(seed))
        ours = Trivium(directory / "trivium", config=f'[mqtt]\nacl_file = "{file}"\n')
        theirs = Mosquitto(directory / "mosquitto", settings=f"acl_file {file}\n")
        with ThreadPoolExecutor() as both:
            found, wanted = both.submit(verdicts, ours, ours.mqtt_port), verdicts(theirs, theirs.port)
        differ = [what for what, verdict in found.result().items() if wanted[what] != verdict]
        asked, differences = asked + len(wanted), differences + len(differ)
        if differ:
            print(f"-- seed {seed}:", file.read_text(), sep="\n")
            for what in differ:
                print(f"   {what}: mosquitto {wanted[what]}, ours {found.result()[what]}")
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{options.files} files, {asked} questions, {asked - differences} answered alike")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
