"""Asks Apache Kafka and Trivium the same questions about records and prints where the answers differ:
`python -m interop.compare_records`. Exit code 1 when they differ in more than DELIBERATE.

Produce, Fetch, ListOffsets, OffsetForLeaderEpoch and DeleteRecords, in every version that both serve: what is granted,
and above all what is refused. Offsets are told as given or not, leader epochs as the broker's or not.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any

import google_crc32c

from gateway.protocols.kafka.api_versions import ApiKey as Api
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.messages import (
    DeleteRecordsRequest,
    FetchRequest,
    IncrementalAlterConfigsRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetForLeaderEpochRequest,
    ProduceRequest,
)
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.compare_wire import Notes, compare, prepare
from trivium.records import Record, build

TOPICS = {"t": 2, "f": 2, "cut": 1, "compact": 1, "stamped": 1, "empty": 1, "gone": 1, "alter": 1}
NO_ID, STRANGE_ID = bytes(16), b"n" * 16
VERSIONS_MAX = 20
NOW_MS = int(time.time() * 1000)
DELIBERATE = {
    # The same partition twice in one request: both are answered; Kafka keeps one.
    "fetch: a partition twice",
    "delete records: a partition twice",
    # Errors that say what is wrong, where Kafka's is an unknown server error or none of its own.
    "produce: an unknown codec",
    "produce: an unknown magic",
    # What was stored first is not looked up for its timestamp.
    "produce: the same sequence again",
    # Batches that no client sends; Kafka rewrites them.
    "produce: log append time claimed",
    "produce: a producer id without an epoch",
    # Topics and partitions that name nothing are answered as they came.
    "produce: no partitions",
    "delete records: no partitions",
    # Negative limits count as 0, a batch is never cut.
    "fetch: negative limit",
    "fetch: negative partition limit",
    "fetch: a limit inside the second batch",
    # Null and empty lists of aborted transactions mean the same.
    "fetch: a partition that is not there",
    "fetch: a topic that is not there",
    "fetch: an unknown isolation level",
    # A partition that was never written to has no leader epochs yet.
    "offsets: an empty partition's start",
    "epoch end: an empty partition",
}


class Scene:
    """Questions to one broker; `ids` are those of TOPICS."""

    def __init__(self, notes: Notes, ids: dict[str, bytes]) -> None:
        self.ids = ids
        self.notes = notes
        self.connection = notes.connect()
        for name, topic_id in ids.items():
            notes.alias(topic_id, f"id of {name}")
        wanted = MetadataRequest(topics=[MetadataRequest.MetadataRequestTopic(name="t")])
        answer = self.connection.call(Api.METADATA, 12, wanted)
        notes.alias(answer.cluster_id, "the cluster")
        self.epoch: int = answer.topics[0].partitions[0].leader_epoch

    def ask(self, api: Api, version: int, question: str, message: Message) -> Any:
        try:
            answer = self.connection.call(api, version, message)
        except (EOFError, OSError) as error:
            self.connection = self.notes.connect()
            self.notes.note(f"{question} (v{version})", type(error).__name__)
            return None
        self.notes.note(f"{question} (v{version})", self._comparable(answer))
        return answer

    def _comparable(self, value: Any) -> Any:
        """Without what every broker has its own of."""
        if isinstance(value, list):
            return [self._comparable(one) for one in value]
        if not isinstance(value, Message):
            return value
        for name in type(value).__slots__:
            field = getattr(value, name)
            if name in ("leader_epoch", "epoch") and field == self.epoch:
                setattr(value, name, "the broker's")
            elif name in ("base_offset", "log_append_time_ms", "producer_id"):
                setattr(value, name, "given" if field >= 0 else field)
            elif name == "records" and field is not None:
                setattr(value, name, sum(map(len, field)) if isinstance(field, list) else len(field))
            elif name in ("host", "port", "configs", "record_errors") or (name == "log_start_offset" and field <= 0):
                setattr(value, name, None)
            else:
                setattr(value, name, self._comparable(field))
        return value


def batch(*values: bytes, key: bytes | None = b"k", timestamp_ms: int = NOW_MS) -> bytes:
    return build([Record(index, timestamp_ms, key, value, []) for index, value in enumerate(values)])


def patched(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    """The batch with (place, struct format, value) written over it, and its checksum made anew."""
    changed = bytearray(data)
    for at, form, value in changes:
        struct.pack_into(form, changed, at, value)
    struct.pack_into(">I", changed, 17, google_crc32c.value(bytes(changed[21:])))
    return bytes(changed)


def of_producer(data: bytes, producer_id: int, epoch: int, sequence: int) -> bytes:
    return patched(data, (43, ">q", producer_id), (51, ">h", epoch), (53, ">i", sequence))


def produce(s: Scene) -> None:
    good = batch(b"a", b"b")
    torn = good[:-1] + bytes((good[-1] ^ 1,))
    for version in range(3, 14):

        def send(
            question: str, *parts: tuple[int, bytes | None], name: str = "t", acks: int = -1, v: int = version
        ) -> None:
            rows = [ProduceRequest.PartitionProduceData(index=index, records=records) for index, records in parts]  # type: ignore[arg-type]
            topic = ProduceRequest.TopicProduceData(
                name=name, topic_id=s.ids.get(name, STRANGE_ID), partition_data=rows
            )
            message = ProduceRequest(acks=acks, timeout_ms=5000, topic_data=[topic])
            s.ask(Api.PRODUCE, v, f"produce: {question}", message)

        send("a batch", (0, good))
        send("acks=1", (0, good), acks=1)
        send("acks=2", (0, good), acks=2)
        send("acks=-2 and a partition that is not there", (9, good), acks=-2)
        send("a partition that is not there", (9, good))
        send("a negative partition", (-1, good))
        send("a topic that is not there", (0, good), name="nope")
        send("a name that no topic can have", (0, good), name="b/d")
        send("no partitions")
        send("a partition twice", (0, good), (0, good))
        send("empty", (0, b""))
        send("shorter than a header", (0, good[:20]))
        send("cut", (0, good[:-3]))
        send("torn", (0, torn))
        send("two batches", (0, good + good))
        send("an unknown magic", (0, patched(good, (16, ">b", 3))))
        send("base offset 5", (0, patched(good, (0, ">q", 5))))
        for count in (-1, 0, 1, 3):
            send(f"count {count}", (0, patched(good, (57, ">i", count))))
        for delta in (-1, 7):
            send(f"last offset delta {delta}", (0, patched(good, (23, ">i", delta))))
        send("a control batch", (0, patched(good, (21, ">h", 0x20))))
        send("log append time claimed", (0, patched(good, (21, ">h", 0x08))))
        send("an unknown codec", (0, patched(good, (21, ">h", 7))))
        producer = 770_000 + version
        send("a strange producer in the middle", (0, of_producer(good, producer, 0, 5)))
        producer += 1000
        send("a producer's first", (0, of_producer(good, producer, 0, 0)))
        send("the same sequence again", (0, of_producer(good, producer, 0, 0)))
        send("a gap in the sequence", (0, of_producer(good, producer, 0, 9)))
        send("a producer id without an epoch", (0, of_producer(good, producer, -1, 2)))
        send("a new epoch in the middle", (0, of_producer(good, producer, 2, 3)))
        send("a new epoch", (0, of_producer(good, producer, 3, 0)))
        send("an epoch that is over", (0, of_producer(good, producer, 1, 0)))
        send("a producer id without a sequence", (0, of_producer(good, producer, 0, -1)))
        send("too large", (0, batch(bytes(1_100_000))))
        send("a timestamp too far ahead", (0, batch(b"x", timestamp_ms=4_000_000_000_000)))
        send("no timestamp", (0, batch(b"x", timestamp_ms=-1)))
        send("no key in a compacted topic", (0, batch(b"x", key=None)), name="compact")
        send("a key in a compacted topic", (0, good), name="compact")
        send("a topic with log append time", (0, good), name="stamped")


def fetch(s: Scene) -> None:
    for version in range(4, 19):

        def read(
            question: str,
            *places: tuple[int, int],
            name: str = "f",
            limit: int = 1 << 20,
            part_limit: int = 1 << 20,
            epoch: int = -1,
            last_epoch: int = -1,
            v: int = version,
            **fields: Any,
        ) -> None:
            rows = [
                FetchRequest.FetchPartition(
                    partition=index,
                    fetch_offset=offset,
                    partition_max_bytes=part_limit,
                    current_leader_epoch=epoch,
                    last_fetched_epoch=last_epoch,
                )
                for index, offset in places
            ]
            topic = FetchRequest.FetchTopic(topic=name, topic_id=s.ids.get(name, STRANGE_ID), partitions=rows)
            message = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=limit, topics=[topic], **fields)
            s.ask(Api.FETCH, v, f"fetch: {question}", message)

        for offset in (0, 1, 6, 7, -1, -2):
            read(f"from {offset}", (0, offset))
        read("a partition that is not there", (9, 0), (0, 0))
        read("a topic that is not there", (0, 0), name="nope")
        read("a partition twice", (0, 0), (0, 1))
        read("limit 0", (0, 0), (1, 0), limit=0)
        read("negative limit", (0, 0), limit=-1)
        read("partition limit 0", (0, 0), (1, 0), part_limit=0)
        read("partition limit 1", (0, 0), (1, 0), part_limit=1)
        read("negative partition limit", (0, 0), part_limit=-1)
        read("a limit inside the second batch", (0, 0), (1, 0), part_limit=80)
        read("the leader's epoch", (0, 0), epoch=s.epoch)
        read("a newer epoch", (0, 0), epoch=s.epoch + 1)
        read("the last epoch read", (0, 1), epoch=s.epoch, last_epoch=s.epoch)
        read("the last epoch read, behind the end", (0, 9), epoch=s.epoch, last_epoch=s.epoch)
        read("a last epoch that is newer", (0, 1), epoch=s.epoch, last_epoch=s.epoch + 1)
        read("committed", (0, 0), (1, 0), isolation_level=1)
        read("an unknown isolation level", (0, 0), isolation_level=2)
        if version >= 7:
            read("a session that is not there", (0, 0), session_id=123, session_epoch=1)
            read("the end of a session that is not there", (0, 0), session_id=99, session_epoch=-1)
            read("a negative session epoch", (0, 0), session_epoch=-2)


def offsets(s: Scene) -> None:
    for version in range(1, 12):

        def look(
            question: str,
            *places: tuple[int, int],
            name: str = "f",
            epoch: int = -1,
            isolation_level: int = 0,
            v: int = version,
        ) -> None:
            rows = [
                ListOffsetsRequest.ListOffsetsPartition(partition_index=i, timestamp=at, current_leader_epoch=epoch)
                for i, at in places
            ]
            topics = [ListOffsetsRequest.ListOffsetsTopic(name=name, partitions=rows)]
            message = ListOffsetsRequest(replica_id=-1, isolation_level=isolation_level, topics=topics)
            s.ask(Api.LIST_OFFSETS, v, f"offsets: {question}", message)

        for at in (*range(-7, 1), NOW_MS, NOW_MS + 1):
            look(f"at {at if at <= 0 else at - NOW_MS + 1}", (0, at), (1, at), (9, at))
        look("committed", (0, -1), isolation_level=1)
        look("an unknown isolation level", (0, -1), isolation_level=5)
        look("a topic that is not there", (0, -1), name="nope")
        look("a newer epoch", (0, -1), epoch=s.epoch + 1)
        look("a partition twice", (0, -1), (0, -2))
        look("an empty partition's start", (0, -2), name="empty")
        look("an empty partition's end", (0, -1), name="empty")


def epochs(s: Scene) -> None:
    for version in range(2, 5):
        for question, name, index, current, epoch in (
            ("the leader's", "f", 0, s.epoch, s.epoch),
            ("one that is newer", "f", 0, -1, s.epoch + 1),
            ("none", "f", 0, -1, -1),
            ("a leader's epoch that is newer", "f", 0, s.epoch + 1, s.epoch),
            ("a partition that is not there", "f", 9, -1, s.epoch),
            ("an empty partition", "empty", 0, -1, s.epoch),
        ):
            row = OffsetForLeaderEpochRequest.OffsetForLeaderPartition(
                partition=index, current_leader_epoch=current, leader_epoch=epoch
            )
            topics = [OffsetForLeaderEpochRequest.OffsetForLeaderTopic(topic=name, partitions=[row])]
            message = OffsetForLeaderEpochRequest(replica_id=-1, topics=topics)
            s.ask(Api.OFFSET_FOR_LEADER_EPOCH, version, f"epoch end: {question}", message)


def records(s: Scene) -> None:
    for version in range(3):
        for question, name, places in (
            ("one", "cut", [(0, 1 + version)]),
            ("what is gone", "cut", [(0, 1)]),
            ("more than there is", "cut", [(0, 100)]),
            ("a negative offset", "cut", [(0, -2)]),
            ("a partition that is not there", "cut", [(9, 1), (0, 1)]),
            ("a topic that is not there", "nope", [(0, 1)]),
            ("of a compacted topic", "compact", [(0, 1)]),
            ("no partitions", "cut", []),
            ("a partition twice", "cut", [(0, 1), (0, 2)]),
        ):
            rows = [DeleteRecordsRequest.DeleteRecordsPartition(partition_index=i, offset=at) for i, at in places]
            topics = [DeleteRecordsRequest.DeleteRecordsTopic(name=name, partitions=rows)]
            message = DeleteRecordsRequest(topics=topics, timeout_ms=5000)
            s.ask(Api.DELETE_RECORDS, version, f"delete records: {question}", message)


SCENES = [produce, fetch, offsets, epochs, records]


def fill(s: Scene) -> None:
    """Batches to read and to cut, and the topics that are not like the others."""
    for name, key, value in (
        ("compact", "cleanup.policy", "compact"),
        ("stamped", "message.timestamp.type", "LogAppendTime"),
    ):
        change = IncrementalAlterConfigsRequest.AlterableConfig(name=key, config_operation=0, value=value)
        resource = IncrementalAlterConfigsRequest.AlterConfigsResource(
            resource_type=2, resource_name=name, configs=[change]
        )
        request = IncrementalAlterConfigsRequest(resources=[resource])
        s.connection.call(Api.INCREMENTAL_ALTER_CONFIGS, 1, request)
    time.sleep(1)  # Kafka's brokers learn of it a little later
    for name, index in (("f", 0), ("f", 0), ("f", 0), ("f", 1), ("cut", 0), ("cut", 0), ("cut", 0)):
        row = ProduceRequest.PartitionProduceData(index=index, records=batch(b"a", b"b"))  # type: ignore[arg-type]
        topic = ProduceRequest.TopicProduceData(name=name, partition_data=[row])
        s.connection.call(Api.PRODUCE, 9, ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[topic]))


def answers_to(scenes: Sequence[Callable[[Scene], None]], broker: Broker) -> dict[str, object]:
    """What a new broker over TOPICS says."""
    with broker:
        broker.start()
        ids = prepare(broker, TOPICS)
        notes = Notes(broker.port)
        fill(Scene(notes, ids))
        for scene in scenes:
            scene(Scene(notes, ids))
        notes.close()
        return notes.answers


def compare_scenes(scenes: Sequence[Callable[[Scene], None]], deliberate: Set[str]) -> int:
    """As `compare`; `deliberate` are questions without their version."""
    known = {f"{question} (v{version})" for question in deliberate for version in range(VERSIONS_MAX)}
    return compare(partial(answers_to, scenes), Trivium, ApacheKafka, known)


if __name__ == "__main__":
    sys.exit(compare_scenes(SCENES, DELIBERATE))
