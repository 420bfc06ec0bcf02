"""What clients were told, and the checks of a log against it. No I/O here.

Plain records carry `producer:number`; numbers of one producer to one partition only grow. A transaction's records carry
`producer:transaction:index:count`. A ledger is filled by many threads; each method takes the lock once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass

Place = tuple[str, int, int]  # topic, partition, offset

VIOLATIONS_MAX = 50


@dataclass(frozen=True)
class Found:
    """One record as read back."""

    topic: str
    partition: int
    offset: int
    key: str
    value: str

    @property
    def place(self) -> Place:
        return (self.topic, self.partition, self.offset)


class Ledger:
    """Acknowledged and seen records by place, outcomes of transactions, commits of offsets."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: dict[Place, str] = {}
        self._seen: dict[Place, str] = {}
        self._outcomes: dict[tuple[str, int], bool | None] = {}
        self._commits_tried: dict[tuple[str, int], int] = defaultdict(lambda: -1)
        self._commits_done: dict[tuple[str, int], int] = defaultdict(lambda: -1)
        self.violations: list[str] = []

    def counts(self) -> dict[str, int]:
        with self._lock:
            committed = sum(outcome is True for outcome in self._outcomes.values())
            return {
                "acknowledged": len(self._acknowledged),
                "seen": len(self._seen),
                "transactions committed": committed,
            }

    def violate(self, what: str) -> None:
        """Notes that a promise was broken."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)

    def acknowledge(self, place: Place, value: str) -> None:
        with self._lock:
            other = self._acknowledged.setdefault(place, value)
        if other != value:
            self.violate(f"offset given twice: {place} was acknowledged for {other} and for {value}")

    def see(self, place: Place, value: str) -> None:
        with self._lock:
            other = self._seen.setdefault(place, value)
        if other != value:
            self.violate(f"consumer saw {other} at {place}, and later {value}")

    def transaction(self, producer: str, number: int, committed: bool | None) -> None:
        """The outcome the client was told; None while (or for ever when) it does not know."""
        with self._lock:
            self._outcomes[producer, number] = committed

    def commit_tried(self, topic: str, partition: int, offset: int) -> None:
        with self._lock:
            self._commits_tried[topic, partition] = max(offset, self._commits_tried[topic, partition])

    def commit_done(self, topic: str, partition: int, offset: int) -> None:
        with self._lock:
            self._commits_done[topic, partition] = max(offset, self._commits_done[topic, partition])

    def check_commits(self, committed: dict[tuple[str, int], int]) -> None:
        """`committed` is what the broker has for the consumer's group, absent partitions left out."""
        with self._lock:
            wanted = dict(self._commits_done)
            tried = dict(self._commits_tried)
        for place, offset in wanted.items():
            found = committed.get(place, -1)
            if not offset <= found <= tried[place]:
                self.violate(f"group offset of {place} is {found}; acknowledged {offset}, last tried {tried[place]}")

    def check_plain(self, topic: str, records: list[Found]) -> None:
        """Every record of an idempotent topic, read from its start."""
        self.check_places(topic, records)
        by_partition: dict[int, list[Found]] = defaultdict(list)
        for record in records:
            by_partition[record.partition].append(record)
        for partition, found in by_partition.items():
            for index, record in enumerate(found):
                if record.offset != index:
                    self.violate(f"{topic}-{partition}: offset {record.offset} where {index} was due")
                    break
        latest: dict[tuple[str, str], int] = {}
        for record in records:
            producer, _, text = record.value.partition(":")
            before = latest.get((producer, record.key), -1)
            if int(text) <= before:
                self.violate(f"{record.place}: {record.value} of key {record.key} after number {before}")
            latest[producer, record.key] = int(text)

    def check_transactions(self, topic: str, every: list[Found], committed: list[Found]) -> None:
        """A transactional topic read in both isolation levels, from its start, while no transaction is open."""
        self.check_places(topic, every)
        for records in (every, committed):
            last: dict[int, int] = {}
            for record in records:
                if record.offset <= last.get(record.partition, -1):
                    self.violate(f"{record.place} came after offset {last[record.partition]}")
                last[record.partition] = record.offset
        parts: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for record in committed:
            producer, transaction, index, count = record.value.split(":")
            parts[producer, int(transaction)].append((int(index), int(count)))
        for (producer, number), found in parts.items():
            if sorted(index for index, _ in found) != list(range(found[0][1])):
                self.violate(f"{topic}: transaction {producer}:{number} is shown in part: {sorted(found)}")
        with self._lock:
            outcomes = dict(self._outcomes)
        for name, outcome in outcomes.items():
            if outcome is not None and outcome != (name in parts):
                told, shown = ("committed" if outcome else "aborted"), ("shown" if name in parts else "not shown")
                self.violate(f"{topic}: transaction {name[0]}:{name[1]} was {told} and is {shown}")

    def check_places(self, topic: str, records: list[Found]) -> None:
        """What was acknowledged, or seen, at a place is there."""
        found = {record.place: record.value for record in records}
        with self._lock:
            known = (("acknowledged", dict(self._acknowledged)), ("seen", dict(self._seen)))
        for what, places in known:
            for place, value in places.items():
                if place[0] == topic and found.get(place) != value:
                    self.violate(f"{what} {value} at {place}; found there: {found.get(place)}")

    def forget(self) -> None:
        """Starts anew, for new topics; what was violated stays."""
        with self._lock:
            self._acknowledged.clear()
            self._seen.clear()
            self._outcomes.clear()
            self._commits_tried.clear()
            self._commits_done.clear()
