"""Kills the broker again and again under real load and checks what is left: `python -m interop.crash --rounds N`.

A round: load for a random time, kill -9, restart on the same data directory and port (now and then killed again while
it recovers), load again for a moment so that every client settles what it had begun, then with all clients at rest the
whole log is read back and held against the ledger. Every generation of rounds has new topics, which bounds what a round
reads.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient, NewTopic

from interop import setup
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.crash.load import (
    CLIENT,
    GROUP,
    OFFSETS_GROUP,
    PARTITIONS,
    GroupReader,
    IdempotentProducer,
    OffsetTransactions,
    TransactionalProducer,
    Worker,
    read_all,
)
from interop.crash.rounds import Run, arguments, crash

LOAD_S_MAX = 1.5
RECOVERING_S_MAX = 0.6


class KafkaRun(Run):
    """Idempotent and transactional producers, a group reader."""

    generation_rounds = 20

    def __init__(self, broker: Broker, seed: int) -> None:
        super().__init__(broker, seed)
        self.generation = -1
        self.admin = self._new_admin()
        at, ledger = broker.bootstrap, self.ledger
        self.transactional: list[Worker] = [
            TransactionalProducer("transactions-0", at, ledger),
            TransactionalProducer("transactions-1", at, ledger),
            OffsetTransactions("offsets-2", at, ledger),
        ]
        self.plain: list[Worker] = [IdempotentProducer(f"plain-{number}", at, ledger) for number in range(2)]
        self.plain.append(GroupReader("reader", at, ledger))
        self.workers = [*self.plain, *self.transactional]
        for worker in self.workers:
            worker.start()

    @property
    def plain_topic(self) -> str:
        return f"crash-plain-{self.generation}"

    @property
    def transaction_topic(self) -> str:
        return f"crash-transactions-{self.generation}"

    def _new_admin(self) -> AdminClient:
        """One for each life of the broker: librdkafka's admin requests do not outlive their connection."""
        return AdminClient({**CLIENT, "bootstrap.servers": self.broker.bootstrap})

    def new_generation(self) -> None:
        if self.generation >= 0:
            for future in self.admin.delete_topics([self.plain_topic, self.transaction_topic]).values():
                future.result(20)
        self.generation += 1
        self.ledger.forget()
        topics = [NewTopic(name, PARTITIONS, 1) for name in (self.plain_topic, self.transaction_topic)]
        for future in self.admin.create_topics(topics).values():
            future.result(20)
        # Once without a kill: coordinators and groups exist, and a failure here is none of recovery's.
        self.resume()
        self.pause()
        self.check()

    def resume(self) -> None:
        for worker in self.plain:
            worker.resume(self.plain_topic)
        for worker in self.transactional:
            worker.resume(self.transaction_topic)

    def round(self) -> None:
        self.resume()
        time.sleep(self.random.uniform(0.05, LOAD_S_MAX))
        self.kill_and_restart(RECOVERING_S_MAX)
        self.admin = self._new_admin()
        time.sleep(self.random.uniform(0.0, 0.2))
        self.pause()
        self.check()

    def check(self) -> None:
        """The whole log against the ledger, all workers at rest."""
        at = self.broker.bootstrap
        self.ledger.check_plain(self.plain_topic, read_all(at, self.plain_topic, "read_uncommitted"))
        every = read_all(at, self.transaction_topic, "read_uncommitted")
        committed = read_all(at, self.transaction_topic, "read_committed")
        self.ledger.check_transactions(self.transaction_topic, every, committed)
        self.ledger.check_commits(self.committed(f"{GROUP}-{self.plain_topic}"))
        shown: dict[str, int] = {}
        for record in committed:
            producer, transaction = record.value.split(":")[:2]
            shown[producer] = max(int(transaction), shown.get(producer, -1))
        offsets = self.committed(OFFSETS_GROUP)
        for producer, number in shown.items():
            found = offsets.get((self.transaction_topic, int(producer[-1])), -1)
            if found != number + 1:
                self.ledger.violate(f"{producer}: offset {found} with transaction {number} shown last")

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The group's offsets as the broker has them, those without one left out."""
        request = [ConsumerGroupTopicPartitions(group)]
        answer = self.admin.list_consumer_group_offsets(request, request_timeout=20)[group].result(30)
        return {(part.topic, part.partition): part.offset for part in answer.topic_partitions if part.offset >= 0}

    def finish(self) -> None:
        """Each round has checked everything."""

    def counts(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.ledger.counts().items())


def main() -> int:
    parser = arguments((__doc__ or "").splitlines()[0], rounds=12)
    parser.add_argument("--broker", choices=("trivium", "kafka"), default="trivium")
    options = parser.parse_args()

    def new_broker(directory: Path) -> Broker:
        if options.broker == "kafka":
            setup.kafka()
            return ApacheKafka(directory, settings={"group.initial.rebalance.delay.ms": "0"})
        return Trivium(directory, flush=options.flush, config="[groups]\ninitial_rebalance_delay_ms = 0\n")

    return crash(options, new_broker, KafkaRun, "everything acknowledged is where it was acknowledged")


if __name__ == "__main__":
    sys.exit(main())
