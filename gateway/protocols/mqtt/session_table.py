"""Which sessions there are: as objects, at rest (resting.py), and when those whose clients are away end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from core.state import Change
from gateway.protocols.mqtt.deadlines import Deadlines
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.packet_changes import NEVER_S
from gateway.protocols.mqtt.resting import NEVER_S as NEVER_RESTED_S
from gateway.protocols.mqtt.resting import Resting, may_rest
from gateway.protocols.mqtt.session import Session
from gateway.protocols.mqtt.session_rows import forget

REST_AT_ONCE_MAX: Final = 2_000  # devices that go to rest in one step of the loop, some 10 us each
EXPIRED_AT_ONCE_MAX: Final = 2_000


class SessionTable:
    """Client id -> device. `devices` has those that do not rest; times are wall-clock seconds."""

    def __init__(self, deliveries: Deliveries) -> None:
        self.devices: dict[str, Device] = {}
        self.resting = Resting(deliveries.subscribers.resting_pending)
        self.connected = self.expired = 0
        self._deliveries = deliveries
        self._to_rest: set[Device] = set()  # devices without connection, until they rest
        self._expiries: Deadlines[Device] = Deadlines()  # of those that do not rest

    def __len__(self) -> int:
        return len(self.devices) + len(self.resting)

    def find(self, client_id: str) -> Device | None:
        """The device of a client, woken if it rests."""
        device = self.devices.get(client_id)
        if device is None and (found := self.resting.take(client_id)) is not None:
            device, expires_s = found
            self.devices[client_id] = device
            self._deliveries.subscribers.enter(device)
            self._to_rest.add(device)
            if expires_s != NEVER_RESTED_S:
                self._expiries.put(client_id, expires_s, device)
        return device

    def make(self, client_id: str) -> Device:
        """A new session, which begins at the end of the log."""
        subscribers = self._deliveries.subscribers
        device = Device(Session(client_id, subscribers.take_number()), self._deliveries.tail.position)
        self.devices[client_id] = device
        subscribers.devices[device.session.number] = device
        return device

    def forget(self, device: Device) -> list[Change]:
        """A session ends: the changes that take its rows away."""
        client_id = device.session.client_id
        self._deliveries.remove(device)
        if self.devices.get(client_id) is device:
            del self.devices[client_id]
        self.resting.forget(client_id)
        self._expiries.take(client_id)
        return forget(device)

    def client_left(self, device: Device, now_s: float) -> None:
        """The session goes to rest when it can, and ends when its time is over."""
        self._to_rest.add(device)
        if device.session.expiry_s != NEVER_S:
            self._expiries.put(device.session.client_id, now_s + device.session.expiry_s, device)

    def client_back(self, client_id: str) -> None:
        """The session no longer ends by itself."""
        self._expiries.take(client_id)

    def take_expired(self, now_s: float) -> list[Device]:
        """The sessions whose time is over, to be forgotten."""
        for client_id in self.resting.due(now_s, EXPIRED_AT_ONCE_MAX):
            self.find(client_id)
        expired = [device for _, device in self._expiries.take_due(now_s)]
        self.expired += len(expired)
        return expired

    def lay_to_rest(self, is_connecting: Callable[[str], bool]) -> None:
        """Devices whose clients are away become rows, as soon as nothing is under way for them."""
        rows: list[tuple[Device, float]] = []
        for device in list(self._to_rest):
            client_id = device.session.client_id
            if self.devices.get(client_id) is not device or device.connection is not None:
                self._to_rest.discard(device)
            elif may_rest(device) and not is_connecting(client_id):
                self._to_rest.discard(device)
                del self.devices[client_id]
                self._deliveries.subscribers.leave(device)
                due_s = self._expiries.due_of(client_id)
                self._expiries.take(client_id)
                rows.append((device, NEVER_RESTED_S if due_s is None else due_s))
                if len(rows) >= REST_AT_ONCE_MAX:
                    break
        if rows:
            self.resting.put(rows)
