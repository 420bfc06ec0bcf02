"""Scheduled messages: a record waits in an internal partition and reaches its own at its time, once.

Rules:
* A record is scheduled by `entry`, in the same append as whatever must happen together with it; it is scheduled when
  that append is durable.
* It reaches its partition by ONE append, with the tombstone that says so. A crash leaves both or neither: exactly once.
* One task (`run`) goes round: fold what is new in the log into the table, take cancellations and what is due, append,
  wait until that is durable. So a cancellation and the due time cannot cross, and the answer (cancelled, delivered or
  unknown) is what the log says, also after a crash: the tombstones carry it, for a day.
* The delivered record has the time of its delivery as timestamp (retention counts from there), the headers it came
  with, and its id; `deliver-at` stays as it was.
* A topic that is gone when a record is due (deleted, also when one of the same name was made since) drops it: counted
  and logged, and a cancellation finds it unknown.
* A full disk delays: what is due waits until there is room.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from core.delivery import next_offset
from core.errors import CoreError, CoreFailure
from core.group_log import store_error
from core.message_ids import id_of, place_id, with_id
from core.schedule_log import BadRow, End, Ended, Scheduled, end_record, first_number, parse, put_record, record_of
from core.schedule_table import ScheduleTable, Step
from core.store.engine import Append, Buffer, DataDamaged, Engine, Outcome, append
from core.topics import Topics
from core.tracing import NOBODY, Tracer, trace_stored
from trivium.record_batch import BatchError, iter_batches, parse_header
from trivium.records import Record, build, decode

log = structlog.get_logger(__name__)

FOLD_BYTES: Final = 1024 * 1024
DECODED_BYTES_MAX: Final = 256 * 1024 * 1024
ROUND_ROWS_MAX: Final = 1_000
ROUND_BYTES_MAX: Final = 8 * 1024 * 1024
BATCH_BYTES_MAX: Final = 512 * 1024
PAGE_ROWS_MAX: Final = 1_000
LOOK_INTERVAL_MS: Final = 1_000  # the wall clock may be set: not longer than this between two looks at it
CHECKPOINT_LOOK_S: Final = 0.5
PAUSE_S: Final = 1


class Wanted(NamedTuple):
    """A record to be scheduled: `partition` is the engine's number of where it goes."""

    partition: int
    due_ms: int
    record: Record


class Listed(NamedTuple):
    """A pending message. `topic` is None when it has been deleted since."""

    due_ms: int
    number: int
    message_id: str
    topic: str | None
    partition: int
    key: bytes | None
    value_bytes: int


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class _Cancel:
    """A cancellation without its answer."""

    __slots__ = ("answer", "done", "message_id")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.done = trio.Event()
        self.answer: End | CoreFailure | None = None


