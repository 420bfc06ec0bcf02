"""One Kafka connection: frames in, responses out in request order (the trio side of the protocol).

A reader task takes every frame that one read brought and handles it; a writer task joins the responses that are ready
and sends them. Produce is *pipelined*: its handler returns at once and the answer fills its place in the line later,
so that many batches share one sync. Every other request is awaited before the next is begun, as Kafka does. Limits:
frames by `request_bytes_max`, unsent bytes and requests in flight by stopping to read, half-received frames over all
connections by the memory budget, a peer that does not read by a send time-out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import trio

from gateway.memory_budget import MemoryBudget
from gateway.protocols.kafka.dispatch import Dispatcher
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.frames import FrameReader

log = structlog.get_logger(__name__)

READ_BYTES = 256 * 1024
JOIN_BYTES_MAX = 64 * 1024  # larger buffers are sent as they are: a copy costs more than a call
REQUESTS_IN_FLIGHT_MAX = 1_000

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    request_bytes_max: int
    output_bytes_max: int
    idle_ms_max: int
    send_timeout_ms_max: int


@dataclass(slots=True, eq=False)
class Slot:
    """A response's place in the line; `buffers` is empty until the response is ready."""

    request_bytes: int
    buffers: Sequence[Buffer] = field(default=())


class Connection:
    """Serves one client. `run` returns when it leaves, breaks the protocol, or a drain is done."""

    def __init__(
        self, dispatcher: Dispatcher, stream: trio.abc.Stream, peer: str, limits: ConnectionLimits, budget: MemoryBudget
    ) -> None:
        self._dispatcher = dispatcher
        self._stream = stream
        self._limits = limits
        self._budget = budget
        self._frames = FrameReader(limits.request_bytes_max)
        self._slots: deque[Slot] = deque()
        self._unsent_bytes = 0
        self._pending_bytes = 0  # of requests whose response is not ready
        self._ready = trio.Event()
        self._room = trio.Event()
        self._receiving: trio.CancelScope | None = None
        self.draining = False
        self.waiting: trio.Event | None = None  # what a long poll sleeps on
        self._all = trio.CancelScope()
        self.peer = peer
        self.log = log.bind(peer=peer)

    def drain(self) -> None:
        """Takes no further request; `run` ends once those begun are answered."""
        self.draining = True
        if self._receiving is not None:
            self._receiving.cancel()
        if self.waiting is not None:
            self.waiting.set()
        self._ready.set()

    async def run(self) -> None:
        with self._all:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read()
                except RemoteProtocolError as error:
                    self.log.warning("closed: bad request", reason=str(error))
                    self._all.cancel()
                finally:
                    self._budget.hold(self._cut, 0)
                    self.draining = True
                    self._ready.set()

    def open_slot(self, request_bytes: int) -> Slot:
        """Takes the next place in the line of responses."""
        slot = Slot(request_bytes)
        self._slots.append(slot)
        self._pending_bytes += request_bytes
        return slot

    def fill(self, slot: Slot, buffers: Sequence[Buffer]) -> None:
        """The slot's response is ready; no buffers means that none is sent (acks=0)."""
        self._pending_bytes -= slot.request_bytes
        if buffers:
            slot.buffers = buffers
            self._unsent_bytes += sum(map(len, buffers))
        else:
            self._slots.remove(slot)
        if self._slots and self._slots[0].buffers:
            self._ready.set()
        self._room.set()

    def close(self, reason: str) -> None:
        """Ends the connection at once, as Kafka does where no error can be sent (a failed acks=0 produce)."""
        self.log.warning("closed", reason=reason)
        self._all.cancel()

    def _cut(self) -> None:
        self.close("half-received requests hold too much memory")

    async def _read(self) -> None:
        while not self.draining:
            with trio.move_on_after(self._limits.idle_ms_max / 1000) as self._receiving:
                chunk = await self._stream.receive_some(READ_BYTES)
            if self._receiving.cancelled_caught:
                if not self.draining:
                    self.log.info("closed: idle", idle_ms_max=self._limits.idle_ms_max)
                return
            self._receiving = None
            if not chunk:
                if self._frames.held_bytes:
                    raise RemoteProtocolError("the peer left in the middle of a request")
                return
            held_bytes = self._frames.held_bytes
            frames = self._frames.feed(bytes(chunk))
            if held_bytes or self._frames.held_bytes:
                self._budget.hold(self._cut, self._frames.held_bytes)
            for frame in frames:
                await self._handle(frame)

    async def _handle(self, frame: memoryview) -> None:
        while (
            self._unsent_bytes > self._limits.output_bytes_max
            or len(self._slots) >= REQUESTS_IN_FLIGHT_MAX
            or self._pending_bytes > self._limits.request_bytes_max
        ):
            self._room = trio.Event()
            await self._room.wait()
        waiting = self._dispatcher.handle(self, frame)
        if waiting is not None:
            await waiting

    async def _write(self) -> None:
        sending = trio.CancelScope()
        with sending:
            while True:
                out = self._take_ready()
                if not out:
                    if self.draining and not self._slots:
                        break
                    self._ready = trio.Event()
                    if self._slots and self._slots[0].buffers:
                        continue
                    await self._ready.wait()
                    continue
                sending.deadline = trio.current_time() + self._limits.send_timeout_ms_max / 1000
                for buffer in out:
                    await self._stream.send_all(buffer)
                    sending.deadline = trio.current_time() + self._limits.send_timeout_ms_max / 1000
                    self._unsent_bytes -= len(buffer)
                sending.deadline = float("inf")
                self._room.set()
        if sending.cancelled_caught:
            self.log.warning("closed: the peer does not read", unsent_bytes=self._unsent_bytes)
        self._all.cancel()

    def _take_ready(self) -> list[Buffer]:
        """The responses at the head of the line, small buffers joined."""
        out: list[Buffer] = []
        small: list[Buffer] = []
        slots = self._slots
        while slots and slots[0].buffers:
            for buffer in slots.popleft().buffers:
                if len(buffer) < JOIN_BYTES_MAX:
                    small.append(buffer)
                    continue
                if small:
                    out.append(b"".join(small))
                    small = []
                out.append(buffer)
        if small:
            out.append(b"".join(small))
        return out
