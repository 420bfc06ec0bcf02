"""Groups and offsets together: one state log, one load at start, one task that keeps time, and deleting a group with
its offsets.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from core.errors import CoreError, CoreFailure
from core.group_codec import KIND_CLASSIC, KIND_CONSUMER, KIND_MEMBER, KIND_OFFSET, KIND_PENDING, KIND_RESETS, Reader
from core.group_log import GroupLog
from core.group_types import Done, GroupLimits, TopicTable
from core.groups import Groups
from core.offsets import Offsets
from core.state import StateLog
from core.store.engine import Engine


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class GroupCoordinator:
    """Owns `groups` and `offsets`. Load it once, then `run` it beside the front-ends."""

    def __init__(
        self,
        engine: Engine,
        state: StateLog,
        topics: TopicTable,
        limits: GroupLimits | None = None,
        wall_ms: Callable[[], int] = _wall_ms,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        """`now_ms` must be the clock that requests come with."""
        self._log = GroupLog(engine, state)
        self._topics = topics
        self._wall_ms = wall_ms
        self._now_ms = now_ms
        self.groups = Groups(self._log, topics, limits or GroupLimits(), wall_ms)
        self.offsets = Offsets(self.groups, self._log)

    async def load(self) -> None:
        """Replays the log; every member's session begins now. Raises ValueError for a log of a newer broker."""
        appliers = {
            KIND_CLASSIC: self.groups.replay.classic,
            KIND_CONSUMER: self.groups.replay.consumer,
            KIND_MEMBER: self.groups.replay.member,
            KIND_OFFSET: self.offsets.apply_offset,
            KIND_PENDING: self.offsets.apply_pending,
            KIND_RESETS: self.offsets.apply_resets,
        }

        def apply(key: bytes, value: bytes | None) -> None:
            applier = appliers.get(key[0] if key else 0)
            if applier is None:
                raise ValueError(f"group record of unknown kind {key[:1]!r}")
            applier(Reader(key, 1), value)

        await self._log.state.load(apply)
        self.offsets.start()
        self.groups.start(self._now_ms())

    def topic_changed(self, name: str) -> None:
        """A topic was made, grown or deleted. The offsets of one that is gone go with it, as in Kafka."""
        self.groups.topics_changed()
        if self._topics.get(name) is None:
            self.offsets.drop_topic(name)

    def delete_group(self, group_id: str, done: Done) -> None:
        """Deletes an empty group and its offsets; `done(error)` when that is durable."""
        try:
            changes = self.groups.check_delete(group_id)
        except CoreFailure as failure:
            done(failure.error)
            return

        def deleted(error: CoreError | None) -> None:
            if error is None:
                self.offsets.group_deleted(group_id)
                self.groups.deleted(group_id)
            done(error)

        self._log.write([*changes, *self.offsets.group_changes(group_id)], deleted)

    def topics_of(self, group_id: str) -> set[str]:
        """The topics that the group reads, by its offsets and its members' subscriptions; those that exist."""
        names = self.groups.subscribed(group_id) | self.offsets.topics_of(group_id)
        return {name for name in names if self._topics.get(name) is not None}

    def reset(self, group_id: str, places: dict[tuple[str, int], int], done: Done) -> None:
        """Sets the group's offsets and removes its members, so that those who were in it begin there; `done(error)`
        when that is durable.

        The removal is written first: after a crash between the two the members are strangers too, and whatever they
        commit of before is refused.
        """
        self.groups.expel(group_id, self._now_ms())
        self.offsets.reset(group_id, places, done)

    async def run(self) -> None:
        """Keeps time for groups and offsets until cancelled."""
        check_interval_ms = self.groups.limits.retention_check_interval_ms
        wake = trio.Event()
        self.groups.on_deadline = lambda: wake.set()
        expire_ms = self._now_ms() + check_interval_ms
        while True:
            due_ms = min(self.groups.next_deadline_ms(), expire_ms)
            with trio.move_on_after(max(due_ms - self._now_ms(), 0) / 1000):
                await wake.wait()
            wake = trio.Event()
            now_ms = self._now_ms()
            self.groups.sweep(now_ms)
            if now_ms >= expire_ms:
                self.offsets.expire(self._wall_ms())
                expire_ms = now_ms + check_interval_ms
