"""The load of the crash runner: real clients in threads that live through the broker's deaths and tell the ledger.

Every worker runs between `resume` and `ask_pause`; then it finishes what it has begun, whatever the broker's state, so
that the ledger knows each outcome that a client can know before the log is checked.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as PythonPartition
from kafka.errors import KafkaError as PythonKafkaError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from interop.crash.ledger import Found, Ledger

PARTITIONS = 4
PAUSE_TIMEOUT_S = 300.0
READ_TIMEOUT_S = 240.0
TRANSACTION_RECORDS = 5
GROUP = "crash-readers"
OFFSETS_GROUP = "crash-transactions"
# A consumer complains about every death of its broker; those are the point here.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

CLIENT = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    "socket.timeout.ms": 3_000,
    "broker.address.family": "v4",
    "log_level": 0,
    "logger": logging.getLogger("librdkafka"),
}
logging.getLogger("librdkafka").setLevel(logging.CRITICAL)


class WorkerError(Exception):
    """A worker cannot go on, or did not pause in time; the run has failed."""


class Worker(threading.Thread, ABC):
    """A thread that repeats `work` while running, and `settle`s before it is paused."""

    def __init__(self, name: str, bootstrap: str, ledger: Ledger) -> None:
        super().__init__(name=name, daemon=True)
        self.bootstrap = bootstrap
        self.ledger = ledger
        self.topic = ""
        self.failure: BaseException | None = None
        self._running = threading.Event()
        self._paused = threading.Event()
        self._paused.set()
        self.ending = False

    def resume(self, topic: str) -> None:
        self.topic = topic
        self._paused.clear()
        self._running.set()

    def ask_pause(self) -> None:
        self._running.clear()

    def wait_paused(self) -> None:
        """Raises WorkerError if the worker has failed or does not come to rest."""
        deadline = time.monotonic() + PAUSE_TIMEOUT_S
        while not self._paused.wait(0.1):
            if not self.is_alive() or time.monotonic() > deadline:
                break
        if self.failure is not None:
            raise WorkerError(f"{self.name}: {type(self.failure).__name__}: {self.failure}") from self.failure
        if not self._paused.is_set():
            frame = sys._current_frames().get(self.ident or 0)
            where = "".join(traceback.format_stack(frame, 12)) if frame else ""
            raise WorkerError(f"{self.name} did not come to rest in {PAUSE_TIMEOUT_S:.0f} s; it is at\n{where}")

    def run(self) -> None:
        try:
            while not self.ending:
                # Also when the pause was asked for before this thread had seen that it should run.
                if self._running.wait(0.05) or not self._paused.is_set():
                    self.work()
                    if not self._running.is_set():
                        self.settle()
                        self._paused.set()
        except BaseException as error:
            self.failure = error

    @abstractmethod
    def work(self) -> None: ...

    def settle(self) -> None:
        """Brings everything begun to its end."""


class IdempotentProducer(Worker):
    """librdkafka, idempotent, five requests in flight, one producer id for the whole run."""

    def __init__(self, name: str, bootstrap: str, ledger: Ledger) -> None:
        super().__init__(name, bootstrap, ledger)
        self._number = 0
        settings = {"enable.idempotence": True, "linger.ms": 1, "batch.num.messages": 20, "message.timeout.ms": 300_000}
        self._client = Producer({**CLIENT, **settings, "bootstrap.servers": bootstrap})

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.ledger.violate(f"{self.name} lost {message.value()!r}: {error}")
        else:
            place = (message.topic(), message.partition(), message.offset())
            self.ledger.acknowledge(place, message.value().decode())

    def work(self) -> None:
        for _ in range(20):
            key = f"{self.name}-{self._number % 7}"
            value = f"{self.name}:{self._number}"
            self._client.produce(self.topic, value, key, self._number % 7 % PARTITIONS, on_delivery=self._delivered)
            self._number += 1
        self._client.poll(0.005)
        # Bounded: a dead broker must not let the queue grow without end.
        while len(self._client) > 2000:
            self._client.poll(0.05)

    def settle(self) -> None:
        if self._client.flush(PAUSE_TIMEOUT_S - 5):
            raise WorkerError(
                f"{len(self._client)} records not delivered {PAUSE_TIMEOUT_S - 5:.0f} s after the restart"
            )


class TransactionalProducer(Worker):
    """librdkafka, each transaction with records in all partitions and a group's offset; every fifth is aborted.

    Without re-bootstrapping: send_offsets_to_transaction waits for ever for a coordinator that it took out of use then,
    see FINDINGS.
    """

    def __init__(self, name: str, bootstrap: str, ledger: Ledger) -> None:
        super().__init__(name, bootstrap, ledger)
        self.number = 0
        self._settings = {**CLIENT, "bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 0}
        self._settings |= {"transaction.timeout.ms": 10_000, "metadata.recovery.strategy": "none"}
        self._client: Producer | None = None
        # Never subscribed: only who could be asked for the group's metadata.
        self._group = Consumer({**CLIENT, "bootstrap.servers": bootstrap, "group.id": OFFSETS_GROUP})

    def _until_answered(self, call: Any) -> None:
        """Repeats a call of the transaction API while the error says so. Raises KafkaException for all else."""
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise

    def _begin(self) -> Producer:
        if self._client is None:
            client = Producer(self._settings)
            self._until_answered(lambda: client.init_transactions(5))
            self._client = client
        self._client.begin_transaction()
        return self._client

    def _told(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.ledger.acknowledge((message.topic(), message.partition(), message.offset()), message.value().decode())

    def work(self) -> None:
        number, self.number = self.number, self.number + 1
        self.ledger.transaction(self.name, number, None)
        committed: bool | None = None
        try:
            client = self._begin()
            try:
                committed = self._transaction(client, number)
            except KafkaException as error:
                if not error.args[0].txn_requires_abort():
                    raise
                self._until_answered(lambda: client.abort_transaction(5))
                committed = False
        except KafkaException:
            # Fenced or otherwise fatal: a new instance takes over and finds out by init_transactions.
            self._client = None
        self.ledger.transaction(self.name, number, committed)

    def _transaction(self, client: Producer, number: int) -> bool:
        for index in range(TRANSACTION_RECORDS):
            value = f"{self.name}:{number}:{index}:{TRANSACTION_RECORDS}"
            client.produce(self.topic, value, self.name, index % PARTITIONS, on_delivery=self._told)
        offsets = [TopicPartition(self.topic, int(self.name[-1]), number + 1)]
        metadata = self._group.consumer_group_metadata()
        self._until_answered(lambda: client.send_offsets_to_transaction(offsets, metadata, 5))
        if number % 5 == 4:
            client.flush(1)
            self._until_answered(lambda: client.abort_transaction(5))
            return False
        self._until_answered(lambda: client.commit_transaction(5))
        return True

    def settle(self) -> None:
        if self._client is None:
            client = Producer(self._settings)
            self._until_answered(lambda: client.init_transactions(5))
            self._client = client


class OffsetTransactions(Worker):
    """kafka-python, each transaction with records in all partitions and a group's offset; every fifth is aborted."""

    def __init__(self, name: str, bootstrap: str, ledger: Ledger) -> None:
        super().__init__(name, bootstrap, ledger)
        self.number = 0
        self._client: Any = None

    def _open(self) -> Any:
        """A producer whose init_transactions has settled what the one before it left. Raises KafkaError."""
        if self._client is None:
            client = KafkaProducer(
                bootstrap_servers=self.bootstrap,
                transactional_id=self.name,
                transaction_timeout_ms=10_000,
                max_block_ms=5_000,
                request_timeout_ms=5_000,
                delivery_timeout_ms=10_000,
                reconnect_backoff_ms=20,
                reconnect_backoff_max_ms=100,
                retry_backoff_ms=20,
            )
            try:
                client.init_transactions()
            except Exception:
                client.close(timeout=0.5)
                raise
            self._client = client
        return self._client

    def work(self) -> None:
        number, self.number = self.number, self.number + 1
        self.ledger.transaction(self.name, number, None)
        try:
            client = self._open()
            client.begin_transaction()
            for index in range(TRANSACTION_RECORDS):
                value = f"{self.name}:{number}:{index}:{TRANSACTION_RECORDS}"
                client.send(self.topic, value.encode(), self.name.encode(), partition=index % PARTITIONS)
            place = PythonPartition(self.topic, int(self.name[-1]))
            offsets = {place: OffsetAndMetadata(number + 1, "", -1)}
            client.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(OFFSETS_GROUP, -1, "", None))
            if number % 5 == 4:
                client.abort_transaction()
            else:
                client.commit_transaction()
            self.ledger.transaction(self.name, number, number % 5 != 4)
        except (PythonKafkaError, OSError, AssertionError):
            client, self._client = self._client, None
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close(timeout=0.2)

    def settle(self) -> None:
        deadline = time.monotonic() + READ_TIMEOUT_S
        while True:
            with contextlib.suppress(PythonKafkaError, OSError):
                self._open()
                return
            if time.monotonic() > deadline:
                raise WorkerError(f"no init_transactions for {READ_TIMEOUT_S:.0f} s")


