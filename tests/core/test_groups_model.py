"""Seeded runs of groups whose members join, leave, die, lag, come back, and whose broker is killed.

Invariants, held after every step: a stable group has one leader, who is in it; a commit succeeds only with the
generation (or epoch) that the
group knows; no partition is owned by two members of a KIP-848 group. After things settle every partition has exactly
one owner.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from core.consumer_group import ConsumerGroup
from core.errors import CoreError
from core.group_classic import ClassicGroup, State
from core.group_subscription import build_assignment, parse_assignment
from core.group_types import JoinResult, SyncResult
from tests.core.groups_driver import Topics, World

PARTITIONS = 6


@dataclass
class ClassicMember:
    """A client of the classic protocol, as a state machine that does one thing a step."""

    instance: str | None = None
    member_id: str = ""
    generation: int = -1
    assignment: set[int] = field(default_factory=set)
    joining: list[JoinResult] | None = None
    syncing: list[SyncResult] | None = None
    stable: bool = False

    def step(self, world: World) -> None:
        if self.joining is not None:
            if self.joining:
                self._joined(world, self.joining[0])
        elif self.syncing is not None:
            if self.syncing:
                self._synced(self.syncing[0])
        elif not self.stable:
            self.joining = world.join(self.member_id, instance=self.instance, needs_member_id=True, session_ms=10_000)
        else:
            error = world.beat(self.member_id, self.generation, instance=self.instance)
            if error is not None:
                self._again(error)

    def _again(self, error: CoreError) -> None:
        self.stable, self.joining, self.syncing = False, None, None
        if error in (CoreError.UNKNOWN_MEMBER, CoreError.ILLEGAL_GENERATION, CoreError.FENCED_INSTANCE):
            self.member_id = "" if error is not CoreError.ILLEGAL_GENERATION else self.member_id
            self.assignment = set()

    def _joined(self, world: World, result: JoinResult) -> None:
        self.joining = None
        if result.error is CoreError.MEMBER_ID_REQUIRED:
            self.member_id = result.member_id
        elif result.error is not None:
            self._again(result.error)
        else:
            self.member_id, self.generation = result.member_id, result.generation
            assignments = {}
            if result.members and not result.skip_assignment:
                for index, member in enumerate(result.members):
                    share = list(range(index, PARTITIONS, len(result.members)))
                    assignments[member.member_id] = build_assignment(0, {"t": share})
            self.syncing = world.sync(self.member_id, self.generation, assignments, instance=self.instance)

    def _synced(self, result: SyncResult) -> None:
        self.syncing = None
        if result.error is not None:
            self._again(result.error)
        else:
            assigned = parse_assignment(result.assignment).get("t", []) if result.assignment else []
            self.stable, self.assignment = True, set(assigned)

    def disconnect(self) -> None:
        """The broker was killed, or the connection broke: what was asked is never answered."""
        self.joining = self.syncing = None


def check_classic(world: World, members: list[ClassicMember]) -> None:
    for group in world.groups.all():
        assert isinstance(group, ClassicGroup)
        if group.members:
            assert group.leader in group.members
        assert set(group.static_members.values()) <= set(group.members)
        assert group.awaiting_join == sum(m.join_reply is not None for m in group.members.values())
        for name, count in group.supporters.items():
            assert count == sum(name in dict(m.protocols) for m in group.members.values())
        for member in members:
            if not member.member_id:
                continue
            (outcome,) = world.commit(1, member.member_id, member.generation, instance=member.instance) or (None,)
            known = group.members.get(member.member_id)
            current = known is not None and member.generation == group.generation
            if outcome is None and not world.log.held:
                from_outside = member.generation < 0 and group.state is State.EMPTY
                assert current or from_outside
                assert group.state is not State.COMPLETING


@pytest.mark.parametrize("seed", range(40))
def test_classic_groups_settle_whatever_their_members_and_their_broker_do(seed: int) -> None:
    chance = random.Random(seed)
    world = World(topics=Topics(t=PARTITIONS), initial_rebalance_delay_ms=500)
    members = [ClassicMember(instance=chance.choice([None, None, f"i{n}"])) for n in range(4)]
    for _ in range(150):
        action = chance.random()
        if action < 0.75:
            chance.choice(members).step(world)
        elif action < 0.85:
            world.pass_time(chance.choice([10, 600, 3_000, 12_000]))
        elif action < 0.89:
            member = members.pop(chance.randrange(len(members)))
            if member.member_id and chance.random() < 0.5 and member.instance is None:
                world.leave(member.member_id)
            members.append(ClassicMember(instance=member.instance))
        elif action < 0.93:
            world.log.held = not world.log.held
            if not world.log.held:
                world.log.release()
        elif action < 0.96:
            chance.choice(members).disconnect()
        else:
            world = world.restart()
            for member in members:
                member.disconnect()
        check_classic(world, members)
    world.log.held = False
    world.log.release()
    for _ in range(120):
        for member in members:
            member.step(world)
        world.pass_time(400)
    owners = [partition for member in members for partition in member.assignment]
    assert all(member.stable for member in members)
    assert sorted(owners) == list(range(PARTITIONS))
    assert len({member.generation for member in members}) == 1


@dataclass
class ModernMember:
    """A client of KIP-848."""

    name: str
    epoch: int = 0
    owned: dict[bytes, set[int]] = field(default_factory=dict)
    revoking: dict[bytes, set[int]] | None = None  # what it will own once it has let go

    def step(self, world: World, loses_answer: bool = False) -> None:
        if self.epoch == 0:
            self.owned, self.revoking = {}, None
        elif self.revoking is not None:
            self.owned, self.revoking = self.revoking, None
        result = world.consumer_ask(self.name, self.epoch, topics=["t"], owned=self.owned, rebalance_ms=20_000)
        if loses_answer or not result:
            return
        if result[0].error is not None:
            assert result[0].error in (
                CoreError.UNKNOWN_MEMBER,
                CoreError.FENCED_MEMBER_EPOCH,
                CoreError.GROUP_NOT_FOUND,
            )
            self.epoch, self.owned = 0, {}
            return
        self.epoch = result[0].epoch
        if result[0].assignment is None:
            return
        told = {t: set(partitions) for t, partitions in result[0].assignment.items()}
        kept = {t: partitions & told.get(t, set()) for t, partitions in self.owned.items()}
        if kept != self.owned:
            self.revoking = kept
        else:
            self.owned = told


def check_modern(world: World) -> None:
    for group in world.groups.all():
        if not isinstance(group, ConsumerGroup):
            continue
        seen: set[tuple[bytes, int]] = set()
        for member in group.members.values():
            assert member.epoch <= group.epoch
            for topic_id, partitions in (*member.assigned.items(), *member.revoking.items()):
                for partition in partitions:
                    assert (topic_id, partition) not in seen
                    seen.add((topic_id, partition))
                    assert group.owners[topic_id, partition] == member.id
        assert set(group.owners) == seen
        assert group.target_epoch <= group.epoch


@pytest.mark.parametrize("seed", range(40))
def test_modern_groups_settle_whatever_their_members_and_their_broker_do(seed: int) -> None:
    chance = random.Random(seed)
    world = World(topics=Topics(t=PARTITIONS))
    members = [ModernMember(f"m{n}") for n in range(4)]
    for step in range(200):
        action = chance.random()
        if action < 0.75:
            chance.choice(members).step(world, loses_answer=chance.random() < 0.05)
        elif action < 0.85:
            world.pass_time(chance.choice([10, 6_000, 25_000]))
        elif action < 0.90:
            member = members.pop(chance.randrange(len(members)))
            if chance.random() < 0.5:
                world.consumer_ask(member.name, -1)
            members.append(ModernMember(f"n{step}"))
        elif action < 0.93:
            world.topics.put("t", chance.randrange(PARTITIONS, PARTITIONS + 3))
            world.groups.topics_changed()
        elif action < 0.96:
            world.log.held = not world.log.held
            if not world.log.held:
                world.log.release()
        else:
            world = world.restart()
        check_modern(world)
    world.log.held = False
    world.log.release()
    world.topics.put("t", PARTITIONS)
    world.groups.topics_changed()
    for _ in range(60):
        for member in members:
            member.step(world)
        check_modern(world)
        world.pass_time(2_000)
    owners = [partition for member in members for partitions in member.owned.values() for partition in partitions]
    assert sorted(owners) == list(range(PARTITIONS))
    assert len({member.epoch for member in members}) == 1


@pytest.mark.parametrize("seed", range(40))
def test_members_of_both_protocols_come_and_go_and_the_group_settles_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    world = World(topics=Topics(t=PARTITIONS), initial_rebalance_delay_ms=500)
    classic = [ClassicMember() for _ in range(2)]
    modern = [ModernMember(f"m{n}") for n in range(2)]
    kinds: set[str] = set()
    for step in range(250):
        action = chance.random()
        # Phases in which only one kind is active let the group change its type.
        phase = step // 50 % 3
        if action < 0.8:
            if modern and phase != 0 and (phase == 2 or chance.random() < 0.5):
                chance.choice(modern).step(world)
            else:
                chance.choice(classic).step(world)
        elif action < 0.9:
            world.pass_time(chance.choice([10, 600, 3_000, 15_000, 50_000]))
        elif action < 0.94:
            gone = modern.pop(0)
            world.consumer_ask(gone.name, -1)
            modern.append(ModernMember(f"n{step}"))
        elif action < 0.97:
            leaving = classic.pop(0)
            if leaving.member_id:
                world.leave(leaving.member_id)
            classic.append(ClassicMember())
        else:
            world = world.restart()
            for member in classic:
                member.disconnect()
        kinds.update(group.type for group in world.groups.listing([], []))
        check_modern(world)
    assert kinds == {"classic", "consumer"}
    everybody: list[ClassicMember | ModernMember] = [*classic, *modern]
    for _ in range(150):
        for one in everybody:
            one.step(world)
        check_modern(world)
        world.pass_time(400)
    owners = [p for member in classic for p in member.assignment]
    owners += [p for member in modern for partitions in member.owned.values() for p in partitions]
    assert sorted(owners) == list(range(PARTITIONS))


def test_a_group_that_nobody_joined_in_the_end_is_forgotten() -> None:
    world = World()
    world.join(needs_member_id=True)
    world.join(needs_member_id=True, group="with offsets")
    world.commit(1, group="with offsets")
    world.pass_time(20_000)
    assert [group.group_id for group in world.groups.listing([], [])] == ["with offsets"]
    assert world.log.writes == 1
