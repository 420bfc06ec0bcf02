"""How a store opens though its directories are damaged: settled files without a footer, no checkpoint.

* A settled file whose footer is damaged, or that is gone: its groups are scanned, what is sound gets a new footer.
  Groups are sorted by partition and offset, so what was lost lies between two sound batches: a `Stretch`. Offsets of it
  that no other file holds become damaged ranges; in a compacted partition that may take in offsets that a clean had
  freed. Nothing is cut: the new footer takes the place of the old where the file is whole, else it follows the end.
* A checkpoint that is damaged or gone: there is a copy (`checkpoint`). Without that, all of history may be replayed, if
  all of it is there: no file was ever replaced or removed, and the groups of the log are numbered without a hole from
  the first. Otherwise the store must not open: partitions could give out offsets anew that they have given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from core.store import checkpoint
from core.store.checkpoint import Checkpoint
from core.store.compaction import CleanState
from core.store.disk import Disk, File
from core.store.index import BATCH_BYTES, ROW_BYTES, TRAILER_BYTES, Block, Footer, write_footer
from core.store.log_files import log_name
from core.store.manifest import Manifest
from core.store.partition import Partition, Range
from core.store.segment import (
    FILE_HEADER_BYTES,
    BadFile,
    Window,
    batch_of,
    decode_file_header,
    find_group,
    read_group,
    scan_groups,
)

EPOCHS_SKIPPED = 1000  # more than the starts that wrote nothing, and so are known from no log segment
_LAST = (1 << 32, 0)


class Stretch(NamedTuple):
    """What was lost of a file: from one (partition, offset) up to another."""

    first: tuple[int, int]
    end: tuple[int, int]


EVERYTHING = Stretch((0, 0), _LAST)


def load_checkpoint(disk: Disk, known: Manifest, logs: Iterable[int], findings: list[str]) -> tuple[Checkpoint, int]:
    """The checkpoint, or what is as good, and how many epochs to skip; what was done goes to `findings`.

    Raises BadFile when there is nothing as good, and then has changed nothing.
    """
    try:
        found = checkpoint.load(disk)
        if found is not None:
            return found, 0
        error = f"{checkpoint.CHECKPOINT_NAME}: missing"
    except checkpoint.NewerFormat:
        raise
    except BadFile as e:
        error = str(e)
    try:
        found = checkpoint.load(disk, checkpoint.COPY_NAME)
    except BadFile as e:
        error += f", and {e}"
    else:
        if found is not None:
            findings.append(f"{error}; its copy is used")
            return found, 0
    used = False
    sequence: int | None = 0
    for number in sorted(logs):
        file = disk.open(log_name(number))
        if any(file.pread(FILE_HEADER_BYTES, 0)):
            used = True
            sequence = _sequence_after(file, sequence)
            if sequence is None:
                break
    if not used and known.never_settled and checkpoint.CHECKPOINT_NAME not in disk.list():
        return checkpoint.empty(), 0  # a new store
    if not used or sequence is None or not known.never_settled:
        raise BadFile(
            f"{error}; there is no copy, and the log segments that are left are not all there were: opening the store"
            " could give out offsets again. Restore the file, or copy the partitions from a backup"
        )
    findings.append(f"{error}; all log segments, which are whole from the first on, are replayed instead")
    return checkpoint.empty(), EPOCHS_SKIPPED


def _sequence_after(file: File, sequence: int | None) -> int | None:
    """The number of the group that follows this log segment, None when it does not continue at `sequence`."""
    try:
        header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
    except BadFile:
        return None
    if header.sequence != sequence:
        return None
    for group in scan_groups(Window(file), header.salt):
        if group.sequence != sequence:
            break
        sequence += 1
    return sequence


def index_settled(disk: Disk, name: str) -> tuple[File, Footer, list[Stretch]]:
    """A new footer, durable, for a settled file without a sound one. Raises OSError, BadFile when nothing is left."""
    file = disk.open(name, write=True)
    header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
    window = Window(file)
    blocks: dict[int, Block] = {}
    lost: list[Stretch] = []
    batches, listed = 0, set()
    place, sequence = FILE_HEADER_BYTES, 0
    at = (0, 0)  # the partition and offset after the last sound batch
    whole = True
    while True:
        group = read_group(window, place, header.salt) or find_group(window, place, header.salt)
        if group is None:
            break
        gap = group.sequence != sequence
        for entry, batch_place in group.batch_places():
            batches += 1
            listed.add(entry.partition)
            batch = batch_of(entry, window.view(batch_place, entry.size))
            if batch is None:
                gap = True
                continue
            if gap:
                lost.append(Stretch(at, (entry.partition, entry.base_offset)))
                whole = gap = False
            block = blocks.setdefault(entry.partition, Block())
            delta = batch.last_offset_delta
            block.append(entry.base_offset, entry.position, batch.max_timestamp, batch_place, entry.size, delta)
            at = (entry.partition, batch.next_offset)
        whole = whole and not gap
        place, sequence = group.end, group.sequence + 1
    footer_bytes = BATCH_BYTES * batches + ROW_BYTES * len(listed) + TRAILER_BYTES
    if not whole or file.size() != place + footer_bytes:
        lost.append(Stretch(at, _LAST))
        place = file.size()
    footer = write_footer(file, place, sorted(blocks.items()))
    file.fdatasync()
    return file, footer, lost


def mark_lost(
    partitions: Mapping[int, Partition], lost: Stretch, unknown: Iterable[int], clean: Mapping[int, CleanState]
) -> None:
    """Makes damaged ranges of what lies in `lost` and in no file; all files must be in. `unknown`: partitions that the
    file did not count for. In partitions that are compacted a loss whose partition is not known reaches from the part
    that is not clean yet."""
    skipped = set(unknown)
    for number, p in partitions.items():
        if number in skipped or not lost.first[0] <= number <= lost.end[0]:
            continue
        first = lost.first[1] if number == lost.first[0] else 0
        end = lost.end[1] if number == lost.end[0] else p.high_watermark
        if lost == EVERYTHING and number in clean:
            first = clean[number].clean_until
        first, end = max(first, p.log_start), min(end, p.high_watermark)
        if lost.first[0] == lost.end[0]:  # inside one partition: no other file has it
            _add_damage(p, first, end)
            continue
        for extent in p.extents or ():
            _add_damage(p, first, min(end, extent.first_offset))
            first = max(first, extent.end_offset)
        _add_damage(p, first, end)


def _add_damage(p: Partition, first: int, end: int) -> None:
    """Adds [first, end) to the sorted damaged ranges, but for what is among them."""
    for known in p.damage:
        if known.first <= first < known.end:
            first = known.end
    if first < end:
        p.damage = sorted([*(d for d in p.damage if not (first <= d.first and d.end <= end)), Range(first, end)])
