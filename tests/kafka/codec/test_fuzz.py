"""Any bytes decode or raise RemoteProtocolError, with memory in proportion to their length."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import message_class
from gateway.protocols.kafka.consumer_protocol import decode_assignment, decode_subscription
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.schemas import SCHEMAS
from tests.kafka.codec.random_messages import ALL_VERSIONS, RandomMessages

versions = st.sampled_from(ALL_VERSIONS)
HOSTILE = ("ffffffff0f", "feffffff07", "7fffffff", "80000000", "ffff", "7fff", "ffffffffff", "00")


def decode(name: str, version: int, data: bytes) -> None:
    """Whole, as bytes and as a view of something longer; what decodes can be written again."""
    try:
        message = codec.decode_message(name, version, data)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError, match=f"^{name} v{version}: "):
            codec.decode_message(name, version, memoryview(b"?" + data)[1:])
        return
    again = codec.encode_message(version, message)
    assert codec.encode_message(version, codec.decode_message(name, version, again)) == again


@settings(max_examples=400, deadline=None)
@given(versions, st.binary(max_size=300))
def test_any_bytes(which: tuple[str, int], data: bytes) -> None:
    decode(*which, data)


@settings(max_examples=400, deadline=None)
@given(versions, st.integers(0, 10**6), st.data())
def test_valid_messages_with_bytes_changed(which: tuple[str, int], seed: int, data: st.DataObject) -> None:
    name, version = which
    valid = bytearray(codec.encode_message(version, RandomMessages(f"fuzz {seed}").message(name, version)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(valid)))
        piece = data.draw(st.one_of(st.binary(max_size=5), st.sampled_from(HOSTILE).map(bytes.fromhex)))
        valid[at : at + data.draw(st.sampled_from((0, len(piece))))] = piece
    decode(name, version, bytes(valid))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_as_headers_and_consumer_protocol(data: bytes) -> None:
    for function in (codec.decode_request_header, decode_subscription, decode_assignment):
        try:
            function(data)
        except RemoteProtocolError:
            pass


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_hostile_counts_anywhere_allocate_nothing(name: str) -> None:
    for version in {SCHEMAS[name][2], SCHEMAS[name][3]}:
        valid = codec.encode_message(version, RandomMessages(f"hostile {name}").message(name, version))[:600]
        hostile = [
            valid[:at] + piece + valid[at + len(piece) :]
            for at in range(0, len(valid), max(1, len(valid) // 30))
            for piece in map(bytes.fromhex, HOSTILE)
        ]
        codec.decode_message(name, version, codec.encode_message(version, message_class(name)()))  # compiled before
        tracemalloc.start()
        for data in hostile:
            try:
                codec.decode_message(name, version, data)
            except RemoteProtocolError:
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000
