"""One committed offset, and its record in the log."""

from __future__ import annotations

from typing import NamedTuple

from core.group_codec import VERSION, Reader, Writer

Key = tuple[str, str, int]  # group id, topic, partition


class Offset(NamedTuple):
    """A committed offset. `expire_ms`: wall clock, -1 when the broker's retention rules; `sequence` orders commits
    within this run.
    """

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int
    expire_ms: int
    sequence: int


def encode_offset(offset: Offset) -> bytes:
    writer = Writer(VERSION).i64(offset.offset).i32(offset.leader_epoch).text(offset.metadata)
    return writer.i64(offset.commit_ms).i64(offset.expire_ms).finish()


def decode_offset(value: bytes, sequence: int) -> Offset:
    """Raises ValueError for a record of a newer broker."""
    reader = Reader(value)
    reader.version()
    return Offset(reader.i64(), reader.i32(), reader.text(), reader.i64(), reader.i64(), sequence)
