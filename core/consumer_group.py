"""A KIP-848 group: its members, their current and target assignments, who owns which partition, and its records in
the log.

Members are values: a change makes a new one (`put`), so what changed is what differs. Three epochs tell how far things
are: the group's rises with every change of members, subscriptions or topics; the target's is that of the last computed
assignment; a member's is the target it has reached.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from core.errors import CoreError, CoreFailure
from core.group_codec import VERSION, Reader, Writer, consumer_key, member_key
from core.group_types import CONSUMER_PROTOCOL_TYPE, Client
from core.state import Change

NEVER = math.inf
NOBODY = Client("", "")
LEAVE_EPOCH = -1
STATIC_LEAVE_EPOCH = -2

Epochs = dict[bytes, dict[int, int]]  # topic id -> partition -> epoch in which the member got it
Target = dict[bytes, set[int]]


class MemberState(enum.Enum):
    STABLE = 0  # it has its target, or can be sent to the next
    UNREVOKED = 1  # it has yet to give partitions up
    UNRELEASED = 2  # partitions of its target still belong to others


class ClassicSide(NamedTuple):
    """What a member that speaks the classic protocol brought along (it is served until it is upgraded)."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class ConsumerMember:
    id: str
    instance_id: str | None = None
    rack: str | None = None
    client: Client = NOBODY
    topics: frozenset[str] = frozenset()
    regex: str = ""
    assignor: str | None = None
    rebalance_timeout_ms: int = -1
    epoch: int = 0
    previous_epoch: int = 0
    state: MemberState = MemberState.STABLE
    assigned: Epochs = field(default_factory=dict)
    revoking: Epochs = field(default_factory=dict)
    classic: ClassicSide | None = None

    def at(self, epoch: int, state: MemberState, assigned: Epochs, revoking: Epochs) -> ConsumerMember:
        """The member moved on; its epoch before is kept because the answer that tells it the new one may be lost."""
        return replace(self, epoch=epoch, previous_epoch=self.epoch, state=state, assigned=assigned, revoking=revoking)

    def has_reached(self, epoch: int) -> bool:
        return self.state is MemberState.STABLE and self.epoch == epoch


@dataclass(slots=True)
class Timers:
    """Deadlines of one member; monotonic milliseconds."""

    session_ms: float = NEVER
    rebalance_ms: float = NEVER  # to give up partitions, while it stays in `rebalance_epoch`
    rebalance_epoch: int = 0
    join_ms: float = NEVER  # classic member: to join again
    sync_ms: float = NEVER  # classic member: to sync after it joined

    def earliest(self) -> float:
        return min(self.session_ms, self.rebalance_ms, self.join_ms, self.sync_ms)


class ConsumerMemberView(NamedTuple):
    member: ConsumerMember
    target: Target


class ConsumerGroupView(NamedTuple):
    group_id: str
    state: str
    epoch: int
    target_epoch: int
    assignor: str
    members: list[ConsumerMemberView]


