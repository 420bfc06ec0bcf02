"""One queue group: what its members do with what they have, beside what all have in common (`queue_members`). No I/O,
no clock.

A member is there for as long as its connection is, and `rejoin_ms` longer: who comes back under its name in that time
keeps what it had. It gets messages while it has credit: never more messages than it granted; bytes it may exceed by one
batch, or a large message could never be handed out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from core.bitmaps import bits, full
from core.filters import levels_match
from core.queue_codec import GroupRow
from core.queue_leases import Lease
from core.queue_members import Holder, Holders
from core.queue_partition import QueuePartition
from core.queue_traces import QueueTraces
from core.queue_types import (
    DELAY_MS_MAX,
    REASON_CHARS_MAX,
    Handout,
    Order,
    QueueLimits,
    Settle,
    Settled,
    Subscription,
    Verb,
)
from core.selectors import selector_of
from core.tracing import Actor
from trivium.records import Record

TIMED_OUT: Final = "not settled in time"
Matches = Callable[[Record], bool]


class Member(Holder):
    """One consumer. `take` gets what is handed out, on the loop, and must not block; `owner` is the front-end's."""

    __slots__ = (
        "actor",
        "blocked",
        "credit_bytes",
        "credit_messages",
        "outgoing",
        "owner",
        "places",
        "received",
        "take",
    )

    def __init__(self, member_id: str, actor: Actor, take: Callable[[list[Handout]], None]) -> None:
        super().__init__(member_id)
        self.actor = actor
        self.take = take
        self.owner: object = None
        self.blocked = False  # it does not read what it was sent
        self.credit_messages = self.credit_bytes = 0
        self.outgoing: list[Handout] = []
        self.places: set[tuple[str, int]] | None = None  # (topic, index) that it may be handed from; None: any
        self.received: tuple[int, list[Handout]] = (0, [])  # the last receive's id and answer

    @property
    def has_credit(self) -> bool:
        return self.connected and not self.blocked and self.credit_messages > 0 and self.credit_bytes > 0

    def wants(self, queue: QueuePartition) -> bool:
        return self.has_credit and (self.places is None or (queue.topic, queue.index) in self.places)


def matcher(subscription: Subscription) -> Matches | None:
    """Which records the group wants; None for all."""
    selects = selector_of(subscription.selector) if subscription.selector else None
    if not subscription.key_pattern or subscription.key_pattern == "#":
        return selects
    pattern = subscription.key_pattern.split("/")

    def matches(record: Record) -> bool:
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError:
            return False
        return record.key is not None and levels_match(pattern, key.split("/"), 0) and (not selects or selects(record))

    return matches


