"""The command-line tools of Kafka 0.10.2.2 that speak to a broker; topic and config tools know only ZooKeeper."""

from __future__ import annotations

import json
import sys

import harness
from harness import BOOTSTRAP, main, same, test, true, unique
from java_tool import tool

harness.TEST_TIMEOUT_S = 100
CONSOLE_PRODUCER, CONSOLE_CONSUMER = "kafka.tools.ConsoleProducer", "kafka.tools.ConsoleConsumer"


def fill(topic: str, count: int, *options: str) -> None:
    given = "".join(f"{number}\n" for number in range(count))
    tool(CONSOLE_PRODUCER, "--topic", topic, *options, given=given, bootstrap="--broker-list")


@test("console-producer-and-consumer-none", "none")
@test("console-producer-and-consumer-gzip", "gzip")
@test("console-producer-and-consumer-snappy", "snappy")
@test("console-producer-and-consumer-lz4", "lz4")
def console(codec: str) -> None:
    topic = unique("console")
    fill(topic, 20, "--compression-codec", codec)
    options = ["--from-beginning", "--max-messages", "20", "--timeout-ms", "20000"]
    found = tool(CONSOLE_CONSUMER, "--topic", topic, *options)
    same(found.split(), [str(number) for number in range(20)], "values")


@test("old-scala-producer")
def scala_producer() -> None:
    """The producer of Kafka 0.8, with Produce v0 and message format v0, still in this release."""
    topic = unique("scala")
    fill(topic, 5)
    fill(topic, 10, "--old-producer")
    options = ["--from-beginning", "--max-messages", "15", "--timeout-ms", "20000"]
    same(len(tool(CONSOLE_CONSUMER, "--topic", topic, *options).split()), 15, "records")


@test("get-offsets")
def get_offsets() -> None:
    topic = unique("offsets")
    fill(topic, 7)
    for time, offset in (("-1", 7), ("-2", 0)):
        said = tool("kafka.tools.GetOffsetShell", "--topic", topic, "--time", time, bootstrap="--broker-list")
        same(said.strip(), f"{topic}:0:{offset}", f"offset at {time}")


@test("simple-consumer")
def simple_consumer() -> None:
    """Fetch v2 and earlier without a group, as the first consumers did."""
    topic = unique("simple")
    fill(topic, 6)
    options = ["--partition", "0", "--offset", "2", "--max-messages", "4", "--no-wait-at-logend"]
    said = tool("kafka.tools.SimpleConsumerShell", "--topic", topic, *options, bootstrap="--broker-list")
    same(said.split(), ["2", "3", "4", "5"], "values")


@test("producer-performance")
def performance() -> None:
    topic = unique("performance")
    options = ["--num-records", "20000", "--record-size", "100", "--throughput", "-1"]
    settings = ["--producer-props", f"bootstrap.servers={BOOTSTRAP}", "acks=all"]
    said = tool("org.apache.kafka.tools.ProducerPerformance", "--topic", topic, *options, *settings, bootstrap="")
    true("20000 records sent" in said, said)
    options = ["--messages", "20000", "--new-consumer"]
    said = tool("kafka.tools.ConsumerPerformance", "--topic", topic, *options, bootstrap="--broker-list")
    same(said.splitlines()[-1].split(", ")[4], "20000", "records consumed")


@test("verifiable-producer")
def verifiable() -> None:
    topic = unique("verifiable")
    options = ["--max-messages", "500", "--acks", "-1"]
    said = tool("org.apache.kafka.tools.VerifiableProducer", "--topic", topic, *options, bootstrap="--broker-list")
    acked = [event for event in map(json.loads, said.splitlines()) if event["name"] == "producer_send_success"]
    same(len(acked), 500, "acknowledged")
    options = ["--from-beginning", "--max-messages", "500", "--timeout-ms", "20000"]
    found = tool(CONSOLE_CONSUMER, "--topic", topic, *options)
    same(sorted(map(int, found.split())), list(range(500)), "values")


@test("consumer-groups")
def consumer_groups() -> None:
    topic, group = unique("groups"), unique("group")
    fill(topic, 5)
    options = ["--from-beginning", "--max-messages", "5", "--timeout-ms", "20000"]
    tool(CONSOLE_CONSUMER, "--topic", topic, *options, "--consumer-property", f"group.id={group}")
    true(group in tool("kafka.admin.ConsumerGroupCommand", "--list").split(), "not listed")
    said = tool("kafka.admin.ConsumerGroupCommand", "--describe", "--group", group)
    line = next((line for line in said.splitlines() if topic in line), "")
    same(line.split()[:5], [topic, "0", "5", "5", "0"], "topic, partition, offset, end, lag")


@test("api-versions")
def api_versions() -> None:
    said = tool("kafka.admin.BrokerApiVersionsCommand")
    true("Produce(0): " in said and "Fetch(1): " in said, said)


if __name__ == "__main__":
    sys.exit(main())
