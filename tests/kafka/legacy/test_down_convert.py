"""Batches into message sets for old consumers, read back by kafka-python, aiokafka and our own reader."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.kafka.legacy import Converted, down_convert
from tests.records.encoding import encode_record
from tests.records.java_golden import JAVA
from tests.records.oracles import AiokafkaRecords, KafkaPythonRecords
from tests.records.strategies import T0, records
from tests.records.test_records import batch_of, plain
from trivium.rebuild import rebuild
from trivium.record_batch import Codec, InvalidBatch, Reason, parse_header, patch, with_log_append_time
from trivium.records import Record, build, build_control, decode

LIMIT_BYTES = 1 << 20
CODECS = [Codec.NONE, Codec.GZIP, Codec.SNAPPY, Codec.LZ4]

Seen = tuple[int, int, bytes | None, bytes | None]


def at(base_offset: int, batch: bytes) -> bytes:
    placed = bytearray(batch)
    patch(placed, base_offset, 1)
    return bytes(placed)


def down(
    batches: bytes, magic: int = 1, start: int = 0, max_bytes: int = LIMIT_BYTES, guarantee: bool = True
) -> Converted:
    return down_convert(
        batches, magic, start, max_bytes, first_record_guarantee=guarantee, decompressed_bytes_max=LIMIT_BYTES
    )


def seen(data: bytes, reader: Any = KafkaPythonRecords) -> list[Seen]:
    """What a client makes of a message set, checksums checked: offset, timestamp (-1 for none), key, value."""
    found: list[Seen] = []
    sets = reader(data)
    while sets.has_next():
        message_set = sets.next_batch()
        assert message_set.validate_crc()
        found += [(r.offset, -1 if r.timestamp is None else r.timestamp, r.key, r.value) for r in message_set]
    return found


def expected(made: list[Record], magic: int) -> list[Seen]:
    return [(r.offset, r.timestamp if magic else -1, r.key, r.value) for r in made]


@settings(max_examples=150, deadline=None)
@given(records, st.sampled_from([0, 1]), st.sampled_from(CODECS), st.integers(0, 1 << 40))
def test_other_clients_read_what_was_stored(made: list[Record], magic: int, codec: Codec, base: int) -> None:
    batch = at(base, build(made, codec=codec))
    stored = decode(batch, LIMIT_BYTES)
    converted = down(batch, magic, base)
    assert converted.next_offset == base + len(made)
    assert converted.skipped == 0
    assert seen(converted.data) == expected(stored, magic)
    if (magic, codec) != (0, Codec.LZ4):  # aiokafka does not know the broken checksum
        assert seen(converted.data, AiokafkaRecords) == expected(stored, magic)


@pytest.mark.parametrize("magic", [0, 1])
def test_uncompressed_bytes_are_those_of_kafkas_own_library(magic: int) -> None:
    assert down(JAVA[2, Codec.NONE], magic).data == JAVA[magic, Codec.NONE]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_codec_stays_and_is_named(magic: int, codec: Codec) -> None:
    (message_set,) = list(KafkaPythonRecords(down(build(plain(1), codec=codec), magic).data))
    assert message_set.compression_type == codec
    data = down(build(plain(5), codec=codec), magic).data
    assert data[16] == magic
    assert data[17] == codec


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_offsets_with_gaps(magic: int, codec: Codec) -> None:
    batch = at(100, build(plain(10), codec=codec))
    kept = decode(batch, LIMIT_BYTES)[2:9:3]
    converted = down(rebuild(batch, kept, LIMIT_BYTES), magic, 100)
    assert [offset for offset, *_ in seen(converted.data)] == [102, 105, 108]
    assert converted.next_offset == 110


@pytest.mark.parametrize("magic", [0, 1])
def test_uncompressed_batch_loses_what_is_before_the_fetch_offset(magic: int) -> None:
    batch = at(100, build(plain(5)))
    assert [offset for offset, *_ in seen(down(batch, magic, 103).data)] == [103, 104]


@pytest.mark.parametrize("magic", [0, 1])
def test_compressed_batch_is_sent_whole(magic: int) -> None:
    batch = at(100, build(plain(5), codec=Codec.GZIP))
    assert [offset for offset, *_ in seen(down(batch, magic, 103).data)] == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("codec", CODECS)
def test_batch_with_nothing_left_behind_the_fetch_offset_is_passed_by(codec: Codec) -> None:
    batch = at(100, build(plain(5), codec=codec))
    compacted = rebuild(batch, decode(batch, LIMIT_BYTES)[:2], LIMIT_BYTES)
    assert down(compacted, 1, 102) == (b"", 105, 0)
    following = at(105, build(plain(1), codec=codec))
    assert [offset for offset, *_ in seen(down(compacted + following, 1, 102).data)] == [105]
    assert down(batch, 1, 105) == (b"", 105, 0)


def test_control_batches_are_left_out_and_passed() -> None:
    markers = at(0, build_control(5, 0, True, 0, T0)) + at(1, build_control(6, 0, False, 0, T0))
    assert down(markers) == (b"", 2, 0)
    batches = markers + at(2, build(plain(2))) + at(4, build_control(5, 0, True, 0, T0))
    converted = down(batches)
    assert [offset for offset, *_ in seen(converted.data)] == [2, 3]
    assert converted.next_offset == 5


def test_transactional_records_are_ordinary_ones_without_headers() -> None:
    made = plain(2, headers=[("h", b"x")])
    batch = build(made, producer_id=5, producer_epoch=0, base_sequence=0, transactional=True)
    for magic in (0, 1):
        assert seen(down(batch, magic).data) == expected(made, magic)


def test_empty_batch_of_compaction_is_passed() -> None:
    batch = at(0, build(plain(3)))
    assert down(rebuild(batch, [], LIMIT_BYTES) + at(3, build(plain(1)))).next_offset == 4


@pytest.mark.parametrize("codec", CODECS)
def test_log_append_time_is_marked_in_v1(codec: Codec) -> None:
    batch = with_log_append_time(build(plain(2), codec=codec), 777)
    data = down(batch, 1).data
    assert data[17] == codec | 0x08
    message_set = next(KafkaPythonRecords(data))
    assert [(r.timestamp, r.timestamp_type) for r in message_set] == [(777, 1)] * (2 if codec else 1)
    assert down(batch, 0).data[17] == codec


def test_wrapper_has_the_largest_timestamp_and_the_last_offset() -> None:
    made = [record._replace(timestamp=T0 + time) for record, time in zip(plain(3), (5, 9, 1), strict=True)]
    data = down(at(50, build(made, codec=Codec.GZIP)), 1, 50).data
    assert int.from_bytes(data[:8], "big") == 52
    assert int.from_bytes(data[18:26], "big") == T0 + 9


@pytest.mark.parametrize("magic", [0, 1])
def test_zstd_first_is_the_answers_error_and_later_ends_it(magic: int) -> None:
    zstd = at(3, build(plain(1), codec=Codec.ZSTD))
    with pytest.raises(InvalidBatch) as caught:
        down(zstd, magic, 3)
    assert caught.value.reason is Reason.UNREADABLE_CODEC
    converted = down(at(0, build(plain(3))) + zstd, magic)
    assert len(seen(converted.data)) == 3
    assert converted.next_offset == 3
    passed = at(0, build(plain(3), codec=Codec.ZSTD)) + at(3, build(plain(1)))
    assert [offset for offset, *_ in seen(down(passed, magic, 3).data)] == [3]


def test_answer_ends_before_the_limit_at_a_whole_message() -> None:
    whole = down(build(plain(10))).data
    one = len(down(build(plain(1))).data)
    converted = down(build(plain(10)), max_bytes=3 * one + 5)
    assert converted.data == whole[: 3 * one]
    assert converted.next_offset == 3
    assert down(build(plain(10)), max_bytes=len(whole)).data == whole


@pytest.mark.parametrize("codec", CODECS)
def test_first_message_is_given_whatever_its_size(codec: Codec) -> None:
    batches = at(0, build(plain(1, value=bytes(range(256))), codec=codec)) + at(1, build(plain(1)))
    converted = down(batches, max_bytes=1)
    assert [offset for offset, *_ in seen(converted.data)] == [0]
    assert converted.next_offset == 1


@pytest.mark.parametrize("codec", CODECS)
def test_without_the_guarantee_it_is_cut_so_that_the_client_sees_its_limit(codec: Codec) -> None:
    batch = build(plain(1, value=bytes(range(256))), codec=codec)
    converted = down(batch, max_bytes=40, guarantee=False)
    assert converted.data == down(batch).data[:40]
    assert converted.next_offset == 0
    assert seen(converted.data) == []


def test_partial_batch_at_the_end_of_what_was_read_is_ignored() -> None:
    batches = at(0, build(plain(2))) + at(2, build(plain(2)))[:-1]
    assert down(batches).next_offset == 2


@pytest.mark.parametrize("magic", [0, 1])
def test_record_that_cannot_be_decoded_is_skipped_and_counted(magic: int) -> None:
    good = [encode_record(i, i, Record(0, 0, b"k", b"%d" % i, [])) for i in range(3)]
    lying = bytearray(good[1])
    lying[4] = 60  # key length
    converted = down(batch_of(good[0] + bytes(lying) + good[2], 3), magic)
    assert [(offset, value) for offset, _, _, value in seen(converted.data)] == [(0, b"0"), (2, b"2")]
    assert converted.skipped == 1
    assert converted.next_offset == 3


def test_batch_that_does_not_decompress_is_skipped_and_counted() -> None:
    squeezed = bytearray(build(plain(3), codec=Codec.GZIP))
    squeezed[61] ^= 0xFF
    converted = down(bytes(squeezed) + at(3, build(plain(1))))
    assert [offset for offset, *_ in seen(converted.data)] == [3]
    assert converted.skipped == parse_header(squeezed).count == 3


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(CODECS), st.sampled_from([0, 1]), st.integers(0, 30), st.integers(1, 3000))
def test_answers_follow_one_another_without_gap_or_repetition(
    data: st.DataObject, codec: Codec, magic: int, start: int, max_bytes: int
) -> None:
    log, base = b"", 0
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.integers(0, 3)) == 0:
            log += at(base, build_control(1, 0, True, 0, T0))
            base += 1
        else:
            count = data.draw(st.integers(1, 8))
            log += at(base, build(plain(count), codec=data.draw(st.sampled_from([Codec.NONE, codec]))))
            base += count
    found: list[int] = []
    position = start
    while position < base:
        converted = down(log, magic, position, max_bytes)
        assert len(converted.data) <= max_bytes or len(list(KafkaPythonRecords(converted.data))) == 1
        found += [offset for offset, *_ in seen(converted.data) if offset >= position]
        assert converted.next_offset > position
        position = converted.next_offset
    everything = down(log, magic, 0, LIMIT_BYTES)
    assert found == [offset for offset, *_ in seen(everything.data) if offset >= start]
