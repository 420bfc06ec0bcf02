"""Compression codecs of the Kafka protocol, with bounded output.

Rules:
- Output never exceeds the limit that the caller gives; it is refused as soon as it would. Buffers grow by what the
  input yields, not by a size that the input claims.
- Streams may hold several frames or members one after another (gzip members, lz4 and zstd frames, xerial chunks).
- snappy: Java clients write the framing of the xerial library, others plain snappy. Both are read, xerial is written.
- lz4: the frame format with independent blocks, which is all that Java reads. Clients of 0.8 and 0.9 computed the
  frame's header checksum over the magic number too (KIP-57); message format v0 keeps that: it is ignored in reading
  and, if asked for, written.
- Truncated or damaged input raises `CorruptBatch`, output beyond the limit the same with `Reason.TOO_LARGE`.

Measured (2 cores, Python 3.11; 90 KB of mixed text, us to compress / decompress): gzip 1,700 / 120, snappy 75 / 40,
lz4 125 / 55, zstd 280 / 90. All release the interpreter lock.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cramjam

from trivium.record_batch import Buffer, Codec, CorruptBatch, InvalidBatch, Reason

GZIP_LEVEL = 6
ZSTD_LEVEL = 3
XERIAL_BLOCK_BYTES = 32 * 1024

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_MAGIC_AS_LENGTH = int.from_bytes(_XERIAL_MAGIC[:4], "big")
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_LZ4_CONTENT_SIZE_BIT = 0x08
_LZ4_DICTIONARY_BIT = 0x01
_SNAPPY_RATIO_MAX = 22  # a copy of 64 bytes takes three
_GROW_FROM_BYTES = 64 * 1024
_GZIP_NEXT_MEMBER_BYTES = 4 * 1024
_GROW_FACTOR = 8

_XXH_PRIMES = (2654435761, 2246822519, 3266489917, 668265263, 374761393)


def compress(codec: int, data: Buffer, *, broken_lz4: bool = False) -> bytes:
    """`data` compressed by `codec`; `broken_lz4` writes the header checksum that message format v0 has.

    Raises InvalidBatch (Reason.CODEC) for an unknown codec.
    """
    if codec == Codec.NONE:
        return bytes(data)
    if codec == Codec.GZIP:
        return zlib.compress(data, GZIP_LEVEL, wbits=31)
    if codec == Codec.SNAPPY:
        return _compress_xerial(data)
    if codec == Codec.LZ4:
        return _compress_lz4(data, broken_lz4)
    if codec == Codec.ZSTD:
        return bytes(cramjam.zstd.compress(data, level=ZSTD_LEVEL))
    raise InvalidBatch(Reason.CODEC, f"codec {codec}")


def decompress(codec: int, data: Buffer, max_bytes: int, *, broken_lz4: bool = False) -> bytes:
    """`data` decompressed by `codec`, at most `max_bytes`; `broken_lz4` ignores the lz4 header checksum.

    Raises CorruptBatch when truncated, damaged or too large (`reason` says which), InvalidBatch for an unknown codec.
    """
    if codec == Codec.NONE:
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
        return bytes(data)
    if codec == Codec.GZIP:
        return _decompress_gzip(data, max_bytes)
    if codec == Codec.SNAPPY:
        return _decompress_snappy(data, max_bytes)
    if codec == Codec.LZ4:
        if broken_lz4:
            data = _with_lz4_checksum(data, broken=False)
        return _decompress_growing(cramjam.lz4.decompress_into, data, max_bytes)
    if codec == Codec.ZSTD:
        return _decompress_growing(cramjam.zstd.decompress_into, data, max_bytes)
    raise InvalidBatch(Reason.CODEC, f"codec {codec}")


def _too_large(max_bytes: int) -> CorruptBatch:
    return CorruptBatch(Reason.TOO_LARGE, f"limit {max_bytes} bytes")


def _decompress_gzip(data: Buffer, max_bytes: int) -> bytes:
    view = memoryview(data)
    parts: list[bytes] = []
    at, window, room = 0, max(1, len(view)), max_bytes
    while at < len(view) or not parts:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            piece = view[at : at + window]
            if not piece:
                raise CorruptBatch(Reason.COMPRESSION, "gzip: truncated")
            try:
                parts.append(member.decompress(piece, room + 1))
            except zlib.error as error:
                raise CorruptBatch(Reason.COMPRESSION, f"gzip: {error}") from None
            room -= len(parts[-1])
            if room < 0:
                raise _too_large(max_bytes)
            at += len(piece) - len(member.unused_data)
        window = _GZIP_NEXT_MEMBER_BYTES  # what a member leaves unused is copied: keep that short
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _compress_xerial(data: Buffer) -> bytes:
    view = memoryview(data)
    parts = [_XERIAL_HEADER]
    for at in range(0, len(view), XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[at : at + XERIAL_BLOCK_BYTES]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _decompress_snappy(data: Buffer, max_bytes: int) -> bytes:
    view = memoryview(data)
    if view[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _decompress_snappy_block(view, max_bytes, max_bytes)
    at, end, room = len(_XERIAL_HEADER), len(view), max_bytes
    if end < at:
        raise CorruptBatch(Reason.COMPRESSION, "snappy: truncated header")
    parts: list[bytes] = []
    while at < end:
        size = int.from_bytes(view[at : at + 4], "big")
        if size == _XERIAL_MAGIC_AS_LENGTH:  # a second stream behind the first
            at += len(_XERIAL_HEADER)
            continue
        at += 4
        if size > end - at:
            raise CorruptBatch(Reason.COMPRESSION, "snappy: truncated")
        parts.append(_decompress_snappy_block(view[at : at + size], room, max_bytes))
        room -= len(parts[-1])
        at += size
    return b"".join(parts)


def _decompress_snappy_block(block: memoryview, room: int, max_bytes: int) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size > room:
            raise _too_large(max_bytes)
        if size > len(block) * _SNAPPY_RATIO_MAX:
            raise CorruptBatch(Reason.COMPRESSION, "snappy: more bytes claimed than the input can hold")
        output = bytearray(size)
        if not size:  # the library takes no empty buffer
            return b""
        written = cramjam.snappy.decompress_raw_into(block, output)
    except cramjam.DecompressionError as error:
        raise CorruptBatch(Reason.COMPRESSION, str(error)) from None
    if written != size:
        raise CorruptBatch(Reason.COMPRESSION, "snappy: truncated")
    return bytes(output)


def _decompress_growing(into: Callable[[Buffer, bytearray], int], data: Buffer, max_bytes: int) -> bytes:
    """Decompresses into a buffer that grows until the output fits or the limit is reached."""
    capacity = min(max_bytes, max(_GROW_FROM_BYTES, len(data) * 4))
    while True:
        output = bytearray(capacity)
        try:
            return bytes(memoryview(output)[: into(data, output)])
        except cramjam.DecompressionError as error:
            if "write whole buffer" not in str(error):  # the only sign that the output was too small
                raise CorruptBatch(Reason.COMPRESSION, str(error)) from None
        if capacity >= max_bytes:
            raise _too_large(max_bytes)
        capacity = min(max_bytes, capacity * _GROW_FACTOR)


def _compress_lz4(data: Buffer, broken: bool) -> bytes:
    compressor = cramjam.lz4.Compressor(level=0, content_checksum=False, block_linked=False)
    compressor.compress(bytes(data))
    frame = bytes(compressor.finish())
    return _with_lz4_checksum(frame, broken=True) if broken else frame


def _with_lz4_checksum(frame: Buffer, *, broken: bool) -> bytes:
    """The frame with its header checksum made anew, right or as 0.8 and 0.9 did it; what is no frame is left alone."""
    frame = bytes(frame)
    if len(frame) < 7 or frame[:4] != _LZ4_MAGIC or frame[4] & _LZ4_DICTIONARY_BIT:
        return frame
    at = 6 + (8 if frame[4] & _LZ4_CONTENT_SIZE_BIT else 0)
    if len(frame) <= at:
        return frame
    checksum = (_xxh32(frame[0 if broken else 4 : at]) >> 8) & 0xFF
    return b"".join((frame[:at], checksum.to_bytes(1, "big"), frame[at + 1 :]))


def _xxh32(data: bytes) -> int:
    """xxHash32 with seed 0 of less than 16 bytes, all that a frame header has."""
    assert len(data) < 16
    p1, p2, p3, p4, p5 = _XXH_PRIMES
    mask = 0xFFFFFFFF
    h = (p5 + len(data)) & mask
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        h = (h + int.from_bytes(data[at : at + 4], "little") * p3) & mask
        h = (((h << 17) | (h >> 15)) & mask) * p4 & mask
    for byte in data[whole:]:
        h = (h + byte * p5) & mask
        h = (((h << 11) | (h >> 21)) & mask) * p1 & mask
    h = (h ^ (h >> 15)) * p2 & mask
    h = (h ^ (h >> 13)) * p3 & mask
    return h ^ (h >> 16)
