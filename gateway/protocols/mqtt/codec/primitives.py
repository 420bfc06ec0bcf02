"""The data types of MQTT 5 section 1.5, read from a buffer with an end that is never overstepped.

Every reader takes `(data, at, end)` and returns `(value, next)`. A value that would reach beyond `end` is malformed:
lengths come from the peer and are checked against bytes that are already here, so nothing is allocated for a promise.
"""

from __future__ import annotations

from typing import Final

from gateway.protocols.mqtt.errors import LocalProtocolError, malformed

VARINT_MAX: Final = 268_435_455
STRING_BYTES_MAX: Final = 65_535


def read_u8(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise malformed("packet ends inside a byte field")
    return data[at], at + 1


def read_u16(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 2 > end:
        raise malformed("packet ends inside a two byte integer")
    return data[at] << 8 | data[at + 1], at + 2


def read_u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 4 > end:
        raise malformed("packet ends inside a four byte integer")
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Variable byte integer, at most four bytes, in its shortest form ([MQTT-1.5.5-1])."""
    value = shift = 0
    for index in range(at, min(end, at + 4)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and index > at:
                raise malformed("variable byte integer is not in its shortest form")
            return value, index + 1
        shift += 7
    raise malformed("variable byte integer is cut off or longer than four bytes")


def read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    start = at + 2
    if start > end:
        raise malformed("packet ends inside a length")
    stop = start + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise malformed("packet ends inside a length-prefixed field")
    return data[start:stop], stop


def decode_string(raw: bytes) -> str:
    """UTF-8 as RFC 3629 has it: no surrogates, no overlong forms ([MQTT-1.5.4-1]), no NUL ([MQTT-1.5.4-2])."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed("string is not UTF-8") from error
    if "\0" in text:
        raise malformed("string holds U+0000")
    return text


def read_string(data: bytes, at: int, end: int) -> tuple[str, int]:
    raw, at = read_binary(data, at, end)
    return decode_string(raw), at


def encode_varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    if value > VARINT_MAX:
        raise LocalProtocolError(f"{value} does not fit a variable byte integer")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_binary(value: bytes) -> bytes:
    if len(value) > STRING_BYTES_MAX:
        raise LocalProtocolError("binary data of more than 65,535 bytes")
    return len(value).to_bytes(2, "big") + value


def encode_string(value: str) -> bytes:
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LocalProtocolError("string holds a surrogate") from error
    if b"\0" in raw:
        raise LocalProtocolError("string holds U+0000")
    return encode_binary(raw)
