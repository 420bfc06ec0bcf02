"""A classic group: its members, its state, the protocol they agree on, and its record in the log.

States and the moves between them (everything else is refused by `move`):

    EMPTY      -> PREPARING (first member) | DEAD
    PREPARING  -> COMPLETING (all have joined or time is up) | EMPTY (nobody is left) | DEAD
    COMPLETING -> STABLE (the leader's assignment is durable) | PREPARING (somebody came, left or failed) | DEAD
    STABLE     -> PREPARING | DEAD

How a group gets from one to the next is in `group_rebalance`.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, field

from core.errors import CoreError, CoreFailure
from core.group_codec import VERSION, Reader, Writer
from core.group_subscription import parse_subscription
from core.group_types import (
    CONSUMER_PROTOCOL_TYPE,
    NO_GENERATION,
    Client,
    GroupView,
    JoinedMember,
    JoinReply,
    JoinResult,
    MemberView,
    SyncReply,
    SyncResult,
)

NEVER = math.inf


class State(enum.Enum):
    """Values are the names that Kafka's tools know."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


_MOVES = {
    State.EMPTY: {State.PREPARING, State.DEAD},
    State.PREPARING: {State.COMPLETING, State.EMPTY, State.DEAD},
    State.COMPLETING: {State.STABLE, State.PREPARING, State.DEAD},
    State.STABLE: {State.PREPARING, State.DEAD},
    State.DEAD: set(),
}


