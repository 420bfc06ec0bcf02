"""Where interop keeps what it installs (all of it below `interop/.cache`, which git ignores) and finds its programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REPOSITORY = ROOT.parent
CACHE = ROOT / ".cache"
PEERS = ROOT / "peers"
CLIENTS = ROOT / "clients"

KAFKA_JARS = CACHE / "jars" / "kafka"
KAFKA_OLD_JARS = CACHE / "jars" / "kafka-0.10"
ROCKETMQ_FILTER_JARS = CACHE / "jars" / "rocketmq-filter"
JAVA_CLASSES = CACHE / "classes" / "java"
JAVA_OLD_CLASSES = CACHE / "classes" / "java-0.10"
ROCKETMQ_FILTER_CLASSES = CACHE / "classes" / "rocketmq-filter"
FRANZ_GO = CACHE / "bin" / "franz-go"
MQTT_LOAD = CACHE / "bin" / "mqtt-load"
MQTTJS_MODULES = CACHE / "mqttjs" / "node_modules"
MQTT_JARS = CACHE / "jars" / "mqtt"
MQTT_CLASSES = CACHE / "classes" / "java-mqtt"
KAFKAJS_MODULES = CACHE / "kafkajs" / "node_modules"
PLATFORMATIC_MODULES = CACHE / "platformatic" / "node_modules"


def venv_python(name: str) -> Path:
    """The interpreter of one of the virtual environments that hold an old client."""
    return CACHE / "venvs" / name / "bin" / "python"


def trivium_command() -> list[str]:
    """The broker's command, from the environment that runs this."""
    beside = Path(sys.executable).parent / "trivium"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "gateway"]


def scratch_root() -> Path:
    """A folder on a real disk for data directories; TRIVIUM_SCRATCH moves it."""
    return Path(os.environ.get("TRIVIUM_SCRATCH", "/var/tmp")) / "trivium-interop"
