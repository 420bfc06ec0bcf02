"""Retroactive consumption: who reads goes on somewhere else in the log, while it runs.

A *reader* is a group, a session, or whatever else keeps a place in the log; its kind registers how it is moved. What
all have in common is here: which partitions, and which offset in each. A place outside of what a partition holds
becomes its nearest end; the answer says what became of it.

Whatever a kind does must hold: once the answer is out, no commit or acknowledgement that was on its way before can move
the reader back.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import trio

from core.errors import CoreError, CoreFailure
from core.group_coordinator import GroupCoordinator
from core.store.engine import Engine, UnknownPartition
from core.topics import Topics

PARTITIONS_MAX = 100_000


class To(enum.IntEnum):
    """Where a reader goes on. The numbers are the native protocol's."""

    EARLIEST = 1
    LATEST = 2
    TIME = 3
    OFFSET = 4


class Target(NamedTuple):
    """`value`: milliseconds since the epoch for TIME, the offset for OFFSET."""

    to: To
    value: int = 0


Places = dict[tuple[str, int], int]  # topic, partition index -> offset of the next record to read
Mover = Callable[[str, list[str], Target], Awaitable[Places]]  # reader's name, topics (empty: all it reads), where


async def resolve(engine: Engine, topics: Topics, names: Iterable[str], target: Target) -> Places:
    """The places that the target means in all partitions of the topics. Raises CoreFailure(UNKNOWN_TOPIC)."""
    places: Places = {}
    for name in sorted(set(names)):
        topic = topics.get(name)
        if topic is None:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"topic {name!r} does not exist")
        if len(places) + len(topic.partitions) > PARTITIONS_MAX:
            raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"more than {PARTITIONS_MAX} partitions: name topics")
        for index, number in enumerate(topic.partitions):
            try:
                places[name, index] = await _offset(engine, number, target)
            except UnknownPartition:
                raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"topic {name!r} was deleted") from None
    return places


async def _offset(engine: Engine, partition: int, target: Target) -> int:
    found = await engine.offset_for_time(partition, target.value) if target.to is To.TIME else None
    info = engine.info(partition)
    if target.to is To.EARLIEST:
        return info.log_start
    if target.to is To.OFFSET:
        return min(max(target.value, info.log_start), info.high_watermark)
    return info.high_watermark if found is None else max(found.offset, info.log_start)


class Retroactive:
    """Kinds of readers, and the group among them: `group` is every group with committed offsets, whatever protocol its
    members speak.
    """

    def __init__(self, engine: Engine, topics: Topics, coordinator: GroupCoordinator) -> None:
        self._engine = engine
        self._topics = topics
        self._coordinator = coordinator
        self._movers: dict[str, Mover] = {"group": self._move_group}

    def register(self, kind: str, mover: Mover) -> None:
        self._movers[kind] = mover

    async def reset(self, kind: str, name: str, topics: list[str], target: Target) -> Places:
        """Moves a reader; durable on return. Raises CoreFailure."""
        mover = self._movers.get(kind)
        if mover is None:
            known = ", ".join(sorted(self._movers))
            raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"no reader of kind {kind!r}; there are: {known}")
        return await mover(name, topics, target)

    async def _move_group(self, group_id: str, names: list[str], target: Target) -> Places:
        """The members lose what they have and join anew, so what they commit of before is refused as a stranger's."""
        read = set(names) or self._coordinator.topics_of(group_id)
        if not read:
            how = "name its topics, or the kind (queue, session) if it is not a group that commits"
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"no group {group_id!r} has committed offsets: {how}")
        places = await resolve(self._engine, self._topics, read, target)
        answered = trio.Event()
        errors: list[CoreError | None] = []

        def done(error: CoreError | None) -> None:
            errors.append(error)
            answered.set()

        self._coordinator.reset(group_id, places, done)
        await answered.wait()
        if errors[0] is not None:
            raise CoreFailure(errors[0])
        return places
