"""Topics: looked up, made, deleted."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.connection import DONE
from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of


class Metadata(NamedTuple):
    """Asks for topics by name (all when none is named); `create` makes those that are missing, if the broker may."""

    create: int
    topics: list[str]


class ConfigEntry(NamedTuple):
    name: str
    value: str


class TopicInfo(NamedTuple):
    """`status` 0, or why there is no such topic; `id` is the 16 bytes of a UUID."""

    name: str
    status: int
    id: bytes
    partitions: int
    config: list[ConfigEntry]


class MetadataReply(NamedTuple):
    topics: list[TopicInfo]


class CreateTopic(NamedTuple):
    """`partitions` 0 takes the broker's default."""

    name: str
    partitions: int
    config: list[ConfigEntry]


class DeleteTopic(NamedTuple):
    name: str


CONFIG = Declared(ConfigEntry, c.Struct("name" / TEXT, "value" / TEXT))
_TOPIC = Declared(
    TopicInfo,
    c.Struct(
        "name" / TEXT,
        "status" / c.Int8ub,
        "id" / c.Bytes(16),
        "partitions" / c.Int32ub,
        "config" / list_of(CONFIG.fields),
    ),
    {"config": CONFIG},
)

KINDS = {
    2: Kind(
        Declared(Metadata, c.Struct("create" / FLAG, "topics" / list_of(TEXT))),
        Declared(MetadataReply, c.Struct("topics" / list_of(_TOPIC.fields)), {"topics": _TOPIC}),
    ),
    3: Kind(
        Declared(
            CreateTopic,
            c.Struct("name" / TEXT, "partitions" / c.Int32ub, "config" / list_of(CONFIG.fields)),
            {"config": CONFIG},
        ),
        DONE,
    ),
    4: Kind(Declared(DeleteTopic, c.Struct("name" / TEXT)), DONE),
}
