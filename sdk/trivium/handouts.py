"""What a queue group's consumer has: messages as the application sees them, and handouts, of which they are part.

A handout is one batch under one lease, opened when its first message is asked for. Settling is per message; the offsets
that are still open are bits of one number, so a whole batch costs little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

from trivium.expiry import is_expired
from trivium.frames.queues import Delivery
from trivium.message_ids import take_id
from trivium.record_batch import HEADER_BYTES
from trivium.records import DECODED_BYTES_MAX, decode

Headers = list[tuple[str, bytes | None]]


class Handout:
    """Messages of one batch under one lease. `pending`: not settled yet, bit i for offset `first` + i."""

    __slots__ = (
        "acks",
        "attempt",
        "batch",
        "first",
        "lease",
        "next_offset",
        "partition",
        "pending",
        "size",
        "topic",
        "until_s",
    )

    def __init__(self, entry: Delivery, batch: memoryview) -> None:
        self.topic = entry.topic
        self.partition = entry.partition
        self.lease = entry.lease
        self.attempt = entry.attempt
        self.first = self.next_offset = entry.ranges[0].first  # `next_offset`: from there on nobody has started
        self.pending = 0
        for first, last in entry.ranges:
            self.pending |= ((1 << (last - first + 1)) - 1) << (first - self.first)
        self.batch: memoryview | None = batch
        self.size = len(batch)
        self.until_s = math.inf  # monotonic: up to then it is certainly ours
        self.acks: list[list[int]] = []  # ranges that are acknowledged and not yet sent

    @property
    def count(self) -> int:
        return self.pending.bit_count()

    @property
    def not_started(self) -> int:
        """Of the pending ones those that the application has not been given."""
        shift = self.next_offset - self.first
        return self.pending >> shift << shift

    @property
    def started(self) -> int:
        """Of the pending ones those that the application has been given."""
        return self.pending & ~self.not_started

    @property
    def may_be_over(self) -> bool:
        """Others may have it by now, as nothing was renewed for too long."""
        return self.until_s < time.monotonic()

    def is_pending(self, offset: int) -> bool:
        return bool(self.pending >> (offset - self.first) & 1)

    def settle(self, offset: int) -> None:
        self.pending &= ~(1 << (offset - self.first))

    def ranges(self, mask: int) -> Iterator[tuple[int, int]]:
        """First and last offset of each stretch of the mask."""
        at = self.first
        while mask:
            gap = (mask & -mask).bit_length() - 1
            mask >>= gap
            run = ((~mask) & (mask + 1)).bit_length() - 1
            yield at + gap, at + gap + run - 1
            at += gap + run
            mask >>= run

    def open(self) -> list[Message]:
        """Its messages. Raises BatchError."""
        batch, self.batch = self.batch, None
        assert batch is not None
        assert len(batch) >= HEADER_BYTES
        pending, first = self.pending, self.first
        place = (self.topic, self.partition)
        return [
            Message(*place, offset, timestamp_ms, key, value, rest, self.attempt, self, message_id)
            for offset, timestamp_ms, key, value, headers in decode(batch, DECODED_BYTES_MAX)
            if offset >= first and pending >> (offset - first) & 1
            for message_id, rest in (take_id(headers),)
        ]


class Message(NamedTuple):
    """One message: where it stands, its time (ms since the epoch, -1 for none), what was sent, and for the how-manieth
    time it is tried. `handout` is what it is settled by; `message_id` is empty when other clients' records have none.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    attempt: int
    handout: Handout
    message_id: str = ""

    @property
    def is_expired(self) -> bool:
        """Its time to live is over, by this machine's clock."""
        return bool(self.headers) and is_expired(self.headers, self.timestamp_ms)
