"""Kafka's share groups (KIP-932) over queue groups: who is in, and which partitions each is to fetch.

* Membership is by heartbeat, as in KIP-848: epoch 0 joins, -1 leaves, a member that falls silent is removed. It is not
  stored: after a restart members are unknown, are told so, and join again under their ids with the next heartbeat;
  their sessions (`share_sessions`), which hand out records, do not wait for that.
* Partitions are spread over the members as Kafka's simple assignor does: each partition has a member, each member a
  partition, and numbers differ by at most one; several members share a partition when there are more of them.
* A share group is a queue group marked as one: its place in the log, locks and dead letters are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from core.errors import CoreError, CoreFailure
from core.queue_group import QueueGroup
from core.queue_types import START_LATEST
from core.queues import Queues
from core.share_assignor import Partition, assign
from core.share_configs import ShareConfigs
from core.share_sessions import Place, ShareSessions
from core.topics import Topic, Topics

GROUPS_MAX: Final = 10_000
MEMBERS_MAX: Final = 1_000  # of one group
SWEEP_S: Final = 1

Assignment = dict[bytes, list[int]]  # topic id -> partitions


@dataclass(slots=True, eq=False)
class ShareMember:
    id: str
    client: str
    host: str
    rack: str | None = None
    topics: frozenset[str] = frozenset()
    epoch: int = 0
    epoch_before: int = 0
    deadline_ms: int = 0
    told: Assignment = field(default_factory=dict)  # the assignment as it was last told


@dataclass(slots=True)
class ShareGroup:
    id: str
    epoch: int = 0
    members: dict[str, ShareMember] = field(default_factory=dict)
    targets: dict[str, Assignment] | None = None  # member -> what it is to fetch; None: to be worked out

    def changed(self) -> None:
        """Members, or what they subscribe to, are others now."""
        self.epoch += 1
        self.targets = None

    @property
    def state(self) -> str:
        return "Stable" if self.members else "Empty"


class ShareGroups:
    """All share groups."""

    def __init__(self, queues: Queues, topics: Topics, configs: ShareConfigs, now_ms: Callable[[], int]) -> None:
        self.configs = configs
        self._queues = queues
        self._topics = topics
        self._now_ms = now_ms
        self._groups: dict[str, ShareGroup] = {}
        self.sessions = ShareSessions(queues, now_ms, configs.tune)
        topics.on_change(self._topic_changed)

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
            member = self._member(group_id, member_id)
            self._remove(self._groups[group_id], member)
            member.epoch = -1
            return member, None
        if epoch == 0:
            member = self._join(group_id, member_id, topics, client, host)
        else:
            member = self._member(group_id, member_id)
            if epoch not in (member.epoch, member.epoch_before):
                raise CoreFailure(CoreError.FENCED_MEMBER_EPOCH)
        group = self._groups[group_id]
        member.deadline_ms = self._now_ms() + self.configs.session_ms(group_id)
        member.rack = member.rack if rack is None else rack
        if topics is not None and member.topics != (wanted := frozenset(topics)):
            member.topics = wanted
            group.changed()
        try:
            assignment = (await self._targets_of(group)).get(member_id, {})
        except CoreFailure:
            if not member.epoch and group.members.get(member_id) is member:
                self._remove(group, member)  # it is told that it is not in
            raise
        told = assignment != member.told or topics is not None
        member.told = assignment
        if member.epoch != group.epoch:
            member.epoch_before, member.epoch = member.epoch, group.epoch
        return member, assignment if told else None

    async def _targets_of(self, group: ShareGroup) -> dict[str, Assignment]:
        """The assignments of all members, once the queue group reads, durably, what they subscribe to."""
        while group.targets is None:
            epoch = group.epoch
            wanted = {name for member in group.members.values() for name in member.topics}
            names = {one.name for one in map(self._topics.get, wanted) if one is not None and not one.internal}
            if names:
                await self._queues.share(group.id, names, self.configs.start(group.id), self.configs.policy(group.id))
            if group.epoch == epoch:
                group.targets = self._targets(group)
        return group.targets

    def _targets(self, group: ShareGroup) -> dict[str, Assignment]:
        readers: dict[str, list[str]] = {}
        for member in group.members.values():
            for name in sorted(member.topics):
                readers.setdefault(name, []).append(member.id)
        partitions: dict[str, list[Partition]] = {}
        for name in readers:
            topic = self._topics.get(name)
            if topic is not None and not topic.internal:
                partitions[name] = [(topic.id, index) for index in range(len(topic.partitions))]
        return assign(partitions, readers)

    def _topic_changed(self, topic: Topic) -> None:
        if self._topics.get(topic.name) is None:
            self.sessions.topic_deleted(topic.name)
        for group in self._groups.values():
            if any(topic.name in member.topics for member in group.members.values()):
                group.changed()

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
            member = group.members[member_id] = ShareMember(member_id, client, host)
            group.changed()
        return member

    def _member(self, group_id: str, member_id: str) -> ShareMember:
        """Raises CoreFailure(GROUP_NOT_FOUND | UNKNOWN_MEMBER): after a restart the latter, which says "join again"."""
        group = self.find(group_id)
        if group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group_id} not found.")
        member = group.members.get(member_id)
        if member is None:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER, f"Member {member_id} is not a member of group {group_id}.")
        return member

    def _remove(self, group: ShareGroup, member: ShareMember) -> None:
        del group.members[member.id]
        group.changed()
        if not group.members and not self._is_stored(group.id):
            del self._groups[group.id]  # it never read anything: nothing is left of it

    def _is_stored(self, group_id: str) -> bool:
        try:
            return self._queues.find(group_id).is_share
        except CoreFailure:
            return False

    def find(self, group_id: str) -> ShareGroup | None:
        """A group, also one that has no members, or none that are known here, but a place in the log."""
        known = self._groups.get(group_id)
        if known is not None:
            return known
        return ShareGroup(group_id) if self._is_stored(group_id) else None

    def all(self) -> list[ShareGroup]:
        stored = [group.id for group in self._queues.all() if group.is_share]
        others = [ShareGroup(group_id) for group_id in stored if group_id not in self._groups]
        return [*self._groups.values(), *others]

    def configured(self, group_id: str) -> None:
        """The group's configs have changed."""
        with suppress(CoreFailure):
            group = self._queues.find(group_id)
            if group.is_share:
                self.configs.tune(group)
                for queue in group.queues.values():
                    group.touch(queue)
                group.wake()

    def queue_group(self, group_id: str) -> QueueGroup:
        """Raises CoreFailure(GROUP_NOT_FOUND)."""
        return self._queues.find(group_id)

    async def delete(self, group_id: str) -> None:
        """Forgets a share group and its offsets. Raises CoreFailure(GROUP_NOT_FOUND | GROUP_NOT_EMPTY)."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        self.sessions.close_all(group_id)
        await self._queues.delete(group_id)
        self._groups.pop(group_id, None)

    async def reset(self, group_id: str, offsets: dict[Place, int]) -> None:
        """Sets where the group goes on. Raises CoreFailure (GROUP_NOT_EMPTY as Kafka, though it need not be)."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        names = {topic for topic, _ in offsets}
        await self._queues.share(group_id, names, START_LATEST, self.configs.policy(group_id))
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
