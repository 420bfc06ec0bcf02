"""Installs the real clients and peers: `python -m interop.setup [what ...]`.

Each thing is installed once: a stamp holds a digest of the files that define it, so a second run costs nothing and an
edited pom, lock file or source is installed again. Packages come through their ordinary clients (Maven, pip, npm, go,
apt-get).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from interop.places import (
    CACHE,
    CLIENTS,
    FRANZ_GO,
    JAVA_CLASSES,
    JAVA_OLD_CLASSES,
    KAFKA_JARS,
    KAFKA_OLD_JARS,
    KAFKAJS_MODULES,
    MQTT_CLASSES,
    MQTT_JARS,
    MQTT_LOAD,
    MQTTJS_MODULES,
    PEERS,
    PLATFORMATIC_MODULES,
    ROCKETMQ_FILTER_CLASSES,
    ROCKETMQ_FILTER_JARS,
    ROOT,
    venv_python,
)

DEBIAN_PACKAGES = {"kcat": "kcat", "mosquitto": "mosquitto", "mosquitto_pub": "mosquitto-clients"}
FIGURES_PACKAGES = {"mosquitto": "mosquitto", "nats-server": "nats-server", "gcc": "gcc"}
# Codecs are pinned to nothing: these clients only ask whether the module can be imported.
OLD_CODECS = ["python-snappy", "lz4", "zstandard"]


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})}, check=True)


def _digest(inputs: list[Path], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def _once(name: str, product: Path, inputs: list[Path], text: str, install: Callable[[], None]) -> None:
    stamp = CACHE / "stamps" / name
    digest = _digest(inputs, text)
    if product.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing {name}", file=sys.stderr)
    install()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)


def debian(packages: dict[str, str] = DEBIAN_PACKAGES) -> None:
    """Program -> package; by default kcat, mosquitto and its clients. Needs root only where one is missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [package for program, package in packages.items() if not shutil.which(program, path=path)]
    if "gcc" in packages and not Path("/usr/include/openssl/ssl.h").exists():
        missing.append("libssl-dev")
    if not missing:
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    _run("apt-get", "update", "-q", env=quiet)
    _run("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing, env=quiet)


def mqtt_load() -> None:
    """The MQTT peers of the figures, and our load generator, from its source."""
    debian(FIGURES_PACKAGES)
    source = ROOT / "mqtt_figures" / "load.c"

    def install() -> None:
        MQTT_LOAD.parent.mkdir(parents=True, exist_ok=True)
        _run("gcc", "-O2", "-Wall", "-Wextra", "-o", MQTT_LOAD, source, "-lssl", "-lcrypto")

    _once("mqtt-load", MQTT_LOAD, [source], "", install)


def _maven(name: str, into: Path) -> None:
    def install() -> None:
        shutil.rmtree(into, ignore_errors=True)
        pom = PEERS / name / "pom.xml"
        _run("mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={into}")

    _once(f"jars-{name}", into, [PEERS / name / "pom.xml"], "", install)


def _javac(name: str, jars: Path, into: Path, release: str, *shared: Path) -> None:
    def install() -> None:
        shutil.rmtree(into, ignore_errors=True)
        sources = [*sorted((CLIENTS / name).glob("*.java")), *shared]
        _run("javac", "-nowarn", "--release", release, "-cp", f"{jars}/*", "-d", into, *sources)

    _once(f"classes-{name}", into, [CLIENTS / name, *shared], release, install)


def kafka() -> None:
    """Apache Kafka 4.2: broker, clients, tools, and our Java program."""
    _maven("kafka", KAFKA_JARS)
    _javac("java", KAFKA_JARS, JAVA_CLASSES, "17")


def kafka_old() -> None:
    """The Java client and tools of Kafka 0.10.2.2, and our program for them."""
    _maven("kafka-0.10", KAFKA_OLD_JARS)
    _javac("java-0.10", KAFKA_OLD_JARS, JAVA_OLD_CLASSES, "8")


def rocketmq_filter() -> None:
    """RocketMQ's filter library, and our program that asks it."""
    _maven("rocketmq-filter", ROCKETMQ_FILTER_JARS)
    _javac("rocketmq-filter", ROCKETMQ_FILTER_JARS, ROCKETMQ_FILTER_CLASSES, "17")


def _venv(name: str, *packages: str) -> None:
    def install() -> None:
        python = venv_python(name)
        _run(sys.executable, "-m", "venv", "--clear", python.parent.parent)
        _run(python, "-m", "pip", "install", "-q", *packages)

    _once(f"venv-{name}", venv_python(name), [], f"{sys.version_info[:2]} {packages}", install)


def kafka_python_1() -> None:
    """kafka-python 1.4.7: message format v1 and protocol versions of Kafka 0.11 to 2.3."""
    if sys.version_info >= (3, 12):
        raise SystemExit("kafka-python 1.4.7 and 2.0.2 carry an old `six` that cannot be imported from Python 3.12 on")
    _venv("kafka-python-1.4.7", "kafka-python==1.4.7", *OLD_CODECS)


def kafka_python_2() -> None:
    """kafka-python 2.0.2, the last release before the 2.1 rewrite and the one most installations still have."""
    if sys.version_info >= (3, 12):
        raise SystemExit("kafka-python 1.4.7 and 2.0.2 carry an old `six` that cannot be imported from Python 3.12 on")
    _venv("kafka-python-2.0.2", "kafka-python==2.0.2", *OLD_CODECS)


def franz_go() -> None:
    """The Go client's program, built from interop/clients/franz-go."""
    source = CLIENTS / "franz-go"

    def install() -> None:
        FRANZ_GO.parent.mkdir(parents=True, exist_ok=True)
        _run("go", "build", "-o", FRANZ_GO, ".", cwd=source)

    _once("franz-go", FRANZ_GO, [source], "", install)


def _npm(name: str, modules: Path) -> None:
    source = CLIENTS / name
    manifests = [source / "package.json", source / "package-lock.json"]

    def install() -> None:
        home = modules.parent
        home.mkdir(parents=True, exist_ok=True)
        for manifest in manifests:
            shutil.copy(manifest, home)
        _run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=home)

    _once(name, modules, manifests, "", install)


