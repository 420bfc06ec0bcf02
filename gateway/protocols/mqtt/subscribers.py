"""Who subscribes to what: numbers, the index of subscriptions, and who gets a name.

A subscriber is a session or a shared subscription; in the index it is a number. Sessions at rest stand in the index
too, without a device.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final, NamedTuple

from core.matching import OPTIONS_BITS, OPTIONS_MASK, SubscriptionIndex
from core.topic_mapping import TopicMapping
from core.topics import Topic, Topics
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.properties import encode_property
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.pending import Pending
from gateway.protocols.mqtt.session import Subscription
from gateway.protocols.mqtt.shared import Group

PLANS_MAX: Final = 65_536
_SELECTED_SHIFT: Final = 32  # in the index's options: the subscription has a filter over properties
_IDENTIFIER_MASK: Final = (1 << 28) - 1


class Target(NamedTuple):
    """What one device gets of one name."""

    number: int
    qos: int
    published: bool
    identifiers: bytes
    no_local: bool
    selections: frozenset[str]  # empty: everything passes
    simple: bool  # nothing but the QoS is to be looked at


def options_of(subscription: Subscription) -> int:
    """A subscription as the index's options."""
    flags = subscription.qos | subscription.no_local << 2 | subscription.retain_as_published << 3
    return flags | subscription.identifier << 4 | bool(subscription.selection) << _SELECTED_SHIFT


def encoded_identifiers(identifiers: list[int]) -> bytes:
    return encode_property(props.SUBSCRIPTION_ID, identifiers) if identifiers else b""


class Subscribers:
    """`mapping` says in which topics the names that a filter matches lie now."""

    def __init__(self, topics: Topics, mapping: TopicMapping) -> None:
        self.index = SubscriptionIndex()
        self.devices: dict[int, Device] = {}  # by the session's number; not those at rest
        self.groups: dict[str, Group] = {}  # shared subscriptions, by `$share/NAME/FILTER`
        self.groups_by_number: dict[int, Group] = {}
        self.resting_pending = Pending()  # numbers at rest for which something has come
        self.number_max = 0  # of those that were given out
        self._topics = topics
        self._mapping = mapping
        self._numbers_free = array("I")
        self._topics_wanted: Counter[str] = Counter()  # topics that filters name; "" for those that name any
        self._plans: dict[str, list[Target]] = {}
        self._plans_version = -1

    # -- numbers -----------------------------------------------------------------------------------------------------

    def take_number(self) -> int:
        """A subscriber number that nobody has."""
        if self._numbers_free:
            return self._numbers_free.pop()
        self.number_max += 1
        return self.number_max

    def restore_numbers(self, taken: bytes | bytearray) -> None:
        """Those that are given out: `taken` has a byte for each number."""
        self.number_max = max(taken.rfind(1), 0)
        self._numbers_free = array("I", [number for number in range(1, self.number_max) if not taken[number]])

    def enter(self, device: Device) -> None:
        """A device that is no longer at rest; its subscriptions stand in the index."""
        self.devices[device.session.number] = device
        if device.selective:
            self.index.version += 1  # plans made meanwhile do not know its filters over properties

    def leave(self, device: Device) -> None:
        """A device goes to rest."""
        del self.devices[device.session.number]

    def end(self, device: Device) -> None:
        """The session is over, and its subscriptions are gone."""
        number = device.session.number
        if self.devices.get(number) is device:  # else it was removed before, and the number may be another's
            del self.devices[number]
            self.resting_pending.discard(number)
            self._numbers_free.append(number)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def add(self, filter_: str, number: int, options: int, *, new: bool = True) -> None:
        """A subscription by a plain filter, or, unless `new`, other options of one."""
        self.index.add(filter_, number, options)
        if new:
            self._topics_wanted.update(self._names_of(filter_))

    def remove(self, filter_: str, number: int) -> None:
        self.index.remove(filter_, number)
        self._topics_wanted.subtract(self._names_of(filter_))
        self._topics_wanted += Counter()

    def share(self, group: Group) -> None:
        """A shared subscription that is new, or whose filter over properties may be another now."""
        new = group.id not in self.groups
        self.groups[group.id] = self.groups_by_number[group.number] = group
        self.add(group.filter, group.number, bool(group.selections) << _SELECTED_SHIFT, new=new)

    def unshare(self, group: Group) -> None:
        """The last member has gone."""
        del self.groups[group.id], self.groups_by_number[group.number]
        self.remove(group.filter, group.number)
        self._numbers_free.append(group.number)

    def groups_of(self, device: Device) -> list[Group]:
        """The shared subscriptions that it is a member of or has something of."""
        return [group for name in device.groups if (group := self.groups.get(name)) is not None]

    def _names_of(self, filter_: str) -> list[str]:
        found = self._mapping.topics_of(filter_)
        return [""] if found is None else [*found, *({self._mapping.catch_all} - found)]

    # -- which partitions --------------------------------------------------------------------------------------------

    def visible(self, partition: int) -> Topic | None:
        """The topic of a partition, if it exists for MQTT."""
        owner = self._topics.owner(partition)
        if owner is None or owner[0].name.startswith("__") or not owner[0].settings.mqtt_visible:
            return None
        return owner[0]

    def has(self, partition: int) -> bool:
        """Whether a partition still exists."""
        return self._topics.owner(partition) is not None

    def hides(self, filter_: str) -> bool:
        """Whether all topics that the filter names are not for MQTT."""
        names = (self._mapping.topics_of(filter_) or frozenset()) - {self._mapping.catch_all}
        topics = [self._topics.get(name) for name in names]
        return bool(topics) and all(topic is not None and not topic.settings.mqtt_visible for topic in topics)

    def wanted(self, partition: int) -> bool:
        """Whether any subscription may match something of a partition."""
        topic = self.visible(partition)
        return topic is not None and (topic.name in self._topics_wanted or "" in self._topics_wanted)

    # -- who gets a name ---------------------------------------------------------------------------------------------

    def plan(self, name: str) -> list[Target]:
        """Who gets a name, overlapping subscriptions made one ([MQTT-3.3.4-2], [MQTT-3.3.4-3])."""
        if self._plans_version != self.index.version or len(self._plans) >= PLANS_MAX:
            self._plans.clear()
            self._plans_version = self.index.version
        plan = self._plans.get(name)
        if plan is None:
            merged: dict[int, tuple[int, bool, list[int], bool, bool]] = {}
            for entry in self.index.match(name):
                number, options = entry >> OPTIONS_BITS, entry & OPTIONS_MASK
                qos, published, identifiers, no_local, selected = merged.get(number, (0, False, [], True, True))
                if options >> 4 & _IDENTIFIER_MASK:
                    identifiers = [*identifiers, options >> 4 & _IDENTIFIER_MASK]
                merged[number] = (
                    max(qos, options & 3),
                    published or bool(options & 8),
                    identifiers,
                    no_local and bool(options & 4),
                    selected and bool(options >> _SELECTED_SHIFT),
                )
            plan = self._plans[name] = [
                Target(
                    number,
                    qos,
                    published,
                    encoded_identifiers(identifiers),
                    no_local,
                    self._selections(number, name) if selected else frozenset(),
                    not identifiers and not no_local and not selected,
                )
                for number, (qos, published, identifiers, no_local, selected) in merged.items()
            ]
        return plan

    def _selections(self, number: int, name: str) -> frozenset[str]:
        """The filters of a subscriber all of whose subscriptions to this name have one."""
        device = self.devices.get(number)
        if device is None:
            group = self.groups_by_number.get(number)
            return group.selections if group is not None else frozenset()
        return device.selections(name)
