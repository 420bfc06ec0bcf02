"""Message sets of old producers into batches: golden bytes, other implementations, Kafka's rules."""

from __future__ import annotations

import struct
import zlib

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.kafka.legacy import up_convert
from tests.records.java_golden import JAVA
from tests.records.oracles import AiokafkaLegacyBuilder, KafkaPythonLegacyBuilder
from tests.records.strategies import T0, nullable
from trivium.compression import compress
from trivium.record_batch import BatchError, Codec, CorruptBatch, InvalidBatch, Reason, parse_header, validate_produced
from trivium.records import Record, decode

LIMIT_BYTES = 1 << 20
CODECS = [Codec.NONE, Codec.GZIP, Codec.SNAPPY, Codec.LZ4]

entries = st.lists(st.tuples(st.integers(0, T0 * 2), nullable, nullable), min_size=1, max_size=15)

GOLDEN_V0 = bytes.fromhex(
    "0000000000000000 00000010"  # offset, size 16
    "00000000 00 00"  # crc (set below), magic, attributes
    "00000001 6b"  # key
    "00000001 76"  # value
)
GOLDEN_V1 = bytes.fromhex(
    "0000000000000007 00000017"  # offset, size 23
    "00000000 01 00"  # crc (set below), magic, attributes
    "0000018bcfe56800"  # timestamp
    "ffffffff"  # no key
    "00000001 76"  # value
)


def message(
    magic: int, value: bytes | None, *, key: bytes | None = None, attributes: int = 0, offset: int = 0, time: int = T0
) -> bytes:
    """One message, straight from the format's description."""
    body = bytes((magic, attributes)) + (struct.pack(">q", time) if magic else b"")
    for part in (key, value):
        body += struct.pack(">i", -1 if part is None else len(part)) + (part or b"")
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


def refusal(message_set: bytes, max_bytes: int = LIMIT_BYTES) -> BatchError:
    with pytest.raises(BatchError) as caught:
        up_convert(message_set, max_bytes)
    return caught.value


def one(message_set: bytes | memoryview) -> tuple[int, list[Record]]:
    (batch,) = up_convert(message_set, LIMIT_BYTES)
    header = parse_header(batch)
    validate_produced(header, batch)
    return header.codec, decode(batch, LIMIT_BYTES)


@pytest.mark.parametrize(
    ("golden", "expected"),
    [(GOLDEN_V0, Record(0, -1, b"k", b"v", [])), (GOLDEN_V1, Record(0, T0, None, b"v", []))],
)
def test_golden_message(golden: bytes, expected: Record) -> None:
    sealed = golden[:12] + struct.pack(">I", zlib.crc32(golden[16:])) + golden[16:]
    assert one(sealed) == (Codec.NONE, [expected])
    assert one(memoryview(sealed)) == (Codec.NONE, [expected])


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS)
def test_what_kafkas_own_library_builds_becomes_one_batch(magic: int, codec: Codec) -> None:
    times = (T0, T0 + 5, T0 + 3) if magic else (-1, -1, -1)
    assert one(JAVA[magic, codec]) == (
        codec,
        [
            Record(0, times[0], b"k", b"first", []),
            Record(1, times[1], None, b" ".join([b"second"] * 6), []),
            Record(2, times[2], b"k", None, []),
        ],
    )


@settings(max_examples=150, deadline=None)
@given(entries, st.sampled_from([0, 1]), st.sampled_from(CODECS), st.booleans())
def test_what_other_clients_build_becomes_one_batch(
    made: list[tuple[int, bytes | None, bytes | None]], magic: int, codec: Codec, with_aiokafka: bool
) -> None:
    with_aiokafka = with_aiokafka and (magic, codec) != (
        0,
        Codec.LZ4,
    )  # of the two only kafka-python breaks lz4 rightly
    builder = (AiokafkaLegacyBuilder if with_aiokafka else KafkaPythonLegacyBuilder)(magic, int(codec), LIMIT_BYTES)
    for offset, (time, key, value) in enumerate(made):
        builder.append(offset, time, key, value, [])
    found_codec, found = one(bytes(builder.build()))
    assert found_codec == codec
    assert found == [Record(i, t if magic else -1, key, value, []) for i, (t, key, value) in enumerate(made)]


