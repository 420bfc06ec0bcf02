"""What all connections together hold of packets that have not come whole; above the bound, the largest are cut.

One packet is bounded by its listener's limit, but any number of devices may send all but its last byte and wait.
"""

from __future__ import annotations

from typing import Final

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.peers import Peer

HALF_RECEIVED_BYTES_MAX: Final = 256 * 1024 * 1024


class HalfReceived:
    """`holders` are the connections that hold anything, with how many bytes."""

    def __init__(self, bytes_max: int = HALF_RECEIVED_BYTES_MAX) -> None:
        self.bytes = 0
        self.holders: dict[Peer, int] = {}
        self._bytes_max = bytes_max

    def note(self, peer: Peer, held_bytes: int) -> None:
        """What a connection holds now; 0 at its end."""
        before = self.holders.pop(peer, 0)
        self.bytes += held_bytes - before
        if held_bytes:
            self.holders[peer] = held_bytes
            if self.bytes > self._bytes_max:
                self._cut()

    def _cut(self) -> None:
        """The largest go, until there is room for some time: looking for them costs as much as there are holders."""
        for peer in sorted(self.holders, key=self.holders.__getitem__, reverse=True):
            if self.bytes <= self._bytes_max * 3 // 4:
                return
            self.note(peer, 0)
            peer.connection.disconnect(reasons.QUOTA_EXCEEDED, "too much is half received over all connections")
