"""The embedded engine: the log on the local disk, in this process. What an append goes through:

    append     conditions and producers are checked, offsets and positions given, base offset and leader epoch
               patched into a copy of the batch; the item goes to the writer's queue
    writer     a task: everything waiting becomes one group: one write, one sync in the kernel (`writer`)
    written    watermarks, index, ring of recent batches; then tail listeners, `done`, watchers

Rules:
* State belongs to the trio thread. Other threads get what they need as arguments and hand back results.
* What is assigned but not durable can be taken back as a whole: appends that found no room are, and what came after.
* What is assigned but not durable is bounded (`pending_bytes_max`): an append beyond it finds no room. Gateways have
  tighter bounds of their own; this one is for who has none.
* At each roll to a new segment the durable state is exactly that at the end of the old one: it is taken then, and
  written as checkpoint once the old segment is sealed.

How to run it: `engine = EmbeddedEngine(directory, EngineConfig())`, `await nursery.start(engine.run)`. `run` serves
until it is cancelled, then writes what is waiting, seals, and leaves a checkpoint: the next start replays nothing. It
raises StoreUnusable or OSError when the store cannot be opened, StoreFailed when it cannot go on.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
import trio

from core.store import checkpoint
from core.store.assigner import ACCEPTED, Assigner
from core.store.disk import Disk, Lock, RealDisk
from core.store.engine import (
    Appended,
    Done,
    DurableBatch,
    Entry,
    Outcome,
    StoreFailed,
    StoreUnusable,
)
from core.store.index import Block, Extents, Footer
from core.store.log_files import Segment, seal
from core.store.partition import HotRing, OpenBlock, Partition, Range
from core.store.read_pace import ReadPace
from core.store.reader import Reader
from core.store.recovery import recover
from core.store.replay import Recovered, retire
from core.store.segment import EntryKind
from core.store.settler import Settler
from core.store.settling import EngineHost
from core.store.supply import NO_ROOM, Room, Supply
from core.store.views import Views
from core.store.writer import Group, Item, Writer, WriterState

LOCK_NAME = "lock"
_SWITCH_INTERVAL_S = 0.0005  # the loop does not wait longer than this for threads that read, settle or write zeros
_ROOM_INTERVAL_S = 1.0
_EXPIRE_INTERVAL_S = 60.0
_PARTITIONS_PER_STEP = 256


_log = structlog.get_logger("store")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`sync` acknowledges what is on the disk, `async` what is written, and syncs every `flush_interval_ms`."""

    flush: Literal["sync", "async"] = "sync"
    flush_interval_ms: int = 1_000
    segment_bytes: int = 256 * 1024 * 1024
    reserve_bytes: int = 256 * 1024 * 1024  # of the disk: with less free, writes are refused
    pending_bytes_max: int = 512 * 1024 * 1024  # of batches on their way to the disk; with more, writes are refused
    hot_bytes_max: int = 32 * 1024 * 1024
    hot_batches_max: int = 32_768
    producer_expiry_ms: int = 86_400_000
    settle_interval_ms: int = 30_000  # retention, compaction, giving room back
    settle_bytes_per_s_max: int = 32 * 1024 * 1024  # read and written together; 0: no limit