def kafkajs() -> None:
    """kafkajs and its codecs for Node; the program stays in interop/clients/kafkajs."""
    _npm("kafkajs", KAFKAJS_MODULES)


def platformatic() -> None:
    """@platformatic/kafka, a Kafka client for Node that shares no code with kafkajs or librdkafka."""
    _npm("platformatic", PLATFORMATIC_MODULES)


def mqttjs() -> None:
    """MQTT.js for Node and pages, and the driver of the browser."""
    _npm("mqttjs", MQTTJS_MODULES)


def chromium() -> None:
    """The browser for pages that speak MQTT."""
    debian({"chromium": "chromium"})


def mqtt_java() -> None:
    """HiveMQ's Java client and our program for it."""
    _maven("mqtt", MQTT_JARS)
    _javac("java-mqtt", MQTT_JARS, MQTT_CLASSES, "17", CLIENTS / "java" / "Harness.java")


TARGETS: dict[str, Callable[[], None]] = {
    "debian": debian,
    "kafka": kafka,
    "kafka-0.10": kafka_old,
    "rocketmq-filter": rocketmq_filter,
    "kafka-python-1.4.7": kafka_python_1,
    "kafka-python-2.0.2": kafka_python_2,
    "franz-go": franz_go,
    "kafkajs": kafkajs,
    "platformatic": platformatic,
    "mqttjs": mqttjs,
    "chromium": chromium,
    "mqtt-java": mqtt_java,
    "mqtt-load": mqtt_load,
}


def main(arguments: list[str]) -> int:
    unknown = [name for name in arguments if name not in TARGETS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    failed = []
    for name in arguments or TARGETS:
        try:
            TARGETS[name]()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
