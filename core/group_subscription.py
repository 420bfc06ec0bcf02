"""What the members of a classic "consumer" group say in their metadata: subscription and assignment of the embedded
consumer protocol.

The bytes belong to the clients, so anything may be in them: what cannot be read raises ValueError, and every count is
bounded by the bytes
that remain. Versions 0 to 3; fields that later versions add come last and are not read.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")

HIGHEST_VERSION = 3

TopicPartitions = dict[str, list[int]]


class Subscription(NamedTuple):
    version: int
    topics: list[str]
    user_data: bytes | None
    owned: TopicPartitions
    generation: int  # -1 when the version does not carry one
    rack: str | None


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._data):
            raise ValueError("consumer protocol metadata is cut short")
        self._at += count
        return self._data[self._at - count : self._at]

    def i16(self) -> int:
        return int(_I16.unpack(self.take(2))[0])

    def i32(self) -> int:
        return int(_I32.unpack(self.take(4))[0])

    def text(self) -> str:
        return self.take(self.i16()).decode()

    def text_or_none(self) -> str | None:
        length = self.i16()
        return None if length < 0 else self.take(length).decode()

    def data_or_none(self) -> bytes | None:
        length = self.i32()
        return None if length < 0 else self.take(length)

    def count(self, item_bytes_min: int) -> int:
        count = self.i32()
        if count < 0 or count * item_bytes_min > len(self._data) - self._at:
            raise ValueError("consumer protocol metadata announces more than it holds")
        return count

    def topic_partitions(self) -> TopicPartitions:
        result: TopicPartitions = {}
        for _ in range(self.count(6)):
            topic = self.text()
            result.setdefault(topic, []).extend([self.i32() for _ in range(self.count(4))])
        return result


def parse_subscription(metadata: bytes) -> Subscription:
    """Raises ValueError."""
    cursor = _Cursor(metadata)
    version = cursor.i16()
    if version < 0:
        raise ValueError(f"consumer protocol version {version}")
    topics = [cursor.text() for _ in range(cursor.count(2))]
    user_data = cursor.data_or_none()
    owned = cursor.topic_partitions() if version >= 1 else {}
    generation = cursor.i32() if version >= 2 else -1
    rack = cursor.text_or_none() if version >= 3 else None
    return Subscription(version, topics, user_data, owned, generation, rack)


def parse_assignment(assignment: bytes) -> TopicPartitions:
    """Raises ValueError."""
    cursor = _Cursor(assignment)
    if cursor.i16() < 0:
        raise ValueError("negative consumer protocol version")
    return cursor.topic_partitions()


def _text(value: str) -> bytes:
    data = value.encode()
    return _I16.pack(len(data)) + data


def _topic_partitions(value: TopicPartitions) -> bytes:
    parts = [_I32.pack(len(value))]
    for topic, partitions in value.items():
        parts.append(_text(topic))
        parts.append(struct.pack(f">i{len(partitions)}i", len(partitions), *partitions))
    return b"".join(parts)


def build_assignment(version: int, assigned: TopicPartitions) -> bytes:
    """The assignment that a classic consumer expects from its leader; `version` is that of its subscription."""
    return _I16.pack(min(version, HIGHEST_VERSION)) + _topic_partitions(assigned) + _I32.pack(-1)


def build_subscription(version: int, topics: list[str], owned: TopicPartitions, generation: int = -1) -> bytes:
    """The subscription a classic consumer would have sent."""
    parts = [_I16.pack(version), _I32.pack(len(topics)), *map(_text, topics), _I32.pack(-1)]
    if version >= 1:
        parts.append(_topic_partitions(owned))
    if version >= 2:
        parts.append(_I32.pack(generation))
    if version >= 3:
        parts.append(_I16.pack(-1))
    return b"".join(parts)
