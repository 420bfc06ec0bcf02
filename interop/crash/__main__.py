"""Kills the broker again and again under real load and checks what is left: `python -m interop.crash --rounds N`.

A round: load for a random time, kill -9, restart on the same data directory and port (now and then killed again while
it recovers), load again for a moment so that every client settles what it had begun, then with all clients at rest the
whole log is read back and held against the ledger. Every GENERATION_ROUNDS the topics are replaced, which bounds what a
round reads.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from interop import setup
from interop.brokers import ApacheKafka, Broker, BrokerError, Trivium
from interop.crash.ledger import Ledger
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
    WorkerError,
    read_all,
)
from interop.places import scratch_root

GENERATION_ROUNDS = 20
LOAD_S_MAX = 1.5


class Run:
    """One broker, its workers and the ledger over many rounds."""

    def __init__(self, broker: Broker, seed: int) -> None:
        self.broker = broker
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.generation = -1
        self.kills = 0
        self.admin = self._new_admin()
        at, ledger = broker.bootstrap, self.ledger
        self.transactional: list[Worker] = [
            TransactionalProducer("transactions-0", at, ledger),
            TransactionalProducer("transactions-1", at, ledger),
            OffsetTransactions("offsets-2", at, ledger),
        ]
        self.plain: list[Worker] = [IdempotentProducer(f"plain-{number}", at, ledger) for number in range(2)]
        self.plain.append(GroupReader("reader", at, ledger))
        self.workers: list[Worker] = [*self.plain, *self.transactional]
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
        """New topics, the old ones deleted; only while all workers rest."""
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

    def pause(self) -> None:
        for worker in self.workers:
            worker.ask_pause()
        for worker in self.workers:
            worker.wait_paused()

    def round(self) -> None:
        """Load, kill, restart, settle, check. Raises BrokerError or WorkerError where it cannot go on."""
        self.resume()
        time.sleep(self.random.uniform(0.05, LOAD_S_MAX))
        self.broker.check()
        self.kill()
        if self.random.random() < 0.2:
            self.broker.start_unready()
            time.sleep(self.random.uniform(0.0, 0.6))
            self.kill()
        self.broker.start()
        self.admin = self._new_admin()
        time.sleep(self.random.uniform(0.0, 0.2))
        self.pause()
        self.check()

    def kill(self) -> None:
        self.kills += 1
        self.broker.kill()

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

    def end(self) -> None:
        for worker in self.workers:
            worker.ending = True


def _report(run: Run, rounds: int, began: float) -> None:
    counts = ", ".join(f"{count} {what}" for what, count in run.ledger.counts().items())
    print(f"round {rounds}: {run.kills} kills, ready in {run.broker.ready_s:.2f} s, {counts}", end="")
    print(f", {time.monotonic() - began:.0f} s", flush=True)


def crash(broker: Broker, rounds: int, seed: int) -> list[str]:
    """Runs `rounds` rounds and returns what was violated, at the first round that violates anything."""
    began = time.monotonic()
    broker.start()
    run = Run(broker, seed)
    try:
        for number in range(rounds):
            if number % GENERATION_ROUNDS == 0:
                run.new_generation()
            run.round()
            _report(run, number + 1, began)
            if run.ledger.violations:
                break
    except (BrokerError, WorkerError, KafkaException, TimeoutError) as error:
        run.ledger.violate(f"{type(error).__name__}: {error}")
    finally:
        run.end()
    return run.ledger.violations


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--flush", choices=("sync", "async"), default="sync")
    parser.add_argument("--broker", choices=("trivium", "kafka"), default="trivium")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 31)
    print(f"seed {seed}")
    scratch_root().mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=scratch_root()))
    broker: Broker = Trivium(directory, flush=options.flush, config="[groups]\ninitial_rebalance_delay_ms = 0\n")
    if options.broker == "kafka":
        setup.kafka()
        broker = ApacheKafka(directory, settings={"group.initial.rebalance.delay.ms": "0"})
    violations = crash(broker, options.rounds, seed)
    broker.kill()
    for violation in violations:
        print(f"VIOLATED {violation}")
    if violations:
        print(f"seed {seed}; the data directory is kept: {directory}")
        print(broker.log_tail())
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print(f"{options.rounds} rounds: everything acknowledged is where it was acknowledged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
