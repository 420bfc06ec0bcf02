"""Shared subscriptions (MQTT 5 section 4.8.2): one cursor in the log for all members, each message to one of them.

Members take turns; one that is away or whose window is full is passed over, and when nobody has room the log waits.
QoS 1 messages that a member has not acknowledged when its session ends are given to another ([MQTT-4.8.2-5]); QoS 2
stays with its member ([MQTT-4.8.2-4]). What was in flight to members without a durable session is stored with the
group's position, so that it is given out again after a kill.
"""

from __future__ import annotations

from core import sessions as stored
from core.state import Change
from gateway.protocols.mqtt import session as ses
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.session import Subscription

AGAIN_MAX = 100_000  # messages of members that left, for one group


class Group:
    """One `$share/NAME/FILTER`. `position`, `offsets`, `live`, `queued`, `catching_up` as of a device."""

    def __init__(self, name: str, filter_: str, number: int, position: int) -> None:
        self.name = name
        self.filter = filter_
        self.number = number
        self.members: dict[Device, Subscription] = {}
        self.order: list[Device] = []
        self.turn = 0
        self.live = False
        self.position = position
        self.offsets: dict[int, int] = {}
        self.queued = self.catching_up = False
        self.dirty = False
        self.pending = True
        self.select("")
        self.again: list[tuple[int, int]] = []  # (partition, offset) to be given to another member

    def select(self, selection: str) -> None:
        """Sets the members' filter over properties, empty for none."""
        self.selection = selection
        self.selections = frozenset([selection] if selection else [])

    def contradicts(self, device: Device, selection: str) -> bool:
        """Whether another member has a different filter."""
        return selection != self.selection and any(member is not device for member in self.members)

    @property
    def present(self) -> bool:
        """Whether any member is connected."""
        return any(device.connection is not None for device in self.order)

    @property
    def durable(self) -> bool:
        """Whether its place is to outlive the broker."""
        return any(device.session.durable for device in self.order)

    def give_up(self) -> None:
        """Delivery failed by a fault of ours: the members' sessions stay."""
        for device in self.order:
            device.give_up()

    def join(self, device: Device, subscription: Subscription) -> None:
        if device not in self.members:
            self.order.append(device)
            device.groups.append(self.number)
        self.members[device] = subscription

    def leave(self, device: Device) -> None:
        if self.members.pop(device, None) is not None:
            self.order.remove(device)
            device.groups.remove(self.number)

    def take_back(self, device: Device) -> None:
        """The member's session ends: its unacknowledged QoS 1 messages go to others."""
        self.again.extend(self._unacknowledged(device))
        del self.again[AGAIN_MAX:]

    def _unacknowledged(self, device: Device) -> list[tuple[int, int]]:
        return [
            (delivery.partition, delivery.offset)
            for delivery in (device.session.inflight or {}).values()
            if delivery.group == self.number and delivery.state == ses.QOS1_SENT
        ]

    def in_turn(self) -> list[Device]:
        """The connected members, beginning with the one whose turn it is."""
        self.turn = (self.turn + 1) % max(1, len(self.order))
        order = self.order[self.turn :] + self.order[: self.turn]
        return [device for device in order if device.connection is not None]

    def row(self, position: int, offsets: dict[int, int]) -> Change:
        """Its place in the log, to be stored."""
        again = list(self.again)
        for device in self.order:
            if not device.session.durable:
                again += self._unacknowledged(device)
        self.dirty = False
        return stored.group_change(self.name, position, offsets, again[:AGAIN_MAX])
