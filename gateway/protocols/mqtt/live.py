"""From the log's tail to devices: who gets what, at once.

Live: a batch is decoded once if a subscription could match its topic, cut into runs of one name, and each run goes to
the devices that the index names. A device whose window is full stops being live: its cursor stays where it is, and
it goes on as delivery.py says. Decoded batches are kept for a while,
in at most `DECODED_BYTES_MAX`, so that many who are a little behind share the work.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import trio

from core.delivery import LogTail, Stretch, records_of
from core.filters import parse_filter
from core.mapping_history import MappingHistory
from core.matching import OPTIONS_BITS, OPTIONS_MASK, SubscriptionIndex
from core.queue_partition import QueuePartition
from core.state import Change
from core.store.engine import Engine
from core.topics import Topic, Topics
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5
from gateway.protocols.mqtt.codec.properties import encode_property
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.message import Message, Run, plain_run
from gateway.protocols.mqtt.outbound import Handed
from gateway.protocols.mqtt.pending import Pending
from gateway.protocols.mqtt.records import message_of
from gateway.protocols.mqtt.selection import passes
from gateway.protocols.mqtt.session import Delivery, Subscription
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.traces import MqttTraces
from trivium.record_batch import BatchHeader
from trivium.records import Record

PLANS_MAX: Final = 65_536
DECODED_BYTES_MAX: Final = 16 * 1024 * 1024
_SELECTED_SHIFT: Final = 32  # in the index's options: the subscription has a filter over properties
_IDENTIFIER_MASK: Final = (1 << 28) - 1


class NamedRun:
    """Consecutive messages of one topic name by one publisher (None unless no-local needs to know). The parts that pass
    filters are shared by all who have the same. `records` is asked for when there is a filter.
    """

    __slots__ = ("_records", "_selected", "name", "publisher", "run")

    def __init__(self, name: str, publisher: str | None, run: Run, records: Callable[[], list[Record]]) -> None:
        self.name = name
        self.publisher = publisher
        self.run = run
        self._records = records
        self._selected: dict[frozenset[str], Run] | None = None

    def passing(self, selections: frozenset[str]) -> Run:
        """The messages that pass one of the filters; all when there is none."""
        if not selections:
            return self.run
        if self._selected is None:
            self._selected = {}
        found = self._selected.get(selections)
        if found is None:
            both = zip(self.run.messages, self._records(), strict=True)
            found = self._selected[selections] = Run([one for one, record in both if passes(selections, record)])
        return found


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


def _named(stretch: Stretch, one: RunReceived, run: Run) -> NamedRun:
    """A run of a batch that was not decoded."""

    def records() -> list[Record]:
        first = run.base_offset - stretch.base_offset
        return records_of(stretch)[first : first + len(run)]

    return NamedRun(one.topic, one.publisher, run, records)


class Live:
    """See the module; `Deliveries` is what is used. `unstored` is told of devices with packet ids to be stored."""

    def __init__(
        self, engine: Engine, topics: Topics, mappings: MappingHistory, unstored: Callable[[set[Device]], None]
    ) -> None:
        self._engine = engine
        self._topics = topics
        self._mappings = mappings
        self._mapping = mappings.current
        self._unstored = unstored
        self.flush: Callable[[], None] = lambda: None
        self.traces: MqttTraces | None = None  # told of what is delivered
        self.offline_messages_max = -1  # that a device gets of what came while it was away; -1: all
        self.cut = 0  # messages that it did not get
        self.fresh: Callable[[BatchHeader], Sequence[RunReceived] | None] = lambda _: None
        self.retained_partition = -1  # its records have whole names as keys
        self.index = SubscriptionIndex()
        self.devices: dict[int, Device] = {}  # by the session's number; not those at rest
        self.resting_pending = Pending()  # numbers at rest for which something has come
        self.delivered = 0  # batches that were looked at
        self.groups: dict[str, Group] = {}
        self.groups_by_number: dict[int, Group] = {}
        self.groups_gone: list[Change] = []  # what takes away their rows
        self.number_max = 0  # of those that were given out
        self._numbers_free = array("I")
        self._topics_wanted: Counter[str] = Counter()  # topics that filters name; "" for those that name any
        self._plans: dict[str, list[Target]] = {}
        self._plans_version = -1
        self._decoded: OrderedDict[tuple[int, int], tuple[int, list[NamedRun]]] = OrderedDict()
        self._decoded_bytes = 0
        self._storing: set[Device] = set()
        # Bounded by the devices and groups: each stands in it once.
        self._behind_send, self._behind_receive = trio.open_memory_channel[Device | Group](float("inf"))
        self.tail = LogTail(engine, self._wanted, self._deliver_live, self._after)

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

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, device: Device, filter_: str, subscription: Subscription) -> bool:
        """Adds a subscription; True if it is new."""
        new = device.add(filter_, subscription)
        if filter_.startswith("$share/"):
            self._share(device, filter_, subscription)
            return new
        self.index.add(filter_, device.session.number, options_of(subscription))
        if new:
            self._topics_wanted.update(self._names_of(filter_))
        return new

    def restore_subscription(self, filter_: str, number: int, options: int) -> None:
        """A subscription of a session that rests."""
        self.index.add(filter_, number, options)
        self._topics_wanted.update(self._names_of(filter_))

    def unsubscribe(self, device: Device, filter_: str) -> bool:
        if not device.remove(filter_):
            return False
        if filter_.startswith("$share/"):
            self._unshare(device, self.groups[filter_])
            return True
        self.index.remove(filter_, device.session.number)
        self._topics_wanted.subtract(self._names_of(filter_))
        self._topics_wanted += Counter()
        return True

    def _share(self, device: Device, name: str, subscription: Subscription) -> None:
        group = self.groups.get(name)
        if group is None:
            filter_ = parse_filter(name)[1]
            group = Group(name, filter_, self.take_number(), self.tail.position, self.catch_up)
            self.groups[name] = self.groups_by_number[group.number] = group
            self._topics_wanted.update(self._names_of(filter_))
        group.share(device, subscription)
        self.index.add(group.filter, group.number, bool(group.selections) << _SELECTED_SHIFT)
        self.catch_up(group)

    def _unshare(self, device: Device, group: Group) -> None:
        group.unshare(device)
        if not group.members:
            del self.groups[group.id], self.groups_by_number[group.number]
            self.index.remove(group.filter, group.number)
            self._topics_wanted.subtract(self._names_of(group.filter))
            self._topics_wanted += Counter()
            self.groups_gone += group.gone()
            self._numbers_free.append(group.number)
        elif not group.present:
            self.end(group)

    def remove(self, device: Device) -> None:
        """The session is over."""
        for group in self.groups_of(device):
            group.give_back(device.session.client_id, 0)
            group.dirty = True
            self.end(group)
        for filter_ in list(device.session.subscriptions or {}):
            self.unsubscribe(device, filter_)
        number = device.session.number
        if self.devices.get(number) is device:  # else it was removed before, and the number may be another's
            del self.devices[number]
            self.resting_pending.discard(number)
            self._numbers_free.append(number)

    def groups_of(self, device: Device) -> list[Group]:
        """The shared subscriptions that it is a member of or has something of."""
        return [group for name in device.groups if (group := self.groups.get(name)) is not None]

    def _names_of(self, filter_: str) -> list[str]:
        found = self._mapping.topics_of(parse_filter(filter_)[1])
        return [""] if found is None else [*found, *({self._mapping.catch_all} - found)]

    def visible(self, partition: int) -> Topic | None:
        """The topic of a partition, if it exists for MQTT."""
        owner = self._topics.owner(partition)
        if owner is None or owner[0].name.startswith("__") or not owner[0].settings.mqtt_visible:
            return None
        return owner[0]

    def has(self, partition: int) -> bool:
        """Whether a partition still exists."""
        return self._topics.owner(partition) is not None

    async def start_of(self, reader: Device | Group, partition: int) -> int:
        """Where a reader that is behind goes on in a partition. Raises UnknownPartition."""
        offset = reader.offsets.get(partition)
        return await self._engine.offset_at(partition, reader.position) if offset is None else offset

    def hides(self, filter_: str) -> bool:
        """Whether all topics that the filter names are not for MQTT."""
        names = (self._mapping.topics_of(filter_) or frozenset()) - {self._mapping.catch_all}
        topics = [self._topics.get(name) for name in names]
        return bool(topics) and all(topic is not None and not topic.settings.mqtt_visible for topic in topics)

    def _wanted(self, partition: int) -> bool:
        topic = self.visible(partition)
        return topic is not None and (topic.name in self._topics_wanted or "" in self._topics_wanted)

    def _plan(self, name: str) -> list[Target]:
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

    # -- live --------------------------------------------------------------------------------------------------------

    def _deliver_live(self, stretch: Stretch) -> None:
        self.delivered += 1
        now_s = time.time()
        traced = self.traces is not None and self.traces.observes(stretch.partition)
        fresh = None if traced else self.fresh(stretch.header)
        if fresh is None:
            for named in self._runs(stretch):
                plan = self._plan(named.name)
                if traced:
                    for target in plan:
                        self._deliver_target(stretch.partition, target, self.devices.get(target.number), named, now_s)
                elif plan:
                    self._deliver_run(stretch.partition, plan, named.run, named, now_s)
            return
        partition, offset = stretch.partition, stretch.base_offset
        for one in fresh:
            plan = self._plan(one.topic)
            if plan:
                run = plain_run(one.raw_topic, one.payloads, one.qos, partition, offset)
                self._deliver_run(partition, plan, run, partial(_named, stretch, one, run), now_s)
            offset += len(one.payloads)

    def _deliver_run(
        self, partition: int, plan: list[Target], run: Run, named: NamedRun | Callable[[], NamedRun], now_s: float
    ) -> None:
        """Messages of one name to all who get them; `named` where more than their QoS decides."""
        devices = self.devices
        for target in plan:
            device = devices.get(target[0])
            if device is None and target.simple:
                group = self.groups_by_number.get(target[0])
                if group is not None and group.live and self._plain_to_member(group, run):
                    continue
            elif target.simple and device is not None and device.live and device.access is None:
                connection = device.connection
                if connection is not None and connection.deliver_plain(run, target.qos):
                    if device.session.durable:
                        device.dirty = True
                    continue
            if not isinstance(named, NamedRun):
                named = named()
            self._deliver_target(partition, target, device, named, now_s)

    def _deliver_target(
        self, partition: int, target: Target, device: Device | None, named: NamedRun, now_s: float
    ) -> None:
        run = named.passing(target.selections)
        if not run:
            return
        if device is None:
            group = self.groups_by_number.get(target.number)
            if group is not None:
                self._deliver_to_group(group, partition, run, now_s)
            else:
                self.resting_pending.add(target.number)
        elif not device.live:
            device.pending = True
        elif not (target.no_local and named.publisher == device.session.client_id):
            taken = self._hand_over(device, run, 0, target.qos, target.published, target.identifiers, now_s)
            if taken < len(run):
                self._fall_behind(device, partition, run.messages[taken].offset)

    def _hand_over(
        self,
        device: Device,
        run: Run,
        start: int,
        qos: int,
        published: bool,
        identifiers: bytes,
        now_s: float,
    ) -> int:
        connection = device.connection
        if connection is None:
            return start
        if device.access is not None and not device.access.may_read(run.messages[start].topic):
            return len(run)
        taken = connection.deliver(
            run,
            start,
            qos,
            now_s,
            retain_as_published=published,
            identifiers=identifiers if connection.version == V5 else b"",
        )
        if taken > start and self.traces is not None and self.traces.active:
            self.traces.delivered(connection, run.messages[start:taken], "")
        self._changed(device, connection)
        return taken

    def _changed(self, device: Device, connection: Connection) -> None:
        """Something was handed to it."""
        if device.session.durable:
            device.dirty = True
            if connection.has_unstored:
                self._storing.add(device)

    def ended_deliveries(self, connection: Connection, deliveries: list[Delivery], code: int) -> None:
        """The client has messages, or will not have them (`code` from 0x80 on)."""
        for delivery in deliveries:
            if delivery.lease and (group := self.groups.get(delivery.group)) is not None:
                group.acknowledged(delivery)
        if code < 0x80 and self.traces is not None and self.traces.active:
            for delivery in deliveries:
                self.traces.acknowledged(connection, delivery, delivery.group)

    def _deliver_to_group(self, group: Group, partition: int, run: Run, now_s: float) -> None:
        if group.live:
            for message in run.messages:
                if not self._to_member(group, message, now_s):
                    self._fall_behind(group, partition, message.offset)
                    return

    def _plain_to_member(self, group: Group, run: Run) -> bool:
        """One message without anything to be looked at, to the member whose turn it is; False, and nothing is done,
        where `_to_member` must look.
        """
        member = group.first
        if run.plain_qos != 1 or len(run.payloads) != 1 or member is None or member.identifiers:
            return False
        device = member.device
        connection = device.connection
        if connection is None or device.access is not None:
            return False
        lease = group.next_lease()
        if not connection.deliver_plain(run, member.qos, group.id, lease):
            return False
        group.pass_turn()
        group.hand_out(lease, member, run.partition, run.base_offset, None)
        group.dirty = True
        if device.session.durable:
            device.dirty = True
        return True

    def _to_member(self, group: Group, message: Message, now_s: float, again: QueuePartition | None = None) -> bool:
        """Gives a message to the member whose turn it is; False when nobody who may read it has room. `again`: the
        queue in which it was due.
        """
        group.dirty = True
        asked = refused = 0
        for member in group.in_turn():
            asked += 1
            device = member.device
            connection = device.connection
            if connection is None or (device.access is not None and not device.access.may_read(message.topic)):
                refused += 1
                continue
            lease = group.next_lease()
            handed = connection.deliver_one(
                message,
                member.qos,
                now_s,
                retain_as_published=member.retain_as_published,
                identifiers=member.identifiers if connection.version == V5 else b"",
                group=group.id,
                lease=lease,
            )
            if handed is Handed.NOT:
                continue
            if handed is Handed.LEASED:
                group.hand_out(lease, member, message.partition, message.offset, again)
            else:
                group.over(message.partition, message.offset, again)
            if self.traces is not None and self.traces.active:
                self.traces.delivered(connection, [message], group.id)
            self._changed(device, connection)
            return True
        if refused < asked or not asked:
            return False
        group.over(message.partition, message.offset, again)  # nobody may read it
        return True

    def deliver_unlogged(self, named: NamedRun) -> None:
        """Messages of QoS 0 that are not in the log, to those who are connected."""
        now_s = time.time()
        for target in self._plan(named.name):
            run = named.passing(target.selections)
            device = self.devices.get(target.number)
            if device is None:
                group = self.groups_by_number.get(target.number)
                if group is not None:
                    for message in run.messages:
                        self._to_member(group, message, now_s)
            elif run.messages and not (target.no_local and named.publisher == device.session.client_id):
                self._hand_over(device, run, 0, target.qos, target.published, target.identifiers, now_s)

    def _fall_behind(self, device: Device | Group, partition: int, offset: int) -> None:
        device.live = False
        device.pending = True
        device.position = self.tail.position  # the batch that is being delivered, or one that was held
        device.offsets = {**self.tail.held, partition: offset}

    def _after(self) -> None:
        self.store_packet_ids()
        self.flush()

    def store_packet_ids(self) -> None:
        """Has the packet ids of new QoS 2 messages stored, for all devices that got some."""
        if self._storing:
            storing, self._storing = self._storing, set()
            self._unstored(storing)

    # -- decoding ----------------------------------------------------------------------------------------------------

    def _runs(self, stretch: Stretch) -> list[NamedRun]:
        key = stretch.partition, stretch.base_offset
        known = self._decoded.get(key)
        if known is not None:
            self._decoded.move_to_end(key)
            return known[1]
        topic = self.visible(stretch.partition)
        if topic is None and stretch.partition != self.retained_partition:
            return []
        mapping = self._mappings.at(self._engine.position_at(stretch.partition, stretch.base_offset))
        topic_name = mapping.catch_all if topic is None else topic.name
        runs: list[NamedRun] = []
        name, publisher, messages, records = "", None, list[Message](), list[Record]()
        for record in records_of(stretch):
            this_name, message, this_publisher = message_of(record, topic_name, stretch.partition, mapping)
            if this_name != name or this_publisher != publisher:
                if messages:
                    runs.append(NamedRun(name, publisher, Run(messages), partial(list, records)))
                name, publisher, messages, records = this_name, this_publisher, [], []
            messages.append(message)
            records.append(record)
        if messages:
            runs.append(NamedRun(name, publisher, Run(messages), partial(list, records)))
        size = 2 * len(stretch.batch) + 400 * stretch.header.count
        self._decoded[key] = size, runs
        self._decoded_bytes += size
        while self._decoded_bytes > DECODED_BYTES_MAX:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1][0]
        return runs

    # -- those that are behind ---------------------------------------------------------------------------------------

    def begin(self, device: Device) -> None:
        """A connection was accepted: deliver again what was in flight, then what came since, then live."""
        device.returned, device.backlog_left = self.tail.position, self.offline_messages_max
        device.cut = False
        if not device.pending and not device.session.inflight:
            self._join_tail(device)
        else:
            self.catch_up(device)
        for group in self.groups_of(device):
            group.connected(device)

    def window_opened(self, device: Device) -> None:
        """There is room for more."""
        self.catch_up(device)
        for group in self.groups_of(device):
            self.catch_up(group)

    def ended(self, device: Device) -> None:
        """Its connection is over."""
        self.end(device)
        device.groups = [group.id for group in self.groups_of(device)]
        for group in self.groups_of(device):
            group.disconnected(device)
            if not group.present:
                self.end(group)

    def end(self, device: Device | Group) -> None:
        """It stops being live: its place in the log stays."""
        if device.live:
            device.live = False
            device.position, device.offsets = self.tail.position, dict(self.tail.held)

    def cursor(self, device: Device | Group) -> tuple[int, dict[int, int]]:
        return (self.tail.position, self.tail.held) if device.live else (device.position, device.offsets)

    def rewind(self, device: Device | Group, offsets: dict[int, int]) -> None:
        """Its place in these partitions (engine's number -> offset) is another from now on; follow with `catch_up`.

        The table of offsets is a new one: whoever reads for the device sees by that that its work is void.
        """
        position, held = self.cursor(device)
        device.live = False
        device.pending = device.dirty = True
        device.position, device.offsets = position, {**held, **offsets}
        if isinstance(device, Group):
            device.rewind(offsets)
        elif device.session.subscriptions:
            for filter_, subscription in device.session.subscriptions.items():
                device.session.subscriptions[filter_] = subscription._replace(since=0)

    def _join_tail(self, device: Device | Group) -> None:
        device.live = True
        device.pending = False
        device.offsets = {}

    def catch_up(self, device: Device | Group) -> None:
        """There is room: let it go on, if it is behind."""
        if not device.queued and device.present:
            device.queued = True
            if not device.catching_up:  # else its reader puts it there when it is done
                self._behind_send.send_nowait(device)
