"""Checks and prints a data directory offline: what `trivium store verify` and `trivium store dump` call.

Both only read. `verify` reads every byte that counts: file headers, groups, the checksum of every batch, footers
against the groups, and that no two files claim the same offsets. What is wrong is named by file, place, partition and
offset. A torn end of the newest log segment, which no later group proves to have been durable, is no damage: the next
start cuts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from core.store import checkpoint, manifest
from core.store.checkpoint import Checkpoint
from core.store.disk import Disk, File
from core.store.index import Block, Footer, Row, read_block, read_footer
from core.store.key_index import KeyIndex, indexed_file
from core.store.log_files import log_number
from core.store.manifest import BadManifest, Manifest
from core.store.recovery import FORMAT_NAME
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
from trivium.record_batch import MAGIC, BatchError, BatchHeader
from trivium.records import decode

Progress = Callable[[int, int], None]  # bytes done, bytes in all

_SHOWN_BYTES = 60
_DECODED_BYTES_MAX = 64 * 1024 * 1024


class Damage(NamedTuple):
    """Something that is not as it was written. `partition` and `offset` are -1 where there is none."""

    file: str
    place: int
    what: str
    partition: int = -1
    offset: int = -1

    def __str__(self) -> str:
        where = f", partition {self.partition}, offset {self.offset}" if self.partition >= 0 else ""
        return f"{self.file}: byte {self.place}{where}: {self.what}"


@dataclass
class Report:
    """What `verify` found. `notes` are no faults: left-overs that the next start removes, a torn end that it cuts."""

    files: int = 0
    bytes: int = 0
    groups: int = 0
    batches: int = 0
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(disk: Disk, progress: Progress = lambda done, total: None) -> Report:
    """Checks the store in this directory. Raises OSError when the disk cannot be read."""
    report = Report()
    if FORMAT_NAME not in disk.list():
        report.damage.append(Damage(FORMAT_NAME, 0, "missing: no store, or not a whole one"))
    known = _read_manifest(disk, report)
    found = _read_checkpoint(disk, report)
    names = _files(disk, known, report)
    total = sum(disk.open(name).size() for name in names)
    done = 0
    rows: dict[int, list[tuple[Row, str]]] = {}
    for name in names:
        file = disk.open(name)
        number = log_number(name)
        sealed = number is None or number < found.log_number
        footer = _Check(file, sealed, report, partial(_advance, progress, done, total)).run()
        for row in footer.rows if footer is not None else ():
            if row.partition not in known.dropped.get(name, ()):
                rows.setdefault(row.partition, []).append((row, name))
        done += file.size()
        report.files += 1
    report.bytes = done
    progress(total, total)
    _check_rows(rows, found, report)
    return report


def _advance(progress: Progress, done: int, total: int, place: int) -> None:
    progress(done + place, total)


def _read_manifest(disk: Disk, report: Report) -> Manifest:
    try:
        return manifest.read(disk)
    except BadManifest as e:
        report.damage.append(Damage(manifest.NAME, 0, str(e)))
        return Manifest(settled={n for name in disk.list() if (n := manifest.settled_number(name)) is not None})


def _read_checkpoint(disk: Disk, report: Report) -> Checkpoint:
    try:
        checkpoint.load(disk, checkpoint.COPY_NAME)
    except BadFile as e:
        report.damage.append(Damage(checkpoint.COPY_NAME, 0, str(e)))
    try:
        return checkpoint.load(disk) or checkpoint.empty()
    except BadFile as e:
        report.damage.append(Damage(checkpoint.CHECKPOINT_NAME, 0, str(e)))
        return checkpoint.empty()


def _files(disk: Disk, known: Manifest, report: Report) -> list[str]:
    """Names of the files that count, settled ones first."""
    present = disk.list()
    settled = [manifest.settled_name(number) for number in sorted(known.settled)]
    report.damage += [Damage(name, 0, "missing") for name in settled if name not in present]
    logs = []
    for name in present:
        if (number := log_number(name)) is not None and number not in known.dead_logs:
            logs.append(name)
        elif number is not None or (manifest.settled_number(name) is not None and name not in settled):
            report.notes.append(f"{name}: left over, the next start removes it")
        elif (indexed := indexed_file(name)) is not None:
            index = KeyIndex.open(disk, indexed) if indexed in present else None
            if index is None or not index.check():
                report.notes.append(f"{name}: of no use, it is made anew")
    return [name for name in settled if name in present] + logs


class _Check:
    """Checks one file."""

    def __init__(self, file: File, sealed: bool, report: Report, progress: Callable[[int], None]) -> None:
        self._file = file
        self._sealed = sealed
        self._report = report
        self._progress = progress
        self._blocks: dict[int, Block] = {}
        self._found_damage = False

    def run(self) -> Footer | None:
        file = self._file
        try:
            header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
        except BadFile as e:
            if self._sealed:
                self._damage(0, str(e))
            else:
                self._report.notes.append(f"{file.name}: never used ({e})")
            return None
        footer = self._footer()
        end = footer.groups_end if footer is not None else file.size()
        self._groups(header, Window(file, end), end, footer is not None)
        if footer is not None and not self._found_damage:
            self._compare(footer)
        return footer

    def _damage(self, place: int, what: str, partition: int = -1, offset: int = -1) -> None:
        self._found_damage = True
        self._report.damage.append(Damage(self._file.name, place, what, partition, offset))

    def _footer(self) -> Footer | None:
        try:
            return read_footer(self._file)
        except BadFile as e:
            if self._sealed:
                self._damage(self._file.size(), str(e))
            return None

    def _groups(self, header: FileHeader, window: Window, end: int, sealed: bool) -> None:
        place, sequence = FILE_HEADER_BYTES, header.sequence
        while place < end:
            group = read_group(window, place, header.salt)
            if group is None or group.sequence != sequence:
                later = self._later(window, place, header, sequence)
                if later is None:
                    if sealed:
                        self._damage(place, f"no sound group in the last {end - place} bytes")
                    else:
                        self._tail(window, place, end)
                    return
                self._damage(place, f"{later.place - place} bytes lost, {later.sequence - sequence} groups")
                group = later
            self._group(group, window, header, sealed)
            place, sequence = group.end, group.sequence + 1
            self._progress(place)

    def _later(self, window: Window, place: int, header: FileHeader, sequence: int) -> Group | None:
        while (group := find_group(window, place, header.salt)) is not None:
            if group.sequence >= sequence:
                return group
            place = group.place + 1
        return None

    def _tail(self, window: Window, place: int, end: int) -> None:
        size = min(end - place, 1024 * 1024)
        if bytes(window.view(place, size)).strip(b"\0"):
            self._report.notes.append(f"{self._file.name}: torn end at byte {place}, the next start cuts it")

    def _group(self, group: Group, window: Window, header: FileHeader, sealed: bool) -> None:
        self._report.groups += 1
        bad: list[tuple[int, EntryHeader]] = []
        for entry, place in group.batch_places():
            self._report.batches += 1
            batch = batch_of(entry, window.view(place, entry.size))
            if batch is None or batch.leader_epoch != group.epoch or batch.magic != MAGIC:
                bad.append((place, entry))
                continue
            block = self._blocks.setdefault(entry.partition, Block())
            block.append(
                entry.base_offset, entry.position, batch.max_timestamp, place, entry.size, batch.last_offset_delta
            )
        if bad and not sealed:
            later = find_group(window, group.end, header.salt)
            if later is None or later.durable_position <= group.base_position:
                self._report.notes.append(
                    f"{self._file.name}: torn group at byte {group.place}, the next start cuts it"
                )
                return
        for place, entry in bad:
            self._damage(place, "batch is not what was written", entry.partition, entry.base_offset)

    def _compare(self, footer: Footer) -> None:
        """The footer must say what the groups say."""
        if [row.partition for row in footer.rows] != sorted(self._blocks):
            self._damage(footer.groups_end, "footer names other partitions than the groups")
            return
        for row in footer.rows:
            try:
                block = read_block(self._file, row.place, row.batches, row.crc)
            except BadFile as e:
                self._damage(row.place, str(e), row.partition, row.first_offset)
                continue
            if block is None or block.tobytes() != self._blocks[row.partition].tobytes():
                self._damage(row.place, "index does not agree with the groups", row.partition, row.first_offset)


def _check_rows(rows: dict[int, list[tuple[Row, str]]], found: Checkpoint, report: Report) -> None:
    """Of one partition, files may not overlap, and the checkpoint's partitions reach as far as their files."""
    for number, claimed in rows.items():
        claimed.sort(key=lambda item: item[0].first_offset)
        for (before, before_name), (after, name) in pairwise(claimed):
            if after.first_offset < before.end_offset:
                what = f"offsets up to {before.end_offset - 1} are in {before_name} too"
                report.damage.append(Damage(name, after.place, what, number, after.first_offset))
        partition = found.partitions.get(number)
        for row, name in claimed:
            log = log_number(name)
            known = log is None or log < found.log_number
            if partition is not None and known and row.end_offset > partition.high_watermark:
                what = f"the checkpoint ends at {partition.high_watermark}"
                report.damage.append(Damage(name, row.place, what, number, partition.high_watermark))


