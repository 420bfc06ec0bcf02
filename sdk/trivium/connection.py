"""One connection to a broker: several requests in flight, each with a time-out of its own.

A request that is cancelled or timed out gives up its correlation id at once, and its reply is dropped when it comes.
When the connection is lost every request in flight raises Disconnected; the owner opens another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

from trivium import frames
from trivium.errors import Disconnected, RemoteProtocolError, RequestRefused, RequestTimedOut
from trivium.frame_reader import FrameReader

READ_BYTES = 256 * 1024
GREETING_BYTES_MAX = 64 * 1024
FRAME_BYTES_MAX = 256 * 1024 * 1024
_CORRELATION_MASK = 0xFFFFFFFF

Buffer = bytes | memoryview


class _Waiting:
    """A request without its reply: `frame` or `error` is there when `done` is set."""

    __slots__ = ("done", "error", "frame")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.frame: frames.Frame | None = None
        self.error: Exception | None = None


class Connection:
    """Open it with `open_connection`, then run `receive` in a task for as long as it is used."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._sending = anyio.Lock()
        self._slots = anyio.CapacityLimiter(1)
        self.closed = False
        self.welcome: frames.Welcome

    async def greet(self, client_id: str, software: str) -> None:
        """Negotiates. Raises RequestRefused when there is no common version, Disconnected."""
        hello = frames.Hello(frames.MAGIC, frames.VERSION_MIN, frames.VERSION_MAX, client_id, software)
        reader = FrameReader(GREETING_BYTES_MAX)
        await self._stream.send(frames.encode(1, 0, hello))
        found: list[frames.Frame] = []
        while not found:
            found = reader.receive(await self._stream.receive(READ_BYTES))
        reply = found[0]
        if reply.status:
            raise RequestRefused(reply.status, reply.message.message)
        if len(found) > 1 or reader.held_bytes or not isinstance(reply.message, frames.Welcome):
            raise RemoteProtocolError("the broker's first frame is no welcome")
        self.welcome = reply.message
        self._slots = anyio.CapacityLimiter(max(self.welcome.in_flight_max, 1))

    async def receive(self) -> None:
        """Takes replies until the connection is lost or closed."""
        error: Exception = Disconnected("the broker closed the connection")
        try:
            while True:
                for frame in self._reader.receive(await self._stream.receive(READ_BYTES)):
                    self._answer(frame)
        except anyio.EndOfStream:
            pass
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as lost:
            error = Disconnected(f"connection lost: {lost}")
        except RemoteProtocolError as broken:
            error = broken
        finally:
            self.closed = True
            for waiting in self._waiting.values():
                waiting.error = error
                waiting.done.set()
            self._waiting.clear()
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)

    def _answer(self, frame: frames.Frame) -> None:
        if not frame.is_reply:
            raise RemoteProtocolError(f"a request of kind {frame.kind} from the broker")
        waiting = self._waiting.pop(frame.correlation, None)
        if waiting is not None:
            waiting.frame = frame
            waiting.done.set()

    async def request(
        self, message: Any, payload: Sequence[Buffer] = (), *, timeout_s: float = math.inf
    ) -> tuple[Any, memoryview]:
        """The reply's message and payload.

        Raises RequestRefused, RequestTimedOut (the request may have been done), Disconnected, LocalProtocolError.
        """
        async with self._slots:
            if self.closed:
                raise Disconnected("the connection is closed")
            correlation = self._next = (self._next + 1) & _CORRELATION_MASK
            kind = frames.REQUEST_KINDS[type(message)]
            head = frames.encode(kind, correlation, message, sum(map(len, payload)))
            waiting = self._waiting[correlation] = _Waiting()
            try:
                with anyio.fail_after(None if math.isinf(timeout_s) else timeout_s):
                    await self._send(b"".join((head, *payload)))
                    await waiting.done.wait()
            except TimeoutError:
                raise RequestTimedOut(f"no answer to {type(message).__name__} in {timeout_s} s") from None
            finally:
                self._waiting.pop(correlation, None)
        if waiting.error is not None:
            raise waiting.error
        frame = waiting.frame
        assert frame is not None
        if frame.status:
            raise RequestRefused(frame.status, frame.message.message)
        if frame.kind != kind | frames.REPLY_BIT:
            raise RemoteProtocolError(f"a reply of kind {frame.kind} to a request of kind {kind}")
        return frame.message, frame.payload

    async def _send(self, data: bytes) -> None:
        """A frame that is begun is finished, or the connection is of no use any more."""
        async with self._sending:
            whole = False
            try:
                await self._stream.send(data)
                whole = True
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise Disconnected(f"connection lost: {error}") from None
            finally:
                if not whole:
                    self.closed = True
                    with anyio.CancelScope(shield=True):
                        await anyio.aclose_forcefully(self._stream)

    async def aclose(self) -> None:
        self.closed = True
        await anyio.aclose_forcefully(self._stream)


async def open_connection(host: str, port: int, client_id: str, software: str, timeout_s: float) -> Connection:
    """Connects and negotiates. Raises Disconnected when that fails, RequestRefused when there is no common version."""
    stream: anyio.abc.ByteStream | None = None
    done = False
    try:
        with anyio.fail_after(timeout_s):
            stream = await anyio.connect_tcp(host, port)
            connection = Connection(stream)
            await connection.greet(client_id, software)
        done = True
        return connection
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, RemoteProtocolError) as error:
        raise Disconnected(f"{host}:{port}: {error or type(error).__name__}") from None
    finally:
        if stream is not None and not done:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
