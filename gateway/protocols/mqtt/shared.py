"""Shared subscriptions (MQTT 5 section 4.8.2): queues of the core (core.queue_members, core.queue_partition), read for
all members by one cursor in the log, as a device's is.

The policy: no time-out and no last attempt. QoS 1 is its member's until it is acknowledged, whatever the answer
([MQTT-4.8.2-6]), or the member's session ends: then it goes to another. QoS 2 ([MQTT-4.8.2-4]) and QoS 0 stay with whom
they were handed to, so for the group they are done.

There is a queue only of partitions in which members have something, so a filter over many topics costs nothing where
nothing happens. What lies before the cursor in a partition without a queue is done. Rows of queues are stored with the
cursor; after a restart a partition is read again from its queue's floor, without what is done, and durable members
claim what they had in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Final

from core import sessions as stored
from core.queue_members import Holder, Holders
from core.queue_partition import QueuePartition
from core.queue_types import FOREVER_MS, Policy, QueueLimits
from core.queue_types import Subscription as Reads
from core.state import Change
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.properties import encode_property
from gateway.protocols.mqtt.session import Delivery, Subscription

if TYPE_CHECKING:
    from gateway.protocols.mqtt.devices import Device

SHARED_POLICY: Final = Policy(invisible_ms=FOREVER_MS, attempts_max=FOREVER_MS, backoff_ms=(0,), rejoin_ms=FOREVER_MS)
SHARED_LIMITS: Final = QueueLimits(members_max=1_000_000)  # what members have is bounded by their own windows
WINDOW_OFFSETS: Final = 65_536  # a message that a member has for longer than that is set aside


class ShareMember(Holder):
    """A session that has the subscription."""

    __slots__ = ("device", "identifiers", "qos", "retain_as_published")

    def __init__(self, device: Device, subscription: Subscription) -> None:
        super().__init__(device.session.client_id, device.connection is not None)
        self.device = device
        self.update(subscription)

    def update(self, subscription: Subscription) -> None:
        self.qos = subscription.qos
        self.retain_as_published = subscription.retain_as_published
        identifier = subscription.identifier
        self.identifiers = encode_property(props.SUBSCRIPTION_ID, [identifier]) if identifier else b""


class Group(Holders[ShareMember]):
    """One `$share/NAME/FILTER`, by that name. `position`, `offsets`, `live`, `queued`, `catching_up` as of a device."""

    def __init__(self, name: str, filter_: str, number: int, position: int, wake: Callable[[Group], None]) -> None:
        super().__init__(name, None, SHARED_POLICY, SHARED_LIMITS, lambda: wake(self))
        self.filter = filter_
        self.number = number
        self.live = False
        self.position = position
        self.offsets: dict[int, int] = {}
        self.queued = self.catching_up = False
        self.dirty = False  # what is stored is behind
        self.stored = False  # something is
        self.pending = True
        self.queues: dict[int, QueuePartition] = {}
        self.selections: frozenset[str] = frozenset()
        self._leases = count(1)

    # -- members

    def reads(self, selection: str) -> Reads:
        """What a member with this filter over properties (empty for none) asks for."""
        return Reads((self.filter,), selector=selection)

    def share(self, device: Device, subscription: Subscription) -> None:
        """Lets a session in, or changes its options; `check_join` has let it."""
        self.subscription = self.reads(subscription.selection)
        self.selections = frozenset([subscription.selection] if subscription.selection else [])
        member = self.members.get(device.session.client_id)
        self.dirty = True
        if member is not None:
            member.update(subscription)
            return
        if self.id not in device.groups:
            device.groups.append(self.id)
        self.join(ShareMember(device, subscription), (), 0)

    def unshare(self, device: Device) -> None:
        """It gets nothing more; what is in flight to it stays so ([MQTT-3.10.4-3])."""
        member = self.members.get(device.session.client_id)
        if member is not None:
            self.retire(member)
            self.dirty = True
            if not self.holds(device):
                device.groups.remove(self.id)

    def holds(self, device: Device) -> bool:
        """Whether something in flight to a session is to go to others when it ends."""
        return any(one.lease and one.group == self.id for one in (device.session.inflight or {}).values())

    def connected(self, device: Device) -> None:
        member = self.members.get(device.session.client_id)
        if member is not None:
            self.back(member)

    def disconnected(self, device: Device) -> None:
        member = self.members.get(device.session.client_id)
        if member is not None:
            self.away(member)

    @property
    def name(self) -> str:
        return self.id

    @property
    def present(self) -> bool:
        """Whether any member is connected."""
        return bool(self._turns)

    @property
    def durable(self) -> bool:
        """Whether its place is to outlive the broker."""
        return any(member.device.session.durable for member in self.members.values())

    def give_up(self) -> None:
        """Delivery failed by a fault of ours: the members' sessions stay."""
        for member in self.members.values():
            member.device.give_up()

    # -- messages

    def next_lease(self) -> int:
        return next(self._leases)

    def is_new(self, partition: int, offset: int) -> bool:
        """Whether a message before which everything was handed out was not."""
        queue = self.queues.get(partition)
        return queue is None or (offset >= queue.end and bool(queue.undone(offset, 1)))

    def hand_out(
        self, lease: int, member: ShareMember, partition: int, offset: int, again: QueuePartition | None
    ) -> None:
        """A message is in flight to a member at QoS 1. `again`: the queue in which it was due; None: it is new."""
        if again is not None:
            again.hand_again(lease, member.id, offset, FOREVER_MS)
            return
        queue = self.queues.get(partition)
        if queue is None:
            queue = self._open(partition, offset)
        elif offset - queue.floor >= WINDOW_OFFSETS:
            queue.set_aside(0)
        queue.hand_out(lease, member.id, offset, FOREVER_MS)
        self.busy[queue] = None

    def over(self, partition: int, offset: int, again: QueuePartition | None) -> None:
        """A message is done for the group; arguments as of `hand_out`."""
        queue = self.queues.get(partition)
        if again is not None:
            again.complete(offset, 1)
        elif queue is not None and offset >= queue.end:
            if offset - queue.floor >= WINDOW_OFFSETS:
                queue.set_aside(0)
            queue.skip(queue.end, offset + 1)
            queue.end = offset + 1

    def _open(self, partition: int, floor: int) -> QueuePartition:
        queue = self.queues[partition] = QueuePartition(self.id, "", partition, partition, floor)
        return queue

    def acknowledged(self, delivery: Delivery) -> None:
        """A delivery at QoS 1 is over."""
        queue = self.queues.get(delivery.partition)
        if queue is not None:
            queue.acknowledge(delivery.lease, delivery.offset, delivery.offset)
            self.dirty = True

    def claim(self, member_id: str, delivery: Delivery, floor: int) -> Delivery:
        """What a member had in flight before a restart. `floor`: where the partition stands if it has no queue."""
        queue = self.queues.get(delivery.partition)
        if queue is None:
            queue = self._open(delivery.partition, floor)
            self.offsets[delivery.partition] = floor
        lease = self.next_lease()
        self.busy[queue] = None
        return delivery._replace(lease=lease if queue.claim(lease, member_id, delivery.offset, FOREVER_MS) else 0)

    def rewind(self, offsets: dict[int, int]) -> None:
        """It goes on elsewhere in these partitions; leases there are void."""
        for partition, offset in offsets.items():
            queue = self.queues.get(partition)
            if queue is not None:
                queue.reset(offset, -1)

    # -- what is stored

    def load(self, place: stored.GroupRow, queues: Iterable[QueuePartition]) -> None:
        """Its place as it was left."""
        self.position, self.offsets = place.position, place.offsets
        for queue in queues:
            self.queues[queue.partition] = queue
            self.offsets[queue.partition] = queue.floor
            self.touch(queue)

    def changes(self, place: stored.GroupRow, exists: Callable[[int], bool]) -> tuple[list[Change], Stored]:
        """The rows to write, and what is to be told whether they are durable. `exists(partition)`."""
        self.dirty = False
        self.stored = True
        found = [stored.group_change(self.id, place)]
        written: list[QueuePartition] = []
        over: list[QueuePartition] = []
        for queue in self.queues.values():
            if not exists(queue.partition) or self._at_rest(queue):
                found += queue.all_gone()
                queue.write_all()  # if something comes before that is durable
                over.append(queue)
            elif queue.is_dirty:
                found += queue.changes(lambda _: 0)
                written.append(queue)

        def durable(done: bool) -> None:
            for queue in written:
                if done:
                    queue.written()
                else:
                    queue.not_written()
            self.dirty |= not done
            for queue in over:
                ended = self._at_rest(queue) or not exists(queue.partition)
                if done and ended and self.queues.get(queue.partition) is queue:
                    self._drop(queue)

        return found, durable

    def drop_idle(self) -> None:
        """Nothing is stored: lets go of partitions in which nobody has anything."""
        self.dirty = False
        for queue in [queue for queue in self.queues.values() if self._at_rest(queue)]:
            self._drop(queue)

    def _at_rest(self, queue: QueuePartition) -> bool:
        """Whether the cursor says all that the queue does. After a restart it may be behind what members claimed."""
        return queue.is_idle and (self.live or self.offsets.get(queue.partition, queue.end) >= queue.end)

    def _drop(self, queue: QueuePartition) -> None:
        del self.queues[queue.partition]
        self.busy.pop(queue, None)
        self.awake.pop(queue, None)

    def gone(self) -> list[Change]:
        """What takes away all rows."""
        return [
            stored.group_change(self.id, None),
            *(change for queue in self.queues.values() for change in queue.all_gone()),
        ]


Stored = Callable[[bool], None]
