"""One connection to a broker: several requests in flight.

A request that is cancelled or timed out gives up its correlation id at once, and its reply is dropped when it comes.
When the connection is lost every request in flight raises Disconnected; the owner opens another.

The broker asks and tells too. Who wants that registers by message class in `Incoming`, which outlives connections. A
request is answered by a task of its own, of which at most ANSWERING_MAX run, and none above that; what nobody
registered for is refused with UNKNOWN_KIND. A one-way message is taken at once, by a function that must not block.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from trivium.errors import Disconnected, ErrorCode, RemoteProtocolError, RequestRefused
from trivium.frame_reader import FrameReader
from trivium.frames.codec import KIND_OF, KINDS, REPLY_BIT, SIZE_BYTES, VERSION_MAX, VERSION_MIN, Frame, encode
from trivium.frames.connection import MAGIC, Error, Hello, Welcome
from trivium.streams import AsyncioStream, connect

READ_BYTES = 256 * 1024
GREETING_BYTES_MAX = 64 * 1024
FRAME_BYTES_MAX = 256 * 1024 * 1024
ANSWERING_MAX = 64
CONNECT_S_MAX = 5.0  # then another address is tried
ANSWER_S_MAX = 60.0
_CORRELATION_MASK = 0xFFFFFFFF

Buffer = bytes | memoryview


@dataclass(slots=True)
class Incoming:
    """Who takes what the broker says, by message class. A request's handler returns the reply's message, or with the
    buffers of its payload; it refuses by raising RequestRefused.
    """

    requests: dict[type, Callable[[Any, memoryview], Awaitable[Any]]] = field(default_factory=dict)
    one_way: dict[type, Callable[[Any, memoryview], None]] = field(default_factory=dict)


class _Waiting:
    """A request without its reply: `frame` or `error` is there when `done` is set."""

    __slots__ = ("done", "error", "frame")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.frame: Frame | None = None
        self.error: Exception | None = None


class Connection:
    """Open it with `open_connection`, then run `receive` in a task for as long as it is used."""

    def __init__(self, stream: anyio.abc.ByteStream, incoming: Incoming) -> None:
        self._stream = stream
        self._incoming = incoming
        self._answering = 0
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        # Taken without a turn of the loop when they are free: a request makes few turns, and each costs 30 us.
        self._sending = anyio.Lock(fast_acquire=True)
        self._slots = anyio.Semaphore(1, fast_acquire=True)
        self.frame_bytes_max = GREETING_BYTES_MAX  # that the broker takes
        self.closed = False
        self.heard_s = time.monotonic()  # when the broker said something last
        self.lost = anyio.Event()
        self.welcome: Welcome

    async def greet(self, client_id: str, software: str) -> None:
        """Negotiates. Raises RequestRefused when there is no common version, Disconnected."""
        hello = Hello(MAGIC, VERSION_MIN, VERSION_MAX, client_id, software)
        reader = FrameReader(GREETING_BYTES_MAX)
        await self._stream.send(encode(1, 0, hello))
        found: list[Frame] = []
        while not found:
            found = reader.receive(await self._stream.receive(READ_BYTES))
        reply = found[0]
        if reply.status:
            raise RequestRefused(reply.status, reply.message.message)
        if len(found) > 1 or reader.held_bytes or not isinstance(reply.message, Welcome):
            raise RemoteProtocolError("the broker's first frame is no welcome")
        self.welcome = reply.message
        self._slots = anyio.Semaphore(max(self.welcome.in_flight_max, 1), fast_acquire=True)
        self.frame_bytes_max = self.welcome.frame_bytes_max

    async def receive(self) -> None:
        """Takes what the broker says until the connection is lost or closed."""
        error: Exception = Disconnected("the broker closed the connection")
        try:
            async with anyio.create_task_group() as tasks:
                error = await self._receive(tasks)
                tasks.cancel_scope.cancel()
        finally:
            self.closed = True
            for waiting in self._waiting.values():
                waiting.error = error
                waiting.done.set()
            self._waiting.clear()
            self.lost.set()
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)

    async def _receive(self, tasks: anyio.abc.TaskGroup) -> Exception:
        def take(data: bytes) -> None:
            self.heard_s = time.monotonic()
            for frame in self._reader.receive(data):
                self._take(frame, tasks)

        try:
            if isinstance(self._stream, AsyncioStream):
                await self._stream.listen(take)
            while True:
                take(await self._stream.receive(READ_BYTES))
        except anyio.EndOfStream:
            return Disconnected("the broker closed the connection")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as lost:
            return Disconnected(f"connection lost: {lost}")
        except RemoteProtocolError as broken:
            return broken

    def _take(self, frame: Frame, tasks: anyio.abc.TaskGroup) -> None:
        if frame.is_reply:
            waiting = self._waiting.pop(frame.correlation, None)
            if waiting is not None:
                waiting.frame = frame
                waiting.done.set()
            return
        kind = KINDS.get(frame.kind)
        if kind is not None and kind.reply is None:
            taker = self._incoming.one_way.get(kind.request.cls)
            if taker is not None:
                taker(frame.message, frame.payload)
        elif self._answering < ANSWERING_MAX:
            self._answering += 1
            tasks.start_soon(self._answer, frame)
        # Else it is not answered. The broker has given up as many, which we still work on, and gives up this one.

    async def _answer(self, frame: Frame) -> None:
        answer: Any = Error(f"no request of kind {frame.kind} is known here")
        status: int = ErrorCode.UNKNOWN_KIND
        handler = self._incoming.requests.get(type(frame.message))
        try:
            if handler is not None:
                answer, status = Error(f"no answer in {ANSWER_S_MAX} s"), ErrorCode.INTERNAL
                with anyio.move_on_after(ANSWER_S_MAX):
                    answer, status = await handler(frame.message, frame.payload), ErrorCode.NONE
        except RequestRefused as refused:
            answer, status = Error(str(refused)), refused.code
        finally:
            self._answering -= 1
        # Messages are tuples too, but named ones.
        message, payload = answer if type(answer) is tuple else (answer, ())
        head = encode(frame.kind | REPLY_BIT, frame.correlation, message, sum(map(len, payload)), status)
        with suppress(Disconnected, RequestRefused):
            await self._send(b"".join((head, *payload)))

    async def tell(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """Sends a one-way message. Raises as `request`."""
        if self.closed:
            raise Disconnected("the connection is closed")
        head = encode(KIND_OF[type(message)], 0, message, sum(map(len, payload)))
        await self._send(b"".join((head, *payload)))
        await anyio.lowlevel.checkpoint()  # others have their turn where many are said

    async def request(self, message: Any, payload: Sequence[Buffer] = ()) -> tuple[Any, memoryview]:
        """The reply's message and payload. The caller sets the time: when it is over the request may have been done.

        Raises RequestRefused (BATCH_TOO_LARGE also for what is larger than the broker takes, which is not sent),
        Disconnected, LocalProtocolError.
        """
        async with self._slots:
            if self.closed:
                raise Disconnected("the connection is closed")
            correlation = self._next = (self._next + 1) & _CORRELATION_MASK
            kind = KIND_OF[type(message)]
            head = encode(kind, correlation, message, sum(map(len, payload)))
            waiting = self._waiting[correlation] = _Waiting()
            try:
                await self._send(b"".join((head, *payload)))
                await waiting.done.wait()
            finally:
                self._waiting.pop(correlation, None)
        if waiting.error is not None:
            raise waiting.error
        frame = waiting.frame
        assert frame is not None
        if frame.status:
            raise RequestRefused(frame.status, frame.message.message)
        if frame.kind != kind | REPLY_BIT:
            raise RemoteProtocolError(f"a reply of kind {frame.kind} to a request of kind {kind}")
        return frame.message, frame.payload

    async def say(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """Sends what is not answered. Raises as `request`."""
        if self.closed:
            raise Disconnected("the connection is closed")
        correlation = self._next = (self._next + 1) & _CORRELATION_MASK
        head = encode(KIND_OF[type(message)], correlation, message, sum(map(len, payload)))
        await self._send(b"".join((head, *payload)))
        await anyio.lowlevel.checkpoint()

    async def _send(self, data: bytes) -> None:
        """A frame that is begun is finished, or the connection is of no use any more. The broker would end it for one
        that is too large.
        """
        if len(data) - SIZE_BYTES > self.frame_bytes_max:
            what = f"a request of {len(data):,} bytes; the broker takes {self.frame_bytes_max:,}"
            raise RequestRefused(ErrorCode.BATCH_TOO_LARGE, what)
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


async def open_connection(
    host: str, port: int, client_id: str, software: str, timeout_s: float, incoming: Incoming
) -> Connection:
    """Connects and negotiates. Raises Disconnected when that fails, RequestRefused when there is no common version."""
    stream: anyio.abc.ByteStream | None = None
    done = False
    try:
        with anyio.fail_after(min(timeout_s, CONNECT_S_MAX)):
            stream = await connect(host, port)
            connection = Connection(stream, incoming)
            await connection.greet(client_id, software)
        done = True
        return connection
    except TimeoutError:
        raise Disconnected(f"{host}:{port}: no welcome in time: is this the broker's native port?") from None
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        raise Disconnected(f"{host}:{port}: closed without a welcome: is this the broker's native port?") from None
    except (OSError, RemoteProtocolError) as error:
        raise Disconnected(f"{host}:{port}: {str(error) or type(error).__name__}") from None
    finally:
        if stream is not None and not done:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
