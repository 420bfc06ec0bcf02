"""The Kafka codec: bytes <-> messages, every API and version of Kafka 0.8 to 4.2. Sans-IO.

The shape of a message
    One class per message in `messages` (`from gateway.protocols.kafka.messages import MetadataResponse`), its structs
    as attributes of it (`MetadataResponse.MetadataResponseTopic`), named as Kafka names them, fields in snake_case:

        request.topics[0].partitions[0].partition_index
        FetchResponse.PartitionData(partition_index=0, error_code=ErrorCode.NONE, records=[view, view])

    One class serves all versions: it has the attributes of every version, each with Kafka's default, all keyword-only
    and mutable. Decoding gives attributes that the version lacks their default; encoding does not look at them.
    Slotted classes were measured against dicts and NamedTuples: fastest to fill from a run of `struct` values (137 ns
    for six fields; a dict 280 ns), checked by mypy, and handlers may amend a message in place.

    Types: integers int · bool · string str · uuid bytes (16) · bytes bytes · arrays list · null None · records: decoded
    a memoryview (a view of the frame: whoever keeps it keeps the frame), to encode bytes, a memoryview of bytes, or a
    list of these that follow each other. A tagged struct that is absent is None.

Rules
    Any bytes decode or raise RemoteProtocolError; UnsupportedVersionError (a subclass) where the tables lack the API or
    the version. Unknown tagged fields are skipped. Bytes behind the message are an error, but in requests they are left
    alone, as in Kafka: clients send some. What cannot be written raises LocalProtocolError. Work and memory are linear
    in the bytes received (see codec_reader.py).
    Readers and writers are compiled on first use of an API version (1 to 2 ms) and kept; the tables bound their number.

Headers
    Requests: v0 (ControlledShutdown v0, no client id), v1, v2 (flexible versions). Responses: v0, v1 (flexible
    versions), but ApiVersions always v0, as its reader does not know the version yet (KIP-511).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from gateway.protocols.kafka.codec_model import Message, Schema
from gateway.protocols.kafka.codec_reader import Reader, carries_records, compile_reader
from gateway.protocols.kafka.codec_runtime import Buffer, Malformed, skip_tags
from gateway.protocols.kafka.codec_writer import Writer, compile_writer
from gateway.protocols.kafka.errors import LocalProtocolError, RemoteProtocolError, UnsupportedVersionError
from gateway.protocols.kafka.schemas import NAMES, SCHEMAS

API_VERSIONS: Final = 18
CONTROLLED_SHUTDOWN: Final = 7

_REQUEST_START: Final = struct.Struct(">hhi")
_LENGTH: Final = struct.Struct(">h")
_SIZE_AND_CORRELATION: Final = struct.Struct(">ii")
_CORRELATION: Final = struct.Struct(">i")


class RequestHeader(NamedTuple):
    """The head of a request frame. `client_id` is None where the client sent null or none."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


class _Decoder(NamedTuple):
    read: Reader
    views: bool  # the reader wants a memoryview, for its records; else bytes
    label: str


_decoders: dict[tuple[str, int], _Decoder] = {}
_writers: dict[tuple[str, int], Writer] = {}


def message_name(api_key: int, direction: str) -> str:
    """`(3, "request")` -> `"MetadataRequest"`. Raises UnsupportedVersionError for an unknown API."""
    name = NAMES.get((api_key, direction))
    if name is None:
        raise UnsupportedVersionError(f"API key {api_key} is unknown")
    return name


def known_versions(api_key: int) -> tuple[int, int]:
    """The lowest and highest version that the tables have. Raises UnsupportedVersionError for an unknown API."""
    row = SCHEMAS[message_name(api_key, "request")]
    return row[2], row[3]


def _schema(name: str, version: int) -> Schema:
    schema = Schema(name)
    if not schema.low <= version <= schema.high:
        raise UnsupportedVersionError(f"{name} v{version} is unknown, {schema.low} to {schema.high} are known")
    return schema


def _decoder(name: str, version: int) -> _Decoder:
    decoder = _decoders.get((name, version))
    if decoder is None:
        schema = _schema(name, version)
        reader = compile_reader(schema, version)
        decoder = _Decoder(reader, carries_records(schema, version), f"{name} v{version}")
        _decoders[name, version] = decoder
    return decoder


def decode_prefix(name: str, version: int, data: Buffer, offset: int = 0) -> tuple[Message, int]:
    """Decode the message `name` that starts at `offset` and may be followed by more: (message, position behind it)."""
    read, views, label = _decoder(name, version)
    try:
        if views:
            return read(data if type(data) is memoryview else memoryview(data), offset, len(data))
        return read(data if type(data) is bytes else bytes(data), offset, len(data))
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"{label}: ends early, {len(data)} bytes") from error
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{label}: string is not UTF-8") from error
    except Malformed as error:
        raise RemoteProtocolError(f"{label}: {error}") from error


def decode_message(name: str, version: int, data: Buffer, offset: int = 0) -> Message:
    """Decode the message `name`, which fills `data` from `offset` to the end. Raises RemoteProtocolError."""
    message, pos = decode_prefix(name, version, data, offset)
    if pos != len(data):
        raise RemoteProtocolError(f"{name} v{version}: {len(data) - pos} bytes behind the message")
    return message


