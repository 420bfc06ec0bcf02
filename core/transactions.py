"""The transaction coordinator (KIP-98, KIP-360, KIP-890): producers, their transactions, and how these end.

Rules:
* A transaction ends in ONE append: markers to all its partitions, what becomes of its offsets, and its own state. A
  crash leaves all of it or nothing, so there is no prepared state and nothing to resume.
* While such an append is on its way (`pending`) every other request is told CONCURRENT_TRANSACTIONS; so nothing late
  can slip into the next transaction. Whoever appends a transactional batch must check it (`check_partition` or
  `ensure_partition`) and hand it to the engine in the same breath.
* A partition named by AddPartitionsToTxn is durable before the answer. One that joins implicitly (`ensure_partition`)
  is known from its own open batches: at start, what is open in the engine makes its transaction ongoing again.
* Nothing hangs: a transaction past its time-out is aborted and its producer fenced, open data without an owner is
  aborted at start, a partition that was deleted is left out.
* Fencing writes the abort with the next epoch, so that the old producer's batches are refused by the partitions too.

Times: `now_ms` is monotonic, stored times are wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from core.errors import CoreError
from core.group_log import store_error
from core.producer_ids import KEY as PRODUCER_IDS_KEY
from core.producer_ids import ProducerIds
from core.state import StateLog
from core.store.engine import Appended, Engine, Entry, Outcome
from core.transaction_ends import TxnOffsets, answer_retry, init_result, markers, refused, square_with_engine
from core.transaction_types import (
    EPOCH_MAX,
    KEY_PREFIX,
    NO_EPOCH,
    NO_PRODUCER_ID,
    Done,
    Ended,
    InitDone,
    InitResult,
    Producer,
    Transaction,
    TransactionLimits,
    TxnState,
    pack,
    unpack,
)

log = structlog.get_logger(__name__)

EXPIRED_PER_APPEND_MAX = 1_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Transactions:
    """All transactional ids. `load` once, then `sweep` every second or so and `expire` now and then."""

    def __init__(
        self,
        engine: Engine,
        state: StateLog,
        offsets: TxnOffsets,
        offsets_state: StateLog,
        limits: TransactionLimits,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._engine = engine
        self._state = state
        self._offsets = offsets
        self._offsets_state = offsets_state
        self._limits = limits
        self._wall_ms = wall_ms
        self._ids = ProducerIds(engine, state)
        self._table: dict[str, Transaction] = {}
        self._ongoing: dict[str, Transaction] = {}

    # -- start

    async def load(self, now_ms: int) -> None:
        """Replays the log and squares it with what is open in the engine. Raises ValueError for a newer log."""

        def apply(key: bytes, value: bytes | None) -> None:
            if key == PRODUCER_IDS_KEY:
                self._ids.apply(value)
            elif value is None:
                self._table.pop(key[len(KEY_PREFIX) :].decode(), None)
            else:
                transactional_id = key[len(KEY_PREFIX) :].decode()
                self._table[transactional_id] = unpack(transactional_id, value)

        await self._state.load(apply)
        await square_with_engine(self._engine, self._table, self._offsets, self._offsets_state, self._wall_ms())
        for txn in self._table.values():
            if txn.state is TxnState.ONGOING:
                txn.deadline_ms = now_ms + txn.timeout_ms
                self._ongoing[txn.id] = txn

    # -- producers

    def init_producer(
        self, transactional_id: str | None, timeout_ms: int, expected: Producer | None, now_ms: int, done: InitDone
    ) -> None:
        """InitProducerId: a producer id and epoch that fence whoever had the transactional id before.

        `expected` is what the producer believes it has (KIP-360); None when it is new. Without a transactional id
        every call gives a fresh producer id.
        """
        if transactional_id is None:
            self._ids.take(lambda number, error: done(InitResult(error, Producer(number, -1 if error else 0))))
            return
        if not 0 < timeout_ms <= self._limits.timeout_ms_max:
            done(InitResult(CoreError.INVALID_TXN_TIMEOUT))
            return
        txn = self._table.get(transactional_id)
        if txn is None:
            self._create(transactional_id, timeout_ms, done)
            return
        if txn.pending:
            done(InitResult(CoreError.CONCURRENT_TRANSACTIONS))
            return
        current = Producer(txn.producer_id, txn.epoch)
        if expected is not None and expected != current:
            # A retry of a bump that was done but whose answer was lost is told the same again; all others are fenced.
            same_id = expected.id == txn.producer_id or (
                expected.id == txn.previous_id and expected.epoch >= EPOCH_MAX - 1
            )
            is_retry = same_id and expected.epoch == txn.last_epoch and txn.state is not TxnState.ONGOING
            done(InitResult(None, current) if is_retry else InitResult(CoreError.PRODUCER_FENCED))
            return
        txn.timeout_ms = timeout_ms
        last_epoch = NO_EPOCH if expected is None else txn.epoch
        if txn.state is TxnState.ONGOING:
            self._end(txn, False, True, TxnState.EMPTY, last_epoch, lambda error: done(init_result(txn, error)))
        else:
            self._replace(txn, TxnState.EMPTY, last_epoch, lambda error: done(init_result(txn, error)))

    def _create(self, transactional_id: str, timeout_ms: int, done: InitDone) -> None:
        if len(self._table) >= self._limits.ids_max:
            done(InitResult(CoreError.POLICY_VIOLATION))
            return
        txn = Transaction(transactional_id, NO_PRODUCER_ID, NO_EPOCH, timeout_ms, pending=True)
        self._table[transactional_id] = txn

        def stored(error: CoreError | None) -> None:
            txn.pending = False
            if error is not None:
                del self._table[transactional_id]
            done(init_result(txn, error))

        def got(number: int, error: CoreError | None) -> None:
            if error is not None:
                stored(error)
                return
            txn.producer_id, txn.epoch = number, 0
            self._store(txn, stored)

        self._ids.take(got)

    def _replace(self, txn: Transaction, state: TxnState, last_epoch: int, done: Done) -> None:
        """Gives the transactional id its next epoch or producer id while no transaction is open."""

        def store(ended: Ended) -> None:
            def stored(answers: list[Appended]) -> None:
                txn.pending = False
                error = store_error(answers[0].outcome)
                if error is None:
                    self._become(txn, ended)
                done(error)

            txn.update_wall_ms = self._wall_ms()
            self._engine.append([self._state.entry([(txn.key, pack(txn, ended))])], stored)

        self._next_producer(txn, state, last_epoch, store, done)

    def _next_producer(
        self, txn: Transaction, state: TxnState, last_epoch: int, got: Callable[[Ended], None], failed: Done
    ) -> None:
        """The next epoch, or epoch 0 of a new producer id where the epochs are used up. Sets `pending`."""
        txn.pending = True
        if not txn.is_exhausted:
            got(Ended(Producer(txn.producer_id, txn.epoch + 1), state, last_epoch, txn.previous_id))
            return

        def got_id(number: int, error: CoreError | None) -> None:
            if error is not None:
                txn.pending = False
                failed(error)
            else:
                got(Ended(Producer(number, 0), state, last_epoch, txn.producer_id))

        self._ids.take(got_id)

    # -- what belongs to a transaction

    def check_partition(self, transactional_id: str, producer: Producer, partition: int) -> CoreError | None:
        """Whether the producer may append to the partition now: NOT_IN_TRANSACTION unless it was added before."""
        txn, error = self._find(transactional_id, producer)
        if txn is None:
            return error
        is_in = txn.state is TxnState.ONGOING and partition in txn.partitions
        return None if is_in else CoreError.NOT_IN_TRANSACTION

    def ensure_partition(
        self, transactional_id: str, producer: Producer, partition: int, now_ms: int
    ) -> CoreError | None:
        """As `check_partition`, but adds the partition, and begins a transaction if none is open (KIP-890)."""
        txn, error = self._find(transactional_id, producer)
        if txn is None:
            return error
        self._open(txn, now_ms)
        txn.partitions.add(partition)
        return None

    def check_group(self, transactional_id: str, producer: Producer, group_id: str) -> CoreError | None:
        """Whether the producer may send offsets of the group now."""
        txn, error = self._find(transactional_id, producer)
        if txn is None:
            return error
        is_in = txn.state is TxnState.ONGOING and group_id in txn.groups
        return None if is_in else CoreError.NOT_IN_TRANSACTION

    def ensure_group(self, transactional_id: str, producer: Producer, group_id: str, now_ms: int) -> CoreError | None:
        """As `check_group`, but adds the group (KIP-890)."""
        txn, error = self._find(transactional_id, producer)
        if txn is None:
            return error
        self._open(txn, now_ms)
        txn.groups.add(group_id)
        return None

    def add(
        self,
        transactional_id: str,
        producer: Producer,
        partitions: Iterable[int],
        groups: Iterable[str],
        now_ms: int,
        done: Done,
    ) -> None:
        """AddPartitionsToTxn, AddOffsetsToTxn: `done` when it is durable."""
        txn, error = self._find(transactional_id, producer)
        if txn is None:
            done(error)
            return
        new_partitions = set(partitions) - txn.partitions
        new_groups = set(groups) - txn.groups
        if txn.state is TxnState.ONGOING and not new_partitions and not new_groups:
            done(None)
            return
        self._open(txn, now_ms)
        txn.partitions |= new_partitions
        txn.groups |= new_groups
        self._store(txn, done)

    def _find(self, transactional_id: str, producer: Producer) -> tuple[Transaction | None, CoreError | None]:
        """The transactional id's entry when this producer may act on it, else why not."""
        txn = self._table.get(transactional_id)
        if txn is None:
            return None, CoreError.UNKNOWN_TRANSACTIONAL_ID
        if txn.pending:
            return None, CoreError.CONCURRENT_TRANSACTIONS
        if txn.producer_id != producer.id:
            return None, CoreError.UNKNOWN_TRANSACTIONAL_ID
        if txn.epoch != producer.epoch:
            return None, CoreError.PRODUCER_FENCED
        return txn, None

    def _open(self, txn: Transaction, now_ms: int) -> None:
        if txn.state is TxnState.ONGOING:
            return
        txn.state = TxnState.ONGOING
        txn.partitions.clear()
        txn.groups.clear()
        txn.start_wall_ms = self._wall_ms()
        txn.deadline_ms = now_ms + txn.timeout_ms
        self._ongoing[txn.id] = txn

    def _store(self, txn: Transaction, done: Done) -> None:
        txn.update_wall_ms = self._wall_ms()
        entry = self._state.entry([(txn.key, pack(txn))])
        self._engine.append([entry], lambda answers: done(store_error(answers[0].outcome)))

    # -- the end

    def end(self, transactional_id: str, producer: Producer, commit: bool, bump: bool, done: InitDone) -> None:
        """EndTxn. With `bump` (EndTxn 5, KIP-890) the answer carries the producer for the next transaction, and a retry
        is known by the epoch before it; without, by the state alone.
        """
        txn = self._table.get(transactional_id)
        if txn is None:
            done(InitResult(CoreError.UNKNOWN_TRANSACTIONAL_ID))
            return
        if txn.pending:
            done(InitResult(CoreError.CONCURRENT_TRANSACTIONS))
            return
        asked = TxnState.COMMITTED if commit else TxnState.ABORTED
        current = Producer(txn.producer_id, txn.epoch)
        if producer != current:
            done(answer_retry(txn, producer, asked) if bump else refused(txn, producer))
            return
        if txn.state is TxnState.ONGOING:
            last_epoch = txn.epoch if bump else txn.last_epoch
            self._end(txn, commit, bump, asked, last_epoch, lambda error: done(init_result(txn, error)))
        elif bump and not commit:
            # Nothing was added since the last end: the abort is that of an empty transaction.
            self._replace(txn, asked, txn.epoch, lambda error: done(init_result(txn, error)))
        elif not bump and txn.state is asked:
            done(InitResult(None, current))
        else:
            done(InitResult(CoreError.INVALID_TXN_STATE))

    def _end(self, txn: Transaction, commit: bool, bump: bool, state: TxnState, last_epoch: int, done: Done) -> None:
        """Ends the open transaction. With `bump` the markers carry the next epoch, and the producer gets it."""
        if not bump:
            txn.pending = True
            ended = Ended(Producer(txn.producer_id, txn.epoch), state, last_epoch, txn.previous_id)
            self._append_end(txn, commit, txn.epoch, ended, done)
            return
        marker_epoch = min(txn.epoch + 1, EPOCH_MAX)
        self._next_producer(
            txn, state, last_epoch, lambda ended: self._append_end(txn, commit, marker_epoch, ended, done), done
        )

    def _append_end(self, txn: Transaction, commit: bool, marker_epoch: int, ended: Ended, done: Done) -> None:
        partitions = sorted(txn.partitions)
        marked = Producer(txn.producer_id, marker_epoch)
        txn.update_wall_ms = self._wall_ms()
        entries: list[Entry] = list(markers(partitions, marked, commit, self._engine.epoch, txn.update_wall_ms))
        changes = self._offsets.pending_changes(txn.producer_id, commit)
        if changes:
            entries.append(self._offsets_state.entry(changes))
        entries.append(self._state.entry([(txn.key, pack(txn, ended))]))

        def appended(answers: list[Appended]) -> None:
            refused = {
                partition
                for partition, answer in zip(partitions, answers, strict=False)
                if answer.outcome in (Outcome.UNKNOWN_PARTITION, Outcome.PRODUCER_FENCED)
            }
            if refused:
                # Deleted meanwhile, or (which should not be) fenced there by a later epoch: the others must end.
                log.warning("transaction ends without partitions", transactional_id=txn.id, partitions=sorted(refused))
                txn.partitions -= refused
                self._append_end(txn, commit, marker_epoch, ended, done)
                return
            error = _first_error(answers)
            txn.pending = False
            if error is None:
                self._offsets.complete_txn(txn.producer_id, commit)
                self._become(txn, ended)
            done(error)

        self._engine.append(entries, appended)

    def _become(self, txn: Transaction, ended: Ended) -> None:
        txn.producer_id, txn.epoch = ended.producer
        txn.state, txn.last_epoch, txn.previous_id = ended.state, ended.last_epoch, ended.previous_id
        txn.partitions.clear()
        txn.groups.clear()
        txn.start_wall_ms = -1
        self._ongoing.pop(txn.id, None)

    # -- time

    def sweep(self, now_ms: int) -> None:
        """Aborts what is past its time-out. The producer is fenced; it may go on as after an abort of its own."""
        for txn in [txn for txn in self._ongoing.values() if txn.deadline_ms <= now_ms and not txn.pending]:
            log.info("transaction timed out", transactional_id=txn.id, timeout_ms=txn.timeout_ms)
            self._end(txn, False, True, TxnState.ABORTED, txn.epoch, _timed_out(txn))

    def expire(self) -> None:
        """Forgets transactional ids that were not used for `id_expiry_ms`, some thousand at a time."""
        limit_ms = self._wall_ms() - self._limits.id_expiry_ms
        gone: list[Transaction] = []
        for txn in self._table.values():
            if txn.state is not TxnState.ONGOING and not txn.pending and txn.update_wall_ms <= limit_ms:
                gone.append(txn)
                txn.pending = True
                if len(gone) == EXPIRED_PER_APPEND_MAX:
                    break
        if not gone:
            return

        def done(answers: list[Appended]) -> None:
            for txn in gone:
                txn.pending = False
                if store_error(answers[0].outcome) is None:
                    del self._table[txn.id]

        self._engine.append([self._state.entry([(txn.key, None) for txn in gone])], done)

    # -- what tools ask

    def get(self, transactional_id: str) -> Transaction | None:
        """For looking at only."""
        return self._table.get(transactional_id)

    def all(self) -> Iterable[Transaction]:
        """For looking at only."""
        return self._table.values()


def _timed_out(txn: Transaction) -> Done:
    def done(error: CoreError | None) -> None:
        if error is not None:
            log.warning("time-out of a transaction could not be stored", transactional_id=txn.id, error=error.value)

    return done


def _first_error(answers: list[Appended]) -> CoreError | None:
    errors = [store_error(answer.outcome) for answer in answers if answer.outcome is not Outcome.NOT_APPENDED]
    return next((error for error in errors if error is not None), None)
