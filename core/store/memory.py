"""The in-memory engine: every rule of the interface, nothing kept after the process.

It answers as a remote engine would: an append "travels" for a random number of turns, later ones may arrive first, a
sequencer commits them in order and decides on their conditions only then, so nothing is known when `append` returns.
What is built on it has therefore met late answers, offsets it could not guess and several appends answered at once.
The order it makes is drawn from `seed`.

`run` must be running: `await nursery.start(engine.run)`. For tests and for trying things out: memory alone bounds it.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence

import trio

from core.store.engine import (
    Append,
    Appended,
    CreatePartition,
    DeletePartition,
    Done,
    DurableBatch,
    Entry,
    OffsetOutOfRange,
    Outcome,
    PartitionInfo,
    PartitionPolicy,
    ProducerState,
    Read,
    TimedOffset,
    UnknownPartition,
)
from core.store.lookup import first_record_from, offsets_of_key
from core.store.producers import ProducerTable
from trivium.record_batch import patch


class _Log:
    """One partition: batches in offset order, with the arrays that are searched."""

    def __init__(self) -> None:
        self.start = 0
        self.next_offset = 0
        self.batches: list[DurableBatch] = []
        self.lasts: list[int] = []
        self.positions: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.producers = ProducerTable()

    @property
    def last_stable(self) -> int:
        return self.producers.last_stable(self.next_offset, self.start)


class _Travelling:
    """An append on its way."""

    __slots__ = ("done", "entries", "turns_left")

    def __init__(self, turns_left: int, entries: list[Entry], done: Done) -> None:
        self.turns_left = turns_left
        self.entries = entries
        self.done = done


class MemoryEngine:
    """An `Engine` in memory. `travel_turns_max`: how many turns of the loop an append may take to arrive."""

    def __init__(self, *, seed: int = 0, travel_turns_max: int = 3, epoch: int = 1) -> None:
        self._random = random.Random(seed)
        self._travel_turns_max = travel_turns_max
        self._epoch = epoch
        self._position = 0
        self._logs: dict[int, _Log] = {}
        self._used: set[int] = set()
        self._travelling: deque[_Travelling] = deque()  # in append order
        self._wake = trio.Event()
        self._watchers: dict[int, list[Callable[[int], None]]] = {}
        self._listeners: list[Callable[[list[DurableBatch]], None]] = []

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def position(self) -> int:
        return self._position

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commits what arrives until cancelled; then what is still on its way is committed, as a clean stop does."""
        task_status.started()
        try:
            while True:
                while not self._travelling:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await trio.lowlevel.checkpoint()
                for item in self._travelling:
                    item.turns_left -= 1
                self._commit_arrived()
        finally:
            while self._travelling:
                self._travelling[0].turns_left = 0
                self._commit_arrived()

    # Appending

    def append(self, entries: Sequence[Entry], done: Done) -> None:
        taken = [e._replace(batch=bytes(e.batch)) if isinstance(e, Append) else e for e in entries]
        self._travelling.append(_Travelling(self._random.randint(1, self._travel_turns_max), taken, done))
        self._wake.set()

    def write_now(self) -> None:
        """Nothing to hurry: what is appended has begun to travel."""

    def _commit_arrived(self) -> None:
        """Commits the appends that have arrived, as far as no earlier one is still on its way."""
        answers: list[tuple[Done, list[Appended]]] = []
        durable: list[DurableBatch] = []
        moved: dict[int, None] = {}
        while self._travelling and self._travelling[0].turns_left <= 0:
            item = self._travelling.popleft()
            answers.append((item.done, self._commit(item.entries, durable, moved)))
        if durable:
            for listener in self._listeners:
                listener(durable)
        for done, appended in answers:
            done(appended)
        for partition in moved:
            for callback in tuple(self._watchers.get(partition, ())):
                callback(partition)

    def _commit(self, entries: Sequence[Entry], durable: list[DurableBatch], moved: dict[int, None]) -> list[Appended]:
        """Applies one append, or refuses all of it: it is made on copies of the tables' ends and taken back whole."""
        answers: list[Appended] = []
        undo: list[Callable[[], object]] = []
        batches: list[DurableBatch] = []
        position = self._position
        for entry in entries:
            skipped = isinstance(entry, Append) and entry.unless_duplicate and entry.partition in self._logs
            if skipped and any(a.outcome is Outcome.DUPLICATE for a in answers):
                answer = Appended(Outcome.DUPLICATE, -1, -1, self._logs[entry.partition].start)
            else:
                answer = self._apply(entry, position, undo, batches)
            answers.append(answer)
            if answer.outcome is Outcome.APPENDED:
                position += 1
        if any(a.outcome not in (Outcome.APPENDED, Outcome.DUPLICATE) for a in answers):
            for step in reversed(undo):
                step()
            taken = (Outcome.APPENDED, Outcome.DUPLICATE)
            return [Appended(Outcome.NOT_APPENDED) if a.outcome in taken else a for a in answers]
        self._position = position
        durable += batches
        for entry in entries:
            moved[entry.partition] = None
            log = self._logs.get(entry.partition)
            if log is not None:
                log.producers.durable(log.next_offset)
                log.producers.log_start_moved(log.start)
        return answers

    def _apply(
        self, entry: Entry, position: int, undo: list[Callable[[], object]], batches: list[DurableBatch]
    ) -> Appended:
        number = entry.partition
        log = self._logs.get(number)
        if isinstance(entry, CreatePartition):
            if number in self._used:
                return Appended(Outcome.UNKNOWN_PARTITION)
            self._logs[number] = _Log()
            self._used.add(number)
            undo += [lambda: self._logs.pop(number), lambda: self._used.discard(number)]
            return Appended(Outcome.APPENDED, -1, position, 0)
        if log is None:
            return Appended(Outcome.UNKNOWN_PARTITION)
        if isinstance(entry, DeletePartition):
            del self._logs[number]
            undo.append(lambda: self._logs.__setitem__(number, log))
            return Appended(Outcome.APPENDED, -1, position, -1)
        if isinstance(entry, Append):
            return self._apply_batch(log, entry, position, undo, batches)
        if entry.offset > log.next_offset:
            return Appended(Outcome.OFFSET_MISMATCH, log_start=log.start)
        before = log.start
        log.start = max(log.start, entry.offset)
        undo.append(lambda: setattr(log, "start", before))
        return Appended(Outcome.APPENDED, -1, position, log.start)

    def _apply_batch(
        self, log: _Log, entry: Append, position: int, undo: list[Callable[[], object]], batches: list[DurableBatch]
    ) -> Appended:
        header = entry.header
        base_offset = header.base_offset if entry.keep_offsets else log.next_offset
        if base_offset < log.next_offset or entry.if_next_offset not in (None, base_offset):
            return Appended(Outcome.OFFSET_MISMATCH, log_start=log.start)
        if header.producer_id >= 0:
            if not entry.keep_offsets:
                outcome, known = log.producers.check(header, entry.batch)
                if outcome is not Outcome.APPENDED:
                    return Appended(outcome, known, -1, log.start)
            log.producers.begin(header, base_offset, header.max_timestamp, entry.batch)
            undo.append(lambda: log.producers.roll_back(base_offset))
        batch = bytearray(entry.batch)
        patch(batch, base_offset, self._epoch)
        header = header._replace(base_offset=base_offset, leader_epoch=self._epoch)
        before = log.next_offset, log.epochs
        stored = DurableBatch(entry.partition, base_offset, position, header, bytes(batch))
        log.batches.append(stored)
        log.lasts.append(header.last_offset)
        log.positions.append(position)
        log.next_offset = header.next_offset
        if not log.epochs or log.epochs[-1][0] < self._epoch:
            log.epochs = [*log.epochs, (self._epoch, base_offset)]

        def take_back() -> None:
            log.next_offset, log.epochs = before
            for column in (log.batches, log.lasts, log.positions):
                column.pop()

        undo.append(take_back)
        batches.append(stored)
        return Appended(Outcome.APPENDED, base_offset, position, log.start)

    # Reading

    def _log(self, partition: int) -> _Log:
        log = self._logs.get(partition)
        if log is None:
            raise UnknownPartition(partition)
        return log

    def read_nowait(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read | None:
        log = self._log(partition)
        high_watermark = log.next_offset
        if not log.start <= offset <= high_watermark:
            raise OffsetOutOfRange(partition, offset)
        end = log.last_stable if committed else high_watermark
        buffers: list[memoryview] = []
        size = 0
        after = offset
        for i in range(bisect_left(log.lasts, offset), len(log.batches)):
            batch = log.batches[i].batch
            if log.batches[i].base_offset >= end or (size + len(batch) > bytes_max and (buffers or not first_whole)):
                break
            buffers.append(memoryview(batch))
            size += len(batch)
            after = log.lasts[i] + 1
        aborted = log.producers.aborted(offset, after) if committed and buffers else []
        return Read(buffers, size, log.start, high_watermark, log.last_stable, aborted)

    async def read(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read:
        await trio.lowlevel.checkpoint()
        found = self.read_nowait(partition, offset, bytes_max, committed=committed, first_whole=first_whole)
        assert found is not None
        return found

    def watch(self, partition: int, callback: Callable[[int], None]) -> None:
        self._watchers.setdefault(partition, []).append(callback)

    def unwatch(self, partition: int, callback: Callable[[int], None]) -> None:
        watchers = self._watchers.get(partition, [])
        if callback in watchers:
            watchers.remove(callback)
        if not watchers:
            self._watchers.pop(partition, None)

    def add_tail_listener(self, listener: Callable[[list[DurableBatch]], None]) -> None:
        self._listeners.append(listener)

    def info(self, partition: int) -> PartitionInfo:
        log = self._log(partition)
        first = bisect_left(log.lasts, log.start)
        live = log.batches[first:]
        return PartitionInfo(
            log.start,
            log.next_offset,
            log.last_stable,
            log.next_offset,
            sum(len(b.batch) for b in live),
            max((b.header.max_timestamp for b in live), default=-1),
        )

    def partitions(self) -> list[int]:
        return sorted(self._logs)

    def set_policy(self, partition: int, policy: PartitionPolicy) -> None:
        self._log(partition)  # nothing is ever dropped here but by DeleteBefore

    async def offset_at(self, partition: int, position: int) -> int:
        log = self._log(partition)
        i = bisect_left(log.positions, position)
        return max(log.batches[i].base_offset, log.start) if i < len(log.batches) else log.next_offset

    def position_at(self, partition: int, offset: int) -> int:
        log = self._log(partition)
        i = bisect_left(log.lasts, offset)
        return log.positions[i] if i < len(log.positions) else self._position

    async def offset_for_time(self, partition: int, timestamp_ms: int) -> TimedOffset | None:
        await trio.lowlevel.checkpoint()
        log = self._log(partition)
        for stored in log.batches[bisect_left(log.lasts, log.start) :]:
            found = first_record_from(stored.batch, timestamp_ms, log.start)
            if found is not None:
                return found
        return None

    async def max_timestamp(self, partition: int) -> TimedOffset | None:
        largest = self.info(partition).max_timestamp_ms
        return await self.offset_for_time(partition, largest) if self._log(partition).batches else None

    def epoch_end(self, partition: int, epoch: int) -> tuple[int, int]:
        log = self._log(partition)
        i = bisect_right(log.epochs, epoch, key=lambda e: e[0])
        if i == 0:
            return -1, -1
        return log.epochs[i - 1][0], log.epochs[i][1] if i < len(log.epochs) else log.next_offset

    def epoch_of(self, partition: int, offset: int) -> int:
        log = self._log(partition)
        i = bisect_right(log.epochs, offset, key=lambda e: e[1])
        return log.epochs[i - 1][0] if i and offset < log.next_offset else -1

    def producers(self, partition: int) -> list[ProducerState]:
        return self._log(partition).producers.states()

    async def offsets_for_key(self, partition: int, key: bytes, *, from_offset: int, count_max: int) -> list[int]:
        await trio.lowlevel.checkpoint()
        log = self._log(partition)
        found: list[int] = []
        for stored in log.batches[bisect_left(log.lasts, max(from_offset, log.start)) :]:
            if not stored.header.is_control:
                found += offsets_of_key(stored.batch, key, from_offset)
            if len(found) >= count_max:
                break
        return found[:count_max]
