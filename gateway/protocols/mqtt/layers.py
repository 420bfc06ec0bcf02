"""What may lie between a socket and the MQTT bytes: TLS, WebSocket, or one over the other. Sans-IO: bytes both ways.

`received` takes bytes of the wire and returns MQTT bytes; `to_send` takes MQTT bytes and returns bytes for the wire,
with whatever the layer has to say itself. After an exception or `ended`, what `to_send(b"")` returns is sent and the
connection is closed.
"""

from __future__ import annotations

import ssl
from typing import Final, Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

SUBPROTOCOL: Final = "mqtt"
ANY_PATH: Final = "*"
_READ_BYTES: Final = 65_536


class LayerError(Exception):
    """The peer broke the layer's protocol, or a handshake failed."""


class Layer(Protocol):
    ended: bool  # the peer has said that it is done

    def received(self, data: bytes) -> bytes:
        """MQTT bytes out of wire bytes; raises LayerError."""

    def to_send(self, data: bytes) -> bytes:
        """Wire bytes for MQTT bytes (may be empty), after what the layer itself has to send."""

    def finish(self) -> bytes:
        """The layer's own goodbye; nothing is sent behind it."""


class Tls:
    """The server's side of TLS, on memory."""

    __slots__ = ("_incoming", "_object", "_outgoing", "_shaken", "ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self.ended = False
        self._shaken = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def received(self, data: bytes) -> bytes:
        self._incoming.write(data)
        plain: list[bytes] = []
        try:
            if not self._shaken:
                self._object.do_handshake()
                self._shaken = True
            while chunk := self._object.read(_READ_BYTES):
                plain.append(chunk)
                if not self._incoming.pending and not self._object.pending():
                    break  # to ask for more would raise SSLWantReadError, which costs as much as the read
            else:
                self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise LayerError(f"TLS: {error.reason or error}") from error
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def to_send(self, data: bytes) -> bytes:
        if data and self._shaken:
            self._object.write(data)
        return self._outgoing.read()

    def finish(self) -> bytes:
        if self._shaken:
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # it wants the peer's goodbye, which is not waited for
        return self._outgoing.read()


class WebSocket:
    """The server's side of a WebSocket on `path` (ANY_PATH: on any), subprotocol `mqtt` ([MQTT-6.0.0-1] to -4)."""

    __slots__ = ("_connection", "_out", "_path", "ended")

    def __init__(self, path: str) -> None:
        self.ended = False
        self._path = path
        self._connection = WSConnection(ConnectionType.SERVER)
        self._out: list[bytes] = []

    def received(self, data: bytes) -> bytes:
        payload: list[bytes] = []
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                match event:
                    case BytesMessage():
                        payload.append(bytes(event.data))
                    case Request():
                        self._on_request(event)
                    case TextMessage():
                        self._say(CloseConnection(code=1003, reason="MQTT is binary"))
                        raise LayerError("WebSocket: a text frame")
                    case Ping():
                        self._say(event.response())
                    case CloseConnection():
                        if self._connection.state is ConnectionState.REMOTE_CLOSING:
                            self._say(event.response())
                        self.ended = True
        except ProtocolError as error:
            raise LayerError(f"WebSocket: {error}") from error
        return b"".join(payload)

    def _on_request(self, request: Request) -> None:
        if self._path not in (ANY_PATH, request.target.partition("?")[0]):
            self._say(RejectConnection(status_code=404))
            raise LayerError("WebSocket: no such path")
        if SUBPROTOCOL not in request.subprotocols:
            self._say(RejectConnection(status_code=400))
            raise LayerError("WebSocket: the subprotocol mqtt was not offered")
        self._say(AcceptConnection(subprotocol=SUBPROTOCOL))

    def _say(self, event: AcceptConnection | RejectConnection | CloseConnection | object) -> None:
        self._out.append(self._connection.send(event))  # type: ignore[arg-type]

    def to_send(self, data: bytes) -> bytes:
        if data and self._connection.state is ConnectionState.OPEN:
            self._out.append(self._connection.send(BytesMessage(data=data)))
        out, self._out = b"".join(self._out), []
        return out

    def finish(self) -> bytes:
        if self._connection.state is ConnectionState.OPEN:
            self._say(CloseConnection(code=1000))
        return self.to_send(b"")


class Stack:
    """A WebSocket inside TLS."""

    __slots__ = ("_inner", "_outer", "ended")

    def __init__(self, outer: Layer, inner: Layer) -> None:
        self._outer = outer
        self._inner = inner
        self.ended = False

    def received(self, data: bytes) -> bytes:
        plain = self._outer.received(data)
        result = self._inner.received(plain) if plain else b""
        self.ended = self._outer.ended or self._inner.ended
        return result

    def to_send(self, data: bytes) -> bytes:
        return self._outer.to_send(self._inner.to_send(data))

    def finish(self) -> bytes:
        return self._outer.to_send(self._inner.finish()) + self._outer.finish()
