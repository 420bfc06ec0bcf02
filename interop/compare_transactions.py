"""Asks Apache Kafka and Trivium the same questions about transactions and topics and prints where the answers differ:
`python -m interop.compare_transactions`. Exit code 1 when they differ in more than DELIBERATE.

Producer ids are named in the order in which they appear. A request that is told to try again is asked again, since
Kafka ends transactions in several steps and ours in one.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from gateway.protocols.kafka.api_versions import ApiKey as Api
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    AddPartitionsToTxnRequest,
    CreateTopicsRequest,
    DescribeTransactionsRequest,
    EndTxnRequest,
    FindCoordinatorRequest,
    InitProducerIdRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
)
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.compare_wire import Notes, compare, prepare
from trivium.records import Record, build

DELIBERATE = {
    # Kafka fences and aborts with one epoch and gives the next; here one epoch does both.
    "take over: new producer over an open transaction",
    "take over: commit",
    "take over: described",
    # Kafka looks the transactional id up only when the partition has no open data of the producer; here always.
    "offsets: under an unknown name",
    # A larger replication factor is accepted with a warning.
    "create: three replicas",
}
TRY_AGAIN = {
    ErrorCode.CONCURRENT_TRANSACTIONS,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.NOT_ENOUGH_REPLICAS,
}
TRIES_MAX = 100
TIMED_OUT_S = 14.0  # Kafka looks for transactions past their time-out every 10 s

Producer = tuple[int, int]


class Scene:
    """Questions to one broker about topic t, which has two partitions."""

    def __init__(self, notes: Notes, title: str) -> None:
        self.notes = notes
        self.title = title
        self.connection = notes.connect()
        self.ids: dict[int, str] = {}

    def _ask(self, question: str, api: Api, version: int, message: Message, codes: Any) -> Any:
        for _ in range(TRIES_MAX):
            answer = self.connection.call(api, version, message)
            if not TRY_AGAIN & set(codes(answer)):
                break
            time.sleep(0.1)
        self.note(question, codes(answer))
        return answer

    def note(self, question: str, answer: object) -> None:
        self.notes.note(f"{self.title}: {question}", answer)

    def _producer(self, answer: Any) -> Producer:
        return answer.producer_id, answer.producer_epoch

    def _named(self, answer: Any) -> list[object]:
        if answer.error_code:
            return [answer.error_code]
        known = self.ids.setdefault(answer.producer_id, f"producer {len(self.ids)}")
        return [0, known, answer.producer_epoch]

    def init(
        self,
        question: str,
        name: str | None,
        expected: Producer = (-1, -1),
        version: int = 5,
        timeout_ms: int = 60_000,
    ) -> Producer:
        request = InitProducerIdRequest(
            transactional_id=name,
            transaction_timeout_ms=timeout_ms,
            producer_id=expected[0],
            producer_epoch=expected[1],
        )
        return self._producer(self._ask(question, Api.INIT_PRODUCER_ID, version, request, self._named))

    def add(self, question: str, name: str, producer: Producer, *parts: tuple[str, int], version: int = 3) -> None:
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=name,
            v3_and_below_producer_id=producer[0],
            v3_and_below_producer_epoch=producer[1],
            v3_and_below_topics=[
                AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(name=topic, partitions=[index])
                for topic, index in parts
            ],
        )

        def codes(answer: Any) -> list[int]:
            rows = [
                (topic.name, row.partition_index, row.partition_error_code)
                for topic in answer.results_by_topic_v3_and_below
                for row in topic.results_by_partition
            ]
            return [code for _, _, code in sorted(rows)]

        self._ask(question, Api.ADD_PARTITIONS_TO_TXN, version, request, codes)

    def produce(
        self,
        question: str,
        name: str | None,
        producer: Producer,
        index: int = 0,
        sequence: int = 0,
        version: int = 12,
        transactional: bool = True,
    ) -> None:
        batch = build(
            [Record(0, int(time.time() * 1000), b"k", b"v", [])],
            producer_id=producer[0],
            producer_epoch=producer[1],
            base_sequence=sequence,
            transactional=transactional,
        )
        data = ProduceRequest.PartitionProduceData(index=index, records=memoryview(batch))
        topic = ProduceRequest.TopicProduceData(name="t", partition_data=[data])
        request = ProduceRequest(transactional_id=name, acks=-1, timeout_ms=5_000, topic_data=[topic])
        self._ask(
            question,
            Api.PRODUCE,
            version,
            request,
            lambda answer: [answer.responses[0].partition_responses[0].error_code],
        )

    def end(self, question: str, name: str, producer: Producer, commit: bool, version: int = 5) -> Producer:
        request = EndTxnRequest(
            transactional_id=name, producer_id=producer[0], producer_epoch=producer[1], committed=commit
        )
        codes = self._named if version >= 5 else lambda answer: [answer.error_code]
        return self._producer(self._ask(question, Api.END_TXN, version, request, codes))

    def offset(self, question: str, name: str, producer: Producer, version: int = 5, group: str = "g") -> None:
        partition = TxnOffsetCommitRequest.TxnOffsetCommitRequestPartition(
            partition_index=0, committed_offset=1, committed_metadata=""
        )
        request = TxnOffsetCommitRequest(
            transactional_id=name,
            group_id=group,
            producer_id=producer[0],
            producer_epoch=producer[1],
            topics=[TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic(name="t", partitions=[partition])],
        )
        self._ask(
            question,
            Api.TXN_OFFSET_COMMIT,
            version,
            request,
            lambda answer: [answer.topics[0].partitions[0].error_code],
        )

    def describe(self, question: str, name: str) -> None:
        request = DescribeTransactionsRequest(transactional_ids=[name])
        [state] = self.connection.call(Api.DESCRIBE_TRANSACTIONS, 0, request).transaction_states
        self.note(question, [state.error_code, state.transaction_state, state.producer_epoch])


def new_clients(s: Scene) -> None:
    old = s.init("first", "n")
    now = s.init("second", "n")
    s.produce("produce of the first", "n", old)
    s.produce("produce", "n", now)
    s.end("commit of the first", "n", old, True)
    after = s.end("commit", "n", now, True)
    s.end("commit again", "n", now, True)
    s.end("abort after it", "n", now, False)
    s.end("commit nothing", "n", after, True)
    last = s.end("abort nothing", "n", after, False)
    s.end("abort nothing again", "n", after, False)
    s.end("abort nothing twice", "n", last, False)
    s.end("unknown name", "nobody", last, True)
    s.end("another id", "n", (last[0] + 777, 0), True)
    s.end("empty name", "", last, True)


def epochs(s: Scene) -> None:
    first = s.init("first", "e")
    second = s.init("bump", "e", first)
    s.init("bump again", "e", first)
    s.init("another id", "e", (first[0] + 777, 0))
    third = s.init("new", "e")
    s.init("bump of the one before", "e", second)
    s.init("bump of the one before, v3", "e", second, version=3)
    s.init("half a producer", "e", (5, -1))
    s.init("no name", None)
    s.init("empty name", "")
    s.init("no time", "f", timeout_ms=0)
    s.init("too much time", "f", timeout_ms=900_001)
    s.produce("non-transactional", "e", third, transactional=False)


def old_clients(s: Scene) -> None:
    now = s.init("init", "o", version=1)
    s.produce("v9 before adding", "o", now, version=9)
    s.produce("v11 before adding", "o", now, version=11)
    s.add("add", "o", now, ("t", 0))
    s.produce("v9", "o", now, version=9)
    s.produce("v9 to another", "o", now, index=1, version=9)
    s.end("commit", "o", now, True, 4)
    s.end("commit again", "o", now, True, 4)
    s.end("abort after it", "o", now, False, 4)
    s.add("a topic that is not", "o", now, ("t", 0), ("nope", 0))
    s.add("a partition that is not", "o", now, ("t", 9))
    s.add("unknown name", "nobody", now, ("t", 0))
    s.add("another id", "o", (now[0] + 777, 0), ("t", 0))
    newer = s.init("new", "o", version=1)
    s.add("fenced", "o", now, ("t", 0))
    s.add("fenced, v1", "o", now, ("t", 0), version=1)
    s.add("from the future", "o", (newer[0], newer[1] + 1), ("t", 0))
    s.end("fenced end", "o", now, True, 2)
    s.end("fenced end, v1", "o", now, True, 1)


def offsets(s: Scene) -> None:
    now = s.init("init", "p")
    s.offset("v3 before adding", "p", now, 3)
    s.offset("v4 before adding", "p", now, 4)
    s.offset("v5", "p", now)
    s.offset("fenced", "p", (now[0], now[1] - 1))
    s.offset("under an unknown name", "nobody", now)
    s.offset("no group", "p", now, group="")
    s.end("commit", "p", now, True)


def take_over(s: Scene) -> None:
    old = s.init("init", "x")
    s.produce("sequence gap", "x", old, sequence=5)
    s.produce("open", "x", old)
    s.produce("no name", None, old, sequence=1)
    new = s.init("new producer over an open transaction", "x")
    s.produce("zombie", "x", old, sequence=1)
    s.end("zombie commits", "x", old, True)
    s.end("zombie aborts", "x", old, False)
    s.produce("new one", "x", new)
    s.end("commit", "x", new, True)
    s.describe("described", "x")


def time_outs(s: Scene) -> None:
    now = s.init("init", "y", timeout_ms=1_000)
    s.produce("open", "y", now)
    time.sleep(TIMED_OUT_S)
    s.produce("after it", "y", now, sequence=1)
    s.end("commit after it", "y", now, True)
    again = s.end("abort after it", "y", now, False)
    s.produce("goes on", "y", again)
    s.end("commits", "y", again, True)
    s.describe("nobody", "nobody")


def create(s: Scene) -> None:
    """Topics and their configs: codes only."""

    def ask(question: str, name: str = "c", count: int = 1, replicas: int = 1, **fields: Any) -> None:
        configs = [
            CreateTopicsRequest.CreatableTopicConfig(name=key, value=value)
            for key, value in fields.get("configs", {}).items()
        ]
        assignments = [
            CreateTopicsRequest.CreatableReplicaAssignment(partition_index=index, broker_ids=ids)
            for index, ids in fields.get("assignments", ())
        ]
        topic = CreateTopicsRequest.CreatableTopic(
            name=name, num_partitions=count, replication_factor=replicas, assignments=assignments, configs=configs
        )
        request = CreateTopicsRequest(topics=[topic], timeout_ms=5_000, validate_only=True)
        [result] = self_call(request).topics
        s.note(question, [result.error_code, result.num_partitions, len(result.configs) > 0])

    def self_call(request: Message) -> Any:
        return s.connection.call(Api.CREATE_TOPICS, 7, request)

    ask("plain")
    ask("defaults", count=-1, replicas=-1)
    ask("there already", "t")
    ask("three replicas", replicas=3)
    for name in ("bad name", "", ".", "x" * 250, "__cluster_metadata", "__fine"):
        ask(f"name {name[:20]!r}", name)
    for count in (0, -2):
        ask(f"{count} partitions", count=count)
        ask(f"{count} replicas", replicas=count)
    wrong: list[list[tuple[int, list[int]]]] = [
        [(0, [1])],
        [(1, [1])],
        [(0, [1]), (0, [1])],
        [(0, [9])],
        [(0, [1, 1])],
        [(0, [])],
    ]
    for assignments in wrong:
        ask(f"assignment {assignments}", count=-1, replicas=-1, assignments=assignments)
    ask("assignment and count", replicas=-1, assignments=[(0, [1])])
    for key, value in (
        ("retention.ms", "x"),
        ("retention.ms", "-5"),
        ("retention.ms", None),
        ("retention.bytes", "-7"),
        ("compression.type", "foo"),
        ("cleanup.policy", "compact,delete"),
        ("cleanup.policy", "compact,foo"),
        ("cleanup.policy", ""),
        ("min.cleanable.dirty.ratio", "2"),
        ("preallocate", "TRUE"),
        ("preallocate", "maybe"),
        ("compression.gzip.level", "0"),
        ("max.message.bytes", "3000000000"),
        ("segment.bytes", "100"),
        ("remote.storage.enable", "true"),
        ("message.format.version", "2.0"),
        ("message.downconversion.enable", "true"),
        ("nope", "1"),
    ):
        ask(f"{key}={value}", configs={key: value})


SCENES = {
    "new": new_clients,
    "epochs": epochs,
    "old": old_clients,
    "offsets": offsets,
    "take over": take_over,
    "time-out": time_outs,
    "create": create,
}


def answers_of(broker: Broker) -> dict[str, object]:
    with broker:
        broker.start()
        prepare(broker, {"t": 2})
        notes = Notes(broker.port)
        warm = notes.connect()
        request = FindCoordinatorRequest(key_type=1, coordinator_keys=["warm"])
        for _ in range(TRIES_MAX):
            if warm.call(Api.FIND_COORDINATOR, 4, request).coordinators[0].error_code == 0:
                break
            time.sleep(0.1)
        for title, scene in SCENES.items():
            scene(Scene(notes, title))
        notes.close()
        return notes.answers


def main() -> int:
    return compare(answers_of, Trivium, ApacheKafka, DELIBERATE)


if __name__ == "__main__":
    sys.exit(main())
