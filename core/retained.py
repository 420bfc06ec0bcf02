"""Retained messages: the last one of each name, in a sorted table on disk beside the log that it is made from.

Its sources are partitions of the log:
* the internal compacted topic, into which a copy goes together with every retained publish: the key is the whole name,
  a null value deletes;
* those of topics with `mqtt.retain=last`, whose latest record per key counts as retained (a compacted table of Kafka's
  shown to devices): null and empty values delete, and so does retention, as it cuts the record itself.

The table follows the log's tail; `run` folds what it does not hold yet, commits and checkpoints it. It is made anew
when it is not this log's or this mapping's, when it is ahead of the log (a power cut took that back), or so far behind
that compaction may have dropped deletions that it never saw. Names are looked up by `seek`, which `core.filters.scan`
leaps with, so a look-up grows with its matches.

Measured (2 cores, `python -m interop.bench_retained`, flush async, names of 26 bytes and payloads of 27): a million
names at 37,000 publishes/s; resident memory grows by 58 MiB, the store's included; open 0.00 s, made anew 25 s; one
name 16 us, one match of a wildcard 35 us, none 7 us.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from core.delivery import READ_BYTES, LogTail, Stretch, committed_batches, next_offset, records_of
from core.filters import to_key
from core.store.engine import Append, DataDamaged, Engine, OffsetOutOfRange, UnknownPartition
from core.table_file import TableFile
from core.topic_mapping import TopicMapping
from core.topics import Topic, Topics
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

log = structlog.get_logger(__name__)

FORMAT: Final = 3
RECORD_BYTES_MAX: Final = 512 * 1024 * 1024
BEHIND_MS_MAX: Final = 12 * 3_600_000  # half of what compaction keeps deletions for
COMMIT_LOOK_S: Final = 0.5
CHECKPOINT_LOOK_S: Final = 0.5
RETRY_S: Final = 5.0
CHECKPOINT_ROWS: Final = 100_000  # while a table is made anew
# The copies, which are most of the rows, are never looked for by their source: the index leaves them out.
_SCHEMA: Final = """
CREATE TABLE retained (name BLOB PRIMARY KEY, source INTEGER, place INTEGER, record BLOB) WITHOUT ROWID;
CREATE INDEX retained_source ON retained (source) WHERE source <> {partition};
"""


class Found(NamedTuple):
    """A retained record, with its offset in the partition that it is read from."""

    partition: int
    record: Record


class RetainedTable:
    """Name -> last retained record. `partition` is the internal topic's, `identity` names the log."""

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        mapping: TopicMapping,
        partition: int,
        directory: Path | None,
        identity: str,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self._mapping = mapping
        self.partition = partition
        self._file = TableFile(
            directory, "retained", _SCHEMA.format(partition=partition), f"{FORMAT}:{identity}:{mapping.fingerprint}"
        )
        self._applied: dict[int, int] = {}  # source -> the log's offset up to which the table holds it
        self._following: set[int] = set()  # sources that the table holds all of
        self._behind_send, self._behind_receive = trio.open_memory_channel[int](float("inf"))  # each source once
        self._tail: LogTail | None = None
        self._closed = False
        self.count = 0

    # -- the table and the log ---------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Folds what the table does not hold; then it follows the log, while `run` runs."""
        self._remember()
        known = [self.partition, *(number for topic in self._topics.all() for number in self._last_of(topic))]
        if self._is_unusable(known):
            self._file.start_anew()
            self._remember()
        for number in set(self._applied) - set(known):
            self._drop(number)
        for number in known:
            await self._fold(number)
        # Nothing is awaited between the last look at the log's end and here.
        self._tail = LogTail(self._engine, self._following.__contains__, self._on_stretch, lambda: None)
        self._topics.on_change(self._on_change)

    def _remember(self) -> None:
        """What the table says of itself."""
        execute = self._file.connection.execute
        rows = execute("SELECT name, value FROM meta WHERE name LIKE 'applied:%'").fetchall()
        self._applied = {int(name.partition(":")[2]): int(value) for name, value in rows}
        self.count = self._file.number("count")

    def _is_unusable(self, known: list[int]) -> bool:
        age_ms = time.time_ns() // 1_000_000 - self._file.number("committed_ms")
        epoch = self._file.number("epoch")
        for number in known:
            applied, end = self._applied.get(number), self._engine.info(number).high_watermark
            if applied is None:
                continue
            # What the log had by the epoch of the last commit: others may have written since it was taken back.
            kept = self._engine.epoch_end(number, epoch)[1]
            if applied > end or applied > kept >= 0 or (applied < end and age_ms > BEHIND_MS_MAX):
                return True
        return False

    async def _fold(self, number: int) -> None:
        """Reads a source from where the table stands to its end; then it is followed."""
        rows = 0
        while True:
            info = self._engine.info(number)
            offset = max(self._applied.get(number, 0), info.log_start)
            if offset >= (info.last_stable if self._tail is None else self._tail.end(number)):
                self._applied[number] = offset
                self._following.add(number)
                return
            try:
                read = await self._engine.read(number, offset, READ_BYTES, committed=True)
            except OffsetOutOfRange:
                continue
            except DataDamaged as damage:
                self._applied[number] = damage.end_offset
                continue
            for stretch in committed_batches(number, read, offset):
                self._apply_all(stretch)
                rows += stretch.header.count
            after = next_offset(read, offset)
            self._applied[number] = after if after > offset else info.last_stable
            self._commit_when_due()
            if rows >= CHECKPOINT_ROWS:
                rows = 0
                self._commit()
                await trio.to_thread.run_sync(self._file.checkpoint)
            await trio.lowlevel.checkpoint()

    def _on_stretch(self, stretch: Stretch) -> None:
        if self._closed:
            return  # other listeners end later; the next start folds it
        try:
            self._apply_all(stretch)
        except sqlite3.Error as error:
            self._mend(error)

    def _apply_all(self, stretch: Stretch) -> None:
        self._file.begin()
        owner = self._topics.owner(stretch.partition)
        for record in records_of(stretch):
            name: str | None
            if stretch.partition == self.partition:
                name = (record.key or b"").decode()
                deleted = record.value is None
            else:
                name = self._mapping.name(owner[0].name, record.key) if owner is not None else None
                deleted = not record.value
            if name is not None:
                self._apply(to_key(name), stretch.partition, record, deleted)
            self._applied[stretch.partition] = record.offset + 1

    def _apply(self, key: bytes, source: int, record: Record, deleted: bool) -> None:
        execute = self._file.connection.execute
        row = (source, record.offset, None if deleted else build([record]), key)
        older = "WHERE name = ? AND (source <> ? OR place < ?)"
        if deleted:
            self.count -= execute(f"DELETE FROM retained {older}", (key, source, record.offset)).rowcount
        elif not execute(
            f"UPDATE retained SET source = ?, place = ?, record = ? {older}", (*row, source, record.offset)
        ).rowcount:
            inserted = execute("INSERT OR IGNORE INTO retained (source, place, record, name) VALUES (?, ?, ?, ?)", row)
            self.count += inserted.rowcount

    def _drop(self, number: int) -> None:
        """A partition is no source any more."""
        self._file.begin()
        self._following.discard(number)
        self._applied.pop(number, None)
        execute = self._file.connection.execute
        self.count -= execute(
            f"DELETE FROM retained WHERE source = ? AND source <> {self.partition}", (number,)
        ).rowcount
        execute("DELETE FROM meta WHERE name = ?", (f"applied:{number}",))

    def _last_of(self, topic: Topic) -> tuple[int, ...]:
        return topic.partitions if topic.settings.mqtt_retain == "last" else ()

    def _on_change(self, topic: Topic) -> None:
        if self._closed:
            return
        wanted = self._last_of(topic) if self._topics.get(topic.name) is topic else ()
        try:
            for number in set(topic.partitions) - set(wanted):
                if number != self.partition and number in self._applied:
                    self._drop(number)
        except sqlite3.Error as error:
            self._mend(error)
        for number in wanted:
            if number not in self._applied:
                self._applied[number] = 0
                self._behind_send.send_nowait(number)

    # -- what runs beside it -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; `load` comes before it, `close` after it."""
        assert self._tail is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tail.run)
            nursery.start_soon(self._keep_up)
            nursery.start_soon(self._keep_checkpoints)
            while True:
                await trio.sleep(COMMIT_LOOK_S)
                try:
                    self._commit_when_due()
                except sqlite3.Error as error:
                    self._mend(error)

    async def _keep_up(self) -> None:
        async for number in self._behind_receive:
            try:
                await self._fold(number)
            except sqlite3.Error as error:
                self._mend(error)
                await trio.sleep(RETRY_S)
            except UnknownPartition:
                self._applied.pop(number, None)  # deleted meanwhile

    async def _keep_checkpoints(self) -> None:
        while True:
            await trio.sleep(CHECKPOINT_LOOK_S)
            try:
                if self._file.checkpoint_is_due:
                    await trio.to_thread.run_sync(self._file.checkpoint)
            except sqlite3.Error as error:
                log.error("the table of retained messages cannot be checkpointed", reason=str(error))

    def _mend(self, error: sqlite3.Error) -> None:
        """The disk is full, or the table broken: back to what was committed, and fold the rest again."""
        log.error("the table of retained messages failed", reason=str(error))
        sources = set(self._applied)
        try:
            self._file.take_back()
            self._remember()
        except sqlite3.Error:
            self._file.start_anew()
            self._remember()
        self._following.clear()
        for number in sources:
            self._applied.setdefault(number, 0)
            self._behind_send.send_nowait(number)

    def _commit_when_due(self) -> None:
        if self._file.commit_is_due:
            self._commit()

    def _commit(self) -> None:
        numbers = {f"applied:{number}": offset for number, offset in self._applied.items()}
        others = {"count": self.count, "epoch": self._engine.epoch, "committed_ms": time.time_ns() // 1_000_000}
        self._file.commit({**numbers, **others})

    def close(self) -> None:
        """Keeps what was applied. What is stored from now on is not looked at."""
        self._closed = True
        try:
            self._commit()
            self._file.close()
        except sqlite3.Error as error:
            log.error("the table of retained messages was not kept", reason=str(error))

    # -- publishing and asking ---------------------------------------------------------------------------------------

    def entry(self, records: list[Record]) -> Append:
        """Copies (key: the name, null value: deleted) as one entry for the append of what they are copies of."""
        batch = build(records)
        return Append(self.partition, parse_header(batch), batch)

    def sources(self) -> list[int]:
        """The partitions that retained records come from."""
        return list(self._applied)

    def get(self, name: str) -> Found | None:
        """The retained record of a name."""
        row = self._file.connection.execute(
            "SELECT source, place, record FROM retained WHERE name = ?", (to_key(name),)
        ).fetchone()
        if row is None:
            return None
        source, place, batch = row
        try:
            if place < self._engine.info(source).log_start:
                return None
        except UnknownPartition:
            return None
        return Found(source, decode(batch, RECORD_BYTES_MAX)[0]._replace(offset=place))

    def seek(self, key: bytes, count_max: int) -> list[bytes]:
        rows = self._file.connection.execute(
            "SELECT name FROM retained WHERE name >= ? ORDER BY name LIMIT ?", (key, count_max)
        )
        return [row[0] for row in rows]
