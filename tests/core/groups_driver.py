"""Drives groups and offsets without a store: a log that answers when told to, topics, a clock, and members of few
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.consumer_groups_heartbeat import HeartbeatRequest, HeartbeatResult
from core.errors import CoreError
from core.group_codec import KIND_CLASSIC, KIND_CONSUMER, KIND_MEMBER, KIND_OFFSET, KIND_PENDING, KIND_RESETS, Reader
from core.group_subscription import build_subscription
from core.group_types import (
    Client,
    Done,
    GroupLimits,
    JoinRequest,
    JoinResult,
    LeaveResult,
    LeavingMember,
    SyncRequest,
    SyncResult,
)
from core.groups import Groups
from core.offsets import CommitRequest, Offsets, OffsetToCommit
from core.state import Change

CLIENT = Client("test", "/127.0.0.1")
SESSION_MS = 10_000
REBALANCE_MS = 20_000
DELAY_MS = 3_000


class Topic(NamedTuple):
    name: str
    id: bytes
    partitions: tuple[int, ...]


class Topics:
    def __init__(self, **counts: int) -> None:
        self._topics: dict[str, Topic] = {}
        for name, count in counts.items():
            self.put(name, count)

    def put(self, name: str, count: int) -> None:
        self._topics[name] = Topic(name, name.encode().ljust(16, b"."), tuple(range(count)))

    def drop(self, name: str) -> None:
        del self._topics[name]

    def get(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def by_id(self, topic_id: bytes) -> Topic | None:
        return next((topic for topic in self._topics.values() if topic.id == topic_id), None)

    def all(self) -> list[Topic]:
        return list(self._topics.values())


class Log:
    """Stands in for GroupLog. `held`: writes wait for `release`; else they are durable at once. Keeps what compaction
    would.
    """

    def __init__(self) -> None:
        self.records: dict[bytes, bytes | None] = {}
        self.writes = 0
        self.held = False
        self.error: CoreError | None = None
        self._waiting: list[tuple[Sequence[Change], Done]] = []

    def write(self, changes: Sequence[Change], done: Done) -> None:
        if not changes:
            done(None)
            return
        self.writes += 1
        self._waiting.append((list(changes), done))
        if not self.held:
            self.release()

    def flush(self) -> None:
        pass

    def release(self, writes: int = 1_000_000) -> None:
        """Makes the writes that wait durable, or the first so many."""
        while self._waiting and writes:
            writes -= 1
            changes, done = self._waiting.pop(0)
            if self.error is None:
                self.put(changes)
            done(self.error)

    def put(self, changes: Sequence[Change]) -> None:
        for key, value in changes:
            self.records.pop(key, None)  # the newest record of a key stands last
            self.records[key] = value


class World:
    """Groups and offsets with their surroundings. `restart` gives what a new process would have."""

    def __init__(self, log: Log | None = None, topics: Topics | None = None, **limits: int) -> None:
        self.log = log or Log()
        self.topics = topics or Topics(t=4)
        self.now_ms = 1_000_000
        self.wall = 1_700_000_000_000
        self._ending: set[int] = set()
        self._limits = limits
        self.limits = GroupLimits(
            initial_rebalance_delay_ms=limits.pop("initial_rebalance_delay_ms", DELAY_MS), **limits
        )
        self.groups = Groups(self.log, self.topics, self.limits, lambda: self.wall)  # type: ignore[arg-type]
        self.offsets = Offsets(self.groups, self.log)  # type: ignore[arg-type]
        self._replay()

    def _replay(self) -> None:
        appliers = {
            KIND_CLASSIC: self.groups.replay.classic,
            KIND_CONSUMER: self.groups.replay.consumer,
            KIND_MEMBER: self.groups.replay.member,
            KIND_OFFSET: self.offsets.apply_offset,
            KIND_PENDING: self.offsets.apply_pending,
            KIND_RESETS: self.offsets.apply_resets,
        }
        for key, value in self.log.records.items():
            appliers[key[0]](Reader(key, 1), value)
        self.offsets.start()
        self.groups.start(self.now_ms)

    def restart(self) -> World:
        """The process dies here; what was not durable is gone."""
        log = Log()
        log.records = dict(self.log.records)
        world = World(log, self.topics)
        world.wall = self.wall
        world.limits = world.groups._limits = world.offsets._limits = self.limits
        return world

    def pass_time(self, ms: int) -> None:
        """Time passes; every deadline on the way is kept in order."""
        end = self.now_ms + ms
        while self.groups.next_deadline_ms() <= end:
            self.now_ms = max(self.now_ms, int(self.groups.next_deadline_ms()))
            self.groups.sweep(self.now_ms)
        self.now_ms = end
        self.wall += ms

    # -- classic

    def join(
        self,
        member_id: str = "",
        *,
        group: str = "g",
        instance: str | None = None,
        protocols: dict[str, bytes] | None = None,
        protocol_type: str = "consumer",
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        needs_member_id: bool = False,
        can_skip: bool = True,
    ) -> list[JoinResult]:
        """The answers so far: empty while the join waits."""
        answers: list[JoinResult] = []
        listed = list((protocols or {"range": subscription("t")}).items())
        request = JoinRequest(
            group,
            member_id,
            instance,
            CLIENT,
            session_ms,
            rebalance_ms,
            protocol_type,
            listed,
            needs_member_id,
            can_skip,
        )
        self.groups.join(request, answers.append, self.now_ms)
        return answers

    def sync(
        self,
        member_id: str,
        generation: int,
        assignments: dict[str, bytes] | None = None,
        *,
        group: str = "g",
        instance: str | None = None,
        protocol_type: str | None = "consumer",
        protocol: str | None = "range",
    ) -> list[SyncResult]:
        answers: list[SyncResult] = []
        listed = list((assignments or {}).items())
        request = SyncRequest(group, generation, member_id, instance, protocol_type, protocol, listed)
        self.groups.sync(request, answers.append, self.now_ms)
        return answers

    def beat(
        self, member_id: str, generation: int, *, group: str = "g", instance: str | None = None
    ) -> CoreError | None:
        return self.groups.heartbeat(group, member_id, instance, generation, self.now_ms)

    def leave(self, *members: str, group: str = "g", instance: str | None = None) -> LeaveResult:
        answers: list[LeaveResult] = []
        self.groups.leave(group, [LeavingMember(m, instance) for m in members], answers.append, self.now_ms)
        return answers[0]

    def form(self, count: int = 1, **options: object) -> tuple[list[str], int]:
        """A stable group of so many new members, the leader first, each assigned its own id: (member ids,
        generation).
        """
        joins = [self.join(**options) for _ in range(count)]  # type: ignore[arg-type]
        self.pass_time(2 * DELAY_MS)
        results = [join[0] for join in joins]
        assert all(result.error is None for result in results)
        members = sorted((r.member_id for r in results), key=lambda m: m != results[0].leader)
        group = str(options.get("group", "g"))
        protocol = results[0].protocol
        protocol_type = results[0].protocol_type
        for member in reversed(members):
            self.sync(
                member,
                results[0].generation,
                {m: m.encode() for m in members} if member == members[0] else None,
                group=group,
                protocol=protocol,
                protocol_type=protocol_type,
            )
        return members, results[0].generation

    # -- KIP-848

    def consumer_beat(
        self,
        member_id: str,
        epoch: int,
        *,
        group: str = "g",
        instance: str | None = None,
        topics: list[str] | None = None,
        regex: str | None = None,
        assignor: str | None = None,
        owned: dict[bytes, set[int]] | None = None,
        rebalance_ms: int = -1,
    ) -> HeartbeatResult:
        answers = self.consumer_ask(
            member_id,
            epoch,
            group=group,
            instance=instance,
            topics=topics,
            regex=regex,
            assignor=assignor,
            owned=owned,
            rebalance_ms=rebalance_ms,
        )
        return answers[0]

    def consumer_ask(
        self,
        member_id: str,
        epoch: int,
        *,
        group: str = "g",
        instance: str | None = None,
        topics: list[str] | None = None,
        regex: str | None = None,
        assignor: str | None = None,
        owned: dict[bytes, set[int]] | None = None,
        rebalance_ms: int = -1,
    ) -> list[HeartbeatResult]:
        answers: list[HeartbeatResult] = []
        if epoch == 0:
            owned = owned or {}
            rebalance_ms = REBALANCE_MS if rebalance_ms == -1 else rebalance_ms
            topics = ["t"] if topics is None and regex is None else topics
        request = HeartbeatRequest(
            group, member_id, epoch, instance, None, rebalance_ms, topics, regex, assignor, owned, CLIENT
        )
        self.groups.consumer_heartbeat(request, answers.append, self.now_ms)
        return answers

    # -- offsets

    def commit(
        self,
        offset: int,
        member_id: str = "",
        generation: int = -1,
        *,
        group: str = "g",
        instance: str | None = None,
        topic: str = "t",
        partition: int = 0,
        metadata: str | None = None,
        retention_ms: int = -1,
        knows_epochs: bool = True,
        producer: int | None = None,
        resets: int = -1,
    ) -> list[CoreError | None]:
        """The outcome once it is known: an empty list while it is not."""
        outcomes: list[CoreError | None] = []
        one = OffsetToCommit(topic, partition, offset, -1, metadata)
        request = CommitRequest(group, member_id, instance, generation, [one], retention_ms, knows_epochs, resets)

        def reply(error: CoreError | None, errors: list[CoreError | None]) -> None:
            outcomes.append(error or errors[0])

        if producer is None:
            self.offsets.commit(request, reply, self.now_ms)
        else:
            self.offsets.commit_pending(producer, request, reply, self.now_ms)
        return outcomes

    def committed(self, *, group: str = "g", topic: str = "t", partition: int = 0) -> int | None:
        found = self.offsets.fetch(group, None, -1).get((topic, partition))
        return None if found is None else found.offset

    def resets(self, group: str = "g") -> int:
        return self.offsets.resets(group)

    def reset(self, offset: int, *, group: str = "g", partition: int = 0) -> list[CoreError | None]:
        """As GroupCoordinator.reset; the outcome once it is known."""
        outcomes: list[CoreError | None] = []
        self.groups.expel(group, self.now_ms)
        self.offsets.reset(group, {("t", partition): offset}, outcomes.append)
        return outcomes

    def end_txn(self, producer: int, committed: bool) -> None:
        """Ends a producer's transaction; while one end is on its way to the log there is no other."""
        if producer in self._ending:
            return
        self._ending.add(producer)

        def done(error: CoreError | None) -> None:
            self._ending.discard(producer)
            self.offsets.complete_txn(producer, committed)

        self.log.write(self.offsets.pending_changes(producer, committed), done)


def subscription(*topics: str, version: int = 0, owned: dict[str, list[int]] | None = None) -> bytes:
    return build_subscription(version, list(topics), owned or {})
