"""Zig-zag varints of record batch v2: seven bits a byte, least significant first, the sign in the lowest bit.

Reading is bounded by the end that the caller names and by ten bytes; an unfinished number raises `CorruptBatch`.
"""

from __future__ import annotations

from trivium.record_batch import CorruptBatch, Reason

VARINT_BYTES_MAX = 10
_I64_MIN, _I64_SPAN = -(1 << 63), 1 << 64


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at` and the place after it. Raises CorruptBatch beyond `end` or beyond 64 bits."""
    shift = raw = 0
    for place in range(at, min(end, at + VARINT_BYTES_MAX)):
        byte = data[place]
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            raw &= _I64_SPAN - 1
            return (raw >> 1) ^ -(raw & 1), place + 1
        shift += 7
    raise CorruptBatch(Reason.RECORDS, f"unfinished number at byte {at}")


def write_varint(value: int) -> bytes:
    """`value`, which fits into 64 bits, in one to ten bytes."""
    raw = (value << 1) ^ (value >> 63)
    if 0 <= raw < 0x80:
        return bytes((raw,))
    raw &= _I64_SPAN - 1
    out = bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def wrap_i64(value: int) -> int:
    """`value` as a signed 64-bit integer holds it; sums of numbers off the wire wrap as they do in C and Java."""
    return (value - _I64_MIN) % _I64_SPAN + _I64_MIN
