"""Folds the rows of queue groups back into memory at start. Rows come in any order: compaction has moved them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from core.dead_letters import topic_of
from core.group_codec import Reader
from core.queue_codec import (
    KIND_DONE,
    KIND_FAILED,
    KIND_FLOOR,
    KIND_GROUP,
    FailedRow,
    FloorRow,
    GroupRow,
    parse_done,
    parse_failed,
    parse_floor,
    parse_group,
)
from core.queue_partition import QueuePartition
from core.state import Change
from core.topics import Topics

_Place = tuple[str, int]  # group, engine partition
_K = TypeVar("_K")
_V = TypeVar("_V")


class QueueRows:
    """The rows of queue partitions, whatever table they stand in. `wall_ahead_ms`: wall clock minus the monotonic
    clock.
    """

    def __init__(self, wall_ahead_ms: int) -> None:
        self._wall_ahead_ms = wall_ahead_ms
        self._floors: dict[_Place, FloorRow] = {}
        self._done: dict[_Place, dict[int, int]] = {}
        self._failed: dict[_Place, dict[int, FailedRow]] = {}
        self._keys: dict[_Place, set[bytes]] = {}

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Raises ValueError for a row of a newer broker."""
        kind, reader = key[0], Reader(key, 1)
        place = (reader.text(), reader.i64())
        keys = self._keys.setdefault(place, set())
        if value is None:
            keys.discard(key)
        else:
            keys.add(key)
        if kind == KIND_FLOOR:
            _put(self._floors, place, None if value is None else parse_floor(value))
        elif kind == KIND_DONE:
            _put(self._done.setdefault(place, {}), reader.i64(), None if value is None else parse_done(value))
        elif kind == KIND_FAILED:
            _put(self._failed.setdefault(place, {}), reader.i64(), None if value is None else parse_failed(value))
        else:
            raise ValueError(f"queue row of unknown kind {kind}")

    def places(self) -> list[tuple[str, int]]:
        """(group, engine partition) that have rows and were not taken."""
        return [place for place, keys in self._keys.items() if keys]

    def has_failed(self, group: str, partition: int) -> bool:
        return bool(self._failed.get((group, partition)))

    def take(self, queue: QueuePartition) -> QueuePartition:
        """Puts a group's partition to where it was left."""
        place = (queue.group, queue.partition)
        self._keys.pop(place, None)
        floor = self._floors.get(place)
        if floor is not None:
            queue.load_floor(floor)
        for chunk, mask in self._done.get(place, {}).items():
            queue.load_done(chunk, mask)
        for offset, failed in self._failed.get(place, {}).items():
            queue.load_failed(offset, failed, failed.not_before_wall_ms - self._wall_ahead_ms)
        queue.loaded()
        return queue

    def orphans(self) -> list[Change]:
        """What takes away rows whose group or partition is gone. Call it last."""
        return [(key, None) for keys in self._keys.values() for key in keys]


class Replay:
    """The table of queue groups. `wall_ahead_ms`: wall clock minus the monotonic clock."""

    def __init__(self, topics: Topics, wall_ahead_ms: int) -> None:
        self._topics = topics
        self.groups: dict[str, GroupRow] = {}
        self._rows = QueueRows(wall_ahead_ms)

    def apply(self, key: bytes, value: bytes | None) -> None:
        if key[0] != KIND_GROUP:
            self._rows.apply(key, value)
            return
        group = Reader(key, 1).text()
        if value is None:
            self.groups.pop(group, None)
        else:
            self.groups[group] = parse_group(value)

    def queues(self, group: str, row: GroupRow) -> Iterator[QueuePartition]:
        """The partitions that the group reads, as they were left."""
        names = () if row.subscription is None else row.subscription.topics
        for name in (*names, topic_of(group)):
            topic = self._topics.get(name)
            for index, number in enumerate(() if topic is None else topic.partitions):
                queue = QueuePartition(group, name, index, number)
                if name != topic_of(group):
                    yield self._rows.take(queue)
                elif self._rows.has_failed(group, number):
                    yield self._rows.take(queue).retry_only()

    def orphans(self) -> list[Change]:
        """What takes away rows whose group or partition is gone. Call it last."""
        return self._rows.orphans()


def _put(table: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
