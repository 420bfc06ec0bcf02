"""Every API and version: what is encoded decodes to the same, and nothing less or more than that decodes."""

from __future__ import annotations

import pytest

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import message_class
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.schemas import SCHEMAS
from tests.kafka.codec.random_messages import RandomMessages, versions_of

MESSAGES_PER_VERSION = 4


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_messages_survive_encoding_and_decoding(name: str) -> None:
    for version in versions_of(name):
        randoms = RandomMessages(f"{name} {version}")
        for message in [message_class(name)(), *(randoms.message(name, version) for _ in range(MESSAGES_PER_VERSION))]:
            data = codec.encode_message(version, message)
            assert codec.decode_message(name, version, data) == message
            assert codec.decode_message(name, version, memoryview(b"head" + data), 4) == message


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_truncation_and_any_trailing_byte_is_refused(name: str) -> None:
    for version in versions_of(name):
        data = codec.encode_message(version, RandomMessages(f"{name} {version} cut").message(name, version))
        step = max(1, len(data) // 60)
        for length in {*range(0, len(data), step), *range(max(0, len(data) - 10), len(data))}:
            for cut in (data[:length], memoryview(data)[:length]):
                with pytest.raises(RemoteProtocolError):
                    codec.decode_message(name, version, cut)
        with pytest.raises(RemoteProtocolError, match="1 bytes behind the message"):
            codec.decode_message(name, version, data + b"\0")
