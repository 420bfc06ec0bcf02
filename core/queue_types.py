"""What goes into and comes out of queue groups: what a group is, what its members get, how they settle it.

Times are milliseconds; `now_ms` is a monotonic clock, wall-clock times say so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from core.errors import CoreError, CoreFailure
from core.filters import check_filter
from core.selectors import selector_of
from core.store.engine import Buffer
from core.topics import NAME_CHARS_MAX, check_name

DEAD_LETTERS_PREFIX: Final = "dead-letters."
TOPICS_MAX: Final = 1_000
REASON_CHARS_MAX: Final = 500
ATTEMPTS_MAX: Final = 1_000
DELAY_MS_MAX: Final = 30 * 86_400_000
START_EARLIEST: Final = -2
START_LATEST: Final = -1
FOREVER_MS: Final = 1 << 62  # a lease without a time

Done = Callable[[CoreFailure | None], None]

_S, _M, _H = 1_000, 60_000, 3_600_000
ROCKETMQ_BACKOFF_MS: Final = (
    *(1 * _S, 5 * _S, 10 * _S, 30 * _S),
    *(minutes * _M for minutes in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30)),
    *(1 * _H, 2 * _H),
)


class Order(enum.IntEnum):
    """What a group promises: nothing, order per key (null is one key), or per partition."""

    NONE = 0
    KEY = 1
    PARTITION = 2


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a group reads; every member must say the same. `key_pattern` is a filter as devices have them (`+`, `#`)
    over the record's key, empty for all; `selector` is a filter over its headers (`core.selectors`), empty for all.
    `broadcast`: what is handed out counts as done.
    """

    topics: tuple[str, ...]
    key_pattern: str = ""
    selector: str = ""
    order: Order = Order.NONE
    broadcast: bool = False

    def check(self) -> None:
        """Raises CoreFailure."""
        if not 0 < len(self.topics) <= TOPICS_MAX or len(set(self.topics)) < len(self.topics):
            raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"a group reads 1 to {TOPICS_MAX} different topics")
        for name in self.topics:
            check_name(name)
        if self.broadcast and self.order is not Order.NONE:
            raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, "a broadcast has no order to keep: nothing is settled")
        if self.key_pattern and (problem := check_filter(self.key_pattern)):
            raise CoreFailure(CoreError.INVALID_FILTER, f"key pattern {self.key_pattern[:200]!r}: {problem}")
        if self.selector:
            selector_of(self.selector)

    def describe(self) -> str:
        """In words, for who must see how two differ."""
        parts = ["topics " + ", ".join(sorted(self.topics))]
        parts += [f"key pattern {self.key_pattern!r}"] if self.key_pattern else []
        parts += [f"filter {self.selector!r}"] if self.selector else []
        parts += {Order.NONE: [], Order.KEY: ["in order per key"], Order.PARTITION: ["in order"]}[self.order]
        return "; ".join(parts + (["broadcast"] if self.broadcast else []))

    def same(self, other: Subscription) -> bool:
        return sorted(self.topics) == sorted(other.topics) and all(
            getattr(self, one.name) == getattr(other, one.name) for one in fields(self) if one.name != "topics"
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """How a group retries. Attempt n that fails is tried again after `backoff_ms[n - 1]` (the last one, if there are
    fewer). `rejoin_ms`: how long a member whose connection is lost keeps what it has.
    """

    invisible_ms: int = 30_000
    attempts_max: int = 16
    backoff_ms: tuple[int, ...] = ROCKETMQ_BACKOFF_MS
    rejoin_ms: int = 5_000

    def check(self) -> None:
        """Raises CoreFailure."""
        sound = (
            0 < self.invisible_ms <= DELAY_MS_MAX
            and 0 < self.attempts_max <= ATTEMPTS_MAX
            and 0 < len(self.backoff_ms) <= ATTEMPTS_MAX
            and all(0 <= one <= DELAY_MS_MAX for one in self.backoff_ms)
            and 0 <= self.rejoin_ms <= DELAY_MS_MAX
        )
        if not sound:
            limits = f"times are 0 to {DELAY_MS_MAX} ms, attempts 1 to {ATTEMPTS_MAX}"
            raise CoreFailure(CoreError.INVALID_CONFIG, f"retry policy out of range: {limits}")

    def backoff(self, attempts: int) -> int:
        """How long to wait after so many failed attempts."""
        return self.backoff_ms[min(attempts, len(self.backoff_ms)) - 1]


class Handout(NamedTuple):
    """Messages for one member: one batch, of which `ranges` (first and last offset) are meant. `lease` is the receipt,
    0 where nothing is to be settled; `attempt` counts from 1.
    """

    topic: str
    partition: int
    lease: int
    attempt: int
    ranges: Sequence[tuple[int, int]]
    batch: Buffer


class Verb(enum.IntEnum):
    ACK = 0
    NACK = 1  # failed: again after the backoff, or after `delay_ms`
    EXTEND = 2  # invisible for `delay_ms` more from now on
    POSTPONE = 3  # again after `delay_ms`, and this was no attempt
    REJECT = 4  # to the dead letters at once


class Settle(NamedTuple):
    """What becomes of the offsets `first` to `last` under a lease. `delay_ms` -1: as the group's policy says."""

    topic: str
    partition: int
    lease: int
    first: int
    last: int
    verb: Verb
    delay_ms: int = -1
    reason: str = ""


class Settled(enum.Enum):
    """DONE includes what was acknowledged before. LATE: the time was over and the message is another's, or failed, or
    the group was reset; nothing was changed for those offsets.
    """

    DONE = "done"
    LATE = "late"
    INVALID = "invalid"


SettleDone = Callable[[CoreFailure | None, Sequence[Settled]], None]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Per group and partition, but for those of groups, and the last, which is of one read."""

    groups_max: int = 10_000
    members_max: int = 10_000  # of one group
    broadcast_expiry_ms: int = 7 * 86_400_000  # a broadcast group without members is forgotten; -1: never
    window_offsets_max: int = 1_048_576  # between the first that is not done and the last handed out
    leased_bytes_max: int = 256 * 1024 * 1024  # of batches that members have
    failed_max: int = 100_000  # messages that wait to be tried again
    held_max: int = 100_000  # messages that wait for their key's turn
    read_bytes: int = 256 * 1024


def check_group_id(group_id: str) -> None:
    """A queue group's name stands in its dead-letter topic's. Raises CoreFailure."""
    try:
        check_name(DEAD_LETTERS_PREFIX + group_id)
    except CoreFailure:
        chars = NAME_CHARS_MAX - len(DEAD_LETTERS_PREFIX)
        rule = f"1 to {chars} characters of a-z, A-Z, 0-9, '.', '_' and '-'"
        raise CoreFailure(CoreError.INVALID_GROUP_ID, f"group {group_id[:300]!r}: it needs {rule}") from None
    if not group_id:
        raise CoreFailure(CoreError.INVALID_GROUP_ID, "a group has a name")
