"""Valid inputs of each fuzz target, where mutation starts; seeded, so that every run has the same."""

from __future__ import annotations

import random
import struct
import zlib

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.schemas import NAMES
from tests.fuzz.targets import _VERSIONS
from tests.kafka.codec.random_messages import RandomMessages
from tests.native.test_frames import MESSAGES
from trivium.compression import compress
from trivium.frames.codec import encode
from trivium.records import Record, build


def message(
    magic: int, value: bytes | None, *, key: bytes | None = None, attributes: int = 0, offset: int = 0
) -> bytes:
    """One entry of a message set v0 or v1."""
    body = struct.pack(">BB", magic, attributes) + (struct.pack(">q", 1_700_000_000_000) if magic else b"")
    for part in (key, value):
        body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


def wrapper(magic: int, codec_id: int, inner: bytes) -> bytes:
    """A message whose value is the compressed set `inner`."""
    return message(magic, compress(codec_id, inner, broken_lz4=magic == 0), attributes=codec_id)


def record_batch(codec_id: int, count: int = 3) -> bytes:
    records = [Record(i, 1000 + i, b"k", b"value" * i, [("h", b"x"), ("n", None)]) for i in range(count)]
    return build(records, codec=codec_id)


def seeds(target: str) -> list[bytes]:
    rng = random.Random(target)
    match target:
        case "frames":
            frame = struct.pack(">i", 5) + b"12345"
            return [frame, frame * 3, frame + frame[:7], struct.pack(">i", -1), struct.pack(">i", 5000)]
        case "native_frames":
            return [encode(kind, 7, one, len(payload)) + payload for kind, one, payload in MESSAGES]
        case "messages":
            found = []
            for at, (name, version) in enumerate(_VERSIONS):
                body = codec.encode_message(version, RandomMessages(f"seed {name} {version}").message(name, version))
                found.append(struct.pack(">H", at) + body[:2000])
            return found
        case "request_headers":
            return [
                codec.encode_request(api, version, 7, "client", RandomMessages(f"{api}").message(name, version))[4:2000]
                for (api, direction), name in NAMES.items()
                if direction == "request"
                for version in codec.known_versions(api)
            ]
        case "message_sets":
            sets = [message(m, b"value", key=b"k") + message(m, None, offset=1) for m in (0, 1)]
            return sets + [wrapper(m, c, sets[m]) for m in (0, 1) for c in (1, 2, 3)]
        case "batches":
            return [record_batch(c) for c in range(5)] + [record_batch(0) + record_batch(1)]
        case "compressed":
            text = rng.randbytes(50) * 5
            return [bytes((c,)) + compress(c, text) for c in range(5)] + [b"\x0b" + compress(3, text, broken_lz4=True)]
    raise ValueError(target)