def test_empty_set_is_no_batch() -> None:
    assert up_convert(b"", LIMIT_BYTES) == []


@pytest.mark.parametrize("magic", [0, 1])
def test_several_sets_join_into_one_batch(magic: int) -> None:
    inner = message(magic, b"in 1") + message(magic, b"in 2", offset=1)
    whole = (
        message(magic, b"before")
        + message(magic, compress(Codec.SNAPPY, inner), attributes=Codec.SNAPPY)
        + message(magic, b"after", key=b"")
        + message(magic, compress(Codec.SNAPPY, inner), attributes=Codec.SNAPPY)
    )
    codec, found = one(whole)
    assert codec == Codec.SNAPPY
    assert [r.value for r in found] == [b"before", b"in 1", b"in 2", b"after", b"in 1", b"in 2"]
    assert [r.offset for r in found] == list(range(6))


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("offsets", [[0, 0], [5, 3], [-1, -1], [1 << 40, 7]])
def test_offsets_that_clients_write_do_not_matter(magic: int, offsets: list[int]) -> None:
    inner = b"".join(message(magic, b"x", offset=offset) for offset in offsets)
    for whole in (inner, message(magic, compress(Codec.GZIP, inner), attributes=Codec.GZIP, offset=offsets[0])):
        assert [r.offset for r in one(whole)[1]] == [0, 1]


def test_time_of_the_wrapper_is_not_the_records() -> None:
    inner = message(1, b"x", time=5) + message(1, b"y", time=-1)
    codec, found = one(message(1, compress(Codec.GZIP, inner), attributes=Codec.GZIP, time=999))
    assert codec == Codec.GZIP
    assert [r.timestamp for r in found] == [5, -1]


def test_plain_snappy_is_read_too() -> None:
    raw = bytes(cramjam.snappy.compress_raw(message(1, b"x")))
    assert one(message(1, raw, attributes=Codec.SNAPPY))[1][0].value == b"x"


@pytest.mark.parametrize("broken", [True, False])
def test_lz4_in_v0_may_have_the_broken_checksum_in_v1_not(broken: bool) -> None:
    frames = [compress(Codec.LZ4, message(magic, b"x"), broken_lz4=broken) for magic in (0, 1)]
    assert one(message(0, frames[0], attributes=Codec.LZ4))[1][0].value == b"x"
    wrapper = message(1, frames[1], attributes=Codec.LZ4)
    if broken:
        assert refusal(wrapper).reason is Reason.COMPRESSION
    else:
        assert one(wrapper)[1][0].value == b"x"


GZIPPED = {magic: compress(Codec.GZIP, message(magic, b"x")) for magic in (0, 1)}

INVALID = {
    "magic 2": (message(2, b"x"), Reason.MAGIC),
    "magic 1 inside 0": (message(0, GZIPPED[1], attributes=1), Reason.MAGIC),
    "magic 0 inside 1": (message(1, GZIPPED[0], attributes=1), Reason.MAGIC),
    "zstd": (message(1, b"x", attributes=Codec.ZSTD), Reason.UNREADABLE_CODEC),
    "codec 7": (message(0, b"x", attributes=7), Reason.UNREADABLE_CODEC),
    "log append time": (message(1, b"x", attributes=0x08), Reason.LOG_APPEND_TIME),
    "log append time on a wrapper": (message(1, GZIPPED[1], attributes=0x09), Reason.LOG_APPEND_TIME),
    "wrapper of null": (message(1, None, attributes=1), Reason.RECORDS),
    "wrapper of nothing": (message(1, compress(Codec.GZIP, b""), attributes=1), Reason.RECORDS),
    "nested": (
        message(1, compress(Codec.GZIP, message(1, GZIPPED[1], attributes=1)), attributes=1),
        Reason.RECORDS,
    ),
}


