"""Who is measured: our broker and Apache Kafka, each with data safe on disk before it answers, and without."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from interop.brokers import ApacheKafka, Broker, Trivium
from interop.places import scratch_root

TOPICS_AT_ONCE = 200


@dataclass(frozen=True)
class Contender:
    """A broker in one setting; `topic_config` goes to every topic made for it."""

    name: str
    make: Callable[[Path], Broker]
    topic_config: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator[Broker]:
        """A started broker over a new data directory, which is deleted afterwards."""
        scratch_root().mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="figures-", dir=scratch_root()))
        with self.make(directory) as broker:
            yield broker.start()

    def create(self, broker: Broker, names: list[str], partitions: int) -> None:
        """Creates topics and waits until they are there."""
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, "broker.address.family": "v4"})
        for first in range(0, len(names), TOPICS_AT_ONCE):
            some = names[first : first + TOPICS_AT_ONCE]
            topics = [NewTopic(name, partitions, 1, config=self.topic_config) for name in some]
            for future in admin.create_topics(topics, operation_timeout=60, request_timeout=120).values():
                future.result(180)


TRIVIUM_SYNC = Contender("trivium sync", Trivium)
TRIVIUM_ASYNC = Contender("trivium async", lambda directory: Trivium(directory, flush="async"))
KAFKA = Contender("kafka", ApacheKafka)
KAFKA_SYNC = Contender("kafka flush.messages=1", ApacheKafka, {"flush.messages": "1"})
ALL = (KAFKA, KAFKA_SYNC, TRIVIUM_ASYNC, TRIVIUM_SYNC)
