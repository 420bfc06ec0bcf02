"""Producer table: Kafka's rules for sequences, epochs, transactions; and that taking back leaves no trace."""

from __future__ import annotations

import random

import pytest

from core.store.engine import AbortedTxn, Outcome
from core.store.producers import ProducerTable
from trivium.record_batch import BatchHeader, parse_header
from trivium.records import Record, build, build_control

APPENDED = (Outcome.APPENDED, -1)
OUT_OF_ORDER = (Outcome.OUT_OF_ORDER_SEQUENCE, -1)
FENCED = (Outcome.PRODUCER_FENCED, -1)
WRAP = 2**31


class Partition:
    """A producer table and what an engine does with it."""

    def __init__(self, **limits: int) -> None:
        self.table = ProducerTable(**limits)
        self.next_offset = 0
        self.now_ms = 1000

    def append(self, header: BatchHeader, batch: bytes = b"", *, durable: bool = True) -> tuple[Outcome, int]:
        verdict = self.table.check(header, batch)
        if verdict[0] is Outcome.APPENDED:
            self.table.begin(header, self.next_offset, self.now_ms, batch)
            self.next_offset += header.last_offset_delta + 1
            if durable:
                self.table.durable(self.next_offset)
        return verdict

    def data(
        self, sequence: int, count: int = 1, *, pid: int = 7, epoch: int = 0, txn: bool = False, durable: bool = True
    ) -> tuple[Outcome, int]:
        return self.append(data(sequence, count, pid=pid, epoch=epoch, txn=txn), durable=durable)

    def end(
        self, commit: bool, *, pid: int = 7, epoch: int = 0, coordinator: int = 0, durable: bool = True
    ) -> tuple[Outcome, int]:
        batch = build_control(pid, epoch, commit, coordinator, self.now_ms)
        return self.append(parse_header(batch), batch, durable=durable)


def data(sequence: int, count: int = 1, *, pid: int = 7, epoch: int = 0, txn: bool = False) -> BatchHeader:
    return BatchHeader(0, 49, -1, 2, 0, 0x10 if txn else 0, count - 1, 500, 500, pid, epoch, sequence, count)


def test_sequences_follow_one_another_and_wrap() -> None:
    p = Partition()
    assert p.data(WRAP - 12, 10) == APPENDED, "an unknown producer may start anywhere"
    assert p.data(WRAP - 1, 1) == OUT_OF_ORDER
    assert p.data(WRAP - 2, 2) == APPENDED
    assert p.data(1) == OUT_OF_ORDER
    assert p.data(0, 3) == APPENDED
    assert p.data(3) == APPENDED


def test_a_batch_may_itself_cross_the_wrap() -> None:
    p = Partition()
    assert p.data(WRAP - 2, 5) == APPENDED
    assert p.data(WRAP - 2, 5) == (Outcome.DUPLICATE, 0)
    assert p.data(3) == APPENDED
    assert p.table.last_batches()[7].last_offset == 5


def test_the_last_five_batches_are_known_again_also_while_they_are_in_flight() -> None:
    p = Partition()
    for i in range(6):
        assert p.data(i * 2, 2, durable=False) == APPENDED
    assert [p.data(i * 2, 2) for i in range(1, 6)] == [(Outcome.DUPLICATE, i * 2) for i in range(1, 6)]
    assert p.data(0, 2) == OUT_OF_ORDER, "the sixth last is forgotten"
    assert p.data(4, 1) == OUT_OF_ORDER, "half of a batch is no duplicate"
    p.table.durable(p.next_offset)
    assert p.data(10, 2) == (Outcome.DUPLICATE, 10)
    assert p.data(12, 2) == APPENDED


def test_a_newer_epoch_starts_at_zero_and_fences_the_older() -> None:
    p = Partition()
    assert p.data(5) == APPENDED
    assert p.data(6, epoch=2) == OUT_OF_ORDER
    assert p.data(0, epoch=2) == APPENDED
    assert p.data(6, epoch=1) == FENCED
    assert p.data(5) == FENCED
    assert p.data(1, epoch=2) == APPENDED


def test_a_batch_without_sequence_is_checked_for_its_epoch_only() -> None:
    p = Partition()
    assert p.data(-1, epoch=3, txn=True) == APPENDED
    assert p.data(-1, epoch=3, txn=True) == APPENDED
    assert p.data(-1, epoch=2, txn=True) == FENCED


