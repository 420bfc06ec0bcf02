"""Records inside a batch, compared with kafka-python's and aiokafka's readers and builders."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.records.encoding import encode_record
from tests.records.java_golden import JAVA
from tests.records.oracles import AiokafkaBatch, KafkaPythonBatch, KafkaPythonBuilder
from tests.records.strategies import T0, records
from trivium.compression import compress
from trivium.record_batch import (
    HEADER_BYTES,
    NO_TIMESTAMP,
    Codec,
    CorruptBatch,
    InvalidBatch,
    Reason,
    check_crc,
    parse_header,
    patch,
    seal,
    validate_produced,
)
from trivium.record_parser import HEADER_COST_BYTES, RECORD_COST_BYTES, parse_records
from trivium.records import (
    FAST_READER_BYTES_MAX,
    Record,
    Walked,
    build,
    build_control,
    decode,
    iter_records,
    open_records,
    parse_control,
    salvage,
    walk,
    with_records,
)
from trivium.varint import read_varint, write_varint

LIMIT_BYTES = 1 << 20


def seen_by(oracle: type, batch: bytes) -> list[Record]:
    found = oracle(bytearray(batch))
    assert found.validate_crc()
    return [Record(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in found]


def plain(count: int, **changes: object) -> list[Record]:
    made = [Record(i, T0 + i, b"k%d" % i, b"v%d" % i, []) for i in range(count)]
    return [record._replace(**changes) for record in made]  # type: ignore[arg-type]


def batch_of(body: bytes, count: int, base: bytes | None = None) -> bytes:
    """A batch whose records are `body`, right in everything but perhaps the body."""
    header = parse_header(base or build(plain(1)))
    return with_records(header._replace(count=count, last_offset_delta=count - 1), body, Codec.NONE)


@settings(max_examples=150, deadline=None)
@given(records, st.sampled_from(Codec))
def test_what_is_built_is_what_every_reader_reads(made: list[Record], codec: Codec) -> None:
    batch = build(made, codec=codec)
    header = parse_header(batch)
    validate_produced(header, batch)
    assert (header.codec, header.count) == (codec, len(made))
    assert header.max_timestamp == max(record.timestamp for record in made)
    assert decode(batch, LIMIT_BYTES) == made
    assert list(iter_records(memoryview(batch), LIMIT_BYTES)) == made
    assert salvage(batch, LIMIT_BYTES) == (made, 0)
    assert seen_by(KafkaPythonBatch, batch) == made
    assert seen_by(AiokafkaBatch, batch) == made


@settings(max_examples=150, deadline=None)
@given(records, st.sampled_from(Codec))
def test_what_kafka_python_builds_is_read(made: list[Record], codec: Codec) -> None:
    builder = KafkaPythonBuilder(2, int(codec), False, 5, 1, 2, LIMIT_BYTES)
    for record in made:
        builder.append(record.offset, record.timestamp, record.key, record.value, record.headers)
    batch = bytes(builder.build())
    validate_produced(parse_header(batch), batch)
    assert decode(batch, LIMIT_BYTES) == made


@pytest.mark.parametrize("codec", Codec)
def test_what_kafkas_own_library_builds_is_read(codec: Codec) -> None:
    batch = JAVA[2, codec]
    validate_produced(parse_header(batch), batch)
    expected = [
        Record(0, T0, b"k", b"first", [("h", b"x"), ("h", None)]),
        Record(1, T0 + 5, None, b" ".join([b"second"] * 6), []),
        Record(2, T0 + 3, b"k", None, []),
    ]
    assert decode(batch, LIMIT_BYTES) == expected
    assert parse_header(batch).codec == codec
    if codec == Codec.NONE:
        assert build(expected) == batch


@settings(max_examples=100, deadline=None)
@given(records)
def test_plain_python_writes_the_same_bytes(made: list[Record]) -> None:
    base = made[0].timestamp
    body = b"".join(encode_record(r.offset, r.timestamp - base, r) for r in made)
    assert build(made)[HEADER_BYTES:] == body
    header, data = open_records(build(made), LIMIT_BYTES)
    assert list(parse_records(header, data, LIMIT_BYTES)) == made


def test_producer_fields_and_flags() -> None:
    batch = build(plain(3), producer_id=7, producer_epoch=2, base_sequence=40, transactional=True)
    header = parse_header(batch)
    validate_produced(header, batch)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 2, 40)
    assert header.is_transactional
    squeezed = parse_header(build(plain(3), codec=Codec.ZSTD, producer_id=7, producer_epoch=2, base_sequence=40))
    assert (squeezed.producer_id, squeezed.base_sequence, squeezed.is_transactional) == (7, 40, False)


@pytest.mark.parametrize("codec", Codec)
def test_log_append_time_replaces_all_times(codec: Codec) -> None:
    batch = build(plain(3), codec=codec, log_append_time_ms=99)
    assert parse_header(batch).is_log_append_time
    assert check_crc(batch, parse_header(batch))
    assert [record.timestamp for record in decode(batch, LIMIT_BYTES)] == [99] * 3
    assert [record.timestamp for record in seen_by(KafkaPythonBatch, batch)] == [99] * 3
    assert [record.timestamp for record in salvage(batch, LIMIT_BYTES)[0]] == [99] * 3


@pytest.mark.parametrize("times", [[-1], [-1, -1, -1], [-1, 5, 3], [0], [5, -1, 7], [T0, 0, -1]])
def test_missing_and_odd_timestamps_survive(times: list[int]) -> None:
    made = [Record(i, time, None, b"", []) for i, time in enumerate(times)]
    batch = build(made)
    assert decode(batch, 1000) == made
    assert list(iter_records(batch, 1000)) == made
    assert salvage(batch, 1000)[0] == made
    assert parse_header(batch).max_timestamp == max(times)


def test_views_serve_as_keys_and_values() -> None:
    made = [Record(0, T0, memoryview(b"key"), memoryview(b"value"), [])]  # type: ignore[arg-type]
    assert decode(build(made), 100) == [Record(0, T0, b"key", b"value", [])]
    later = [*made, Record(0, NO_TIMESTAMP, None, None, [])]
    assert decode(build(later[::-1]), 100)[1] == Record(1, T0, b"key", b"value", [])


def test_no_records_are_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build([])


def test_offsets_count_from_the_patched_base() -> None:
    batch = bytearray(build(plain(3)))
    patch(batch, 1000, 3)
    assert [record.offset for record in decode(batch, LIMIT_BYTES)] == [1000, 1001, 1002]
    assert [record.offset for record in salvage(batch, LIMIT_BYTES)[0]] == [1000, 1001, 1002]


def test_buffer_may_go_on_behind_the_batch() -> None:
    batch = build(plain(2))
    assert decode(memoryview(batch + b"more"), LIMIT_BYTES) == plain(2)


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD])
def test_records_beyond_the_limit_are_refused(codec: Codec) -> None:
    batch = build(plain(1, value=b"\0" * 100_000), codec=codec)
    with pytest.raises(CorruptBatch) as caught:
        decode(batch, 90_000)
    assert caught.value.reason is Reason.TOO_LARGE
    assert len(decode(batch, 110_000)) == 1


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD])
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_truncated_records_are_corrupt(codec: Codec, cut: int) -> None:
    batch = build(plain(50), codec=codec)
    header = parse_header(batch)
    short = with_records(header, batch[HEADER_BYTES:-cut], codec)
    with pytest.raises(CorruptBatch):
        decode(short, LIMIT_BYTES)


def test_unknown_codec_and_magic_are_invalid() -> None:
    header = parse_header(build(plain(1)))
    for changed, reason in (
        (header._replace(attributes=6), Reason.CODEC),
        (header._replace(magic=1), Reason.MAGIC),
    ):
        with pytest.raises(InvalidBatch) as caught:
            decode(with_records(changed, b"\0" * 10, changed.codec), LIMIT_BYTES)
        assert caught.value.reason is reason


def test_header_key_that_is_not_utf8_is_read_as_java_does() -> None:
    body = bytes((0, 0, 0, 1, 1, 2, 4, 0xC3, 0x28, 1))  # one header of two bytes, value null
    batch = batch_of(bytes((len(body) * 2,)) + body, 1)
    expected = [Record(0, T0, None, None, [("\ufffd(", None)])]
    assert decode(batch, 100) == expected
    assert list(iter_records(batch, 100)) == expected


def test_iterator_goes_on_where_the_fast_reader_stopped() -> None:
    good = encode_record(0, 0, Record(0, 0, b"a", b"b", []))
    odd = bytes((0, 0, 2, 1, 1, 2, 2, 0xFF, 1))
    batch = batch_of(good + bytes((len(odd) * 2,)) + odd, 2)
    assert [(r.offset, r.headers) for r in iter_records(batch, 100)] == [(0, []), (1, [("\ufffd", None)])]


MALFORMED = {
    "nothing": (b"", 1),
    "fewer records than counted": (encode_record(0, 0, Record(0, 0, None, b"x" * 20, [])), 2),
    "more records than counted": (encode_record(0, 0, Record(0, 0, None, None, [])) * 2, 1),
    "negative count": (encode_record(0, 0, Record(0, 0, None, None, [])), -1),
    "count above what fits": (encode_record(0, 0, Record(0, 0, None, None, [])), 1 << 30),
    "record length too long": (b"\x7e" + bytes((0, 0, 0, 1, 1, 0)), 1),
    "record length too short": (b"\x04" + bytes((0, 0, 0, 1, 1, 0)), 1),
    "record length negative": (b"\x01" + bytes((0, 0, 0, 1, 1, 0)), 1),
    "key longer than the record": (b"\x0c" + bytes((0, 0, 0, 100, 1, 0)), 1),
    "value longer than the record": (b"\x0c" + bytes((0, 0, 0, 1, 100, 0)), 1),
    "key of 2^62 bytes": (b"\x1e" + bytes((0, 0, 0)) + write_varint(1 << 62) + b"\x01\x00", 1),
    "key of 2^63 - 1 bytes": (b"\x20" + bytes((0, 0, 0)) + write_varint((1 << 63) - 1) + b"\x01\x00", 1),
    "headers never come": (b"\x0c" + bytes((0, 0, 0, 1, 1, 0x7E)), 1),
    "2^62 headers": (b"\x1c" + bytes((0, 0, 0, 1, 1)) + write_varint(1 << 62), 1),
    "negative headers": (b"\x0c" + bytes((0, 0, 0, 1, 1, 1)), 1),
    "header without a key": (b"\x10" + bytes((0, 0, 0, 1, 1, 2, 1, 1)), 1),
    "number without an end": (b"\x1a" + b"\0" + b"\xff" * 12, 1),
    "number at the end without an end": (b"\x0c" + bytes((0, 0, 0, 1, 1, 0x80)), 1),
}


@pytest.mark.parametrize(("body", "count"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_records_are_corrupt(body: bytes, count: int) -> None:
    batch = batch_of(body, count)
    for read in (decode, lambda *args: list(iter_records(*args)), walk):
        with pytest.raises(CorruptBatch) as caught:
            read(batch, LIMIT_BYTES)
        assert caught.value.reason is Reason.RECORDS


def test_one_bad_record_does_not_hide_its_neighbours() -> None:
    good = [encode_record(i, i, Record(0, 0, b"k", b"%d" % i, [])) for i in range(3)]
    lying = bytearray(good[1])
    lying[4] = 60  # key length
    batch = batch_of(good[0] + bytes(lying) + good[2], 3)
    with pytest.raises(CorruptBatch):
        decode(batch, 1000)
    found, unreadable = salvage(batch, 1000)
    assert ([record.value for record in found], unreadable) == ([b"0", b"2"], 1)


def test_after_a_lost_length_all_that_follows_is_counted_as_unreadable() -> None:
    good = [encode_record(i, i, Record(0, 0, b"k", b"%d" % i, [])) for i in range(3)]
    batch = batch_of(good[0] + b"\x7f" + good[1][1:] + good[2], 3)
    found, unreadable = salvage(batch, 1000)
    assert ([record.value for record in found], unreadable) == ([b"0"], 2)


def test_walk_finds_the_first_largest_timestamp() -> None:
    made = [Record(0, time, b"k", None, []) for time in (5, 9, 9, 7)]
    batch = bytearray(build(made))
    patch(batch, 100, 0)
    assert walk(batch, 1000, require_keys=True) == Walked(9, 101)
    assert walk(build(plain(2, timestamp=-1)), 1000) == Walked(-1, 0)


def test_walk_names_the_records_without_a_key() -> None:
    made = [record._replace(key=None if record.offset % 2 else b"") for record in plain(6)]
    assert walk(build(made), 1000).max_timestamp == T0 + 5
    with pytest.raises(InvalidBatch) as caught:
        walk(build(made), 1000, require_keys=True)
    assert (caught.value.reason, caught.value.indexes) == (Reason.NO_KEY, (1, 3, 5))


def test_walk_names_at_most_a_hundred() -> None:
    with pytest.raises(InvalidBatch) as caught:
        walk(build(plain(300, key=None)), 100_000, require_keys=True)
    assert caught.value.indexes == tuple(range(100))


@pytest.mark.parametrize("deltas", [[0, 2], [1, 2], [0, 0], [1, 0], [0, -1]])
def test_walk_refuses_offsets_out_of_line(deltas: list[int]) -> None:
    body = b"".join(encode_record(delta, 0, Record(0, 0, b"k", b"v", [])) for delta in deltas)
    with pytest.raises(InvalidBatch) as caught:
        walk(batch_of(body, len(deltas)), 1000)
    assert caught.value.reason is Reason.OFFSETS


@pytest.mark.parametrize("commit", [True, False])
def test_transaction_marker(commit: bool) -> None:
    batch = build_control(producer_id=9, producer_epoch=3, commit=commit, coordinator_epoch=12, timestamp_ms=T0)
    header = parse_header(batch)
    assert header.is_control
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.count) == (9, 3, -1, 1)
    assert check_crc(batch, header)
    (record,) = decode(batch, 100)
    assert record.key == bytes((0, 0, 0, commit))
    assert record.value == struct.pack(">hi", 0, 12)
    assert parse_control(batch) == (commit, 12)
    oracle = KafkaPythonBatch(bytearray(batch))
    assert oracle.is_control_batch
    (control,) = list(oracle)
    assert (control.commit, control.abort) == (commit, not commit)


@pytest.mark.parametrize(("key", "value"), [(b"", b""), (b"\0\0\0", b"\0" * 6), (b"\0\0\0\1", b"\0"), (None, None)])
def test_short_control_record_is_corrupt(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(CorruptBatch):
        parse_control(build([Record(0, 0, key, value, [])]))


def test_control_record_of_another_kind_ends_no_transaction() -> None:
    assert parse_control(build([Record(0, 0, b"\0\0\0\2", b"", [])])) is None


@settings(max_examples=300)
@given(st.integers(-(1 << 63), (1 << 63) - 1))
@example(-(1 << 63))
@example((1 << 63) - 1)
def test_every_number_survives(value: int) -> None:
    written = write_varint(value)
    assert len(written) <= 10
    assert read_varint(b"x" + written + b"y", 1, len(written) + 1) == (value, len(written) + 1)
    for cut in range(1, len(written) + 1):
        with pytest.raises(CorruptBatch):
            read_varint(written, 0, len(written) - cut)


def many(records_bytes: int, record: bytes, codec: Codec) -> bytes:
    """A batch with the same record over and over, in at least `records_bytes` before compression."""
    count = records_bytes // len(record) + 1
    header = parse_header(build(plain(1)))._replace(count=count, last_offset_delta=count - 1)
    return with_records(header, compress(codec, record * count), codec)


EMPTY = encode_record(0, 0, Record(0, 0, None, None, []))
HEADERS = encode_record(0, 0, Record(0, 0, None, None, [("", None)] * 1000))


@pytest.mark.parametrize("record", [EMPTY, HEADERS], ids=["empty records", "empty headers"])
def test_objects_of_a_large_batch_are_bounded(record: bytes) -> None:
    batch = many(FAST_READER_BYTES_MAX, record, Codec.ZSTD)
    assert len(batch) < 2000
    limit_bytes = FAST_READER_BYTES_MAX * 2
    with pytest.raises(CorruptBatch) as caught:
        decode(batch, limit_bytes)
    assert caught.value.reason is Reason.TOO_LARGE
    found, unreadable = salvage(batch, limit_bytes)
    cost = RECORD_COST_BYTES * len(found) + HEADER_COST_BYTES * sum(len(r.headers) for r in found)
    assert limit_bytes // 2 < cost <= limit_bytes
    assert len(found) + unreadable == parse_header(batch).count
    assert next(iter_records(batch, limit_bytes)).offset == 0


def test_one_record_of_many_headers_is_bounded_too() -> None:
    record = encode_record(0, 0, Record(0, 0, None, None, [("", None)] * (FAST_READER_BYTES_MAX // 2)))
    batch = many(1, record, Codec.ZSTD)
    limit_bytes = FAST_READER_BYTES_MAX * 3
    for read in (decode, lambda *args: list(iter_records(*args))):
        with pytest.raises(CorruptBatch) as caught:
            read(batch, limit_bytes)
        assert caught.value.reason is Reason.TOO_LARGE


def test_large_batch_is_read_as_any_other() -> None:
    made = plain(3, value=b"v" * FAST_READER_BYTES_MAX, headers=[("h", None)])
    batch = build(made, codec=Codec.LZ4)
    assert decode(batch, 8 << 20) == made
    assert list(iter_records(batch, 8 << 20)) == made
    assert walk(batch, 8 << 20) == (T0 + 2, 2)


@settings(max_examples=200, deadline=None)
@given(records, st.data())
def test_any_damage_to_records_gives_records_or_the_typed_error(made: list[Record], data: st.DataObject) -> None:
    body = bytearray(build(made)[HEADER_BYTES:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    batch = batch_of(bytes(body), len(made))
    try:
        found = decode(batch, LIMIT_BYTES)
    except CorruptBatch:
        pass
    else:
        assert len(found) == len(made)
    kept, unreadable = salvage(batch, LIMIT_BYTES)
    assert len(kept) + unreadable == len(made)


def test_sealing_again_makes_a_changed_batch_whole() -> None:
    batch = bytearray(build(plain(2)))
    batch[-1] ^= 1
    assert not check_crc(batch, parse_header(batch))
    seal(batch)
    assert check_crc(batch, parse_header(batch))
