"""Compaction, batch by batch: Kafka's rules, and over random logs that readers see what they saw before."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable

import pytest

from core.store.compaction import (
    NEVER_MS,
    Cleaner,
    CleanState,
    Dirty,
    KeyCollector,
    OffsetMap,
    is_due,
)
from core.store.engine import PartitionPolicy
from core.store.producers import ProducerTable
from trivium.record_batch import Codec, check_crc, parse_header, patch
from trivium.records import Record, build, build_control, decode

BYTES_MAX = 1 << 20
DAY_MS = 86_400_000
SMALL_MAP_BYTES = 24 * 16


class Log:
    """One partition as a list of batches, with its producers."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.producers = ProducerTable()
        self.next_offset = 0
        self.clean_until = 0
        self.horizon_ms = NEVER_MS

    def append(self, batch: bytes) -> None:
        patched = bytearray(batch)
        patch(patched, self.next_offset, 1)
        header = parse_header(patched)
        self.producers.begin(header, self.next_offset, 0, batch)
        self.next_offset = header.next_offset
        self.producers.durable(self.next_offset)
        self.batches.append(bytes(patched))

    def put(self, *pairs: tuple[str | None, str | None], pid: int = -1, sequence: int = -1, txn: bool = False) -> None:
        records = [Record(0, 1, encoded(k), encoded(v), []) for k, v in pairs]
        epoch = 0 if pid >= 0 else -1
        self.append(build(records, producer_id=pid, producer_epoch=epoch, base_sequence=sequence, transactional=txn))

    def end(self, commit: bool, pid: int) -> None:
        self.append(build_control(pid, 0, commit, 0, 1))

    def clean(self, now_ms: int = 0, *, map_bytes: int = 1 << 20, retention_ms: int = DAY_MS) -> None:
        """As the settler does it: collect the dirty part's keys, then filter everything up to there."""
        offsets = OffsetMap(map_bytes)
        stable = self.producers.last_stable(self.next_offset)
        collector = KeyCollector(offsets, self.producers.aborted(self.clean_until, stable))
        end = self.clean_until
        for batch in self.batches:
            header = parse_header(batch)
            if header.last_offset < self.clean_until:
                continue
            if header.next_offset > stable or not collector.take(header, batch):
                break
            end = header.next_offset
        cleaner = Cleaner(
            offsets, end, self.producers.aborted(0, end), self.producers.last_batches(), now_ms, retention_ms
        )
        left = []
        for batch in self.batches:
            header = parse_header(batch)
            after = cleaner.clean(header, batch) if header.next_offset <= end else batch
            if after is not None:
                left.append(bytes(after))
        for txn in cleaner.gone_aborted:
            self.producers.drop_aborted(txn.producer_id, txn.last_offset)
        self.batches = left
        self.clean_until, self.horizon_ms = end, cleaner.horizon_ms

    def records(self) -> list[Record]:
        return [r for b in self.batches if not parse_header(b).is_control for r in decode(b, BYTES_MAX)]

    def values(self) -> list[tuple[int, str, str | None]]:
        return [(r.offset, (r.key or b"").decode(), r.value.decode() if r.value else None) for r in self.records()]

    def committed(self) -> list[Record]:
        """What a reader of committed data sees, told of the aborted transactions as the engine tells it."""
        stable = self.producers.last_stable(self.next_offset)
        to_come = sorted(self.producers.aborted(0, stable), key=lambda t: t.first_offset)
        aborting: set[int] = set()
        seen: list[Record] = []
        for batch in self.batches:
            header = parse_header(batch)
            if header.next_offset > stable:
                break
            while to_come and to_come[0].first_offset <= header.last_offset:
                aborting.add(to_come.pop(0).producer_id)
            if header.is_control:
                aborting.discard(header.producer_id)
            elif not (header.is_transactional and header.producer_id in aborting):
                seen += decode(batch, BYTES_MAX)
        return seen


def encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def table(records: Iterable[Record]) -> dict[bytes, bytes]:
    latest: dict[bytes, bytes | None] = {r.key: r.value for r in records if r.key is not None}
    return {k: v for k, v in latest.items() if v is not None}


