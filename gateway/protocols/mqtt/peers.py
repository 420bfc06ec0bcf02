"""The pump's sockets: what listens, and what is connected."""

from __future__ import annotations

import select
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.layers import Layer, Stack, Tls, WebSocket
from gateway.protocols.mqtt.limits import Limits

READING: Final = select.EPOLLIN | select.EPOLLRDHUP


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket and what its connections speak."""

    socket: socket.socket
    limits: Limits
    tls: ssl.SSLContext | None = None
    websocket_path: str | None = None

    @property
    def protocol(self) -> str:
        """mqtt, mqtts, ws or wss."""
        plain = "mqtt" if self.websocket_path is None else "ws"
        return plain if self.tls is None else plain + "s"

    def layer(self) -> Layer | None:
        if self.websocket_path is None:
            return Tls(self.tls) if self.tls is not None else None
        websocket = WebSocket(self.websocket_path)
        return Stack(Tls(self.tls), websocket) if self.tls is not None else websocket


class Peer:
    """A socket in the epoll set. `mask` is what the set knows, `slot` the wheel slot it stands in."""

    __slots__ = (
        "acked_s",
        "acks",
        "address",
        "backlog",
        "connection",
        "ended",
        "fd",
        "layer",
        "linger_until_s",
        "mask",
        "slot",
        "socket",
        "told",
    )

    def __init__(self, sock: socket.socket, address: str, connection: Connection, layer: Layer | None) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.address = address
        self.connection = connection
        self.layer = layer
        self.backlog: memoryview | None = None  # wire bytes the socket has not taken
        self.mask = READING
        self.slot = 0
        self.linger_until_s = 0.0
        self.ended = False  # it sends nothing more, so there is nothing to linger for
        self.acks = 0  # it sent in a row and nothing else; -1: they are left to gather (ack_reading.py)
        self.acked_s = 0.0
        self.told = False  # the handler has heard of the end
