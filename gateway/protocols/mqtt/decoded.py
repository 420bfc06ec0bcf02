"""Batches of the log as runs of messages, kept for a while.

A batch is decoded once and cut into runs of one name. What was decoded is kept, in at most `DECODED_BYTES_MAX`, so that
many who are a little behind share the work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from core.delivery import Stretch, records_of
from core.mapping_history import MappingHistory
from core.store.engine import Engine
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.records import message_of
from gateway.protocols.mqtt.selection import passes
from gateway.protocols.mqtt.subscribers import Subscribers
from trivium.records import Record

DECODED_BYTES_MAX: Final = 16 * 1024 * 1024


class NamedRun:
    """Consecutive messages of one topic name by one publisher (None unless no-local needs to know). The parts that pass
    filters are shared by all who have the same. `records` is asked for when there is a filter.
    """

    __slots__ = ("_records", "_selected", "name", "publisher", "run")

    def __init__(self, name: str, publisher: str | None, run: Run, records: Callable[[], list[Record]]) -> None:
        self.name = name
        self.publisher = publisher
        self.run = run
        self._records = records
        self._selected: dict[frozenset[str], Run] | None = None

    def passing(self, selections: frozenset[str]) -> Run:
        """The messages that pass one of the filters; all when there is none."""
        if not selections:
            return self.run
        if self._selected is None:
            self._selected = {}
        found = self._selected.get(selections)
        if found is None:
            both = zip(self.run.messages, self._records(), strict=True)
            found = self._selected[selections] = Run([one for one, record in both if passes(selections, record)])
        return found


class DecodedBatches:
    """`retained_partition` is read too, for what was in flight of it: its records have whole names as keys."""

    def __init__(
        self, engine: Engine, mappings: MappingHistory, subscribers: Subscribers, retained_partition: int
    ) -> None:
        self._engine = engine
        self._mappings = mappings
        self._subscribers = subscribers
        self._retained_partition = retained_partition
        self._known: OrderedDict[tuple[int, int], tuple[int, list[NamedRun]]] = OrderedDict()
        self._bytes = 0

    def runs(self, stretch: Stretch) -> list[NamedRun]:
        """A batch's messages by name and publisher, in the log's order; none if its topic is not for MQTT."""
        key = stretch.partition, stretch.base_offset
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known[1]
        topic = self._subscribers.visible(stretch.partition)
        if topic is None and stretch.partition != self._retained_partition:
            return []
        mapping = self._mappings.at(self._engine.position_at(stretch.partition, stretch.base_offset))
        topic_name = mapping.catch_all if topic is None else topic.name
        runs: list[NamedRun] = []
        name, publisher, messages, records = "", None, list[Message](), list[Record]()
        for record in records_of(stretch):
            this_name, message, this_publisher = message_of(record, topic_name, stretch.partition, mapping)
            if this_name != name or this_publisher != publisher:
                if messages:
                    runs.append(NamedRun(name, publisher, Run(messages), partial(list, records)))
                name, publisher, messages, records = this_name, this_publisher, [], []
            messages.append(message)
            records.append(record)
        if messages:
            runs.append(NamedRun(name, publisher, Run(messages), partial(list, records)))
        size = 2 * len(stretch.batch) + 400 * stretch.header.count
        self._known[key] = size, runs
        self._bytes += size
        while self._bytes > DECODED_BYTES_MAX:
            self._bytes -= self._known.popitem(last=False)[1][0]
        return runs
