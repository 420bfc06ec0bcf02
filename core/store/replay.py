"""Replaying log segments: group after group into the state of all partitions.

How replay tells a torn end from damage: groups are written one after another, and each says up to which position the
log was durable when it was written. Where the chain of groups breaks, the next sound group behind, in this file or a
later one, is looked for. If it calls the break durable, that is *damage*: what is lost is reported and kept as damaged
ranges, and replay goes on behind it. If not, or if there is none, it is the *tail*, never acknowledged as durable: the
log is cut there. Nothing durable is ever cut, and offsets that what is lost may have had are not given out again: until
a later batch of the partition tells its end, the end is a guess that is never too low (`lost_groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.store import manifest
from core.store.disk import Disk, File
from core.store.index import Block, Footer
from core.store.log_files import SealedFiles, Segment, log_name, seal
from core.store.lost_groups import batches_of_lost_group, ends_after, last_delta
from core.store.partition import Partition, Range
from core.store.producers import ProducerTable
from core.store.segment import (
    FILE_HEADER_BYTES,
    BadFile,
    EntryHeader,
    EntryKind,
    FileHeader,
    Group,
    Window,
    batch_of,
    decode_file_header,
    find_group,
    read_group,
)
from trivium.record_batch import BatchHeader


@dataclass
class Recovered:
    """The state of a store that was just opened. `sequence`, `position`, `log_number` are the next ones."""

    epoch: int
    log_number: int
    sequence: int
    position: int
    partitions: dict[int, Partition]
    retired: list[Range]
    manifest: manifest.Manifest
    files: SealedFiles
    replayed_groups: int = 0
    cut_bytes: int = 0
    findings: list[str] = field(default_factory=list)  # damage, in words for the log


def retire(retired: list[Range], number: int) -> None:
    """Adds a partition number to the sorted ranges of numbers that were used and are gone."""
    for i, (first, end) in enumerate(retired):
        if number == end:
            retired[i] = Range(first, end + 1)
            if i + 1 < len(retired) and retired[i + 1].first == end + 1:
                retired[i : i + 2] = [Range(first, retired[i + 1].end)]
            return
        if number < first:
            if number + 1 == first:
                retired[i] = Range(number, end)
            else:
                retired.insert(i, Range(number, number + 1))
            return
    retired.append(Range(number, number + 1))


class Replay:
    """Replays log segments into a `Recovered`."""

    def __init__(self, disk: Disk, state: Recovered, now_ms: int, *, index_only: bool = False) -> None:
        self._disk = disk
        self._state = state
        self._now_ms = now_ms
        self._index_only = index_only
        self._segments: list[tuple[Segment, Window, FileHeader]] = []
        self._after_loss: set[int] | None = None  # partitions met since groups were lost; others may have a hole
        self._guessed: dict[int, int] = {}  # partition -> where the damage begins before its end, which is a guess

    def run(self, numbers: Sequence[int]) -> list[tuple[str, File, Footer]]:
        """Replays and seals; returns the sealed files. Unused and cut-off segments are removed."""
        state = self._state
        kept: list[tuple[str, File, Footer]] = []
        unused: list[str] = []
        for number in numbers:
            self._open(number, unused)
        at, place = 0, FILE_HEADER_BYTES
        while at < len(self._segments):
            segment, _, header = self._segments[at]
            state.epoch = max(state.epoch, header.epoch)
            place, done = self._replay_segment(at, place)
            segment.groups_end = place
            if done is None:
                break
            at, place = done
        for i, (segment, window, _) in enumerate(self._segments):
            if i > at or (not segment.blocks and segment.groups_end == FILE_HEADER_BYTES):
                unused.append(segment.file.name)
                continue
            state.cut_bytes += self._written_beyond(window, segment.groups_end) if i == at else 0
            kept.append((segment.file.name, segment.file, seal(segment)))
        self._report_guesses()
        for name in unused:
            self._disk.unlink(name)
        if kept or unused:
            self._disk.sync_directory()
        state.log_number = max([state.log_number, *(number + 1 for number in numbers)])
        return kept

    def _open(self, number: int, unused: list[str]) -> None:
        file = self._disk.open(log_name(number), write=True)
        try:
            header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
        except BadFile:
            unused.append(file.name)  # made ahead, or torn together with its first group
            return
        self._segments.append((Segment(number, file, file.size()), Window(file), header))

    def _written_beyond(self, window: Window, place: int) -> int:
        """How many bytes behind `place` were written: up to the last that is not of the zeros written ahead."""
        end = window.end
        while end > place:
            size = min(end - place, 1 << 20)
            written = len(bytes(window.view(end - size, size)).rstrip(b"\0"))
            if written:
                return end - size + written - place
            end -= size
        return 0

    def _replay_segment(self, at: int, place: int) -> tuple[int, tuple[int, int] | None]:
        """Replays one segment from `place`; returns where it ends, and the segment and place to go on at."""
        state = self._state
        segment, window, header = self._segments[at]
        while True:
            group = read_group(window, place, header.salt)
            if group is not None and self._fits(group, header):
                if not self._apply(at, segment, window, group):
                    return place, None
                state.sequence, state.position = group.sequence + 1, group.base_position + len(group.entries)
                state.replayed_groups += 1
                place = group.end
                continue
            found = self._next_sound(at, place)
            if found is None:
                return place, None
            next_at, later = found
            if next_at > at and later.place == FILE_HEADER_BYTES and self._fits(later, self._segments[next_at][2]):
                return place, (next_at, later.place)
            if later.durable_position <= state.position:
                return place, None
            self._lost(at, place, next_at, later)
            state.sequence, state.position = later.sequence, later.base_position
            if next_at > at:
                return place, (next_at, later.place)
            place = later.place

    def _fits(self, group: Group, header: FileHeader) -> bool:
        state = self._state
        return (
            group.epoch == header.epoch and group.sequence == state.sequence and group.base_position == state.position
        )

    def _next_sound(self, at: int, place: int) -> tuple[int, Group] | None:
        """The next sound group that continues the log behind `place` of segment `at`, however far."""
        for i in range(at, len(self._segments)):
            _, window, header = self._segments[i]
            place = place if i == at else FILE_HEADER_BYTES
            while (group := find_group(window, place, header.salt)) is not None:
                if group.epoch == header.epoch and group.sequence >= self._state.sequence:
                    return i, group
                place = group.place + 1
        return None

    def _lost(self, at: int, place: int, next_at: int, later: Group) -> None:
        """What is between `place` of segment `at` and the group `later` of segment `next_at` is lost."""
        state = self._state
        segment, window, _ = self._segments[at]
        count = later.base_position - state.position
        state.findings.append(
            f"{segment.file.name}: damage at byte {place}: {count} entries from position {state.position} on are lost"
        )
        self._after_loss = set()
        if self._index_only:
            return
        batches = None
        if later.sequence == state.sequence + 1:
            batches = batches_of_lost_group(window, place, count, later.place if next_at == at else None)
        may_end_at = ends_after(batches, self._bytes_between(at, place, next_at, later.place))
        for p in state.partitions.values():
            if (end := may_end_at(p.next_offset)) > p.next_offset:
                self._guess(p, p.next_offset, end)

    def _bytes_between(self, at: int, place: int, next_at: int, next_place: int) -> int:
        if next_at == at:
            return next_place - place
        size = self._written_beyond(self._segments[at][1], place) + next_place
        return size + sum(self._written_beyond(window, 0) for _, window, _ in self._segments[at + 1 : next_at])

    def _guess(self, p: Partition, first: int, end: int) -> None:
        """The partition may have reached up to `end`, and from `first` on nothing is left of it."""
        first = self._guessed.setdefault(p.number, first)
        p.damage = [r for r in p.damage if r.first != first]
        p.damage.append(Range(first, end))
        p.high_watermark = p.next_offset = end

    def _report_guesses(self) -> None:
        if self._guessed and not self._index_only:
            number, first = min(self._guessed.items())
            end = self._state.partitions[number].next_offset
            self._state.findings.append(
                f"{len(self._guessed)} partitions go on behind offsets that may have been lost: partition {number},"
                f" offsets {first} to {end - 1}" + (", and others" if len(self._guessed) > 1 else "")
            )

    def _apply(self, at: int, segment: Segment, window: Window, group: Group) -> bool:
        """Applies a group whose batches are all sound, or known to have been durable; False if it is a torn tail."""
        batches: list[tuple[int, BatchHeader | None, int]] = []  # place, header if sound, last offset delta if not
        for entry, place in group.batch_places():
            data = window.view(place, entry.size)
            header = batch_of(entry, data)
            batches.append((place, header, 0 if header or self._index_only else last_delta(entry, data)))
        if any(header is None for _, header, _ in batches):
            later = self._next_sound(at, group.end)
            if not self._index_only and (later is None or later[1].durable_position <= group.base_position):
                return False
        in_order = iter(batches)
        for entry in group.entries:
            if entry.kind == EntryKind.BATCH:
                self._apply_batch(segment, window, group, entry, *next(in_order))
            elif not self._index_only:
                self._apply_change(entry)
        return True

    def _apply_change(self, entry: EntryHeader) -> None:
        state = self._state
        if entry.kind == EntryKind.CREATE:
            state.partitions[entry.partition] = Partition(entry.partition)
        elif entry.kind == EntryKind.DELETE:
            if state.partitions.pop(entry.partition, None) is not None:
                self._guessed.pop(entry.partition, None)
                retire(state.retired, entry.partition)
        elif entry.partition in state.partitions:
            state.partitions[entry.partition].raise_log_start(entry.base_offset)

    def _apply_batch(
        self,
        segment: Segment,
        window: Window,
        group: Group,
        entry: EntryHeader,
        place: int,
        header: BatchHeader | None,
        guess: int,
    ) -> None:
        state = self._state
        p = state.partitions.get(entry.partition)
        if p is None:
            if self._after_loss is None:
                return  # deleted later than the checkpoint that a rebuilt index is made for
            p = state.partitions[entry.partition] = Partition(entry.partition)
        self._check_hole(p, entry.base_offset)
        if header is None:
            state.findings.append(
                f"{segment.file.name}: damaged batch at byte {place}, partition {p.number}, offset {entry.base_offset}"
            )
            self._guess(p, entry.base_offset, entry.base_offset + guess + 1)
            return
        block = segment.blocks.get(p.number)
        if block is None:
            block = segment.blocks[p.number] = Block()
        block.append(
            entry.base_offset, entry.position, header.max_timestamp, place, entry.size, header.last_offset_delta
        )
        if header.producer_id >= 0 and not self._index_only:
            if p.producers is None:
                p.producers = ProducerTable()
            p.producers.begin(header, entry.base_offset, self._now_ms, bytes(window.view(place, entry.size)))
            p.producers.durable(header.next_offset)
        p.add_epoch(group.epoch, entry.base_offset)
        p.high_watermark = p.next_offset = header.next_offset

    def _check_hole(self, p: Partition, base_offset: int) -> None:
        """Notes as damage what is missing before this batch, if anything was lost since the partition's last one."""
        first = self._guessed.pop(p.number, None)
        if first is not None:
            p.damage = [r for r in p.damage if r.first != first]
            if first < base_offset:
                p.damage.append(Range(first, base_offset))
        elif self._after_loss is not None and p.number not in self._after_loss and base_offset > p.next_offset:
            p.damage.append(Range(p.next_offset, base_offset))
        if self._after_loss is not None:
            self._after_loss.add(p.number)
