"""The producers of one partition: idempotence, transactions, last stable offset, aborted list (KIP-98, KIP-360).

Rules, as Kafka's ProducerStateManager and ProducerAppendInfo have them:

* A producer's batch must carry the sequence after its last one (2**31 - 1 wraps to 0). One of its last five batches,
  with the same epoch and the same first and last sequence, is a duplicate and is answered with that batch's offset.
* A batch of an earlier transaction is a duplicate only with the same checksum too. librdkafka gives the sequences of
  what it purged in an abort to new records, though the broker may have stored the purged ones: those are out of order,
  which makes it begin a new epoch. Taken for duplicates they would be acknowledged and never be there.
* A producer that is not known (new, expired, evicted) may start with any sequence. A newer epoch starts at 0; an older
  one is fenced. A batch without a sequence (the coordinator's) is only checked for its epoch.
* The first transactional batch opens a transaction, a marker ends it. Inside one, a plain batch is refused.
* A marker with an older producer epoch or coordinator epoch is fenced. One with a newer producer epoch forgets the
  sequences (KIP-890: the next transaction starts at 0).

Theory: a producer's state is an immutable tuple. `begin` puts a new one in place and keeps the old one until the batch
is durable, so taking batches back is putting tuples back. Checks see what is in flight; the last stable offset, the
aborted list, and snapshots see only what is durable. How the engine uses it, on the loop, per partition:

    outcome, base_offset = producers.check(header, batch)     changes nothing
    producers.begin(header, base_offset, now_ms, batch)       for each batch accepted, in offset order
    producers.durable(high_watermark)                         once the batches below it are durable
    producers.roll_back(from_offset)                          or: batches from this offset on were not appended

A duplicate may be one that is still in flight: its answer waits until the watermark passes it. At recovery, and for
batches appended at given offsets, `begin` is called without `check`, then `durable`.

Measured (2 cores, Python 3.11): check 0.5 us, begin 1.0, durable 0.2 per batch.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

from core.store.engine import AbortedTxn, Outcome, ProducerState
from trivium.record_batch import CONTROL_BIT, TRANSACTIONAL_BIT, BatchError, BatchHeader, Buffer
from trivium.records import ControlMarker, parse_control

PRODUCERS_MAX = 10_000  # per partition; the one seen longest ago goes first
BATCHES_REMEMBERED = 5  # as many as an idempotent producer may have in flight
SEQUENCE_MASK = 0x7FFFFFFF

_ACCEPTED = (Outcome.APPENDED, -1)
_FENCED = (Outcome.PRODUCER_FENCED, -1)
_OUT_OF_ORDER = (Outcome.OUT_OF_ORDER_SEQUENCE, -1)
_INVALID_TXN = (Outcome.INVALID_TXN_STATE, -1)

_NEVER = 1 << 63

_Batch = tuple[int, int, int, int]  # first sequence, last sequence, base offset, checksum


class _State(NamedTuple):
    epoch: int
    batches: tuple[_Batch, ...]
    timestamp_ms: int
    seen_ms: int
    txn_start: int  # -1 without an open transaction
    coordinator_epoch: int


class LastBatch(NamedTuple):
    """What compaction keeps of a producer: the batch ending at `last_offset`; if that is -1, its marker of `epoch`."""

    last_offset: int
    epoch: int


class ProducerTable:
    """Producer table, open transactions and aborted index of one partition. Not thread-safe: it lives on the loop."""

    def __init__(self, producers_max: int = PRODUCERS_MAX) -> None:
        self._producers_max = producers_max
        self._states: OrderedDict[int, _State] = OrderedDict()  # the one seen last stands last
        self._in_flight: deque[tuple[int, int, _State | None]] = deque()  # base offset, producer id, state before it
        self._open: dict[int, int] = {}  # producer id -> first offset of its transaction
        # marker offset, producer id, first offset, aborted, last stable offset after it: ended, marker not durable yet
        self._ended: deque[tuple[int, int, int, bool, int]] = deque()
        self._aborted = _AbortedIndex()

    def __len__(self) -> int:
        return len(self._states)

    # Appending

    def check(self, header: BatchHeader, batch: Buffer = b"") -> tuple[Outcome, int]:
        """Whether the batch may be appended now: APPENDED, DUPLICATE (with its base offset) or why not.

        `batch` is looked at only for control batches. The header must have a producer id.
        """
        state = self._states.get(header.producer_id)
        if state is None:
            return _ACCEPTED
        if header.attributes & CONTROL_BIT:
            return self._check_marker(state, header, batch)
        epoch, batches, _, _, txn_start, _ = state
        first = header.base_sequence
        if header.producer_epoch == epoch:
            if first >= 0 and first != ((batches[-1][1] + 1) & SEQUENCE_MASK if batches else 0):
                last = header.last_sequence
                for known_first, known_last, base_offset, crc in batches:
                    if known_first == first and known_last == last:
                        is_earlier = header.attributes & TRANSACTIONAL_BIT and not 0 <= txn_start <= base_offset
                        if is_earlier and crc != header.crc:
                            break
                        return Outcome.DUPLICATE, base_offset
                return _OUT_OF_ORDER
        elif header.producer_epoch < epoch:
            return _FENCED
        elif first > 0:
            return _OUT_OF_ORDER
        if txn_start >= 0 and not header.attributes & TRANSACTIONAL_BIT:
            return _INVALID_TXN
        return _ACCEPTED

    def _check_marker(self, state: _State, header: BatchHeader, batch: Buffer) -> tuple[Outcome, int]:
        if header.producer_epoch < state.epoch:
            return _FENCED
        marker = _parse_marker(header, batch)
        if marker is not None and marker.coordinator_epoch < state.coordinator_epoch:
            return _FENCED
        return _ACCEPTED

    def begin(self, header: BatchHeader, base_offset: int, now_ms: int, batch: Buffer = b"") -> None:
        """The batch has got `base_offset` and is on its way to the disk. Offsets rise from call to call."""
        producer_id = header.producer_id
        states = self._states
        state = states.get(producer_id)
        self._in_flight.append((base_offset, producer_id, state))
        if header.attributes & CONTROL_BIT:
            self._begin_marker(state, header, base_offset, now_ms, batch)
            return
        first = header.base_sequence
        epoch = header.producer_epoch
        batches: tuple[_Batch, ...] = ()
        txn_start = coordinator_epoch = -1
        if state is not None:
            _, batches, _, _, txn_start, coordinator_epoch = state
            if state[0] != epoch:
                batches = ()
            states.move_to_end(producer_id)
        elif len(states) >= self._producers_max:
            self._evict()
        if first >= 0:
            last = (first + header.last_offset_delta) & SEQUENCE_MASK
            batches = (*batches[1 - BATCHES_REMEMBERED :], (first, last, base_offset, header.crc))
        if txn_start < 0 and header.attributes & TRANSACTIONAL_BIT:
            txn_start = self._open[producer_id] = base_offset
        states[producer_id] = _State(epoch, batches, header.max_timestamp, now_ms, txn_start, coordinator_epoch)

    def _begin_marker(
        self, state: _State | None, header: BatchHeader, base_offset: int, now_ms: int, batch: Buffer
    ) -> None:
        marker = _parse_marker(header, batch)
        if marker is None:
            return
        producer_id = header.producer_id
        batches: tuple[_Batch, ...] = ()
        if state is not None:
            if state.epoch == header.producer_epoch:
                batches = state.batches
            self._states.move_to_end(producer_id)
        elif len(self._states) >= self._producers_max:
            self._evict()
        first_offset = self._open.pop(producer_id, None)
        if first_offset is not None:
            stable = min(self._open.values(), default=base_offset + 1)
            self._ended.append((base_offset, producer_id, first_offset, not marker.commit, stable))
        self._states[producer_id] = _State(
            header.producer_epoch, batches, header.max_timestamp, now_ms, -1, marker.coordinator_epoch
        )

    def durable(self, high_watermark: int) -> None:
        """Everything below the watermark is durable."""
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] < high_watermark:
            in_flight.popleft()
        while self._ended and self._ended[0][0] < high_watermark:
            marker_offset, producer_id, first_offset, aborted, stable = self._ended.popleft()
            if aborted:
                self._aborted.add(producer_id, first_offset, marker_offset, stable)

    def roll_back(self, from_offset: int = 0) -> None:
        """Batches in flight at `from_offset` and after it were not appended: their producers may send them again."""
        in_flight = self._in_flight
        while in_flight and in_flight[-1][0] >= from_offset:
            _, producer_id, before = in_flight.pop()
            self._open.pop(producer_id, None)
            if before is None:
                self._states.pop(producer_id, None)
            else:
                self._states[producer_id] = before
                if before.txn_start >= 0:
                    self._open[producer_id] = before.txn_start
        while self._ended and self._ended[-1][0] >= from_offset:
            self._ended.pop()

    # Forgetting

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forgets producers not seen for so long, unless a transaction is open; returns how many."""
        busy = {producer_id for _, producer_id, _ in self._in_flight}
        gone = []
        for producer_id, state in self._states.items():
            if now_ms - state.seen_ms < expiration_ms:
                break  # those behind were seen later
            if state.txn_start < 0 and producer_id not in busy:
                gone.append(producer_id)
        for producer_id in gone:
            del self._states[producer_id]
        return len(gone)

    def _evict(self) -> None:
        busy = {producer_id for _, producer_id, _ in self._in_flight}
        for producer_id, state in self._states.items():
            if state.txn_start < 0 and producer_id not in busy:
                del self._states[producer_id]
                return

    def log_start_moved(self, log_start: int) -> None:
        """Aborted transactions wholly below the log start are no longer asked for."""
        self._aborted.prune(log_start)

    def drop_aborted(self, producer_id: int, last_offset: int) -> None:
        """Compaction removed the transaction's last batch: no reader needs to know of it any more."""
        self._aborted.drop(producer_id, last_offset)

    # Reading

    def last_stable(self, high_watermark: int, log_start: int = 0) -> int:
        """The offset up to which transactions are decided, for readers of committed data."""
        first = self.first_unstable
        return high_watermark if first is None else max(min(first, high_watermark), log_start)

    @property
    def first_unstable(self) -> int | None:
        """The first offset of a transaction that is open, or whose marker is not durable yet; None without one."""
        if not self._open and not self._ended:
            return None
        return min(*self._open.values(), *(ended[2] for ended in self._ended), _NEVER)

    def aborted(self, from_offset: int, end_offset: int) -> list[AbortedTxn]:
        """Aborted transactions that a read of [from_offset, end_offset) must know, by their markers' offsets."""
        return self._aborted.between(from_offset, end_offset)

    def states(self) -> list[ProducerState]:
        """Every known producer (DescribeProducers), batches in flight included."""
        return [
            ProducerState(
                producer_id,
                state.epoch,
                state.batches[-1][1] if state.batches else -1,
                state.timestamp_ms,
                state.txn_start,
                state.coordinator_epoch,
            )
            for producer_id, state in self._states.items()
        ]

    def last_batches(self) -> dict[int, LastBatch]:
        """For compaction: what must stay of each durable producer, so that a restart from the log alone knows it."""
        return {
            producer_id: LastBatch(_last_offset(state.batches[-1]) if state.batches else -1, state.epoch)
            for producer_id, state in self._durable_states()
        }

    def _durable_states(self) -> Iterator[tuple[int, _State]]:
        before: dict[int, _State | None] = {}
        for _, producer_id, state in self._in_flight:
            before.setdefault(producer_id, state)
        for producer_id, state in self._states.items():
            known = before.get(producer_id, state)
            if known is not None:
                yield producer_id, known

    # Checkpoints

    def snapshot(self) -> bytes:
        """The durable state: `restore` and the batches appended since make it whole again."""
        states = list(self._durable_states())
        parts = [_SNAPSHOT.pack(_SNAPSHOT_VERSION, len(states), len(self._aborted.last))]
        for producer_id, state in states:
            epoch, batches, timestamp_ms, seen_ms, txn_start, coordinator_epoch = state
            parts.append(
                _ENTRY.pack(producer_id, epoch, timestamp_ms, seen_ms, txn_start, coordinator_epoch, len(batches))
            )
            parts.extend(_BATCH.pack(*batch) for batch in batches)
        parts.append(self._aborted.pack())
        return b"".join(parts)

    @classmethod
    def restore(cls, data: Buffer, producers_max: int = PRODUCERS_MAX) -> ProducerTable:
        """The table a snapshot was made of. Raises ValueError for bytes that are none."""
        self = cls(producers_max)
        try:
            version, count, aborted = _SNAPSHOT.unpack_from(data)
            if version != _SNAPSHOT_VERSION:
                raise ValueError(f"producer snapshot of version {version}")
            at = _SNAPSHOT.size
            for _ in range(count):
                producer_id, epoch, timestamp_ms, seen_ms, txn_start, coordinator_epoch, batches = _ENTRY.unpack_from(
                    data, at
                )
                at += _ENTRY.size
                known = tuple(_BATCH.unpack_from(data, at + i * _BATCH.size) for i in range(batches))
                at += batches * _BATCH.size
                self._states[producer_id] = _State(epoch, known, timestamp_ms, seen_ms, txn_start, coordinator_epoch)
                if txn_start >= 0:
                    self._open[producer_id] = txn_start
        except struct.error as e:
            raise ValueError(f"producer snapshot is cut off: {e}") from None
        self._aborted = _AbortedIndex.unpack(memoryview(data)[at:], aborted)
        return self


