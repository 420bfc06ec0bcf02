"""Messages from the log to sessions, put together; and what it means for that when a session changes.

`subscribers` says who gets what, `live` gives it to them at once, `catching_up` to those that are behind; `cursors`
says where each is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from core.filters import parse_filter
from core.mapping_history import MappingHistory
from core.state import Change
from core.store.engine import Engine
from core.topics import Topics
from gateway.protocols.mqtt.catching_up import CatchingUp
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.cursors import Cursors
from gateway.protocols.mqtt.decoded import DecodedBatches
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.handing import Handing
from gateway.protocols.mqtt.live import Live
from gateway.protocols.mqtt.marking import Marking
from gateway.protocols.mqtt.session import Delivery, Subscription
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.subscribers import Subscribers, options_of
from gateway.protocols.mqtt.traces import MqttTraces
from trivium.record_batch import BatchHeader


class Deliveries:
    """`run` must be running. The callbacks are those of `Handing` and `Live`; `flush` is called when something was
    given to connections.
    """

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        mappings: MappingHistory,
        traces: MqttTraces,
        *,
        fresh: Callable[[BatchHeader], Sequence[RunReceived] | None],
        unstored: Callable[[set[Device]], None],
        flush: Callable[[], None],
        retained_partition: int,
        offline_messages_max: int,
    ) -> None:
        self.subscribers = Subscribers(topics, mappings.current)
        decoded = DecodedBatches(engine, mappings, self.subscribers, retained_partition)
        self.handing = Handing(traces, unstored)
        self.live = Live(engine, self.subscribers, decoded, self.handing, traces, fresh, flush)
        self.tail = self.live.tail
        self.cursors = Cursors(engine, self.tail)
        self.catching_up = CatchingUp(
            engine,
            topics,
            mappings,
            self.tail,
            self.subscribers,
            self.cursors,
            decoded,
            self.handing,
            retained_partition,
            offline_messages_max,
            flush,
        )
        self.marking = Marking(engine, self.tail, self.subscribers, decoded)
        self.groups_gone: list[Change] = []  # what takes away the rows of shared subscriptions
        self._traces = traces

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.tail.run)
            nursery.start_soon(self.catching_up.run)

    # -- a session's connection --------------------------------------------------------------------------------------

    def begin(self, device: Device) -> None:
        """A connection was accepted: deliver again what was in flight, then what came since, then live."""
        self.catching_up.returned(device)
        if not device.pending and not device.session.inflight:
            self.cursors.join_tail(device)
        else:
            self.cursors.catch_up(device)
        for group in self.subscribers.groups_of(device):
            group.connected(device)

    def window_opened(self, device: Device) -> None:
        """There is room for more."""
        self.cursors.catch_up(device)
        for group in self.subscribers.groups_of(device):
            self.cursors.catch_up(group)

    def ended_deliveries(self, connection: Connection, deliveries: list[Delivery], code: int) -> None:
        """The client has messages, or will not have them (`code` from 0x80 on)."""
        groups = self.subscribers.groups
        for delivery in deliveries:
            if delivery.lease and (group := groups.get(delivery.group)) is not None:
                group.acknowledged(delivery)
        if code < 0x80 and self._traces.active:
            for delivery in deliveries:
                self._traces.acknowledged(connection, delivery, delivery.group)

    def ended(self, device: Device) -> None:
        """Its connection is over."""
        self.cursors.end(device)
        groups = self.subscribers.groups_of(device)
        device.groups = [group.id for group in groups]
        for group in groups:
            group.disconnected(device)
            if not group.present:
                self.cursors.end(group)

    # -- its subscriptions -------------------------------------------------------------------------------------------

    def subscribe(self, device: Device, filter_: str, subscription: Subscription) -> bool:
        """Adds a subscription; True if it is new."""
        new = device.add(filter_, subscription)
        if filter_.startswith("$share/"):
            self._share(device, filter_, subscription)
        else:
            self.subscribers.add(filter_, device.session.number, options_of(subscription), new=new)
        return new

    def unsubscribe(self, device: Device, filter_: str) -> bool:
        """False if there is no such subscription."""
        if not device.remove(filter_):
            return False
        if filter_.startswith("$share/"):
            self._unshare(device, self.subscribers.groups[filter_])
        else:
            self.subscribers.remove(filter_, device.session.number)
        return True

    def _share(self, device: Device, name: str, subscription: Subscription) -> None:
        group = self.subscribers.groups.get(name)
        if group is None:
            number = self.subscribers.take_number()
            group = Group(name, parse_filter(name)[1], number, self.tail.position, self.cursors.catch_up)
        group.share(device, subscription)
        self.subscribers.share(group)
        self.cursors.catch_up(group)

    def _unshare(self, device: Device, group: Group) -> None:
        group.unshare(device)
        if not group.members:
            self.subscribers.unshare(group)
            self.groups_gone += group.gone()
        elif not group.present:
            self.cursors.end(group)

    def remove(self, device: Device) -> None:
        """The session is over."""
        for group in self.subscribers.groups_of(device):
            group.give_back(device.session.client_id, 0)
            group.dirty = True
            self.cursors.end(group)
        for filter_ in list(device.session.subscriptions or {}):
            self.unsubscribe(device, filter_)
        self.subscribers.end(device)
