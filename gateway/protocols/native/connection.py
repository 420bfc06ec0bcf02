"""One native connection: frames in, replies out as they become ready (correlation ids tell which is which).

A reader takes every frame that one read brought. Sends and their like are begun in the order they came, and answered
when durable; every other request has a task of its own, so that a pull may wait while others are served. The broker may
ask the client too (`ask`, numbers of its own) and say what needs no answer (`tell`).
Limits: frames by `request_bytes_max`, requests in flight, their bytes and unsent bytes by stopping to read, unanswered
requests to the client by ASKED_MAX, half-received frames over all connections by the memory budget, a peer that does
not read by a send time-out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
import trio

from core.errors import CoreFailure
from core.store.engine import Buffer
from gateway.input import Input
from gateway.memory_budget import MemoryBudget
from gateway.output import Output
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import AskFailed, Call, Context
from gateway.protocols.native.handlers import HANDLERS
from trivium.errors import ErrorCode, RemoteProtocolError
from trivium.frame_reader import FrameReader
from trivium.frames.codec import KIND_OF, KINDS, REPLY_BIT, VERSION_MAX, Frame, encode
from trivium.frames.connection import MAGIC, Error, Hello, Welcome
from trivium.frames.declare import Message

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 256
ERROR_CHARS_MAX = 1_000
HELLO = 1
ASKED_MAX = 64  # requests to the client without a reply
CORRELATION_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    request_bytes_max: int
    output_bytes_max: int
    idle_ms_max: int
    send_timeout_ms_max: int


class _Asked:
    """A request to the client without its reply: `frame` is there when `answered` is set."""

    __slots__ = ("answered", "frame")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.frame: Frame | None = None


class Connection:
    """Serves one client. `run` returns when it leaves, breaks the protocol, or a drain is done."""

    def __init__(
        self, context: Context, stream: trio.abc.Stream, peer: str, limits: ConnectionLimits, budget: MemoryBudget
    ) -> None:
        self._context = context
        self._limits = limits
        self._budget = budget
        self._frames = FrameReader(limits.request_bytes_max)
        self._greeted = False
        self._in_flight = 0
        self._pending_bytes = 0  # of requests without a reply
        self._output = Output(stream, self._take_ready, self._sent, self._is_finished, limits.send_timeout_ms_max)
        self._out: list[Buffer] = []
        self._unsent_bytes = 0
        self._room = trio.Event()
        self._input = Input(stream, limits.idle_ms_max, self._is_busy, self._log_idle)
        self._all = trio.CancelScope()
        self._tasks: trio.Nursery
        self._asked: dict[int, _Asked] = {}
        self._correlation = 0  # of what the client was asked last
        self.client_id = self.software = ""
        self.address = peer
        self.draining = False
        self.wakers: set[trio.Event] = set()
        self.on_close: list[Callable[[], None]] = []
        self.producers: dict[str, Callable[[], None]] = {}
        self.streams: dict[int, object] = {}
        self.log = log.bind(peer=peer)

    def drain(self) -> None:
        """Takes no further request; `run` ends once those begun are answered."""
        self.draining = True
        self._input.stop()
        for waker in self.wakers:
            waker.set()
        self._output.wake()

    async def run(self) -> None:
        try:
            with self._all:
                async with trio.open_nursery() as self._tasks:
                    self._tasks.start_soon(self._write)
                    self._tasks.start_soon(self._input.watch_idle)
                    try:
                        with self._input.scope:
                            await self._read()
                    except RemoteProtocolError as error:
                        self.log.warning("closed: bad request", reason=str(error))
                        self._all.cancel()
                    finally:
                        self._budget.hold(self._cut, 0)
                    self.drain()
        finally:
            for closed in self.on_close:
                closed()

    def _cut(self) -> None:
        self.log.warning("closed", reason="half-received requests hold too much memory")
        self._all.cancel()

    async def _read(self) -> None:
        while not self.draining:
            chunk = await self._input.receive()
            if not chunk:
                return
            held_bytes = self._frames.held_bytes
            arrived = self._frames.receive(bytes(chunk))
            if held_bytes or self._frames.held_bytes:
                self._budget.hold(self._cut, self._frames.held_bytes)
            for frame in arrived:
                await self._handle(frame)
            self._context.broker.engine.write_now()

    def _is_busy(self) -> bool:
        return self._in_flight > 0

    def _log_idle(self) -> None:
        self.log.info("closed: idle", idle_ms_max=self._limits.idle_ms_max)

    async def _handle(self, frame: Frame) -> None:
        if frame.is_reply:
            asked = self._asked.pop(frame.correlation, None)  # None: given up
            if asked is not None:
                asked.frame = frame
                asked.answered.set()
            return
        kind = KINDS.get(frame.kind)
        if kind is not None and kind.from_broker:
            raise RemoteProtocolError(f"{type(frame.message).__name__} is not the client's to say")
        if kind is not None and kind.reply is None:
            if not self._greeted:
                raise RemoteProtocolError("the first frame is no hello")
            HANDLERS.one_way[kind.request.cls](self._call(frame), frame.message)
            return
        if not self._has_room_for_more:
            self._context.broker.engine.write_now()
            await self._wait_until_ready_for_more()
        self._in_flight += 1
        self._pending_bytes += len(frame.payload)
        if not self._greeted:
            self._greet(frame)
        elif frame.message is None:
            self._refuse(frame, ErrorCode.UNKNOWN_KIND, f"no request of kind {frame.kind} in version 1")
        elif frame.kind == HELLO:
            raise RemoteProtocolError("a second hello")
        elif type(frame.message) in HANDLERS.in_order:
            handler = HANDLERS.in_order[type(frame.message)]
            try:
                await handler(self._call(frame), frame.message, partial(self._reply, frame))
            except (Refused, CoreFailure) as error:
                self._refuse_for(frame, error)
        else:
            self._tasks.start_soon(self._serve, frame)

    @property
    def _has_room_for_more(self) -> bool:
        return (
            self._unsent_bytes <= self._limits.output_bytes_max
            and self._in_flight < IN_FLIGHT_MAX
            and self._pending_bytes <= self._limits.request_bytes_max
        )

    async def _wait_until_ready_for_more(self) -> None:
        while not self._has_room_for_more:
            await self._wait_change()

    async def _wait_change(self) -> None:
        if self._room.is_set():
            self._room = trio.Event()
        await self._room.wait()

    def _call(self, frame: Frame) -> Call:
        return Call(self._context, self, frame.payload)

    def _greet(self, frame: Frame) -> None:
        hello = frame.message
        if not isinstance(hello, Hello) or hello.magic != MAGIC:
            raise RemoteProtocolError("the first frame is no hello")
        if not hello.version_min <= VERSION_MAX <= hello.version_max:
            self._refuse(frame, ErrorCode.UNSUPPORTED_VERSION, f"this broker speaks version {VERSION_MAX}")
            return
        self._greeted = True
        self.client_id, self.software = hello.client_id, hello.software
        self.log = self.log.bind(client_id=hello.client_id[:100], software=hello.software[:100])
        limit = self._limits.request_bytes_max
        cluster_id = self._context.broker.topics.cluster_id
        self._reply(frame, Welcome(VERSION_MAX, cluster_id, limit, IN_FLIGHT_MAX))

    async def _serve(self, frame: Frame) -> None:
        try:
            answer = await HANDLERS.tasks[type(frame.message)](self._call(frame), frame.message)
        except (Refused, CoreFailure) as error:
            self._refuse_for(frame, error)
            return
        # Messages are tuples too, but named ones.
        message, payload = answer if type(answer) is tuple else (answer, ())
        self._reply(frame, message, payload)

    # -- what the broker says on its own

    async def ask(
        self, message: Message, payload: Sequence[Buffer] = (), *, timeout_s: float
    ) -> tuple[Any, memoryview]:
        """The client's answer. Raises AskFailed: refused, not in time, ASKED_MAX unanswered already."""
        if len(self._asked) >= ASKED_MAX:
            raise AskFailed(f"{ASKED_MAX} requests to the client are unanswered")
        correlation = self._correlation = (self._correlation + 1) & CORRELATION_MASK
        asked = self._asked[correlation] = _Asked()
        try:
            with trio.move_on_after(timeout_s):
                self._say(message, payload, correlation)
                await asked.answered.wait()
        finally:
            self._asked.pop(correlation, None)
        frame = asked.frame
        if frame is None:
            raise AskFailed(f"no answer from the client in {timeout_s} s")
        if frame.status:
            raise AskFailed(frame.message.message, frame.status)
        return frame.message, frame.payload

    def tell(self, message: Message, payload: Sequence[Buffer] = ()) -> None:
        self._say(message, payload, 0)

    @property
    def has_room(self) -> bool:
        return self._unsent_bytes <= self._limits.output_bytes_max

    async def wait_room(self) -> None:
        while not self.has_room:
            await self._wait_change()

    def start(self, task: Callable[[], Awaitable[None]]) -> None:
        self._tasks.start_soon(task)

    def _say(self, message: Message, payload: Sequence[Buffer], correlation: int) -> None:
        head = encode(KIND_OF[type(message)], correlation, message, sum(map(len, payload)))
        self._send([head, *payload])

    # -- output

    def _refuse_for(self, frame: Frame, error: Refused | CoreFailure) -> None:
        code = error.code if isinstance(error, Refused) else CORE_CODES[error.error]
        self._refuse(frame, code, str(error))

    def _refuse(self, frame: Frame, code: ErrorCode, text: str) -> None:
        error = Error(text[:ERROR_CHARS_MAX])
        self._put(frame, [encode(frame.kind | REPLY_BIT, frame.correlation, error, 0, code)])

    def _reply(self, frame: Frame, message: Message, payload: Sequence[Buffer] = ()) -> None:
        """`message` None: the client waits for no reply."""
        if message is None:
            self._put(frame, [])
            return
        size = sum(map(len, payload))
        head = encode(frame.kind | REPLY_BIT, frame.correlation, message, size)
        self._put(frame, [head, *payload])

    def _put(self, frame: Frame, buffers: list[Buffer]) -> None:
        self._in_flight -= 1
        self._pending_bytes -= len(frame.payload)
        self._send(buffers)
        self._room.set()

    def _send(self, buffers: list[Buffer]) -> None:
        self._out += buffers
        self._unsent_bytes += sum(map(len, buffers))
        if self._in_flight:
            self._output.wake()  # others may be answered in this turn
        else:
            self._output.send_now()

    async def _write(self) -> None:
        if not await self._output.run():
            self.log.warning("closed: the peer does not read", unsent_bytes=self._unsent_bytes)
        self._all.cancel()

    def _is_finished(self) -> bool:
        return self.draining and not self._in_flight

    def _take_ready(self) -> list[Buffer]:
        taken, self._out = self._out, []
        return taken

    def _sent(self, size_bytes: int) -> None:
        self._unsent_bytes -= size_bytes
        self._room.set()
