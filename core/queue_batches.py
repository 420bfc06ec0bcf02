"""Batches opened for those who need single records of them: decoded once, kept for a while, packed anew.

Memory: at most OPENED_MAX batches of OPENED_BYTES_MAX together (as they lie in the log); a larger one is not kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from core.delivery import DECODED_BYTES_MAX, Stretch, committed_batches, records_of
from core.queue_types import Handout
from core.store.engine import Buffer, DataDamaged, Engine, OffsetOutOfRange, Read, UnknownPartition
from trivium.record_batch import BatchError, parse_header
from trivium.records import Record, build, decode

OPENED_MAX = 64
OPENED_BYTES_MAX = 16 * 1024 * 1024


class Opened:
    """The records of one batch, by rising offset."""

    __slots__ = ("_offsets", "records", "size_bytes")

    def __init__(self, records: list[Record], size_bytes: int) -> None:
        self.records = records
        self._offsets = [record.offset for record in records]
        self.size_bytes = size_bytes

    def from_offset(self, offset: int) -> Iterator[Record]:
        for index in range(bisect_left(self._offsets, offset), len(self.records)):
            yield self.records[index]

    def between(self, first: int, last: int) -> list[Record]:
        return self.records[bisect_left(self._offsets, first) : bisect_right(self._offsets, last)]

    def at(self, offset: int) -> Record | None:
        record = next(self.from_offset(offset), None)
        return record if record is not None and record.offset == offset else None


def pack(records: list[Record]) -> bytes:
    """One batch of these records (at least one) at their own offsets."""
    return build(records, keep_offsets=True)


def in_order(handouts: Iterable[Handout]) -> list[Buffer]:
    """The batches of one partition's handouts by rising offset, for a reader that passes once over them and over what
    is meant, and takes what it does not meet for gone: those that reach into each other become one of what is meant.
    """
    together: list[list[Handout]] = []
    reach = -1
    for header, handout in sorted(((parse_header(one.batch), one) for one in handouts), key=lambda pair: pair[0][0]):
        if header.base_offset > reach:
            together.append([])
        together[-1].append(handout)
        reach = max(reach, header.last_offset)
    return [batch for some in together for batch in _joined(some)]


def _joined(handouts: Sequence[Handout]) -> list[Buffer]:
    batches = list({id(one.batch): one.batch for one in handouts}.values())
    if len(batches) == 1:
        return batches
    found: list[Record] = []
    try:
        for one in handouts:
            opened = Opened(decode(one.batch, DECODED_BYTES_MAX), len(one.batch))
            found += [record for first, last in one.ranges for record in opened.between(first, last)]
    except BatchError:
        return batches  # for the reader to find out
    return [pack(sorted(found, key=lambda record: record.offset))]


class OpenedBatches:
    """See the module."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: OrderedDict[tuple[int, int], tuple[int, Opened]] = OrderedDict()  # -> last offset, records
        self._kept_bytes = 0

    def open(self, stretch: Stretch) -> Opened:
        """The records of a batch."""
        key = (stretch.partition, stretch.base_offset)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept[1]
        opened = Opened(records_of(stretch), len(stretch.batch))
        if opened.size_bytes <= OPENED_BYTES_MAX:
            self._keep(key, stretch.base_offset + stretch.header.last_offset_delta, opened)
        return opened

    def _keep(self, key: tuple[int, int], last_offset: int, opened: Opened) -> None:
        self._kept[key] = (last_offset, opened)
        self._kept_bytes += opened.size_bytes
        while len(self._kept) > OPENED_MAX or self._kept_bytes > OPENED_BYTES_MAX:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.size_bytes

    def forget(self, partition: int) -> None:
        """The partition is gone."""
        for key in [key for key in self._kept if key[0] == partition]:
            self._kept_bytes -= self._kept.pop(key)[1].size_bytes

    def look(self, partition: int, offset: int) -> Opened | None:
        """The opened batch that holds an offset, if it is still here."""
        for key, (last_offset, opened) in reversed(self._kept.items()):
            if key[0] == partition and key[1] <= offset <= last_offset:
                return opened
        return None

    async def record(self, partition: int, offset: int) -> Record | None:
        """The record at an offset, which has been handed out before; None when the log no longer has it."""
        opened = self.look(partition, offset)
        if opened is not None:
            return opened.at(offset)
        try:
            read: Read | None = self._engine.read_nowait(partition, offset, 1)
            if read is None:
                read = await self._engine.read(partition, offset, 1)
        except (UnknownPartition, OffsetOutOfRange, DataDamaged):
            return None
        for stretch in committed_batches(partition, read, offset):
            return self.open(stretch).at(offset)
        return None


def is_whole(stretch: Stretch) -> bool:
    """Whether every offset of the batch has a record."""
    return stretch.header.count == stretch.header.last_offset_delta + 1
