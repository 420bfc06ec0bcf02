"""How a classic group moves: join, sync, heartbeat, leave, and time running out (KIP-62, KIP-134, KIP-345, KIP-394,
KIP-814).

No I/O and no clock: `now_ms` is passed in, waiting requests are answered through callbacks, `Host` makes changes
durable and keeps deadlines.

* A rebalance begins when somebody joins, leaves, fails or changes its metadata. All members must join again; the ones
  that do not within the rebalance time-out are removed (static members stay until their session ends).
* The first rebalance of an empty group waits `initial_rebalance_delay_ms`, prolonged while members keep arriving.
* When all have joined, a generation begins: the leader gets the member list, everybody is to sync. The leader's
  assignment is made durable before anybody learns it. Members that never sync are removed after the rebalance time-out.
* A request that is asked again while the first still waits replaces it; the first is answered REBALANCE_IN_PROGRESS.

The rules are those of Kafka's GroupMetadataManager, state for state and error for error.
"""

from __future__ import annotations

from typing import Protocol

from core.errors import CoreError, CoreFailure
from core.group_classic import NEVER, ClassicGroup, Member, State, refused_join
from core.group_types import (
    Done,
    GroupLimits,
    JoinReply,
    JoinRequest,
    JoinResult,
    LeaveResult,
    LeavingMember,
    SyncReply,
    SyncRequest,
    SyncResult,
    generate_member_id,
)


class Host(Protocol):
    """What the machine asks of the table of groups."""

    @property
    def limits(self) -> GroupLimits: ...

    def wall_ms(self) -> int: ...

    def save(self, group: ClassicGroup, assignments: dict[str, bytes], done: Done) -> None:
        """Makes the group durable. `done(error)` comes later; a full disk is no error, the group is then saved when
        there is room.
        """

    def arm(self, group: ClassicGroup, deadline_ms: float) -> None:
        """Promises a `sweep` of the group at this time or soon after."""


def _nothing(error: CoreError | None) -> None:
    """An empty generation that could not be stored: the one before comes back after a restart and times out."""


