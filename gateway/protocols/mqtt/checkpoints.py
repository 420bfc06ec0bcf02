"""What is pending outlives a restart, so that a session for which nothing came resumes without a look at the log.

Every few seconds and at the end the changed parts of the bits (pending.py) are stored in one append with the places of
all sessions that were given something, and with the place in the log up to which the bits say all. What stands behind
that place is matched anew at start (marking.py). When something of a session could not be stored, the
place is withdrawn until the next start, where all sessions count as pending then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from core.sessions import CHECKPOINT, SessionLog, checkpoint_change
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device

log = structlog.get_logger(__name__)

MARK_BYTES_MAX: Final = 256 * 1024 * 1024  # what stands behind the stored place is not read at start if it is more


class Checkpoints:
    """`restore`, then, once all stored sessions are in the index, `mark`; `put` from then on."""

    def __init__(self, log_: SessionLog, deliveries: Deliveries) -> None:
        self._log = log_
        self._deliveries = deliveries
        self._last: tuple[int, dict[int, int], int] | None = None
        self._withdrawn = False
        self._marked: set[int] = set()  # numbers of those that did not rest at the last time, but had something to get

    def restore(self) -> None:
        """Sets the bits as they were stored."""
        self._deliveries.subscribers.resting_pending.restore(self._log.bits)
        self._log.bits = {}

    async def mark(self) -> None:
        """Marks those for which something may have come since."""
        subscribers = self._deliveries.subscribers
        place = None if self._log.state.damaged else self._log.checkpoint
        if place is None or not await self._deliveries.marking.since(*place, MARK_BYTES_MAX):
            subscribers.resting_pending.add_all(subscribers.number_max)
            for device in subscribers.devices.values():
                device.pending = True
            if subscribers.number_max:
                log.info("MQTT sessions: all may have messages", reason="unknown" if place is None else "much came")

    def put(self, devices: Iterable[Device]) -> None:
        """To be called when the places of all `devices`, the sessions that do not rest, were put into the log."""
        subscribers, tail = self._deliveries.subscribers, self._deliveries.tail
        pending = subscribers.resting_pending
        if self._log.failed:
            if not self._withdrawn:
                self._log.put([(CHECKPOINT, None)], self._on_withdrawn)
            return
        marked = self._marked
        self._marked = {one.session.number for one in devices if one.pending and one.session.durable}
        for number in marked - self._marked:
            if number in subscribers.devices:  # else it rests, or has ended, and its bit is as it should be
                pending.discard(number)
        for number in self._marked:
            pending.add(number)
        now = self._deliveries.live.delivered, dict(tail.held), subscribers.index.version
        if now != self._last or pending.changed:
            self._last = now
            self._log.put([*pending.take_changes(), checkpoint_change(tail.position, tail.held)])

    def _on_withdrawn(self, durable: bool) -> None:
        self._withdrawn = durable
