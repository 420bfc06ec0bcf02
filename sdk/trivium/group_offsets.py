"""The offsets that are kept under a group's name: committed, read, and reset while readers run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

from trivium.asking import Asking
from trivium.errors import ErrorCode, RequestRefused
from trivium.frames.offsets import EARLIEST, LATEST, Commit, Committed, OffsetEntry
from trivium.frames.resets import TO_EARLIEST, TO_LATEST, TO_OFFSET, TO_TIME, GroupReset, Reset


class GroupOffsets(Asking):
    """Part of the client."""

    def __init__(self) -> None:
        self._reset_watchers: list[Callable[[GroupReset], None]] = []

    async def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Keeps offsets, (topic, partition) -> next to read, under a group's name; durable on return.

        Raises RequestRefused for the first that was refused, when the others have been kept.
        """
        await self.commit_since(group, offsets, -1)

    async def commit_since(self, group: str, offsets: Mapping[tuple[str, int], int], resets: int) -> None:
        """As `commit`; refused (GROUP_WAS_RESET) when the group has been reset more often than that."""
        entries = [OffsetEntry(topic, part, offset, "") for (topic, part), offset in offsets.items()]
        reply, _ = await self.request(Commit(group, entries, resets))
        for entry, status in zip(entries, reply.statuses, strict=True):
            if status:
                raise RequestRefused(status, f"commit of {entry.topic}/{entry.partition} for group {group!r}")

    async def committed(self, group: str) -> dict[tuple[str, int], int]:
        """All offsets kept under a group's name."""
        return (await self.committed_since(group, watch=False))[0]

    async def committed_since(self, group: str, *, watch: bool) -> tuple[dict[tuple[str, int], int], int]:
        """As `committed`, and how often the group was reset; `watch`: GroupReset tells of further ones."""
        try:
            reply, _ = await self.request(Committed(group, int(watch)))
        except RequestRefused as refused:
            if refused.code == ErrorCode.GROUP_NOT_FOUND:
                return {}, 0
            raise
        return {(entry.topic, entry.partition): entry.offset for entry in reply.entries}, reply.resets

    async def reset(
        self,
        name: str,
        to: int | datetime | None = None,
        *,
        offset: int | None = None,
        topics: Sequence[str] = (),
        kind: Literal["group", "queue", "session"] = "group",
    ) -> dict[tuple[str, int], int]:
        """Moves a group, which may be running, to EARLIEST, LATEST or a time (a datetime, or ms since the epoch), or to
        an offset, in these topics or in all it reads. Returns where it goes on; durable.

        Commits from before cannot undo it. `kind` "group" is what commits offsets, "queue" what `subscribe` joins;
        "session" moves an MQTT session, by its client identifier, or a shared subscription, by `$share/...`. Raises
        RequestRefused (GROUP_NOT_FOUND, UNKNOWN_TOPIC).
        """
        if isinstance(topics, str):
            raise TypeError(f"topics are a list of names, not the text {topics!r}")
        where, value = _target(to, offset)
        reply, _ = await self.request(Reset(kind, name, list(topics), where, value))
        return {(place.topic, place.partition): place.offset for place in reply.places}

    @contextmanager
    def watching_resets(self, watcher: Callable[[GroupReset], None]) -> Iterator[None]:
        """Calls `watcher` with what the broker tells of resets, while the block is not left."""
        self._reset_watchers.append(watcher)
        try:
            yield
        finally:
            self._reset_watchers.remove(watcher)

    def _group_reset(self, message: GroupReset, _: memoryview) -> None:
        for watcher in list(self._reset_watchers):
            watcher(message)


def _target(to: int | datetime | None, offset: int | None) -> tuple[int, int]:
    if (to is None) == (offset is None):
        raise ValueError("give either a place or time to go to, or an offset")
    if to is None:
        return TO_OFFSET, offset or 0
    if isinstance(to, datetime):
        return TO_TIME, int(to.timestamp() * 1000)
    if not isinstance(to, int):
        raise TypeError(f"{to!r} is no time: give a datetime, milliseconds since 1970, EARLIEST or LATEST")
    if to < 0:
        return {EARLIEST: TO_EARLIEST, LATEST: TO_LATEST}[to], 0
    return TO_TIME, to