class Rebalance:
    """The moves of classic groups. Holds no state of its own."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # -- join

    def join(self, group: ClassicGroup, request: JoinRequest, reply: JoinReply, now_ms: int) -> None:
        if not self._accepts(group, request.member_id):
            group.remove(request.member_id)
            reply(refused_join(CoreError.GROUP_FULL))
        elif not group.supports(request.protocol_type, request.protocols):
            reply(refused_join(CoreError.INCONSISTENT_GROUP_PROTOCOL, request.member_id))
        elif not request.member_id:
            self._join_new(group, request, reply, now_ms)
        else:
            self._join_known(group, request, reply, now_ms)

    def _accepts(self, group: ClassicGroup, member_id: str) -> bool:
        members_max = self._host.limits.members_max
        if group.state is State.EMPTY:
            return len(group.pending_joins) < members_max
        if group.state is State.PREPARING:
            member = group.members.get(member_id)
            return (member is not None and member.join_reply is not None) or group.awaiting_join < members_max
        return member_id in group.members or len(group.members) < members_max

    def _join_new(self, group: ClassicGroup, request: JoinRequest, reply: JoinReply, now_ms: int) -> None:
        instance_id = request.instance_id
        new_id = generate_member_id(request.client.id if instance_id is None else instance_id)
        if instance_id is not None and instance_id in group.static_members:
            self._return_static(group, request, new_id, reply, now_ms)
        elif instance_id is None and request.needs_member_id:
            if len(group.pending_joins) >= self._host.limits.members_max:
                reply(refused_join(CoreError.GROUP_FULL))
                return
            deadline_ms = now_ms + request.session_timeout_ms
            group.pending_joins[new_id] = deadline_ms
            self._host.arm(group, deadline_ms)
            reply(refused_join(CoreError.MEMBER_ID_REQUIRED, new_id))
        else:
            self._add(group, request, new_id, reply, now_ms)

    def _join_known(self, group: ClassicGroup, request: JoinRequest, reply: JoinReply, now_ms: int) -> None:
        if request.member_id in group.pending_joins and request.instance_id is None:
            self._add(group, request, request.member_id, reply, now_ms)
            return
        try:
            group.check_member(request.member_id, request.instance_id)
        except CoreFailure as failure:
            reply(refused_join(failure.error, request.member_id))
            return
        member = group.members[request.member_id]
        unchanged = member.protocols == request.protocols
        is_leader = group.leader == member.id
        if (group.state is State.COMPLETING and unchanged) or (
            group.state is State.STABLE and unchanged and not is_leader
        ):
            # It may have missed the answer to its join: tell it where the group stands.
            members = group.member_list() if is_leader and group.state is State.COMPLETING else []
            reply(self._joined(group, member)._replace(members=members))
        elif group.state is State.EMPTY:
            reply(refused_join(CoreError.UNKNOWN_MEMBER, request.member_id))
        else:
            self._update(group, member, request, reply)
            self._rebalance_or_complete(group, now_ms)

    def _add(self, group: ClassicGroup, request: JoinRequest, member_id: str, reply: JoinReply, now_ms: int) -> None:
        member = Member(
            member_id,
            request.instance_id,
            request.client,
            request.rebalance_timeout_ms,
            request.session_timeout_ms,
            request.protocol_type,
            request.protocols,
            is_new=True,
            join_reply=reply,
        )
        if group.state is State.PREPARING and group.previous_state is State.EMPTY:
            group.new_member_added = True
        group.add(member)
        # A new member does not know its id yet and sends no heartbeats; if nobody waits for the answer any more it
        # must not stay for ever.
        self._expect(group, member, now_ms, self._host.limits.new_member_join_timeout_ms)
        self._rebalance_or_complete(group, now_ms)

    def _update(self, group: ClassicGroup, member: Member, request: JoinRequest, reply: JoinReply) -> None:
        member.answer_join(refused_join(CoreError.REBALANCE_IN_PROGRESS, member.id))
        group.set_protocols(member, request.protocols)
        member.rebalance_timeout_ms = request.rebalance_timeout_ms
        member.session_timeout_ms = request.session_timeout_ms
        member.client = request.client
        member.join_reply = reply

    def _return_static(
        self, group: ClassicGroup, request: JoinRequest, new_id: str, reply: JoinReply, now_ms: int
    ) -> None:
        """A static member is back under a new id. In a stable group nothing else changes unless its protocols do
        (KIP-345).
        """
        assert request.instance_id is not None
        leader_before = group.leader or ""
        member = group.replace_static(request.instance_id, new_id)
        self._update(group, member, request, reply)
        self._expect(group, member, now_ms, member.session_timeout_ms)
        if group.state is State.COMPLETING:
            # The leader may be assigning to the old id right now.
            self.prepare(group, now_ms)
        elif group.state is State.STABLE and group.vote() != group.protocol:
            self.prepare(group, now_ms)
        elif group.state is State.STABLE:
            is_leader = group.leader == new_id

            def done(error: CoreError | None) -> None:
                if error is not None:
                    member.answer_join(refused_join(error))
                    return
                answer = self._joined(group, member)
                if not request.can_skip_assignment:
                    # An older client that finds itself leader would assign anew, so it is told the id it had before.
                    answer = answer._replace(leader=leader_before)
                elif is_leader:
                    answer = answer._replace(members=group.member_list(), skip_assignment=True)
                member.answer_join(answer)

            self._host.save(group, {m.id: m.assignment for m in group.members.values()}, done)
        else:
            self._complete_if_joined(group, now_ms)

    def _joined(self, group: ClassicGroup, member: Member) -> JoinResult:
        return JoinResult(
            None, member.id, group.generation, group.protocol_type, group.protocol, group.leader or "", False, []
        )

    # -- from preparing to the next generation

    def _rebalance_or_complete(self, group: ClassicGroup, now_ms: int) -> None:
        if group.state in (State.STABLE, State.COMPLETING, State.EMPTY):
            self.prepare(group, now_ms)
        else:
            self._complete_if_joined(group, now_ms)

    def prepare(self, group: ClassicGroup, now_ms: int) -> None:
        if group.state is State.COMPLETING:
            self._reset_assignments(group, CoreError.REBALANCE_IN_PROGRESS, now_ms)
        group.pending_syncs.clear()
        group.sync_deadline_ms = NEVER
        initial = group.state is State.EMPTY
        group.move(State.PREPARING, self._host.wall_ms())
        if initial:
            delay_ms = self._host.limits.initial_rebalance_delay_ms
            group.is_initial = True
            group.new_member_added = False
            group.initial_remaining_ms = max(group.rebalance_timeout_ms - delay_ms, 0)
            self._set_join_deadline(group, now_ms + delay_ms)
        elif group.all_joined:
            self._complete(group, now_ms)
        else:
            self._set_join_deadline(group, now_ms + group.rebalance_timeout_ms)

    def _set_join_deadline(self, group: ClassicGroup, deadline_ms: float) -> None:
        group.join_deadline_ms = deadline_ms
        self._host.arm(group, deadline_ms)

    def _complete_if_joined(self, group: ClassicGroup, now_ms: int) -> None:
        if group.state is State.PREPARING and not group.is_initial and group.all_joined:
            self._complete(group, now_ms)

    def _prolong_or_complete(self, group: ClassicGroup, now_ms: int) -> None:
        """The delay of an initial rebalance has passed."""
        if group.new_member_added and group.initial_remaining_ms > 0:
            group.new_member_added = False
            delay_ms = min(self._host.limits.initial_rebalance_delay_ms, group.initial_remaining_ms)
            group.initial_remaining_ms -= delay_ms
            self._set_join_deadline(group, now_ms + delay_ms)
        else:
            self._complete(group, now_ms)

    def _complete(self, group: ClassicGroup, now_ms: int) -> None:
        """Everybody who will join has: removes the others and begins the next generation."""
        group.join_deadline_ms = NEVER
        group.is_initial = False
        for member in [m for m in group.members.values() if m.join_reply is None and m.instance_id is None]:
            group.remove(member.id)
        if group.members and not group.elect_joined_leader():
            # Static members only, and none of them is back: wait for them until their sessions end.
            self._set_join_deadline(group, now_ms + group.rebalance_timeout_ms)
            return
        group.next_generation(self._host.wall_ms())
        if group.state is State.EMPTY:
            self._host.save(group, {}, _nothing)
            return
        group.pending_syncs.update(group.members)
        group.sync_deadline_ms = now_ms + group.rebalance_timeout_ms
        self._host.arm(group, group.sync_deadline_ms)
        for member in list(group.members.values()):
            members = group.member_list() if member.id == group.leader else []
            member.is_new = False
            self._expect(group, member, now_ms, member.session_timeout_ms)
            member.answer_join(self._joined(group, member)._replace(members=members))

    # -- sync

    def sync(self, group: ClassicGroup, request: SyncRequest, reply: SyncReply, now_ms: int) -> None:
        try:
            group.check_member(request.member_id, request.instance_id)
        except CoreFailure as failure:
            reply(SyncResult(failure.error))
            return
        member = group.members[request.member_id]
        if request.generation != group.generation:
            reply(SyncResult(CoreError.ILLEGAL_GENERATION))
        elif (request.protocol_type is not None and request.protocol_type != group.protocol_type) or (
            request.protocol is not None and request.protocol != group.protocol
        ):
            reply(SyncResult(CoreError.INCONSISTENT_GROUP_PROTOCOL))
        elif group.state is State.PREPARING:
            reply(SyncResult(CoreError.REBALANCE_IN_PROGRESS))
        elif group.state is State.COMPLETING:
            member.answer_sync(SyncResult(CoreError.REBALANCE_IN_PROGRESS))
            member.sync_reply = reply
            self._synced(group, member.id)
            if group.leader == member.id:
                self._assign(group, dict(request.assignments), now_ms)
        else:
            self._synced(group, member.id)
            reply(SyncResult(None, group.protocol_type, group.protocol, member.assignment))

    def _synced(self, group: ClassicGroup, member_id: str) -> None:
        group.pending_syncs.discard(member_id)
        if not group.pending_syncs:
            group.sync_deadline_ms = NEVER

    def _assign(self, group: ClassicGroup, assignments: dict[str, bytes], now_ms: int) -> None:
        generation = group.generation

        def done(error: CoreError | None) -> None:
            # The group may have moved on while the record was on its way.
            if group.state is not State.COMPLETING or group.generation != generation:
                return
            if error is not None:
                self._reset_assignments(group, error, now_ms)
                self.prepare(group, now_ms)
                return
            for member in group.members.values():
                member.assignment = assignments.get(member.id, b"")
            group.move(State.STABLE, self._host.wall_ms())
            self._propagate(group, None, now_ms)

        self._host.save(group, assignments, done)

    def _reset_assignments(self, group: ClassicGroup, error: CoreError, now_ms: int) -> None:
        for member in group.members.values():
            member.assignment = b""
        self._propagate(group, error, now_ms)

    def _propagate(self, group: ClassicGroup, error: CoreError | None, now_ms: int) -> None:
        """Answers everybody who waits for an assignment; their sessions begin anew, since waiting kept them alive."""
        protocol_type, protocol = (group.protocol_type, group.protocol) if error is None else (None, None)
        for member in list(group.members.values()):
            if member.answer_sync(SyncResult(error, protocol_type, protocol, member.assignment)):
                self._expect(group, member, now_ms, member.session_timeout_ms)

    # -- heartbeat and leave

    def heartbeat(
        self, group: ClassicGroup, member_id: str, instance_id: str | None, generation: int, now_ms: int
    ) -> CoreError | None:
        try:
            group.check_member(member_id, instance_id)
        except CoreFailure as failure:
            return failure.error
        if generation != group.generation:
            return CoreError.ILLEGAL_GENERATION
        self.heard(group, member_id, now_ms)
        return CoreError.REBALANCE_IN_PROGRESS if group.state is State.PREPARING else None

    def heard(self, group: ClassicGroup, member_id: str, now_ms: int) -> None:
        """A member has shown that it lives."""
        member = group.members.get(member_id)
        if member is not None:
            self._expect(group, member, now_ms, member.session_timeout_ms)

    def leave(self, group: ClassicGroup, leaving: list[LeavingMember], now_ms: int) -> LeaveResult:
        results = [(one, self._leave_one(group, one)) for one in leaving]
        if any(error is None for _, error in results):
            self._go_on_without(group, now_ms)
        return LeaveResult(None, results)

    def _leave_one(self, group: ClassicGroup, leaving: LeavingMember) -> CoreError | None:
        member_id = leaving.member_id
        if not member_id:  # an administrator names the instance alone
            if leaving.instance_id is None or leaving.instance_id not in group.static_members:
                return CoreError.UNKNOWN_MEMBER
            member_id = group.static_members[leaving.instance_id]
        elif member_id in group.pending_joins:
            group.remove(member_id)
            return None
        else:
            try:
                group.check_member(member_id, leaving.instance_id)
            except CoreFailure as failure:
                return failure.error
        self._dismiss(group, group.members[member_id])
        return None

    def _dismiss(self, group: ClassicGroup, member: Member) -> None:
        """Removes a member; whoever waits in its name is told to begin anew."""
        group.remove(member.id)
        member.answer_join(refused_join(CoreError.UNKNOWN_MEMBER))
        member.answer_sync(SyncResult(CoreError.UNKNOWN_MEMBER))

    def expel(self, group: ClassicGroup, now_ms: int) -> None:
        """Removes everybody: they are told with their next requests, and join anew."""
        for member in list(group.members.values()):
            self._dismiss(group, member)
        self._go_on_without(group, now_ms)

    def _go_on_without(self, group: ClassicGroup, now_ms: int) -> None:
        """Members have gone: the others rebalance, or need not wait for those any more."""
        if group.state in (State.STABLE, State.COMPLETING):
            self.prepare(group, now_ms)
        else:
            self._complete_if_joined(group, now_ms)

    # -- time

    def _expect(self, group: ClassicGroup, member: Member, now_ms: int, timeout_ms: int) -> None:
        member.deadline_ms = now_ms + timeout_ms
        self._host.arm(group, member.deadline_ms)

    def expect_all(self, group: ClassicGroup, now_ms: int) -> None:
        """Begins every member's session anew (after a start)."""
        for member in group.members.values():
            self._expect(group, member, now_ms, member.session_timeout_ms)

    def sweep(self, group: ClassicGroup, now_ms: int) -> float:
        """Lets run out what has run out; returns the next deadline."""
        for member_id in [m for m, deadline_ms in group.pending_joins.items() if deadline_ms <= now_ms]:
            group.remove(member_id)
            self._complete_if_joined(group, now_ms)
        for member in [m for m in group.members.values() if m.deadline_ms <= now_ms]:
            if member.keeps_itself_alive:
                member.deadline_ms = NEVER  # begins anew when it gets its answer
            elif member.id in group.members:
                self._dismiss(group, member)
                self._go_on_without(group, now_ms)
        if group.join_deadline_ms <= now_ms:
            if group.is_initial:
                self._prolong_or_complete(group, now_ms)
            else:
                self._complete(group, now_ms)
        if group.sync_deadline_ms <= now_ms:
            self._expire_syncs(group, now_ms)
        return min(
            min((m.deadline_ms for m in group.members.values()), default=NEVER),
            min(group.pending_joins.values(), default=NEVER),
            group.join_deadline_ms,
            group.sync_deadline_ms,
        )

    def _expire_syncs(self, group: ClassicGroup, now_ms: int) -> None:
        """Removes the members that joined the generation and never synced (KAFKA-10134 shows why)."""
        group.sync_deadline_ms = NEVER
        if group.state not in (State.COMPLETING, State.STABLE) or not group.pending_syncs:
            return
        for member_id in list(group.pending_syncs):
            member = group.members.get(member_id)
            if member is not None:
                self._dismiss(group, member)
        self.prepare(group, now_ms)
