"""One native connection: frames in, replies out as they become ready (correlation ids tell which is which).

A reader takes every frame that one read brought. Sends are begun in the order they came, and answered when durable;
every other request has a task of its own, so that a pull may wait while others are served. A writer joins the replies
that are ready. Limits: frames by `request_bytes_max`, requests in flight, their bytes and unsent bytes by stopping to
read, half-received frames over all connections by the memory budget, a peer that does not read by a send time-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from core.errors import CoreFailure
from gateway.memory_budget import MemoryBudget
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Context
from gateway.protocols.native.handlers import HANDLERS
from gateway.protocols.native.handlers_pull import pull
from gateway.protocols.native.handlers_send import send
from trivium import frames
from trivium.errors import ErrorCode, RemoteProtocolError
from trivium.frame_reader import FrameReader

log = structlog.get_logger(__name__)

READ_BYTES = 256 * 1024
JOIN_BYTES_MAX = 64 * 1024  # larger buffers are sent as they are: a copy costs more than a call
IN_FLIGHT_MAX = 256
ERROR_CHARS_MAX = 1_000
HELLO = 1

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    request_bytes_max: int
    output_bytes_max: int
    idle_ms_max: int
    send_timeout_ms_max: int


class Connection:
    """Serves one client. `run` returns when it leaves, breaks the protocol, or a drain is done."""

    def __init__(
        self, context: Context, stream: trio.abc.Stream, peer: str, limits: ConnectionLimits, budget: MemoryBudget
    ) -> None:
        self._context = context
        self._stream = stream
        self._limits = limits
        self._budget = budget
        self._frames = FrameReader(limits.request_bytes_max)
        self._greeted = False
        self._in_flight = 0
        self._pending_bytes = 0  # of requests without a reply
        self._out: list[Buffer] = []
        self._unsent_bytes = 0
        self._ready = trio.Event()
        self._room = trio.Event()
        self._receiving: trio.CancelScope | None = None
        self._all = trio.CancelScope()
        self._tasks: trio.Nursery
        self.draining = False
        self.wakers: set[trio.Event] = set()  # what long polls sleep on
        self.log = log.bind(peer=peer)

    def drain(self) -> None:
        """Takes no further request; `run` ends once those begun are answered."""
        self.draining = True
        if self._receiving is not None:
            self._receiving.cancel()
        for waker in self.wakers:
            waker.set()
        self._ready.set()

    async def run(self) -> None:
        with self._all:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._write)
                try:
                    await self._read()
                except RemoteProtocolError as error:
                    self.log.warning("closed: bad request", reason=str(error))
                    self._all.cancel()
                finally:
                    self._budget.hold(self._cut, 0)
                self.drain()

    def _cut(self) -> None:
        self.log.warning("closed", reason="half-received requests hold too much memory")
        self._all.cancel()

    async def _read(self) -> None:
        while not self.draining:
            with trio.move_on_after(self._limits.idle_ms_max / 1000) as self._receiving:
                chunk = await self._stream.receive_some(READ_BYTES)
            if self._receiving.cancelled_caught:
                if self._in_flight and not self.draining:
                    continue
                return
            self._receiving = None
            if not chunk:
                return
            held_bytes = self._frames.held_bytes
            arrived = self._frames.receive(bytes(chunk))
            if held_bytes or self._frames.held_bytes:
                self._budget.hold(self._cut, self._frames.held_bytes)
            for frame in arrived:
                await self._handle(frame)

    async def _handle(self, frame: frames.Frame) -> None:
        while (
            self._unsent_bytes > self._limits.output_bytes_max
            or self._in_flight >= IN_FLIGHT_MAX
            or self._pending_bytes > self._limits.request_bytes_max
        ):
            self._room = trio.Event()
            await self._room.wait()
        if frame.is_reply:
            raise RemoteProtocolError("a reply where only requests are allowed")
        self._in_flight += 1
        self._pending_bytes += len(frame.payload)
        if not self._greeted:
            self._greet(frame)
        elif frame.message is None:
            self._refuse(frame, ErrorCode.UNKNOWN_KIND, f"no request of kind {frame.kind} in version 1")
        elif frame.kind == HELLO:
            raise RemoteProtocolError("a second hello")
        elif isinstance(frame.message, frames.Send):
            await send(self._context, frame.message, frame.payload, lambda message: self._reply(frame, message))
        else:
            self._tasks.start_soon(self._serve, frame)

    def _greet(self, frame: frames.Frame) -> None:
        hello = frame.message
        if not isinstance(hello, frames.Hello) or hello.magic != frames.MAGIC:
            raise RemoteProtocolError("the first frame is no hello")
        if not hello.version_min <= frames.VERSION_MAX <= hello.version_max:
            self._refuse(frame, ErrorCode.UNSUPPORTED_VERSION, f"this broker speaks version {frames.VERSION_MAX}")
            return
        self._greeted = True
        self.log = self.log.bind(client_id=hello.client_id[:100], software=hello.software[:100])
        limit = self._limits.request_bytes_max
        cluster_id = self._context.broker.topics.cluster_id
        self._reply(frame, frames.Welcome(frames.VERSION_MAX, cluster_id, limit, IN_FLIGHT_MAX))

    async def _serve(self, frame: frames.Frame) -> None:
        try:
            if isinstance(frame.message, frames.Pull):
                message, buffers = await pull(self._context, self, frame.message)
                self._reply(frame, message, buffers)
            else:
                self._reply(frame, await HANDLERS[type(frame.message)](self._context, frame.message))
        except Refused as refused:
            self._refuse(frame, refused.code, str(refused))
        except CoreFailure as failure:
            self._refuse(frame, CORE_CODES[failure.error], failure.message)

    def _refuse(self, frame: frames.Frame, code: ErrorCode, text: str) -> None:
        error = frames.Error(text[:ERROR_CHARS_MAX])
        self._put(frame, [frames.encode(frame.kind | frames.REPLY_BIT, frame.correlation, error, 0, code)])

    def _reply(self, frame: frames.Frame, message: frames.Message, payload: Sequence[memoryview] = ()) -> None:
        size = sum(map(len, payload))
        head = frames.encode(frame.kind | frames.REPLY_BIT, frame.correlation, message, size)
        self._put(frame, [head, *payload])

    def _put(self, frame: frames.Frame, buffers: list[Buffer]) -> None:
        self._in_flight -= 1
        self._pending_bytes -= len(frame.payload)
        self._out += buffers
        self._unsent_bytes += sum(map(len, buffers))
        self._ready.set()
        self._room.set()

    async def _write(self) -> None:
        sending = trio.CancelScope()
        with sending:
            while True:
                if not self._out:
                    if self.draining and not self._in_flight:
                        break
                    self._ready = trio.Event()
                    await self._ready.wait()
                    continue
                for buffer in self._take_ready():
                    sending.deadline = trio.current_time() + self._limits.send_timeout_ms_max / 1000
                    await self._stream.send_all(buffer)
                    self._unsent_bytes -= len(buffer)
                sending.deadline = float("inf")
                self._room.set()
        if sending.cancelled_caught:
            self.log.warning("closed: the peer does not read", unsent_bytes=self._unsent_bytes)
        self._all.cancel()

    def _take_ready(self) -> list[Buffer]:
        """What is to be sent, small buffers joined."""
        taken, self._out = self._out, []
        joined: list[Buffer] = []
        small: list[Buffer] = []
        for buffer in taken:
            if len(buffer) < JOIN_BYTES_MAX:
                small.append(buffer)
                continue
            if small:
                joined.append(b"".join(small))
                small = []
            joined.append(buffer)
        if small:
            joined.append(b"".join(small))
        return joined
