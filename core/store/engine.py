"""The interface between the core and whatever keeps the log.

An engine holds *partitions*, known by a number that is never used again, and nothing about topics. All methods are
called on the trio thread. Rules every engine keeps, and `tests/store/contract.py` checks for each of them:

* `append` is atomic over its entries and returns at once. `done` is called later, never from inside `append`, in the
  order of the appends, and only once the outcome is durable (as the engine's flush mode defines it). One refused entry
  refuses the whole append.
* Offsets of one partition are given out in append order without holes, unless `keep_offsets` asks for gaps. An offset
  is nobody's before `done` has named it: nothing above the high watermark is ever read.
* Every appended batch gets a *position*: one 64-bit number, monotonic over the whole store, kept for the batch's life.
* Readers stop at the high watermark, or at the last stable offset when they read committed data.
* A duplicate of a batch that is not durable yet is answered when that batch is.

Two engines fit behind this: the embedded one (local disk, this process) and later one over an object store, so
nothing here may assume that the caller shares memory with the writer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import trio

from trivium.record_batch import BatchHeader

Buffer = bytes | bytearray | memoryview


class Outcome(enum.Enum):
    """What became of one entry of an append. The set is closed: each protocol maps it totally."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"  # stored before; base_offset names where, -1 when that is no longer known
    NOT_APPENDED = "not appended"  # refused because another entry of the same append was
    OUT_OF_ORDER_SEQUENCE = "out of order sequence"
    UNKNOWN_PRODUCER = "unknown producer"
    PRODUCER_FENCED = "producer fenced"  # an older producer epoch
    INVALID_TXN_STATE = "invalid transaction state"
    OFFSET_MISMATCH = "offset mismatch"  # if_next_offset did not hold, or keep_offsets would go back
    UNKNOWN_PARTITION = "unknown partition"
    FULL = "full"  # the disk has no room; reads go on
    FAILED = "failed"  # the store cannot write any more; the broker is about to exit


class Appended(NamedTuple):
    """The answer for one entry. `base_offset`, `position` are -1 where there is none; `log_start` is the
    partition's first offset.
    """

    outcome: Outcome
    base_offset: int = -1
    position: int = -1
    log_start: int = -1


class Append(NamedTuple):
    """One record batch for one partition.

    `batch` is exactly one valid v2 batch of `header.size_bytes` bytes, `header` its parsed header. The engine sets base
    offset and leader epoch (neither is under the CRC). A header with a producer id is checked against that producer's
    sequence, unless it is a control batch: that ends the producer's transaction in this partition. The caller must not
    change the buffer until `done`.
    """

    partition: int
    header: BatchHeader
    batch: Buffer
    if_next_offset: int | None = None  # else OFFSET_MISMATCH: the offset the batch must get
    keep_offsets: bool = False  # append at the batch's own base offset (relay): gaps are allowed, going back is not
    unless_duplicate: bool = False  # DUPLICATE, and not stored, when an entry before it in the same append is one


class CreatePartition(NamedTuple):
    """Makes an empty partition. UNKNOWN_PARTITION if the number was ever used."""

    partition: int


class DeletePartition(NamedTuple):
    """Removes a partition; its disk space is freed by the engine later."""

    partition: int


class DeleteBefore(NamedTuple):
    """Raises a partition's log start to `offset` (DeleteRecords). OFFSET_MISMATCH above the high watermark; never
    lowers it.
    """

    partition: int
    offset: int


Entry = Append | CreatePartition | DeletePartition | DeleteBefore
Done = Callable[[list[Appended]], None]


@dataclass(frozen=True, slots=True)
class PartitionPolicy:
    """What the engine may drop from a partition, and when. -1 means without limit. Not stored by the engine: set
    after each start.
    """

    delete: bool = True
    compact: bool = False
    retention_ms: int = -1
    retention_bytes: int = -1
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = 2**63 - 1
    delete_retention_ms: int = 86_400_000
    min_cleanable_dirty_ratio: float = 0.5
    segment_ms: int = 604_800_000  # what waits longer than this to be compacted, or is more than these bytes,
    segment_bytes: int = 1024 * 1024 * 1024  # is where compaction can take it, as Kafka's segments are
    key_index: bool = False


class AbortedTxn(NamedTuple):
    """An aborted transaction in a read range: `first_offset` is its first record's, `last_offset` its marker's."""

    producer_id: int
    first_offset: int
    last_offset: int


class Read(NamedTuple):
    """What a read found. `buffers` joined are whole batches in offset order; the first holds the asked offset
    (batches are never cut).
    """

    buffers: list[memoryview]
    size_bytes: int
    log_start: int
    high_watermark: int
    last_stable: int
    aborted: list[AbortedTxn]  # empty unless committed data was asked for


