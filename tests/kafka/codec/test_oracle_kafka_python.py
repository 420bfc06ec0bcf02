"""kafka-python reads what we write and writes the same bytes.

Its codec of today knows what 4.x brokers speak; the one it kept from 1.x and 2.x (`kafka.protocol.old`) knows the
versions of 0.8 to 2.x, field by position.
"""

from __future__ import annotations

import importlib
import io
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import Message, Schema
from gateway.protocols.kafka.messages import ApiVersionsResponse
from gateway.protocols.kafka.schemas import NAMES, SCHEMAS
from tests.kafka.codec.oracles import assert_same
from tests.kafka.codec.random_messages import RandomMessages

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it reads its own resources in a deprecated way
    import kafka.protocol.old as old_protocol
    from kafka.protocol import admin, consumer, metadata, producer, sasl
    from kafka.protocol.old.api import Request, Response

MESSAGES_PER_VERSION = 4

# Where the old codec departs from Kafka's definitions: version 2 of these is flexible; partitions is an array.
OLD_AND_WRONG = (("DescribeAclsRequest", 2), ("DescribeAclsResponse", 2), ("DescribeLogDirsRequest", 0))


def new_classes() -> dict[tuple[str, int], Any]:
    found = {}
    for module in (admin, consumer, metadata, producer, sasl):
        for name, cls in vars(module).items():
            if name in SCHEMAS and name.endswith(("Request", "Response")):
                low, high = cls._valid_versions
                for version in range(max(low, SCHEMAS[name][2]), min(high, SCHEMAS[name][3]) + 1):
                    found[name, version] = cls
    return found


def subclasses(cls: Any) -> Iterator[Any]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def old_classes() -> dict[tuple[str, int], Any]:
    for module in pkgutil.iter_modules(old_protocol.__path__):
        importlib.import_module(f"kafka.protocol.old.{module.name}")
    found = {}
    for base, direction in ((Request, "request"), (Response, "response")):
        for cls in subclasses(base):
            key, version = getattr(cls, "API_KEY", None), vars(cls).get("API_VERSION")
            if isinstance(key, int) and isinstance(version, int) and "SCHEMA" in vars(cls):
                found[NAMES[key, direction], version] = cls
    for wrong in OLD_AND_WRONG:
        del found[wrong]
    return found


NEW = new_classes()
OLD = old_classes()


@pytest.mark.parametrize("name", sorted({name for name, _ in NEW}))
def test_kafka_python_reads_and_writes_the_same(name: str) -> None:
    for version in (version for known, version in NEW if known == name):
        check_new(name, version)


def check_new(name: str, version: int) -> None:
    randoms = RandomMessages(f"kafka-python {name} {version}", calm=True)
    for _ in range(MESSAGES_PER_VERSION):
        ours = randoms.message(name, version)
        if isinstance(ours, ApiVersionsResponse):
            ours.error_code = 0  # it reads those with an error as version 0
        data = codec.encode_message(version, ours)
        theirs = NEW[name, version].decode(data, version=version)
        assert_same(Schema(name), name, version, ours, theirs)
        theirs._header = None  # which decoding leaves unset, and encoding looks at
        assert theirs.encode(version=version) == data


def flat(value: Any) -> Any:
    """A value of the old codec without its nesting: structs are flat tuples, elements of lists too; no tags."""
    if isinstance(value, list):
        return [(element,) if not isinstance(element, tuple) else element for element in map(flat, value)]
    if isinstance(value, set):
        return sum(1 << bit for bit in value)
    if not isinstance(value, tuple):
        return value
    parts = [flat(element) for element in value if not isinstance(element, dict)]
    return tuple(x for part in parts for x in (part if isinstance(part, tuple) else (part,)))


def positions(schema: Schema, struct: str, version: int, message: Message) -> tuple[Any, ...]:
    """Our message as nested tuples in wire order, as the old codec gives it."""
    values = []
    for field in schema.fields(struct, version):
        if field.present and field.tag is None:
            value = getattr(message, field.name)
            if isinstance(value, list) and field.element in schema.struct_names:
                value = [positions(schema, field.element, version, element) for element in value]
            values.append(value)
    return tuple(values)


@pytest.mark.parametrize("name", sorted({name for name, _ in OLD}))
def test_old_kafka_python_reads_and_writes_the_same(name: str) -> None:
    for version in (version for known, version in OLD if known == name):
        check_old(name, version)


def check_old(name: str, version: int) -> None:
    randoms = RandomMessages(f"old kafka-python {name} {version}", calm=True)
    cls, schema = OLD[name, version], Schema(name)
    for _ in range(MESSAGES_PER_VERSION):
        ours = randoms.message(name, version)
        data = codec.encode_message(version, ours)
        theirs = cls.SCHEMA.decode(io.BytesIO(data))
        assert cls.SCHEMA.encode(theirs) == data
        assert flat(theirs) == flat(positions(schema, name, version, ours))


def test_the_oracles_cover_the_versions_of_old_and_new_clients() -> None:
    assert {("ProduceRequest", 0), ("FetchResponse", 0), ("OffsetFetchRequest", 0)} <= OLD.keys()
    assert {("ProduceRequest", 13), ("FetchResponse", 18), ("OffsetFetchRequest", 10)} <= NEW.keys()
