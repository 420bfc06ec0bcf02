"""Where sessions and shared subscriptions are in the log, stored every few seconds and where something depends on it.

A place that is stored late is behind what was delivered; after a crash that comes again: at QoS 1, as MQTT lets it, and
at QoS 0, as docs/mqtt.md says.
"""

from __future__ import annotations

from typing import Final

from core.sessions import GroupRow, SessionLog
from gateway.protocols.mqtt.checkpoints import Checkpoints
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.session_rows import position_changes
from gateway.protocols.mqtt.session_table import SessionTable
from gateway.protocols.mqtt.shared import Group

INTERVAL_S: Final = 5.0


class Positions:
    """What is put goes with the next append of the session log."""

    def __init__(self, log: SessionLog, deliveries: Deliveries, sessions: SessionTable) -> None:
        self.checkpoints = Checkpoints(log, deliveries)
        self._log = log
        self._deliveries = deliveries
        self._sessions = sessions
        self._due_s = 0.0

    def put_if_due(self, now_s: float) -> None:
        if now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            self.put()

    def put(self) -> None:
        """Where all sessions are that were given something, and who has something to get."""
        # Or a place could stand behind a message whose packet id is not stored.
        self._deliveries.handing.store_packet_ids()
        devices = self._sessions.devices.values()
        for device in devices:
            if device.dirty and device.connection is not None:
                self._log.put(position_changes(device, *self._deliveries.cursors.cursor(device)))
        self.put_groups()
        self.checkpoints.put(devices)

    def put_groups(self) -> None:
        """The places of shared subscriptions that have moved since they were stored, if a member is durable."""
        deliveries = self._deliveries
        deliveries.handing.store_packet_ids()  # as above
        if deliveries.groups_gone:
            self._log.put(deliveries.groups_gone)
            deliveries.groups_gone = []
        for group in deliveries.subscribers.groups.values():
            if group.dirty and (group.durable or group.stored):
                self.put_group(group)
            elif group.dirty:
                group.drop_idle()

    def put_group(self, group: Group) -> None:
        place = GroupRow(*self._deliveries.cursors.cursor(group))
        self._log.put(*group.changes(place, self._deliveries.subscribers.has))
