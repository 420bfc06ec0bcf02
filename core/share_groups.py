"""Kafka's share groups (KIP-932) over queue groups: who is in, what it is to fetch, and what it has acquired.

* Membership is by heartbeat, as in KIP-848: epoch 0 joins, -1 leaves, a member that falls silent is removed. It is not
  stored: after a restart members are unknown and join again. Every member is assigned all partitions of what it
  subscribes; who gets which record is the queue group's business, which shares them out record by record.
* A *session* is one member's stream of fetches, numbered from 0 (open) by steps of 1; -1 closes it. While one is open
  the member is a member of the queue group, limited to the partitions that its session names. It has credit only while
  a fetch waits, so nothing is acquired for nobody.
* A record is acquired for the group's lock time. It is accepted (done), released (handed out again, which counts) or
  rejected (a dead letter, like one that was delivered `attempts_max` times). Whoever acknowledges what it has not
  acquired, or no longer has, is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from core.errors import CoreError, CoreFailure
from core.queue_group import Member, QueueGroup
from core.queue_types import START_LATEST, Handout, Policy, Settle, Settled, Verb
from core.queues import Queues
from core.topics import Topics
from core.tracing import Actor

SHARE_POLICY: Final = Policy(invisible_ms=30_000, attempts_max=5, backoff_ms=(0,), rejoin_ms=0)
SESSION_TIMEOUT_MS: Final = 45_000
HEARTBEAT_INTERVAL_MS: Final = 5_000
GROUPS_MAX: Final = 10_000
MEMBERS_MAX: Final = 1_000  # of one group
SWEEP_S: Final = 1

Place = tuple[str, int]  # topic, partition index
Assignment = dict[bytes, list[int]]  # topic id -> partitions


class Acknowledgement(NamedTuple):
    """What becomes of the offsets `first` to `last`, which the member has acquired."""

    place: Place
    first: int
    last: int
    verb: Verb


@dataclass(slots=True, eq=False)
class ShareMember:
    id: str
    group_id: str
    client: str
    host: str
    rack: str | None = None
    topics: frozenset[str] = frozenset()
    epoch: int = 0
    deadline_ms: int = 0
    told: Assignment | None = None  # the assignment as it was last told
    # -- the session
    session_epoch: int = -1  # that the next request must name; -1: no session
    places: set[Place] = field(default_factory=set)
    queue_member: Member | None = None
    handouts: list[Handout] = field(default_factory=list)
    acquired: dict[Place, dict[int, int]] = field(default_factory=dict)  # offset -> lease
    news: trio.Event = field(default_factory=trio.Event)

    @property
    def actor(self) -> Actor:
        return Actor("kafka", self.client, self.host.removeprefix("/"))

    def take(self, handouts: list[Handout]) -> None:
        """The queue group hands something out."""
        self.handouts += handouts
        for one in handouts:
            held = self.acquired.setdefault((one.topic, one.partition), {})
            for first, last in one.ranges:
                held.update(dict.fromkeys(range(first, last + 1), one.lease))
        self.news.set()


@dataclass(slots=True)
class ShareGroup:
    id: str
    epoch: int = 0
    members: dict[str, ShareMember] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "Stable" if self.members else "Empty"


class ShareGroups:
    """All share groups. `start_of(group id)` says where a new one begins (START_EARLIEST, START_LATEST or ms)."""

    def __init__(self, queues: Queues, topics: Topics, now_ms: Callable[[], int]) -> None:
        self._queues = queues
        self._topics = topics
        self._now_ms = now_ms
        self._groups: dict[str, ShareGroup] = {}
        self.start_of: Callable[[str], int] = lambda _: START_LATEST
        self.policy_of: Callable[[str], Policy] = lambda _: SHARE_POLICY

    async def run(self) -> None:
        """Removes members that have fallen silent, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            now_ms = self._now_ms()
            for group in list(self._groups.values()):
                for member in [one for one in group.members.values() if one.deadline_ms <= now_ms]:
                    self._remove(group, member)

    # -- membership

    async def heartbeat(
        self,
        group_id: str,
        member_id: str,
        epoch: int,
        topics: Iterable[str] | None,
        rack: str | None,
        client: str,
        host: str,
    ) -> tuple[ShareMember, Assignment | None]:
        """The member as it is now, and its assignment if it has changed. Raises CoreFailure."""
        if epoch == -1:
            member = self.member(group_id, member_id)
            self._remove(self._groups[group_id], member)
            member.epoch = -1
            return member, None
        if epoch == 0:
            member = self._join(group_id, member_id, topics, client, host)
        else:
            member = self.member(group_id, member_id)
            if epoch not in (member.epoch, member.epoch - 1):
                raise CoreFailure(CoreError.FENCED_MEMBER_EPOCH)
        group = self._groups[group_id]
        member.deadline_ms = self._now_ms() + SESSION_TIMEOUT_MS
        member.rack = member.rack if rack is None else rack
        if topics is not None:
            member.topics = frozenset(topics)
        wanted = {
            topic.id: list(range(len(topic.partitions)))
            for topic in map(self._topics.get, sorted(member.topics))
            if topic is not None and not topic.internal
        }
        if wanted != member.told or epoch == 0:
            names = {name for name in member.topics if self._topics.get(name) is not None}
            if names:
                await self._queues.share(group_id, names, self.start_of(group_id), self.policy_of(group_id))
            group.epoch += 1
            member.epoch = group.epoch
            member.told = wanted
            return member, wanted
        return member, None

    def _join(self, group_id: str, member_id: str, topics: Iterable[str] | None, client: str, host: str) -> ShareMember:
        if not group_id.strip() or not member_id or topics is None:
            raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, "a member that joins names its group, itself and topics")
        group = self._groups.get(group_id)
        if group is None:
            if len(self._groups) >= GROUPS_MAX:
                raise CoreFailure(CoreError.GROUP_FULL, f"the broker holds at most {GROUPS_MAX} share groups")
            group = self._groups[group_id] = ShareGroup(group_id)
        member = group.members.get(member_id)
        if member is None:
            if len(group.members) >= MEMBERS_MAX:
                raise CoreFailure(CoreError.GROUP_FULL, f"a share group has at most {MEMBERS_MAX} members")
            member = group.members[member_id] = ShareMember(member_id, group_id, client, host)
        return member

    def member(self, group_id: str, member_id: str) -> ShareMember:
        """Raises CoreFailure(GROUP_NOT_FOUND | UNKNOWN_MEMBER)."""
        group = self._groups.get(group_id)
        if group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group_id} not found.")
        member = group.members.get(member_id)
        if member is None:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER, f"Member {member_id} is not a member of group {group_id}.")
        return member

    def _remove(self, group: ShareGroup, member: ShareMember) -> None:
        group.members.pop(member.id, None)
        group.epoch += 1
        self.close_session(member)

    def find(self, group_id: str) -> ShareGroup | None:
        """A group, also one that has no members, or none that are known here, but a place in the log."""
        known = self._groups.get(group_id)
        if known is not None:
            return known
        try:
            self._queues.find(group_id)
        except CoreFailure:
            return None
        return ShareGroup(group_id)

    def all(self) -> list[ShareGroup]:
        others = [ShareGroup(group.id) for group in self._queues.all() if group.id not in self._groups]
        return [*self._groups.values(), *others]

    def queue_group(self, group_id: str) -> QueueGroup:
        """Raises CoreFailure(GROUP_NOT_FOUND)."""
        return self._queues.find(group_id)

    async def delete(self, group_id: str) -> None:
        """Forgets a share group and its offsets. Raises CoreFailure(GROUP_NOT_FOUND | GROUP_NOT_EMPTY)."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        await self._queues.delete(group_id)
        self._groups.pop(group_id, None)

    async def reset(self, group_id: str, offsets: dict[Place, int]) -> None:
        """Sets where the group goes on. Raises CoreFailure (GROUP_NOT_EMPTY as Kafka, though it need not be)."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        names = {topic for topic, _ in offsets}
        await self._queues.share(group_id, names, START_LATEST, self.policy_of(group_id))
        await self._queues.reset(group_id, offsets)

    async def forget_topics(self, group_id: str, names: set[str]) -> set[str]:
        """The group reads these no longer; returns those that it did. Raises CoreFailure(GROUP_NOT_EMPTY)."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        subscription = self._queues.find(group_id).subscription
        read = names & set(() if subscription is None else subscription.topics)
        await self._queues.unshare(group_id, read)
        return read

    # -- sessions

    def open_session(self, member: ShareMember) -> None:
        """A new session: what an earlier one had acquired is released. Raises CoreFailure(GROUP_NOT_FOUND)."""
        group = self._queues.find(member.group_id)
        self.close_session(member)
        member.session_epoch = 1
        member.queue_member = Member(member.id, member.actor, member.take)
        member.queue_member.places = member.places
        group.join(member.queue_member, (), self._now_ms())

    def close_session(self, member: ShareMember) -> None:
        """Releases what the member has acquired."""
        made, member.queue_member = member.queue_member, None
        member.session_epoch = -1
        member.places = set()
        member.handouts.clear()
        member.acquired.clear()
        member.news.set()
        if made is not None:
            try:
                self._queues.leave(self._queues.find(member.group_id), made)
            except CoreFailure:
                return  # the group was deleted

    def ask(self, member: ShareMember, records: int, size_bytes: int) -> None:
        """The member can take so much now; `news` is set when it gets something."""
        member.news = trio.Event()
        if member.queue_member is not None:
            self._queues.grant(self._queues.find(member.group_id), member.queue_member, records, size_bytes)

    def taken(self, member: ShareMember) -> list[Handout]:
        """Ends what `ask` began, and gives what has come."""
        if member.queue_member is not None:
            member.queue_member.credit_messages = member.queue_member.credit_bytes = 0
        handouts, member.handouts = member.handouts, []
        return handouts

    async def acknowledge(
        self, member: ShareMember, acknowledgements: Sequence[Acknowledgement]
    ) -> dict[Place, CoreError | None]:
        """The outcome for each partition, when it is durable: the first error there."""
        outcomes: dict[Place, CoreError | None] = {one.place: None for one in acknowledgements}
        settles: list[Settle] = []
        for one in acknowledgements:
            found = self._leased(member, one)
            if found is None:
                outcomes[one.place] = CoreError.RECEIPT_LATE
                continue
            settles += found
        if not settles:
            return outcomes
        answered = trio.Event()
        failure: list[CoreFailure | None] = []
        settled: list[Settled] = []

        def done(error: CoreFailure | None, answers: Sequence[Settled]) -> None:
            failure.append(error)
            settled.extend(answers)
            answered.set()

        self._queues.settle(self._queues.find(member.group_id), settles, member.actor, done)
        await answered.wait()
        if failure[0] is not None:
            return dict.fromkeys(outcomes, failure[0].error)
        for settle, answer in zip(settles, settled, strict=True):
            if answer is not Settled.DONE:
                outcomes[settle.topic, settle.partition] = CoreError.RECEIPT_LATE
        return outcomes

    def _leased(self, member: ShareMember, one: Acknowledgement) -> list[Settle] | None:
        """The acknowledgement cut into runs of one lease each; None when the member has not acquired all of it."""
        held = member.acquired.get(one.place, {})
        if one.last - one.first >= len(held):
            return None
        settles: list[Settle] = []
        at = one.first
        while at <= one.last:
            lease = held.get(at)
            if lease is None:
                return None
            end = at
            while end < one.last and held.get(end + 1) == lease:
                end += 1
            delay_ms = 0 if one.verb is Verb.NACK else -1
            settles.append(Settle(*one.place, lease, at, end, one.verb, delay_ms, "released"))
            at = end + 1
        if one.verb is not Verb.EXTEND:
            for offset in range(one.first, one.last + 1):
                del held[offset]
        return settles

    def forget_done(self, member: ShareMember) -> None:
        """Lets go of what lies below the group's floors: it is settled, whoever did it."""
        group = self._queues.find(member.group_id)
        for place, held in member.acquired.items():
            queue = group.queues.get(place)
            for offset in [one for one in held if queue is None or one < queue.floor]:
                del held[offset]
