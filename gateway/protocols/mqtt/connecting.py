"""CONNECT: which are refused, and how one that is not gets its session.

A client identifier is served in turn: a CONNECT waits until the old connection's last answers are in. CONNACK is sent
when the session and the will are durable; until then the next CONNECT of that client waits too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from core.sessions import SessionLog
from core.state import Change
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.admission import Admission
from gateway.protocols.mqtt.codec.packets import Connect
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import NOT_STORED_S, Device
from gateway.protocols.mqtt.packet_changes import asked_expiry_s
from gateway.protocols.mqtt.publishing import Publisher
from gateway.protocols.mqtt.session_rows import forget, position_changes, session_row
from gateway.protocols.mqtt.session_table import SessionTable
from gateway.protocols.mqtt.wills import Wills

log = structlog.get_logger(__name__)


class Connecting:
    """`answered` is called when a CONNECT was answered from outside a turn."""

    def __init__(
        self,
        log_: SessionLog,
        publisher: Publisher,
        deliveries: Deliveries,
        sessions: SessionTable,
        wills: Wills,
        admission: Admission,
        expiry_s_max: int,
        sessions_max: int,
        answered: Callable[[], None],
    ) -> None:
        self._log = log_
        self._publisher = publisher
        self._deliveries = deliveries
        self._sessions = sessions
        self._wills = wills
        self._admission = admission
        self._expiry_s_max = expiry_s_max
        self._sessions_max = sessions_max
        self._answered = answered
        self._waiting: dict[str, tuple[Connection, Connect]] = {}  # for their predecessors
        self._opening: set[str] = set()  # clients whose session is being stored

    def is_under_way(self, client_id: str) -> bool:
        """Whether a client has sent a CONNECT that is not answered."""
        return client_id in self._opening or client_id in self._waiting

    def connect(self, connection: Connection, connect: Connect) -> None:
        """Refuses a CONNECT, or has it wait for `serve_waiting`."""
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
        if connect.will is not None and (refused := self._publisher.routes.refusal(connect.will.topic)) is not None:
            connection.refuse(refused[0], f"the will: {refused[1]}")
            return
        sessions = self._sessions
        device = sessions.devices.get(client_id)
        if len(sessions) + len(self._waiting) >= self._sessions_max and sessions.find(client_id) is None:
            connection.refuse(reasons.QUOTA_EXCEEDED, "the broker keeps no more sessions")
            return
        if device is not None and device.connection is not None:
            device.connection.disconnect(reasons.SESSION_TAKEN_OVER, "the client connected again")
        self._waiting[client_id] = connection, connect

    def serve_waiting(self) -> None:
        """Opens what waits for the last answers of an old connection; to be called when answers were given."""
        opened = False
        for client_id in list(self._waiting):
            device = self._sessions.devices.get(client_id)
            if client_id in self._opening or (device is not None and not device.settled()):
                continue
            connection, connect = self._waiting.pop(client_id)
            if not connection.closed:
                self._open(client_id, connection, connect)
                opened = True
        if opened:
            self._log.append()

    def _open(self, client_id: str, connection: Connection, connect: Connect) -> None:
        device = self._sessions.find(client_id)
        changes: list[Change] = []
        if device is not None and connect.clean_start:
            changes += self._sessions.forget(device)
            device = None
        present = device is not None
        changes += self._wills.client_back(client_id, connect.will, resumed=present)
        if device is None:
            device = self._sessions.make(client_id)
        self._sessions.client_back(client_id)
        device.has_will = connect.will is not None
        session = device.session
        expiry_s = min(asked_expiry_s(connect), self._expiry_s_max)
        if expiry_s != device.stored_expiry_s or not present:
            was_durable = session.durable
            session.expiry_s, session.durable = expiry_s, expiry_s > 0
            device.stored_expiry_s = expiry_s
            if session.durable:
                device.stored = True
                changes.append(session_row(session))
                changes += position_changes(device, *self._deliveries.cursors.cursor(device))
            elif was_durable:
                changes += forget(device)
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
            self._sessions.connected += 1
            self._deliveries.begin(device)
            return
        connection.user = device.connection = None
        self._wills.refused(session.client_id)
        if not session.durable or (not durable and not present):
            self._log.put(self._sessions.forget(device))
            return
        if not durable:
            device.stored_expiry_s = NOT_STORED_S
        self._sessions.client_left(device, time.time())
