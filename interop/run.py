"""Runs the client programs against a broker and holds them to the allow-list: `python -m interop.run`.

Each program (interop/clients) runs in a process of its own with a time limit and reports a line per test, see
interop/clients/harness.py. `interop/allow.txt` names the tests that must pass, `client/test` a line; it only grows:
`--grow` adds what passed. What is expected not to pass stands with its reason in interop/FINDINGS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interop import setup
from interop.brokers import ApacheKafka, Broker, Mosquitto, Trivium
from interop.control import control
from interop.places import (
    CLIENTS,
    FRANZ_GO,
    JAVA_CLASSES,
    JAVA_OLD_CLASSES,
    KAFKA_JARS,
    KAFKA_OLD_JARS,
    KAFKAJS_MODULES,
    MQTT_CLASSES,
    MQTT_JARS,
    MQTTJS_MODULES,
    PLATFORMATIC_MODULES,
    ROOT,
    scratch_root,
    venv_python,
)

ALLOW_FILE = ROOT / "allow.txt"
BROKERS = ("trivium", "kafka", "mosquitto")


@dataclass(frozen=True)
class Client:
    """One program: its command, what has to be set up for it, how long it may take in seconds."""

    command: list[str]
    needs: tuple[str, ...] = ()
    limit_s: int = 300
    fast: bool = False
    brokers: tuple[str, ...] = ("trivium", "kafka")
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One test of one client. `status` is PASS, FAIL or SKIP."""

    client: str
    test: str
    status: str
    detail: str

    @property
    def name(self) -> str:
        return f"{self.client}/{self.test}"


def _python(program: str, python: str | Path = sys.executable) -> list[str]:
    return [str(python), str(CLIENTS / program)]


def _java(program: str, jars: Path, classes: Path) -> list[str]:
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return ["java", "-Xmx512m", "-XX:+UseSerialGC", quiet, "-cp", f"{classes}:{jars}/*", program]


def _mqttjs(how: str) -> list[str]:
    return ["node", str(CLIENTS / "mqttjs" / "main.js"), how]


_MQTT = ("trivium", "mosquitto")
_MQTTJS = {"NODE_PATH": str(MQTTJS_MODULES)}
_PATH = {"PYTHONPATH": str(CLIENTS), "PYTHONWARNINGS": "ignore"}
PROGRAMS: dict[str, Client] = {
    "kafka-python-3": Client(_python("kafka_python_new.py"), fast=True, environment=_PATH),
    "confluent-kafka": Client(_python("confluent_client.py"), fast=True, environment=_PATH),
    "aiokafka": Client(_python("aiokafka_client.py"), fast=True, environment=_PATH),
    "kafka-python-2.0.2": Client(
        _python("kafka_python_old.py", venv_python("kafka-python-2.0.2")), ("kafka-python-2.0.2",), environment=_PATH
    ),
    "kafka-python-1.4.7": Client(
        _python("kafka_python_old.py", venv_python("kafka-python-1.4.7")), ("kafka-python-1.4.7",), environment=_PATH
    ),
    "kcat": Client(_python("kcat_client.py"), ("debian",), environment=_PATH),
    "java-4.2": Client(_java("TriviumClient", KAFKA_JARS, JAVA_CLASSES), ("kafka",)),
    "java-4.2-tools": Client(_python("kafka_tools.py"), ("kafka",), environment={**_PATH, "JARS": str(KAFKA_JARS)}),
    "kafka-streams-4.2": Client(_java("StreamsProgram", KAFKA_JARS, JAVA_CLASSES), ("kafka",)),
    "java-0.10": Client(_java("OldClient", KAFKA_OLD_JARS, JAVA_OLD_CLASSES), ("kafka-0.10",)),
    "java-0.10-tools": Client(
        _python("kafka_old_tools.py"), ("kafka-0.10",), environment={**_PATH, "JARS": str(KAFKA_OLD_JARS)}
    ),
    "franz-go": Client([str(FRANZ_GO)], ("franz-go",)),
    "paho": Client(_python("paho_client.py"), fast=True, environment=_PATH, brokers=_MQTT),
    "aiomqtt": Client(_python("aiomqtt_client.py"), fast=True, environment=_PATH, brokers=_MQTT),
    "amqtt": Client(_python("amqtt_client.py"), fast=True, environment=_PATH, brokers=_MQTT),
    "roads": Client(_python("roads.py"), fast=True, environment=_PATH, brokers=("trivium",)),
    "mosquitto": Client(_python("mosquitto_client.py"), ("debian",), environment=_PATH, brokers=_MQTT),
    "hivemq": Client(_java("MqttClientProgram", MQTT_JARS, MQTT_CLASSES), ("mqtt-java",), brokers=_MQTT),
    "mqttjs-tcp": Client(_mqttjs("tcp"), ("mqttjs",), environment=_MQTTJS, brokers=_MQTT),
    "mqttjs-websocket": Client(_mqttjs("websocket"), ("mqttjs",), environment=_MQTTJS, brokers=_MQTT),
    "mqttjs-page": Client(_mqttjs("page"), ("mqttjs", "chromium"), environment=_MQTTJS, brokers=_MQTT),
    "kafkajs": Client(
        ["node", str(CLIENTS / "kafkajs" / "main.js")], ("kafkajs",), environment={"NODE_PATH": str(KAFKAJS_MODULES)}
    ),
    "platformatic": Client(
        ["node", str(CLIENTS / "platformatic" / "main.js")],
        ("platformatic",),
        environment={"NODE_PATH": str(PLATFORMATIC_MODULES)},
    ),
}


