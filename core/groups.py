"""The table of groups: finds the group a request is for, gives it to the machine of its type, and keeps time.

* A group that only holds offsets ("simple") has no record of its own: it is there because its offsets are.
* An empty group may change its type with the next request; one with members is converted while they work
  (`consumer_groups_migrate`).
* When the disk is full groups go on in memory (`group_saver`); commits are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from core.consumer_group import ConsumerGroup, ConsumerGroupView
from core.consumer_groups import ConsumerGroups
from core.consumer_groups_assign import DEFAULT_ASSIGNOR
from core.consumer_groups_heartbeat import HeartbeatReply, HeartbeatRequest
from core.consumer_groups_migrate import Migration
from core.errors import CoreError, CoreFailure
from core.group_classic import ClassicGroup, State, refused_join
from core.group_codec import classic_key
from core.group_deadlines import GroupDeadlines
from core.group_log import GroupLog
from core.group_rebalance import Rebalance
from core.group_replay import Group, GroupReplay
from core.group_saver import GroupSaver
from core.group_types import (
    Done,
    GroupLimits,
    GroupListing,
    GroupView,
    JoinReply,
    JoinRequest,
    LeaveReply,
    LeaveResult,
    LeavingMember,
    SyncReply,
    SyncRequest,
    SyncResult,
    TopicTable,
)
from core.state import Change


class Groups:
    """All groups of the broker."""

    def __init__(self, log: GroupLog, topics: TopicTable, limits: GroupLimits, wall_ms: Callable[[], int]) -> None:
        self._log = log
        self._topics = topics
        self._limits = limits
        self._wall_ms = wall_ms
        self._groups: dict[str, Group] = {}
        self.replay = GroupReplay(self._groups)
        self._deadlines = GroupDeadlines()
        self._now_ms = 0
        self._saver = GroupSaver(log, self._groups, lambda: self._now_ms, lambda: self.on_deadline())
        self._classic = Rebalance(self)
        self._consumer = ConsumerGroups(self)
        self._migration = Migration(self, self._classic, self._consumer)
        self.limits_of: Callable[[str], GroupLimits] = lambda group_id: self._limits  # set by who configures groups
        self.holds_offsets: Callable[[str], bool] = lambda group_id: False  # set by the table of offsets
        self.on_deadline: Callable[[], None] = lambda: None  # called when the next deadline has become earlier

    # -- for the machines, see what they ask in their modules

    @property
    def limits(self) -> GroupLimits:
        return self._limits

    @property
    def topics(self) -> TopicTable:
        return self._topics

    def wall_ms(self) -> int:
        return self._wall_ms()

    def save(self, group: ClassicGroup, assignments: dict[str, bytes], done: Done) -> None:
        self._saver.save(group, assignments, done)

    def write(self, group: ConsumerGroup, done: Done) -> None:
        self._saver.write(group, done)

    def exchange(self, group: Group, changes: list[Change]) -> None:
        self._saver.exchange(group, changes)

    def arm(self, group: Group, deadline_ms: float) -> None:
        if deadline_ms < group.armed_ms and self._deadlines.put(group, deadline_ms):
            self.on_deadline()

    def consumer_group(self, group_id: str, create: bool) -> ConsumerGroup:
        """The KIP-848 group; with `create` one is made, or made of a classic one. Raises CoreFailure: GROUP_NOT_FOUND;
        UNKNOWN_MEMBER for one that became classic behind the member's back (a reset, a session that ended), as the
        member then joins again, where it ends by GROUP_NOT_FOUND.
        """
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return group
        if not create and group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group_id} not found.")
        if not create:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER, f"Group {group_id} is not a consumer group.")
        if group is not None and not group.is_empty:
            return self._migration.upgrade(group, self._now_ms)
        if group is None:
            self._check_room()
        new = ConsumerGroup(group_id)
        if group is not None and group.stored:
            self.exchange(new, [(classic_key(group_id), None)])
        else:
            self._groups[group_id] = new
        return new

    def fenced(self, group: ConsumerGroup, leaving: set[str], now_ms: int) -> bool:
        if not group.only_classic_without(leaving):
            return False
        self._migration.downgrade(group, leaving, now_ms, rebalance=True)
        return True

    def _check_room(self) -> None:
        if len(self._groups) >= self._limits.groups_max:
            raise CoreFailure(CoreError.COORDINATOR_NOT_AVAILABLE, "the broker holds too many groups")

    # -- classic groups

    def join(self, request: JoinRequest, reply: JoinReply, now_ms: int) -> None:
        """Answers when the next generation begins, or at once when the member must not wait for one."""
        self._now_ms = now_ms
        if not request.group_id:
            reply(refused_join(CoreError.INVALID_GROUP_ID, request.member_id))
        elif (
            not self._limits.session_timeout_ms_min <= request.session_timeout_ms <= self._limits.session_timeout_ms_max
        ):
            reply(refused_join(CoreError.INVALID_SESSION_TIMEOUT, request.member_id))
        else:
            group = self._groups.get(request.group_id)
            if isinstance(group, ConsumerGroup) and not group.is_empty:
                self._migration.join(group, request, reply, now_ms)
                return
            try:
                classic = self._classic_group(request.group_id, create=not request.member_id)
            except CoreFailure as failure:
                reply(refused_join(failure.error, request.member_id))
                return
            self._classic.join(classic, request, reply, now_ms)

    def _classic_group(self, group_id: str, *, create: bool) -> ClassicGroup:
        """Raises CoreFailure(UNKNOWN_MEMBER) when there is none: who has a member id had a group."""
        group = self._groups.get(group_id)
        if isinstance(group, ClassicGroup):
            return group
        if group is None and not create:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER)
        if group is None:
            self._check_room()
        new = ClassicGroup(group_id, state_wall_ms=self._wall_ms())
        if group is None:
            self._groups[group_id] = new
        else:
            self.exchange(new, group.tombstones())
        return new

    def sync(self, request: SyncRequest, reply: SyncReply, now_ms: int) -> None:
        """Answers when the leader's assignment is durable."""
        self._now_ms = now_ms
        group = self._groups.get(request.group_id)
        if not request.group_id:
            reply(SyncResult(CoreError.INVALID_GROUP_ID))
        elif group is None or group.is_empty:
            reply(SyncResult(CoreError.UNKNOWN_MEMBER))
        elif isinstance(group, ConsumerGroup):
            self._migration.sync(group, request, reply, now_ms)
        else:
            self._classic.sync(group, request, reply, now_ms)

    def heartbeat(
        self, group_id: str, member_id: str, instance_id: str | None, generation: int, now_ms: int
    ) -> CoreError | None:
        self._now_ms = now_ms
        group = self._groups.get(group_id)
        if not group_id:
            return CoreError.INVALID_GROUP_ID
        if group is None:
            return CoreError.UNKNOWN_MEMBER
        machine = self._migration if isinstance(group, ConsumerGroup) else self._classic
        return machine.heartbeat(group, member_id, instance_id, generation, now_ms)  # type: ignore[arg-type]

    def leave(self, group_id: str, leaving: list[LeavingMember], reply: LeaveReply, now_ms: int) -> None:
        self._now_ms = now_ms
        group = self._groups.get(group_id)
        if not group_id:
            reply(LeaveResult(CoreError.INVALID_GROUP_ID))
        elif group is None:
            reply(LeaveResult(None, [(one, CoreError.UNKNOWN_MEMBER) for one in leaving]))
        elif isinstance(group, ConsumerGroup):
            self._migration.leave(group, leaving, reply, now_ms)
        else:
            reply(self._classic.leave(group, leaving, now_ms))

    # -- KIP-848 groups

    def consumer_heartbeat(self, request: HeartbeatRequest, reply: HeartbeatReply, now_ms: int) -> None:
        self._now_ms = now_ms
        self._consumer.heartbeat(request, reply, now_ms)

    def topics_changed(self) -> None:
        """Topics were made, grown or deleted: KIP-848 groups look again with their next heartbeat."""
        for group in self._groups.values():
            if isinstance(group, ConsumerGroup):
                group.topics_changed = True

    # -- administration

    def all(self) -> Collection[Group]:
        return self._groups.values()

    def listing(self, states: Collection[str], types: Collection[str]) -> list[GroupListing]:
        """The groups in these states and of these types (in any case of letters; empty: all)."""
        states = {state.lower() for state in states}
        types = {kind.lower() for kind in types}
        found = []
        for group in self._groups.values():
            state = group.state.value if isinstance(group, ClassicGroup) else group.state_name
            if (not states or state.lower() in states) and (not types or group.type in types):
                found.append(GroupListing(group.id, group.protocol_type or "", state, group.type))
        return found

    def describe(self, group_id: str) -> GroupView:
        """A classic group. Raises CoreFailure(GROUP_NOT_FOUND)."""
        group = self._groups.get(group_id)
        if not isinstance(group, ClassicGroup):
            kind = "not found" if group is None else "is not a classic group"
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group_id} {kind}.")
        return group.view()

    def describe_consumer(self, group_id: str) -> ConsumerGroupView:
        """A KIP-848 group. Raises CoreFailure(GROUP_NOT_FOUND)."""
        group = self._groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            kind = "not found" if group is None else "is not a consumer group"
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"Group {group_id} {kind}.")
        return group.view(DEFAULT_ASSIGNOR)

    def check_delete(self, group_id: str) -> list[Change]:
        """The changes that delete the group itself. Raises CoreFailure(GROUP_NOT_FOUND | GROUP_NOT_EMPTY)."""
        group = self._groups.get(group_id)
        if group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND)
        if not group.is_empty or (isinstance(group, ClassicGroup) and group.state is not State.EMPTY):
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        return self._tombstones(group)

    def _tombstones(self, group: Group) -> list[Change]:
        before = self._saver.deletions(group.id)
        if isinstance(group, ConsumerGroup):
            return [*before, *group.tombstones()]
        return [*before, (classic_key(group.id), None)] if group.stored else list(before)

    def deleted(self, group_id: str) -> None:
        """The deletion is durable; somebody may have come meanwhile."""
        group = self._groups.get(group_id)
        if group is not None and not _in_use(group):
            del self._groups[group_id]
            self._saver.forget(group_id)

    def forget_idle(self, group_ids: Iterable[str]) -> None:
        """Deletes empty groups that hold nothing any more."""
        for group_id in group_ids:
            group = self._groups.get(group_id)
            if group is not None and not _in_use(group):
                self._delete_idle(group_id, self._tombstones(group))

    def _delete_idle(self, group_id: str, changes: list[Change]) -> None:
        self._log.write(changes, lambda error: self.deleted(group_id) if error is None else None)

    def expel(self, group_id: str, now_ms: int) -> None:
        """Removes all members, who join anew when they hear of it. What they still commit is refused, until their
        sessions would have ended also what comes in nobody's name: aiokafka commits so before it joins again.
        """
        self._now_ms = now_ms
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            sessions_ms = group.session_timeout_ms(self.limits_of(group_id).consumer_session_timeout_ms)
            self._consumer.fence(group, set(group.members), now_ms, lambda error: None)
        elif group is not None:
            sessions_ms = group.session_timeout_ms
            self._classic.expel(group, now_ms)
        if group is not None:
            group.expelled_until_ms = max(group.expelled_until_ms, now_ms + sessions_ms)

    def subscribed(self, group_id: str) -> set[str]:
        """The topics that the group's members subscribe, as far as they are known."""
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return group.subscribed_topics()
        return set() if group is None else set(group.subscribed or ())

    # -- for offsets

    def check_commit(
        self,
        group_id: str,
        member_id: str,
        instance_id: str | None,
        generation: int,
        *,
        transactional: bool,
        knows_epochs: bool,
        now_ms: int,
    ) -> None:
        """Raises CoreFailure unless offsets may be committed. A commit keeps a classic member's session alive."""
        self._now_ms = now_ms
        group = self._groups.get(group_id)
        if group is None:
            if generation >= 0:
                known = knows_epochs and not transactional
                raise CoreFailure(CoreError.GROUP_NOT_FOUND if known else CoreError.ILLEGAL_GENERATION)
            self._check_room()
        elif generation < 0 and not transactional and now_ms < group.expelled_until_ms:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER)
        elif isinstance(group, ConsumerGroup):
            try:
                group.check_commit(
                    member_id, instance_id, generation, transactional=transactional, knows_epochs=knows_epochs
                )
            except CoreFailure as failure:
                if transactional and failure.error is CoreError.STALE_MEMBER_EPOCH:
                    raise CoreFailure(CoreError.ILLEGAL_GENERATION) from None
                raise
        else:
            group.check_commit(member_id, instance_id, generation, transactional=transactional)
            if not transactional and group.state in (State.STABLE, State.PREPARING):
                self._classic.heard(group, member_id, now_ms)

    def check_fetch(self, group_id: str, member_id: str | None, epoch: int) -> None:
        """Raises CoreFailure unless this member may fetch offsets."""
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            group.check_fetch(member_id, epoch)

    def check_offset_delete(self, group_id: str) -> Group:
        """Raises CoreFailure(GROUP_NOT_FOUND | GROUP_NOT_EMPTY)."""
        group = self._groups.get(group_id)
        if group is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND)
        if isinstance(group, ClassicGroup) and group.state is not State.EMPTY and not group.uses_consumer_protocol:
            raise CoreFailure(CoreError.GROUP_NOT_EMPTY)
        return group

    def ensure_simple(self, group_id: str) -> None:
        """Makes a simple group for offsets that have none."""
        if group_id not in self._groups:
            self._groups[group_id] = ClassicGroup(group_id, state_wall_ms=self._wall_ms())

    # -- time

    def next_deadline_ms(self) -> float:
        """When `sweep` is due at the latest."""
        return min(self._deadlines.next_ms, self._saver.due_ms)

    def sweep(self, now_ms: int) -> None:
        """Lets run out what has run out."""
        self._now_ms = now_ms
        while (group := self._deadlines.take_due(now_ms, self._groups)) is not None:
            if isinstance(group, ConsumerGroup):
                next_ms = self._consumer.sweep(group, now_ms)
            else:
                next_ms = self._classic.sweep(group, now_ms)
                self._forget_unused(group)
            if self._groups.get(group.id) is group:
                self.arm(group, next_ms)
        if self._saver.due_ms <= now_ms:
            self._saver.save_unsaved()

    def _forget_unused(self, group: ClassicGroup) -> None:
        """Somebody asked for a member id and never came back: nothing is left of the group."""
        if not _in_use(group) and not group.stored and not self.holds_offsets(group.id):
            del self._groups[group.id]

    # -- start and stop

    def stop(self) -> None:
        """Answers whoever waits for others, so that a stop need not: they look for their coordinator and ask again."""
        error = CoreError.COORDINATOR_NOT_AVAILABLE
        for group in self._groups.values():
            if isinstance(group, ClassicGroup):
                for member in list(group.members.values()):
                    member.answer_join(refused_join(error, member.id))
                    member.answer_sync(SyncResult(error))

    def start(self, now_ms: int) -> None:
        """All records are replayed: members' sessions begin anew."""
        self._now_ms = now_ms
        for group in self._groups.values():
            if isinstance(group, ConsumerGroup):
                group.dirty.clear()
                group.dirty_group = False
                self._consumer.expect_all(group, now_ms)
            else:
                self._classic.expect_all(group, now_ms)


def _in_use(group: Group) -> bool:
    """Whether anybody is in the group or about to be."""
    if isinstance(group, ConsumerGroup):
        return not group.is_empty
    return group.state is not State.EMPTY or bool(group.pending_joins)
