"""Where readers of the log are: at its tail, or behind, at a cursor of their own.

A reader is a device or a shared subscription. One that is live has no cursor: it is where the tail is.
"""

from __future__ import annotations

import trio

from core.delivery import LogTail
from core.store.engine import Engine
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.shared import Group


class Cursors:
    """`behind` gives those that have something to read and room for it, in turn."""

    def __init__(self, engine: Engine, tail: LogTail) -> None:
        self._engine = engine
        self._tail = tail
        # Bounded by the devices and groups: each stands in it once.
        self._behind, self.behind = trio.open_memory_channel[Device | Group](float("inf"))

    def end(self, device: Device | Group) -> None:
        """It stops being live: its place in the log stays."""
        if device.live:
            device.live = False
            device.position, device.offsets = self._tail.position, dict(self._tail.held)

    def cursor(self, device: Device | Group) -> tuple[int, dict[int, int]]:
        """(position before which it was given everything, offsets of the partitions that stand elsewhere)."""
        return (self._tail.position, self._tail.held) if device.live else (device.position, device.offsets)

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

    def join_tail(self, device: Device | Group) -> None:
        """It has met the tail, and is live from now on."""
        device.live = True
        device.pending = False
        device.offsets = {}

    def catch_up(self, device: Device | Group) -> None:
        """There is room: let it go on, if it is behind."""
        if not device.queued and device.present:
            device.queued = True
            if not device.catching_up:  # else its reader puts it there when it is done
                self._behind.send_nowait(device)

    def caught_up(self, device: Device | Group) -> None:
        """Its reader is done with it; it is put into the queue again if there was room meanwhile."""
        device.catching_up = False
        if device.queued:
            self._behind.send_nowait(device)

    async def start_of(self, reader: Device | Group, partition: int) -> int:
        """Where a reader that is behind goes on in a partition. Raises UnknownPartition."""
        offset = reader.offsets.get(partition)
        return await self._engine.offset_at(partition, reader.position) if offset is None else offset
