"""The batch header: golden bytes, offsets, checksum, and every rule for what clients send."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.oracles import AiokafkaBatch, KafkaPythonBatch, KafkaPythonBuilder
from trivium import record_batch
from trivium.crc import crc32c
from trivium.record_batch import (
    HEADER_BYTES,
    BatchError,
    BatchHeader,
    CorruptBatch,
    InvalidBatch,
    Reason,
    check_crc,
    iter_batches,
    pack_header,
    parse_header,
    patch,
    seal,
    validate_produced,
    with_log_append_time,
)

# One record, key "k", value "v", header h=null, written out by hand from the protocol guide.
GOLDEN = bytes.fromhex(
    "0000000000000000"  # base offset
    "0000003d"  # length 61
    "ffffffff"  # leader epoch -1
    "02"  # magic
    "0a28ba50"  # crc
    "0010"  # attributes: transactional
    "00000000"  # last offset delta
    "0000018bcfe56800"  # base timestamp 1700000000000
    "0000018bcfe56800"  # max timestamp
    "0000000000000005"  # producer id
    "0002"  # producer epoch
    "00000007"  # base sequence
    "00000001"  # count
    "16"  # record: 11 bytes follow
    "000000"  # attributes, timestamp delta, offset delta
    "026b0276"  # key, value
    "02026801"  # one header: "h", null
)  # fmt: skip


def made(count: int = 3, base_sequence: int = -1, producer_id: int = -1, epoch: int = -1) -> bytes:
    builder = KafkaPythonBuilder(2, 0, False, producer_id, epoch, base_sequence, 1 << 20)
    for delta in range(count):
        builder.append(delta, timestamp=1000 + delta, key=b"key", value=b"value" * delta, headers=[])
    return bytes(builder.build())


def altered(batch: bytes, **fields: int) -> bytes:
    """The batch with header fields changed and the checksum made right again."""
    changed = bytearray(pack_header(parse_header(batch)._replace(**fields)) + batch[HEADER_BYTES:])
    seal(changed)
    return bytes(changed)


def test_golden_header_is_read_field_by_field() -> None:
    header = parse_header(GOLDEN)
    now = 1_700_000_000_000
    assert header == BatchHeader(0, 61, -1, 2, 0x0A28BA50, 0x10, 0, now, now, 5, 2, 7, 1)
    assert header.size_bytes == len(GOLDEN) == 73
    assert header.is_transactional
    assert not header.is_control
    assert pack_header(header) == GOLDEN[:HEADER_BYTES]
    assert [(r.key, r.value, r.headers) for r in AiokafkaBatch(GOLDEN)] == [(b"k", b"v", [("h", None)])]
    assert header.crc == google_crc32c.value(GOLDEN[21:])
    assert check_crc(GOLDEN, header)
    validate_produced(header, GOLDEN)


def test_header_at_an_offset_inside_a_buffer() -> None:
    assert parse_header(b"xyz" + GOLDEN, 3) == parse_header(GOLDEN)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 17, 60])
def test_short_header_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptBatch) as caught:
        parse_header(GOLDEN[:size])
    assert caught.value.reason is Reason.SHORT


@pytest.mark.parametrize("length", [-(1 << 31), -1, 0, 48])
def test_impossible_length_is_corrupt(length: int) -> None:
    changed = bytearray(GOLDEN)
    struct.pack_into(">i", changed, 8, length)
    with pytest.raises(CorruptBatch) as caught:
        parse_header(changed)
    assert caught.value.reason is Reason.LENGTH


def test_flags_are_one_bit_each() -> None:
    header = parse_header(GOLDEN)
    flags = ("is_log_append_time", "is_transactional", "is_control", "has_delete_horizon")
    for bit, name in zip((0x08, 0x10, 0x20, 0x40), flags, strict=True):
        one = header._replace(attributes=bit)
        assert [getattr(one, flag) for flag in flags] == [flag == name for flag in flags]
    assert [header._replace(attributes=bits).codec for bits in range(9)] == [0, 1, 2, 3, 4, 5, 6, 7, 0]


def test_offsets_and_sequences_of_the_last_record() -> None:
    header = parse_header(made(5))._replace(base_offset=100)
    assert (header.last_offset, header.next_offset, header.last_sequence) == (104, 105, -1)
    assert header._replace(base_sequence=0).last_sequence == 4
    assert header._replace(base_sequence=(1 << 31) - 3).last_sequence == 1


@pytest.mark.parametrize("size", [0, 1, 100, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 300_000])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_checksum_of_any_size_and_buffer(size: int, wrap: Callable[[bytes], bytes]) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[: size + 21]
    assert crc32c(wrap(data), 21) == google_crc32c.value(data[21:])


def test_patch_leaves_the_checksum_right() -> None:
    batch = bytearray(made())
    patch(batch, 1 << 40, 77)
    header = parse_header(batch)
    assert (header.base_offset, header.leader_epoch) == (1 << 40, 77)
    assert check_crc(batch, header)
    assert KafkaPythonBatch(batch).validate_crc()
    assert [r.offset for r in KafkaPythonBatch(batch)] == [1 << 40, (1 << 40) + 1, (1 << 40) + 2]


@pytest.mark.parametrize("place", range(21, 73))
def test_checksum_sees_every_byte_after_it(place: int) -> None:
    changed = bytearray(GOLDEN)
    changed[place] ^= 0x40
    assert not check_crc(changed, parse_header(changed))


def test_checksum_of_a_batch_cut_short_or_followed_by_more() -> None:
    header = parse_header(GOLDEN)
    assert not check_crc(GOLDEN[:-1], header)
    assert check_crc(memoryview(GOLDEN + b"more"), header)


def test_log_append_time_is_what_every_reader_sees() -> None:
    batch = made()
    stamped = with_log_append_time(memoryview(batch), 5_000)
    header = parse_header(stamped)
    assert header.is_log_append_time
    assert header.max_timestamp == 5_000
    assert check_crc(stamped, header)
    assert [r.timestamp for r in KafkaPythonBatch(stamped)] == [5_000] * 3
    assert [(r.timestamp, r.timestamp_type) for r in AiokafkaBatch(stamped)] == [(5_000, 1)] * 3
    assert parse_header(batch).attributes == 0


def test_batches_one_after_another() -> None:
    one, two, three = made(1), made(2), made(3)
    found = list(iter_batches(one + two + three, strict=True))
    assert [header.count for header, _ in found] == [1, 2, 3]
    assert [bytes(view) for _, view in found] == [one, two, three]
    assert list(iter_batches(b"", strict=True)) == []


@pytest.mark.parametrize("cut", [1, 20, 61, 70])
def test_partial_batch_at_the_end_is_ignored_or_reported(cut: int) -> None:
    one, two = made(1), made(2)
    data = one + two[:cut]
    assert [bytes(view) for _, view in iter_batches(data)] == [one]
    with pytest.raises(CorruptBatch) as caught:
        list(iter_batches(data, strict=True))
    assert caught.value.reason is Reason.SHORT


def test_impossible_length_between_batches_is_corrupt() -> None:
    bad = bytearray(made(2))
    struct.pack_into(">i", bad, 8, 3)
    with pytest.raises(CorruptBatch):
        list(iter_batches(made(1) + bad))


PRODUCED = made(3, base_sequence=0, producer_id=9, epoch=0)

REFUSED: list[tuple[str, dict[str, int], type[BatchError], Reason]] = [
    ("magic 1", {"magic": 1}, InvalidBatch, Reason.MAGIC),
    ("magic 3", {"magic": 3}, InvalidBatch, Reason.MAGIC),
    ("no records", {"count": 0, "last_offset_delta": -1}, InvalidBatch, Reason.COUNT),
    ("negative count", {"count": -1, "last_offset_delta": -2}, InvalidBatch, Reason.COUNT),
    ("count above the offsets", {"count": 4}, InvalidBatch, Reason.COUNT),
    ("count below the offsets", {"last_offset_delta": 3}, InvalidBatch, Reason.COUNT),
    ("control", {"attributes": 0x20}, InvalidBatch, Reason.CONTROL),
    ("log append time", {"attributes": 0x08}, InvalidBatch, Reason.LOG_APPEND_TIME),
    ("delete horizon", {"attributes": 0x40}, InvalidBatch, Reason.DELETE_HORIZON),
    ("codec 5", {"attributes": 5}, InvalidBatch, Reason.CODEC),
    ("codec 7", {"attributes": 7}, InvalidBatch, Reason.CODEC),
    ("no sequence", {"base_sequence": -1}, InvalidBatch, Reason.SEQUENCE),
    ("no epoch", {"producer_epoch": -1}, InvalidBatch, Reason.EPOCH),
    ("no producer", {"attributes": 0x10, "producer_id": -1}, InvalidBatch, Reason.NO_PRODUCER),
    ("base offset", {"base_offset": 1}, InvalidBatch, Reason.BASE_OFFSET),
]


@pytest.mark.parametrize(("fields", "kind", "reason"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_batch_that_a_client_may_not_send(fields: dict[str, int], kind: type[BatchError], reason: Reason) -> None:
    batch = altered(PRODUCED, **fields)
    with pytest.raises(kind) as caught:
        validate_produced(parse_header(batch), batch)
    assert caught.value.reason is reason
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attributes": 0x10},
        {"attributes": 4},
        {"producer_id": -1, "producer_epoch": -1, "base_sequence": -1},
        {"producer_id": 0, "base_sequence": (1 << 31) - 1},
        {"leader_epoch": 12},
    ],
)
def test_batch_that_a_client_may_send(fields: dict[str, int]) -> None:
    batch = altered(PRODUCED, **fields)
    validate_produced(parse_header(batch), memoryview(batch))


def test_produce_field_holds_exactly_one_whole_batch() -> None:
    header = parse_header(PRODUCED)
    with pytest.raises(CorruptBatch) as cut:
        validate_produced(header, PRODUCED[:-1])
    with pytest.raises(InvalidBatch) as two:
        validate_produced(header, PRODUCED + PRODUCED)
    assert (cut.value.reason, two.value.reason) == (Reason.SHORT, Reason.TRAILING)


def test_flipped_bit_fails_the_checksum() -> None:
    changed = bytearray(PRODUCED)
    changed[-1] ^= 1
    with pytest.raises(CorruptBatch) as caught:
        validate_produced(parse_header(changed), changed)
    assert caught.value.reason is Reason.CRC


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_corrupt(data: bytes) -> None:
    try:
        header = parse_header(data)
    except CorruptBatch:
        return
    assert pack_header(header) == data[:HEADER_BYTES]
    with contextlib.suppress(BatchError):
        validate_produced(header, data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PRODUCED) - 1), st.binary(min_size=1, max_size=8))
def test_any_damage_is_taken_only_where_the_checksum_does_not_look(place: int, noise: bytes) -> None:
    changed = (PRODUCED[:place] + noise + PRODUCED[place + len(noise) :])[: len(PRODUCED)]
    try:
        validate_produced(parse_header(changed), changed)
    except BatchError:
        return
    assert changed[21:] == PRODUCED[21:]
    assert changed[:12] == PRODUCED[:12]
    assert changed[16] == record_batch.MAGIC