class StoreLocked(StoreUnusable):
    """Another process serves this directory."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class EmbeddedEngine(Views):
    """An `Engine` over one directory. `disk` replaces the directory in tests."""

    def __init__(
        self,
        directory: Path | str,
        config: EngineConfig | None = None,
        *,
        disk: Disk | None = None,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self.config = config or EngineConfig()
        self._directory = Path(directory)
        self._disk = disk
        self._now_ms = now_ms
        self._partitions: dict[int, Partition] = {}  # durable
        self._retired: list[Range] = []
        self._epoch = self._position = self._sequence = 0
        self._in_flight: deque[Item] = deque()
        self._pending_bytes = 0  # of these
        self._pending_bytes_max = self.config.pending_bytes_max
        self._hot = HotRing(self.config.hot_bytes_max, self.config.hot_batches_max)
        self._segment: Segment | None = None
        self._to_seal: deque[tuple[Segment, bytes]] = deque()
        self._sealed_number = 0  # the newest segment that has its footer
        self._work = trio.Event()
        self._listeners: list[Callable[[list[DurableBatch]], None]] = []
        self._failure: Exception | None = StoreFailed("the store is not open")
        self._failed = trio.Event()
        self._appended_batches = self._appended_bytes = 0

    # Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens the store, serves until cancelled, closes it. Raises as the module says."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._soon = trio.lowlevel.current_trio_token().run_sync_soon
        lock = await trio.to_thread.run_sync(self._open_disk)
        try:
            recovered = await trio.to_thread.run_sync(recover, self.disk, self._now_ms())
            self._take_over(recovered)
            self._supply.start()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_writing)
                    nursery.start_soon(self._keep_house)
                    nursery.start_soon(self._keep_settled)
                    if self.config.flush == "async":
                        nursery.start_soon(self._keep_flushing)
                    task_status.started()
                    try:
                        await self._failed.wait()
                        raise StoreFailed("the disk failed") from self._failure
                    finally:
                        self._writer.stop()
            finally:
                with trio.CancelScope(shield=True):
                    await self._close()
        finally:
            lock.release()

    def _open_disk(self) -> Lock:
        if self._disk is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._disk = RealDisk(self._directory)
        self.disk = self._disk
        try:
            return self.disk.lock(LOCK_NAME)
        except BlockingIOError:
            raise StoreLocked(f"{self._directory} is in use by another process") from None

    def _take_over(self, recovered: Recovered) -> None:
        """Becomes what was found on the disk."""
        self.recovered = recovered
        self._epoch = recovered.epoch
        self._position = recovered.position
        self._sequence = recovered.sequence
        self._partitions = recovered.partitions
        self._retired = recovered.retired
        self._assigner = Assigner(self._epoch, self._position, self._partitions, self._retired, self._now_ms)
        self.files = recovered.files
        self._reader = Reader(self.files, ReadPace(lambda: self._appended_bytes, lambda: self._writer.sync_s))
        self._room = Room(self.disk, self.config.reserve_bytes)
        self._room.look()
        sync = self.config.flush == "sync"
        self._supply = Supply(self.disk, self._room, recovered.log_number, self.config.segment_bytes, zeros=sync)
        self._writer = Writer(
            self._supply,
            self._room,
            WriterState(self._epoch, recovered.sequence, recovered.position),
            sync,
            self._written,
            self._no_room,
            self._fail,
        )
        self._put = self._writer.put
        self._checkpoint_log_number = recovered.log_number
        self.settler = Settler(
            EngineHost(self),
            self.disk,
            recovered.manifest,
            now_ms=self._now_ms,
            interval_ms=self.config.settle_interval_ms,
            bytes_per_s_max=self.config.settle_bytes_per_s_max,
        )
        self._failure = None
        for finding in recovered.findings:
            _log.error("damage found in the store", finding=finding)
        _log.info(
            "store open",
            epoch=self._epoch,
            partitions=len(self._partitions),
            files=len(self.files),
            replayed_groups=recovered.replayed_groups,
            cut_bytes=recovered.cut_bytes,
        )

    async def _close(self) -> None:
        """The writer has ended: seals and leaves a checkpoint, unless the disk has failed."""
        failed = self._failure is not None
        self._failure = self._failure or StoreFailed("the store is closed")
        self._answer_all(Outcome.FAILED)
        await trio.to_thread.run_sync(self._supply.stop, not failed)
        if failed:
            return
        if self._segment is not None:
            self._roll(self._segment)
        try:
            await self._seal_all()
            data = self._checkpoint(self._supply.next_number)
            await trio.to_thread.run_sync(checkpoint.write, self.disk, data)
        except OSError as e:
            if not self._may_seal_later(e):
                raise StoreFailed("the disk failed while stopping") from e

    async def _keep_writing(self) -> None:
        try:
            await self._writer.run()
        except BaseException as e:
            self._failure = self._failure or StoreFailed(f"a fault in the writer: {e!r}")  # no checkpoint of this
            raise

    async def _keep_house(self) -> None:
        """Seals segments, looks for room on the disk, forgets idle producers."""
        expire_at = trio.current_time() + _EXPIRE_INTERVAL_S
        while True:
            with trio.move_on_after(_ROOM_INTERVAL_S):
                await self._work.wait()
            self._work = trio.Event()
            try:
                self._room.look()
                await self._seal_all()
            except OSError as e:
                if not self._may_seal_later(e):
                    self._fail(e)
            if trio.current_time() >= expire_at:
                expire_at = trio.current_time() + _EXPIRE_INTERVAL_S
                for p in self._partitions.values():
                    if p.producers is not None:
                        p.producers.expire(self._now_ms(), self.config.producer_expiry_ms)

    async def _keep_settled(self) -> None:
        try:
            await self.settler.run()
        except OSError as e:
            self._fail(e)

    async def _keep_flushing(self) -> None:
        while True:
            await trio.sleep(self.config.flush_interval_ms / 1000)
            try:
                await self._writer.flush()
            except OSError as e:
                self._fail(e)

    # Appending

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def position(self) -> int:
        return self._position

    def append(self, entries: Sequence[Entry], done: Done) -> None:
        if self._failure is not None:
            self._soon(done, [Appended(Outcome.FAILED)] * len(entries))
            return
        full = self._room.full or self._pending_bytes >= self._pending_bytes_max
        item = self._assigner.take(entries, done, full)
        self._pending_bytes += item.size
        self._in_flight.append(item)
        self._put(item)

    def write_now(self) -> None:
        self._writer.write_now()

    # Written

    def _written(self, group: Group) -> None:
        """A group is durable (or written, when `flush = async`). On the loop, in the order of the groups."""
        if self._failure is not None:
            return  # the disk failed elsewhere: every append has been answered
        durable: list[DurableBatch] = []
        moved: dict[Partition, None] = {}
        segment = group.segment
        if segment is not None:
            if segment is not self._segment:
                if self._segment is not None:
                    self._roll(self._segment)
                self._segment = segment
            place = group.batches_place
            for item in group.items:
                for p, change in item.changes:
                    if change.__class__ is DurableBatch:
                        self._index(p, segment, place, change)
                        place += len(change.batch)
                        durable.append(change)
                    else:
                        self._apply(p, *change)
                    if p.watchers:
                        moved[p] = None
            segment.groups_end = group.end_place
            self._position = group.end_position
            self._sequence += 1
            self._appended_batches += len(durable)
            self._appended_bytes += place - group.batches_place
            if durable:
                for listener in self._listeners:
                    listener(durable)
        pop = self._in_flight.popleft
        for item in group.items:
            pop()
            self._pending_bytes -= item.size
            item.done(item.answers)
        for p in moved:
            for callback in tuple(p.watchers):
                callback(p.number)

    def _index(self, p: Partition, segment: Segment, place: int, stored: DurableBatch) -> None:
        """Makes a batch readable."""
        _, base_offset, position, header, batch = stored
        delta = header.last_offset_delta
        opened = p.open
        if opened and opened[-1].segment is segment:
            block = opened[-1].block
        else:
            block = segment.blocks[p.number] = Block()
            opened.append(OpenBlock(segment, block))
        block.append(base_offset, position, header.max_timestamp, place, len(batch), delta)
        end = p.high_watermark = base_offset + delta + 1
        if p.producers is not None:
            p.producers.durable(end)
        if not p.epochs or p.epochs[-1][0] != self._epoch:
            p.add_epoch(self._epoch, base_offset)
        self._hot.add(p, base_offset, end - 1, batch)  # type: ignore[arg-type]

    def _apply(self, p: Partition, kind: EntryKind, value: int) -> None:
        if kind is EntryKind.CREATE:
            self._partitions[p.number] = p
            self._assigner.created(p.number)
        elif kind is EntryKind.DELETE:
            self._partitions.pop(p.number, None)
            self.settler.wake()
            retire(self._retired, p.number)
        else:
            p.raise_log_start(value)

    def _no_room(self, error: OSError) -> None:
        """The writer met a full disk: everything on its way is taken back."""
        _log.warning("no room on the disk", error=str(error))
        self._room.full = True
        self._assigner.take_back_all(self._position)
        self._answer_all(Outcome.FULL)

    def _fail(self, error: OSError) -> None:
        """The disk failed: nothing more is acknowledged, ever."""
        if self._failure is None:
            _log.critical("the disk failed", error=str(error))
            self._failure = error
            self._answer_all(Outcome.FAILED)
        self._failed.set()

    def _answer_all(self, outcome: Outcome) -> None:
        waiting = list(self._in_flight)
        self._in_flight.clear()
        self._pending_bytes = 0
        for item in waiting:
            accepted = all(a.outcome in ACCEPTED for a in item.answers)
            item.done([Appended(outcome, log_start=a.log_start) for a in item.answers] if accepted else item.answers)

    # Segments

    def _checkpoint(self, log_number: int) -> bytes:
        return checkpoint.encode(
            self._epoch, log_number, self._sequence, self._position, self._partitions.values(), self._retired
        )

    def _roll(self, segment: Segment) -> None:
        """A segment is full and all of it is indexed."""
        self._to_seal.append((segment, self._checkpoint(segment.number + 1)))
        self._segment = None
        self._work.set()

    def _may_seal_later(self, error: OSError) -> bool:
        """With `sync` the segment itself is durable: a footer or checkpoint that there is no room for can wait, or the
        next start makes it. After any other failure nothing may go on."""
        if error.errno not in NO_ROOM or self.config.flush != "sync":
            return False
        _log.warning("no room to seal a segment", error=str(error))
        self._room.full = True
        return True

    async def _seal_all(self) -> None:
        while self._to_seal:
            segment, data = self._to_seal[0]
            if segment.number > self._sealed_number:  # else it was, and then there was no room or no time left
                with trio.CancelScope(shield=True):
                    await self._sealed(segment, await trio.to_thread.run_sync(seal, segment))
                self._sealed_number = segment.number
            await trio.to_thread.run_sync(checkpoint.write, self.disk, data)
            self._checkpoint_log_number = segment.number + 1
            self._to_seal.popleft()

    async def _sealed(self, segment: Segment, footer: Footer) -> None:
        """From now on the footer says where the segment's batches are; for each partition in one step of the loop."""
        file_id = self.files.add(segment.file.name, footer, segment.file)
        for n, row in enumerate(footer.rows, 1):
            p = self._partitions.get(row.partition)
            if p is not None:
                p.open = [o for o in p.open if o.segment is not segment]
                if p.extents is None:
                    p.extents = Extents()
                p.extents.insert(file_id, row)
                self.files.keep(p.extents.get(p.extents.find(row.first_offset)), segment.blocks[row.partition])
            if n % _PARTITIONS_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        segment.blocks = {}

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and sizes now."""
        return {
            "appended_batches": self._appended_batches,
            "appended_bytes": self._appended_bytes,
            "groups": self._writer.groups,
            "in_flight_appends": len(self._in_flight),
            "pending_bytes": self._pending_bytes,
            "hot_batches": len(self._hot),
            "hot_bytes": self._hot.size_bytes,
            "cold_reads": self._reader.cold_reads,
            "partitions": len(self._partitions),
            "sealed_files": len(self.files),
            "full": int(self._room.full),
        }
