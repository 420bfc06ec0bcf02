"""Who is handed messages one by one, and what becomes of what each has: turns, and leases of members that go.

Queue groups (`queue_group`) and the shared subscriptions of MQTT are both this; what differs is who reads the log for
them, and the policy. No I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final, Generic, TypeVar

from core.bitmaps import bits
from core.errors import CoreError, CoreFailure
from core.queue_partition import QueuePartition
from core.queue_types import REASON_CHARS_MAX, Policy, QueueLimits, Subscription

NOT_ARRIVED: Final = "lost with a connection"
GIVEN_BACK: Final = "given back"


class Holder:
    """One that messages are handed to. It has them under its `id`, which may outlive a connection."""

    __slots__ = ("connected", "id")

    def __init__(self, member_id: str, connected: bool = True) -> None:
        self.id = member_id
        self.connected = connected


H = TypeVar("H", bound=Holder)


class Holders(Generic[H]):
    """See the module. `wake` is called when there may be something to hand out."""

    def __init__(
        self,
        group_id: str,
        subscription: Subscription | None,
        policy: Policy,
        limits: QueueLimits,
        wake: Callable[[], None],
    ) -> None:
        self.id = group_id
        self.subscription = subscription
        self.policy = policy
        self.limits = limits
        self.wake = wake
        self.members: dict[str, H] = {}
        self.awake: dict[QueuePartition, None] = {}  # those that may have something to hand out, in turn
        self.busy: dict[QueuePartition, None] = {}  # those that time or the log can change
        self._turns: deque[H] = deque()

    def touch(self, queue: QueuePartition) -> None:
        """Something has changed in the queue."""
        self.awake[queue] = self.busy[queue] = None

    # -- members

    def check_join(self, member_id: str, subscription: Subscription) -> None:
        """Raises CoreFailure when a member with this subscription cannot be let in."""
        ours = self.subscription
        if ours is None or ours.same(subscription):
            if member_id not in self.members and len(self.members) >= self.limits.members_max:
                raise CoreFailure(CoreError.GROUP_FULL)
            return
        others = len(self.members) - (member_id in self.members)
        if others or ours.order is not subscription.order:
            why = f"has {others} other members" if others else "keeps its order until it is deleted"
            raise CoreFailure(
                CoreError.CONTRADICTS_GROUP,
                f"group {self.id!r} {why} and reads: {ours.describe()}. This member asks: {subscription.describe()}",
            )

    def join(self, member: H, held: Collection[int], now_ms: int) -> None:
        """Lets it in. Of what it had, when it comes back, it keeps the leases that it still knows."""
        before = self.members.get(member.id)
        if before is not None:
            self.away(before)
            for queue in list(self.busy):
                self._take_back(queue, member.id, held, NOT_ARRIVED, now_ms)
                queue.prolong(member.id, now_ms + self.policy.invisible_ms)
                self.touch(queue)
        self.members[member.id] = member
        if member.connected:
            self._turns.append(member)
        self.wake()

    def away(self, member: H) -> None:
        """It gets nothing until it is `back`. What it has it keeps."""
        member.connected = False
        if member in self._turns:
            self._turns.remove(member)

    def back(self, member: H) -> None:
        """It takes part again."""
        member.connected = True
        self._turns.append(member)
        self.wake()

    def retire(self, member: H) -> None:
        """It is no member any more. What it has stays its own until it is settled or given back."""
        del self.members[member.id]
        self.away(member)

    def give_back(self, member_id: str, now_ms: int) -> None:
        """What it has goes to others; that was no attempt."""
        for queue in list(self.busy):
            self._take_back(queue, member_id, (), GIVEN_BACK, now_ms)
        self.wake()

    def _take_back(
        self, queue: QueuePartition, member_id: str, kept: Collection[int], reason: str, now_ms: int
    ) -> None:
        for lease, mask in queue.release(member_id, kept):
            self.touch(queue)
            for bit in bits(mask):
                queue.fail(lease.first + bit, lease.attempt - 1, now_ms, reason[:REASON_CHARS_MAX], lease.id)

    def in_turn(self) -> Iterator[H]:
        """The members that are there, beginning with the one whose turn it is; each that is asked has had its turn."""
        turns = self._turns
        for _ in range(len(turns)):
            member = turns[0]
            turns.rotate(-1)
            yield member

    @property
    def first(self) -> H | None:
        """Whose turn it is. `pass_turn` when that has got something."""
        return self._turns[0] if self._turns else None

    def pass_turn(self) -> None:
        self._turns.rotate(-1)

    def held(self) -> dict[str, int]:
        """Member -> how many messages it has and has not settled."""
        found: dict[str, int] = {}
        for queue in self.busy:
            for lease in queue.leases.values():
                found[lease.member] = found.get(lease.member, 0) + lease.pending.bit_count()
        return found
