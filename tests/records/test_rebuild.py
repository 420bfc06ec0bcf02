"""Batches with records left out, as compaction writes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.oracles import AiokafkaBatch, KafkaPythonBatch
from tests.records.strategies import T0, records
from tests.records.test_records import LIMIT_BYTES, batch_of, plain, seen_by
from trivium.rebuild import emptied, rebuild, rebuild_flagged
from trivium.record_batch import HEADER_BYTES, Codec, CorruptBatch, check_crc, parse_header, patch, with_log_append_time
from trivium.records import Record, build, build_control, decode, parse_control


def stored(made: list[Record], codec: int = Codec.NONE, base_offset: int = 1000) -> bytes:
    batch = bytearray(build(made, codec=codec, producer_id=5, producer_epoch=1, base_sequence=7, transactional=True))
    patch(batch, base_offset, 3)
    return bytes(batch)


@settings(max_examples=150, deadline=None)
@given(records, st.sampled_from(Codec), st.data())
def test_survivors_keep_offsets_and_contents(made: list[Record], codec: Codec, data: st.DataObject) -> None:
    batch = stored(made, codec)
    before = parse_header(batch)
    stays = [data.draw(st.booleans()) for _ in made]
    kept = [record for record, stay in zip(decode(batch, LIMIT_BYTES), stays, strict=True) if stay]
    after_bytes = rebuild(batch, kept, LIMIT_BYTES)
    assert rebuild_flagged(batch, bytes(stays), LIMIT_BYTES) == after_bytes
    after = parse_header(after_bytes)
    assert check_crc(after_bytes, after)
    assert decode(after_bytes, LIMIT_BYTES) == kept
    assert seen_by(KafkaPythonBatch, after_bytes) == kept
    assert seen_by(AiokafkaBatch, after_bytes) == kept
    unchanged = ("base_offset", "leader_epoch", "last_offset_delta", "producer_id", "producer_epoch", "base_sequence")
    assert [getattr(after, name) for name in unchanged] == [getattr(before, name) for name in unchanged]
    assert after.is_transactional
    assert after.count == len(kept)
    if kept:
        assert after.codec == codec
        assert after.max_timestamp == max(record.timestamp for record in kept)


def test_nothing_left_out_changes_nothing() -> None:
    batch = stored(plain(4), Codec.LZ4)
    assert rebuild(batch, decode(batch, LIMIT_BYTES), LIMIT_BYTES) == batch


def test_nothing_kept_leaves_an_empty_batch_with_the_sequence() -> None:
    batch = stored(plain(4), Codec.ZSTD)
    empty = rebuild(batch, [], LIMIT_BYTES)
    header = parse_header(empty)
    assert len(empty) == HEADER_BYTES
    assert (header.count, header.codec, header.last_offset, header.last_sequence) == (0, Codec.NONE, 1003, 10)
    assert (header.base_timestamp, header.max_timestamp) == (-1, T0 + 3)
    assert check_crc(empty, header)
    assert decode(empty, 0) == []
    assert seen_by(AiokafkaBatch, empty) == []
    assert rebuild(empty, [], LIMIT_BYTES) == empty
    assert emptied(batch) == emptied(batch[:HEADER_BYTES]) == empty


@pytest.mark.parametrize("horizon", [T0 + 86_400_000, 0, 1, T0])
def test_delete_horizon_takes_the_place_of_the_base_timestamp(horizon: int) -> None:
    batch = stored(plain(4), Codec.GZIP)
    kept = decode(batch, LIMIT_BYTES)[1:3]
    marked = rebuild(batch, kept, LIMIT_BYTES, delete_horizon_ms=horizon)
    header = parse_header(marked)
    assert header.has_delete_horizon
    assert header.base_timestamp == horizon
    assert header.max_timestamp == T0 + 2
    assert check_crc(marked, header)
    assert decode(marked, LIMIT_BYTES) == kept
    assert seen_by(KafkaPythonBatch, marked) == kept


def test_horizon_that_is_set_stays() -> None:
    batch = stored(plain(4))
    kept = decode(batch, LIMIT_BYTES)
    marked = rebuild(batch, kept, LIMIT_BYTES, delete_horizon_ms=77)
    assert decode(marked, LIMIT_BYTES) == kept
    assert rebuild(marked, kept, LIMIT_BYTES, delete_horizon_ms=99) == marked
    fewer = rebuild(marked, kept[:1], LIMIT_BYTES, delete_horizon_ms=99)
    assert parse_header(fewer).base_timestamp == 77
    assert decode(fewer, LIMIT_BYTES) == kept[:1]
    assert not parse_header(rebuild(marked, [], LIMIT_BYTES)).has_delete_horizon


def test_log_append_time_stays() -> None:
    batch = with_log_append_time(stored(plain(3)), T0 + 500)
    kept = decode(batch, LIMIT_BYTES)[2:]
    again = rebuild(batch, kept, LIMIT_BYTES, delete_horizon_ms=5)
    assert decode(again, LIMIT_BYTES) == kept
    assert kept[0].timestamp == T0 + 500


def test_marker_keeps_its_flags_and_gets_a_horizon() -> None:
    batch = build_control(9, 1, True, 4, T0)
    marked = rebuild(batch, decode(batch, 100), 100, delete_horizon_ms=T0 + 5)
    header = parse_header(marked)
    assert (header.is_control, header.is_transactional, header.has_delete_horizon) == (True, True, True)
    assert parse_control(marked) == (True, 4)


def test_bytes_that_no_text_can_hold_are_carried_over() -> None:
    odd = bytes((0, 0, 0, 1, 1, 2, 4, 0xC3, 0x28, 1))
    second = bytes((0, 0, 2, 1, 1, 0))
    batch = batch_of(bytes((len(odd) * 2,)) + odd + bytes((len(second) * 2,)) + second, 2)
    again = rebuild(batch, decode(batch, 100)[:1], 100)
    assert odd in again
    assert second not in again[HEADER_BYTES:]


def test_damaged_records_are_corrupt() -> None:
    with pytest.raises(CorruptBatch):
        rebuild(batch_of(b"\x7f" * 30, 3), [], 1000)