class GroupReader(Worker):
    """kafka-python as a group member: what it saw and what it committed goes to the ledger."""

    def __init__(self, name: str, bootstrap: str, ledger: Ledger) -> None:
        super().__init__(name, bootstrap, ledger)
        self._client: Any = None
        self._reading = ""
        self._polled = False

    def _open(self) -> Any:
        client = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=f"{GROUP}-{self.topic}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6_000,
            heartbeat_interval_ms=500,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=100,
            retry_backoff_ms=20,
            request_timeout_ms=5_000,
        )
        client.subscribe([self.topic])
        self._reading = self.topic
        return client

    def work(self) -> None:
        try:
            if self._client is None or self._reading != self.topic:
                self.close()
                self._client = self._open()
            # Long enough for a join to end in it: kafka-python may forget one that does not, see FINDINGS.
            batches = self._client.poll(timeout_ms=1000)
            self._polled = bool(batches)
            for place, records in batches.items():
                for record in records:
                    self.ledger.see((record.topic, record.partition, record.offset), record.value.decode())
                self.ledger.commit_tried(place.topic, place.partition, records[-1].offset + 1)
            if batches:
                self._client.commit(timeout_ms=2_000)
                for place, records in batches.items():
                    self.ledger.commit_done(place.topic, place.partition, records[-1].offset + 1)
        except (PythonKafkaError, OSError):
            # The client finds its way back with the same member id; what it polled and could not commit comes again.
            self._polled = False

    def close(self) -> None:
        """Drops the client when the topic changes."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(autocommit=False, timeout_ms=500)

    def settle(self) -> None:
        """Goes on until it has read something since the restart, so that it was back in its group."""
        deadline = time.monotonic() + READ_TIMEOUT_S
        while not self._polled:
            if time.monotonic() > deadline:
                raise WorkerError(f"nothing read for {READ_TIMEOUT_S:.0f} s")
            self.work()


def read_messages(bootstrap: str, topic: str, isolation: str, timeout_s: float = 300.0) -> list[Any]:
    """librdkafka's messages from the start of each partition up to its end (last stable offset) as it is now."""
    settings = {"group.id": "crash-check", "enable.auto.commit": False, "auto.offset.reset": "error"}
    client = Consumer(
        {
            **CLIENT,
            **settings,
            "bootstrap.servers": bootstrap,
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }
    )
    found: list[Any] = []
    try:
        client.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        ended: set[int] = set()
        deadline = time.monotonic() + timeout_s
        while len(ended) < PARTITIONS:
            if time.monotonic() > deadline:
                raise WorkerError(f"{topic} could not be read in {timeout_s:.0f} s: {len(found)} records")
            for message in client.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                    raise WorkerError(f"reading {topic}: {error}")
    finally:
        client.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


def read_all(bootstrap: str, topic: str, isolation: str, timeout_s: float = 300.0) -> list[Found]:
    """`read_messages` as the ledger wants them, by partition."""
    return [
        Found(topic, one.partition(), one.offset(), (one.key() or b"").decode(), one.value().decode())
        for one in read_messages(bootstrap, topic, isolation, timeout_s)
    ]
