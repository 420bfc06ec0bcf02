"""The settler: gives room back and brings order, beside the engine, when it pays.

    retention -> log starts rise, by entries in the log
    survey    -> files without anything alive are unlinked; mostly dead ones are written anew with others (`survey`)
    cleaning  -> partitions that are due are compacted (`compaction`)

Rules:
* It decides and swaps on the trio thread; it reads and writes in one worker thread, throttled, a few MiB at a time.
* What makes batches dead is durable before they go: a log start that a power cut takes back must not leave a hole.
* New files are durable, then the manifest that names them instead of the old ones, then the engine's extents change, in
  one step; then the old files are unlinked. Readers that hold an old file go on reading it.
* It touches sealed files only, and log segments only below the checkpoint: recovery needs the others as they are.
* Of one partition, neighbouring rows are merged or none: a row never spans what stays in another file.
* A damaged file is reported once and never written anew: damage must not be hidden by copying.
* A disk that fails, or a manifest that may or may not be written, ends the engine (OSError leaves `run`); a full disk
  only ends what it was doing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from core.store import key_index
from core.store import manifest as manifests
from core.store.cleaning import clean, plan_cleaning, wants_seal
from core.store.compaction import CleanState
from core.store.disk import Disk
from core.store.engine import AbortedTxn, Appended, DeleteBefore, Entry, Outcome
from core.store.index import Block, Extent, Extents, Row
from core.store.log_files import SealedFiles, log_number
from core.store.manifest import GoneAborted, Manifest, forget_aborted, settled_name, settled_number
from core.store.merge import Damaged, Merged, merge
from core.store.pace import Pace
from core.store.partition import Partition
from core.store.retention import Retention
from core.store.segment import BadFile
from core.store.supply import NO_ROOM
from core.store.survey import DEAD_SHARE_MIN, FileState, dead_files, live_sources, look_at, worth_rewriting

T = TypeVar("T")

log = structlog.get_logger(__name__)

BYTES_PER_S_MAX = 32 * 1024 * 1024  # read and written together: what leaves the log's syncs alone
INTERVAL_MS = 30_000
SHORT_PAUSE_MS = 5_000  # how soon it looks again at most
ROLL_DEAD_BYTES_MIN = 4 * 1024 * 1024
_SEAL_WAIT_S = 5.0
_PARTITIONS_PER_TURN = 256
_KEY_INDEX_COST = 4  # a byte indexed takes as much of the processor as so many merged


class Host(Protocol):
    """What the settler needs of the engine. Everything belongs to the trio thread."""

    @property
    def epoch(self) -> int: ...

    @property
    def checkpoint_log_number(self) -> int:
        """Log segments below are not needed to recover: the checkpoint has what they did."""

    def living_partitions(self) -> dict[int, Partition]: ...

    @property
    def sealed_files(self) -> SealedFiles: ...

    @property
    def scattered_reads(self) -> dict[str, int]:
        """How often readers found a file cold and its batches far apart."""

    def open_dead_share(self) -> tuple[int, float]:
        """Dead bytes of the segment that is being written, and their share of it."""

    async def flush(self) -> None:
        """Makes durable what the log says now, log starts and deletions among it."""

    async def roll(self) -> None:
        """Ends the segment that is being written, if there is a partition left to write to."""

    async def load_block(self, extent: Extent) -> Block: ...

    async def append_entries(self, entries: Sequence[Entry]) -> list[Appended]: ...

    def room_pressed(self) -> bool:
        """Whether the disk is nearly full."""

    @property
    def open_log_number(self) -> int:
        """The log segment that is being written: a checkpoint above it holds all that is known now."""


@dataclass
class SettlerStatistics:
    """Since the start. `merged_*` counts bytes of batches."""

    log_starts_moved: int = 0
    files_unlinked: int = 0
    merges: int = 0
    cleans: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    damaged_files: int = 0
    key_indexes: int = 0


class Settler:
    """Keeps one store's files in order. `bytes_per_s_max` 0: as fast as it can."""

    def __init__(
        self,
        host: Host,
        disk: Disk,
        manifest: Manifest,
        *,
        now_ms: Callable[[], int],
        interval_ms: int = INTERVAL_MS,
        bytes_per_s_max: int = BYTES_PER_S_MAX,
        roll_dead_bytes_min: int = ROLL_DEAD_BYTES_MIN,
    ) -> None:
        self._host = host
        self._disk = disk
        self.manifest = manifest
        self._now_ms = now_ms
        self._interval_s = interval_ms / 1000
        self._rate = bytes_per_s_max
        self._roll_dead_bytes_min = roll_dead_bytes_min
        self._retention = Retention(host.load_block)
        self._looked_ms = now_ms()  # when it last saw which segment was open
        self._open_number = -1
        self._open_since_ms = self._looked_ms  # that segment was not open before
        self._wake = trio.Event()
        self._turn = trio.Lock()
        self._threads = trio.CapacityLimiter(1)
        self._damaged: set[str] = set()
        self._indexed: dict[str, set[int]] | None = None  # file name -> partitions in its key index
        self.statistics = SettlerStatistics()

    def wake(self) -> None:
        """Something may pay now: a partition was deleted, a segment sealed, the disk is filling."""
        self._wake.set()

    async def run(self) -> None:
        """Settles for ever. Raises OSError when the disk fails."""
        while True:
            began = trio.current_time()
            while (left_s := began + self._pause_s() - trio.current_time()) > 0 and not self._wake.is_set():
                with trio.move_on_after(min(left_s, SHORT_PAUSE_MS / 1000)):
                    await self._wake.wait()
            self._wake = trio.Event()
            await self.run_once()
            await trio.sleep(min(1.0, self._interval_s))  # what comes in bursts is done together

    def _pause_s(self) -> float:
        """Until it looks again: sooner where records have come that somebody wants compacted or gone soon."""
        soon_ms = INTERVAL_MS
        for p in self._host.living_partitions().values():
            if p.open and p.open[-1].block.end_offset > p.log_start:
                policy = p.policy
                if policy.compact:
                    soon_ms = min(soon_ms, policy.segment_ms)
                elif policy.delete and policy.retention_ms >= 0:
                    soon_ms = min(soon_ms, policy.retention_ms)
        return min(self._interval_s, max(soon_ms, SHORT_PAUSE_MS) / 1000)

    async def run_once(self) -> None:
        """Does everything that pays now; waits for its turn if it is being done."""
        try:
            async with self._turn:
                await self._retain()
                await self._roll_if_due()
                await self._drop_dead()
                await self._clean_due()
                while await self._rewrite():
                    pass
                await self._index_keys()
        except OSError as e:
            if e.errno not in NO_ROOM:
                raise
            log.warning("settling waits for room on the disk", error=str(e))

    # Retention

    async def _retain(self) -> None:
        moves = []
        pressed = self._host.room_pressed()
        self._retention.keep_only(self._host.living_partitions())
        for i, partition in enumerate(list(self._host.living_partitions().values())):
            if i % _PARTITIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            try:
                start = await self._retention.new_log_start(partition, self._now_ms(), pressed=pressed)
            except BadFile as e:
                log.error("no retention over a damaged index", partition=partition.number, error=str(e))
                continue
            if start > partition.log_start:
                moves.append(DeleteBefore(partition.number, start))
        for move in moves:  # one by one: a partition deleted meanwhile must not refuse the others
            [answer] = await self._host.append_entries([move])
            if answer.outcome is Outcome.APPENDED:
                self.statistics.log_starts_moved += 1

    async def _roll_if_due(self) -> None:
        """Ends the open segment when most of it is dead, since only sealed files give room back; or when records in it
        have waited for compaction as long as they may (KIP-354, where it is the first record of the segment too)."""
        dead_bytes, share = self._host.open_dead_share()
        number = self._host.open_log_number
        now_ms = self._now_ms()
        if number != self._open_number:
            self._open_number, self._open_since_ms = number, self._looked_ms
        self._looked_ms = now_ms
        dead = dead_bytes >= self._roll_dead_bytes_min and share >= DEAD_SHARE_MIN
        if not dead and not wants_seal(self._host.living_partitions(), number, now_ms - self._open_since_ms, now_ms):
            return
        await self._host.roll()
        with trio.move_on_after(_SEAL_WAIT_S):
            while self._host.checkpoint_log_number <= number:  # noqa: ASYNC110  rare, and seals are not announced
                await trio.sleep(_SEAL_WAIT_S / 100)

    # Dead and sparse files

    def _candidates(self) -> list[tuple[int, str]]:
        """Sealed files that recovery does not need as they are, and that are not damaged."""
        below = self._host.checkpoint_log_number
        return [
            (file_id, name)
            for file_id, name in self._host.sealed_files
            if name not in self._damaged and ((number := log_number(name)) is None or number < below)
        ]

    def _log_starts(self) -> dict[int, int]:
        return {number: p.log_start for number, p in self._host.living_partitions().items()}

    async def _survey(self) -> list[FileState]:
        candidates = self._candidates()
        states = await self._in_thread(
            look_at,
            self._disk,
            candidates,
            self._log_starts(),
            {name: set(numbers) for name, numbers in self.manifest.dropped.items()},
            Pace(self._rate),
        )
        for name in {name for _, name in candidates} - {state.name for state in states}:
            self._found_damage(BadFile("damaged directory: the next start makes it anew"), [name])
        return states

    async def _drop_dead(self) -> None:
        dead = dead_files(await self._survey())
        if dead:
            await self._swap(Merged(), dead, {})

    async def _rewrite(self) -> bool:
        """Writes sparse files anew, once; False when nothing (more) pays."""
        states = await self._survey()
        free = self._disk.free_bytes()
        chosen = worth_rewriting(
            states, self._host.scattered_reads, pressed=self._host.room_pressed(), live_bytes_max=free // 2
        )
        chosen = await self._neighbours(chosen)
        if not chosen:
            return False
        names = [state.name for state in chosen]
        log_starts, dropped = self._log_starts(), self.manifest.copy().dropped
        number, epoch = self.manifest.next_settled, self._host.epoch

        def work() -> Merged:
            sources = live_sources(self._disk, names, log_starts, dropped)
            return merge(self._disk, sources, log_starts, {}, number, epoch, Pace(self._rate))

        try:
            merged = await self._in_thread(work)
        except (Damaged, BadFile) as e:
            self._found_damage(e, names)
            return True
        self.statistics.merges += 1
        await self._swap(merged, chosen, {})
        return True

    async def _neighbours(self, chosen: list[FileState]) -> list[FileState]:
        """Leaves out files until no partition has a row outside between two rows inside."""
        strangers = {0}
        while strangers and len(chosen) > 1:
            ids = {state.file_id for state in chosen}
            strangers = set()
            for i, partition in enumerate(list(self._host.living_partitions().values())):
                if partition.extents is not None:
                    strangers |= _second_stretch(partition.extents, ids)
                if i % _PARTITIONS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            chosen = [state for state in chosen if state.file_id not in strangers]
        return chosen

    def _found_damage(self, error: Exception, names: Iterable[str]) -> None:
        name = error.name if isinstance(error, Damaged) else next(iter(names))
        self._damaged |= {name} if isinstance(error, Damaged) else set(names)
        self.statistics.damaged_files += 1
        log.error("damaged file: it stays as it is", file=name, error=str(error))

    # Compaction

    async def _clean_due(self) -> None:
        done: set[int] = set()
        while True:
            usable = {file_id for file_id, _ in self._candidates()}
            works = plan_cleaning(
                self._host.living_partitions(),
                self.manifest.clean,
                self._host.sealed_files,
                usable,
                self._now_ms(),
                done,
            )
            if not works:
                return
            number, epoch = self.manifest.next_settled, self._host.epoch
            try:
                cleaned = await self._in_thread(
                    clean, self._disk, works, number, epoch, self._now_ms(), Pace(self._rate)
                )
            except (Damaged, BadFile) as e:
                self._found_damage(e, {name for work in works for _, name, _ in work.rows})
                continue
            if cleaned.unreadable:
                log.warning("batches that cannot be decoded are not compacted", batches=cleaned.unreadable)
            done |= cleaned.states.keys()
            self.statistics.cleans += len(cleaned.states)
            replaced = {w.partition: [(i, name) for i, name, _ in w.rows] for w in works if w.partition in done}
            await self._swap(cleaned.merged, [], cleaned.states, replaced, cleaned.gone_aborted)

    # Key indexes

    async def _index_keys(self) -> None:
        """Makes what is missing: key indexes of sealed files for the partitions that want one."""
        if self._indexed is None:
            self._indexed = await self._in_thread(key_index.tidy, self._disk)
        wanted: dict[int, set[int]] = {}
        for number, partition in self._host.living_partitions().items():
            if partition.policy.key_index and partition.extents is not None:
                for file_id in partition.extents.file_ids():
                    wanted.setdefault(file_id, set()).add(number)
        for file_id, name in self._candidates():
            numbers = wanted.get(file_id, set())
            if not numbers <= self._indexed.get(name, set()):
                try:
                    await self._in_thread(
                        key_index.build_for, self._disk, name, numbers, Pace(self._rate // _KEY_INDEX_COST)
                    )
                    self._indexed[name] = numbers
                    self.statistics.key_indexes += 1
                except (Damaged, BadFile) as e:
                    self._found_damage(e, [name])

    # Swapping

    async def _swap(
        self,
        merged: Merged,
        dead: Collection[FileState],
        states: Mapping[int, CleanState],
        replaced: Mapping[int, Sequence[tuple[int, str]]] | None = None,
        gone_aborted: Sequence[tuple[int, AbortedTxn]] = (),
    ) -> None:
        """Puts the outputs in the place of dead files, and of the replaced (partition -> files) rows."""
        self.statistics.bytes_read += merged.bytes_read
        self.statistics.bytes_written += merged.bytes_written
        new = self.manifest.copy()
        for output in merged.outputs:
            new.settled.add(output.number)
            new.next_settled = max(new.next_settled, output.number + 1)
        for state in dead:
            if (number := log_number(state.name)) is not None:
                new.dead_logs.add(number)
            elif (settled := settled_number(state.name)) is not None:
                new.settled.discard(settled)
            new.dropped.pop(state.name, None)
        for partition_number, files in (replaced or {}).items():
            for _, name in files:
                new.dropped.setdefault(name, set()).add(partition_number)
        living = self._host.living_partitions()
        new.gone_aborted = [g for g in new.gone_aborted if g.log_number >= self._host.checkpoint_log_number]
        new.gone_aborted += [
            GoneAborted(number, txn.producer_id, txn.last_offset, self._host.open_log_number)
            for number, txn in gone_aborted
        ]
        new.clean = {number: state for number, state in {**new.clean, **states}.items() if number in living}
        await self._host.flush()
        await self._in_thread(manifests.write, self._disk, new)
        self.manifest = new
        forget_aborted(living, new)
        await self._install(merged, {state.file_id for state in dead}, replaced or {})
        for number, cleaned in states.items():
            if partition := living.get(number):
                partition.hot_from = cleaned.clean_until
        if dead:
            await self._in_thread(self._unlink, [state.name for state in dead])
            for state in dead:
                self._host.scattered_reads.pop(state.name, None)
                if self._indexed is not None:
                    self._indexed.pop(state.name, None)
                if (number := log_number(state.name)) is not None:
                    self.manifest.dead_logs.discard(number)
            self.statistics.files_unlinked += len(dead)

    async def _install(self, merged: Merged, gone: set[int], replaced: Mapping[int, Sequence[tuple[int, str]]]) -> None:
        """Changes the engine's extents; those of one partition in one step of the loop."""
        files = self._host.sealed_files
        new: dict[int, list[tuple[int, Row]]] = {}
        for output in merged.outputs:
            file_id = files.add(settled_name(output.number), output.footer, output.file)
            for row in output.footer.rows:
                new.setdefault(row.partition, []).append((file_id, row))
        for i, (number, partition) in enumerate(list(self._host.living_partitions().items())):
            old = {file_id for file_id, _ in replaced.get(number, ())}
            if partition.extents is not None and (gone or old):
                partition.extents.remove(gone | old)
            for file_id, row in new.get(number, ()):
                if partition.extents is None:
                    partition.extents = Extents()
                partition.extents.insert(file_id, row)
            if i % _PARTITIONS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        files.remove(gone)

    def _unlink(self, names: Sequence[str]) -> None:
        for name in names:
            self._disk.unlink(name)
            key_index.remove(self._disk, name)
        self._disk.sync_directory()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(work, *args), limiter=self._threads)


def _second_stretch(extents: Extents, ids: Collection[int]) -> set[int]:
    """Files of `ids` that hold rows of this partition behind a row of another file behind a row of `ids`."""
    file_ids = extents.file_ids()
    inside = [i for i, file_id in enumerate(file_ids) if file_id in ids]
    if not inside or inside[-1] - inside[0] == len(inside) - 1:
        return set()
    return {file_ids[i] for n, i in enumerate(inside) if i != inside[0] + n}
