"""The KIP-848 group protocol: one heartbeat does it all. No I/O and no clock, as in `group_rebalance`.

A heartbeat (1) creates or updates the member; a changed subscription, or changed topics, raises the group's epoch;
(2) computes a new target assignment when the group's epoch is ahead of it; (3) moves the member towards its target. A
member that fell silent, or that does not give up partitions within its rebalance time-out, is fenced: removed, its
partitions free for others.

The answer waits until every change it tells of is durable. The rules are those of Kafka's GroupMetadataManager.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from core.consumer_group import (
    LEAVE_EPOCH,
    NEVER,
    STATIC_LEAVE_EPOCH,
    ConsumerGroup,
    ConsumerMember,
    Epochs,
    MemberState,
    Timers,
)
from core.consumer_groups_assign import ASSIGNORS, DEFAULT_ASSIGNOR, MemberSpec
from core.consumer_groups_heartbeat import (
    HeartbeatReply,
    HeartbeatRequest,
    HeartbeatResult,
    check_epoch,
    check_heartbeat,
    refused_heartbeat,
)
from core.consumer_groups_reconcile import Owned, reconcile
from core.consumer_groups_regex import check_regex, resolve_regexes
from core.errors import CoreError, CoreFailure
from core.group_types import Done, GroupLimits, TopicTable


class ConsumerHost(Protocol):
    """What the machine asks of the table of groups."""

    @property
    def limits(self) -> GroupLimits: ...

    def limits_of(self, group_id: str) -> GroupLimits:
        """With what is configured for this group alone."""

    @property
    def topics(self) -> TopicTable: ...

    def consumer_group(self, group_id: str, create: bool) -> ConsumerGroup:
        """Raises CoreFailure(GROUP_NOT_FOUND). May convert a classic group."""

    def write(self, group: ConsumerGroup, done: Done) -> None:
        """Makes the group's changes durable; `done` at once when there are none."""

    def arm(self, group: ConsumerGroup, deadline_ms: float) -> None: ...

    def fenced(self, group: ConsumerGroup, leaving: set[str], now_ms: int) -> bool:
        """Whether the group was converted to a classic one instead, because only classic members remain."""