@pytest.mark.parametrize(("message_set", "reason"), INVALID.values(), ids=INVALID)
def test_what_kafka_refuses(message_set: bytes, reason: Reason) -> None:
    error = refusal(message_set)
    assert isinstance(error, InvalidBatch)
    assert error.reason is reason


def with_crc(raw: bytes) -> bytes:
    return raw[:12] + struct.pack(">I", zlib.crc32(raw[16:])) + raw[16:]


def resized(raw: bytes, size: int) -> bytes:
    return raw[:8] + struct.pack(">i", size) + raw[12:]


X0, X1 = message(0, b"xyz", key=b"k"), message(1, b"xyz", key=b"k")
CORRUPT = {
    "v0 cut": (X0[:-1], Reason.SHORT),
    "v1 cut": (X1[:-1], Reason.SHORT),
    "only an offset": (X1[:8], Reason.SHORT),
    "bytes behind": (X1 + b"\0\0\0", Reason.SHORT),
    "size negative": (resized(X1, -1), Reason.LENGTH),
    "size zero": (resized(X0, 0), Reason.LENGTH),
    "v0 size below the least": (resized(X0, 13), Reason.LENGTH),
    "v1 size below the least": (resized(X1, 21), Reason.LENGTH),
    "size above": (resized(X0, 1 << 30), Reason.SHORT),
    "crc": (X1[:-1] + b"!", Reason.CRC),
    "crc inside": (
        message(1, compress(Codec.GZIP, X1[:-1] + b"!"), attributes=1),
        Reason.CRC,
    ),
    "key too long": (with_crc(X0[:18] + struct.pack(">i", 100) + X0[22:]), Reason.RECORDS),
    "value too long": (with_crc(X0[:23] + struct.pack(">i", 4) + X0[27:]), Reason.RECORDS),
    "value too short": (with_crc(X0[:23] + struct.pack(">i", 2) + X0[27:]), Reason.RECORDS),
    "key takes the value's length": (with_crc(X0[:18] + struct.pack(">i", 5) + X0[22:]), Reason.RECORDS),
    "wrapper of junk": (message(1, b"junk", attributes=1), Reason.COMPRESSION),
}


@pytest.mark.parametrize(("message_set", "reason"), CORRUPT.values(), ids=CORRUPT)
def test_what_is_damaged(message_set: bytes, reason: Reason) -> None:
    error = refusal(message_set)
    assert isinstance(error, CorruptBatch)
    assert error.reason is reason


def test_limit_holds_for_all_wrappers_together() -> None:
    wrapper = message(1, compress(Codec.GZIP, message(1, b"\0" * 1000)), attributes=1)
    assert len(one(wrapper * 3)[1]) == 3
    assert refusal(wrapper * 3, 3000).reason is Reason.TOO_LARGE
    assert refusal(wrapper, 1000).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("times", [[-1, 5], [5, -1], [-1, -1], [0, 3], [-1, 0, -1]])
def test_missing_timestamps_in_v1(times: list[int]) -> None:
    assert [r.timestamp for r in one(b"".join(message(1, b"x", time=time) for time in times))[1]] == times


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([0, 1]), st.sampled_from(CODECS), st.data())
def test_any_damage_gives_records_or_the_typed_error(magic: int, codec: Codec, data: st.DataObject) -> None:
    inner = b"".join(message(magic, b"value %d" % i, key=b"k", offset=i) for i in range(3))
    if codec:
        inner = message(magic, compress(codec, inner, broken_lz4=magic == 0), attributes=codec)
    raw = bytearray(inner)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = with_crc(bytes(raw)) if data.draw(st.booleans()) else bytes(raw)
    try:
        batches = up_convert(damaged, LIMIT_BYTES)
    except BatchError:
        return
    for batch in batches:
        decode(batch, LIMIT_BYTES)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_give_a_batch_or_the_typed_error(data: bytes) -> None:
    try:
        batches = up_convert(data, LIMIT_BYTES)
    except BatchError:
        return
    assert len(batches) == (1 if data else 0)
