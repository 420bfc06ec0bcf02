"""What compiled readers and writers call: varints, tagged fields, and the errors they raise.

Readers raise `Malformed` and, where Python checks for us, `struct.error`, `IndexError` or `UnicodeDecodeError`;
codec.py turns all of them into RemoteProtocolError with the message's name and version.
"""

from __future__ import annotations

from typing import Final

ELEMENTS_MAX: Final = 250_000
"""Array elements in one message, all its arrays together: bounds the objects that a frame of legal size can make."""

STRING_BYTES_MAX: Final = 32_767

Buffer = bytes | memoryview


class Malformed(ValueError):
    """Bytes that no valid message consists of; the text says why."""


def uvarint(buf: Buffer, pos: int) -> tuple[int, int]:
    """Read an unsigned varint of at most 32 bits: (value, position behind it)."""
    value = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise Malformed(f"varint longer than 5 bytes before byte {pos}")
    if value > 0xFFFF_FFFF:
        raise Malformed(f"varint over 32 bits before byte {pos}")
    return value, pos


def string_prefix(buf: Buffer, pos: int) -> tuple[int, int]:
    """Read the length + 1 of a compact string, held to the length that Kafka allows."""
    value, pos = uvarint(buf, pos)
    if value > STRING_BYTES_MAX + 1:
        raise Malformed(f"string of {value - 1} bytes, {STRING_BYTES_MAX} are allowed, before byte {pos}")
    return value, pos


def skip_tags(buf: Buffer, pos: int, end: int, count: int) -> int:
    """Step over `count` tagged fields of which we know none; returns the position behind them."""
    if count > 127:
        count, pos = uvarint(buf, pos - 1)
    check_tags(count, pos, end)
    for _ in range(count):
        _, pos = uvarint(buf, pos)
        size, pos = uvarint(buf, pos)
        pos += size
        if pos > end:
            raise too_short(size, pos - size, end)
    return pos


def check_tags(count: int, pos: int, end: int) -> None:
    """A tagged field takes two bytes at least."""
    if 2 * count > end - pos:
        raise Malformed(f"{count} tagged fields announced at byte {pos}, {end - pos} bytes left")


def too_short(size: int, pos: int, end: int) -> Malformed:
    return Malformed(f"{size} bytes announced at byte {pos}, {end - pos} left")


def bad_count(name: str, count: int, pos: int, end: int) -> Malformed:
    return Malformed(f"{name}: array of {count} elements announced at byte {pos}, {end - pos} bytes left")


def too_many(name: str, pos: int) -> Malformed:
    return Malformed(f"{name}: more than {ELEMENTS_MAX} array elements in one message at byte {pos}")


def bad_length(name: str, length: int, pos: int) -> Malformed:
    """A negative length; -1 is null, where the version allows null."""
    if length == -1:
        return Malformed(f"{name} may not be null, at byte {pos}")
    return Malformed(f"{name}: length {length} at byte {pos}")


def bad_tag(tag: int, size: int, pos: int) -> Malformed:
    return Malformed(f"tagged field {tag} does not fill its {size} bytes, at byte {pos}")


def encode_uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_string_prefix(value: int) -> bytes:
    """Length + 1 of a compact string of 127 bytes or more."""
    if value > STRING_BYTES_MAX + 1:
        raise ValueError(f"string of {value - 1} bytes, {STRING_BYTES_MAX} are allowed")
    return encode_uvarint(value)


ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))
