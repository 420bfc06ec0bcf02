"""When connections are to be looked at: a wheel of one-second slots, instead of a timer for each.

Nothing is moved when a deadline moves on, as a keep alive's does with every packet: a connection is looked at when its
deadline, as known then, is due, and put into a later slot.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.protocols.mqtt.peers import Peer

WHEEL_S_MAX: Final = 60  # the longest a connection goes without a look at its deadline


class Wheel:
    """Times are the pump's, monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, array[int]] = {}  # second -> descriptors
        self._swept = int(now)

    def put(self, peer: Peer, now: float) -> None:
        """Has a connection looked at when its deadline is due, or its lingering over."""
        deadline = peer.linger_until_s or peer.connection.deadline
        slot = int(now) + WHEEL_S_MAX
        if deadline is not None:
            slot = min(slot, int(deadline) + 1)
        peer.slot = max(slot, self._swept + 1)
        self._slots.setdefault(peer.slot, array("i")).append(peer.fd)

    def take_due(self, peers: Mapping[int, Peer], now: float) -> Iterator[Peer]:
        """Those whose slots are due, each to be put again or dropped before the next is asked for."""
        while self._swept < int(now):
            self._swept += 1
            for fd in self._slots.pop(self._swept, ()):
                peer = peers.get(fd)
                if peer is not None and peer.slot == self._swept:  # else closed since, or put elsewhere
                    yield peer
