"""What is alive in each sealed file, and which files it pays to write anew. Pure but for reading directories.

A row of a file is dead when its partition is gone, when the log start has passed it, or when the manifest dropped it. A
file with no live row goes at once. One that is mostly dead is written anew, together with others like it: what is
alive is copied, so the work is never more than what it frees. After a deletion of whole partitions a smaller share is
enough, since whoever deletes a topic wants the room. A log segment that cold readers keep meeting in small pieces is
sorted. Files whose data is all alive are left alone for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from core.store.disk import Disk
from core.store.index import Row, read_footer
from core.store.log_files import log_number
from core.store.merge import FILE_BYTES_MAX, Source
from core.store.segment import BadFile

DEAD_SHARE_MIN = 0.5
DELETED_SHARE_MIN = 0.125  # of partitions that were deleted
PRESSED_SHARE_MIN = 0.1  # when the disk is nearly full
SCATTERED_READS_MIN = 256  # cold reads of scattered batches that make sorting a log segment pay
JOB_FILES_MAX = 64


class FileState(NamedTuple):
    """A sealed file, by what is left of it. Bytes are bytes of batches."""

    file_id: int
    name: str
    live_bytes: int
    dead_bytes: int
    deleted_bytes: int  # of the dead: of partitions that are gone
    first_position: int

    @property
    def is_log(self) -> bool:
        return log_number(self.name) is not None


def is_live(row: Row, log_starts: Mapping[int, int], dropped: Collection[int]) -> bool:
    start = log_starts.get(row.partition)
    return start is not None and row.end_offset > start and row.partition not in dropped


def look_at(
    disk: Disk,
    files: Sequence[tuple[int, str]],
    log_starts: Mapping[int, int],
    dropped: Mapping[str, Collection[int]],
    pace: Callable[[int], None],
) -> list[FileState]:
    """The state of each file, but for those whose directory is damaged; `log_starts` has the living partitions. For a
    thread: it reads every directory."""
    states = []
    for file_id, name in files:
        live = dead = deleted = 0
        first_position = 2**63 - 1
        gone = dropped.get(name, ())
        try:
            rows = read_footer(disk.open(name)).rows
        except BadFile:
            continue
        for row in rows:
            if is_live(row, log_starts, gone):
                live += row.size_bytes
            else:
                dead += row.size_bytes
                if row.partition not in log_starts:
                    deleted += row.size_bytes
            first_position = min(first_position, row.first_position)
        states.append(FileState(file_id, name, live, dead, deleted, first_position))
        pace(0)
    return states


def dead_files(states: Sequence[FileState]) -> list[FileState]:
    return [state for state in states if state.live_bytes == 0]


def worth_rewriting(
    states: Sequence[FileState], scattered_reads: Mapping[str, int], *, pressed: bool, live_bytes_max: int
) -> list[FileState]:
    """Files to write anew in one go, oldest first, empty when none pays. `pressed`: the disk is nearly full."""
    share_min = PRESSED_SHARE_MIN if pressed else DEAD_SHARE_MIN
    chosen: list[FileState] = []
    live = 0
    for state in sorted(states, key=lambda s: s.first_position):
        size = state.live_bytes + state.dead_bytes
        pays = (
            state.dead_bytes >= share_min * size
            or state.deleted_bytes >= DELETED_SHARE_MIN * size
            or (state.is_log and scattered_reads.get(state.name, 0) >= SCATTERED_READS_MIN)
        )
        if not pays or state.live_bytes == 0 or state.live_bytes > live_bytes_max - live:
            continue
        chosen.append(state)
        live += state.live_bytes
        if live >= FILE_BYTES_MAX or len(chosen) == JOB_FILES_MAX:
            break
    return chosen


def live_sources(
    disk: Disk, names: Sequence[str], log_starts: Mapping[int, int], dropped: Mapping[str, Collection[int]]
) -> list[Source]:
    """The files with their live rows, for a merge."""
    sources = []
    for name in names:
        file = disk.open(name)
        rows = [row for row in read_footer(file).rows if is_live(row, log_starts, dropped.get(name, ()))]
        sources.append(Source(file, rows))
    return sources