@dataclass(slots=True)
class Member:
    """A member of a classic group. `deadline_ms`: when its session ends unless it is heard before."""

    id: str
    instance_id: str | None
    client: Client
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocol_type: str
    protocols: list[tuple[str, bytes]]
    assignment: bytes = b""
    is_new: bool = False
    join_reply: JoinReply | None = None
    sync_reply: SyncReply | None = None
    deadline_ms: float = NEVER

    def metadata(self, protocol: str | None) -> bytes:
        """Empty when the member does not support the protocol."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def answer_join(self, result: JoinResult) -> None:
        reply, self.join_reply = self.join_reply, None
        if reply is not None:
            reply(result)

    def answer_sync(self, result: SyncResult) -> bool:
        reply, self.sync_reply = self.sync_reply, None
        if reply is None:
            return False
        reply(result)
        return True

    @property
    def keeps_itself_alive(self) -> bool:
        """A member that waits for the group need not send heartbeats; a new one has a time-out of its own."""
        return not self.is_new and (self.join_reply is not None or self.sync_reply is not None)


@dataclass(slots=True)
class ClassicGroup:
    """A classic group. The fields are changed by `group_rebalance` only."""

    id: str
    state: State = State.EMPTY
    previous_state: State = State.EMPTY
    generation: int = 0
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str | None = None
    members: dict[str, Member] = field(default_factory=dict)
    supporters: Counter[str] = field(default_factory=Counter)  # protocol -> members that support it
    static_members: dict[str, str] = field(default_factory=dict)  # instance id -> member id
    pending_joins: dict[str, float] = field(default_factory=dict)  # id given out, member not back yet -> deadline
    pending_syncs: set[str] = field(default_factory=set)
    subscribed: set[str] | None = None  # None: unknown
    state_wall_ms: int = -1  # when it entered its state, by the wall clock (offsets expire by it); -1 unknown
    new_member_added: bool = False  # prolongs an initial rebalance
    join_deadline_ms: float = NEVER
    initial_remaining_ms: int = 0
    is_initial: bool = False  # join_deadline_ms belongs to an initial rebalance
    sync_deadline_ms: float = NEVER
    armed_ms: float = NEVER  # the earliest deadline that the sweep knows of
    stored: bool = False  # has a record in the log
    expelled_until_ms: float = 0  # those whom a reset removed may not have heard of it

    # -- questions

    @property
    def type(self) -> str:
        return "classic"

    @property
    def is_empty(self) -> bool:
        return not self.members

    @property
    def uses_consumer_protocol(self) -> bool:
        return self.protocol_type == CONSUMER_PROTOCOL_TYPE

    @property
    def awaiting_join(self) -> int:
        return sum(member.join_reply is not None for member in self.members.values())

    @property
    def all_joined(self) -> bool:
        return not self.pending_joins and all(member.join_reply is not None for member in self.members.values())

    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    @property
    def session_timeout_ms(self) -> int:
        return max((member.session_timeout_ms for member in self.members.values()), default=0)

    def candidates(self) -> set[str]:
        """The protocols that every member supports."""
        return {name for name, count in self.supporters.items() if count == len(self.members)}

    def supports(self, protocol_type: str, protocols: list[tuple[str, bytes]]) -> bool:
        """Whether who joins with these can be in one group with the members; where none are left, anybody can."""
        if not self.members:
            return bool(protocol_type) and bool(protocols)
        return self.protocol_type == protocol_type and not self.candidates().isdisjoint(name for name, _ in protocols)

    def vote(self) -> str:
        """The protocol most members put first among those that all support; a tie goes to the one voted for first."""
        candidates = self.candidates()
        votes: Counter[str] = Counter()
        for member in self.members.values():
            votes[next(name for name, _ in member.protocols if name in candidates)] += 1
        return votes.most_common(1)[0][0]

    def check_member(self, member_id: str, instance_id: str | None) -> None:
        """Raises CoreFailure unless the member is in the group, and is the one its instance id stands for."""
        if instance_id is not None:
            known = self.static_members.get(instance_id)
            if known is None:
                raise CoreFailure(CoreError.UNKNOWN_MEMBER)
            if known != member_id:
                raise CoreFailure(CoreError.FENCED_INSTANCE)
        if member_id not in self.members:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER)

    def check_commit(self, member_id: str, instance_id: str | None, generation: int, *, transactional: bool) -> None:
        """Whether offsets may be committed now. Raises CoreFailure (as Kafka's ClassicGroup.validateOffsetCommit)."""
        if generation < 0 and self.state is State.EMPTY:
            return
        if generation >= 0 or member_id or instance_id is not None:
            self.check_member(member_id, instance_id)
            if generation != self.generation:
                raise CoreFailure(CoreError.ILLEGAL_GENERATION)
        elif not transactional and self.state is not State.EMPTY:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER)
        if not transactional and self.state is State.COMPLETING:
            raise CoreFailure(CoreError.REBALANCE_IN_PROGRESS)

    def is_subscribed(self, topic: str) -> bool:
        return self.uses_consumer_protocol if self.subscribed is None else topic in self.subscribed

    def member_list(self) -> list[JoinedMember]:
        """What the leader gets to work with."""
        return [JoinedMember(m.id, m.instance_id, m.metadata(self.protocol)) for m in self.members.values()]

    def view(self) -> GroupView:
        stable = self.state is State.STABLE
        members = [
            MemberView(
                m.id,
                m.instance_id,
                m.client,
                m.metadata(self.protocol) if stable else b"",
                m.assignment if stable else b"",
            )
            for m in self.members.values()
        ]
        protocol = self.protocol if stable else None
        return GroupView(self.id, self.state.value, self.protocol_type or "", protocol or "", members)

    # -- changes

    def move(self, state: State, wall_ms: int) -> None:
        if state not in _MOVES[self.state]:
            raise AssertionError(f"group {self.id!r} cannot go from {self.state.value} to {state.value}")
        self.previous_state, self.state, self.state_wall_ms = self.state, state, wall_ms

    def add(self, member: Member) -> None:
        if not self.members:
            self.protocol_type = member.protocol_type
        if self.leader is None:
            self.leader = member.id
        self.members[member.id] = member
        self.expelled_until_ms = 0
        self.supporters.update(set(dict(member.protocols)))
        if member.instance_id is not None:
            self.static_members[member.instance_id] = member.id
        self.pending_joins.pop(member.id, None)

    def set_protocols(self, member: Member, protocols: list[tuple[str, bytes]]) -> None:
        self.supporters.subtract(set(dict(member.protocols)))
        member.protocols = protocols
        self.supporters.update(set(dict(protocols)))

    def remove(self, member_id: str) -> None:
        """Forgets a member or a pending one; if it led, the next one does."""
        member = self.members.pop(member_id, None)
        if member is not None:
            self.supporters.subtract(set(dict(member.protocols)))
            self.supporters += Counter()  # drops what nobody supports any more
            if member.instance_id is not None:
                self.static_members.pop(member.instance_id, None)
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)
        self.pending_joins.pop(member_id, None)
        self.pending_syncs.discard(member_id)

    def replace_static(self, instance_id: str, new_id: str) -> Member:
        """Gives the member of this instance a new id; whoever waits under the old one is fenced."""
        old_id = self.static_members[instance_id]
        member = self.members.pop(old_id)
        member.answer_join(JoinResult(CoreError.FENCED_INSTANCE, old_id))
        member.answer_sync(SyncResult(CoreError.FENCED_INSTANCE))
        member.id = new_id
        self.members[new_id] = member
        self.static_members[instance_id] = new_id
        if self.leader == old_id:
            self.leader = new_id
        return member

    def elect_joined_leader(self) -> bool:
        """Keeps the leader if it has joined, else takes the first member that has. False when nobody has."""
        if self.leader is not None and self.members[self.leader].join_reply is None:
            joined = next((m.id for m in self.members.values() if m.join_reply is not None), None)
            if joined is None:
                return False
            self.leader = joined
        return self.leader is not None

    def next_generation(self, wall_ms: int) -> None:
        self.generation = self.generation + 1 if self.generation < 2**31 - 1 else 1
        self.pending_syncs.clear()
        self.protocol = self.vote() if self.members else None
        self.subscribed = self.subscribed_topics()
        self.move(State.COMPLETING if self.members else State.EMPTY, wall_ms)

    def subscribed_topics(self) -> set[str] | None:
        """The topics that the members of a consumer group asked for; None when that cannot be known."""
        if not self.uses_consumer_protocol or (self.members and self.protocol is None):
            return None
        topics: set[str] = set()
        for member in self.members.values():
            try:
                topics.update(parse_subscription(member.metadata(self.protocol)).topics)
            except ValueError:
                return None
        return topics

    # -- the record

    def encode(self, assignments: dict[str, bytes]) -> bytes:
        """The value of the group's record, with these assignments (those that are being made durable)."""
        writer = Writer(VERSION).i32(self.generation).text(self.protocol_type).text(self.protocol)
        writer.text(self.leader).i64(self.state_wall_ms).i32(len(self.members))
        for member in self.members.values():
            writer.text(member.id).text(member.instance_id).text(member.client.id).text(member.client.host)
            writer.i32(member.rebalance_timeout_ms).i32(member.session_timeout_ms)
            writer.i32(len(member.protocols))
            for name, metadata in member.protocols:
                writer.text(name).data(metadata)
            writer.data(assignments.get(member.id, b""))
        return writer.finish()


