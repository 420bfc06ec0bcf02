"""Which files make up the store, besides the log segments that nobody has touched yet.

The file `MANIFEST` is replaced as a whole: a new one is written under another name, synced, renamed over the old one,
and the directory synced. A start finds the old one or the new one, never a mixture, and takes it for the truth:

* Settled files it does not name are left-overs of a settling that did not finish: they are unlinked.
* Log segments are there without being named. Those it calls `dead` are part of the store no more (their data is in
  settled files, or gone): they are unlinked. A dead number is forgotten once its file is gone for sure.
* `gone_aborted` names aborted transactions that a clean has left nothing of but the marker: readers must not be told of
  them, though a checkpoint that was taken at or before a log segment still may.
* `dropped` names partitions whose batches in a file are no longer the true ones (a clean wrote them anew elsewhere) or
  no longer wanted: they are not read.

Text, so that it can be read in need: one line of JSON, one line with the CRC-32C of the first in hex.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from core.store.compaction import CleanState
from core.store.disk import Disk
from core.store.engine import StoreUnusable
from core.store.partition import Partition
from trivium.crc import crc32c

FORMAT_VERSION = 1
NAME = "MANIFEST"
_NEW_NAME = "MANIFEST.new"
BYTES_MAX = 256 * 1024 * 1024


class GoneAborted(NamedTuple):
    """Kept until there is a checkpoint for a log segment above `log_number`."""

    partition: int
    producer_id: int
    last_offset: int
    log_number: int


class BadManifest(StoreUnusable):
    """The manifest is damaged, lost, or of a newer format."""


@dataclass
class Manifest:
    """`dropped` maps file names to partitions; `clean` tells how far each compacted partition has been cleaned."""

    number: int = 0  # rises with each one written
    next_settled: int = 1
    settled: set[int] = field(default_factory=set)
    dead_logs: set[int] = field(default_factory=set)
    dropped: dict[str, set[int]] = field(default_factory=dict)
    clean: dict[int, CleanState] = field(default_factory=dict)
    gone_aborted: list[GoneAborted] = field(default_factory=list)

    @property
    def never_settled(self) -> bool:
        """Whether all log segments that ever were are still there: the first manifest is written with the store."""
        return self.number <= 1

    def copy(self) -> Manifest:
        """A deep copy, to change and then `write`."""
        dropped = {name: set(partitions) for name, partitions in self.dropped.items()}
        return Manifest(
            self.number,
            self.next_settled,
            set(self.settled),
            set(self.dead_logs),
            dropped,
            dict(self.clean),
            list(self.gone_aborted),
        )


def encode(manifest: Manifest) -> bytes:
    content = {
        "version": FORMAT_VERSION,
        "number": manifest.number,
        "next_settled": manifest.next_settled,
        "settled": sorted(manifest.settled),
        "dead_logs": sorted(manifest.dead_logs),
        "dropped": {name: sorted(partitions) for name, partitions in sorted(manifest.dropped.items())},
        "clean": {str(partition): list(state) for partition, state in sorted(manifest.clean.items())},
        "gone_aborted": [list(gone) for gone in manifest.gone_aborted],
    }
    line = json.dumps(content, separators=(",", ":")).encode()
    return b"%b\n%08x\n" % (line, crc32c(line))


def decode(data: bytes) -> Manifest:
    """Raises BadManifest."""
    line, _, rest = data.partition(b"\n")
    if rest != b"%08x\n" % crc32c(line):
        raise BadManifest(f"{NAME} is damaged: its checksum does not agree")
    content = json.loads(line)
    if content["version"] > FORMAT_VERSION:
        raise BadManifest(f"{NAME} has format version {content['version']}, this program knows {FORMAT_VERSION}")
    return Manifest(
        content["number"],
        content["next_settled"],
        set(content["settled"]),
        set(content["dead_logs"]),
        {name: set(partitions) for name, partitions in content["dropped"].items()},
        {int(partition): CleanState(*state) for partition, state in content["clean"].items()},
        [GoneAborted(*gone) for gone in content["gone_aborted"]],
    )


def read(disk: Disk) -> Manifest:
    """The manifest of this directory, an empty one with number 0 if it never had one. Raises BadManifest."""
    try:
        file = disk.open(NAME)
    except FileNotFoundError:
        if any(settled_number(name) is not None for name in disk.list()):
            raise BadManifest(f"there are settled files, but no {NAME} that says which of them count") from None
        return Manifest()
    size = file.size()
    if size > BYTES_MAX:
        raise BadManifest(f"{NAME} is of {size} bytes")
    return decode(file.pread(size, 0))


def write(disk: Disk, manifest: Manifest) -> None:
    """Makes `manifest` the truth. When it raises, either one may be: the store must be opened anew.

    Files that it names must be durable before.
    """
    manifest.number += 1
    try:
        disk.unlink(_NEW_NAME)
    except FileNotFoundError:
        pass
    file = disk.open(_NEW_NAME, create=True)
    file.pwritev([encode(manifest)], 0)
    file.fdatasync()
    disk.rename(_NEW_NAME, NAME)
    disk.sync_directory()


def forget_aborted(partitions: Mapping[int, Partition], manifest: Manifest) -> None:
    """Takes transactions that are gone out of the partitions' tables, as a checkpoint may have put them there."""
    for gone in manifest.gone_aborted:
        partition = partitions.get(gone.partition)
        if partition is not None and partition.producers is not None:
            partition.producers.drop_aborted(gone.producer_id, gone.last_offset)


def settled_name(number: int) -> str:
    return f"{number:012d}.settled"


def settled_number(name: str) -> int | None:
    """The number in a settled file's name, None for other names."""
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "settled" and stem.isascii() and stem.isdigit() else None