def _parse_marker(header: BatchHeader, batch: Buffer) -> ControlMarker | None:
    """None for what ends no transaction: another control type, or a marker that compaction has emptied."""
    if header.count == 0:
        return None
    try:
        return parse_control(batch)
    except BatchError:
        return None


def _last_offset(batch: _Batch) -> int:
    first, last, base_offset, _ = batch
    return base_offset + ((last - first) & SEQUENCE_MASK)


class _AbortedIndex:
    """Aborted transactions in the order of their markers, in arrays: 32 bytes each.

    `stable[i]` is the last stable offset right after marker i. Transactions with later markers began at or behind it:
    a search can stop there, as Kafka's transaction index does.
    """

    def __init__(self) -> None:
        self.producer = array("q")
        self.first = array("q")
        self.last = array("q")
        self.stable = array("q")

    def add(self, producer_id: int, first_offset: int, last_offset: int, stable: int) -> None:
        self.producer.append(producer_id)
        self.first.append(first_offset)
        self.last.append(last_offset)
        self.stable.append(stable)

    def between(self, from_offset: int, end_offset: int) -> list[AbortedTxn]:
        found = []
        for i in range(bisect_left(self.last, from_offset), len(self.last)):
            if self.first[i] < end_offset:
                found.append(AbortedTxn(self.producer[i], self.first[i], self.last[i]))
            if self.stable[i] >= end_offset:
                break
        return found

    def prune(self, log_start: int) -> None:
        gone = bisect_left(self.last, log_start)
        if gone:
            for column in self._columns():
                del column[:gone]

    def drop(self, producer_id: int, last_offset: int) -> None:
        i = bisect_left(self.last, last_offset)
        if i < len(self.last) and self.last[i] == last_offset and self.producer[i] == producer_id:
            for column in self._columns():
                del column[i]

    def _columns(self) -> tuple[array[int], ...]:
        return self.producer, self.first, self.last, self.stable

    def pack(self) -> bytes:
        return b"".join(column.tobytes() for column in self._columns())

    @classmethod
    def unpack(cls, data: memoryview, count: int) -> _AbortedIndex:
        if len(data) != count * 32:
            raise ValueError(f"producer snapshot has {len(data)} bytes for {count} aborted transactions")
        self = cls()
        for i, column in enumerate(self._columns()):
            column.frombytes(data[i * count * 8 : (i + 1) * count * 8])
        return self


_SNAPSHOT_VERSION = 2
_SNAPSHOT = struct.Struct("<BII")
_ENTRY = struct.Struct("<qhqqqiB")
_BATCH = struct.Struct("<iiqI")