def test_transactions_hold_the_last_stable_offset_until_their_marker_is_durable() -> None:
    p = Partition()
    p.data(0, pid=1)
    p.data(0, 3, pid=2, txn=True)  # 1..3
    p.data(0, 2, pid=3, txn=True)  # 4..5
    assert p.table.last_stable(p.next_offset) == 1
    assert p.data(3, pid=2) == (Outcome.INVALID_TXN_STATE, -1)
    p.end(True, pid=2, durable=False)  # 6
    assert p.table.last_stable(6) == 1, "decided, but nobody may know yet"
    p.table.durable(7)
    assert p.table.last_stable(7) == 4
    p.end(False, pid=3)  # 7
    assert p.table.last_stable(8) == 8
    assert p.table.last_stable(5) == 5
    assert p.table.aborted(0, 8) == [AbortedTxn(3, 4, 7)]
    assert p.table.aborted(5, 6) == [AbortedTxn(3, 4, 7)]
    assert p.table.aborted(0, 4) == []
    assert p.table.aborted(8, 9) == []
    p.table.log_start_moved(7)
    assert p.table.aborted(7, 8) == [AbortedTxn(3, 4, 7)], "its marker is still there"
    p.table.log_start_moved(8)
    assert p.table.aborted(0, 9) == []


def test_an_open_transaction_below_the_log_start_does_not_hold_readers_back_further() -> None:
    p = Partition()
    p.data(0, 5, txn=True)
    assert p.table.last_stable(5, log_start=3) == 3


def test_markers_are_fenced_by_producer_epoch_and_by_coordinator_epoch() -> None:
    p = Partition()
    p.data(0, epoch=1, txn=True)
    assert p.end(True, epoch=0) == FENCED
    assert p.end(True, epoch=1, coordinator=5) == APPENDED
    assert p.data(1, epoch=1, txn=True) == APPENDED, "the same epoch goes on with its sequence"
    assert p.end(False, epoch=1, coordinator=4) == FENCED
    assert p.end(False, epoch=2, coordinator=5) == APPENDED
    assert p.data(2, epoch=2, txn=True) == OUT_OF_ORDER, "after a bump the sequence starts again"
    assert p.data(0, epoch=2, txn=True) == APPENDED


def test_a_marker_without_a_transaction_is_kept_but_means_nothing() -> None:
    p = Partition()
    assert p.end(False) == APPENDED
    assert p.table.aborted(0, 10) == []
    assert p.table.last_stable(1) == 1


def test_an_emptied_marker_changes_nothing() -> None:
    p = Partition()
    p.data(0, txn=True)
    header = parse_header(build_control(7, 0, True, 0, 1))._replace(count=0)
    p.append(header)
    assert p.table.first_unstable == 0


def test_overlapping_aborted_transactions_are_all_found() -> None:
    p = Partition()
    for pid in range(5):
        p.data(0, pid=pid, txn=True)  # 0..4
    for pid in (3, 0, 4, 1, 2):
        p.end(False, pid=pid)  # 5..9
    expected = [AbortedTxn(3, 3, 5), AbortedTxn(0, 0, 6), AbortedTxn(4, 4, 7), AbortedTxn(1, 1, 8), AbortedTxn(2, 2, 9)]
    assert p.table.aborted(0, 10) == expected
    assert p.table.aborted(2, 3) == [expected[1], expected[3], expected[4]]
    assert p.table.aborted(7, 8) == expected[2:]
    p.table.drop_aborted(4, 7)
    assert AbortedTxn(4, 4, 7) not in p.table.aborted(0, 10)


def test_idle_producers_expire_but_not_with_an_open_transaction_or_a_batch_in_flight() -> None:
    p = Partition()
    p.data(0, pid=1)
    p.data(0, pid=2, txn=True)
    p.data(0, pid=3, durable=False)
    assert p.table.expire(2500, 1000) == 1
    assert [s.producer_id for s in p.table.states()] == [2, 3]
    p.table.durable(p.next_offset)
    assert p.table.expire(1999, 1000) == 0
    assert p.table.expire(2000, 1000) == 1
    assert [s.producer_id for s in p.table.states()] == [2]


