"""kcat 1.7 (librdkafka 2.0): its modes produce, consume, group, list and query, by command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from harness import BOOTSTRAP, each_codec_and_acks, eventually, main, same, test, true, unique

NOW_MS = int(time.time() * 1000)


def kcat(*arguments: str, given: str = "", timeout_s: float = 20.0) -> str:
    """Runs kcat against the broker. Raises AssertionError with what it said where it fails."""
    command = ["kcat", "-b", BOOTSTRAP, "-X", "log_level=3", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout_s)
    true(done.returncode == 0, f"kcat {' '.join(arguments)}: {done.returncode}, {done.stderr[-400:]}")
    return done.stdout


def records(topic: str, *arguments: str) -> list[dict[str, Any]]:
    """Everything in the topic up to its end, in kcat's JSON envelope."""
    out = kcat("-C", "-t", topic, "-e", "-q", "-J", *arguments)
    return [json.loads(line) for line in out.splitlines()]


@each_codec_and_acks
def produce(codec: str, acks: str) -> None:
    topic = unique("produce")
    lines = [f"key-{number % 10}\tvalue-{number}" for number in range(300)]
    options = ["-X", f"compression.codec={codec}", "-X", f"topic.acks={acks}", "-H", "from=kcat", "-H", "mode=P"]
    kcat("-P", "-t", topic, "-p", "0", "-K", "\\t", *options, given="\n".join(lines) + "\n")
    found = eventually(lambda: len(records(topic)) == 300 and records(topic), "300 records")
    same([record["offset"] for record in found], list(range(300)), "offsets")
    same([f"{record['key']}\t{record['payload']}" for record in found], lines, "keys and values")
    same(found[0]["headers"], ["from", "kcat", "mode", "P"], "headers")
    true(all(abs(record["ts"] - NOW_MS) < 600_000 for record in found), "timestamps")


@test("produce-null-and-empty")
def null_and_empty() -> None:
    topic = unique("null")
    kcat("-P", "-t", topic, "-p", "0", "-Z", "-K", ":", given="a:\nb:x\n")
    same([(record["key"], record["payload"]) for record in records(topic)], [("a", None), ("b", "x")], "records")


@test("list")
def list_metadata() -> None:
    topic = unique("list")
    kcat("-P", "-t", topic, given="x\n")
    everything = json.loads(kcat("-L", "-J"))
    true(topic in [each["topic"] for each in everything["topics"]], "the topic is not listed")
    same(len(everything["brokers"]), 1, "brokers")
    one = json.loads(kcat("-L", "-J", "-t", topic))["topics"]
    same([(each["topic"], len(each["partitions"])) for each in one], [(topic, 1)], "the topic")


@test("seek-by-time")
def by_time() -> None:
    topic = unique("time")
    for number in range(3):
        kcat("-P", "-t", topic, "-p", "0", given=f"{number}\n")
        time.sleep(0.02)
    times = [record["ts"] for record in records(topic)]
    same(kcat("-Q", "-t", f"{topic}:0:{times[1]}").split()[-1], "1", "offset at the second timestamp")
    same(kcat("-Q", "-t", f"{topic}:0:-1").split()[-1], "3", "end offset")
    same([record["payload"] for record in records(topic, "-o", f"s@{times[2]}")], ["2"], "records from a time")
    same([record["payload"] for record in records(topic, "-o", "-2")], ["1", "2"], "the last two")


@test("group-and-restart")
def group_and_restart() -> None:
    topic, group = unique("group"), unique("group")

    def read() -> list[str]:
        out = kcat("-G", group, "-q", "-e", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=10000", topic)
        return out.split()

    kcat("-P", "-t", topic, given="1\n2\n3\n")
    same(read(), ["1", "2", "3"], "first run")
    kcat("-P", "-t", topic, given="4\n5\n")
    same(read(), ["4", "5"], "second run")


@test("transaction-commit")
def transaction() -> None:
    topic = unique("transaction")
    kcat("-P", "-t", topic, "-p", "0", "-X", f"transactional.id={unique('tx')}", given="1\n2\n3\n")
    found = records(topic, "-X", "isolation.level=read_committed")
    same([record["payload"] for record in found], ["1", "2", "3"], "records")


if __name__ == "__main__":
    sys.exit(main())