@dataclass(slots=True)
class ConsumerGroup:
    id: str
    epoch: int = 0
    target_epoch: int = 0
    topics_hash: int = 0  # of the subscribed topics' ids and partition counts when the epoch was last raised
    members: dict[str, ConsumerMember] = field(default_factory=dict)
    static_members: dict[str, str] = field(default_factory=dict)  # instance id -> member id
    targets: dict[str, Target] = field(default_factory=dict)  # member id -> partitions
    owners: dict[tuple[bytes, int], str] = field(default_factory=dict)  # (topic id, partition) -> member id
    regexes: dict[str, frozenset[str]] = field(default_factory=dict)  # regex -> topics it matches
    timers: dict[str, Timers] = field(default_factory=dict)
    topics_changed: bool = True  # topics were made, deleted or grown since `topics_hash`
    regexes_resolved_ms: float = -math.inf
    armed_ms: float = NEVER
    dirty: set[str] = field(default_factory=set)  # member ids whose records must be written
    dirty_group: bool = False
    protocol_type: str = CONSUMER_PROTOCOL_TYPE
    expelled_until_ms: float = 0  # those whom a reset removed may not have heard of it

    # -- questions

    @property
    def type(self) -> str:
        return "consumer"

    @property
    def is_empty(self) -> bool:
        return not self.members

    @property
    def state_name(self) -> str:
        """The names that Kafka's tools know."""
        if not self.members:
            return "Empty"
        if self.epoch > self.target_epoch:
            return "Assigning"
        reached = all(member.has_reached(self.target_epoch) for member in self.members.values())
        return "Stable" if reached else "Reconciling"

    def member(self, member_id: str) -> ConsumerMember:
        """Raises CoreFailure(UNKNOWN_MEMBER)."""
        member = self.members.get(member_id)
        if member is None:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER, f"Member {member_id} is not a member of group {self.id}.")
        return member

    def static_member(self, instance_id: str, member_id: str) -> ConsumerMember:
        """The member of this instance. Raises CoreFailure(UNKNOWN_MEMBER | FENCED_INSTANCE)."""
        known = self.static_members.get(instance_id)
        if known is None:
            raise CoreFailure(CoreError.UNKNOWN_MEMBER, f"Instance id {instance_id} is unknown.")
        if known != member_id:
            raise CoreFailure(
                CoreError.FENCED_INSTANCE,
                f"Static member {member_id} with instance id {instance_id} was fenced by member {known}.",
            )
        return self.members[known]

    def topics_of(self, member: ConsumerMember) -> frozenset[str]:
        """Everything the member subscribes, by name and by regular expression."""
        return member.topics | self.regexes.get(member.regex, frozenset())

    def subscribed_topics(self) -> set[str]:
        return {topic for member in self.members.values() for topic in self.topics_of(member)}

    def is_subscribed(self, topic: str) -> bool:
        return any(topic in self.topics_of(member) for member in self.members.values())

    def preferred_assignor(self, default: str) -> str:
        """The one most members ask for."""
        votes = Counter(m.assignor for m in self.members.values() if m.assignor is not None)
        return votes.most_common(1)[0][0] if votes else default

    def only_classic_without(self, leaving: set[str]) -> bool:
        """Whether members remain, and all of them speak the classic protocol."""
        left = [member for member in self.members.values() if member.id not in leaving]
        return bool(left) and all(member.classic is not None for member in left)

    def session_timeout_ms(self, default_ms: int) -> int:
        """`default_ms`: that of members which speak KIP-848."""
        sides = [member.classic for member in self.members.values()]
        return max((default_ms if side is None else side.session_timeout_ms for side in sides), default=0)

    def check_commit(
        self, member_id: str, instance_id: str | None, epoch: int, *, transactional: bool, knows_epochs: bool
    ) -> None:
        """Whether offsets may be committed now. Raises CoreFailure (as Kafka's ConsumerGroup.validateOffsetCommit)."""
        if epoch < 0 and not self.members:
            return
        if transactional and epoch < 0 and not member_id and instance_id is None:
            return
        member = self.member(member_id)
        if not transactional and member.classic is None and not knows_epochs:
            raise CoreFailure(CoreError.MEMBER_EPOCHS_UNSUPPORTED)
        self._check_epoch(member, epoch, knows_epochs)

    def check_fetch(self, member_id: str | None, epoch: int) -> None:
        """Whether this member may fetch offsets. Raises CoreFailure."""
        if not member_id and epoch < 0:
            return
        self._check_epoch(self.member(member_id or ""), epoch, True)

    def _check_epoch(self, member: ConsumerMember, epoch: int, knows_epochs: bool) -> None:
        if epoch == member.epoch:
            return
        stale = member.classic is None and knows_epochs
        raise CoreFailure(CoreError.STALE_MEMBER_EPOCH if stale else CoreError.ILLEGAL_GENERATION)

    def view(self, default_assignor: str) -> ConsumerGroupView:
        members = [ConsumerMemberView(m, self.targets.get(m.id, {})) for m in self.members.values()]
        assignor = self.preferred_assignor(default_assignor)
        return ConsumerGroupView(self.id, self.state_name, self.epoch, self.target_epoch, assignor, members)

    # -- changes

    def put(self, member: ConsumerMember) -> None:
        """Adds or replaces a member."""
        before = self.members.get(member.id)
        if before is member:
            return
        if before is not None:
            self._disown(before)
        self.members[member.id] = member
        self.expelled_until_ms = 0
        if before is not None and before.regex != member.regex:
            self._forget_regexes()
        for topic_id, partitions in (*member.assigned.items(), *member.revoking.items()):
            for partition in partitions:
                self.owners[topic_id, partition] = member.id
        if member.instance_id is not None:
            self.static_members[member.instance_id] = member.id
        self.timers.setdefault(member.id, Timers())
        self.dirty.add(member.id)

    def remove(self, member_id: str) -> None:
        member = self.members.pop(member_id, None)
        if member is None:
            return
        self._disown(member)
        if member.instance_id is not None and self.static_members.get(member.instance_id) == member_id:
            del self.static_members[member.instance_id]
        self.targets.pop(member_id, None)
        self.timers.pop(member_id, None)
        self.dirty.add(member_id)
        self._forget_regexes()

    def _forget_regexes(self) -> None:
        """Those that no member subscribes any more."""
        for regex in self.regexes.keys() - {m.regex for m in self.members.values()}:
            del self.regexes[regex]

    def _disown(self, member: ConsumerMember) -> None:
        for topic_id, partitions in (*member.assigned.items(), *member.revoking.items()):
            for partition in partitions:
                if self.owners.get((topic_id, partition)) == member.id:
                    del self.owners[topic_id, partition]

    def set_target(self, member_id: str, target: Target) -> None:
        if self.targets.get(member_id) != target:
            self.targets[member_id] = target
            self.dirty.add(member_id)

    def raise_epoch(self, topics_hash: int) -> None:
        self.epoch += 1
        self.topics_hash = topics_hash
        self.dirty_group = True

    # -- records

    def take_changes(self) -> list[Change]:
        """What must be written since the last call."""
        changes: list[Change] = []
        if self.dirty_group:
            changes.append((consumer_key(self.id), self._encode()))
        for member_id in sorted(self.dirty):
            member = self.members.get(member_id)
            value = None if member is None else _encode_member(member, self.targets.get(member_id, {}))
            changes.append((member_key(self.id, member_id), value))
        self.dirty.clear()
        self.dirty_group = False
        return changes

    def tombstones(self) -> list[Change]:
        """The changes that make the log forget the group."""
        changes: list[Change] = [(member_key(self.id, member_id), None) for member_id in self.members]
        return [*changes, (consumer_key(self.id), None)]

    def _encode(self) -> bytes:
        return Writer(VERSION).i32(self.epoch).i32(self.target_epoch).i64(self.topics_hash).finish()


