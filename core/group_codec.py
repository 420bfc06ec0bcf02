"""The records that groups and offsets keep in the state log: keys and values, struct-packed, big-endian.

A key is one kind byte and its strings; a value starts with a version byte. Strings and byte strings carry a 32-bit
length, None is -1.
Values come from our own log, so a value that cannot be read is a damaged or newer store and raises ValueError.
"""

from __future__ import annotations

import struct

KIND_CLASSIC = 1  # group id -> a whole classic group
KIND_CONSUMER = 2  # group id -> epochs of a KIP-848 group
KIND_MEMBER = 3  # group id, member id -> one member of a KIP-848 group
KIND_OFFSET = 4  # group id, topic, partition -> a committed offset
KIND_PENDING = 5  # producer id, group id, topic, partition -> an offset that awaits the end of a transaction
KIND_RESETS = 6  # group id -> how often its offsets were reset

VERSION = 1

_I8 = struct.Struct(">b")
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")


class Writer:
    """Appends fields to a buffer."""

    def __init__(self, *head: int) -> None:
        self._parts: list[bytes] = [bytes(head)]

    def i8(self, value: int) -> Writer:
        self._parts.append(_I8.pack(value))
        return self

    def i32(self, value: int) -> Writer:
        self._parts.append(_I32.pack(value))
        return self

    def i64(self, value: int) -> Writer:
        self._parts.append(_I64.pack(value))
        return self

    def data(self, value: bytes | None) -> Writer:
        if value is None:
            self._parts.append(_I32.pack(-1))
        else:
            self._parts.append(_I32.pack(len(value)))
            self._parts.append(value)
        return self

    def text(self, value: str | None) -> Writer:
        return self.data(None if value is None else value.encode())

    def assignment(self, value: dict[bytes, dict[int, int]]) -> Writer:
        """topic id -> partition -> epoch."""
        self.i32(len(value))
        for topic_id, partitions in value.items():
            self._parts.append(topic_id)
            self.i32(len(partitions))
            for partition, epoch in partitions.items():
                self.i32(partition).i32(epoch)
        return self

    def finish(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Reads fields back. Raises ValueError when there are too few bytes."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise ValueError("record is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def version(self) -> None:
        """Raises ValueError unless the value's version is known."""
        version = self._take(1)[0]
        if version != VERSION:
            raise ValueError(f"record version {version} is newer than this broker")

    def i8(self) -> int:
        return int.from_bytes(self._take(1), "big", signed=True)

    def i32(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def i64(self) -> int:
        return int.from_bytes(self._take(8), "big", signed=True)

    def data_or_none(self) -> bytes | None:
        length = self.i32()
        return None if length == -1 else self._take(length)

    def data(self) -> bytes:
        return self._take(self.i32())

    def text(self) -> str:
        return self.data().decode()

    def text_or_none(self) -> str | None:
        data = self.data_or_none()
        return None if data is None else data.decode()

    def assignment(self) -> dict[bytes, dict[int, int]]:
        result: dict[bytes, dict[int, int]] = {}
        for _ in range(self.i32()):
            topic_id = self._take(16)
            result[topic_id] = {}
            for _ in range(self.i32()):
                partition = self.i32()
                result[topic_id][partition] = self.i32()
        return result


def classic_key(group_id: str) -> bytes:
    return Writer(KIND_CLASSIC).text(group_id).finish()


def consumer_key(group_id: str) -> bytes:
    return Writer(KIND_CONSUMER).text(group_id).finish()


def member_key(group_id: str, member_id: str) -> bytes:
    return Writer(KIND_MEMBER).text(group_id).text(member_id).finish()


def resets_key(group_id: str) -> bytes:
    return Writer(KIND_RESETS).text(group_id).finish()


def offset_key(group_id: str, topic: str, partition: int) -> bytes:
    return Writer(KIND_OFFSET).text(group_id).text(topic).i32(partition).finish()


def pending_key(producer_id: int, group_id: str, topic: str, partition: int) -> bytes:
    return Writer(KIND_PENDING).i64(producer_id).text(group_id).text(topic).i32(partition).finish()
