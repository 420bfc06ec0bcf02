"""What every handler of the native protocol works on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import trio

from core.broker import Broker
from core.store.engine import Buffer
from core.topics import Topic
from gateway.protocols.native.codes import Refused
from trivium.errors import ErrorCode

Reply = Callable[[Any], None]  # takes the reply's message
Answer = Any | tuple[Any, Sequence[Buffer]]  # the reply's message, or with the buffers of its payload


SELECTING_MAX = 2  # threads that look through messages for pulls: they share the interpreter with the loop


@dataclass(frozen=True, slots=True)
class Context:
    broker: Broker
    fetch_bytes_max: int
    watched: WeakKeyDictionary[Peer, set[str]] = field(default_factory=WeakKeyDictionary)  # groups, for their resets
    selecting: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(SELECTING_MAX))

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


class Peer(Protocol):
    """A connection as handlers see it."""

    client_id: str
    software: str
    address: str
    draining: bool  # takes no further request; long polls end
    wakers: set[trio.Event]  # what long polls sleep on: set when a drain begins
    on_close: list[Callable[[], None]]  # called once, when the connection is gone
    streams: dict[int, object]  # consumers by the client's number
    producers: dict[str, Callable[[], None]]  # groups of half messages that were joined, and how each is left

    async def ask(self, message: Any, payload: Sequence[Buffer] = (), *, timeout_s: float) -> tuple[Any, memoryview]:
        """Asks the client. Raises AskFailed."""

    def tell(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """Sends a one-way message. Look for room first."""

    @property
    def has_room(self) -> bool:
        """Whether the output is within its bound."""

    async def wait_room(self) -> None:
        """Returns when there is room for output."""

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a task for as long as the connection lives."""


class AskFailed(Exception):
    """The client did not answer: `code` says why, if it said so; INTERNAL when it is gone, slow, or asked too much."""

    def __init__(self, message: str, code: int = ErrorCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class Call(NamedTuple):
    """One request as its handler gets it, beside the message."""

    context: Context
    peer: Peer
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Area:
    """Who serves the requests of one area, by message class.

    `tasks` run in a task each and return the reply, or raise Refused or CoreFailure. `in_order` are begun one after
    the other, in the order in which requests came, and answer by `reply`. `one_way` have no answer, come in order too,
    and must not raise.
    """

    tasks: Mapping[type, Callable[[Call, Any], Awaitable[Answer]]] = field(default_factory=dict)
    in_order: Mapping[type, Callable[[Call, Any, Reply], Awaitable[None]]] = field(default_factory=dict)
    one_way: Mapping[type, Callable[[Call, Any], None]] = field(default_factory=dict)
