"""Which queue groups there are, and which partitions each reads: made, grown and deleted with their topics.

A partition that some group reads is watched, so that its groups are woken when something comes in.
"""

from __future__ import annotations

from core.errors import CoreError, CoreFailure
from core.queue_group import QueueGroup
from core.queue_log import QueueLog
from core.queue_partition import QueuePartition
from core.store.engine import Engine, UnknownPartition
from core.topics import Topic, Topics


class QueueTable:
    """The groups by id. Who takes a partition away has `log` flushed."""

    def __init__(self, engine: Engine, topics: Topics, log: QueueLog) -> None:
        self.groups: dict[str, QueueGroup] = {}
        self._engine = engine
        self._topics = topics
        self._log = log
        self._readers: dict[int, list[tuple[QueueGroup, QueuePartition]]] = {}  # of an engine's partition
        topics.on_change(self._topic_changed)

    def find(self, group_id: str) -> QueueGroup:
        """Raises CoreFailure(GROUP_NOT_FOUND)."""
        group = self.groups.get(group_id)
        if group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"there is no queue group {group_id!r}")
        return group

    def attach(self, group: QueueGroup, queue: QueuePartition) -> None:
        """The group reads a partition from now on."""
        group.queues[queue.topic, queue.index] = queue
        group.touch(queue)
        readers = self._readers.setdefault(queue.partition, [])
        if not readers:
            self._engine.watch(queue.partition, self._moved)
        readers.append((group, queue))

    def detach(self, group: QueueGroup, queue: QueuePartition) -> None:
        """The group no longer reads the partition; its rows go with the next write."""
        del group.queues[queue.topic, queue.index]
        group.awake.pop(queue, None)
        group.busy.pop(queue, None)
        self._log.forget(queue)
        self._log.change(queue.all_gone())
        readers = self._readers[queue.partition]
        readers.remove((group, queue))
        if not readers:
            del self._readers[queue.partition]
            self._engine.unwatch(queue.partition, self._moved)

    def turned(self, queue: QueuePartition) -> None:
        """Messages that waited for others of their key can go out."""
        group = self.groups.get(queue.group)
        if group is not None and group.queues.get((queue.topic, queue.index)) is queue:
            group.touch(queue)
            group.wake()

    def _moved(self, partition: int) -> None:
        for group, queue in self._readers.get(partition, ()):
            try:
                log_start = self._engine.info(partition).log_start
            except UnknownPartition:
                continue
            if log_start > queue.floor:
                queue.log_start_moved(log_start)
            group.touch(queue)
            group.wake()

    def _topic_changed(self, topic: Topic) -> None:
        exists = self._topics.get(topic.name) is topic
        for group in self.groups.values():
            for place in [place for place in group.queues if place[0] == topic.name]:
                queue = group.queues[place]
                if not exists or queue.partition not in topic.partitions:
                    self.detach(group, queue)
            if exists and group.subscription is not None and topic.name in group.subscription.topics:
                for index, number in enumerate(topic.partitions):
                    if (topic.name, index) not in group.queues:
                        self.attach(group, QueuePartition(group.id, topic.name, index, number))
                group.wake()
        self._log.flush()
