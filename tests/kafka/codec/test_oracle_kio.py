"""kio (4.x, from the same definitions, other code) reads what we write, field by field, and writes the same bytes.

Only bytes that our own encoder made from valid messages go to kio: some hostile counts abort its whole process.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from kio.index import load_entity_schema
from kio.schema.index import schema_name_map
from kio.serial import entity_reader, entity_writer

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.api_versions import ADVERTISED
from gateway.protocols.kafka.codec_model import Schema
from gateway.protocols.kafka.schemas import NAMES, SCHEMAS
from tests.kafka.codec.oracles import assert_same
from tests.kafka.codec.random_messages import RandomMessages, versions_of

MESSAGES_PER_VERSION = 4


def known_to_both() -> dict[tuple[str, int], Any]:
    """(message, version) -> kio's class; kio is generated from a later Kafka and has a few newer versions."""
    found = {}
    for api, versions in schema_name_map.items():
        for version, kinds in versions.items():
            for kind in kinds:
                cls = load_entity_schema(api, version, kind)
                if cls.__name__ in SCHEMAS and version in versions_of(cls.__name__):
                    found[cls.__name__, version] = cls
    return dict(sorted(found.items()))


CLASSES = known_to_both()


@pytest.mark.parametrize("name", sorted({name for name, _ in CLASSES}))
def test_kio_reads_and_writes_the_same(name: str) -> None:
    for version in (version for known, version in CLASSES if known == name):
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


def test_kio_covers_all_apis_of_current_clients() -> None:
    assert {(NAMES[key, "request"], high) for key, (_, high) in ADVERTISED.items()} <= CLASSES.keys()