def dump(disk: Disk, partition: int | None = None, *, records: bool = False) -> Iterator[str]:
    """The store in lines of text: state, then each file's groups and batches, of one partition if given.

    With `records` also the records, keys and values cut to a few bytes. What cannot be read is said so and passed over.
    """
    report = Report()
    known = _read_manifest(disk, report)
    found = _read_checkpoint(disk, report)
    yield f"manifest {known.number}: {len(known.settled)} settled files, dead logs {sorted(known.dead_logs)}"
    yield f"checkpoint: epoch {found.epoch}, next log segment {found.log_number}, position {found.position}"
    for number, p in sorted(found.partitions.items()):
        if partition in (None, number):
            producers = len(p.producers) if p.producers is not None else 0
            yield (
                f"partition {number}: offsets {p.log_start} to {p.high_watermark}, last stable {p.last_stable},"
                f" epochs {p.epochs}, {producers} producers"
            )
    for name in _files(disk, known, report):
        yield from _dump_file(disk.open(name), partition, records)
    for damage in report.damage:
        yield f"damage: {damage}"


def _dump_file(file: File, partition: int | None, records: bool) -> Iterator[str]:
    try:
        header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
    except BadFile as e:
        yield f"{file.name}: {e}"
        return
    try:
        end, sealed = read_footer(file).groups_end, "sealed"
    except BadFile:
        end, sealed = file.size(), "not sealed"
    yield f"{file.name}: {header.kind.name.lower()}, {sealed}, epoch {header.epoch}, position {header.base_position}"
    window = Window(file, end)
    place = FILE_HEADER_BYTES
    while (group := find_group(window, place, header.salt)) is not None:
        if group.place > place:
            yield f"  byte {place}: {group.place - place} bytes that are no group"
        entries = [e for e in group.entries if partition in (None, e.partition)]
        if entries:
            yield f"  group {group.sequence} at byte {group.place}: epoch {group.epoch}, {len(group.entries)} entries"
        places = {id(entry): at for entry, at in group.batch_places()}
        for entry in entries:
            yield from _dump_entry(entry, window, places.get(id(entry), 0), records)
        place = group.end