def decode_consumer_group(group: ConsumerGroup, value: bytes) -> None:
    """Takes the group's own record over. Raises ValueError."""
    reader = Reader(value)
    reader.version()
    group.epoch, group.target_epoch, group.topics_hash = reader.i32(), reader.i32(), reader.i64()


def _encode_member(member: ConsumerMember, target: Target) -> bytes:
    writer = Writer(VERSION).text(member.instance_id).text(member.rack).text(member.client.id).text(member.client.host)
    writer.i32(len(member.topics))
    for topic in sorted(member.topics):
        writer.text(topic)
    writer.text(member.regex).text(member.assignor).i32(member.rebalance_timeout_ms)
    writer.i32(member.epoch).i32(member.previous_epoch).i8(member.state.value)
    writer.assignment(member.assigned).assignment(member.revoking)
    writer.assignment({topic_id: dict.fromkeys(sorted(partitions), 0) for topic_id, partitions in target.items()})
    if member.classic is None:
        return writer.i8(0).finish()
    writer.i8(1).i32(member.classic.session_timeout_ms).i32(len(member.classic.protocols))
    for name, metadata in member.classic.protocols:
        writer.text(name).data(metadata)
    return writer.finish()


def decode_member(member_id: str, value: bytes) -> tuple[ConsumerMember, Target]:
    """Raises ValueError."""
    reader = Reader(value)
    reader.version()
    member = ConsumerMember(
        id=member_id,
        instance_id=reader.text_or_none(),
        rack=reader.text_or_none(),
        client=Client(reader.text(), reader.text()),
        topics=frozenset(reader.text() for _ in range(reader.i32())),
        regex=reader.text(),
        assignor=reader.text_or_none(),
        rebalance_timeout_ms=reader.i32(),
        epoch=reader.i32(),
        previous_epoch=reader.i32(),
        state=MemberState(reader.i8()),
        assigned=reader.assignment(),
        revoking=reader.assignment(),
    )
    target = {topic_id: set(partitions) for topic_id, partitions in reader.assignment().items()}
    if reader.i8():
        session_timeout_ms = reader.i32()
        protocols = tuple((reader.text(), reader.data()) for _ in range(reader.i32()))
        member = replace(member, classic=ClassicSide(session_timeout_ms, protocols))
    return member, target
