"""Wills that wait for their time: behind their delay, or after a restart, while clients may come back.

A will is stored with its CONNECT and taken away when it is published or void. One that is due is published with that
change in the same append (due_wills.py), so a crash neither loses it nor says it twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from core import sessions as stored
from core.sessions import SessionLog
from core.state import Change
from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Will
from gateway.protocols.mqtt.deadlines import Deadlines
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.due_wills import DueWills
from gateway.protocols.mqtt.outgoing import Outgoing
from gateway.protocols.mqtt.publishing import Publisher
from gateway.protocols.mqtt.will_codec import pack_will, unpack_will

AGAIN_S: Final = 10.0  # after which one that found no room is published again


class Wills:
    """`grace_s`: how long a client has to come back after a restart, unless its will's delay is longer."""

    def __init__(self, log: SessionLog, publisher: Publisher, grace_s: float) -> None:
        self._log = log
        self._publisher = publisher
        self._grace_s = grace_s
        self._waiting: Deadlines[Will] = Deadlines()
        self._due = DueWills(self._wait_for_room, self.refused)
        self._restarted: set[str] = set()  # clients that the last life of the broker took the connection from

    def load(self, now_s: float, expiry_of: Callable[[str], float]) -> None:
        """Takes over the stored wills. `expiry_of`: seconds after which a client's session ends."""
        for client_id, packed in self._log.wills.items():
            will = unpack_will(packed)
            delay_s = float(will.properties.get(props.WILL_DELAY, 0))
            if delay_s:
                delay_s = min(delay_s, expiry_of(client_id))
            self._waiting.put(client_id, now_s + max(delay_s, self._grace_s), will)
            self._restarted.add(client_id)
        self._log.wills = {}

    def client_back(self, client_id: str, will: Will | None, *, resumed: bool) -> list[Change]:
        """A client has connected with this will: what is to be stored. Its last one is void, but is due now if the
        session it belongs to is not resumed.
        """
        under_way = self._due.client_back(client_id)
        last = self._waiting.take(client_id)
        ours = client_id in self._restarted  # it was the broker that went, and the client is back in time
        self._restarted.discard(client_id)
        if last is not None and not resumed and not ours:
            self._publisher.publish([self._due.add(client_id, last)])  # [MQTT-3.1.3-9]
            self._due.client_back(client_id)
        if will is not None:
            return [stored.will_change(client_id, pack_will(will))]
        return [stored.will_change(client_id, None)] if last is not None or under_way else []

    def refused(self, client_id: str) -> None:
        """It is void: it may not be published, or the CONNECT that it came with was not answered."""
        self._log.put([stored.will_change(client_id, None)])

    def client_left(self, device: Device, closed: ev.Closed) -> Outgoing | None:
        """The will if it is due at once; else it waits, or it is void. Of a client that lost its connection because the
        broker stops it stays stored: it has a grace after the restart.
        """
        if closed.code == reasons.SERVER_SHUTTING_DOWN and not closed.by_client:
            return None
        client_id, will = device.session.client_id, closed.will
        if will is not None and (device.access is None or device.access.may_write(will.topic.encode())):
            delay_s = min(will.properties.get(props.WILL_DELAY, 0), closed.session_expiry_s)
            if not delay_s:
                return self._due.add(client_id, will)
            self._waiting.put(client_id, time.time() + delay_s, will)
        elif device.has_will:
            self._log.put([stored.will_change(client_id, None)])
        return None

    def session_ended(self, client_id: str) -> None:
        """A will waits no longer than its session lasts."""
        will = self._waiting.take(client_id)
        if will is not None:
            self._publisher.publish([self._due.add(client_id, will)])

    def publish_due(self, now_s: float) -> None:
        due = self._waiting.take_due(now_s)
        if due:
            self._restarted.difference_update(client_id for client_id, _ in due)
            self._publisher.publish([self._due.add(client_id, will) for client_id, will in due])

    def _wait_for_room(self, client_id: str, will: Will) -> None:
        self._waiting.put(client_id, time.time() + AGAIN_S, will)
