"""The command-line tools of Kafka 4.2, as an operator types them."""

from __future__ import annotations

import json
import re
import sys
import tempfile

import harness
from harness import BOOTSTRAP, main, same, test, true, unique
from java_tool import tool

TOOLS = "org.apache.kafka.tools"
GROUPS = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
CONSOLE = f"{TOOLS}.consumer.ConsoleConsumer"
harness.TEST_TIMEOUT_S = 100


def new_topic(partitions: int = 1, *configs: str) -> str:
    name = unique("tools")
    options = [part for config in configs for part in ("--config", config)]
    tool(f"{TOOLS}.TopicCommand", "--create", "--topic", name, "--partitions", str(partitions), *options)
    return name


def fill(topic: str, count: int) -> None:
    tool(f"{TOOLS}.ConsoleProducer", "--topic", topic, given="".join(f"{number}\n" for number in range(count)))


@test("topics")
def topics() -> None:
    topic = new_topic(3, "retention.ms=100000")
    true(topic in tool(f"{TOOLS}.TopicCommand", "--list").split(), "not listed")
    described = tool(f"{TOOLS}.TopicCommand", "--describe", "--topic", topic)
    true("PartitionCount: 3" in described and "retention.ms=100000" in described, described)
    tool(f"{TOOLS}.TopicCommand", "--alter", "--topic", topic, "--partitions", "4")
    described = tool(f"{TOOLS}.TopicCommand", "--describe", "--topic", topic)
    true("PartitionCount: 4" in described, described)
    tool(f"{TOOLS}.TopicCommand", "--delete", "--topic", topic)
    true(topic not in tool(f"{TOOLS}.TopicCommand", "--list").split(), "still listed")


@test("topic-with-replication-factor-3")
def replication() -> None:
    """Many set-up scripts ask for three replicas; one node of ours takes that with a warning, Kafka refuses."""
    name = unique("replicas")
    tool(f"{TOOLS}.TopicCommand", "--create", "--topic", name, "--partitions", "1", "--replication-factor", "3")


@test("configs")
def configs() -> None:
    topic = new_topic(1)
    entity = ["--entity-type", "topics", "--entity-name", topic]
    tool("kafka.admin.ConfigCommand", *entity, "--alter", "--add-config", "retention.ms=12345,cleanup.policy=compact")
    described = tool("kafka.admin.ConfigCommand", *entity, "--describe")
    true("retention.ms=12345" in described and "cleanup.policy=compact" in described, described)
    tool("kafka.admin.ConfigCommand", *entity, "--alter", "--delete-config", "retention.ms")
    true("retention.ms" not in tool("kafka.admin.ConfigCommand", *entity, "--describe"), "retention.ms is still there")
    everything = tool("kafka.admin.ConfigCommand", *entity, "--describe", "--all")
    true("max.message.bytes=1048588" in everything, "the default of max.message.bytes is not described")


@test("console-producer-and-consumer")
def console() -> None:
    topic = new_topic(1)
    options = ["--reader-property", "parse.key=true", "--reader-property", "parse.headers=true"]
    given = "h1:v1\tkey1\tvalue1\nh2:v2\tkey2\tvalue2\n"
    tool(f"{TOOLS}.ConsoleProducer", "--topic", topic, "--compression-codec", "zstd", *options, given=given)
    shown = [f"--formatter-property=print.{what}=true" for what in ("key", "headers", "offset", "partition")]
    options = ["--from-beginning", "--max-messages", "2", "--timeout-ms", "20000"]
    found = tool(CONSOLE, "--topic", topic, *options, *shown)
    expected = "Partition:0\tOffset:0\th1:v1\tkey1\tvalue1\nPartition:0\tOffset:1\th2:v2\tkey2\tvalue2\n"
    same(found, expected, "what was printed")


