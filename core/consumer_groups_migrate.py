"""A group changes its protocol while its members work (KIP-848, "upgrade" and "downgrade"), and the classic members
in the meantime.

When the first member that speaks KIP-848 comes to a classic consumer group, the group becomes a KIP-848 group and its
classic members stay in it: their joins, syncs and heartbeats are translated, the server assigns for all. When the last
KIP-848 member goes and classic ones remain, it becomes a classic group again and rebalances.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from core.consumer_group import NEVER, ClassicSide, ConsumerGroup, ConsumerMember, Epochs, MemberState
from core.consumer_groups import ConsumerGroups, ConsumerHost
from core.errors import CoreError, CoreFailure
from core.group_classic import ClassicGroup, Member, State, refused_join
from core.group_codec import classic_key
from core.group_rebalance import Rebalance
from core.group_subscription import (
    Subscription,
    TopicPartitions,
    build_assignment,
    parse_assignment,
    parse_subscription,
)
from core.group_types import (
    CONSUMER_PROTOCOL_TYPE,
    JoinReply,
    JoinRequest,
    JoinResult,
    LeaveReply,
    LeaveResult,
    LeavingMember,
    SyncReply,
    SyncRequest,
    SyncResult,
    generate_member_id,
)
from core.state import Change

# What these write into their user data is of no use to the server; any other assignor's might be.
_KNOWN_ASSIGNORS = {"range", "roundrobin", "sticky", "cooperative-sticky"}


class MigrationHost(ConsumerHost, Protocol):
    def wall_ms(self) -> int: ...

    def exchange(self, group: ClassicGroup | ConsumerGroup, changes: list[Change]) -> None:
        """Puts the group in the place of the one of the same id, and makes the changes durable."""


class Migration:
    """Conversions, and classic members of KIP-848 groups. Holds no state of its own."""

    def __init__(self, host: MigrationHost, classic: Rebalance, consumer: ConsumerGroups) -> None:
        self._host = host
        self._classic = classic
        self._consumer = consumer

    # -- conversion

    def upgrade(self, group: ClassicGroup, now_ms: int) -> ConsumerGroup:
        """The group with all its members as a KIP-848 group. Raises CoreFailure(GROUP_NOT_FOUND) when that cannot
        be.
        """
        if not group.uses_consumer_protocol or len(group.members) > self._host.limits.members_max:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group.id} is not a consumer group.")
        try:
            members = [self._upgraded(group, member) for member in group.members.values()]
        except ValueError as error:
            raise CoreFailure(
                CoreError.GROUP_NOT_FOUND, f"Cannot upgrade classic group {group.id} to consumer group: {error}."
            ) from None
        new = ConsumerGroup(group.id, epoch=group.generation, target_epoch=group.generation, dirty_group=True)
        for member in members:
            new.put(member)
            new.set_target(member.id, {t: set(partitions) for t, partitions in member.assigned.items()})
        for waiting in list(group.members.values()):
            waiting.answer_join(refused_join(CoreError.REBALANCE_IN_PROGRESS, waiting.id))
            waiting.answer_sync(SyncResult(CoreError.REBALANCE_IN_PROGRESS))
        group.move(State.DEAD, self._host.wall_ms())
        self._host.exchange(new, [(classic_key(group.id), None), *new.take_changes()])
        self._consumer.expect_all(new, now_ms)
        return new

    def _upgraded(self, group: ClassicGroup, member: Member) -> ConsumerMember:
        subscription = parse_subscription(member.protocols[0][1])
        if group.protocol not in _KNOWN_ASSIGNORS and subscription.user_data:
            raise ValueError(f"assignor {group.protocol} is not known to the server and keeps data of its own")
        assigned = parse_assignment(member.assignment) if member.assignment else {}
        return ConsumerMember(
            member.id,
            member.instance_id,
            subscription.rack,
            member.client,
            frozenset(subscription.topics),
            rebalance_timeout_ms=member.rebalance_timeout_ms,
            epoch=group.generation,
            previous_epoch=group.generation,
            assigned=self._epochs(assigned, group.generation),
            classic=ClassicSide(member.session_timeout_ms, tuple(member.protocols)),
        )

    def _epochs(self, partitions: TopicPartitions, epoch: int) -> Epochs:
        """By topic id, leaving out what does not exist."""
        result: Epochs = {}
        for name, indexes in partitions.items():
            topic = self._host.topics.get(name)
            if topic is not None and indexes:
                result[topic.id] = dict.fromkeys(indexes, epoch)
        return result

    def downgrade(self, group: ConsumerGroup, leaving: set[str], now_ms: int, *, rebalance: bool) -> None:
        """Makes it a classic group of the members that remain, all of which must speak the classic protocol."""
        new = ClassicGroup(group.id, State.STABLE, State.STABLE, group.epoch, CONSUMER_PROTOCOL_TYPE)
        new.state_wall_ms = self._host.wall_ms()
        for member in group.members.values():
            if member.id in leaving or member.classic is None:
                continue
            new.add(
                Member(
                    member.id,
                    member.instance_id,
                    member.client,
                    member.rebalance_timeout_ms,
                    member.classic.session_timeout_ms,
                    CONSUMER_PROTOCOL_TYPE,
                    list(member.classic.protocols),
                    self._assignment(member, group.targets.get(member.id, {})),
                )
            )
        new.protocol = new.vote()
        new.subscribed = new.subscribed_topics()
        new.stored = True
        record = new.encode({m.id: m.assignment for m in new.members.values()})
        self._host.exchange(new, [*group.tombstones(), (classic_key(group.id), record)])
        self._classic.expect_all(new, now_ms)
        if rebalance:
            self._classic.prepare(new, now_ms)

    def _assignment(self, member: ConsumerMember, partitions: Epochs | dict[bytes, set[int]]) -> bytes:
        assert member.classic is not None
        assigned: TopicPartitions = {}
        for topic_id, indexes in partitions.items():
            topic = self._host.topics.by_id(topic_id)
            if topic is not None:
                assigned[topic.name] = sorted(indexes)
        return build_assignment(parse_subscription(member.classic.protocols[0][1]).version, assigned)

    # -- classic members of a KIP-848 group

    def join(self, group: ConsumerGroup, request: JoinRequest, reply: JoinReply, now_ms: int) -> None:
        member_id = request.member_id or generate_member_id(request.instance_id or request.client.id)
        try:
            self._consumer.check_room(group, member_id)
            subscription = self._check_protocols(group, request)
            if not request.member_id and request.instance_id is None and request.needs_member_id:
                reply(refused_join(CoreError.MEMBER_ID_REQUIRED, member_id))
                return
            if request.instance_id is None:
                before = group.members.get(member_id) or ConsumerMember(member_id)
            else:
                new = not request.member_id
                before = self._consumer.find_static(group, member_id, request.instance_id, None, create=new)
        except CoreFailure as failure:
            reply(refused_join(failure.error, request.member_id))
            return
        member = replace(
            before,
            instance_id=request.instance_id,
            rack=subscription.rack,
            client=request.client,
            topics=frozenset(subscription.topics),
            regex="",
            assignor=None,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            classic=ClassicSide(request.session_timeout_ms, tuple(request.protocols)),
        )
        owned = {t: set(partitions) for t, partitions in self._epochs(subscription.owned, 0).items()}
        resubscribed = member.topics != before.topics
        member = self._consumer.update(group, before, member, owned, now_ms)
        timers = group.timers[member.id]
        timers.session_ms = now_ms + request.session_timeout_ms
        timers.join_ms = timers.rebalance_ms = NEVER
        timers.sync_ms = now_ms + request.rebalance_timeout_ms
        self._host.arm(group, timers.earliest())
        protocol = request.protocols[0][0]
        result = JoinResult(None, member.id, member.epoch, CONSUMER_PROTOCOL_TYPE, protocol)
        if group.only_classic_without(set()):
            # It took the place of the last member that spoke KIP-848.
            self.downgrade(group, set(), now_ms, rebalance=resubscribed)
            reply(result._replace(generation=group.epoch))
            return
        self._host.write(group, lambda error: reply(result if error is None else refused_join(error)))

    def _check_protocols(self, group: ConsumerGroup, request: JoinRequest) -> Subscription:
        """Raises CoreFailure(INCONSISTENT_GROUP_PROTOCOL)."""
        names = {name for name, _ in request.protocols}
        for member in group.members.values():
            if member.classic is not None and member.id != request.member_id:
                names &= {name for name, _ in member.classic.protocols}
        if request.protocol_type != CONSUMER_PROTOCOL_TYPE or not names:
            raise CoreFailure(CoreError.INCONSISTENT_GROUP_PROTOCOL)
        try:
            return parse_subscription(request.protocols[0][1])
        except ValueError:
            raise CoreFailure(CoreError.INCONSISTENT_GROUP_PROTOCOL) from None

    def _find(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None, generation: int
    ) -> tuple[ConsumerMember, ClassicSide]:
        """Raises CoreFailure."""
        member = group.member(member_id) if instance_id is None else group.static_member(instance_id, member_id)
        if member.classic is None:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER)
        if member.epoch != generation:
            raise CoreFailure(CoreError.ILLEGAL_GENERATION)
        return member, member.classic

    def sync(self, group: ConsumerGroup, request: SyncRequest, reply: SyncReply, now_ms: int) -> None:
        try:
            member, classic = self._find(group, request.member_id, request.instance_id, request.generation)
        except CoreFailure as failure:
            reply(SyncResult(failure.error))
            return
        protocol = classic.protocols[0][0]
        if request.protocol_type not in (None, CONSUMER_PROTOCOL_TYPE) or request.protocol not in (None, protocol):
            reply(SyncResult(CoreError.INCONSISTENT_GROUP_PROTOCOL))
        elif group.epoch > member.epoch and member.state is not MemberState.UNREVOKED:
            self._expect_join(group, member, now_ms)
            reply(SyncResult(CoreError.REBALANCE_IN_PROGRESS))
        else:
            timers = group.timers[member.id]
            timers.sync_ms = NEVER
            timers.session_ms = now_ms + classic.session_timeout_ms
            self._host.arm(group, timers.session_ms)
            assignment = self._assignment(member, member.assigned)
            reply(SyncResult(None, request.protocol_type, request.protocol, assignment))

    def heartbeat(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None, generation: int, now_ms: int
    ) -> CoreError | None:
        try:
            member, classic = self._find(group, member_id, instance_id, generation)
        except CoreFailure as failure:
            return failure.error
        timers = group.timers[member.id]
        timers.session_ms = now_ms + classic.session_timeout_ms
        self._host.arm(group, timers.session_ms)
        free = member.state is MemberState.UNRELEASED and not self._waits(group, member)
        if member.epoch < group.epoch or member.state is MemberState.UNREVOKED or free:
            self._expect_join(group, member, now_ms)
            return CoreError.REBALANCE_IN_PROGRESS
        return None

    def _waits(self, group: ConsumerGroup, member: ConsumerMember) -> bool:
        """Whether others still own something of the member's target."""
        return any(
            group.owners.get((topic_id, partition), member.id) != member.id
            for topic_id, partitions in group.targets.get(member.id, {}).items()
            for partition in partitions
        )

    def _expect_join(self, group: ConsumerGroup, member: ConsumerMember, now_ms: int) -> None:
        timers = group.timers[member.id]
        if timers.join_ms == NEVER:
            timers.join_ms = now_ms + member.rebalance_timeout_ms
            self._host.arm(group, timers.join_ms)

    def leave(self, group: ConsumerGroup, leaving: list[LeavingMember], reply: LeaveReply, now_ms: int) -> None:
        """As in Kafka, an administrator may also remove KIP-848 members by instance id this way."""
        results: list[tuple[LeavingMember, CoreError | None]] = []
        found: set[str] = set()
        for one in leaving:
            try:
                if one.instance_id is None:
                    found.add(group.member(one.member_id).id)
                else:
                    known = one.member_id or group.static_members.get(one.instance_id, "")
                    found.add(group.static_member(one.instance_id, known).id)
                results.append((one, None))
            except CoreFailure as failure:
                results.append((one, failure.error))
        self._consumer.fence(group, found, now_ms, lambda error: reply(LeaveResult(error, results)))