class PartitionInfo(NamedTuple):
    log_start: int
    high_watermark: int
    last_stable: int
    next_offset: int  # above the high watermark while appends are on their way
    size_bytes: int
    max_timestamp_ms: int  # -1 when empty


class TimedOffset(NamedTuple):
    offset: int
    timestamp_ms: int
    leader_epoch: int


class ProducerState(NamedTuple):
    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp_ms: int
    txn_start_offset: int  # -1 when no transaction is open in this partition
    coordinator_epoch: int


class DurableBatch(NamedTuple):
    """A batch that just became durable. The base offset inside `batch` is not patched: `base_offset` rules."""

    partition: int
    base_offset: int
    position: int
    header: BatchHeader
    batch: Buffer


class UnknownPartition(Exception):
    """No such partition (never made, or deleted)."""


class OffsetOutOfRange(Exception):
    """The offset is below the log start or above the high watermark."""


class DataDamaged(Exception):
    """The disk has lost what was stored here: `first_offset` up to, not with, `end_offset`. Reads go on behind it."""

    def __init__(self, partition: int, first_offset: int, end_offset: int) -> None:
        super().__init__(f"partition {partition}: offsets {first_offset} to {end_offset - 1} are damaged")
        self.partition = partition
        self.first_offset = first_offset
        self.end_offset = end_offset


class StoreUnusable(Exception):
    """The store cannot be opened as it is; the text says why."""


class StoreFailed(Exception):
    """The disk failed: nothing can be made durable any more. The broker says so and exits (a failed fdatasync is
    never retried).
    """


class Engine(Protocol):
    @property
    def epoch(self) -> int:
        """Rises durably at each start; serves as leader epoch."""

    @property
    def position(self) -> int:
        """The next durable batch's position: a reader that has seen everything durable stands here."""

    def append(self, entries: Sequence[Entry], done: Done) -> None: ...

    def write_now(self) -> None:
        """All that one read brought has been appended: write it in this step, if that can be, not in the next turn of
        the loop. Answers may come before it returns.
        """

    def read_nowait(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read | None:
        """Reads at most `bytes_max` bytes (at least one batch when `first_whole`), None when cold: then use `read`.

        `mapped` allows buffers that nobody but the kernel may read: to send them on, never to look into.

        An offset that compaction removed reads on from the next that is there. Raises UnknownPartition,
        OffsetOutOfRange (an offset equal to the high watermark is an empty read), DataDamaged.
        """

    async def read(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read:
        """As `read_nowait`, from a reader thread when the data is cold."""

    def watch(self, partition: int, callback: Callable[[int], None]) -> None:
        """Calls `callback(partition)` whenever its high watermark, last stable offset or log start has moved, or it
        is gone.
        """

    def unwatch(self, partition: int, callback: Callable[[int], None]) -> None: ...

    def add_tail_listener(self, listener: Callable[[list[DurableBatch]], None]) -> None:
        """Calls `listener` with each durable group's batches in position order, before the appends' own `done`."""

    def info(self, partition: int) -> PartitionInfo:
        """Raises UnknownPartition."""

    def partitions(self) -> list[int]: ...

    def set_policy(self, partition: int, policy: PartitionPolicy) -> None: ...

    async def offset_at(self, partition: int, position: int) -> int:
        """The offset of the first batch of the partition with at least this position (the high watermark when there
        is none).
        """

    def position_at(self, partition: int, offset: int) -> int:
        """The position of the batch that holds this offset (or of the next one that is there).

        For offsets that were just read: of others the index may be cold, and then this waits for the disk.
        """

    async def offset_for_time(self, partition: int, timestamp_ms: int) -> TimedOffset | None:
        """The first record with at least this timestamp, None when there is none."""

    async def max_timestamp(self, partition: int) -> TimedOffset | None:
        """The record with the largest timestamp (KIP-734), None when empty."""

    def epoch_end(self, partition: int, epoch: int) -> tuple[int, int]:
        """(largest epoch <= `epoch` that the partition has, offset after its last record); (-1, -1) when there is
        none.
        """

    def epoch_of(self, partition: int, offset: int) -> int:
        """The leader epoch of the batch that holds this offset, -1 when unknown."""

    def producers(self, partition: int) -> list[ProducerState]: ...

    async def offsets_for_key(self, partition: int, key: bytes, *, from_offset: int, count_max: int) -> list[int]:
        """Offsets of records with this key, ascending (candidates: hashes may collide, so the caller looks at the
        key).
        """


async def append(engine: Engine, entries: Sequence[Entry]) -> list[Appended]:
    """Appends and waits for the answer. Cancelling stops the waiting, not the append."""
    answered = trio.Event()
    results: list[Appended] = []

    def done(answers: list[Appended]) -> None:
        results.extend(answers)
        answered.set()

    engine.append(entries, done)
    await answered.wait()
    return results
