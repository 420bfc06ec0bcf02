"""Asks Apache Kafka and Trivium the same questions about groups and offsets and prints where the answers differ:
`python -m interop.compare_groups`. Exit code 1 when they differ in more than DELIBERATE.

About 800 questions: every API in every version that both serve, in every state of a group, with wrong members,
generations, epochs and
instances; static members; the KIP-848 protocol, and groups that change from one protocol to the other and back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from core.group_subscription import build_assignment, build_subscription
from gateway.protocols.kafka.api_versions import ApiKey as Api
from gateway.protocols.kafka.messages import ListGroupsRequest
from interop import compare_requests as ask
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.compare_wire import Connection, Notes, compare, prepare

# Kafka answers metadata that it cannot read with "unknown server error"; ours is the error a client can act on.
DELIBERATE = {"mixed: join with broken metadata"}
MEMBER_ID_REQUIRED = 79
SETTLE_S = 0.3  # for a request on another connection to arrive and wait


class Scene:
    """Questions to one broker. `ids` are those of the topics t (two partitions) and u (one)."""

    def __init__(self, notes: Notes, ids: dict[str, bytes]) -> None:
        self.notes = notes
        self.id = ids["t"]
        for name, topic_id in ids.items():
            notes.alias(topic_id, f"id of {name}")
        self.connection = notes.connect()

    def ask(self, question: str, api: Api, version: int, message: Any, connection: Connection | None = None) -> Any:
        answer = (connection or self.connection).call(api, version, message)
        self.notes.note(question, answer)
        return answer

    def modern(self, question: str, *arguments: Any, **fields: Any) -> Any:
        answer = self.connection.call(Api.CONSUMER_GROUP_HEARTBEAT, 1, ask.modern(*arguments, **fields))
        if answer.assignment:
            answer.assignment.topic_partitions.sort(key=lambda one: one.topic_id != self.id)
            for one in answer.assignment.topic_partitions:
                one.partitions.sort()
        self.notes.note(question, answer)
        return answer


def missing_groups(s: Scene) -> None:
    for v in range(2, 10):
        here = f"missing v{v}:"
        s.ask(f"{here} heartbeat", Api.HEARTBEAT, min(v, 4), ask.beat("none", 1, "x"))
        s.ask(f"{here} sync", Api.SYNC_GROUP, min(v, 5), ask.sync("none", 1, "x"))
        s.ask(f"{here} leave", Api.LEAVE_GROUP, min(v, 5), ask.leave("none", ("x", None)))
        s.ask(f"{here} join", Api.JOIN_GROUP, v, ask.join("none", "x"))
        s.ask(f"{here} commit", Api.OFFSET_COMMIT, v, ask.commit("none", member="x", generation=1))
        s.ask(f"{here} fetch", Api.OFFSET_FETCH, v, ask.fetch("none", v, topic_id=s.id))
        s.ask(f"{here} fetch all", Api.OFFSET_FETCH, v, ask.fetch("none", v, everything=True))
        s.ask(f"{here} describe", Api.DESCRIBE_GROUPS, min(v, 6), ask.describe("none", ""))
    s.ask("missing: delete", Api.DELETE_GROUPS, 2, ask.delete("none", "", "none2"))
    s.ask("missing: delete offsets", Api.OFFSET_DELETE, 0, ask.delete_offsets("none", "t", "nope"))
    s.ask("missing: describe modern", Api.CONSUMER_GROUP_DESCRIBE, 1, ask.describe_modern("none", ""))


def refused_requests(s: Scene) -> None:
    joins: dict[str, Any] = {"owned": [], "topics": ["t"], "rebalance_ms": 1_000}
    s.ask("no id: heartbeat", Api.HEARTBEAT, 4, ask.beat("", 1, "x"))
    s.ask("no id: sync", Api.SYNC_GROUP, 5, ask.sync("", 1, "x"))
    s.ask("no id: leave", Api.LEAVE_GROUP, 5, ask.leave("", ("x", None)))
    s.ask("no id: join", Api.JOIN_GROUP, 9, ask.join(""))
    s.ask("no id: commit", Api.OFFSET_COMMIT, 9, ask.commit(""))
    s.ask("no id: fetch", Api.OFFSET_FETCH, 9, ask.fetch("", 9))
    s.modern("no id: modern heartbeat", "", "m", 0, **joins)
    for session_ms in (5_999, 1_800_001):
        s.ask(f"session of {session_ms} ms", Api.JOIN_GROUP, 9, ask.join("s", session_ms=session_ms))
    s.ask("join without protocols", Api.JOIN_GROUP, 9, ask.join("p", protocols=()))
    s.ask("join without type", Api.JOIN_GROUP, 9, ask.join("p", protocol_type=""))
    s.modern("modern: bad regex", "new", "m", 0, regex="(", owned=[], rebalance_ms=1_000)
    senseless = {
        "epoch 5": ask.modern("new", "m", 5),
        "leave": ask.modern("new", "m", -1),
        "static leave": ask.modern("new", "m", -2, instance="i"),
        "no member id": ask.modern("new", "", 5),
        "static leave without instance": ask.modern("new", "m", -2),
        "epoch -3": ask.modern("new", "m", -3),
        "no time-out": ask.modern("new", "m", 0, topics=["t"], owned=[]),
        "owned not said": ask.modern("new", "m", 0, topics=["t"], rebalance_ms=1_000),
        "owned": ask.modern("new", "m", 0, topics=["t"], rebalance_ms=1_000, owned=[(s.id, [0])]),
        "no topics": ask.modern("new", "m", 0, rebalance_ms=1_000, owned=[]),
        "assignor": ask.modern("new", "m", 0, assignor="zz", **joins),
        "empty instance": ask.modern("new", "m", 0, instance="", **joins),
        "empty rack": ask.modern("new", "m", 0, rack="", **joins),
    }
    for v in (0, 1):
        for name, message in senseless.items():
            s.ask(f"modern v{v}: {name}", Api.CONSUMER_GROUP_HEARTBEAT, v, message)


def simple_groups(s: Scene) -> None:
    for v in range(2, 11):
        here = f"simple v{v}:"
        s.ask(f"{here} commit", Api.OFFSET_COMMIT, v, ask.commit("simple", v, topic_id=s.id))
        s.ask(f"{here} fetch", Api.OFFSET_FETCH, v, ask.fetch("simple", v, topic_id=s.id))
        s.ask(f"{here} fetch all", Api.OFFSET_FETCH, v, ask.fetch("simple", v, everything=True))
        other: dict[str, Any] = {"topic": "nope", "topic_id": b"q" * 16}

        s.ask(f"{here} commit to no topic", Api.OFFSET_COMMIT, v, ask.commit("simple", **other))

        s.ask(f"{here} fetch of no topic", Api.OFFSET_FETCH, v, ask.fetch("simple", v, **other))
        stranger = ask.commit("simple", member="x", generation=3, topic_id=s.id)
        s.ask(f"{here} commit of a stranger", Api.OFFSET_COMMIT, v, stranger)
        for name, metadata in {"no": None, "much": "x" * 4097}.items():
            message = ask.commit("simple2", metadata=metadata, topic_id=s.id)
            s.ask(f"{here} commit with {name} metadata", Api.OFFSET_COMMIT, v, message)
        s.ask(f"{here} fetch metadata", Api.OFFSET_FETCH, v, ask.fetch("simple2", v, topic_id=s.id))
        s.ask(f"{here} commit -1", Api.OFFSET_COMMIT, v, ask.commit("simple3", -1, topic_id=s.id))
        s.ask(f"{here} fetch -1", Api.OFFSET_FETCH, v, ask.fetch("simple3", v, topic_id=s.id))
    s.ask("simple: fetch as a member", Api.OFFSET_FETCH, 9, ask.fetch("simple", 9, member="x", epoch=4))
    s.ask("simple: describe", Api.DESCRIBE_GROUPS, 6, ask.describe("simple", operations=True))
    s.ask("simple: delete offsets", Api.OFFSET_DELETE, 0, ask.delete_offsets("simple", "t", "nope"))


def _first_member(s: Scene, group: str, v: int) -> tuple[str, int]:
    """Joins, syncs, and asks what can be asked of a group of one."""
    here = f"{group}:"
    joined = s.connection.call(Api.JOIN_GROUP, v, ask.join(group))
    s.notes.alias(joined.member_id, f"{group} first")
    s.notes.note(f"{here} join", joined)
    if joined.error_code == MEMBER_ID_REQUIRED:
        joined = s.ask(f"{here} join again", Api.JOIN_GROUP, v, ask.join(group, joined.member_id))
    member, generation = joined.member_id, joined.generation_id
    completing = ask.commit(group, member=member, generation=generation)
    s.ask(f"{here} commit, completing", Api.OFFSET_COMMIT, min(v, 9), completing)
    s.ask(f"{here} heartbeat, completing", Api.HEARTBEAT, min(v, 4), ask.beat(group, generation, member))
    s.ask(f"{here} describe, completing", Api.DESCRIBE_GROUPS, min(v, 6), ask.describe(group))
    other = ask.sync(group, generation, member, protocol="zzz")
    s.ask(f"{here} sync, other protocol", Api.SYNC_GROUP, min(v, 5), other)
    s.ask(f"{here} sync", Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, member, [(member, b"abc")]))
    s.ask(f"{here} sync again", Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, member))
    claims = {
        "right": (member, generation, None),
        "stale": (member, generation - 1, None),
        "future": (member, generation + 1, None),
        "stranger": ("x", generation, None),
        "no generation": (member, -1, None),
        "no member": ("", generation, None),
        "outside": ("", -1, None),
        "instance": (member, generation, "i"),
    }
    for name, (who, when, instance) in claims.items():
        if instance is None or v >= 7:
            claim = ask.commit(group, member=who, generation=when, instance=instance)
            s.ask(f"{here} commit, {name}", Api.OFFSET_COMMIT, min(v, 9), claim)
            beat = ask.beat(group, when, who, instance)
            s.ask(f"{here} heartbeat, {name}", Api.HEARTBEAT, 4 if instance else min(v, 4), beat)
    s.ask(f"{here} fetch", Api.OFFSET_FETCH, v, ask.fetch(group, v))
    operations = v >= 3
    s.ask(f"{here} describe", Api.DESCRIBE_GROUPS, min(v, 6), ask.describe(group, operations=operations))
    s.ask(f"{here} describe modern", Api.CONSUMER_GROUP_DESCRIBE, 1, ask.describe_modern(group))
    s.ask(f"{here} delete", Api.DELETE_GROUPS, 2, ask.delete(group))
    s.ask(f"{here} delete offsets", Api.OFFSET_DELETE, 0, ask.delete_offsets(group, "t", "u"))
    s.ask(f"{here} join, other protocol", Api.JOIN_GROUP, v, ask.join(group, protocols=(("zzz", b""),)))
    s.ask(f"{here} join, other type", Api.JOIN_GROUP, v, ask.join(group, protocol_type="connect"))
    return member, generation


def _second_member(s: Scene, group: str, v: int, first: str, generation: int) -> tuple[str, int]:
    """A second member comes; the group rebalances."""
    here, other = f"{group}:", s.notes.connect()
    second = ""
    if v >= 4:
        second = other.call(Api.JOIN_GROUP, v, ask.join(group)).member_id
        s.notes.alias(second, f"{group} second")
    other.send(Api.JOIN_GROUP, v, ask.join(group, second))
    time.sleep(SETTLE_S)
    s.ask(f"{here} heartbeat, preparing", Api.HEARTBEAT, min(v, 4), ask.beat(group, generation, first))
    preparing = ask.commit(group, 77, first, generation)
    s.ask(f"{here} commit, preparing", Api.OFFSET_COMMIT, min(v, 9), preparing)
    s.ask(f"{here} sync, preparing", Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, first))
    described = s.connection.call(Api.DESCRIBE_GROUPS, min(v, 6), ask.describe(group)).groups[0]
    s.notes.note(
        f"{here} describe, preparing", [described.group_state, described.protocol_data, len(described.members)]
    )
    leader = s.connection.call(Api.JOIN_GROUP, v, ask.join(group, first))
    follower = other.receive()
    second = follower.member_id
    s.notes.alias(second, f"{group} second")
    leader.members.sort(key=lambda member: member.member_id != first)
    s.notes.note(f"{here} leader joined", leader)
    s.notes.note(f"{here} follower joined", follower)
    generation = leader.generation_id
    other.send(Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, second))
    time.sleep(SETTLE_S)
    assigned = [(first, b"1"), (second, b"2"), ("ghost", b"3")]
    s.ask(f"{here} leader syncs", Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, first, assigned))
    s.notes.note(f"{here} follower synced", other.receive())
    s.ask(f"{here} follower joins again", Api.JOIN_GROUP, v, ask.join(group, second), other)
    many = [(second, None), ("zz", None), ("", "nobody")]
    s.ask(f"{here} leave", Api.LEAVE_GROUP, min(v, 5), ask.leave(group, *(many if v >= 3 else many[:1])), other)
    s.ask(f"{here} leave again", Api.LEAVE_GROUP, min(v, 5), ask.leave(group, (second, None)), other)
    return second, generation


def classic_lives(s: Scene) -> None:
    for v in range(2, 10):
        group = f"classic v{v}"
        here = f"{group}:"
        first, generation = _first_member(s, group, v)
        _, generation = _second_member(s, group, v, first, generation)
        s.ask(f"{here} heartbeat after a leave", Api.HEARTBEAT, min(v, 4), ask.beat(group, generation, first))
        s.ask(f"{here} last leaves", Api.LEAVE_GROUP, min(v, 5), ask.leave(group, (first, None)))
        s.ask(f"{here} describe, empty", Api.DESCRIBE_GROUPS, min(v, 6), ask.describe(group))
        s.ask(f"{here} heartbeat, empty", Api.HEARTBEAT, min(v, 4), ask.beat(group, generation, first))
        s.ask(f"{here} sync, empty", Api.SYNC_GROUP, min(v, 5), ask.sync(group, generation, first))
        member = ask.commit(group, member=first, generation=generation)
        s.ask(f"{here} commit, empty", Api.OFFSET_COMMIT, min(v, 9), member)
        s.ask(f"{here} commit from outside, empty", Api.OFFSET_COMMIT, min(v, 9), ask.commit(group, 9))
        s.ask(f"{here} join, empty", Api.JOIN_GROUP, v, ask.join(group, first))
        s.ask(f"{here} delete offsets, empty", Api.OFFSET_DELETE, 0, ask.delete_offsets(group, "t"))
        s.ask(f"{here} delete, empty", Api.DELETE_GROUPS, 2, ask.delete(group, group))


def static_members(s: Scene) -> None:
    for v in (5, 7, 8, 9):
        group = f"static v{v}"
        here = f"{group}:"
        old = s.connection.call(Api.JOIN_GROUP, v, ask.join(group, instance="i"))
        s.notes.alias(old.member_id, f"{group} old")
        s.notes.note(f"{here} join", old)
        generation = old.generation_id
        first = ask.sync(group, generation, old.member_id, [(old.member_id, b"x")], "i")
        s.ask(f"{here} sync", Api.SYNC_GROUP, 5, first)
        new = s.connection.call(Api.JOIN_GROUP, v, ask.join(group, instance="i"))
        s.notes.alias(new.member_id, f"{group} new")
        s.notes.note(f"{here} join again", new)
        again = ask.sync(group, new.generation_id, new.member_id, instance="i")
        s.ask(f"{here} sync again", Api.SYNC_GROUP, 5, again)
        for name, member in (("old", old.member_id), ("new", new.member_id), ("stranger", "x")):
            for instance in ("i", "j", None):
                beat = ask.beat(group, generation, member, instance)
                s.ask(f"{here} heartbeat, {name}, {instance}", Api.HEARTBEAT, 4, beat)
            claim = ask.commit(group, member=member, generation=generation, instance="i")
            s.ask(f"{here} commit, {name}", Api.OFFSET_COMMIT, 9, claim)
        s.ask(f"{here} old joins", Api.JOIN_GROUP, v, ask.join(group, old.member_id, "i"))
        s.ask(f"{here} old leaves", Api.LEAVE_GROUP, 5, ask.leave(group, (old.member_id, "i"), ("", "k")))
        s.ask(f"{here} describe", Api.DESCRIBE_GROUPS, 6, ask.describe(group))
        changed = s.connection.call(
            Api.JOIN_GROUP, v, ask.join(group, instance="i", protocols=(("other", b""), *ask.RANGE))
        )
        s.notes.alias(changed.member_id, f"{group} changed")
        s.notes.note(f"{here} join with other protocols", changed)
        s.ask(f"{here} removed by instance", Api.LEAVE_GROUP, 5, ask.leave(group, ("", "i")))


def other_types(s: Scene) -> None:
    protocols = (("sessioned", b"\xff"),)
    wanted = ask.join("connect", protocol_type="connect", protocols=protocols)
    wanted.member_id = s.connection.call(Api.JOIN_GROUP, 9, wanted).member_id
    s.notes.alias(wanted.member_id, "worker")
    joined = s.ask("connect: join", Api.JOIN_GROUP, 9, wanted)
    message = ask.sync(
        "connect",
        joined.generation_id,
        joined.member_id,
        [(joined.member_id, b"q")],
        protocol_type="connect",
        protocol="sessioned",
    )
    s.ask("connect: sync", Api.SYNC_GROUP, 5, message)
    s.ask("connect: delete offsets", Api.OFFSET_DELETE, 0, ask.delete_offsets("connect", "t"))
    s.modern("connect: upgrade", "connect", "m", 0, topics=["t"], owned=[], rebalance_ms=1_000)


JOINS: dict[str, Any] = {"topics": ["t"], "owned": [], "rebalance_ms": 10_000}


def modern_life(s: Scene) -> None:
    g = "modern"
    both = [(s.id, [0, 1])]
    s.modern("modern: a joins", g, "a", 0, **JOINS)
    s.modern("modern: a beats", g, "a", 1)
    s.modern("modern: a says all", g, "a", 1, topics=["t"], owned=both, rebalance_ms=10_000)
    s.modern("modern: a is ahead", g, "a", 2)
    s.modern("modern: a joins again", g, "a", 0, **JOINS)
    described = ask.describe_modern(g, operations=True)
    s.ask("modern: describe", Api.CONSUMER_GROUP_DESCRIBE, 1, described)
    s.modern("modern: b joins", g, "b", 0, **JOINS)
    found = s.connection.call(Api.LIST_GROUPS, 5, ListGroupsRequest(types_filter=["consumer"])).groups
    s.notes.note("modern: list", [group for group in found if group.group_id == g])
    s.modern("modern: a learns", g, "a", 1, owned=both)
    s.modern("modern: b waits", g, "b", 2)
    s.modern("modern: a says nothing", g, "a", 1)
    for kept in (0, 1):
        s.modern(f"modern: a keeps {kept}", g, "a", 1, owned=[(s.id, [kept])])
    s.modern("modern: a goes on", g, "a", 2)
    s.modern("modern: b gets", g, "b", 2)
    s.modern("modern: a missed the answer", g, "a", 1, owned=[(s.id, [0])])
    s.modern("modern: a is behind", g, "a", 1)
    claims = {"right": ("a", 2), "stale": ("a", 1), "future": ("a", 3), "stranger": ("z", 2), "outside": ("", -1)}
    for name, (member, epoch) in claims.items():
        for v in (7, 9, 10):
            claim = ask.commit(g, member=member, generation=epoch, topic_id=s.id)
            s.ask(f"modern: commit v{v}, {name}", Api.OFFSET_COMMIT, v, claim)
        for v in (8, 9, 10):
            wanted = ask.fetch(g, v, member=member or None, epoch=epoch, topic_id=s.id)
            s.ask(f"modern: fetch v{v}, {name}", Api.OFFSET_FETCH, v, wanted)
    for v in (5, 6):
        s.ask(f"modern: describe classic v{v}", Api.DESCRIBE_GROUPS, v, ask.describe(g))
    s.ask("modern: delete", Api.DELETE_GROUPS, 2, ask.delete(g))
    s.ask("modern: delete offsets", Api.OFFSET_DELETE, 0, ask.delete_offsets(g, "t", "u"))
    s.ask("modern: classic heartbeat", Api.HEARTBEAT, 4, ask.beat(g, 2, "a"))
    s.ask("modern: classic sync", Api.SYNC_GROUP, 5, ask.sync(g, 2, "a"))
    s.ask("modern: classic leave of a stranger", Api.LEAVE_GROUP, 5, ask.leave(g, ("z", None)))
    for member in ("a", "b"):
        s.modern(f"modern: {member} leaves", g, member, -1)


def migrations(s: Scene) -> None:
    g = "mixed"
    s.modern("mixed: a joins", g, "a", 0, **JOINS)
    given = s.connection.call(Api.JOIN_GROUP, 9, ask.join(g))
    s.notes.alias(given.member_id, "classic member")
    s.notes.note("mixed: join", given)
    s.ask("mixed: join of another type", Api.JOIN_GROUP, 9, ask.join(g, protocol_type="connect"))
    broken = ask.join(g, given.member_id, protocols=(("range", b"\0"),))
    s.ask("mixed: join with broken metadata", Api.JOIN_GROUP, 9, broken)
    joined = s.ask("mixed: join again", Api.JOIN_GROUP, 9, ask.join(g, given.member_id))
    member, generation = joined.member_id, joined.generation_id
    s.ask("mixed: sync", Api.SYNC_GROUP, 5, ask.sync(g, generation, member))
    s.ask("mixed: heartbeat", Api.HEARTBEAT, 4, ask.beat(g, generation, member))
    described = s.connection.call(Api.CONSUMER_GROUP_DESCRIBE, 1, ask.describe_modern(g)).groups[0]
    kinds = sorted((m.member_type, m.member_epoch, m.assignment is None) for m in described.members)
    s.notes.note("mixed: describe", [described.group_state, kinds])
    s.modern("mixed: a leaves", g, "a", -1)
    shown = s.connection.call(Api.DESCRIBE_GROUPS, 6, ask.describe(g)).groups[0]
    s.notes.note("downgraded: describe", [shown.group_state, shown.protocol_type, len(shown.members)])
    s.ask("downgraded: heartbeat", Api.HEARTBEAT, 4, ask.beat(g, generation, member))
    joined = s.ask("downgraded: join", Api.JOIN_GROUP, 9, ask.join(g, member))
    generation = joined.generation_id
    assigned = [(member, build_assignment(1, {"t": [0, 1]}))]
    s.ask("downgraded: sync", Api.SYNC_GROUP, 5, ask.sync(g, generation, member, assigned))
    s.modern("upgraded: c joins", g, "c", 0, **JOINS)
    s.ask("upgraded: heartbeat", Api.HEARTBEAT, 4, ask.beat(g, generation, member))
    s.ask("upgraded: sync", Api.SYNC_GROUP, 5, ask.sync(g, generation, member))
    protocols = (("range", build_subscription(1, ["t"], {"t": [0]})),)
    joined = s.ask("upgraded: join", Api.JOIN_GROUP, 9, ask.join(g, member, protocols=protocols))
    s.ask("upgraded: sync again", Api.SYNC_GROUP, 5, ask.sync(g, joined.generation_id, member))
    s.modern("upgraded: c beats", g, "c", joined.generation_id, owned=[])
    s.ask("upgraded: leave", Api.LEAVE_GROUP, 5, ask.leave(g, (member, None)))
    s.modern("upgraded: c leaves", g, "c", -1)


def modern_static(s: Scene) -> None:
    g = "modern static"
    s.modern("static: a joins", g, "a", 0, instance="i", **JOINS)
    s.modern("static: b comes too early", g, "b", 0, instance="i", **JOINS)
    s.modern("static: a with another instance", g, "a", 1, instance="k")
    s.modern("static: a leaves for a while", g, "a", -2, instance="i")
    s.ask("static: describe", Api.CONSUMER_GROUP_DESCRIBE, 1, ask.describe_modern(g))
    s.modern("static: b comes back for it", g, "b", 0, instance="i", **JOINS)
    s.modern("static: a is fenced", g, "a", 1, instance="i")
    s.modern("static: b beats", g, "b", 1, instance="i")
    s.modern("static: b subscribes more", g, "b", 1, instance="i", topics=["t", "u"])
    s.modern("static: b wants range", g, "b", 2, instance="i", assignor="range")
    s.modern("static: b subscribes nothing", g, "b", 2, instance="i", topics=[])
    s.ask("static: describe again", Api.CONSUMER_GROUP_DESCRIBE, 1, ask.describe_modern(g))
    s.modern("static: b has let go", g, "b", 2, instance="i", owned=[])
    s.modern("static: b leaves", g, "b", -1, instance="i")
    s.modern("static: b leaves again", g, "b", -1, instance="i")
    s.ask("static: delete", Api.DELETE_GROUPS, 2, ask.delete(g))


SCENES: list[Callable[[Scene], None]] = [
    missing_groups,
    refused_requests,
    simple_groups,
    classic_lives,
    static_members,
    other_types,
    modern_life,
    migrations,
    modern_static,
]


def answers_of(broker: Broker) -> dict[str, object]:
    with broker:
        broker.start()
        ids = prepare(broker, {"t": 2, "u": 1})
        notes = Notes(broker.port)
        for scene in SCENES:
            scene(Scene(notes, ids))
        notes.close()
        return notes.answers


def main() -> int:
    trivium = partial(Trivium, config="[groups]\ninitial_rebalance_delay_ms = 0\n")
    kafka = partial(ApacheKafka, settings={"group.initial.rebalance.delay.ms": "0"})
    return compare(answers_of, trivium, kafka, DELIBERATE)


if __name__ == "__main__":
    sys.exit(main())
