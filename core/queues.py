"""Queue groups: per-message acknowledgement with invisibility, redelivery, backoff and dead letters, over the log.

`queue_table` is which groups there are and what they read, `queue_partition` what a group has of one partition,
`queue_group` its members and what they settle, `queue_task` its task, for which `queue_dealer` reads and hands out;
`queue_log` makes it durable, `dead_letters` moves what failed for the last time. This module is what is asked of
groups; what changes one durably is done for one at a time.

Promises: what was acknowledged and answered never comes again (flush = sync), what was handed out and not settled
comes again after its time, after a crash, or when its member is gone. Offsets of aborted transactions, control batches,
and what retention or compaction took count as done; nothing beyond the last stable offset is handed out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import structlog
import trio

from core.dead_letters import DeadLetters, topic_of
from core.errors import CoreError, CoreFailure
from core.queue_batches import OpenedBatches
from core.queue_codec import GroupRow, group_key, pack_group
from core.queue_dealer import Dealer
from core.queue_group import Member, QueueGroup
from core.queue_log import QueueLog
from core.queue_partition import QueuePartition
from core.queue_replay import Replay
from core.queue_table import QueueTable
from core.queue_task import QueueTask
from core.queue_traces import QueueTraces
from core.queue_types import (
    START_EARLIEST,
    START_LATEST,
    Handout,
    Policy,
    QueueLimits,
    Settle,
    SettleDone,
    Subscription,
    check_group_id,
)
from core.state import StateLog
from core.store.engine import Engine, UnknownPartition
from core.topics import Topics
from core.tracing import Actor

log = structlog.get_logger(__name__)

LEASES_PER_EPOCH_BITS = 40
EXPIRY_SWEEP_S = 60
AGAIN_S = 1


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Queues:
    """Load it once, then `run` it beside the front-ends. `now_ms` must be the clock that calls come with."""

    def __init__(
        self,
        engine: Engine,
        state: StateLog,
        topics: Topics,
        limits: QueueLimits | None = None,
        traces: QueueTraces | None = None,
        now_ms: Callable[[], int] = _now_ms,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._engine = engine
        self._traces = traces
        self._topics = topics
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self.limits = limits or QueueLimits()
        self._log = QueueLog(
            engine, state, lambda then_ms: wall_ms() + then_ms - now_ms(), lambda queue: self._table.turned(queue)
        )
        self._table = QueueTable(engine, topics, self._log)
        self._opened = OpenedBatches(engine)
        self._dealer = Dealer(engine, self._opened, (engine.epoch << LEASES_PER_EPOCH_BITS) + 1)
        self._dead_letters = DeadLetters(engine, topics, self._log, self._opened)
        self._tasks: dict[QueueGroup, QueueTask] = {}
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None

    # -- life

    async def load(self) -> None:
        """Replays the state. Raises ValueError for a row of a newer broker."""
        replay = Replay(self._topics, self._wall_ms() - self._now_ms())
        await self._log.state.load(replay.apply)
        for group_id, row in replay.groups.items():
            group = self._add(group_id, row)
            for queue in replay.queues(group_id, row):
                queue.recall(self._dealer.last_lease, self._engine.info(queue.partition).high_watermark)
                self._table.attach(group, queue)
            group.loaded()
        self._log.change(replay.orphans())
        self._log.flush()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hands out, keeps time and moves dead letters until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for group, task in self._tasks.items():
                self._nursery.start_soon(task.run, group)
            task_status.started()
            while True:
                await trio.sleep(EXPIRY_SWEEP_S)
                await self._expire(self._wall_ms())

    async def _expire(self, wall_ms: int) -> None:
        """Deletes broadcast groups that have had no members for too long."""
        for group in [one for one in self.all() if one.broadcast and not one.members]:
            with suppress(CoreFailure):  # the store refuses, or somebody has joined: another time
                if not group.left_ms:
                    async with self._changing:
                        await self._store(self.find(group.id), left_ms=wall_ms)
                elif 0 <= self.limits.broadcast_expiry_ms <= wall_ms - group.left_ms:
                    log.info("broadcast group expired", group=group.id)
                    await self.delete(group.id)

    # -- the table

    def _add(self, group_id: str, row: GroupRow) -> QueueGroup:
        task = QueueTask(self._dealer, self._dead_letters, self._log, self._now_ms, self._wall_ms)
        group = self._table.groups[group_id] = QueueGroup(group_id, row, self.limits, task.wake, self._traces)
        self._tasks[group] = task
        if self._nursery is not None:
            self._nursery.start_soon(task.run, group)
        return group

    def _drop(self, group: QueueGroup) -> None:
        """It is gone, with the partitions it reads: their rows go with the next write."""
        for queue in list(group.queues.values()):
            self._table.detach(group, queue)
        del self._table.groups[group.id]
        self._tasks.pop(group).stop()

    def find(self, group_id: str) -> QueueGroup:
        """Raises CoreFailure(GROUP_NOT_FOUND)."""
        return self._table.find(group_id)

    def all(self) -> list[QueueGroup]:
        return list(self._table.groups.values())

    # -- members

    async def join(
        self,
        group_id: str,
        member_id: str,
        actor: Actor,
        subscription: Subscription,
        start: int,
        take: Callable[[list[Handout]], None],
        held: Collection[int] = (),
    ) -> Member:
        """Lets a member in, durably if that makes or changes the group: `start` says where a new subscription begins
        (START_EARLIEST, START_LATEST or wall-clock ms); `held` are the leases that a member which comes back has.
        Raises CoreFailure.
        """
        check_group_id(group_id)
        subscription.check()
        async with self._changing:
            with self._known_or_new(group_id, Policy()) as group:
                group.check_join(member_id, subscription)
                if group.subscription != subscription:
                    await self._subscribe(group, group.row._replace(subscription=subscription), start)
                elif group.left_ms:
                    await self._store(group, left_ms=0)
            member = Member(member_id, actor, take)
            group.join(member, held, self._now_ms())
            return member

    @contextmanager
    def _known_or_new(self, group_id: str, policy: Policy) -> Iterator[QueueGroup]:
        """The group, made if there is none; it goes again if what it was made for fails."""
        known = self._table.groups.get(group_id)
        if known is not None:
            yield known
            return
        if len(self._table.groups) >= self.limits.groups_max:
            raise CoreFailure(CoreError.GROUP_FULL, f"the broker holds at most {self.limits.groups_max} queue groups")
        group = self._add(group_id, GroupRow(None, policy, False))
        try:
            yield group
        except CoreFailure:
            self._drop(group)
            raise

    async def _subscribe(self, group: QueueGroup, row: GroupRow, start: int) -> None:
        """`row`: the group's, with another subscription."""
        subscription = row.subscription
        assert subscription is not None
        made: list[QueuePartition] = []
        for name in subscription.topics:
            topic = self._topics.get(name)
            if topic is None or topic.internal:
                raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"topic {name!r} does not exist")
            for index, number in enumerate(topic.partitions):
                if (name, index) not in group.queues:
                    floor = await self._start_of(number, start)
                    made.append(QueuePartition(group.id, name, index, number, floor))
        before = group.row
        group.set_row(row)
        for queue in made:
            if self._engine_has(queue.partition):
                self._table.attach(group, queue)
        try:
            await self._store(group)
        except CoreFailure:
            group.set_row(before)  # so that the next member tries again
            self._detach(group, [queue for queue in made if group.queues.get((queue.topic, queue.index)) is queue])
            raise
        read = {*subscription.topics, topic_of(group.id)}
        self._detach(group, [queue for queue in group.queues.values() if queue.topic not in read])

    def _detach(self, group: QueueGroup, queues: Sequence[QueuePartition]) -> None:
        for queue in queues:
            self._table.detach(group, queue)
        self._log.flush()

    def _engine_has(self, partition: int) -> bool:
        return self._topics.owner(partition) is not None

    async def _start_of(self, partition: int, start: int) -> int:
        try:
            info = self._engine.info(partition)
            if start == START_EARLIEST:
                return info.log_start
            found = None if start == START_LATEST else await self._engine.offset_for_time(partition, start)
        except UnknownPartition:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, "the topic was deleted") from None
        return info.high_watermark if found is None else found.offset

    async def _store(self, group: QueueGroup, **changes: object) -> None:
        """The group's row, and what is to change in it: that happens when it is durable. Raises CoreFailure."""
        self._log.touch_busy(group)
        await self._log.put([(group_key(group.id), pack_group(group.row._replace(**changes)))])  # type: ignore[arg-type]
        group.set_row(group.row._replace(**changes))  # type: ignore[arg-type]

    async def share(self, group_id: str, topics: set[str], start: int, policy: Policy) -> QueueGroup:
        """A share group, whose members each read some of its topics: made, or made to read these too. Durable on
        return. Raises CoreFailure.
        """
        check_group_id(group_id)
        async with self._changing:
            with self._known_or_new(group_id, policy) as group:
                ours = group.subscription
                if ours is not None and not ours.same(Subscription(ours.topics)):
                    reads = ours.describe()
                    raise CoreFailure(
                        CoreError.CONTRADICTS_GROUP, f"group {group_id!r} cannot be shared so, it reads: {reads}"
                    )
                known = set() if ours is None else set(ours.topics)
                if not topics <= known:
                    subscription = Subscription(tuple(sorted(known | topics)))
                    subscription.check()
                    row = group.row._replace(subscription=subscription, is_share=True)
                    await self._subscribe(group, row, start)
                elif not group.is_share:
                    await self._store(group, is_share=True)
            return group

    async def unshare(self, group_id: str, topics: set[str]) -> None:
        """The group reads these topics no longer; their places are forgotten. Raises CoreFailure."""
        async with self._changing:
            group = self.find(group_id)
            ours = group.subscription
            if ours is None or not topics:
                return
            left = tuple(name for name in ours.topics if name not in topics)
            await self._store(group, subscription=replace(ours, topics=left) if left else None)
            self._detach(group, [queue for place, queue in group.queues.items() if place[0] in topics])

    def settle(self, group: QueueGroup, settles: Sequence[Settle], actor: Actor, done: SettleDone) -> None:
        """Answers `done(error, [])` or `done(None, one for each)` when it is durable."""
        answers = group.settle(settles, actor, self._now_ms())
        for place in {(one.topic, one.partition) for one in settles}:
            queue = group.queues.get(place)
            if queue is not None:
                self._log.touch(queue)
        self._log.wait(lambda error: done(None if error is None else CoreFailure(error), answers if not error else []))
        self._log.flush()

    def grant(self, group: QueueGroup, member: Member, messages: int, size_bytes: int) -> None:
        group.grant(member, messages, size_bytes)

    def leave(self, group: QueueGroup, member: Member, *, failed: bool = True) -> None:
        """It goes for good; `failed`: what it has counts as tried."""
        group.leave(member, self._now_ms(), failed=failed)

    def lost(self, group: QueueGroup, member: Member) -> None:
        group.lost(member, self._now_ms())

    # -- administration

    async def configure(self, group_id: str, change: Mapping[str, object]) -> QueueGroup:
        """Changes fields of a group's policy (`Policy`), or makes a group that has only that. Raises CoreFailure."""
        check_group_id(group_id)
        async with self._changing:
            with self._known_or_new(group_id, Policy()) as group:
                try:
                    policy = replace(group.policy, **change)  # type: ignore[arg-type]  # checked by Policy.check
                    policy.check()
                except TypeError as error:
                    raise CoreFailure(CoreError.INVALID_CONFIG, str(error)) from None
                await self._store(group, policy=policy)
            group.wake()
            return group

    async def pause(self, group_id: str, paused: bool) -> None:
        """A paused group is handed nothing; what its members have they may settle. Durable on return."""
        async with self._changing:
            group = self.find(group_id)
            await self._store(group, paused=paused)
            group.wake()

    def topics_of(self, group_id: str) -> Sequence[str]:
        """What a group reads. Raises CoreFailure."""
        subscription = self.find(group_id).subscription
        return () if subscription is None else subscription.topics

    async def reset(self, group_id: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Puts a group's floors at offsets, while it runs; receipts from before are void. Durable on return.

        Raises CoreFailure: UNKNOWN_TOPIC for a partition it does not read, STORE_FULL; then nothing has been changed.
        """
        async with self._room_for(group_id) as group:
            for place in offsets:
                if place not in group.queues:
                    reads = f"group {group_id!r} does not read {place[0]}/{place[1]}"
                    raise CoreFailure(CoreError.UNKNOWN_TOPIC, reads)
            for place, offset in offsets.items():
                queue = group.queues[place]
                info = self._engine.info(queue.partition)
                queue.reset(min(max(offset, info.log_start), info.high_watermark), self._dealer.last_lease)
                group.touch(queue)
        await self._wait_durable(group)

    @asynccontextmanager
    async def _room_for(self, group_id: str) -> AsyncIterator[QueueGroup]:
        """For changes that memory makes before the log, and that are not taken back: a write of nothing new says first
        whether there is room. Raises CoreFailure.
        """
        async with self._changing:
            group = self.find(group_id)
            await self._store(group)
            yield group

    async def _wait_durable(self, group: QueueGroup) -> None:
        """What memory has changed becomes durable; if the disk has become full just now, when there is room."""
        while True:
            self._log.touch_busy(group)
            group.wake()
            try:
                await self._log.put([])
            except CoreFailure as failure:
                if failure.error is not CoreError.STORE_FULL:
                    raise
                await trio.sleep(AGAIN_S)
            else:
                return

    async def resend(self, group_id: str, offsets: Sequence[int]) -> None:
        """Hands dead letters to the group again, as if they had not failed. Durable on return. Raises CoreFailure."""
        async with self._room_for(group_id) as group:
            self._dead_letters.check_resend(group_id, offsets)
            if group.is_share:
                messages = await self._dead_letters.origins(group, offsets)
            else:
                queue = self._dead_letters_queue(group)
                messages = [(queue, offset) for offset in offsets]
            for queue, offset in messages:
                if offset not in queue.failed and queue.is_done(offset):
                    queue.fail(offset, 0, self._now_ms(), "sent again", 0)
                group.touch(queue)
        await self._wait_durable(group)

    def _dead_letters_queue(self, group: QueueGroup) -> QueuePartition:
        topic = self._topics.get(topic_of(group.id))
        assert topic is not None
        place = (topic.name, 0)
        if place not in group.queues:
            self._table.attach(group, QueuePartition(group.id, *place, topic.partitions[0]).retry_only())
        return group.queues[place]

    async def delete(self, group_id: str) -> None:
        """Forgets a group without members, not its dead letters. Durable on return. Raises CoreFailure."""
        async with self._changing:
            group = self.find(group_id)
            if any(member.connected for member in group.members.values()):
                raise CoreFailure(CoreError.GROUP_NOT_EMPTY, f"group {group_id!r} has {len(group.members)} members")
            self._drop(group)
            await self._log.put([(group_key(group_id), None)])