class QueueGroup(Holders[Member]):
    """See the module."""

    def __init__(
        self,
        group_id: str,
        row: GroupRow,
        limits: QueueLimits,
        wake: Callable[[], None],
        traces: QueueTraces | None = None,
    ) -> None:
        super().__init__(group_id, row.subscription, row.policy, limits, wake)
        self._traces = traces
        self.paused: bool
        self.is_share: bool
        self.left_ms: int  # of a broadcast: wall clock since when it has no members, 0 when it has, or did a moment ago
        self.committed_only = True  # nothing of open or aborted transactions is handed out
        self.matches: Matches | None = None
        self.set_row(row)
        self.queues: dict[tuple[str, int], QueuePartition] = {}
        self.dying: deque[tuple[QueuePartition, int]] = deque()

    @property
    def row(self) -> GroupRow:
        return GroupRow(self.subscription, self.policy, self.paused, self.is_share, self.left_ms)

    def set_row(self, row: GroupRow) -> None:
        self.subscription, self.policy, self.paused, self.is_share, self.left_ms = row
        self.matches = None if row.subscription is None else matcher(row.subscription)

    @property
    def order(self) -> Order:
        return Order.NONE if self.subscription is None else self.subscription.order

    @property
    def broadcast(self) -> bool:
        return self.subscription is not None and self.subscription.broadcast

    # -- members

    def join(self, member: Member, held: Collection[int], now_ms: int) -> None:
        """Lets it in. Of what it had, when it comes back, it keeps the leases that it still knows."""
        before = self.members.get(member.id)
        if before is not None:
            member.received = before.received
            held = {*held, *(handout.lease for handout in before.received[1])}
        super().join(member, held, now_ms)

    def leave(self, member: Member, now_ms: int, *, failed: bool) -> None:
        """It goes for good: what it has goes to others; `failed`: and has failed."""
        if self._is_current(member):
            if not failed:
                self.give_back(member.id, now_ms)
            self._forget(member, now_ms)

    def lost(self, member: Member, now_ms: int) -> None:
        """Its connection is gone; it may come back."""
        if self._is_current(member):
            member.connected = False
            member.credit_messages = member.credit_bytes = 0
            self._cut(member, now_ms + self.policy.rejoin_ms)

    def _is_current(self, member: Member) -> bool:
        return self.members.get(member.id) is member

    def _forget(self, member: Member, until_ms: int) -> None:
        self.retire(member)
        self._cut(member, until_ms)

    def _cut(self, member: Member, until_ms: int) -> None:
        for queue in self.busy:
            queue.cut(member.id, until_ms)
        self.wake()

    def grant(self, member: Member, messages: int, size_bytes: int) -> None:
        """The member can take so much more."""
        member.credit_messages += messages
        member.credit_bytes += size_bytes
        self.wake()

    def next_member(self, queue: QueuePartition) -> Member | None:
        """Whose turn it is to get something from there."""
        return next((member for member in self.in_turn() if member.wants(queue)), None)

    def demands(self, queue: QueuePartition) -> bool:
        """Whether anybody would take something from there."""
        return not self.paused and any(member.wants(queue) for member in self._turns)

    def hand(self, member: Member, handout: Handout, messages: int) -> None:
        member.credit_messages -= messages
        member.credit_bytes -= len(handout.batch)
        member.outgoing.append(handout)

    def send_out(self) -> None:
        """Gives members what has been handed to them."""
        for member in self._turns:
            if member.outgoing:
                outgoing, member.outgoing = member.outgoing, []
                if self._traces is not None:
                    self._traces.delivered(self.id, member.actor, outgoing)
                member.take(outgoing)

    # -- settling

    def settle(self, settles: Sequence[Settle], actor: Actor, now_ms: int) -> list[Settled]:
        """Takes effect in memory at once; whoever asked is answered when it is durable."""
        answers = [self._settle(one, now_ms) for one in settles]
        if self._traces is not None:
            self._traces.settled(self.id, actor, settles, answers)
        self.wake()
        return answers

    def _settle(self, one: Settle, now_ms: int) -> Settled:
        if not 0 <= one.first <= one.last < one.first + self.limits.window_offsets_max:
            return Settled.INVALID
        if one.delay_ms > DELAY_MS_MAX:
            return Settled.INVALID
        queue = self.queues.get((one.topic, one.partition))
        if queue is None or one.lease <= queue.void_before:
            return Settled.LATE
        self.touch(queue)
        if one.verb is Verb.EXTEND:
            more_ms = one.delay_ms if one.delay_ms >= 0 else self.policy.invisible_ms
            return Settled.DONE if queue.extend(one.lease, one.first, one.last, now_ms + more_ms) else Settled.LATE
        if one.verb is Verb.ACK:
            reach = queue.floor + self.limits.window_offsets_max
            done = queue.acknowledge(one.lease, one.first, one.last, reach)
            return Settled.DONE if done else Settled.LATE
        lease, taken, _ = queue.settle(one.lease, one.first, one.last)
        for bit in bits(taken):
            self._refuse(queue, lease, one.first + bit, one, now_ms)
        return Settled.DONE if taken == full(one.last - one.first + 1) else Settled.LATE

    def _refuse(self, queue: QueuePartition, lease: Lease | None, offset: int, one: Settle, now_ms: int) -> None:
        before = queue.failed.get(offset)
        late = before is not None and not before.leased  # its time was over, which counted
        attempts = before.attempts if late and before is not None else 0 if lease is None else lease.attempt
        if one.verb is Verb.POSTPONE and not late:
            attempts -= 1
        dies = one.verb is Verb.REJECT or (one.verb is Verb.NACK and attempts >= self.policy.attempts_max)
        wait_ms = one.delay_ms
        if wait_ms < 0:
            wait_ms = 0 if one.verb is Verb.POSTPONE else self.policy.backoff(max(attempts, 1))
        self._fail(queue, offset, attempts, now_ms + wait_ms, one.reason or one.verb.name.lower(), one.lease, dies=dies)

    def _fail(
        self, queue: QueuePartition, offset: int, attempts: int, when_ms: int, reason: str, lease: int, *, dies: bool
    ) -> None:
        failed = queue.fail(offset, attempts, when_ms, reason[:REASON_CHARS_MAX], lease)
        if dies:
            failed.dying = True
            self.dying.append((queue, offset))

    def buried(self, queue: QueuePartition, offset: int) -> None:
        """It is a dead letter, durably."""
        if self._traces is not None:
            self._traces.buried(self.id, queue, offset)
        queue.dead(offset)
        self.touch(queue)

    def sweep(self, now_ms: int) -> None:
        """What has run out of time fails; members that did not come back are forgotten."""
        for queue in list(self.busy):
            for expired in queue.expire(now_ms):
                lease, mask = expired
                if self._traces is not None:
                    owner = self.members.get(lease.member)
                    actor = Actor("", lease.member, "") if owner is None else owner.actor
                    self._traces.expired(self.id, actor, queue, expired)
                for bit in bits(mask):
                    dies = lease.attempt >= self.policy.attempts_max
                    offset = lease.first + bit
                    self._fail(queue, offset, lease.attempt, now_ms, TIMED_OUT, lease.id, dies=dies)
            due_ms = queue.next_due_ms()
            if due_ms is not None and due_ms <= now_ms:
                self.touch(queue)
        gone = [member for member in self.members.values() if not member.connected]
        if gone:
            held = self.held()
            for member in gone:
                if member.id not in held:
                    self._forget(member, now_ms)

    def next_time_ms(self, now_ms: int) -> int | None:
        """When `sweep` has something to do, or something can be handed out again to who has credit. One that is awake
        because more waits behind what has failed may have to be looked at again just then.
        """
        times = [time for queue in self.busy if (time := queue.next_expiry_ms()) is not None]
        times += [
            time
            for queue in self.busy
            if (time := queue.next_due_ms()) is not None
            and (time > now_ms or queue not in self.awake)
            and self.demands(queue)
        ]
        return min(times, default=None)

    def loaded(self) -> None:
        """After a start: what had failed for the last time goes on becoming a dead letter."""
        for queue in self.queues.values():
            for offset, failed in queue.failed.items():
                if failed.dying or failed.attempts >= self.policy.attempts_max:
                    failed.dying = True
                    self.dying.append((queue, offset))
