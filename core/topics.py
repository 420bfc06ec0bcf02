"""Topics: names, ids, partitions and configuration (and the cluster's id), kept in the store's partition 0.

A change is one atomic append: the partitions made or deleted, and the record that says so. Changes happen one after
the other. A partition number is never used again, so the next free one is part of every record that takes some.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog
import trio

from core.errors import CoreError, CoreFailure
from core.state import Change, StateLog, raise_unless_appended
from core.store.engine import CreatePartition, DeletePartition, Engine, Entry, append
from core.topic_config import NO_DEFAULTS, TopicSettings, topic_settings

log = structlog.get_logger(__name__)

METADATA_PARTITION = 0
INTERNAL_PREFIX = "__trivium_"
NAME_CHARS_MAX = 249
PARTITIONS_PER_TOPIC_MAX = 10_000

_LEGAL_CHARS = re.compile(r"[A-Za-z0-9._-]+")
_NEXT_PARTITION_KEY = b"next-partition"
_CLUSTER_ID_KEY = b"cluster-id"


@dataclass(frozen=True, slots=True)
class Topic:
    """`id` is a UUID's 16 bytes; `partitions[i]` is the engine's number for partition i.

    `config` holds overrides only, as text; `settings` is what they and the broker's defaults come to.
    """

    name: str
    id: bytes
    partitions: tuple[int, ...]
    config: Mapping[str, str]
    settings: TopicSettings

    @property
    def internal(self) -> bool:
        """Whether the broker keeps its own state in it: clients neither see it listed nor write to it."""
        return self.name.startswith(INTERNAL_PREFIX)


def check_name(name: str) -> None:
    """Raises CoreFailure(INVALID_TOPIC), in Kafka's words, unless `name` is a legal Kafka topic name."""
    if not name:
        problem = "the empty string is not allowed"
    elif name in (".", ".."):
        problem = f"'{name}' is not allowed"
    elif len(name) > NAME_CHARS_MAX:
        problem = f"the length of '{name[:300]}' is longer than the max allowed length {NAME_CHARS_MAX}"
    elif not _LEGAL_CHARS.fullmatch(name):
        problem = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    else:
        return
    raise CoreFailure(CoreError.INVALID_TOPIC, f"Topic name is invalid: {problem}")