@test("consumer-groups", "classic")
@test("consumer-groups-kip848", "consumer")
def consumer_groups(protocol: str) -> None:
    topic, group = new_topic(1), unique("group")
    fill(topic, 10)
    options = ["--from-beginning", "--max-messages", "10", "--timeout-ms", "20000", "--group", group]
    tool(CONSOLE, "--topic", topic, *options, "--consumer-property", f"group.protocol={protocol}")
    true(group in tool(GROUPS, "--list").split(), "not listed")
    described = tool(GROUPS, "--describe", "--group", group)
    line = next(line for line in described.splitlines() if topic in line)
    same(re.split(r"\s+", line)[1:6], [topic, "0", "10", "10", "0"], "topic, partition, offset, end, lag")
    true("Empty" in tool(GROUPS, "--describe", "--group", group, "--state"), "the state is not Empty")
    reset = tool(GROUPS, "--group", group, "--topic", topic, "--reset-offsets", "--shift-by", "-4", "--execute")
    true(re.search(rf"{topic}\s+0\s+6", reset), f"not reset to 6: {reset}")
    tool(GROUPS, "--group", group, "--topic", topic, "--delete-offsets")
    tool(GROUPS, "--group", group, "--delete")
    true(group not in tool(GROUPS, "--list").split(), "still listed")
    true(topic in tool(f"{TOOLS}.TopicCommand", "--list").split(), "the topic is gone")


@test("groups")
def groups() -> None:
    topic, group = new_topic(1), unique("group")
    fill(topic, 1)
    options = ["--from-beginning", "--max-messages", "1", "--timeout-ms", "20000", "--group", group]
    tool(CONSOLE, "--topic", topic, *options)
    line = next(line for line in tool(f"{TOOLS}.GroupsCommand", "--list").splitlines() if group in line)
    true("Classic" in line and "consumer" in line, line)


@test("producer-and-consumer-performance")
def performance() -> None:
    topic = new_topic(3)
    options = ["--num-records", "50000", "--record-size", "100", "--throughput", "-1"]
    settings = ["--command-property", "acks=all", "linger.ms=5", "compression.type=lz4"]
    said = tool(f"{TOOLS}.ProducerPerformance", "--topic", topic, *options, *settings)
    true("50000 records sent" in said, said)
    said = tool(f"{TOOLS}.ConsumerPerformance", "--topic", topic, "--num-records", "50000", "--timeout", "20000")
    same(said.splitlines()[-1].split(", ")[4], "50000", "records consumed")


@test("client-compatibility")
def compatibility() -> None:
    """The tool counts DescribeAcls as supported where the broker knows the request at all."""
    acls = str("DescribeAcls(29): UNSUPPORTED" not in tool(f"{TOOLS}.BrokerApiVersionsCommand")).lower()
    options = {
        "offsets-for-times-supported": "true",
        "cluster-id-supported": "true",
        "expect-record-too-large-exception": "false",
        "num-cluster-nodes": "1",
        "create-topics-supported": "true",
        "describe-acls-supported": acls,
        "describe-configs-supported": "true",
        "idempotent-producer-supported": "true",
    }
    topic = new_topic(1)
    command = [part for name, value in options.items() for part in (f"--{name}", value)]
    said = tool(f"{TOOLS}.ClientCompatibilityTest", "--topic", topic, *command)
    true("SUCCESS" in said, said)


@test("verifiable-producer-and-consumer")
def verifiable() -> None:
    topic, group = new_topic(2), unique("group")
    said = tool(f"{TOOLS}.VerifiableProducer", "--topic", topic, "--max-messages", "500", "--acks", "-1")
    acked = [event for event in map(json.loads, said.splitlines()) if event["name"] == "producer_send_success"]
    same(sorted(int(event["value"]) for event in acked), list(range(500)), "acknowledged")
    options = ["--group-id", group, "--max-messages", "500", "--verbose"]
    said = tool(f"{TOOLS}.VerifiableConsumer", "--topic", topic, *options)
    events = [json.loads(line) for line in said.splitlines()]
    same(sum(event["count"] for event in events if event["name"] == "records_consumed"), 500, "consumed")
    same(sorted(int(e["value"]) for e in events if e["name"] == "record_data"), list(range(500)), "values")