def test_the_latest_of_each_key_stays_at_its_offset() -> None:
    log = Log()
    log.put(("a", "1"), ("b", "1"), ("a", "2"))
    log.put(("c", "1"))
    log.put(("b", "2"), ("d", "1"))
    log.clean()
    assert log.values() == [(2, "a", "2"), (3, "c", "1"), (4, "b", "2"), (5, "d", "1")]
    assert all(check_crc(b, parse_header(b)) for b in log.batches)
    assert [parse_header(b).base_offset for b in log.batches] == [0, 3, 4]


def test_records_without_a_key_go() -> None:
    log = Log()
    log.put((None, "x"), ("a", "1"))
    log.put((None, "y"))
    log.put(("b", "1"))
    log.clean()
    assert log.values() == [(1, "a", "1"), (3, "b", "1")]


def test_a_tombstone_stays_its_time_from_the_first_clean_on() -> None:
    log = Log()
    log.put(("a", "1"))
    log.put(("a", None))
    log.put(("b", "1"))
    log.clean(now_ms=1000, retention_ms=500)
    assert log.values() == [(1, "a", None), (2, "b", "1")]
    assert log.horizon_ms == 1500
    assert parse_header(log.batches[0]).has_delete_horizon
    assert log.records()[0].timestamp == 1, "the record's own time is the same"
    log.clean(now_ms=1499, retention_ms=500)
    assert log.values() == [(1, "a", None), (2, "b", "1")]
    assert log.horizon_ms == 1500, "a second clean does not begin the time anew"
    log.clean(now_ms=1500, retention_ms=500)
    assert log.values() == [(2, "b", "1")]
    assert log.horizon_ms == NEVER_MS


def test_aborted_records_go_at_once_and_their_marker_when_its_time_has_come() -> None:
    log = Log()
    log.put(("a", "1"))
    log.put(("a", "2"), pid=7, sequence=0, txn=True)
    log.end(False, 7)
    log.put(("b", "1"), pid=7, sequence=1, txn=True)
    log.end(True, 7)
    log.put(("z", "1"))
    log.clean(now_ms=1000, retention_ms=500)
    assert log.values() == [(0, "a", "1"), (3, "b", "1"), (5, "z", "1")]
    assert [parse_header(b).is_control for b in log.batches] == [False, True, False, True, False]
    log.clean(now_ms=1000, retention_ms=500)
    assert log.horizon_ms == 1500
    assert log.producers.aborted(0, 10) == [], "a reader told of it would wait for a marker that may go"
    log.clean(now_ms=1500, retention_ms=500)
    assert [parse_header(b).base_offset for b in log.batches] == [0, 3, 4, 5]
    assert [r.value for r in log.committed()] == [b"1", b"1", b"1"]


def test_a_producers_last_batch_stays_empty_for_its_sequence() -> None:
    log = Log()
    log.put(("a", "1"), ("a", "2"), pid=7, sequence=4)
    log.put(("a", "3"))
    log.clean()
    assert [(parse_header(b).base_offset, parse_header(b).count) for b in log.batches] == [(0, 0), (2, 1)]
    assert parse_header(log.batches[0]).last_sequence == 5
    log.put(("b", "1"), pid=7, sequence=6)
    log.clean()
    assert [parse_header(b).base_offset for b in log.batches] == [2, 3]


def test_the_last_batch_that_was_cleaned_stays_for_its_offset() -> None:
    log = Log()
    log.put(("a", "1"), pid=7, sequence=0, txn=True)
    log.end(False, 7)
    log.put(("b", "1"), pid=8, sequence=0, txn=True)
    log.put(("c", "1"), pid=9, sequence=0, txn=True)
    log.end(False, 8)
    for _ in range(3):
        log.clean(now_ms=NEVER_MS, retention_ms=0)
    assert log.values() == [(3, "c", "1")]
    assert log.clean_until == 3, "not beyond the last stable offset"


def test_nothing_above_the_last_stable_offset_is_touched_or_counts() -> None:
    log = Log()
    log.put(("a", "1"))
    log.put(("b", "1"), pid=7, sequence=0, txn=True)
    log.put(("a", "2"))
    log.clean()
    assert log.values() == [(0, "a", "1"), (1, "b", "1"), (2, "a", "2")]


def test_a_damaged_batch_stays_as_it_is() -> None:
    log = Log()
    log.put(("a", "1"), ("b", "1"))
    log.batches[0] = log.batches[0][:-3] + b"\xff\xff\xff"
    log.put(("a", "2"))
    before = log.batches[0]
    log.clean()
    assert log.batches[0] == before


