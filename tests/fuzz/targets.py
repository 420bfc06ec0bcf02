"""What is fuzzed: functions of bytes that must return or raise the one error that they declare, whatever the bytes.

Each is held to more than "no crash" where there is a second way to say the same: a stream fed whole and in pieces
yields the same frames; a set that converts up converts down again.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.frames import FrameReader
from gateway.protocols.kafka.legacy import down_convert, up_convert
from gateway.protocols.kafka.schemas import SCHEMAS
from trivium.compression import decompress
from trivium.errors import RemoteProtocolError as NativeProtocolError
from trivium.frame_reader import FrameReader as NativeFrameReader
from trivium.frames.codec import Frame
from trivium.record_batch import (
    BatchError,
    CorruptBatch,
    InvalidBatch,
    iter_batches,
    parse_header,
    validate_produced,
)
from trivium.records import decode, salvage, walk

FRAME_BYTES_MAX = 4096
DECODED_BYTES_MAX = 256 * 1024

Target = Callable[[bytes], None]

_VERSIONS = [(name, version) for name, row in SCHEMAS.items() for version in range(row[2], row[3] + 1)]


def frames(data: bytes) -> None:
    """The frame reader, whole and byte by byte."""
    whole, whole_error = _feed([data])
    pieces, pieces_error = _feed([data[at : at + 1] for at in range(len(data))])
    assert whole_error == pieces_error
    assert not whole or whole == pieces[: len(whole)]
    if whole_error is None:
        assert whole == pieces


def _feed(chunks: list[bytes]) -> tuple[list[bytes], str | None]:
    reader = FrameReader(FRAME_BYTES_MAX)
    out: list[bytes] = []
    try:
        for chunk in chunks:
            out += map(bytes, reader.feed(chunk))
            assert reader.held_bytes <= FRAME_BYTES_MAX + 4
    except RemoteProtocolError as error:
        return out, str(error)
    return out, None


def messages(data: bytes) -> None:
    """The codec: two bytes choose the message and version, the rest is its body."""
    name, version = _VERSIONS[int.from_bytes(data[:2], "big") % len(_VERSIONS)]
    try:
        message = codec.decode_message(name, version, data[2:])
    except RemoteProtocolError:
        return
    again = codec.encode_message(version, message)
    assert codec.encode_message(version, codec.decode_message(name, version, again)) == again


def request_headers(data: bytes) -> None:
    """A request as the dispatcher reads it."""
    try:
        header, at = codec.decode_request_header(memoryview(data))
        codec.decode_request(header.api_key, header.api_version, memoryview(data), at)
    except RemoteProtocolError:
        pass


def message_sets(data: bytes) -> None:
    """Message sets v0 and v1 to batches and back."""
    try:
        batches = up_convert(data, DECODED_BYTES_MAX)
    except BatchError:
        return
    for batch in batches:
        validate_produced(parse_header(batch), batch)
        for magic in (0, 1):
            converted = down_convert(
                batch, magic, 0, 1 << 30, first_record_guarantee=True, decompressed_bytes_max=DECODED_BYTES_MAX
            )
            assert converted.skipped or converted.data


def batches(data: bytes) -> None:
    """Batches as a client sends them and as a reader opens them, and those of them that old clients get."""
    try:
        for header, batch in iter_batches(data):
            for use in (_validate, _decode, _walk, _salvage):
                try:
                    use(bytes(batch))
                except BatchError:
                    pass
            assert header.size_bytes == len(batch)
    except CorruptBatch:
        return
    for magic, bytes_max, whole in ((0, 100, False), (1, 1 << 30, True)):
        try:
            down_convert(
                data, magic, 0, bytes_max, first_record_guarantee=whole, decompressed_bytes_max=DECODED_BYTES_MAX
            )
        except InvalidBatch:
            pass


def _validate(batch: bytes) -> None:
    validate_produced(parse_header(batch), batch)


def _decode(batch: bytes) -> None:
    decode(batch, DECODED_BYTES_MAX)


def _walk(batch: bytes) -> None:
    walk(batch, DECODED_BYTES_MAX, require_keys=True)


def _salvage(batch: bytes) -> None:
    salvage(batch, DECODED_BYTES_MAX)


def compressed(data: bytes) -> None:
    """Every codec: the first byte chooses it, and by its fourth bit the broken lz4 framing."""
    if not data:
        return
    try:
        opened = decompress(data[0] & 7, data[1:], DECODED_BYTES_MAX, broken_lz4=data[0] & 8 != 0)
    except BatchError:
        return
    assert len(opened) <= DECODED_BYTES_MAX


def native_frames(data: bytes) -> None:
    """The native protocol's frames, whole and byte by byte."""
    whole, whole_error = _feed_native([data])
    pieces, pieces_error = _feed_native([data[at : at + 1] for at in range(len(data))])
    assert whole_error == pieces_error
    if whole_error is None:
        assert whole == pieces


def _feed_native(chunks: list[bytes]) -> tuple[list[Frame], str | None]:
    reader = NativeFrameReader(FRAME_BYTES_MAX)
    out: list[Frame] = []
    try:
        for chunk in chunks:
            out += reader.receive(chunk)
            assert reader.held_bytes <= FRAME_BYTES_MAX
    except NativeProtocolError as error:
        return out, str(error)
    return out, None


TARGETS: dict[str, Target] = {
    "frames": frames,
    "native_frames": native_frames,
    "messages": messages,
    "request_headers": request_headers,
    "message_sets": message_sets,
    "batches": batches,
    "compressed": compressed,
}