@test("delete-records-and-get-offsets")
def delete_records() -> None:
    topic = new_topic(1)
    fill(topic, 10)
    wanted = {"partitions": [{"topic": topic, "partition": 0, "offset": 3}], "version": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(wanted, file)
        file.flush()
        said = tool(f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file", file.name)
    true("low_watermark: 3" in said, said)
    for time, offset in (("earliest", 3), ("latest", 10), ("-2", 3), ("-1", 10)):
        said = tool(f"{TOOLS}.GetOffsetShell", "--topic", topic, "--time", time)
        same(said.strip(), f"{topic}:0:{offset}", f"offset at {time}")


@test("transactions")
def transactions() -> None:
    said = tool(f"{TOOLS}.TransactionsCommand", "list", bootstrap="--bootstrap-server")
    true("TransactionalId" in said, said)
    tool(f"{TOOLS}.TransactionsCommand", "find-hanging", "--broker-id", _node())


def _node() -> str:
    said = tool(f"{TOOLS}.BrokerApiVersionsCommand")
    found = re.search(r"id: (\d+) rack", said)
    true(found, said)
    return found[1] if found else ""


@test("cluster-and-log-dirs")
def cluster() -> None:
    topic = new_topic(1)
    fill(topic, 5)
    cluster_id = tool(f"{TOOLS}.ClusterTool", "cluster-id", "--bootstrap-server", BOOTSTRAP, bootstrap="")
    true("Cluster ID: " in cluster_id, "no cluster id")
    said = tool(f"{TOOLS}.LogDirsCommand", "--describe", "--topic-list", topic)
    dirs = json.loads(said.splitlines()[-1])["brokers"][0]["logDirs"]
    sizes = [part["size"] for each in dirs for part in each["partitions"] if part["partition"] == f"{topic}-0"]
    true(sizes and sizes[0] > 0, said)
    true("LeaderId" in tool(f"{TOOLS}.MetadataQuorumCommand", "describe", "--status"), "no quorum status")
    features = tool(f"{TOOLS}.FeatureCommand", "describe")
    true(re.search(r"transaction.version\s.*FinalizedVersionLevel: 2", features), features)


@test("end-to-end-latency")
def end_to_end() -> None:
    topic = new_topic(1)
    options = ["--topic", topic, "--num-records", "200", "--producer-acks", "all", "--record-size", "100"]
    said = tool(f"{TOOLS}.EndToEndLatency", *options)
    true("Percentiles" in said, said)


@test("leader-election")
def leader_election() -> None:
    topic = new_topic(1)
    options = ["--election-type", "preferred", "--topic", topic, "--partition", "0"]
    tool(f"{TOOLS}.LeaderElectionCommand", *options)


@test("users-clients-and-reassignments")
def what_nobody_has() -> None:
    """No quotas, no credentials, nothing that moves: the tools say so, or nothing."""
    topic = new_topic(1)
    for kind in ("users", "clients", "ips"):
        same(tool("kafka.admin.ConfigCommand", "--describe", "--entity-type", kind), "", f"what {kind} have")
    same(tool("kafka.admin.ConfigCommand", "--describe", "--entity-type", "users", "--entity-name", "x"), "", "x has")
    reassign = f"{TOOLS}.reassign.ReassignPartitionsCommand"
    same(tool(reassign, "--list").strip(), "No partition reassignments found.", "what is listed")
    wanted = {"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [int(_node())]}]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(wanted, file)
        file.flush()
        said = tool(reassign, "--verify", "--reassignment-json-file", file.name)
    true(f"Reassignment of partition {topic}-0 is completed." in said and "Clearing topic-level" in said, said)


if __name__ == "__main__":
    sys.exit(main())