class Topics:
    """The table of topics. `defaults` are the broker's own values of topic configs, name -> text."""

    def __init__(
        self, engine: Engine, defaults: Mapping[str, str] = NO_DEFAULTS, *, partitions_max: int = 100_000
    ) -> None:
        self._engine = engine
        self._static_defaults = self._defaults = defaults
        self._partitions_max = partitions_max
        self._state = StateLog(engine, METADATA_PARTITION)
        self._by_name: dict[str, Topic] = {}
        self._by_id: dict[bytes, Topic] = {}
        self._by_metric_name: dict[str, set[str]] = {}
        self._owners: dict[int, tuple[Topic, int]] = {}
        self._next_partition = METADATA_PARTITION + 1
        self.cluster_id = ""  # 22 characters, made with the store
        self._changing = trio.Lock()
        self._listeners: list[Callable[[Topic], None]] = []

    async def load(self) -> None:
        """Folds the stored table; makes partition 0 in a new store."""
        if METADATA_PARTITION not in self._engine.partitions():
            raise_unless_appended(await append(self._engine, [CreatePartition(METADATA_PARTITION)]))
        self._engine.set_policy(METADATA_PARTITION, topic_settings({"cleanup.policy": "compact"}).policy)
        await self._state.load(self._apply)
        # should the disk have lost the latest record of it
        self._next_partition = max(self._next_partition, max(self._engine.partitions()) + 1)
        for topic in self._by_name.values():
            self._set_policies(topic)
        if not self.cluster_id:
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=")
            raise_unless_appended([await self._state.put([(_CLUSTER_ID_KEY, cluster_id)])])
            self.cluster_id = cluster_id.decode()

    @property
    def defaults(self) -> Mapping[str, str]:
        """The broker's own values of topic configs, with what was set while it ran."""
        return self._defaults

    def override_defaults(self, overrides: Mapping[str, str]) -> None:
        """Puts these above the broker's own values, for all topics from now on."""
        self._defaults = {**self._static_defaults, **overrides}
        for topic in list(self._by_name.values()):
            renewed = self._topic(topic.name, topic.id, topic.partitions, dict(topic.config))
            if renewed.settings != topic.settings:
                self._remember(renewed)
                self._set_policies(renewed)
                self._tell(renewed)

    def get(self, name: str) -> Topic | None:
        return self._by_name.get(name)

    def by_id(self, topic_id: bytes) -> Topic | None:
        return self._by_id.get(topic_id)

    def all(self) -> Iterable[Topic]:
        return self._by_name.values()

    def owner(self, partition: int) -> tuple[Topic, int] | None:
        """The topic and index that an engine partition belongs to."""
        return self._owners.get(partition)

    def on_change(self, listener: Callable[[Topic], None]) -> None:
        """Calls `listener` with every topic that is made, changed or deleted (then `get` no longer knows it)."""
        self._listeners.append(listener)

    def check_new(self, name: str, partitions: int) -> None:
        """Raises CoreFailure when such a topic cannot be made."""
        check_name(name)
        if name in self._by_name:
            raise CoreFailure(CoreError.TOPIC_EXISTS, f"Topic '{name}' already exists.")
        self._check_count(partitions, partitions)

    def collision(self, name: str) -> str | None:
        """Another topic whose name differs only in '.' and '_': Kafka's tools, which name metrics by topics, cannot
        tell them apart."""
        return min(self._by_metric_name.get(_metric_name(name), set()) - {name}, default=None)

    def check_growth(self, topic: Topic, total: int) -> None:
        """Raises CoreFailure when the topic cannot have `total` partitions."""
        more = total - len(topic.partitions)
        if more <= 0:
            raise CoreFailure(
                CoreError.INVALID_PARTITIONS,
                f"Topic {topic.name} has {len(topic.partitions)} partitions; {total} would not be an increase.",
            )
        self._check_count(total, more)

    async def create(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> Topic:
        """Makes a topic; durable when this returns. Raises CoreFailure."""
        async with self._changing:
            self.check_new(name, partitions)
            topic = self._topic(name, uuid.uuid4().bytes, self._take(partitions), dict(config or {}))
            await self._store(topic, [CreatePartition(number) for number in topic.partitions])
            log.info("topic created", topic=name, partitions=partitions)
            return topic

    async def ensure(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> Topic:
        """The topic of that name, made when it is not there yet."""
        try:
            return self._by_name.get(name) or await self.create(name, partitions, config)
        except CoreFailure as failure:
            if failure.error is CoreError.TOPIC_EXISTS:
                return self._by_name[name]
            raise

    async def delete(self, name: str) -> None:
        """Deletes a topic and all its records; durable when this returns. Raises CoreFailure(UNKNOWN_TOPIC)."""
        async with self._changing:
            topic = self._known(name)
            entries: list[Entry] = [DeletePartition(number) for number in topic.partitions]
            entries.append(self._state.entry([(topic.id, None)]))
            raise_unless_appended(await append(self._engine, entries))
            self._forget(topic)
            self._tell(topic)
            log.info("topic deleted", topic=name)

    async def add_partitions(self, name: str, total: int) -> Topic:
        """Grows a topic to `total` partitions. Raises CoreFailure."""
        async with self._changing:
            topic = self._known(name)
            self.check_growth(topic, total)
            new = self._take(total - len(topic.partitions))
            topic = replace(topic, partitions=topic.partitions + new)
            await self._store(topic, [CreatePartition(number) for number in new])
            return topic

    async def update_config(self, name: str, change: Callable[[Topic], Mapping[str, str]]) -> Topic:
        """Gives a topic the overrides that `change` makes of it as it stands (checked by core.topic_config)."""
        async with self._changing:
            known = self._known(name)
            topic = self._topic(name, known.id, known.partitions, dict(change(known)))
            await self._store(topic, [])
            return topic

    def _topic(self, name: str, topic_id: bytes, partitions: tuple[int, ...], config: dict[str, str]) -> Topic:
        return Topic(name, topic_id, partitions, config, topic_settings(config, self._defaults))

    def _known(self, name: str) -> Topic:
        topic = self._by_name.get(name)
        if topic is None:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"topic {name!r} does not exist")
        return topic

    def _check_count(self, total: int, more: int) -> None:
        if not 0 < total <= PARTITIONS_PER_TOPIC_MAX:
            raise CoreFailure(
                CoreError.INVALID_PARTITIONS,
                f"Number of partitions must be between 1 and {PARTITIONS_PER_TOPIC_MAX}, not {total}.",
            )
        if len(self._owners) + more > self._partitions_max:
            raise CoreFailure(CoreError.POLICY_VIOLATION, f"the broker holds at most {self._partitions_max} partitions")

    def _take(self, count: int) -> tuple[int, ...]:
        first = self._next_partition
        self._next_partition += count
        return tuple(range(first, first + count))

    async def _store(self, topic: Topic, made: list[CreatePartition]) -> None:
        changes: list[Change] = [(topic.id, _pack(topic)), (_NEXT_PARTITION_KEY, b"%d" % self._next_partition)]
        entries: list[Entry] = [*made, self._state.entry(changes)]
        raise_unless_appended(await append(self._engine, entries))
        self._remember(topic)
        self._set_policies(topic)
        self._tell(topic)

    def _apply(self, key: bytes, value: bytes | None) -> None:
        if key == _NEXT_PARTITION_KEY:
            self._next_partition = int(value or b"1")
        elif key == _CLUSTER_ID_KEY:
            self.cluster_id = (value or b"").decode()
        elif value is None:
            topic = self._by_id.get(key)
            if topic is not None:
                self._forget(topic)
        else:
            fields = json.loads(value)
            self._remember(self._topic(fields["name"], key, tuple(fields["partitions"]), fields["config"]))

    def _remember(self, topic: Topic) -> None:
        self._by_name[topic.name] = self._by_id[topic.id] = topic
        self._by_metric_name.setdefault(_metric_name(topic.name), set()).add(topic.name)
        for index, number in enumerate(topic.partitions):
            self._owners[number] = (topic, index)

    def _forget(self, topic: Topic) -> None:
        del self._by_name[topic.name], self._by_id[topic.id]
        alike = self._by_metric_name[_metric_name(topic.name)]
        alike.discard(topic.name)
        if not alike:
            del self._by_metric_name[_metric_name(topic.name)]
        for number in topic.partitions:
            del self._owners[number]

    def _set_policies(self, topic: Topic) -> None:
        for number in topic.partitions:
            self._engine.set_policy(number, topic.settings.policy)

    def _tell(self, topic: Topic) -> None:
        for listener in self._listeners:
            listener(topic)


def _metric_name(name: str) -> str:
    return name.replace(".", "_")


def _pack(topic: Topic) -> bytes:
    return json.dumps({"name": topic.name, "partitions": topic.partitions, "config": dict(topic.config)}).encode()