class Schedules:
    """`load` once, then `run`. `partition` is the internal partition, `directory` where the table is kept."""

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        partition: int,
        directory: Path | None,
        wall_ms: Callable[[], int] = _wall_ms,
        tracer: Tracer | None = None,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self.partition = partition
        self._directory = directory
        self._wall_ms = wall_ms
        self._tracer = tracer
        self._numbers = count(first_number(engine.epoch))
        self._wake = trio.Event()
        self._cancels: list[_Cancel] = []
        self._listings: list[trio.Event] = []  # whoever lists must see what was acknowledged
        self._ended: list[Ended] = []  # durable, not yet taken out of the table
        self._ended_below = 0  # the offset behind the last of them
        self._next_due_ms: int | None = None
        self._mending: Callable[[], None] | None = None  # the table failed: nothing is due before it is made good
        self._more = True  # there may be something to fold or to send now
        self._table: ScheduleTable
        self.delivered = 0
        self.dropped = 0
        self.late_ms_max = 0  # since the last look at it

    async def load(self) -> None:
        """Brings the table up to the log's end."""
        identity = f"{self._topics.cluster_id}:{self.partition}"
        self._table = await trio.to_thread.run_sync(ScheduleTable, self._directory, identity)
        info = self._engine.info(self.partition)
        if self._table.applied < info.log_start or self._table.known > info.high_watermark:
            self._table.start_anew()  # the log lost its tail (flush = "async"), or the table is of a copy
        await self._fold_all()
        await trio.to_thread.run_sync(self._table.commit)

    # -- what is asked

    def entry(self, wanted: Sequence[Wanted]) -> Append:
        """The records as one entry for an append: they are scheduled when it is durable."""
        rows = []
        for partition, due_ms, record in wanted:
            number = next(self._numbers)
            headers = record.headers
            if id_of(headers) is None:
                headers = with_id(headers, place_id(self._topics.cluster_id, self.partition, number))
            rows.append(put_record(number, due_ms, partition, record._replace(headers=headers)))
        batch = build(rows)
        return Append(self.partition, parse_header(batch), batch, unless_duplicate=True)

    async def cancel(self, message_id: str) -> End | None:
        """CANCELLED (now or before), DELIVERED, or None: not known (never was, long gone, or its topic was deleted).

        Durable on return. Raises CoreFailure when the store refuses: then nothing has changed.
        """
        waiting = _Cancel(message_id)
        self._cancels.append(waiting)
        self._wake.set()
        await waiting.done.wait()
        if isinstance(waiting.answer, CoreFailure):
            raise waiting.answer
        return waiting.answer

    async def page(self, after: tuple[int, int] = (-1, -1), rows_max: int = PAGE_ROWS_MAX) -> list[Listed]:
        """Pending messages behind (due, number), soonest first."""
        listing = trio.Event()
        self._listings.append(listing)
        self._wake.set()
        await listing.wait()
        rows = await trio.to_thread.run_sync(self._table.page, after, min(rows_max, PAGE_ROWS_MAX))
        return [self._listed(row) for row in rows]

    def _listed(self, row: Scheduled) -> Listed:
        owner = self._topics.owner(row.partition)
        record = record_of(row)
        topic, index = (None, -1) if owner is None else (owner[0].name, owner[1])
        return Listed(row.due_ms, row.number, row.message_id, topic, index, record.key, len(record.value or b""))

    # -- the rounds

    async def run(self) -> None:
        """Goes round until cancelled."""
        self._engine.watch(self.partition, self._moved)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_checkpoints)
                while True:
                    await self._wait()
                    await self.round()
        finally:
            self._engine.unwatch(self.partition, self._moved)
            for waiting in self._cancels:
                self._answer(waiting, CoreFailure(CoreError.STORE_FAILED, "the broker is stopping"))
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Keeps the table as it is."""
        self._table.close()

    @property
    def is_busy(self) -> bool:
        """Whether a round has something to do now."""
        return self._more or bool(self._cancels or self._listings)

    async def _keep_checkpoints(self) -> None:
        while True:
            await trio.sleep(CHECKPOINT_LOOK_S)
            try:
                if self._table.checkpoint_is_due:
                    await trio.to_thread.run_sync(self._table.checkpoint)
            except sqlite3.Error as error:
                log.error("the schedule's table cannot be checkpointed", reason=str(error))

    def _moved(self, _: int) -> None:
        self._more = True
        self._wake.set()

    async def _wait(self) -> None:
        """Until there is something to fold, to cancel, to deliver or to commit."""
        while not self._more and not self._cancels and not self._listings:
            wait_ms: float = LOOK_INTERVAL_MS if self._next_due_ms is not None or self._table.dirty else float("inf")
            if self._next_due_ms is not None:
                wait_ms = min(wait_ms, self._next_due_ms - self._wall_ms())
            if wait_ms <= 0:
                return
            self._wake = trio.Event()
            with trio.move_on_after(wait_ms / 1000) as scope:
                await self._wake.wait()
            if scope.cancelled_caught and self._table.dirty:
                return

    async def round(self) -> None:
        """Folds, delivers and cancels once; `run` does it whenever there is something to do."""
        self._more = False
        cancels, self._cancels = self._cancels, []
        listings, self._listings = self._listings, []
        asked = bool(cancels or listings)
        known = self._engine.info(self.partition).high_watermark if asked else 0  # what an answer must have seen
        try:
            if self._mending is not None:
                await trio.to_thread.run_sync(self._mending)
                await self._fold_all()
                self._mending = None
            new = await self._new_buffers()
            while new is not None and new[1] < known:
                await trio.to_thread.run_sync(self._fold, *new)
                new = await self._new_buffers()
            ids = [one.message_id for one in cancels]
            step = await trio.to_thread.run_sync(self._look, new, ids, self._wall_ms(), bool(listings))
            refused = await self._end(step)
        except (sqlite3.Error, BadRow) as error:
            self._cancels = cancels + self._cancels
            self._listings = listings + self._listings
            await self._mend(error)
            return
        for listing in listings:
            listing.set()
        self._next_due_ms = step.next_due_ms
        self._more = self._more or step.more
        if refused is not None:
            self._more = True
        for waiting, found in zip(cancels, step.found, strict=True):
            if found.pending:
                self._answer(waiting, End.CANCELLED if refused is None else CoreFailure(refused))
            else:
                self._answer(waiting, None if found.end is End.DROPPED else found.end)
        if refused is not None:
            await trio.sleep(PAUSE_S)

    def _answer(self, waiting: _Cancel, answer: End | CoreFailure | None) -> None:
        waiting.answer = answer
        waiting.done.set()

    async def _mend(self, error: sqlite3.Error | BadRow) -> None:
        """A full disk passes; a damaged table is made anew from the log. The next round begins with it."""
        log.error("the schedule's table failed", reason=str(error))
        passes = isinstance(error, sqlite3.OperationalError) and self._mending != self._table.start_anew
        self._mending = self._table.take_back if passes else self._table.start_anew
        self._more = True
        await trio.sleep(PAUSE_S)

    async def _fold_all(self) -> None:
        while (new := await self._new_buffers()) is not None:
            await trio.to_thread.run_sync(self._fold, *new)

    async def _new_buffers(self) -> tuple[list[Buffer], int] | None:
        """What the log has behind the table, and the offset behind that; None at its end."""
        offset = self._table.applied
        info = self._engine.info(self.partition)
        if offset >= info.high_watermark:
            return None
        try:
            read = self._engine.read_nowait(self.partition, offset, FOLD_BYTES)
            if read is None:
                read = await self._engine.read(self.partition, offset, FOLD_BYTES)
        except DataDamaged as damage:
            log.error("the disk has damaged scheduled messages", first=offset, end=damage.end_offset)
            return [], damage.end_offset
        end = next_offset(read, offset) if read.buffers else info.high_watermark
        self._more = self._more or end < info.high_watermark
        return list(read.buffers), end

    # -- in the table's thread

    def _fold(self, buffers: list[Buffer], applied: int) -> None:
        self._table.fold(_changes(buffers), applied)
        self._table.commit_now_and_then()

    def _look(self, new: tuple[list[Buffer], int] | None, message_ids: list[str], now_ms: int, commit: bool) -> Step:
        # Ends that are durable but not folded yet are taken first, or what ended would be due again.
        ended, self._ended = self._ended, []
        try:
            self._table.fold(ended, self._table.applied, self._ended_below)
            if new is not None:
                self._table.fold(_changes(new[0]), new[1])
            if commit:
                self._table.commit()
            self._table.commit_now_and_then()
            return self._table.look(now_ms, message_ids, ROUND_ROWS_MAX, ROUND_BYTES_MAX)
        except sqlite3.Error:
            self._ended = ended
            raise

    # -- the append

    async def _end(self, step: Step) -> CoreError | None:
        """Delivers what is due and ends what is cancelled, in one append; an error when the store refuses it."""
        now_ms = self._wall_ms()
        cancelled = [(row, End.CANCELLED) for found in step.found for row in found.pending]
        gone: set[int] = set()
        while step.due or cancelled:
            delivered = [row for row in step.due if row.partition not in gone and self._topics.owner(row.partition)]
            kept = {row.number for row in delivered}
            ends = [(row, End.DELIVERED if row.number in kept else End.DROPPED) for row in step.due]
            ends += cancelled
            state = build([end_record(row, end, now_ms) for row, end in ends])
            batches = list(self._batches(delivered, now_ms))
            answers = await append(self._engine, [*batches, Append(self.partition, parse_header(state), state)])
            more = {
                batch.partition
                for batch, answer in zip(batches, answers, strict=False)
                if answer.outcome is Outcome.UNKNOWN_PARTITION
            }
            if more:
                gone |= more
                continue
            outcomes = [answer.outcome for answer in answers if answer.outcome is not Outcome.NOT_APPENDED]
            if outcomes and outcomes[0] is not Outcome.APPENDED:
                return store_error(outcomes[0])
            if self._tracer is not None and self._tracer.active:
                for one, answer in zip(batches, answers, strict=False):
                    trace_stored(self._tracer, self._topics, one, answer, NOBODY)
            self._ended_below = answers[-1].base_offset + len(ends)
            self._ended += [Ended(row.due_ms, row.number, row.message_id, end, now_ms) for row, end in ends]
            self._count(step, len(delivered), now_ms)
            return None
        return None

    def _count(self, step: Step, delivered: int, now_ms: int) -> None:
        self.delivered += delivered
        if step.due:
            self.late_ms_max = max(self.late_ms_max, now_ms - step.due[0].due_ms)
        if dropped := len(step.due) - delivered:
            self.dropped += dropped
            log.warning("scheduled messages dropped: their topics are gone", count=dropped)

    def _batches(self, rows: list[Scheduled], now_ms: int) -> Iterator[Append]:
        """The records as batches for their partitions, in due order."""
        partitions: dict[int, list[Scheduled]] = {}
        for row in rows:
            partitions.setdefault(row.partition, []).append(row)
        for partition, mine in partitions.items():
            owner = self._topics.owner(partition)
            stamp = now_ms if owner is not None and owner[0].settings.log_append_time else None
            for part in _parts(mine):
                batch = build([record_of(row)._replace(timestamp=now_ms) for row in part], log_append_time_ms=stamp)
                yield Append(partition, parse_header(batch), batch)


def _parts(rows: list[Scheduled]) -> Iterator[list[Scheduled]]:
    part: list[Scheduled] = []
    size = 0
    for row in rows:
        size += len(row.body)
        if part and size > BATCH_BYTES_MAX:
            yield part
            part, size = [], len(row.body)
        part.append(row)
    yield part


def _changes(buffers: list[Buffer]) -> Iterator[Scheduled | Ended]:
    """What the log's batches say. What cannot be read is left out and logged."""
    for buffer in buffers:
        for header, batch in iter_batches(buffer):
            try:
                changes = [parse(record) for record in decode(batch, DECODED_BYTES_MAX)]
            except (BatchError, ValueError, struct.error) as error:
                log.error("a batch of the schedule cannot be read", offset=header.base_offset, reason=str(error))
                continue
            yield from (change for change in changes if change is not None)
