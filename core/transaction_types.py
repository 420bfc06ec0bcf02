"""What a transaction is to its coordinator, how it is stored, and what the coordinator answers."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from core.errors import CoreError
from core.group_codec import VERSION, Reader, Writer

NO_PRODUCER_ID: Final = -1
NO_EPOCH: Final = -1
EPOCH_MAX: Final = 2**15 - 1  # only ever used to fence: no producer is given it
KEY_PREFIX: Final = b"t"


class TxnState(enum.Enum):
    """Values are Kafka's names, which tools show. Nothing lies between ongoing and complete: the end is one append."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    COMMITTED = "CompleteCommit"
    ABORTED = "CompleteAbort"


_CODES: Final = {TxnState.EMPTY: 0, TxnState.ONGOING: 1, TxnState.COMMITTED: 2, TxnState.ABORTED: 3}
_STATES: Final = {code: state for state, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class TransactionLimits:
    timeout_ms_max: int = 900_000
    id_expiry_ms: int = 7 * 86_400_000
    ids_max: int = 1_000_000


class Producer(NamedTuple):
    """A producer id and its epoch."""

    id: int
    epoch: int


@dataclass(slots=True, eq=False)
class Transaction:
    """One transactional id: its producer, and the transaction that is open or was the last.

    `partitions` are the engine's numbers. `last_epoch` is the epoch that the present one replaced at its producer's own
    wish (-1: another took over), `previous_id` the producer id before the last exhaustion of epochs: both tell a
    retry from a fenced producer. `deadline_ms` is monotonic and holds while ONGOING. `pending`: an append that changes
    the producer or ends the transaction is on its way, and everybody else has to ask again.
    """

    id: str
    producer_id: int
    epoch: int
    timeout_ms: int
    state: TxnState = TxnState.EMPTY
    last_epoch: int = NO_EPOCH
    previous_id: int = NO_PRODUCER_ID
    partitions: set[int] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    start_wall_ms: int = -1
    update_wall_ms: int = -1
    deadline_ms: int = 0
    pending: bool = False

    @property
    def key(self) -> bytes:
        return KEY_PREFIX + self.id.encode()

    @property
    def is_exhausted(self) -> bool:
        """Whether no further epoch can be given under this producer id."""
        return self.epoch >= EPOCH_MAX - 1


class Ended(NamedTuple):
    """What a transactional id becomes when its transaction has ended or its producer is replaced."""

    producer: Producer
    state: TxnState
    last_epoch: int
    previous_id: int


class InitResult(NamedTuple):
    error: CoreError | None
    producer: Producer = Producer(NO_PRODUCER_ID, NO_EPOCH)


Done = Callable[[CoreError | None], None]
InitDone = Callable[[InitResult], None]


def pack(txn: Transaction, ended: Ended | None = None) -> bytes:
    """The stored form of the transaction as it is, or as it will be once it has `ended`."""
    if ended is None:
        ended = Ended(Producer(txn.producer_id, txn.epoch), txn.state, txn.last_epoch, txn.previous_id)
    is_open = ended.state is TxnState.ONGOING
    writer = Writer(VERSION).i64(ended.producer.id).i32(ended.producer.epoch).i32(ended.last_epoch)
    writer.i64(ended.previous_id).i32(txn.timeout_ms).i8(_CODES[ended.state])
    writer.i64(txn.start_wall_ms if is_open else -1).i64(txn.update_wall_ms)
    partitions = sorted(txn.partitions) if is_open else []
    groups = sorted(txn.groups) if is_open else []
    writer.i32(len(partitions))
    for partition in partitions:
        writer.i64(partition)
    writer.i32(len(groups))
    for group in groups:
        writer.text(group)
    return writer.finish()


def unpack(transactional_id: str, value: bytes) -> Transaction:
    """Raises ValueError for a record that is damaged or of a newer broker."""
    reader = Reader(value)
    reader.version()
    txn = Transaction(transactional_id, reader.i64(), reader.i32(), timeout_ms=0, last_epoch=reader.i32())
    txn.previous_id, txn.timeout_ms, txn.state = reader.i64(), reader.i32(), _STATES[reader.i8()]
    txn.start_wall_ms, txn.update_wall_ms = reader.i64(), reader.i64()
    txn.partitions = {reader.i64() for _ in range(reader.i32())}
    txn.groups = {reader.text() for _ in range(reader.i32())}
    return txn