def _dump_entry(entry: EntryHeader, window: Window, place: int, records: bool) -> Iterator[str]:
    at = f"    {entry.position}: partition {entry.partition}"
    if entry.kind != EntryKind.BATCH:
        offset = f" {entry.base_offset}" if entry.kind == EntryKind.DELETE_BEFORE else ""
        yield f"{at} {EntryKind(entry.kind).name.lower().replace('_', ' ')}{offset}"
        return
    data = bytes(window.view(place, entry.size))
    header = batch_of(entry, memoryview(data))
    if header is None:
        yield f"{at} offset {entry.base_offset}: {entry.size} damaged bytes at byte {place}"
        return
    yield f"{at} offsets {header.base_offset} to {header.last_offset}: {_described(header)}"
    if records:
        try:
            for record in decode(data, _DECODED_BYTES_MAX):
                yield f"      {record.offset} time {record.timestamp} {_shown(record.key)} = {_shown(record.value)}"
        except BatchError as e:
            yield f"      records cannot be read: {e}"


def _described(header: BatchHeader) -> str:
    words = [f"{header.size_bytes} bytes", f"{header.count} records", f"time to {header.max_timestamp}"]
    if header.codec:
        words.append(f"codec {header.codec}")
    if header.producer_id >= 0:
        words.append(f"producer {header.producer_id}/{header.producer_epoch} sequence {header.base_sequence}")
    flags = [("transactional", header.is_transactional), ("control", header.is_control)]
    return ", ".join([*words, *(name for name, on in flags if on)])


def _shown(data: bytes | None) -> str:
    if data is None:
        return "null"
    more = f"... {len(data)} bytes" if len(data) > _SHOWN_BYTES else ""
    return f"{data[:_SHOWN_BYTES]!r}{more}"
