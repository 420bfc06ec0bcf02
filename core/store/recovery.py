"""Opening a store: what is on the disk becomes the state of all partitions again.

    manifest -> which files count     checkpoint -> partitions as they were at the start of one log segment
    footers  -> where batches are     replay     -> the log segments since, group by group

What replay takes for damage and what for a torn end: see `replay`. Damaged footers and checkpoints: see `salvage`.

What replay accepts is sealed (footer, sync), and the checkpoint with the new epoch is durable, before anything is
served. A segment that was recovered is never written again.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.store import checkpoint, manifest
from core.store.disk import Disk, File
from core.store.engine import StoreUnusable
from core.store.index import Extents, Footer, read_footer
from core.store.log_files import SealedFiles, log_name, log_number
from core.store.partition import Partition
from core.store.replay import Recovered, Replay
from core.store.salvage import EVERYTHING, Stretch, index_settled, load_checkpoint, mark_lost
from core.store.segment import (
    FILE_HEADER_BYTES,
    BadFile,
    decode_file_header,
)

FORMAT_NAME = "format"
FORMAT_VERSION = 1
_FORMAT_PREFIX = "trivium-store "


class StoreFormatError(StoreUnusable):
    """The directory is of a newer format, or holds something else."""


def check_format(disk: Disk) -> None:
    """Makes the format file of a new directory, or checks it. Raises StoreFormatError."""
    try:
        file = disk.open(FORMAT_NAME)
    except FileNotFoundError:
        if any(log_number(name) is not None or name == checkpoint.CHECKPOINT_NAME for name in disk.list()):
            raise StoreFormatError("there are log segments but no format file: not a whole store") from None
        new = f"{FORMAT_NAME}.new"
        if new in disk.list():
            disk.unlink(new)
        file = disk.open(new, create=True)
        file.pwritev([f"{_FORMAT_PREFIX}{FORMAT_VERSION}\n".encode()], 0)
        file.fdatasync()
        file.close()
        disk.rename(new, FORMAT_NAME)
        disk.sync_directory()
        return
    text = file.pread(min(file.size(), 64), 0).decode("ascii", "replace").strip()
    version = text.removeprefix(_FORMAT_PREFIX)
    if version == text or not version.isdigit():
        raise StoreFormatError(f"format file says {text!r}: no store of this program")
    if int(version) > FORMAT_VERSION:
        raise StoreFormatError(f"store format {version}, this program knows up to {FORMAT_VERSION}: use a newer one")


def recover(disk: Disk, now_ms: int) -> Recovered:
    """Opens the store. Raises OSError, BadFile, manifest.BadManifest, StoreFormatError."""
    check_format(disk)
    known = manifest.read(disk)
    logs = _logs(disk, known)
    findings: list[str] = []
    found, epochs_skipped = load_checkpoint(disk, known, logs, findings)
    if not known.number:
        manifest.write(disk, known)  # from now on a store without one has lost it
    state = Recovered(
        found.epoch,
        found.log_number,
        found.sequence,
        found.position,
        found.partitions,
        found.retired,
        known,
        SealedFiles(disk),
        findings=findings,
    )
    _remove_left_overs(disk, known)
    losses: list[tuple[str, Stretch]] = []
    footers = _settled_footers(disk, state, losses) + _log_footers(disk, state, logs, losses)
    replay = Replay(disk, state, now_ms)
    sealed = replay.run([n for n in logs if n >= found.log_number])
    manifest.forget_aborted(state.partitions, state.manifest)
    for name, file, footer in [*footers, *sealed]:
        add_file(state, name, file, footer)
    for name, lost in losses:
        mark_lost(state.partitions, lost, known.dropped.get(name, ()), known.clean)
    state.epoch += 1 + epochs_skipped
    data = checkpoint.encode(
        state.epoch, state.log_number, state.sequence, state.position, state.partitions.values(), state.retired
    )
    checkpoint.write(disk, data)
    return state


def _logs(disk: Disk, known: manifest.Manifest) -> list[int]:
    """Numbers of the log segments that count, rising."""
    numbers = (log_number(name) for name in disk.list())
    return sorted(number for number in numbers if number is not None and number not in known.dead_logs)


def _remove_left_overs(disk: Disk, known: manifest.Manifest) -> None:
    """Unlinks what the manifest does not want."""
    for name in disk.list():
        number, settled = log_number(name), manifest.settled_number(name)
        if number in known.dead_logs or (settled is not None and settled not in known.settled):
            disk.unlink(name)


Sealed = tuple[str, File, Footer]


def _settled_footers(disk: Disk, state: Recovered, losses: list[tuple[str, Stretch]]) -> list[Sealed]:
    """The settled files' footers, made anew where they are damaged; what was lost with them goes to `losses`."""
    footers: list[Sealed] = []
    for number in sorted(state.manifest.settled):
        name = manifest.settled_name(number)
        try:
            file = disk.open(name)
            footers.append((name, file, read_footer(file)))
        except (BadFile, FileNotFoundError) as e:
            state.findings.append(f"{name}: missing" if isinstance(e, FileNotFoundError) else str(e))
            try:
                file, footer, lost = index_settled(disk, name)
            except (BadFile, FileNotFoundError):
                losses.append((name, EVERYTHING))
                continue
            footers.append((name, file, footer))
            losses += [(name, stretch) for stretch in lost]
    return footers


