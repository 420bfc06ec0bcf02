"""What every handler of the native protocol works on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from core.broker import Broker
from core.topics import Topic
from gateway.protocols.native.codes import Refused
from trivium.errors import ErrorCode

Reply = Callable[[Any], None]  # takes the reply's message


@dataclass(frozen=True, slots=True)
class Context:
    broker: Broker
    fetch_bytes_max: int

    def now_ms(self) -> int:
        """Monotonic milliseconds, for time-outs."""
        return time.monotonic_ns() // 1_000_000

    def partition(self, name: str, index: int) -> tuple[Topic, int]:
        """The topic, and the engine's number of its partition. Raises Refused."""
        topic = self.broker.topics.get(name)
        if topic is None or topic.internal:
            raise Refused(ErrorCode.UNKNOWN_TOPIC, f"topic {name!r} does not exist")
        if index >= len(topic.partitions):
            raise Refused(ErrorCode.UNKNOWN_PARTITION, f"topic {name!r} has {len(topic.partitions)} partitions")
        return topic, topic.partitions[index]


class Draining(Protocol):
    """What a long poll must know of its connection."""

    draining: bool
    wakers: set[trio.Event]