def decode_group(group_id: str, value: bytes) -> ClassicGroup:
    """The group as its record has it: stable when it has members, else empty. Raises ValueError."""
    reader = Reader(value)
    reader.version()
    group = ClassicGroup(group_id, generation=reader.i32(), protocol_type=reader.text_or_none(), stored=True)
    group.protocol = reader.text_or_none()
    group.leader = reader.text_or_none()
    group.state_wall_ms = reader.i64()
    for _ in range(reader.i32()):
        member_id, instance_id = reader.text(), reader.text_or_none()
        client = Client(reader.text(), reader.text())
        rebalance_timeout_ms, session_timeout_ms = reader.i32(), reader.i32()
        protocols = [(reader.text(), reader.data()) for _ in range(reader.i32())]
        member = Member(
            member_id,
            instance_id,
            client,
            rebalance_timeout_ms,
            session_timeout_ms,
            group.protocol_type or "",
            protocols,
            reader.data(),
        )
        group.members[member_id] = member
        group.supporters.update(set(dict(member.protocols)))
        if instance_id is not None:
            group.static_members[instance_id] = member_id
    if group.members:
        group.state = group.previous_state = State.STABLE
    group.subscribed = group.subscribed_topics()
    return group


def refused_join(error: CoreError, member_id: str = "") -> JoinResult:
    return JoinResult(error, member_id, NO_GENERATION)
