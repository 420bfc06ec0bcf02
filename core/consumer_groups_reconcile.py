"""Moves a KIP-848 member towards its target, as far as it can go now (Kafka's CurrentAssignmentBuilder).

First it must give up what is not in its target: it stays in its epoch until it reports that it owns nothing of that
any more. Then it goes to
the target's epoch and gets whatever is free; what others still hold it waits for.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.consumer_group import ConsumerGroup, ConsumerMember, Epochs, MemberState

Owned = Mapping[bytes, set[int]]  # topic id -> partitions, as the member reports them


def reconcile(
    group: ConsumerGroup, member: ConsumerMember, topic_ids: set[bytes], owned: Owned | None, *, strip: bool
) -> ConsumerMember:
    """The member as it is now: the same object when nothing can move.

    `topic_ids` are those it subscribes, `owned` None when it did not say, `strip`: its subscription changed, so that
    what it no longer
    subscribes is taken at once.
    """
    if member.state is MemberState.STABLE and member.epoch == group.target_epoch:
        return _strip(member, topic_ids, owned) if strip else member
    if member.state is MemberState.UNREVOKED and _owns(owned, member.revoking):
        return _strip(member, topic_ids, owned) if strip else member
    return _advance(group, member, topic_ids, owned)


def _owns(owned: Owned | None, revoking: Epochs) -> bool:
    """Whether the member still has any of these. One that does not say might."""
    if owned is None:
        return True
    return any(not revoking[topic_id].keys().isdisjoint(owned[topic_id]) for topic_id in revoking if topic_id in owned)


def _strip(member: ConsumerMember, topic_ids: set[bytes], owned: Owned | None) -> ConsumerMember:
    assigned = {t: partitions for t, partitions in member.assigned.items() if t in topic_ids}
    if len(assigned) == len(member.assigned):
        return member
    revoking = {t: dict(partitions) for t, partitions in member.revoking.items()}
    for topic_id, partitions in member.assigned.items():
        if topic_id not in topic_ids:
            revoking.setdefault(topic_id, {}).update(partitions)
    if _owns(owned, revoking):
        return member.at(member.epoch, MemberState.UNREVOKED, assigned, revoking)
    return member.at(member.epoch, member.state, assigned, member.revoking)


def _advance(
    group: ConsumerGroup, member: ConsumerMember, topic_ids: set[bytes], owned: Owned | None
) -> ConsumerMember:
    target = group.targets.get(member.id, {})
    assigned: Epochs = {}
    revoking: Epochs = {}
    pending: dict[bytes, list[int]] = {}
    unreleased = False
    for topic_id in target.keys() | member.assigned.keys():
        wanted = target.get(topic_id, set()) if topic_id in topic_ids else set()
        have = member.assigned.get(topic_id, {})
        keep = {p: epoch for p, epoch in have.items() if p in wanted}
        give = {p: epoch for p, epoch in have.items() if p not in wanted}
        free = []
        for partition in sorted(wanted - have.keys()):
            if group.owners.get((topic_id, partition), member.id) == member.id:
                free.append(partition)
            else:
                unreleased = True
        if keep:
            assigned[topic_id] = keep
        if give:
            revoking[topic_id] = give
        if free:
            pending[topic_id] = free
    if revoking and _owns(owned, revoking):
        return member.at(member.epoch, MemberState.UNREVOKED, assigned, revoking)
    for topic_id, partitions in pending.items():
        assigned.setdefault(topic_id, {}).update(dict.fromkeys(partitions, group.target_epoch))
    state = MemberState.UNRELEASED if unreleased else MemberState.STABLE
    moved = member.at(group.target_epoch, state, assigned, {})
    return member if _same(moved, member) else moved


def _same(moved: ConsumerMember, member: ConsumerMember) -> bool:
    """Nothing moved but the memory of the epoch before."""
    return (
        moved.epoch == member.epoch
        and moved.state is member.state
        and moved.assigned == member.assigned
        and moved.revoking == member.revoking
    )
