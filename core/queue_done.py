"""Which offsets of a partition one group is done with.

    floor          end                 Everything below `floor` is done, nothing from `end` on was ever handed out.
    │   a bit each  │  not yet read    Between them an offset is done (its bit is set) or not.

What has changed since the last write is remembered, as in the partition that this belongs to.
"""

from __future__ import annotations

from core.bitmaps import full, leading_run
from core.queue_codec import CHUNK, CHUNK_BITS, FloorRow, done_key, floor_key, pack_done, pack_floor
from core.state import Change

_IN_CHUNK = CHUNK - 1


class DoneOffsets:
    def __init__(self, floor: int) -> None:
        self.floor = self.end = floor
        self._chunks: dict[int, int] = {}  # chunk -> mask, from the floor's chunk on
        self._stored: set[int] = set()
        self._dirty_floor = True
        self._dirty: set[int] = set()

    def __bool__(self) -> bool:
        """Whether something above the floor is done."""
        return bool(self._chunks)

    def __contains__(self, offset: int) -> bool:
        return offset < self.floor or bool(self._chunks.get(offset >> CHUNK_BITS, 0) >> (offset & _IN_CHUNK) & 1)

    def undone(self, first: int, count: int) -> int:
        """Those of `count` offsets from `first` on, which is not below the floor, that are not done."""
        if not self._chunks:
            return full(count)
        mask = 0
        at, end = first, first + count
        while at < end:
            in_chunk = at & _IN_CHUNK
            width = min(CHUNK - in_chunk, end - at)
            mask |= (~(self._chunks.get(at >> CHUNK_BITS, 0) >> in_chunk) & full(width)) << (at - first)
            at += width
        return mask

    def undone_count(self, log_end: int) -> int:
        """How many offsets are not done up to the end of the log."""
        chunk, in_chunk = self.floor >> CHUNK_BITS, self.floor & _IN_CHUNK
        done = sum((mask >> in_chunk if at == chunk else mask).bit_count() for at, mask in self._chunks.items())
        return max(log_end - self.floor - done, 0)

    def mark(self, first: int, mask: int) -> None:
        if mask == 1 and first > self.floor:  # the hot case
            chunk = first >> CHUNK_BITS
            self._chunks[chunk] = self._chunks.get(chunk, 0) | 1 << (first & _IN_CHUNK)
            self._dirty.add(chunk)
            return
        if first <= self.floor and not mask & (mask + 1):
            self.jump(first + mask.bit_length())
            return
        at_floor = first <= self.floor
        while mask:
            gap = (mask & -mask).bit_length() - 1
            first += gap
            mask >>= gap
            in_chunk = first & _IN_CHUNK
            width = CHUNK - in_chunk
            if first + mask.bit_length() > self.floor:
                chunk = first >> CHUNK_BITS
                self._chunks[chunk] = self._chunks.get(chunk, 0) | (mask & full(width)) << in_chunk
                self._dirty.add(chunk)
            mask >>= width
            first += width
        if at_floor:  # else the floor itself is as undone as before
            self._raise_floor()

    def mark_range(self, first: int, end: int) -> None:
        """Marks from `first` up to, not with, `end`."""
        while self.floor < first < end:
            width = min(CHUNK - (first & _IN_CHUNK), end - first)
            self.mark(first, full(width))
            first += width
        if end > first:
            self.jump(end)

    def jump(self, floor: int) -> None:
        """All below `floor` is done."""
        if floor <= self.floor:
            return
        self.floor = floor
        if floor > self.end:
            self.end = floor
        self._dirty_floor = True
        if self._chunks:
            for chunk in [chunk for chunk in self._chunks if (chunk + 1) << CHUNK_BITS <= floor]:
                self._drop(chunk)
            self._raise_floor()

    def _raise_floor(self) -> None:
        while (mask := self._chunks.get(self.floor >> CHUNK_BITS)) is not None:
            chunk, in_chunk = self.floor >> CHUNK_BITS, self.floor & _IN_CHUNK
            run = leading_run(mask >> in_chunk)
            self.floor += run
            self._dirty_floor |= run > 0
            if in_chunk + run < CHUNK:
                if not mask >> (in_chunk + run):
                    self._drop(chunk)
                break
            self._drop(chunk)
        self.end = max(self.end, self.floor)

    def _drop(self, chunk: int) -> None:
        self._chunks.pop(chunk, None)
        self._dirty.add(chunk)

    def reset(self, offset: int) -> None:
        """Everything below `offset` is done and nothing from it on."""
        self._dirty |= self._chunks.keys()
        self._chunks.clear()
        self.floor = self.end = offset
        self._dirty_floor = True

    # -- durable state

    def changes(self, group: str, partition: int, void_before: int) -> tuple[list[Change], list[int]]:
        """The rows to write, and the chunks whose row ends with them."""
        found: list[Change] = []
        ended: list[int] = []
        if self._dirty_floor:
            found.append((floor_key(group, partition), pack_floor(FloorRow(self.floor, void_before))))
            self._dirty_floor = False
        for chunk in self._dirty:
            mask = self._chunks.get(chunk)
            if mask is not None:
                found.append((done_key(group, partition, chunk), pack_done(mask)))
                self._stored.add(chunk)
            elif chunk in self._stored:
                found.append((done_key(group, partition, chunk), None))
                self._stored.discard(chunk)
                ended.append(chunk)
        self._dirty.clear()
        return found, ended

    def keys(self, group: str, partition: int) -> list[bytes]:
        """Of every row that is stored."""
        return [floor_key(group, partition), *(done_key(group, partition, chunk) for chunk in self._stored)]

    def still_stored(self, chunks: list[int]) -> None:
        """The end of their rows was refused."""
        self._stored.update(chunks)

    def write_all(self) -> None:
        """Everything is to be written, as if nothing had been."""
        self._dirty_floor = True
        self._dirty |= self._chunks.keys() | self._stored

    @property
    def is_dirty(self) -> bool:
        return self._dirty_floor or bool(self._dirty)

    # -- replay

    def load_floor(self, floor: int) -> None:
        self.floor = self.end = floor
        self._dirty_floor = False

    def load_chunk(self, chunk: int, mask: int) -> None:
        self._stored.add(chunk)
        self._chunks[chunk] = mask

    def loaded(self) -> None:
        """After the last row: what an interrupted write left below the floor goes."""
        for chunk in [chunk for chunk in self._chunks if chunk < self.floor >> CHUNK_BITS]:
            self._drop(chunk)
        self._raise_floor()
