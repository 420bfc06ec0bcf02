"""The load generators: Kafka's own performance tools, and our librdkafka programs, each in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from interop.places import KAFKA_JARS, REPOSITORY, ROOT

LIMIT_S = 1800
_RATE = re.compile(r"(\d+) records sent, ([\d.]+) records/sec")


class ToolError(Exception):
    """A load generator failed; the text holds what it said."""


def _finish(process: subprocess.Popen[str], what: str) -> str:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    if process.returncode:
        raise ToolError(f"{what}: {process.returncode}, {' '.join((out + err)[-600:].split())}")
    return out


def _java(name: str, *arguments: str) -> subprocess.Popen[str]:
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    command = ["java", "-Xmx512m", quiet, "-cp", f"{KAFKA_JARS}/*", f"org.apache.kafka.tools.{name}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_producer(bootstrap: str, topic: str, records: int, size: int, rate: int = -1) -> subprocess.Popen[str]:
    """ProducerPerformance with acks=all and linger.ms=5, not waited for; `rate` in records/s, -1 for no limit."""
    options = ["--topic", topic, "--num-records", str(records), "--record-size", str(size), "--throughput", str(rate)]
    settings = ["--command-property", "acks=all", "linger.ms=5"]
    return _java("ProducerPerformance", "--bootstrap-server", bootstrap, *options, *settings)


def produced(process: subprocess.Popen[str]) -> float:
    """Waits for a producer and returns its records/s over the whole run. Raises ToolError."""
    out = _finish(process, "ProducerPerformance")
    found = [float(rate) for _, rate in _RATE.findall(out)]
    if not found:
        raise ToolError(f"ProducerPerformance printed no result: {out[-300:]}")
    return found[-1]


def consume(bootstrap: str, topic: str, records: int) -> tuple[float, float]:
    """ConsumerPerformance: (records/s, MB/s) over the fetching itself, without joining the group. Raises ToolError."""
    options = ["--topic", topic, "--num-records", str(records), "--timeout", "60000"]
    out = _finish(_java("ConsumerPerformance", "--bootstrap-server", bootstrap, *options), "ConsumerPerformance")
    fields = out.strip().splitlines()[-1].split(", ")
    if int(fields[4]) < records:
        raise ToolError(f"ConsumerPerformance read {fields[4]} of {records} records")
    return float(fields[9]), float(fields[8])


def librdkafka(bootstrap: str, **options: Any) -> dict[str, Any]:
    """Runs interop/figures/load.py with these options and returns its answer. Raises ToolError."""
    return _load("load", bootstrap, options)


def raw(bootstrap: str, **options: Any) -> dict[str, Any]:
    """Runs interop/figures/raw_load.py with these options and returns its answer. Raises ToolError."""
    return _load("raw_load", bootstrap, options)


def _load(program: str, bootstrap: str, options: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", f"interop.figures.{program}", json.dumps({"bootstrap": bootstrap, **options})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    answer: dict[str, Any] = json.loads(_finish(process, program))
    return answer


def start_follower(bootstrap: str, topic: str, group: str, records: int) -> subprocess.Popen[str]:
    """Runs interop/figures/follow.py, and returns when it is assigned. Raises ToolError."""
    request = json.dumps({"bootstrap": bootstrap, "topic": topic, "group": group, "records": records})
    command = [sys.executable, str(ROOT / "figures" / "follow.py"), request]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        _finish(process, "follower")
    return process


def followed(process: subprocess.Popen[str]) -> dict[str, float]:
    """Waits for a follower and returns its answer. Raises ToolError."""
    answer: dict[str, float] = json.loads(_finish(process, "follower"))
    return answer


def drop_page_cache() -> bool:
    """Empties the page cache; False where this needs rights we have not."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True
