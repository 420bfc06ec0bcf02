"""Server-side assignors of KIP-848: which member is to own which partition. Pure functions.

* `uniform`: everybody gets as many as everybody else (give or take one), and keeps what it had as far as that allows.
* `range`: topic by topic, members in order get contiguous ranges, so that partition i of topics with equal counts
  lands on one member.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import NamedTuple

Assignment = dict[bytes, set[int]]  # topic id -> partitions
_Partition = tuple[bytes, int]


class MemberSpec(NamedTuple):
    instance_id: str | None
    topics: set[bytes]  # topic ids, subscribed and existing
    previous: Mapping[bytes, set[int]]  # its present target


Assignor = Callable[[Mapping[str, MemberSpec], Mapping[bytes, int]], dict[str, Assignment]]


def assign_range(members: Mapping[str, MemberSpec], topics: Mapping[bytes, int]) -> dict[str, Assignment]:
    """`topics` maps topic ids to partition counts."""
    result: dict[str, Assignment] = {member_id: {} for member_id in members}
    # Static members first and by instance id: a restart under a new member id changes nothing.
    order = sorted(members, key=lambda m: (members[m].instance_id is None, members[m].instance_id or m))
    for topic_id in sorted(topics):
        subscribers = [member_id for member_id in order if topic_id in members[member_id].topics]
        if not subscribers:
            continue
        each, extra = divmod(topics[topic_id], len(subscribers))
        start = 0
        for index, member_id in enumerate(subscribers):
            end = start + each + (index < extra)
            if end > start:
                result[member_id][topic_id] = set(range(start, end))
            start = end
    return result


def assign_uniform(members: Mapping[str, MemberSpec], topics: Mapping[bytes, int]) -> dict[str, Assignment]:
    """`topics` maps topic ids to partition counts."""
    if not members:
        return {}
    first = next(iter(members.values())).topics
    if all(spec.topics == first for spec in members.values()):
        return _uniform_alike(members, {topic_id: topics[topic_id] for topic_id in first})
    return _uniform_mixed(members, topics)


def _uniform_alike(members: Mapping[str, MemberSpec], topics: Mapping[bytes, int]) -> dict[str, Assignment]:
    """All members subscribe the same topics: linear in partitions and members."""
    each, extra = divmod(sum(topics.values()), len(members))
    free = {(topic_id, partition) for topic_id, count in topics.items() for partition in range(count)}
    kept: dict[str, list[_Partition]] = {}
    for member_id, spec in members.items():
        had = [(t, p) for t, partitions in spec.previous.items() for p in sorted(partitions) if (t, p) in free]
        kept[member_id] = had[: each + 1]
        free.difference_update(kept[member_id])
    # Whoever kept one more than its share may stay so while extras last; the others give it back.
    for partitions in kept.values():
        if len(partitions) > each:
            if extra:
                extra -= 1
            else:
                free.add(partitions.pop())
    waiting = sorted(free, reverse=True)
    for partitions in kept.values():
        missing = each - len(partitions)
        if missing >= 0 and extra and len(partitions) <= each:
            missing += 1
            extra -= 1
        for _ in range(max(missing, 0)):
            partitions.append(waiting.pop())
    return {member_id: _by_topic(partitions) for member_id, partitions in kept.items()}


def _uniform_mixed(members: Mapping[str, MemberSpec], topics: Mapping[bytes, int]) -> dict[str, Assignment]:
    """Subscriptions differ: keeps what can be kept, gives the rest to the least loaded, then evens out."""
    subscribers = {t: [m for m, spec in members.items() if t in spec.topics] for t in topics}
    owner: dict[_Partition, str] = {}
    load = dict.fromkeys(members, 0)
    for member_id, spec in members.items():
        for topic_id, partitions in spec.previous.items():
            for partition in partitions:
                place = (topic_id, partition)
                if topic_id in spec.topics and partition < topics.get(topic_id, 0) and place not in owner:
                    owner[place] = member_id
                    load[member_id] += 1
    for topic_id in sorted(topics, key=lambda t: (len(subscribers[t]), t)):
        heap = [(load[m], m) for m in subscribers[topic_id]]
        heapq.heapify(heap)
        for partition in range(topics[topic_id]):
            if heap and (topic_id, partition) not in owner:
                _, member_id = heap[0]
                owner[topic_id, partition] = member_id
                load[member_id] += 1
                heapq.heapreplace(heap, (load[member_id], member_id))
    _even_out(owner, load, subscribers)
    result: dict[str, Assignment] = {member_id: {} for member_id in members}
    for (topic_id, partition), member_id in owner.items():
        result[member_id].setdefault(topic_id, set()).add(partition)
    return result


def _even_out(owner: dict[_Partition, str], load: dict[str, int], subscribers: Mapping[bytes, list[str]]) -> None:
    """Moves single partitions to a subscriber with at least two less. Each move lowers the sum of squares, so it
    ends.
    """
    moved = True
    while moved:
        moved = False
        for place, member_id in owner.items():
            least = min(subscribers[place[0]], key=load.__getitem__)
            if load[member_id] > load[least] + 1:
                owner[place] = least
                load[member_id] -= 1
                load[least] += 1
                moved = True


def _by_topic(partitions: list[_Partition]) -> Assignment:
    result: Assignment = {}
    for topic_id, partition in partitions:
        result.setdefault(topic_id, set()).add(partition)
    return result


ASSIGNORS: dict[str, Assignor] = {"uniform": assign_uniform, "range": assign_range}
DEFAULT_ASSIGNOR = "uniform"
