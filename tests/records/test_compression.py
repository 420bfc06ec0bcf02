"""Codecs against other implementations, truncation, and bombs."""

from __future__ import annotations

import struct
import zlib

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.oracles import kafka_codec
from trivium.compression import compress, decompress
from trivium.record_batch import BatchError, Codec, CorruptBatch, InvalidBatch, Reason

SQUEEZED = [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD]
WRITE = {
    Codec.GZIP: kafka_codec.gzip_encode,
    Codec.SNAPPY: kafka_codec.snappy_encode,
    Codec.LZ4: kafka_codec.lz4_encode,
    Codec.ZSTD: kafka_codec.zstd_encode,
}
READ = {
    Codec.GZIP: kafka_codec.gzip_decode,
    Codec.SNAPPY: kafka_codec.snappy_decode,
    Codec.LZ4: kafka_codec.lz4_decode,
    Codec.ZSTD: kafka_codec.zstd_decode,
}
SAMPLES = [b"", b"a", b"abc" * 50_000, bytes(range(256)) * 300, zlib.compress(bytes(range(256)) * 3) * 40]

# never empty: kafka-python cannot read the empty xerial stream that it writes itself
payloads = st.binary(min_size=1, max_size=2000) | st.builds(
    lambda data, times: data * times, st.binary(min_size=1, max_size=20), st.integers(1, 9000)
)


@settings(max_examples=100, deadline=None)
@given(payloads, st.sampled_from(SQUEEZED))
def test_kafka_python_reads_what_is_written_and_the_other_way_round(data: bytes, codec: Codec) -> None:
    written = compress(codec, data)
    assert bytes(READ[codec](written)) == data
    assert decompress(codec, written, len(data)) == data
    assert decompress(codec, bytes(WRITE[codec](data)), len(data)) == data


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("data", SAMPLES, ids=len)
def test_limit_is_exact(codec: Codec, data: bytes) -> None:
    written = compress(codec, memoryview(data))
    assert decompress(codec, memoryview(written), len(data)) == data
    if data:
        with pytest.raises(CorruptBatch) as caught:
            decompress(codec, written, len(data) - 1)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("codec", SQUEEZED)
def test_every_truncation_is_corrupt(codec: Codec) -> None:
    written = compress(codec, b"temperature=21;" * 20)
    for cut in range(1, len(written)):
        if codec == Codec.SNAPPY and len(written) - cut == 16:
            continue  # the bare xerial header, an empty stream
        with pytest.raises(CorruptBatch) as caught:
            decompress(codec, written[:-cut], 1 << 20)
        assert caught.value.reason is Reason.COMPRESSION


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD, Codec.SNAPPY])
def test_streams_of_several_frames(codec: Codec) -> None:
    parts = [b"first" * 1000, b"", b"second", b"third" * 20_000]
    together = b"".join(compress(codec, part) for part in parts)
    assert decompress(codec, together, 200_000) == b"".join(parts)
    with pytest.raises(CorruptBatch) as caught:
        decompress(codec, together, 50_000)
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.ZSTD, Codec.LZ4])
def test_what_follows_a_frame_must_be_a_frame(codec: Codec) -> None:
    with pytest.raises(CorruptBatch):
        decompress(codec, compress(codec, b"data") + b"junk junk junk", 1 << 20)


def test_snappy_is_written_with_xerial_framing_and_read_with_either() -> None:
    data = b"value" * 20_000
    written = compress(Codec.SNAPPY, data)
    assert written[:16] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    assert decompress(Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(data)), len(data)) == data


@pytest.mark.parametrize("claimed", [0, 4, 0x7FFFFFFF, 0xFFFFFFFF])
def test_xerial_chunk_that_lies_about_its_length_is_corrupt(claimed: int) -> None:
    written = bytearray(compress(Codec.SNAPPY, b"value"))
    struct.pack_into(">I", written, 16, claimed)
    with pytest.raises(CorruptBatch):
        decompress(Codec.SNAPPY, written, 1 << 20)


@pytest.mark.parametrize("claimed", [b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x10", b"\xff" * 10])
def test_snappy_that_claims_more_than_it_can_hold_is_corrupt(claimed: bytes) -> None:
    with pytest.raises(CorruptBatch):
        decompress(Codec.SNAPPY, claimed + b"\x00a", 1 << 40)


def test_lz4_has_independent_blocks_as_java_demands() -> None:
    flags = compress(Codec.LZ4, b"x" * 200_000)[4]
    assert flags >> 6 == 1
    assert flags & 0x20


@pytest.mark.parametrize("data", SAMPLES, ids=len)
def test_lz4_of_old_clients_has_the_broken_checksum(data: bytes) -> None:
    broken = compress(Codec.LZ4, data, broken_lz4=True)
    right = compress(Codec.LZ4, data)
    # kafka-python takes broken frames for 0.8 and 0.9 by mending them, so it must mend ours into the right one
    assert bytes(kafka_codec.lz4_decode_old_kafka(broken)) == data
    assert broken[6] != right[6]
    assert broken[:6] + broken[7:] == right[:6] + right[7:]
    with pytest.raises(CorruptBatch):
        decompress(Codec.LZ4, broken, len(data))
    for frame in (broken, right):
        assert decompress(Codec.LZ4, frame, len(data), broken_lz4=True) == data


def test_lz4_checksum_of_the_usual_header() -> None:
    frame = bytes.fromhex("04224d18 6040 82 03000080 616263 00000000")  # the format's own checksum of 60 40 is 82
    assert decompress(Codec.LZ4, frame, 3) == b"abc"
    damaged = frame[:6] + b"\x99" + frame[7:]
    with pytest.raises(CorruptBatch):
        decompress(Codec.LZ4, damaged, 3)
    assert decompress(Codec.LZ4, damaged, 3, broken_lz4=True) == b"abc"


@pytest.mark.parametrize("codec", [5, 6, 7, 8, -1])
def test_unknown_codec_is_invalid(codec: int) -> None:
    with pytest.raises(InvalidBatch) as writing:
        compress(codec, b"")
    with pytest.raises(InvalidBatch) as reading:
        decompress(codec, b"", 10)
    assert writing.value.reason is reading.value.reason is Reason.CODEC


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SQUEEZED), st.binary(max_size=300), st.booleans())
def test_any_bytes_decompress_or_are_corrupt(codec: Codec, data: bytes, broken: bool) -> None:
    starts = {
        Codec.GZIP: b"\x1f\x8b\x08\x00",
        Codec.SNAPPY: b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01",
        Codec.LZ4: b"\x04\x22\x4d\x18",
        Codec.ZSTD: b"\x28\xb5\x2f\xfd",
    }
    for start in (b"", starts[codec]):
        try:
            assert len(decompress(codec, start + data, 100_000, broken_lz4=broken)) <= 100_000
        except BatchError as error:
            reason = error.reason
            assert reason in (Reason.COMPRESSION, Reason.TOO_LARGE)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SQUEEZED), st.data())
def test_any_damage_decompresses_or_is_corrupt(codec: Codec, data: st.DataObject) -> None:
    written = bytearray(compress(codec, b"temperature=21;" * 60 + bytes(range(200))))
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(decompress(codec, written, 100_000)) <= 100_000
    except CorruptBatch as error:
        assert error.reason in (Reason.COMPRESSION, Reason.TOO_LARGE)  # noqa: PT017