def test_a_batch_is_never_held_as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records may take many times the room of its data: with them a batch of 2 MiB of empty records takes 100."""
    log = Log()
    count = 40_000
    log.append(build([Record(0, 1, b"%d" % (i // 2), b"", []) for i in range(count)], codec=Codec.ZSTD))
    log.put(("0", "z"))
    monkeypatch.setattr("trivium.records.FAST_READER_BYTES_MAX", 0)
    tracemalloc.start()
    log.clean(map_bytes=4 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = [record for batch in log.batches for record in decode(batch, 1 << 30)]
    assert [r.offset for r in kept] == [*range(3, count, 2), count]
    assert peak < 5 << 20  # the map and its growing take two; objects would take 10 more


@pytest.mark.parametrize("count", [0, 1, 10, 5000])
def test_the_offset_map_finds_what_was_put(count: int) -> None:
    offsets = OffsetMap(1 << 20)
    for i in range(count):
        assert offsets.put(b"key-%d" % (i % 3000), i)
    latest = {b"key-%d" % (i % 3000): i for i in range(count)}
    assert all(offsets.get(k) == v for k, v in latest.items())
    assert offsets.get(b"other") == -1
    assert offsets.count == len(latest)


def test_the_offset_map_keeps_to_its_memory() -> None:
    offsets = OffsetMap(100_000)
    i = 0
    while offsets.put(b"%d" % i, i):
        i += 1
    assert i == offsets.keys_max > 1000
    assert offsets.size_bytes <= 100_000
    assert offsets.put(b"0", i), "a key that is there may move on"


def test_when_a_clean_is_due() -> None:
    policy = PartitionPolicy(compact=True, max_compaction_lag_ms=1000)
    state = CleanState()
    assert not is_due(PartitionPolicy(), state, Dirty(0, 100, 0), 10**6)
    assert is_due(policy, state, Dirty(50, 50, 500), 1000)
    assert not is_due(policy, state, Dirty(60, 40, 500), 1000)
    assert is_due(policy, state, Dirty(60, 40, 500), 1501)
    assert not is_due(policy, state, Dirty(60, 0, -1), 1501)
    assert is_due(policy, CleanState(5, 1200), Dirty(60, 0, -1), 1200)


@pytest.mark.parametrize("seed", range(60))
def test_readers_of_random_logs_see_the_same_table_after_any_cleans(seed: int) -> None:
    rng = random.Random(seed)
    log = Log()
    sequences = dict.fromkeys(range(1, 5), 0)
    original: dict[int, Record] = {}
    now_ms = 0
    for _ in range(rng.randint(20, 120)):
        choice = rng.random()
        pid = rng.randint(1, 4)
        pairs = [
            (f"k{rng.randrange(12)}", None if rng.random() < 0.2 else str(rng.random()))
            for _ in range(rng.randint(1, 4))
        ]
        if choice < 0.35:
            log.put(*pairs)
        elif choice < 0.75:
            log.put(*pairs, pid=pid, sequence=sequences[pid], txn=pid < 4)
            sequences[pid] += len(pairs)
        elif choice < 0.9:
            log.end(rng.random() < 0.5, min(pid, 3))
        else:
            before = table(log.committed())
            known = {s.producer_id: (s.last_sequence, s.txn_start_offset) for s in log.producers.states()}
            now_ms += 300
            log.clean(now_ms, retention_ms=1000, map_bytes=SMALL_MAP_BYTES if rng.random() < 0.5 else 1 << 20)
            assert table(log.committed()) == before
            replayed = ProducerTable()
            for batch in log.batches:
                header = parse_header(batch)
                replayed.begin(header, header.base_offset, 0, batch)
                replayed.durable(header.next_offset)
            assert {s.producer_id: (s.last_sequence, s.txn_start_offset) for s in replayed.states()} == known
            live = log.producers
            log.producers = replayed
            assert table(log.committed()) == before, "also for an engine that starts from this log alone"
            log.producers = live
        original |= {r.offset: r for r in log.records()}
    for _ in range(10):
        now_ms += 2000
        log.clean(now_ms, retention_ms=1000)
    assert all(original[r.offset] == r for r in log.records())
    cleaned = [r for r in log.records() if r.offset < log.clean_until]
    assert len({r.key for r in cleaned}) == len(cleaned)
    assert all(r.value is not None for r in cleaned), "every tombstone's time has come"