def decode_request(api_key: int, version: int, data: Buffer, offset: int = 0) -> Message:
    """Decode a request's body, which starts at `offset`. Raises RemoteProtocolError.

    Bytes behind it are left alone, as Kafka leaves them: librdkafka (2.16) sends three with Metadata for all topics.
    """
    return decode_prefix(message_name(api_key, "request"), version, data, offset)[0]


def decode_response(api_key: int, version: int, data: Buffer, offset: int = 0) -> Message:
    """Decode a response's body, which fills `data` from `offset` to the end. Raises RemoteProtocolError."""
    return decode_message(message_name(api_key, "response"), version, data, offset)


def write_message(version: int, message: Message, out: list[Buffer]) -> None:
    """Append the pieces of a message's encoding to `out`. Raises LocalProtocolError."""
    name = type(message).__name__
    write = _writers.get((name, version))
    if write is None:
        try:
            write = compile_writer(_schema(name, version), version)
        except (KeyError, UnsupportedVersionError) as error:
            raise LocalProtocolError(f"{name} v{version} is unknown") from error
        _writers[name, version] = write
    try:
        write(message, out)
    except (struct.error, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"{name} v{version} cannot be written: {error}") from error


def encode_message(version: int, message: Message) -> bytes:
    """Encode a message, body only. Raises LocalProtocolError."""
    out: list[Buffer] = []
    write_message(version, message, out)
    return b"".join(out)


def is_flexible(api_key: int, version: int) -> bool:
    """Whether a version uses compact encodings and tagged fields; versions above the known ones count as the newest."""
    return version >= SCHEMAS[message_name(api_key, "request")][4]


def request_header_version(api_key: int, version: int) -> int:
    """0, 1 or 2; also for versions above the known ones. Raises UnsupportedVersionError for an unknown API."""
    if api_key == CONTROLLED_SHUTDOWN and version == 0:
        return 0
    return 2 if is_flexible(api_key, version) else 1


def response_header_version(api_key: int, version: int) -> int:
    """0 or 1. Raises UnsupportedVersionError for an unknown API."""
    return 1 if api_key != API_VERSIONS and is_flexible(api_key, version) else 0


def decode_request_header(frame: Buffer) -> tuple[RequestHeader, int]:
    """Decode the header of a request frame (without its size): (header, offset of the body).

    Raises UnsupportedVersionError for an unknown API, RemoteProtocolError for a broken header.
    """
    try:
        api_key, version, correlation_id = _REQUEST_START.unpack_from(frame)
        header_version = request_header_version(api_key, version)
        pos = 8
        client_id = None
        if header_version:
            (length,) = _LENGTH.unpack_from(frame, pos)
            pos += 2
            if length >= 0:
                raw = bytes(frame[pos : pos + length])
                if len(raw) < length:
                    raise Malformed(f"client id of {length} bytes, {len(raw)} left")
                client_id = raw.decode(errors="replace")  # as Kafka does; it only names the client
                pos += length
            elif length != -1:
                raise Malformed(f"client id of {length} bytes")
        if header_version == 2:
            count = frame[pos]
            pos = skip_tags(frame, pos + 1, len(frame), count) if count else pos + 1
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"request header ends early, {len(frame)} bytes") from error
    except Malformed as error:
        raise RemoteProtocolError(f"request header: {error}") from error
    return RequestHeader(api_key, version, correlation_id, client_id), pos


def encode_request(api_key: int, version: int, correlation_id: int, client_id: str | None, request: Message) -> bytes:
    """A whole request frame, its 4-byte size in front. Raises LocalProtocolError."""
    header_version = request_header_version(api_key, version)
    out: list[Buffer] = [b"", _REQUEST_START.pack(api_key, version, correlation_id)]
    if header_version:
        raw = b"" if client_id is None else client_id.encode()
        out += (_LENGTH.pack(-1 if client_id is None else len(raw)), raw)
    if header_version == 2:
        out.append(b"\0")
    write_message(version, request, out)
    out[0] = _CORRELATION.pack(sum(map(len, out)))
    return b"".join(out)


def encode_response(api_key: int, version: int, correlation_id: int, response: Message) -> list[Buffer]:
    """A whole response frame, its 4-byte size in front, as pieces to join or to gather: records are not copied.

    `version` may be one that the tables lack only if the caller chose a `response` version to write: pass that one, the
    header follows from it (ApiVersions answers unknown versions with a v0 body). Raises LocalProtocolError.
    """
    out: list[Buffer] = [b""]
    write_message(version, response, out)
    size = sum(map(len, out))
    if response_header_version(api_key, version):
        out[0] = _SIZE_AND_CORRELATION.pack(size + 5, correlation_id) + b"\0"
    else:
        out[0] = _SIZE_AND_CORRELATION.pack(size + 4, correlation_id)
    return out


def decode_response_header(api_key: int, version: int, frame: Buffer) -> tuple[int, int]:
    """Decode the header of a response frame (without its size): (correlation id, offset of the body)."""
    try:
        (correlation_id,) = _CORRELATION.unpack_from(frame)
        pos = 4
        if response_header_version(api_key, version):
            pos = skip_tags(frame, pos + 1, len(frame), frame[pos])
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError(f"response header ends early, {len(frame)} bytes") from error
    except Malformed as error:
        raise RemoteProtocolError(f"response header: {error}") from error
    return correlation_id, pos
