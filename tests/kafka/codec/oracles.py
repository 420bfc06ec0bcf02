"""Compares our messages with the objects of another codec, field by field."""

from __future__ import annotations

import datetime
from typing import Any
from uuid import UUID

from gateway.protocols.kafka.codec_model import Field, Message, Schema

MILLISECOND = datetime.timedelta(milliseconds=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def plain(field: Field, value: Any) -> Any:
    """Another codec's richer value as ours: times are milliseconds, uuids 16 bytes, a set of bits is an integer."""
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
    if value == b"" and field.type == "string":
        return ""
    if isinstance(value, set):
        return sum(1 << bit for bit in value)
    return value


def assert_same(schema: Schema, struct: str, version: int, ours: Message, theirs: Any, tagged: bool = True) -> None:
    for field in schema.fields(struct, version):
        if field.present and (tagged or field.tag is None):
            name = field.name
            names = (name, name.removesuffix("_ms"), name + "_", name.removeprefix("cluster_").removeprefix("topic_"))
            their_name = next(candidate for candidate in names if hasattr(theirs, candidate))
            _assert_same_value(schema, field, version, getattr(ours, name), getattr(theirs, their_name))


def _assert_same_value(schema: Schema, field: Field, version: int, ours: Any, theirs: Any) -> None:
    if field.is_array and ours is not None:
        assert len(ours) == len(theirs), field.name
        single = Field(field.name, field.element, None, True, False, None)
        for our_element, their_element in zip(ours, theirs, strict=True):
            _assert_same_value(schema, single, version, our_element, their_element)
    elif isinstance(ours, Message):
        assert_same(schema, field.element, version, ours, theirs)
    elif ours is None and field.tag is not None and field.element in schema.struct_names:
        pass  # some put an absent tagged struct's default in its place
    else:
        assert ours == plain(field, theirs), field.name
