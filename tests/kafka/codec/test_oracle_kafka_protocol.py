"""kafka-protocol, which knows Metadata and ApiVersions, reads what we write and writes the same bytes.

What it gets wrong is kept from it: it reads a compact null as an endless string, keeps tagged fields as bytes (flexible
versions go to it without nulls and tags), and cannot write a uuid (Metadata from version 10 on).
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from kafkaprotocol import requests, responses

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import Message, Schema
from gateway.protocols.kafka.schemas import NAMES
from tests.kafka.codec.oracles import assert_same
from tests.kafka.codec.random_messages import RandomMessages

MESSAGES_PER_VERSION = 6
CLASSES = {
    (NAMES[key, direction], version): cls
    for direction, classes in (("request", requests), ("response", responses))
    for key, versions in classes.items()
    for version, cls in enumerate(versions)
    if (key, version) < (3, 10) or key == 18
}


def without_nulls_and_tags(schema: Schema, struct: str, version: int, message: Message) -> None:
    for field in schema.fields(struct, version):
        value: Any = getattr(message, field.name)
        if field.tag is not None:
            setattr(message, field.name, list(field.default) if field.is_array else field.default)
        elif field.present and value is None:
            setattr(message, field.name, [] if field.is_array else "" if field.type == "string" else b"")
        elif field.element in schema.struct_names and field.is_array:
            for element in value:
                without_nulls_and_tags(schema, field.element, version, element)


@pytest.mark.parametrize(("name", "version"), sorted(CLASSES))
def test_kafka_protocol_reads_and_writes_the_same(name: str, version: int) -> None:
    cls, schema = CLASSES[name, version], Schema(name)
    randoms = RandomMessages(f"kafka-protocol {name} {version}", calm=True)
    for _ in range(MESSAGES_PER_VERSION):
        ours = randoms.message(name, version)
        if schema.is_flexible(version):
            without_nulls_and_tags(schema, name, version, ours)
        data = codec.encode_message(version, ours)
        stream = io.BytesIO(data)
        theirs = cls.unpack(stream)
        assert stream.read() == b""
        assert cls.pack(theirs) == data
        assert_same(schema, name, version, ours, theirs, tagged=False)
