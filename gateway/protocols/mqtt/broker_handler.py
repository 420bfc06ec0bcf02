"""The machine's events (events.py), answered from the log: what a turn brings goes to whom it is for.

Whatever a client is told is durable first: its publishes, its changed session and will before CONNACK, its
subscriptions before SUBACK, its QoS 2 steps. What a turn changes is appended in one batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

import trio

from core import sessions as stored
from core.sessions import SessionLog
from core.state import Change
from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt import session as ses
from gateway.protocols.mqtt.admission import Admission
from gateway.protocols.mqtt.connecting import Connecting
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.outgoing import Outgoing, Published, totals
from gateway.protocols.mqtt.packet_changes import outgoing_of
from gateway.protocols.mqtt.positions import Positions
from gateway.protocols.mqtt.publishing import Publisher
from gateway.protocols.mqtt.restoring import claim_inflight, restore_groups, restore_sessions
from gateway.protocols.mqtt.retained import Retained
from gateway.protocols.mqtt.session_rows import position_changes, session_row, unstored_changes
from gateway.protocols.mqtt.session_table import SessionTable
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.subscribing import Subscribing
from gateway.protocols.mqtt.wills import Wills


class BrokerHandler:
    """The pump's handler. `flush` is the pump's, set once it is there."""

    def __init__(
        self,
        log: SessionLog,
        publisher: Publisher,
        deliveries: Deliveries,
        retained: Retained,
        expiry_s_max: int,
        admission: Admission,
        will_grace_s: float,
        sessions_max: int,
    ) -> None:
        self.flush: Callable[[], None] = lambda: None
        self.sessions = SessionTable(deliveries)
        self.positions = Positions(log, deliveries, self.sessions)
        self._log = log
        self._publisher = publisher
        self._deliveries = deliveries
        self._admission = admission
        self._wills = Wills(log, publisher, will_grace_s)
        self._connecting = Connecting(
            log,
            publisher,
            deliveries,
            self.sessions,
            self._wills,
            admission,
            expiry_s_max,
            sessions_max,
            self._answered,
        )
        self._subscribing = Subscribing(deliveries, retained, self._put, self.positions.put_groups)
        self._kept: dict[Connection, deque[ev.Event]] = {}  # of connections whose SUBSCRIBE or UNSUBSCRIBE waits
        self.publishes_in = self.publish_bytes_in = 0

    async def load(self, now_s: float) -> None:
        """Takes over the stored sessions; those that were connected count as gone from now on."""
        self.positions.checkpoints.restore()
        members = await restore_sessions(self._log, self._deliveries, self.sessions.resting, now_s)
        restore_groups(self._log, self._deliveries.subscribers)
        for device in members:
            self.sessions.devices[device.session.client_id] = device
            await claim_inflight(device, self._deliveries)
            self.sessions.client_left(device, now_s)
        self._wills.load(now_s, self._expiry_of)
        await self.positions.checkpoints.mark()

    def _expiry_of(self, client_id: str) -> float:
        device = self.sessions.find(client_id)
        return float(device.session.expiry_s) if device is not None else 0.0

    # -- a turn ------------------------------------------------------------------------------------------------------

    def handle(self, events: list[ev.Event]) -> None:
        self._take(events)
        self._connecting.serve_waiting()
        self._log.append()
        self._publisher.write_now()

    def _take(self, events: list[ev.Event]) -> None:
        publishes: list[Published] = []
        kept, turn = self._kept, self._publisher.begin_turn()
        for event in events:
            if kept and event.connection in kept:
                kept[event.connection].append(event)
                continue
            if type(event) is ev.RunReceived:
                device = event.connection.user
                assert isinstance(device, Device)
                device.published = turn
                if device.access is None or _may_publish(event.connection, event.ticket, event.topic):
                    publishes.append(event._replace(publisher=device.session.client_id) if device.no_local else event)
                continue
            if type(event) is ev.DeliveriesEnded:
                self._deliveries.ended_deliveries(event.connection, event.deliveries, event.code)
                continue
            if type(event) is ev.PublishReceived:
                device = event.connection.user
                assert isinstance(device, Device)
                device.published = turn
                if _may_publish(event.connection, event.ticket, event.publish.topic):
                    publishes.append(outgoing_of(event.connection, event.ticket, event.publish))
                continue
            match event:
                case ev.ConnectReceived(connection, connect):
                    self._connecting.connect(connection, connect)
                case ev.ReleaseReceived(connection, ticket, packet_id):
                    change = stored.inbound_change(connection.client_id, packet_id, False)
                    self._put(connection, ticket, [change], partial(connection.release_done, ticket))
                case ev.ReceiptReceived(connection, ticket, packet_id):
                    self._on_receipt(connection, ticket, packet_id)
                case ev.SubscribeReceived(connection) | ev.UnsubscribeReceived(connection):
                    self._publish(publishes)
                    publishes = []
                    device = connection.user
                    assert isinstance(device, Device)
                    if self._publisher.is_stored(device.published):
                        self._change_subscriptions(event)
                    else:
                        self._keep_waiting(connection, event)
                case ev.WindowOpened(connection):
                    if isinstance(connection.user, Device):
                        self._deliveries.window_opened(connection.user)
                case ev.Closed():
                    will = self._on_closed(event)
                    if will is not None:
                        publishes.append(will)
                case _:
                    pass
        self._publish(publishes)

    def _publish(self, publishes: list[Published]) -> None:
        if publishes:
            count, size_bytes = totals(publishes)
            self.publishes_in += count
            self.publish_bytes_in += size_bytes
            self._publisher.publish(publishes)

    def _change_subscriptions(self, event: ev.SubscribeReceived | ev.UnsubscribeReceived) -> None:
        if isinstance(event, ev.SubscribeReceived):
            self._subscribing.subscribe(*event)
        else:
            self._subscribing.unsubscribe(event.connection, event.ticket, event.unsubscribe.filters)

    def _keep_waiting(self, connection: Connection, event: ev.SubscribeReceived | ev.UnsubscribeReceived) -> None:
        """A new subscription is behind what its client published before it: that may be retained for it, and is not
        delivered as new. One that ends is still there for it. So the client's packets wait until it is stored.
        """
        self._kept[connection] = deque([event])
        connection.kept_waiting = True
        self._publisher.when_stored(partial(self._go_on, connection, event))

    def _go_on(self, connection: Connection, event: ev.SubscribeReceived | ev.UnsubscribeReceived) -> None:
        events = self._kept.pop(connection)
        events.popleft()
        connection.kept_waiting = False
        self._change_subscriptions(event)
        while events and connection not in self._kept:
            self._take(_up_to_a_change(events))
        if events:
            # The next one waits: what is behind it stays as it lies, or many would be gone through many times.
            events.extendleft(reversed(self._kept[connection]))
            self._kept[connection] = events
        self._answered()
        self._log.append()

    def _on_receipt(self, connection: Connection, ticket: int, packet_id: int) -> None:
        session = connection.session
        assert session is not None
        delivery = (session.inflight or {})[packet_id]
        place = (ses.QOS2_RELEASED, delivery.partition, delivery.offset, delivery.retain)
        change = stored.outbound_change(session.client_id, packet_id, place)
        self._put(connection, ticket, [change], partial(connection.receipt_done, ticket))

    def _on_closed(self, closed: ev.Closed) -> Outgoing | None:
        """The will, if it is to be published now."""
        connection = closed.connection
        device = connection.user
        if not isinstance(device, Device) or device.connection is not connection:
            return None
        session = device.session
        device.connection, device.closing = None, connection
        self.sessions.connected -= 1
        self._deliveries.ended(device)
        device.retained.clear()  # asked for by this connection's SUBSCRIBE
        will = self._wills.client_left(device, closed)
        if closed.session_expiry_s == 0:
            self._log.put(self.sessions.forget(device))
            return will
        if closed.session_expiry_s != device.stored_expiry_s:
            session.expiry_s = device.stored_expiry_s = closed.session_expiry_s
            self._log.put([session_row(session)])
        self._log.put(position_changes(device, device.position, device.offsets))
        self.sessions.client_left(device, time.time())
        return will

    # -- answers -----------------------------------------------------------------------------------------------------

    def _put(
        self, connection: Connection, ticket: int | None, changes: list[Change], done: Callable[[], object]
    ) -> None:
        """Has changes stored with this turn's others, then answers; a store that cannot ends the connection. `ticket`:
        what is answered.
        """

        def answered(durable: bool) -> None:
            if durable:
                done()
            else:
                connection.disconnect(reasons.QUOTA_EXCEEDED, "the broker cannot store anything")
                if ticket is not None:
                    connection.give_up(ticket)
            self._answered()

        self._log.put(changes, answered)

    def _answered(self) -> None:
        self._connecting.serve_waiting()
        self.flush()

    def serve_waiting(self) -> None:
        """To be called when others have given answers: a CONNECT may wait for them."""
        self._connecting.serve_waiting()

    # -- what others have stored -------------------------------------------------------------------------------------

    def store(self, changes: list[Change], done: Callable[[bool], None]) -> None:
        """Has changes that come from elsewhere stored; `done(durable)`."""
        self._log.put(changes, done)
        self._log.append()

    def store_group(self, group: Group, done: Callable[[bool], None]) -> None:
        """Has the place of a shared subscription stored now; `done(durable)`."""
        self.positions.put_group(group)
        self.store([], done)

    async def keep_positions(self) -> None:
        """Has all positions stored; returns when they are durable, or cannot be."""
        self.positions.put()
        answered = trio.Event()
        self.store([], lambda _: answered.set())
        await answered.wait()

    def store_packet_ids(self, devices: set[Device]) -> None:
        """New QoS 2 messages: packet id, record and the session's position in one batch, before PUBLISH."""
        for device in devices:
            connection = device.connection
            if connection is None:
                continue
            unstored = connection.take_unstored()
            if not unstored:
                continue
            changes = unstored_changes(device, unstored)
            changes += position_changes(device, *self._deliveries.cursors.cursor(device))
            if device.groups:
                self.positions.put_groups()
            self._put(connection, None, changes, partial(_send_stored, connection, len(unstored)))
        self._log.append()

    # -- time, and what is read again --------------------------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """What hangs on time; to be called about once a second."""
        for device in self.sessions.take_expired(now_s):
            self._wills.session_ended(device.session.client_id)
            self._log.put(self.sessions.forget(device))
        self._wills.publish_due(now_s)
        self.positions.put_if_due(now_s)
        self.sessions.lay_to_rest(self._connecting.is_under_way)
        self._log.append()
        self._answered()

    def reload(self) -> None:
        """Reads password and ACL file again. Whose password has changed or is gone is cut, as mosquitto does.

        Raises OSError or ValueError for a file that cannot be used.
        """
        gone = self._admission.reload()
        for device in self.sessions.devices.values():
            if device.connection is not None and device.user in gone:
                device.connection.disconnect(reasons.NOT_AUTHORIZED, "the password has changed")
        self.flush()


def _up_to_a_change(events: deque[ev.Event]) -> list[ev.Event]:
    """Taken off the left, with the first SUBSCRIBE or UNSUBSCRIBE."""
    taken: list[ev.Event] = []
    while events:
        taken.append(events.popleft())
        if isinstance(taken[-1], ev.SubscribeReceived | ev.UnsubscribeReceived):
            break
    return taken


def _may_publish(connection: Connection, ticket: int, topic: str) -> bool:
    """Whether the ACL lets it; else it is answered."""
    device = connection.user
    assert isinstance(device, Device)
    if device.access is None or device.access.may_write(topic.encode()):
        return True
    if ticket:
        connection.publish_done(ticket, reasons.NOT_AUTHORIZED, "not allowed by the access control list")
    return False


def _send_stored(connection: Connection, count: int) -> None:
    connection.send_stored(count, time.time())
