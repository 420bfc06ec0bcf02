"""Finding traces: by time, by place, by message id, by key. Bounded: a search reads SCAN_BYTES_MAX of traces at most
and says where to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from core.delivery import READ_BYTES, committed_batches, next_offset, records_of
from core.errors import CoreError, CoreFailure
from core.store.engine import DataDamaged, Engine, OffsetOutOfRange, Read, UnknownPartition
from core.topics import Topics
from core.tracing import Trace, unpack

SCAN_BYTES_MAX: Final = 64 * 1024 * 1024
FOUND_MAX: Final = 10_000
PLACES_MAX: Final = 1_000  # of one key
LATEST_MAX: Final = 100_000

Place = tuple[str, int, int]  # topic, partition index, offset


class Found(NamedTuple):
    """`next_ms` is where a search that was too long goes on, -1 when it is complete."""

    traces: list[Trace]
    next_ms: int


class TraceSearch:
    def __init__(self, engine: Engine, topics: Topics, partition: int) -> None:
        self._engine = engine
        self._topics = topics
        self._partition = partition

    async def by_time(self, from_ms: int, to_ms: int, topic: str = "") -> Found:
        return await self._scan(from_ms, to_ms, lambda one: not topic or one.topic in (topic, ""))

    async def by_places(self, places: set[Place], from_ms: int, to_ms: int) -> Found:
        """Everything that touched these messages, oldest first."""
        wanted: dict[tuple[str, int], list[int]] = {}
        for topic, index, offset in places:
            wanted.setdefault((topic, index), []).append(offset)

        def touches(one: Trace) -> bool:
            offsets = wanted.get((one.topic, one.partition), ())
            return any(one.first <= offset <= one.last for offset in offsets)

        return await self._scan(from_ms, to_ms, touches)

    async def by_id(self, message_id: str, from_ms: int, to_ms: int) -> Found:
        """Of the message with this id, wherever it was stored. Raises CoreFailure(UNKNOWN_MESSAGE) if no trace says."""
        stored = await self._scan(from_ms, to_ms, lambda one: any(name == message_id for _, name in one.ids))
        places = {
            (one.topic, one.partition, offset)
            for one in stored.traces
            for offset, name in one.ids
            if name == message_id
        }
        if (place := self._place_of(message_id)) is not None:
            return await self.by_places({*places, place}, from_ms, to_ms)
        if not places:
            if stored.next_ms >= 0:
                return stored
            raise CoreFailure(CoreError.UNKNOWN_MESSAGE, f"no trace of a message with the id {message_id[:100]!r}")
        return await self.by_places(places, stored.traces[0].time_ms, to_ms)

    def _place_of(self, message_id: str) -> Place | None:
        """The place that an id names which the broker gave (core.message_ids)."""
        rest, _, offset = message_id.rpartition(".")
        cluster_id, _, partition = rest.rpartition(".")
        if cluster_id != self._topics.cluster_id or not (partition.isdecimal() and offset.isdecimal()):
            return None
        owner = self._topics.owner(int(partition))
        return None if owner is None else (owner[0].name, owner[1], int(offset))

    async def by_key(self, topic_name: str, key: bytes, from_ms: int, to_ms: int) -> Found:
        """Of the topic's messages with this key. Raises CoreFailure(UNKNOWN_TOPIC)."""
        topic = self._topics.get(topic_name)
        if topic is None:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"topic {topic_name!r} does not exist")
        places: set[Place] = set()
        for index, number in enumerate(topic.partitions):
            start = await self._engine.offset_for_time(number, from_ms)
            if start is None:
                continue
            offsets = await self._engine.offsets_for_key(
                number, key, from_offset=start.offset, count_max=PLACES_MAX - len(places)
            )
            for offset in offsets:
                if await self._has_key(number, offset, key):
                    places.add((topic_name, index, offset))
        return await self.by_places(places, from_ms, to_ms) if places else Found([], -1)

    async def _has_key(self, partition: int, offset: int, key: bytes) -> bool:
        try:
            read = await self._engine.read(partition, offset, 1)
        except (OffsetOutOfRange, DataDamaged, UnknownPartition):
            return False
        return any(
            record.offset == offset and record.key == key
            for stretch in committed_batches(partition, read, offset)
            for record in records_of(stretch)
        )

    async def latest(self) -> list[Trace]:
        """The last LATEST_MAX traces, as far as they can be read."""
        info = self._engine.info(self._partition)
        offset = max(info.log_start, info.high_watermark - LATEST_MAX)
        found: list[Trace] = []
        while offset < info.high_watermark:
            try:
                read = await self._engine.read(self._partition, offset, READ_BYTES)
            except OffsetOutOfRange:
                break
            except DataDamaged as damage:
                offset = damage.end_offset
                continue
            found += await trio.to_thread.run_sync(_traces, self._partition, read, offset)
            after = next_offset(read, offset)
            if after <= offset:
                break
            offset = after
        return found

    async def _scan(self, from_ms: int, to_ms: int, wanted: Callable[[Trace], bool]) -> Found:
        start = await self._engine.offset_for_time(self._partition, from_ms)
        found: list[Trace] = []
        if start is None:
            return Found(found, -1)
        offset, scanned, last_ms = start.offset, 0, from_ms
        while offset < self._engine.info(self._partition).high_watermark:
            try:
                read = await self._engine.read(self._partition, offset, READ_BYTES)
            except OffsetOutOfRange:
                offset = self._engine.info(self._partition).log_start
                continue
            except DataDamaged as damage:
                offset = damage.end_offset
                continue
            some = await trio.to_thread.run_sync(_traces, self._partition, read, offset)
            found += [one for one in some if from_ms <= one.time_ms <= to_ms and wanted(one)]
            after = next_offset(read, offset)
            if after <= offset or (some and some[-1].time_ms > to_ms):
                break
            offset = after
            last_ms = some[-1].time_ms if some else last_ms
            scanned += read.size_bytes
            if len(found) > FOUND_MAX and found[FOUND_MAX].time_ms > found[0].time_ms:
                return Found(found[:FOUND_MAX], found[FOUND_MAX].time_ms)
            if scanned > SCAN_BYTES_MAX:
                return Found(found, last_ms)
        return Found(found, -1)


def _traces(partition: int, read: Read, offset: int) -> list[Trace]:
    found: list[Trace] = []
    for stretch in committed_batches(partition, read, offset):
        for record in records_of(stretch):
            try:
                found.append(unpack(record))
            except (ValueError, TypeError):
                continue  # of a newer broker
    return found
