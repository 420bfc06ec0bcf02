"""Queue groups as an administrator sees and changes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from trivium import headers as names
from trivium.asking import Asking, check_names
from trivium.errors import ErrorCode, RequestRefused
from trivium.frames.pulling import Pull, PullEntry
from trivium.frames.queue_admin import (
    AskMember,
    ConfigureQueue,
    DeleteQueue,
    DescribeQueues,
    PauseQueue,
    QueueInfo,
    ResendDeadLetters,
)
from trivium.record_batch import iter_batches
from trivium.records import DECODED_BYTES_MAX, decode

DEAD_LETTERS_PREFIX = "dead-letters."
LETTER_BYTES_MAX = 4 * 1024 * 1024


class DeadLetter(NamedTuple):
    """A message that failed for the last time. `offset` is its own, in the group's dead letters; topic, partition and
    message_offset say where it was.
    """

    offset: int
    topic: str
    partition: int
    message_offset: int
    attempts: int
    reason: str
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class QueueAdmin(Asking):
    """Part of the client."""

    async def describe_queues(self, *groups: str) -> list[QueueInfo]:
        """These queue groups, or all: subscription, policy, members, and per partition what is done, held and failed.

        Raises RequestRefused (GROUP_NOT_FOUND).
        """
        check_names(groups, "groups")
        reply, _ = await self.request(DescribeQueues(list(groups)))
        for info in reply.groups:
            if info.status:
                raise RequestRefused(info.status, f"queue group {info.group!r}")
        found: list[QueueInfo] = reply.groups
        return found

    async def member_status(self, group: str, member: str) -> dict[str, Any]:
        """What a connected member's client says about itself: settings, what its consumers hold, and the stacks of its
        threads and tasks, which show where a consumer that stands still is. `describe_queues` names members.

        Raises RequestRefused (UNKNOWN_MEMBER; INTERNAL when it does not answer).
        """
        reply, _ = await self.request(AskMember(group, member))
        found: dict[str, Any] = json.loads(reply.text)
        return found

    async def configure_queue(
        self,
        group: str,
        *,
        invisible_ms: int = -1,
        attempts_max: int = -1,
        rejoin_ms: int = -1,
        backoff_ms: Sequence[int] = (),
    ) -> None:
        """How a queue group retries: how long a message is invisible, how often it is tried, how long it waits after
        each failed attempt, how long a lost member keeps what it had. What is not given stays. Durable on return.
        """
        await self.request(ConfigureQueue(group, invisible_ms, attempts_max, rejoin_ms, list(backoff_ms)))

    async def pause_queue(self, group: str) -> None:
        """Hands nothing to the group until `resume_queue`, also over restarts. Durable on return."""
        await self.request(PauseQueue(group, 1))

    async def resume_queue(self, group: str) -> None:
        await self.request(PauseQueue(group, 0))

    async def delete_queue(self, group: str) -> None:
        """Forgets a group that has no members; its dead letters stay. Raises RequestRefused (GROUP_NOT_EMPTY)."""
        await self.request(DeleteQueue(group))

    async def dead_letters(
        self, group: str, *, offset: int = 0, count: int = 100, wait_ms: int = 0
    ) -> list[DeadLetter]:
        """A group's dead letters from an offset on, at most so many (and 4 MiB); none if it has none. `wait_ms` waits
        for the first.
        """
        topic = DEAD_LETTERS_PREFIX + group
        entry = PullEntry(topic, 0, offset, LETTER_BYTES_MAX)
        reply, payload = await self.request(Pull(1, [entry], "", LETTER_BYTES_MAX, wait_ms))
        (result,) = reply.entries
        if result.status == ErrorCode.OFFSET_OUT_OF_RANGE and offset < result.log_start:
            return await self.dead_letters(group, offset=result.log_start, count=count, wait_ms=wait_ms)
        if result.status in (ErrorCode.UNKNOWN_TOPIC, ErrorCode.OFFSET_OUT_OF_RANGE):
            return []
        if result.status:
            raise RequestRefused(result.status, f"topic {topic!r}")
        found = [
            _letter(*record)
            for _, batch in iter_batches(payload)
            for record in decode(batch, DECODED_BYTES_MAX)
            if record.offset >= offset
        ]
        return found[:count]

    async def resend_dead_letters(self, group: str, offsets: Sequence[int]) -> None:
        """Hands these dead letters to the group again, with all attempts before them. They stay readable as dead
        letters. Durable on return. Raises RequestRefused (INVALID_GROUP_REQUEST: not there).
        """
        await self.request(ResendDeadLetters(group, list(offsets)))


def _letter(
    offset: int, _: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> DeadLetter:
    said = {name: value or b"" for name, value in headers}

    def number(name: str) -> int:
        text = said.get(name, b"")
        return int(text) if text.isdigit() else -1

    return DeadLetter(
        offset,
        said.get(names.DEAD_LETTER_TOPIC, b"").decode(errors="replace"),
        number(names.DEAD_LETTER_PARTITION),
        number(names.DEAD_LETTER_OFFSET),
        number(names.DEAD_LETTER_ATTEMPTS),
        said.get(names.DEAD_LETTER_REASON, b"").decode(errors="replace"),
        number(names.DEAD_LETTER_TIME),
        key,
        value,
        [(name, value) for name, value in headers if not name.startswith(names.DEAD_LETTER_PREFIX)],
    )