def run_client(name: str, addresses: dict[str, str], tests: Sequence[str] = ()) -> list[Result]:
    """Runs one client's program (all its tests, or those named) and returns a result for everything it planned."""
    client = PROGRAMS[name]
    environment = {**os.environ, **client.environment, **addresses}
    # To a file: a program that is killed at its limit keeps what it has reported.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [*client.command, *tests], stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            ending = f"ended with {process.wait(client.limit_s)}"
        except subprocess.TimeoutExpired:
            ending = f"was stopped after {client.limit_s} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        out.seek(0)
        err.seek(0)
        return _results(name, out.read(), f"{ending}: {' '.join(err.read().split())[-300:]}")


def _results(client: str, output: str, ending: str) -> list[Result]:
    planned: list[str] = []
    reported: dict[str, tuple[str, str]] = {}
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == "PLAN":
            planned = rest.split()
        elif word in ("PASS", "FAIL", "SKIP"):
            test, _, detail = rest.partition(" ")
            reported[test] = (word, detail)
    if not planned:
        return [Result(client, "start", "FAIL", f"the program {ending}")]
    missing = ("FAIL", f"not reported, the program {ending}")
    return [Result(client, test, *reported.get(test, missing)) for test in planned]


def allowed() -> set[str]:
    """The tests that must pass, as client/test."""
    lines = ALLOW_FILE.read_text().splitlines() if ALLOW_FILE.exists() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def regressions(results: list[Result]) -> list[Result]:
    """Tests of the allow-list that did not pass."""
    return [result for result in results if result.name in allowed() and result.status != "PASS"]


def clients_of(broker: str, fast: bool = False) -> list[str]:
    """The clients that talk to this broker; `fast`: those that come with the `test` extra and need nothing else."""
    return [name for name, client in PROGRAMS.items() if broker in client.brokers and (client.fast or not fast)]


def grow(results: list[Result]) -> int:
    """Adds what passed to the allow-list; returns how many were new."""
    passed = {result.name for result in results if result.status == "PASS"}
    known = allowed()
    head = "# Tests that must pass against our broker, client/test. Only grows: `python -m interop.run --grow`.\n"
    ALLOW_FILE.write_text(head + "".join(f"{name}\n" for name in sorted(known | passed)))
    return len(passed - known)


@contextlib.contextmanager
def broker_for(kind: str, bootstrap: str) -> Iterator[dict[str, str]]:
    """A running broker's addresses: the one given, or those of one started for this (see BROKERS) and removed."""
    if bootstrap:
        yield {"BOOTSTRAP": bootstrap}
        return
    scratch_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=scratch_root()))
    # As test set-ups have it: no wait for further members before a new group's first assignment.
    broker: Broker = Trivium(directory, config="[groups]\ninitial_rebalance_delay_ms = 0\n")
    if kind == "kafka":
        setup.kafka()
        broker = ApacheKafka(directory, settings={"group.initial.rebalance.delay.ms": "0"})
    elif kind == "mosquitto":
        setup.debian()
        broker = Mosquitto(directory)
    with broker, control(broker) as controlled:
        broker.start()
        print(f"{kind} on {broker.bootstrap}, ready in {broker.ready_s:.2f} s", file=sys.stderr)
        try:
            yield {**broker.environment(), **controlled}
            broker.check()
        finally:
            shutil.copy(broker.log_file, scratch_root() / f"last-{kind}.log")


def run(names: Sequence[str], addresses: dict[str, str], tests: Sequence[str] = ()) -> list[Result]:
    """Sets up and runs the clients one after the other, printing a line for each and for what did not pass."""
    results = []
    for name in names:
        needs = list(PROGRAMS[name].needs)
        if needs and setup.main(needs):
            results.append(Result(name, "setup", "FAIL", "could not be set up"))
            continue
        began = time.monotonic()
        found = run_client(name, addresses, tests)
        counts = Counter(result.status for result in found)
        summary = "  ".join(f"{counts[status]:3d} {status.lower()}" for status in ("PASS", "FAIL", "SKIP"))
        print(f"{name:20s} {summary}  {time.monotonic() - began:6.1f} s", flush=True)
        for result in found:
            if result.status != "PASS":
                print(f"    {result.status} {result.test}: {result.detail}", flush=True)
        results += found
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=list(PROGRAMS), help="this client; may be repeated")
    parser.add_argument("--fast", action="store_true", help="only the clients that need nothing but pip")
    parser.add_argument("--test", action="append", default=[], help="this test of each client; may be repeated")
    parser.add_argument("--bootstrap", default="", help="HOST:PORT of a running Kafka port instead of a start")
    parser.add_argument("--broker", choices=BROKERS, default="trivium", help="which broker to start")
    parser.add_argument("--grow", action="store_true", help="add the tests that passed to allow.txt")
    options = parser.parse_args()
    names = options.only or clients_of("kafka" if options.bootstrap else options.broker, options.fast)
    with broker_for(options.broker, options.bootstrap) as addresses:
        results = run(names, addresses, options.test)
    if options.grow:
        print(f"{grow(results)} new in {ALLOW_FILE.name}")
    lost = regressions(results)
    for result in lost:
        print(f"must pass and did not: {result.name}: {result.detail}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
