"""kio (4.x, from the same definitions, other code) reads what we write, field by field, and writes the same bytes.

Only bytes that our own encoder made from valid messages go to kio: some hostile counts abort its whole process.
"""

from __future__ import annotations

import datetime
import io
from typing import Any
from uuid import UUID

import pytest
from kio.index import load_entity_schema
from kio.schema.index import schema_name_map
from kio.serial import entity_reader, entity_writer

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import Field, Message, Schema
from gateway.protocols.kafka.schemas import SCHEMAS
from tests.kafka.codec.random_messages import RandomMessages

MESSAGES_PER_VERSION = 4
MILLISECOND = datetime.timedelta(milliseconds=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def known_to_both() -> list[tuple[str, int]]:
    """Message names and versions; kio is generated from a later Kafka and has a few newer versions."""
    found = []
    for api, versions in schema_name_map.items():
        for version, kinds in versions.items():
            for kind in kinds:
                name = load_entity_schema(api, version, kind).__name__
                if name in SCHEMAS and SCHEMAS[name][2] <= version <= SCHEMAS[name][3]:
                    found.append((name, version))
    return sorted(found)


def kio_class(name: str, version: int) -> Any:
    for api, versions in schema_name_map.items():
        for kind in versions.get(version, ()):
            cls = load_entity_schema(api, version, kind)
            if cls.__name__ == name:
                return cls
    raise LookupError(name)


CLASSES = {(name, version): kio_class(name, version) for name, version in known_to_both()}


def plain(field: Field, value: Any) -> Any:
    """kio's richer value as ours."""
    if isinstance(value, datetime.timedelta):
        return value // MILLISECOND
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND
    if isinstance(value, UUID):
        return value.bytes
    if value is None and field.type == "uuid":
        return bytes(16)
    if value is None and field.type == "int64" and not field.nullable:
        return -1
    return value


def assert_same(schema: Schema, struct: str, version: int, ours: Message, theirs: Any) -> None:
    for field in schema.fields(struct, version):
        if field.present:
            names = (field.name, field.name.removesuffix("_ms"), field.name + "_")
            their_name = next(name for name in names if hasattr(theirs, name))
            assert_same_value(schema, field, version, getattr(ours, field.name), getattr(theirs, their_name))


def assert_same_value(schema: Schema, field: Field, version: int, ours: Any, theirs: Any) -> None:
    if field.is_array and ours is not None:
        assert len(ours) == len(theirs), field.name
        single = Field(field.name, field.element, None, True, False, None)
        for our_element, their_element in zip(ours, theirs, strict=True):
            assert_same_value(schema, single, version, our_element, their_element)
    elif isinstance(ours, Message):
        assert_same(schema, field.element, version, ours, theirs)
    elif ours is None and field.tag is not None and field.element in schema.struct_names:
        pass  # kio puts an absent tagged struct's default in its place
    else:
        assert ours == plain(field, theirs), field.name


@pytest.mark.parametrize(("name", "version"), list(CLASSES))
def test_kio_reads_and_writes_the_same(name: str, version: int) -> None:
    cls = CLASSES[name, version]
    read, write = entity_reader(cls), entity_writer(cls)
    randoms = RandomMessages(f"kio {name} {version}", calm=True)
    for _ in range(MESSAGES_PER_VERSION):
        ours = randoms.message(name, version)
        data = codec.encode_message(version, ours)
        theirs, size = read(data, 0)
        assert size == len(data)
        assert_same(Schema(name), name, version, ours, theirs)
        buffer = io.BytesIO()
        write(buffer, theirs)
        assert buffer.getvalue() == data
