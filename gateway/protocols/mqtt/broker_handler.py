"""The machine's events, answered from the log: connections, sessions, wills. See events.py for what is asked.

Whatever a client is told is durable first: its publishes, its changed session and will before CONNACK, its
subscriptions before SUBACK, its QoS 2 steps. What a turn changes is appended in one batch. A client identifier is
served in turn: a new CONNECT waits until the old connection's last answers are in and its session is stored.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog
import trio

from core import sessions as stored
from core.queue_partition import QueuePartition
from core.queue_replay import QueueRows
from core.sessions import GroupRow, SessionLog
from core.state import Change
from core.wills import Pending
from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt import session as ses
from gateway.protocols.mqtt.admission import Admission
from gateway.protocols.mqtt.checkpoints import Checkpoints
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Connect, Will
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.packet_changes import NEVER_S, asked_expiry_s, outgoing_of, will_of
from gateway.protocols.mqtt.publishing import Outgoing, Publisher, totals
from gateway.protocols.mqtt.resting import NEVER_S as NEVER_RESTED_S
from gateway.protocols.mqtt.resting import Resting, may_rest
from gateway.protocols.mqtt.restoring import restore_sessions
from gateway.protocols.mqtt.retained import Retained
from gateway.protocols.mqtt.session import Session
from gateway.protocols.mqtt.session_rows import (
    forget,
    position_changes,
    session_row,
    unstored_changes,
)
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.subscribing import Subscribing
from gateway.protocols.mqtt.will_codec import pack_will, unpack_will

log = structlog.get_logger(__name__)


POSITION_INTERVAL_S = 5.0
REST_AT_ONCE_MAX = 2_000  # devices that go to rest in one step of the loop, some 10 us each
EXPIRED_AT_ONCE_MAX = 2_000


class BrokerHandler:
    """The pump's handler. `flush` is the pump's, set once it is there."""

    def __init__(
        self,
        log_: SessionLog,
        publisher: Publisher,
        deliveries: Deliveries,
        retained: Retained,
        expiry_s_max: int,
        admission: Admission,
        will_grace_s: float,
        sessions_max: int,
    ) -> None:
        self.flush: Callable[[], None] = lambda: None
        self.devices: dict[str, Device] = {}
        self._log = log_
        self._publisher = publisher
        self._deliveries = deliveries
        self._subscribing = Subscribing(deliveries, retained, self._put, self._store_groups)
        self._expiry_s_max = expiry_s_max
        self._admission = admission
        self._sessions_max = sessions_max
        self._will_grace_s = will_grace_s  # after a restart, a client has this long (or its will's delay) to come back
        self._opening: set[str] = set()  # CONNECTs whose session is being stored
        self._kept: dict[Connection, list[ev.Event]] = {}  # of connections whose SUBSCRIBE waits
        self._waiting: dict[str, tuple[Connection, Connect]] = {}  # CONNECTs that wait for their predecessors
        self._wills: Pending[Will] = Pending()
        self._restart_wills: set[str] = set()  # of clients that the last life of the broker took the connection from
        self._expiries: Pending[Device] = Pending()
        self.resting = Resting(deliveries.resting_pending)
        self._to_rest: set[Device] = set()  # devices without connection, until they rest
        self._checkpoints = Checkpoints(log_, deliveries)
        self._positions_due_s = 0.0
        self.connected = self.expired = self.publishes_in = self.publish_bytes_in = 0

    async def load(self, now_s: float) -> None:
        """Takes over the stored sessions; those that were connected count as gone from now on."""
        self._checkpoints.restore()
        members = await restore_sessions(self._log, self._deliveries, self.resting, now_s)
        self._load_groups()
        for device in members:
            self.devices[device.session.client_id] = device
            await self._claim(device)
            self._expire_later(device, now_s)
        for client_id, packed in self._log.wills.items():
            will = unpack_will(packed)
            delay_s = float(will.properties.get(props.WILL_DELAY, 0))
            if delay_s:
                delay_s = min(delay_s, self._expiry_of(client_id))
            self._wills.put(client_id, now_s + max(delay_s, self._will_grace_s), will)
            self._restart_wills.add(client_id)
        self._log.wills = {}
        await self._checkpoints.mark()

    def _load_groups(self) -> None:
        """Shared subscriptions as they were left. What no session has any more goes."""
        queues: dict[str, list[QueuePartition]] = {}
        rows = self._log.queue_rows
        for name, partition in rows.places():
            if name in self._deliveries.groups and self._deliveries.has(partition):
                queues.setdefault(name, []).append(rows.take(QueuePartition(name, "", partition, partition)))
        for name, place in self._log.groups.items():
            group = self._deliveries.groups.get(name)
            if group is None:
                self._log.put([stored.group_change(name, None)])
            else:
                group.load(place, queues.get(name, ()))
        self._log.groups = {}
        self._log.put(rows.orphans())
        self._log.queue_rows = QueueRows(0)

    async def _claim(self, device: Device) -> None:
        """What a session had in flight for shared subscriptions is still its own."""
        inflight = device.session.inflight or {}
        for packet_id, delivery in inflight.items():
            group = self._deliveries.groups.get(delivery.group)
            if group is not None and delivery.state == ses.QOS1_SENT and self._deliveries.has(delivery.partition):
                floor = await self._deliveries.start_of(group, delivery.partition)
                inflight[packet_id] = group.claim(device.session.client_id, delivery, floor)
                if group.id not in device.groups:
                    device.groups.append(group.id)

    def _expiry_of(self, client_id: str) -> float:
        device = self.find(client_id)
        return float(device.session.expiry_s) if device is not None else 0.0

    def find(self, client_id: str) -> Device | None:
        """The device of a client, woken if it rests."""
        device = self.devices.get(client_id)
        if device is None and (found := self.resting.take(client_id)) is not None:
            device, expires_s = found
            self.devices[client_id] = device
            self._deliveries.enter(device)
            self._to_rest.add(device)
            if expires_s != NEVER_RESTED_S:
                self._expiries.put(client_id, expires_s, device)
        return device

    def _lay_to_rest(self, now_s: float) -> None:
        """Devices whose clients are away become rows, as soon as nothing is under way for them."""
        rows: list[tuple[Device, float]] = []
        for device in list(self._to_rest):
            client_id = device.session.client_id
            if self.devices.get(client_id) is not device or device.connection is not None:
                self._to_rest.discard(device)
            elif may_rest(device) and client_id not in self._opening and client_id not in self._waiting:
                self._to_rest.discard(device)
                del self.devices[client_id]
                self._deliveries.leave(device)
                due_s = self._expiries.due_of(client_id)
                self._expiries.take(client_id)
                rows.append((device, NEVER_RESTED_S if due_s is None else due_s))
                if len(rows) >= REST_AT_ONCE_MAX:
                    break
        if rows:
            self.resting.put(rows)

    # -- a turn ------------------------------------------------------------------------------------------------------

    def handle(self, events: list[ev.Event]) -> None:
        self._take(events)
        self.serve_waiting()
        self._log.append()
        self._publisher.write_now()

    def _take(self, events: list[ev.Event]) -> None:
        publishes: list[Outgoing | ev.RunReceived] = []
        kept, number = self._kept, self._publisher.next_number
        for event in events:
            if kept and event.connection in kept:
                kept[event.connection].append(event)
                continue
            if type(event) is ev.RunReceived:
                device = event.connection.user
                assert isinstance(device, Device)
                device.published = number
                if device.access is None or _may_publish(event.connection, event.ticket, event.topic):
                    publishes.append(event._replace(publisher=device.session.client_id) if device.no_local else event)
                continue
            if type(event) is ev.DeliveriesEnded:
                self._deliveries.ended_deliveries(event.connection, event.deliveries, event.code)
                continue
            if type(event) is ev.PublishReceived:
                device = event.connection.user
                assert isinstance(device, Device)
                device.published = number
                if _may_publish(event.connection, event.ticket, event.publish.topic):
                    publishes.append(outgoing_of(event.connection, event.ticket, event.publish))
                continue
            match event:
                case ev.ConnectReceived(connection, connect):
                    self._on_connect(connection, connect)
                case ev.ReleaseReceived(connection, ticket, packet_id):
                    change = stored.inbound_change(connection.client_id, packet_id, False)
                    self._put(connection, [change], partial(connection.release_done, ticket))
                case ev.ReceiptReceived(connection, ticket, packet_id):
                    self._on_receipt(connection, ticket, packet_id)
                case ev.SubscribeReceived(connection, ticket, subscribe):
                    self._publish(publishes)
                    publishes, number = [], self._publisher.next_number
                    device = connection.user
                    assert isinstance(device, Device)
                    if self._publisher.is_stored(device.published):
                        self._subscribing.subscribe(connection, ticket, subscribe)
                    else:
                        self._keep_waiting(connection, event)
                case ev.UnsubscribeReceived(connection, ticket, unsubscribe):
                    self._subscribing.unsubscribe(connection, ticket, unsubscribe.filters)
                case ev.WindowOpened(connection):
                    if isinstance(connection.user, Device):
                        self._deliveries.window_opened(connection.user)
                case ev.Closed():
                    self._on_closed(event, publishes)
                case _:
                    pass
        self._publish(publishes)

    def _publish(self, publishes: list[Outgoing | ev.RunReceived]) -> None:
        if publishes:
            count, size_bytes = totals(publishes)
            self.publishes_in += count
            self.publish_bytes_in += size_bytes
            self._publisher.publish(publishes)

    def _keep_waiting(self, connection: Connection, subscribe: ev.SubscribeReceived) -> None:
        """A subscription is behind what its client published before it: that may be retained for it, and is not
        delivered as new. So the client's packets wait until it is stored.
        """
        self._kept[connection] = [subscribe]
        connection.kept_waiting = True
        self._publisher.when_stored(partial(self._go_on, connection, subscribe))

    def _go_on(self, connection: Connection, subscribe: ev.SubscribeReceived) -> None:
        events = self._kept.pop(connection)
        connection.kept_waiting = False
        self._subscribing.subscribe(*subscribe)
        self._take(events[1:])
        self._answered()
        self._log.append()

    def _put(self, connection: Connection, changes: list[Change], done: Callable[[], object]) -> None:
        """Has changes stored with this turn's others, then answers; a store that cannot ends the connection."""

        def answered(durable: bool) -> None:
            if durable:
                done()
            else:
                connection.disconnect(reasons.QUOTA_EXCEEDED, "the broker cannot store anything")
            self._answered()

        self._log.put(changes, answered)

    def store(self, changes: list[Change], done: Callable[[bool], None]) -> None:
        """Has changes that come from elsewhere stored; `done(durable)`."""
        self._log.put(changes, done)
        self._log.append()

    def _answered(self) -> None:
        self.serve_waiting()
        self.flush()

    # -- CONNECT -----------------------------------------------------------------------------------------------------

    def _on_connect(self, connection: Connection, connect: Connect) -> None:
        if (refused := self._admission.refusal(connect)) is not None:
            connection.refuse(*refused)
            return
        client_id = connect.client_id or f"trivium-{uuid.uuid4().hex}"
        if connect.will is not None:
            access = self._admission.access(connect.username, client_id)
            if access is not None and not access.may_write(connect.will.topic.encode()):
                log.info("MQTT: a will is not allowed by the access control list", client_id=client_id)
                connect = connection.connect = replace(connect, will=None)
        earlier = self._waiting.pop(client_id, None)
        if earlier is not None:
            earlier[0].refuse(reasons.SERVER_BUSY, "another connection took its place")
        if connect.will is not None and (refused := self._publisher.refusal(connect.will.topic)) is not None:
            connection.refuse(refused[0], f"the will: {refused[1]}")
            return
        device = self.devices.get(client_id)
        sessions = len(self.devices) + len(self.resting) + len(self._waiting)
        if sessions >= self._sessions_max and self.find(client_id) is None:
            connection.refuse(reasons.QUOTA_EXCEEDED, "the broker keeps no more sessions")
            return
        if device is not None and device.connection is not None:
            device.connection.disconnect(reasons.SESSION_TAKEN_OVER, "the client connected again")
        self._waiting[client_id] = connection, connect

    def serve_waiting(self) -> None:
        """Opens what waits for the last answers of an old connection; to be called when answers were given."""
        opened = False
        for client_id in list(self._waiting):
            device = self.devices.get(client_id)
            if client_id in self._opening or (device is not None and not device.settled()):
                continue
            connection, connect = self._waiting.pop(client_id)
            if not connection.closed:
                self._open(client_id, connection, connect)
                opened = True
        if opened:
            self._log.append()

    def _open(self, client_id: str, connection: Connection, connect: Connect) -> None:
        device = self.find(client_id)
        will_due = self._wills.take(client_id)
        changes: list[Change] = []
        if device is not None and connect.clean_start:
            changes += self._forget(device)
            device = None
        ours = client_id in self._restart_wills  # it was the broker that went, and the client is back in time
        self._restart_wills.discard(client_id)
        if will_due is not None and device is None and not ours:
            # The session that the will belongs to has ended ([MQTT-3.1.3-9]).
            self._publisher.publish([will_of(client_id, will_due)])
        present = device is not None
        if device is None:
            device = Device(Session(client_id, self._deliveries.take_number()), self._deliveries.tail.position)
            self.devices[client_id] = device
            self._deliveries.devices[device.session.number] = device
        self._expiries.take(client_id)
        session = device.session
        expiry_s = min(asked_expiry_s(connect), self._expiry_s_max)
        if expiry_s != session.expiry_s or not present:
            was_durable = session.durable
            session.expiry_s, session.durable = expiry_s, expiry_s > 0
            device.stored_expiry_s = expiry_s
            if session.durable:
                device.stored = True
                changes.append(session_row(session))
                changes += position_changes(device, *self._deliveries.cursor(device))
            elif was_durable:
                changes += forget(device)
        device.has_will = connect.will is not None
        if connect.will is not None:
            changes.append(stored.will_change(client_id, pack_will(connect.will)))
        elif will_due is not None:
            changes.append(stored.will_change(client_id, None))
        if not changes:
            self._accept(device, connection, present, True)
            return
        self._opening.add(client_id)
        self._log.put(changes, partial(self._opened, device, connection, present))

    def _opened(self, device: Device, connection: Connection, present: bool, durable: bool) -> None:
        self._opening.discard(device.session.client_id)
        self._accept(device, connection, present, durable)
        self._answered()
        self._log.append()

    def _accept(self, device: Device, connection: Connection, present: bool, durable: bool) -> None:
        session = device.session
        accepted = False
        if not durable:
            connection.refuse(reasons.QUOTA_EXCEEDED, "the broker cannot store anything")
        else:
            connection.user = device
            device.connection = connection
            device.user = connection.connect.username if connection.connect is not None else None
            device.access = self._admission.access(device.user, session.client_id)
            accepted = connection.accept(
                session, time.monotonic(), session_present=present, session_expiry_s=session.expiry_s
            )
        if accepted:
            self.connected += 1
            self._deliveries.begin(device)
            return
        connection.user = device.connection = None
        self._log.put([stored.will_change(session.client_id, None)])
        if not session.durable:
            self._log.put(self._forget(device))
        else:
            self._expire_later(device, time.time())

    def reload(self) -> None:
        """Reads password and ACL file again. Whose password has changed or is gone is cut, as mosquitto does.

        Raises OSError or ValueError for a file that cannot be used.
        """
        gone = self._admission.reload()
        for device in self.devices.values():
            if device.connection is not None and device.user in gone:
                device.connection.disconnect(reasons.NOT_AUTHORIZED, "the password has changed")
        self.flush()

    # -- the end of a connection and of a session --------------------------------------------------------------------

    def _on_closed(self, closed: ev.Closed, publishes: list[Outgoing | ev.RunReceived]) -> None:
        connection = closed.connection
        device = connection.user
        if not isinstance(device, Device) or device.connection is not connection:
            return
        session = device.session
        device.connection, device.closing = None, connection
        self.connected -= 1
        self._deliveries.ended(device)
        device.retained.clear()  # asked for by this connection's SUBSCRIBE
        if closed.will is not None and (device.access is None or device.access.may_write(closed.will.topic.encode())):
            delay_s = min(closed.will.properties.get(props.WILL_DELAY, 0), closed.session_expiry_s)
            if delay_s:
                self._wills.put(session.client_id, time.time() + delay_s, closed.will)
            else:
                publishes.append(will_of(session.client_id, closed.will))
        elif device.has_will:
            self._log.put([stored.will_change(session.client_id, None)])
        if closed.session_expiry_s == 0:
            self._log.put(self._forget(device))
            return
        if closed.session_expiry_s != device.stored_expiry_s:
            session.expiry_s = device.stored_expiry_s = closed.session_expiry_s
            self._log.put([session_row(session)])
        self._log.put(position_changes(device, device.position, device.offsets))
        self._expire_later(device, time.time())

    def _forget(self, device: Device) -> list[Change]:
        client_id = device.session.client_id
        self._deliveries.remove(device)
        if self.devices.get(client_id) is device:
            del self.devices[client_id]
        self.resting.forget(client_id)
        self._expiries.take(client_id)
        return forget(device)

    def _expire_later(self, device: Device, now_s: float) -> None:
        self._to_rest.add(device)
        if device.session.expiry_s != NEVER_S:
            self._expiries.put(device.session.client_id, now_s + device.session.expiry_s, device)

    def sweep(self, now_s: float) -> None:
        """What hangs on time; to be called about once a second."""
        for client_id in self.resting.due(now_s, EXPIRED_AT_ONCE_MAX):
            self.find(client_id)
        for _, device in self._expiries.take_due(now_s):
            self.expired += 1
            will = self._wills.take(device.session.client_id)
            if will is not None:
                self._publisher.publish([will_of(device.session.client_id, will)])
            self._log.put(self._forget(device))
        due = self._wills.take_due(now_s)
        if due:
            self._restart_wills.difference_update(client_id for client_id, _ in due)
            self._publisher.publish([will_of(client_id, will) for client_id, will in due])
        if now_s >= self._positions_due_s:
            self._positions_due_s = now_s + POSITION_INTERVAL_S
            self.put_positions()
        self._lay_to_rest(now_s)
        self._log.append()
        self._answered()

    def put_positions(self) -> None:
        """Has stored where all sessions are that were given something, and who has something to get."""
        self._deliveries.store_packet_ids()  # or a place could stand behind a message whose packet id is not stored
        for device in self.devices.values():
            if device.dirty and device.connection is not None:
                self._log.put(position_changes(device, *self._deliveries.cursor(device)))
        self._store_groups()
        self._checkpoints.put(self.devices.values())

    async def keep_positions(self) -> None:
        """As `put_positions`; returns when it is durable, or cannot be."""
        self.put_positions()
        answered = trio.Event()
        self.store([], lambda _: answered.set())
        await answered.wait()

    def _store_groups(self) -> None:
        """Has the places of shared subscriptions stored that have moved since they were, if a member is durable."""
        deliveries = self._deliveries
        deliveries.store_packet_ids()  # as above
        if deliveries.groups_gone:
            self._log.put(deliveries.groups_gone)
            deliveries.groups_gone = []
        for group in deliveries.groups.values():
            if group.dirty and (group.durable or group.stored):
                self._store_group(group)
            elif group.dirty:
                group.drop_idle()

    def _store_group(self, group: Group) -> None:
        place = GroupRow(*self._deliveries.cursor(group))
        self._log.put(*group.changes(place, self._deliveries.has))

    def store_group(self, group: Group, done: Callable[[bool], None]) -> None:
        """Has the place of a shared subscription stored now; `done(durable)`."""
        self._store_group(group)
        self.store([], done)

    # -- QoS 2 to devices --------------------------------------------------------------------------------------------

    def _on_receipt(self, connection: Connection, ticket: int, packet_id: int) -> None:
        session = connection.session
        assert session is not None
        delivery = (session.inflight or {})[packet_id]
        place = (ses.QOS2_RELEASED, delivery.partition, delivery.offset, delivery.retain)
        change = stored.outbound_change(session.client_id, packet_id, place)
        self._put(connection, [change], partial(connection.receipt_done, ticket))

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
            changes += position_changes(device, *self._deliveries.cursor(device))
            if device.groups:
                self._store_groups()
            self._put(connection, changes, partial(_send_stored, connection, len(unstored)))
        self._log.append()


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
