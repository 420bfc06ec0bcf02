"""Messages that wait for their time: listed, and how their cancellation is answered."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from typing import NamedTuple

from trivium.asking import Asking
from trivium.frames import scheduled as frames

ROWS_MAX = 1_000  # of one request


class Cancellation(enum.IntEnum):
    """The answer to a cancellation. UNKNOWN: never was, its topic was deleted, or it ended longer ago than is known."""

    UNKNOWN = frames.UNKNOWN
    DELIVERED = frames.DELIVERED
    CANCELLED = frames.CANCELLED

    __str__ = enum.Enum.__str__  # its name: who prints an answer wants no number


class ScheduledMessage(NamedTuple):
    """A message that waits for its time. `topic` is empty when it has been deleted since."""

    message_id: str
    due_ms: int
    topic: str
    partition: int
    key: bytes | None
    value_bytes: int


async def list_scheduled(client: Asking) -> AsyncIterator[ScheduledMessage]:
    """All messages that wait for their time, soonest first."""
    after = (-1, -1)
    while True:
        reply, _ = await client.request(frames.ListScheduled(*after, ROWS_MAX))
        for row in reply.rows:
            after = (row.due_ms, row.number)
            key = row.key if row.has_key else None
            yield ScheduledMessage(row.message_id, row.due_ms, row.topic, row.partition, key, row.value_bytes)
        if not reply.rows:
            return
