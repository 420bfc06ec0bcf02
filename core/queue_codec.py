"""The rows that queue groups keep in their state log. Keys: one kind byte and the fields named here.

    group               the group's name -> JSON: subscription, policy, whether it is paused
    floor    group, partition -> offset below which all is done; leases up to a number are void
    done     group, partition, chunk -> which of 1,024 offsets are done
    failed   group, partition, offset -> attempts, when to try again (wall clock, or NEVER_MS), key's hash, last reason

`partition` is the engine's number, which is never used again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from core.group_codec import Reader, Writer
from core.queue_types import Order, Policy, Subscription

KIND_GROUP: Final = 1
KIND_FLOOR: Final = 2
KIND_DONE: Final = 3
KIND_FAILED: Final = 4
CHUNK_BITS: Final = 10
CHUNK: Final = 1 << CHUNK_BITS
CHUNK_BYTES: Final = CHUNK // 8
NO_KEY_HASH: Final = -1
NEVER_MS: Final = -1  # of a failed message that becomes a dead letter: it is not tried again
VERSION: Final = 1


class GroupRow(NamedTuple):
    subscription: Subscription | None  # None: the group has only been configured
    policy: Policy
    paused: bool
    is_share: bool = False  # Kafka's tools show it as a share group
    left_ms: int = 0  # of a broadcast: wall clock since when it has no members, 0 when it has


class FloorRow(NamedTuple):
    floor: int
    void_before: int


class FailedRow(NamedTuple):
    attempts: int
    not_before_wall_ms: int
    key_hash: int
    reason: str


def group_key(group: str) -> bytes:
    return Writer(KIND_GROUP).text(group).finish()


def floor_key(group: str, partition: int) -> bytes:
    return Writer(KIND_FLOOR).text(group).i64(partition).finish()


def done_key(group: str, partition: int, chunk: int) -> bytes:
    return Writer(KIND_DONE).text(group).i64(partition).i64(chunk).finish()


def failed_key(group: str, partition: int, offset: int) -> bytes:
    return Writer(KIND_FAILED).text(group).i64(partition).i64(offset).finish()


def pack_group(row: GroupRow) -> bytes:
    subscription = None if row.subscription is None else asdict(row.subscription)
    found = {"subscription": subscription, "policy": asdict(row.policy), "paused": row.paused}
    return json.dumps({**found, "share": row.is_share, "left_ms": row.left_ms}).encode()


def parse_group(value: bytes) -> GroupRow:
    found: dict[str, Any] = json.loads(value)
    policy = Policy(**{**found["policy"], "backoff_ms": tuple(found["policy"]["backoff_ms"])})
    subscription = found["subscription"]
    if subscription is not None:
        subscription |= {"topics": tuple(subscription["topics"]), "order": Order(subscription["order"])}
        subscription = Subscription(**subscription)
    return GroupRow(subscription, policy, found["paused"], found.get("share", False), found.get("left_ms", 0))


def pack_floor(row: FloorRow) -> bytes:
    return Writer(VERSION).i64(row.floor).i64(row.void_before).finish()


def parse_floor(value: bytes) -> FloorRow:
    reader = Reader(value, 1)
    return FloorRow(reader.i64(), reader.i64())


def pack_done(mask: int) -> bytes:
    return mask.to_bytes(CHUNK_BYTES, "big")


def parse_done(value: bytes) -> int:
    return int.from_bytes(value, "big")


def pack_failed(row: FailedRow) -> bytes:
    packed = Writer(VERSION).i32(row.attempts).i64(row.not_before_wall_ms).i64(row.key_hash)
    return packed.text(row.reason).finish()


def parse_failed(value: bytes) -> FailedRow:
    reader = Reader(value, 1)
    return FailedRow(reader.i32(), reader.i64(), reader.i64(), reader.text() or "")
