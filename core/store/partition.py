"""What the embedded engine knows of one partition, and the ring of recent batches that its readers share.

Two views of a partition live side by side. *Assigned* is what appends have been promised but the disk has not
(`next_offset`, `start_next`, producers in flight): appends are checked against it. *Durable* is what readers see
(`high_watermark`, `log_start`, blocks). Taking appends back means setting the first to the second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from core.store.engine import PartitionPolicy
from core.store.index import Block, Extents
from core.store.producers import ProducerTable

if TYPE_CHECKING:
    from core.store.log_files import Segment

_TRIM_MIN = 64
_DEFAULT_POLICY = PartitionPolicy()
_base_of = itemgetter(0)


class Range(NamedTuple):
    """Offsets [first, end)."""

    first: int
    end: int


class OpenBlock(NamedTuple):
    """A partition's block in a segment that has no footer yet."""

    segment: Segment
    block: Block


class Partition:
    """State of one partition; everything in it belongs to the trio thread."""

    __slots__ = (
        "damage",
        "epochs",
        "extents",
        "high_watermark",
        "hot",
        "hot_from",
        "hot_head",
        "log_start",
        "next_offset",
        "number",
        "open",
        "policy",
        "producers",
        "start_next",
        "watchers",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.log_start = self.start_next = 0
        self.high_watermark = self.next_offset = 0
        self.producers: ProducerTable | None = None  # made by the first batch with a producer id
        self.epochs: list[tuple[int, int]] = []  # (epoch, start offset), both rising
        self.extents: Extents | None = None  # sealed files
        self.open: list[OpenBlock] = []  # unsealed segments, oldest first
        self.hot: list[tuple[int, int, bytes] | None] = []  # (base offset, last offset, batch) from hot_head on
        self.hot_head = 0
        self.hot_from = 0  # below, batches in the ring are as they were before they were compacted
        self.damage: list[Range] = []
        self.watchers: list[Callable[[int], None]] = []
        self.policy = _DEFAULT_POLICY

    @property
    def last_stable(self) -> int:
        if self.producers is None:
            return self.high_watermark
        return self.producers.last_stable(self.high_watermark, self.log_start)

    @property
    def size_bytes(self) -> int:
        """Bytes of batches in the files, whole files' worth below the log start left out."""
        size = sum(open_block.block.size_bytes for open_block in self.open)
        if self.extents is not None:
            size += self.extents.size_from(self.log_start)
        return size

    @property
    def max_timestamp_ms(self) -> int:
        """The largest timestamp of the blocks that reach above the log start, -1 without one."""
        largest = -1
        for open_block in self.open:
            if open_block.block.end_offset > self.log_start:
                largest = max(largest, open_block.block.stamps[-1])
        if self.extents is not None:
            largest = max(largest, self.extents.max_timestamp_from(self.log_start))
        return largest

    def add_epoch(self, epoch: int, offset: int) -> None:
        if not self.epochs or self.epochs[-1][0] < epoch:
            self.epochs.append((epoch, offset))

    def raise_log_start(self, offset: int) -> None:
        if offset <= self.log_start:
            return
        self.log_start = offset
        self.start_next = max(self.start_next, offset)
        if self.producers is not None:
            self.producers.log_start_moved(offset)
        self.damage = [r for r in self.damage if r.end > offset]
        while len(self.epochs) > 1 and self.epochs[1][1] <= offset:
            del self.epochs[0]

    def damage_at(self, offset: int) -> Range | None:
        """The damaged range that holds `offset`, or the next one after it."""
        for damaged in self.damage:
            if offset < damaged.end:
                return damaged
        return None

    def take_back(self) -> None:
        """Forgets all that is not durable."""
        self.next_offset = self.high_watermark
        self.start_next = self.log_start
        if self.producers is not None:
            self.producers.roll_back(self.high_watermark)

    def find_hot(self, offset: int) -> int:
        """Index in `hot` of the batch that holds `offset`, or the next; -1 when the ring does not reach back so far."""
        hot, head = self.hot, self.hot_head
        if head == len(hot) or offset < self.hot_from or offset < hot[head][0]:  # type: ignore[index]
            return -1
        i = bisect_right(hot, offset, lo=head, key=_base_of) - 1  # type: ignore[arg-type]
        return i if offset <= hot[i][1] else i + 1  # type: ignore[index]


class HotRing:
    """The newest durable batches of all partitions, bounded in bytes and in batches, so that tailing readers make no
    system calls. The oldest goes first, whatever its partition."""

    def __init__(self, bytes_max: int, batches_max: int) -> None:
        self._bytes_max = bytes_max
        self._batches_max = batches_max
        self._order: deque[Partition] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, partition: Partition, base_offset: int, last_offset: int, batch: bytes) -> None:
        partition.hot.append((base_offset, last_offset, batch))
        self._order.append(partition)
        self.size_bytes += len(batch)
        while self.size_bytes > self._bytes_max or len(self._order) > self._batches_max:
            oldest = self._order.popleft()
            head = oldest.hot_head
            item = oldest.hot[head]
            assert item is not None
            self.size_bytes -= len(item[2])
            oldest.hot[head] = None
            head += 1
            if head >= _TRIM_MIN and 2 * head >= len(oldest.hot):
                del oldest.hot[:head]
                head = 0
            oldest.hot_head = head
