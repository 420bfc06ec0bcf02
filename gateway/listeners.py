"""Accepting connections and ending them well, the same for every protocol that gives each connection a task.

Two nurseries, accepting inside connections. To stop: accepting ends, connections are told to drain and get a
deadline. Each connection runs behind one guard: whatever goes wrong in it is logged and ends it alone. Past
`connections_max` a new connection is closed at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from gateway.direct_stream import DirectStream

log = structlog.get_logger(__name__)

BACKLOG_CONNECTIONS = 4096


class Connection(Protocol):
    """What a listener needs of a protocol's connection."""

    async def run(self) -> None:
        """Serves until the peer leaves, breaks the protocol or a drain is done."""

    def drain(self) -> None:
        """Ends `run` once the requests begun are answered."""


async def bind(host: str, port: int) -> trio.SocketListener:
    """Binds one listener (port 0 takes a free one). Raises OSError with the address named."""
    try:
        return (await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG_CONNECTIONS))[0]
    except OSError as error:
        raise OSError(
            error.errno, f"cannot listen on {format_address(host, port)}: {error.strerror or error}"
        ) from error


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(listener: trio.SocketListener) -> tuple[str, int]:
    """The host and port that a listener is bound to."""
    host, port = listener.socket.getsockname()[:2]
    return str(host), int(port)


class Server:
    """Serves one listener: `connect(stream, peer)` makes the connection for each accepted stream, `ended` is called
    with it when it is over.
    """

    def __init__(
        self,
        protocol: str,
        listener: trio.SocketListener,
        connect: Callable[[DirectStream, str], Connection],
        *,
        connections_max: int,
        drain_deadline_s: float,
        ended: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self.protocol = protocol
        self.address = format_address(*address_of(listener))
        self.listening = [(protocol, self.address)]
        self._listener = listener
        self._connect = connect
        self._connections_max = connections_max
        self._drain_deadline_s = drain_deadline_s
        self._ended = ended
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()

    def stop(self) -> None:
        """Stops accepting; `run` returns when every connection has drained or the deadline has passed."""
        self._accepting.cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            with self._accepting:
                await trio.serve_listeners(self._serve_one, [self._listener], handler_nursery=nursery)
            nursery.cancel_scope.deadline = trio.current_time() + self._drain_deadline_s
            for connection in list(self._connections):
                connection.drain()

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        peer = format_address(*stream.socket.getpeername()[:2]) if _connected(stream) else "gone"
        if len(self._connections) >= self._connections_max:
            log.warning(
                "connection refused: too many",
                protocol=self.protocol,
                peer=peer,
                connections_max=self._connections_max,
            )
            await trio.aclose_forcefully(stream)
            return
        connection = self._connect(DirectStream(stream), peer)
        self._connections.add(connection)
        try:
            await self._guard(connection.run, peer)
        finally:
            self._connections.discard(connection)
            self._ended(connection)
            await trio.aclose_forcefully(stream)

    async def _guard(self, run: Callable[[], Awaitable[None]], peer: str) -> None:
        """The only broad catch of the broker: one connection's failure is its own."""
        try:
            await run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            log.debug("connection lost", protocol=self.protocol, peer=peer)
        except* Exception:
            log.exception("connection failed", protocol=self.protocol, peer=peer)


def _connected(stream: trio.SocketStream) -> bool:
    try:
        stream.socket.getpeername()
    except OSError:
        return False
    return True
