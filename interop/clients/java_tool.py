"""Runs one of Kafka's own command-line tools; JARS in the environment is the folder with its libraries."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness import BOOTSTRAP, true

LIMIT_S = 40


def tool(name: str, *arguments: str, given: str = "", bootstrap: str = "--bootstrap-server") -> str:
    """What the tool printed on standard output. Raises AssertionError with what it said where it fails."""
    address = [bootstrap, BOOTSTRAP] if bootstrap else []
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    log4j = Path(__file__).with_name("log4j.properties")
    command += [f"-Dlog4j.configuration=file:{log4j}", "-cp", f"{os.environ['JARS']}/*", name, *address, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=LIMIT_S)
    said = " ".join((done.stdout[-500:] + done.stderr[-700:]).split())
    true(done.returncode == 0, f"{name.rpartition('.')[2]} {' '.join(arguments)}: {done.returncode}, {said}")
    return done.stdout
