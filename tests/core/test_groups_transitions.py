"""Classic groups: every state x every input, answer for answer as Kafka's coordinator."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.errors import CoreError
from core.group_classic import _MOVES, ClassicGroup, State
from tests.core.groups_driver import DELAY_MS, SESSION_MS, World

E = CoreError


class Scene:
    """A group "g" in one state. `member` is in it, `generation` is its last known one."""

    def __init__(self, state: str) -> None:
        self.world = World()
        self.member = "nobody"
        self.generation = 0
        if state == "missing":
            return
        (self.member, *self.others), self.generation = self.world.form(2)
        if state == "empty":
            self.world.leave(self.member, *self.others)
        elif state == "preparing":
            self.world.join()
        elif state == "completing":
            self.world.join(self.member)
            self.world.join(*self.others)
            self.generation += 1
        found = next(iter(self.world.groups.all()))
        assert isinstance(found, ClassicGroup)
        assert found.state.name.lower() == state
        self.group = found


Input = Callable[[Scene], object]

INPUTS: dict[str, Input] = {
    "heartbeat": lambda s: s.world.beat(s.member, s.generation),
    "heartbeat, stale": lambda s: s.world.beat(s.member, s.generation - 1),
    "heartbeat, stranger": lambda s: s.world.beat("stranger", s.generation),
    "heartbeat, unknown instance": lambda s: s.world.beat(s.member, s.generation, instance="i"),
    "sync": lambda s: [r.error for r in s.world.sync(s.member, s.generation)],
    "sync, stale": lambda s: [r.error for r in s.world.sync(s.member, s.generation - 1)],
    "sync, stranger": lambda s: [r.error for r in s.world.sync("stranger", s.generation)],
    "sync, other protocol": lambda s: [r.error for r in s.world.sync(s.member, s.generation, protocol="sticky")],
    "sync, other type": lambda s: [r.error for r in s.world.sync(s.member, s.generation, protocol_type="connect")],
    "join, again": lambda s: [r.error for r in s.world.join(s.member)],
    "join, stranger": lambda s: [r.error for r in s.world.join("stranger")],
    "join, new": lambda s: [r.error for r in s.world.join(needs_member_id=True)],
    "join, other protocols": lambda s: [r.error for r in s.world.join(protocols={"other": b""})],
    "join, other type": lambda s: [r.error for r in s.world.join(protocol_type="connect")],
    "leave": lambda s: [error for _, error in s.world.leave(s.member).members],
    "leave, stranger": lambda s: [e for _, e in s.world.leave("stranger").members],
    "commit": lambda s: s.world.commit(5, s.member, s.generation),
    "commit, stale": lambda s: s.world.commit(5, s.member, s.generation - 1),
    "commit, stranger": lambda s: s.world.commit(5, "stranger", s.generation),
    "commit, from outside": lambda s: s.world.commit(5),
    "commit in a transaction": lambda s: s.world.commit(5, s.member, s.generation, producer=1),
    "commit in a transaction, from outside": lambda s: s.world.commit(5, producer=1),
}

STATES = ["missing", "empty", "preparing", "completing", "stable"]
WAITS: list[CoreError | None] = []  # no answer yet
OK = [None]
# One row per input, one column per state of STATES.
EXPECTED: dict[str, list[object]] = {
    "heartbeat": [E.UNKNOWN_MEMBER, E.UNKNOWN_MEMBER, E.REBALANCE_IN_PROGRESS, None, None],
    "heartbeat, stale": [E.UNKNOWN_MEMBER, E.UNKNOWN_MEMBER, *[E.ILLEGAL_GENERATION] * 3],
    "heartbeat, stranger": [E.UNKNOWN_MEMBER] * 5,
    "heartbeat, unknown instance": [E.UNKNOWN_MEMBER] * 5,
    "sync": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], [E.REBALANCE_IN_PROGRESS], OK, OK],
    "sync, stale": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], *[[E.ILLEGAL_GENERATION]] * 3],
    "sync, stranger": [[E.UNKNOWN_MEMBER]] * 5,
    "sync, other protocol": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], *[[E.INCONSISTENT_GROUP_PROTOCOL]] * 3],
    "sync, other type": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], *[[E.INCONSISTENT_GROUP_PROTOCOL]] * 3],
    "join, again": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], WAITS, OK, WAITS],
    "join, stranger": [[E.UNKNOWN_MEMBER]] * 5,
    "join, new": [[E.MEMBER_ID_REQUIRED]] * 5,
    "join, other protocols": [WAITS, WAITS, *[[E.INCONSISTENT_GROUP_PROTOCOL]] * 3],
    "join, other type": [WAITS, WAITS, *[[E.INCONSISTENT_GROUP_PROTOCOL]] * 3],
    "leave": [[E.UNKNOWN_MEMBER], [E.UNKNOWN_MEMBER], OK, OK, OK],
    "leave, stranger": [[E.UNKNOWN_MEMBER]] * 5,
    "commit": [[E.GROUP_NOT_FOUND], [E.UNKNOWN_MEMBER], OK, [E.REBALANCE_IN_PROGRESS], OK],
    "commit, stale": [OK, [E.UNKNOWN_MEMBER], *[[E.ILLEGAL_GENERATION]] * 3],
    "commit, stranger": [[E.GROUP_NOT_FOUND], *[[E.UNKNOWN_MEMBER]] * 4],
    "commit, from outside": [OK, OK, *[[E.UNKNOWN_MEMBER]] * 3],
    "commit in a transaction": [[E.ILLEGAL_GENERATION], [E.UNKNOWN_MEMBER], OK, OK, OK],
    "commit in a transaction, from outside": [OK] * 5,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_in_every_state_is_answered_as_kafka_does(state: str, name: str) -> None:
    scene = Scene(state)
    assert INPUTS[name](scene) == EXPECTED[name][STATES.index(state)]


AFTER: dict[str, list[State]] = {
    # The state that each input leads to from empty, preparing, completing, stable; inputs that are not named change
    # nothing.
    "sync": [State.EMPTY, State.PREPARING, State.STABLE, State.STABLE],
    "join, again": [State.EMPTY, State.PREPARING, State.COMPLETING, State.PREPARING],
    "join, other protocols": [State.PREPARING, State.PREPARING, State.COMPLETING, State.STABLE],
    "join, other type": [State.PREPARING, State.PREPARING, State.COMPLETING, State.STABLE],
    "leave": [State.EMPTY, State.PREPARING, State.PREPARING, State.PREPARING],
}


@pytest.mark.parametrize("state", STATES[1:])
@pytest.mark.parametrize("name", INPUTS)
def test_every_input_in_every_state_leads_where_it_should(state: str, name: str) -> None:
    scene = Scene(state)
    before = scene.group.state
    INPUTS[name](scene)
    expected = AFTER.get(name)
    assert scene.group.state is (before if expected is None else expected[STATES.index(state) - 1])


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", list(State))
def test_moves_that_the_table_lacks_are_refused(before: State, after: State) -> None:
    group = ClassicGroup("g", before)
    if after in _MOVES[before]:
        group.move(after, 1)
        assert (group.state, group.previous_state, group.state_wall_ms) == (after, before, 1)
    else:
        with pytest.raises(AssertionError):
            group.move(after, 1)


TIMEOUTS: dict[str, tuple[int, State]] = {
    # After this long without a word from anybody the group is in this state.
    "empty": (10 * SESSION_MS, State.EMPTY),
    "preparing": (SESSION_MS, State.COMPLETING),  # the one that waits in its join goes on alone
    "completing": (SESSION_MS, State.EMPTY),
    "stable": (SESSION_MS, State.EMPTY),
}


@pytest.mark.parametrize("state", TIMEOUTS)
def test_time_alone_leads_where_it_should(state: str) -> None:
    after_ms, expected = TIMEOUTS[state]
    scene = Scene(state)
    scene.world.pass_time(after_ms)
    assert scene.group.state is expected


@pytest.mark.parametrize(
    ("session_ms", "refused"), [(5_999, True), (6_000, False), (1_800_000, False), (1_800_001, True)]
)
def test_session_time_outs_are_bounded(session_ms: int, refused: bool) -> None:
    answers = World().join(session_ms=session_ms, needs_member_id=True)
    assert answers[0].error is (E.INVALID_SESSION_TIMEOUT if refused else E.MEMBER_ID_REQUIRED)


def test_an_empty_group_id_is_refused() -> None:
    world = World()
    assert world.join(group="")[0].error is E.INVALID_GROUP_ID
    assert world.sync("m", 1, group="")[0].error is E.INVALID_GROUP_ID
    assert world.beat("m", 1, group="") is E.INVALID_GROUP_ID
    assert world.leave("m", group="").error is E.INVALID_GROUP_ID


def test_the_first_rebalance_waits_for_others_as_long_as_they_keep_coming() -> None:
    world = World()
    joins = [world.join()]
    for _ in range(3):
        world.pass_time(DELAY_MS - 1)
        joins.append(world.join())
    assert not any(joins)
    world.pass_time(DELAY_MS + 3)
    assert {join[0].generation for join in joins} == {1}


def test_the_first_rebalance_never_waits_longer_than_the_rebalance_time_out() -> None:
    world = World()
    first = world.join(rebalance_ms=7_000)
    for _ in range(10):
        world.pass_time(1_000)
        world.join(rebalance_ms=7_000)
    assert first