def _log_footers(disk: Disk, state: Recovered, logs: Sequence[int], losses: list[tuple[str, Stretch]]) -> list[Sealed]:
    """As `_settled_footers`, of the log segments that the checkpoint covers."""
    footers: list[Sealed] = []
    for number in [n for n in logs if n < state.log_number]:
        file = disk.open(log_name(number))
        try:
            footer = read_footer(file)
        except BadFile as e:
            if not any(file.pread(FILE_HEADER_BYTES, 0)):  # made ahead, never used, its removal not durable
                disk.unlink(file.name)
                continue
            state.findings.append(str(e))
            try:
                footer, whole = _index_again(disk, number, state)
            except BadFile:
                losses.append((file.name, EVERYTHING))
                continue
            if not whole:
                losses.append((file.name, EVERYTHING))
        footers.append((log_name(number), file, footer))
    return footers


def add_file(state: Recovered, name: str, file: File | None, footer: Footer) -> int:
    """Takes a sealed file in: its rows go to the extents of the partitions that are still there."""
    file_id = state.files.add(name, footer, file)
    dropped = state.manifest.dropped.get(name, set())
    for row in footer.rows:
        partition = state.partitions.get(row.partition)
        if partition is not None and row.partition not in dropped:
            if partition.extents is None:
                partition.extents = Extents()
            partition.extents.insert(file_id, row)
    return file_id


def _index_again(disk: Disk, number: int, state: Recovered) -> tuple[Footer, bool]:
    """A new footer for a sealed segment whose own is damaged, from its groups, and whether nothing is lost of them.

    Partitions keep their state. Raises OSError, BadFile.
    """
    file = disk.open(log_name(number), write=True)
    header = decode_file_header(file.pread(FILE_HEADER_BYTES, 0))
    size = file.size()
    shadows = {n: Partition(n) for n in state.partitions}
    shadow = Recovered(0, number, header.sequence, header.base_position, shadows, [], state.manifest, state.files)
    kept = Replay(disk, shadow, 0, index_only=True).run([number])
    state.findings += shadow.findings
    if not kept:
        raise BadFile(f"{file.name}: no sound group")
    [(_, _, footer)] = kept
    for row in footer.rows:  # what is missing before a partition's first batch here may be in other files
        if row.partition in state.partitions:
            damage = shadows[row.partition].damage
            state.partitions[row.partition].damage += [r for r in damage if r.first > row.first_offset]
    return footer, not shadow.findings and size == file.size()  # the same batches have a footer of the same size