def test_the_table_is_bounded_and_the_one_seen_longest_ago_goes_first() -> None:
    p = Partition(producers_max=3)
    p.data(0, pid=1, txn=True)
    p.data(0, pid=2)
    p.data(0, pid=3)
    p.data(1, pid=2)
    p.data(0, pid=4)
    assert {s.producer_id for s in p.table.states()} == {1, 2, 4}
    p.data(0, pid=5)
    assert {s.producer_id for s in p.table.states()} == {1, 4, 5}


def test_describes_its_producers() -> None:
    p = Partition()
    p.data(0, 4, epoch=2, txn=True)
    (state,) = p.table.states()
    assert state == (7, 2, 3, 500, 0, -1)
    p.end(True, epoch=2, coordinator=9)
    (state,) = p.table.states()
    assert state == (7, 2, 3, 1000, -1, 9)


def test_rubbish_is_no_snapshot() -> None:
    p = Partition()
    p.data(0, txn=True)
    p.end(False)
    whole = p.table.snapshot()
    for cut in range(len(whole)):
        with pytest.raises(ValueError):
            ProducerTable.restore(whole[:cut])
    with pytest.raises(ValueError):
        ProducerTable.restore(b"\xff" + whole[1:])


@pytest.mark.parametrize("seed", range(40))
def test_what_is_durable_is_the_same_however_it_came_about(seed: int) -> None:
    """Random batches, markers, roll-backs: the snapshot is that of a table that saw only the batches that stayed."""
    rng = random.Random(seed)
    p = Partition()
    log: list[tuple[int, BatchHeader, bytes]] = []  # base offset, header, batch
    durable = 0
    sequences: dict[int, int] = {}
    for _ in range(300):
        pid = rng.randrange(6)
        choice = rng.random()
        if choice < 0.6:
            count = rng.randint(1, 3)
            header, batch = data(sequences.get(pid, 0), count, pid=pid, txn=pid % 2 == 0), b""
        elif choice < 0.75:
            batch = build_control(pid - pid % 2, 0, rng.random() < 0.5, 0, 1)
            header = parse_header(batch)
        elif choice < 0.85:
            p.table.roll_back(keep := rng.randint(durable, p.next_offset))
            log = [entry for entry in log if entry[0] < keep]
            p.next_offset = log[-1][0] + log[-1][1].last_offset_delta + 1 if log else 0
            sequences = {h.producer_id: h.base_sequence + h.count for _, h, b in log if not b}
            continue
        else:
            ends = [0, *(base + h.last_offset_delta + 1 for base, h, _ in log)]
            durable = max(durable, rng.choice(ends))
            p.table.durable(durable)
            continue
        base = p.next_offset
        assert p.append(header, batch, durable=False) == APPENDED
        log.append((base, header, batch))
        if not batch:
            sequences[pid] = header.base_sequence + header.count

    fresh = Partition()
    for base, header, batch in log:
        if base < durable:
            fresh.table.begin(header, base, p.now_ms, batch)
            fresh.table.durable(base + header.last_offset_delta + 1)
    restored = ProducerTable.restore(p.table.snapshot())
    for table in (restored, fresh.table):
        assert sorted(table.states()) == sorted(fresh.table.states())
        assert table.aborted(0, 1 << 40) == p.table.aborted(0, 1 << 40)
    p.table.roll_back()
    assert sorted(p.table.states()) == sorted(fresh.table.states())
    assert p.table.first_unstable == fresh.table.first_unstable == restored.first_unstable


def test_real_batches_pass_through() -> None:
    batch = build([Record(0, 1, b"k", b"v", [])], producer_id=9, producer_epoch=0, base_sequence=0)
    p = Partition()
    assert p.append(parse_header(batch)) == APPENDED


def test_new_records_under_the_sequence_of_an_aborted_transaction_are_no_duplicate() -> None:
    p = Partition()
    assert p.data(0, txn=True) == APPENDED
    sent_again = data(0, txn=True)
    assert p.append(sent_again) == (Outcome.DUPLICATE, 0)
    p.end(False)
    other_records = sent_again._replace(crc=sent_again.crc + 1)
    assert p.append(other_records) == OUT_OF_ORDER
    assert p.append(sent_again) == (Outcome.DUPLICATE, 0), "a late retry of the aborted batch"
    restored = ProducerTable.restore(p.table.snapshot())
    assert restored.check(other_records) == OUT_OF_ORDER
    assert restored.check(sent_again) == (Outcome.DUPLICATE, 0)