class ConsumerGroups:
    """The moves of KIP-848 groups. Holds no state of its own."""

    def __init__(self, host: ConsumerHost) -> None:
        self._host = host

    # -- heartbeat

    def heartbeat(self, request: HeartbeatRequest, reply: HeartbeatReply, now_ms: int) -> None:
        try:
            check_heartbeat(request)
            if request.epoch < 0:
                self._leave(request, reply, now_ms)
            else:
                self._beat(request, reply, now_ms)
        except CoreFailure as failure:
            reply(refused_heartbeat(failure))

    def _beat(self, request: HeartbeatRequest, reply: HeartbeatReply, now_ms: int) -> None:
        joining = request.epoch == 0
        if request.regex:
            check_regex(request.regex)
        group = self._host.consumer_group(request.group_id, joining)
        member_id = request.member_id or str(uuid.uuid4())
        self.check_room(group, member_id)
        before = self._find(group, member_id, request, joining)
        given = request.topics is not None
        member = replace(
            before,
            instance_id=before.instance_id if request.instance_id is None else request.instance_id,
            rack=before.rack if request.rack is None else request.rack,
            rebalance_timeout_ms=before.rebalance_timeout_ms
            if request.rebalance_timeout_ms == -1
            else request.rebalance_timeout_ms,
            assignor=before.assignor if request.assignor is None else request.assignor,
            topics=frozenset(request.topics or ()) if given else before.topics,
            regex=before.regex if request.regex is None else request.regex,
            client=request.client,
            classic=None,
        )
        member = self.update(group, before, member, request.owned, now_ms)
        timers = group.timers[member.id]
        timers.session_ms = now_ms + self._host.limits_of(group.id).consumer_session_timeout_ms
        timers.join_ms = timers.sync_ms = NEVER
        self._host.arm(group, timers.earliest())
        full = (
            request.rebalance_timeout_ms != -1
            and (request.topics is not None or request.regex is not None)
            and request.owned is not None
        )
        changed = _partitions(member.assigned) != _partitions(before.assigned)
        assignment = member.assigned if joining or full or changed else None
        interval_ms = self._host.limits_of(group.id).consumer_heartbeat_interval_ms
        result = HeartbeatResult(None, "", member.id, member.epoch, interval_ms, assignment)
        self._answer(group, result, reply)

    def _answer(self, group: ConsumerGroup, result: HeartbeatResult, reply: HeartbeatReply) -> None:
        def done(error: CoreError | None) -> None:
            reply(result if error is None else HeartbeatResult(error))

        self._host.write(group, done)

    def check_room(self, group: ConsumerGroup, member_id: str) -> None:
        """Raises CoreFailure(GROUP_FULL) unless the member is in or there is room for it."""
        members_max = self._host.limits.members_max
        if member_id not in group.members and len(group.members) >= members_max:
            raise CoreFailure(
                CoreError.GROUP_FULL,
                f"The consumer group has reached its maximum capacity of {members_max} members.",
            )

    def _find(self, group: ConsumerGroup, member_id: str, request: HeartbeatRequest, joining: bool) -> ConsumerMember:
        """The member that beats, a new one if it joins. Raises CoreFailure."""
        if request.instance_id is not None:
            return self.find_static(group, member_id, request.instance_id, request, create=joining)
        if joining and member_id not in group.members:
            return ConsumerMember(member_id)
        member = group.member(member_id)
        check_epoch(member, request)
        return member

    def find_static(
        self,
        group: ConsumerGroup,
        member_id: str,
        instance_id: str,
        request: HeartbeatRequest | None,
        *,
        create: bool,
    ) -> ConsumerMember:
        """The static member, under its new id if it is back. `request` is None for a classic member. Raises
        CoreFailure.
        """
        if not create:
            member = group.static_member(instance_id, member_id)
            if request is not None:
                check_epoch(member, request)
            return member
        known_id = group.static_members.get(instance_id)
        if known_id is None:
            return group.members.get(member_id) or ConsumerMember(member_id)
        known = group.members[known_id]
        if request is not None and known.classic is None and known.epoch != STATIC_LEAVE_EPOCH:
            raise CoreFailure(
                CoreError.UNRELEASED_INSTANCE,
                f"Static member {member_id} with instance id {instance_id} cannot join the group because the "
                f"instance id is owned by {known_id} member.",
            )
        if known_id == member_id:
            returned = replace(known, epoch=0, previous_epoch=0)
            group.put(returned)
            return returned
        target = group.targets.get(known_id, {})
        group.remove(known_id)
        returned = replace(known, id=member_id, epoch=0, previous_epoch=0)
        group.put(returned)
        group.set_target(member_id, target)
        return returned

    def update(
        self, group: ConsumerGroup, before: ConsumerMember, member: ConsumerMember, owned: Owned | None, now_ms: int
    ) -> ConsumerMember:
        """Steps 1 to 3 of a heartbeat: takes the member as it now is, and returns it as it comes out."""
        resubscribed = member.topics != before.topics or member.regex != before.regex
        is_new = member.id not in group.members
        if member != before or is_new:
            group.put(member)
        self._refresh(group, resubscribed or is_new or group.epoch == 0, member, now_ms)
        if group.epoch > group.target_epoch:
            self._retarget(group)
        moved = reconcile(group, member, self.topic_ids(group.topics_of(member)), owned, strip=resubscribed)
        if moved is not member:
            group.put(moved)
            if moved.classic is None:
                self._watch_revocation(group, moved, now_ms)
        return moved

    def _watch_revocation(self, group: ConsumerGroup, member: ConsumerMember, now_ms: int) -> None:
        timers = group.timers[member.id]
        if member.state is MemberState.UNREVOKED:
            timers.rebalance_ms = now_ms + member.rebalance_timeout_ms
            timers.rebalance_epoch = member.epoch
            self._host.arm(group, timers.rebalance_ms)
        else:
            timers.rebalance_ms = NEVER

    # -- epochs and targets

    def _refresh(self, group: ConsumerGroup, bump: bool, member: ConsumerMember, now_ms: int) -> None:
        """Resolves regular expressions, and raises the epoch when subscriptions or topics have changed."""
        if member.regex and member.regex not in group.regexes:
            group.regexes[member.regex] = resolve_regexes([member.regex], self._host.topics.all())[member.regex]
        if group.topics_changed:
            if not group.regexes:
                group.topics_changed = False
            elif now_ms >= group.regexes_resolved_ms + self._host.limits.regex_refresh_interval_ms:
                group.regexes.update(resolve_regexes(group.regexes, self._host.topics.all()))
                group.regexes_resolved_ms = now_ms
                group.topics_changed = False
        elif not bump:
            return
        topics_hash = self._topics_hash(group)
        if bump or topics_hash != group.topics_hash:
            group.raise_epoch(topics_hash)

    def _topics_hash(self, group: ConsumerGroup) -> int:
        parts = []
        for name in sorted(group.subscribed_topics()):
            topic = self._host.topics.get(name)
            if topic is not None:
                parts.append(topic.id + len(topic.partitions).to_bytes(4, "big") + name.encode())
        return zlib.crc32(b"".join(parts)) if parts else 0

    def topic_ids(self, names: Iterable[str]) -> set[bytes]:
        """The ids of those that exist."""
        return {topic.id for topic in map(self._host.topics.get, names) if topic is not None}

    def _retarget(self, group: ConsumerGroup) -> None:
        """Computes the target assignment of the group's epoch."""
        specs: dict[str, MemberSpec] = {}
        ids_of: dict[frozenset[str], set[bytes]] = {}
        for member in group.members.values():
            names = group.topics_of(member)
            if names not in ids_of:
                ids_of[names] = self.topic_ids(names)
            specs[member.id] = MemberSpec(member.instance_id, ids_of[names], group.targets.get(member.id, {}))
        counts = {}
        for topic_id in set().union(*ids_of.values()):
            topic = self._host.topics.by_id(topic_id)
            if topic is not None:
                counts[topic_id] = len(topic.partitions)
        assignor = ASSIGNORS[group.preferred_assignor(DEFAULT_ASSIGNOR)]
        for member_id, target in assignor(specs, counts).items():
            group.set_target(member_id, target)
        group.target_epoch = group.epoch
        group.dirty_group = True

    # -- leaving

    def _leave(self, request: HeartbeatRequest, reply: HeartbeatReply, now_ms: int) -> None:
        group = self._host.consumer_group(request.group_id, False)
        if request.instance_id is None:
            member = group.member(request.member_id)
        else:
            member = group.static_member(request.instance_id, request.member_id)
            if request.epoch == STATIC_LEAVE_EPOCH:
                group.put(replace(member, epoch=STATIC_LEAVE_EPOCH, revoking={}))
                self._answer(group, HeartbeatResult(None, "", member.id, STATIC_LEAVE_EPOCH), reply)
                return
        self.fence(group, {member.id}, now_ms, lambda error: reply(HeartbeatResult(error, "", member.id, LEAVE_EPOCH)))

    def fence(self, group: ConsumerGroup, leaving: set[str], now_ms: int, done: Done) -> None:
        """Removes members; the others learn of their new targets with their next heartbeats."""
        if not leaving:
            done(None)
            return
        if self._host.fenced(group, leaving, now_ms):
            done(None)
            return
        for member_id in leaving:
            group.remove(member_id)
        group.raise_epoch(self._topics_hash(group))
        self._host.write(group, done)

    # -- time

    def expect_all(self, group: ConsumerGroup, now_ms: int) -> None:
        """Begins every member's session anew (after a start)."""
        for member in group.members.values():
            timers = group.timers.setdefault(member.id, Timers())
            timeout_ms = self._host.limits_of(group.id).consumer_session_timeout_ms
            timers.session_ms = now_ms + (timeout_ms if member.classic is None else member.classic.session_timeout_ms)
            if member.classic is None:
                self._watch_revocation(group, member, now_ms)
            self._host.arm(group, timers.earliest())

    def sweep(self, group: ConsumerGroup, now_ms: int) -> float:
        """Fences members whose time is up; returns the next deadline."""
        late: set[str] = set()
        for member_id, timers in group.timers.items():
            if timers.rebalance_ms <= now_ms:
                if group.members[member_id].epoch == timers.rebalance_epoch:
                    late.add(member_id)
                timers.rebalance_ms = NEVER
            if min(timers.session_ms, timers.join_ms, timers.sync_ms) <= now_ms:
                late.add(member_id)
        self.fence(group, late, now_ms, lambda error: None)
        return min((timers.earliest() for timers in group.timers.values()), default=NEVER)


def _partitions(assigned: Epochs) -> dict[bytes, set[int]]:
    return {topic_id: set(partitions) for topic_id, partitions in assigned.items()}
