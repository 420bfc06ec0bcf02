"""One Kafka connection: frames in, responses out in request order (the trio side of the protocol).

A reader task takes every frame that one read brought and handles it; answers leave in the step that made them ready,
or by the writer task. Produce is *pipelined*: its handler returns at once and the answer fills its place in the line
later, so that many batches share one sync. Every other request is awaited before the next is begun, as Kafka does.
Limits: frames by `request_bytes_max`, unsent bytes and requests in flight by stopping to read, a peer that does not
read by a send time-out. Over all connections together two budgets bound what requests hold (half-received, waiting, or
on their way to the disk) and what unsent answers hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from core.store.engine import Buffer
from gateway.input import Input
from gateway.memory_budget import MemoryBudget
from gateway.output import Output
from gateway.protocols.kafka.dispatch import Dispatcher
from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.frames import FrameReader

log = structlog.get_logger(__name__)

REQUESTS_IN_FLIGHT_MAX = 1_000
COUNTED_FROM_BYTES = 16 * 1024  # what one connection holds below this is not worth the counting
DECODED_RATIO = 8  # what a request that waits takes as objects, to its bytes: a fetch of many partitions
RESPONSE_SHARE = 4  # an answer may take this part of the memory that is left for answers ...
RESPONSE_BYTES_MIN = 1024 * 1024  # ... but always so much


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    request_bytes_max: int
    output_bytes_max: int
    idle_ms_max: int
    send_timeout_ms_max: int


@dataclass(slots=True, eq=False)
class Slot:
    """A response's place in the line; `buffers` is empty until the response is ready."""

    request_bytes: int = 0  # of a pipelined request
    buffers: Sequence[Buffer] = field(default=())


class Connection:
    """Serves one client. `run` returns when it leaves, breaks the protocol, or a drain is done."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        stream: trio.abc.Stream,
        peer: str,
        limits: ConnectionLimits,
        budget: MemoryBudget,
        responses: MemoryBudget,
    ) -> None:
        self._dispatcher = dispatcher
        self._output = Output(stream, self._take_ready, self._sent, self._is_finished, limits.send_timeout_ms_max)
        self._limits = limits
        self._budget = budget
        self._responses = responses
        self._frames = FrameReader(limits.request_bytes_max)
        self._slots: deque[Slot] = deque()
        self._answering = False  # `send_now` follows
        self._unsent_bytes = 0
        self._collected_bytes = 0  # of an answer that is being put together
        self._responses_counted = False
        self._pending_bytes = 0  # of pipelined requests whose response is not ready
        self._received_bytes = 0  # which the frames being handled keep in memory
        self._room = trio.Event()
        self._input = Input(stream, limits.idle_ms_max, self._is_busy, self._log_idle)
        self.draining = False
        self.waiting: trio.Event | None = None  # what a long poll sleeps on
        self._all = trio.CancelScope()
        self.peer = peer
        self.log = log.bind(peer=peer)

    def drain(self) -> None:
        """Takes no further request; `run` ends once those begun are answered."""
        self.draining = True
        self._input.stop()
        if self.waiting is not None:
            self.waiting.set()
        self._output.wake()

    async def run(self) -> None:
        try:
            with self._all:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._input.watch_idle)
                    try:
                        with self._input.scope:
                            await self._read()
                    except RemoteProtocolError as error:
                        self.log.warning("closed: bad request", reason=str(error))
                        self._all.cancel()
                    finally:
                        self._budget.hold(self._cut, 0)
                        self.draining = True
                        self._output.wake()
        finally:
            self._all.cancel()
            self._responses.hold(self._cut_unread, 0)

    def open_slot(self) -> Slot:
        """Takes the next place in the line of responses."""
        slot = Slot()
        self._slots.append(slot)
        return slot

    def pipeline(self, slot: Slot, request_bytes: int) -> None:
        """The slot's request stays in memory until it is filled, while others are begun."""
        slot.request_bytes = request_bytes
        self._pending_bytes += request_bytes
        self._budget.begin(request_bytes)

    def fill(self, slot: Slot, buffers: Sequence[Buffer]) -> None:
        """The slot's response is ready; no buffers means that none is sent (acks=0)."""
        if slot.request_bytes:
            self._pending_bytes -= slot.request_bytes
            self._budget.end(slot.request_bytes)
        if buffers:
            slot.buffers = buffers
            self._unsent_bytes += sum(map(len, buffers))
            self._collected_bytes = 0
            self._count_responses()
        else:
            self._slots.remove(slot)
        if not self._answering and self._slots and self._slots[0].buffers:
            if self._pending_bytes:
                self._output.wake()  # others may be answered in this turn
            else:
                self._output.send_now()
        self._room.set()

    def close(self, reason: str) -> None:
        """Ends the connection at once, as Kafka does where no error can be sent (a failed acks=0 produce)."""
        self.log.warning("closed", reason=reason)
        self._all.cancel()

    @property
    def response_bytes_max(self) -> int:
        """How large an answer may be made now: less, the less memory is left for the answers of all connections."""
        return max(RESPONSE_BYTES_MIN, self._responses.room_bytes // RESPONSE_SHARE)

    def collected(self, size_bytes: int) -> None:
        """The answer that is being put together holds `size_bytes`."""
        self._collected_bytes = size_bytes
        self._count_responses()

    def _count_responses(self) -> None:
        size_bytes = self._unsent_bytes + self._collected_bytes
        counted = size_bytes >= COUNTED_FROM_BYTES
        if (counted or self._responses_counted) and not self._all.cancel_called:
            self._responses_counted = counted
            self._responses.hold(self._cut_unread, size_bytes if counted else 0)

    def _cut(self) -> None:
        self.close("requests that are half-received or waiting hold too much memory")

    def _cut_unread(self) -> None:
        self.close("answers that the peer has not read hold too much memory")

    def _wake(self) -> None:
        self._room.set()

    async def _read(self) -> None:
        while not self.draining:
            while self._budget.full:
                self._room = trio.Event()
                self._budget.call_when_not_full(self._wake)
                await self._room.wait()
            chunk = await self._input.receive()
            if not chunk:
                if self._frames.held_bytes:
                    raise RemoteProtocolError("the peer left in the middle of a request")
                return
            held_bytes = self._frames.held_bytes
            frames = self._frames.feed(bytes(chunk))
            if held_bytes or self._frames.held_bytes:
                self._budget.hold(self._cut, self._frames.held_bytes)
            self._received_bytes = held_bytes + len(chunk)
            for frame in frames:
                await self._handle(frame)
            self._answering = True
            self._dispatcher.write_now()
            self._answering = False
            self._output.send_now()

    def _is_busy(self) -> bool:
        return bool(self._slots)

    def _log_idle(self) -> None:
        self.log.info("closed: idle", idle_ms_max=self._limits.idle_ms_max)

    async def _handle(self, frame: memoryview) -> None:
        while (
            self._unsent_bytes > self._limits.output_bytes_max
            or len(self._slots) >= REQUESTS_IN_FLIGHT_MAX
            or self._pending_bytes > self._limits.request_bytes_max
        ):
            self._room = trio.Event()
            await self._holding(self._room.wait())
        waiting = self._dispatcher.handle(self, frame)
        if waiting is not None:
            self._dispatcher.write_now()
            pipelined = self._slots[-1].request_bytes  # that counts already
            await (waiting if pipelined else self._holding(waiting, DECODED_RATIO))

    async def _holding(self, waiting: Awaitable[None], ratio: int = 1) -> None:
        """Awaits, and counts what was received as held meanwhile."""
        if self._received_bytes < COUNTED_FROM_BYTES:
            await waiting
            return
        self._budget.hold(self._cut, self._received_bytes * ratio)
        await waiting
        self._budget.hold(self._cut, self._frames.held_bytes)

    async def _write(self) -> None:
        if not await self._output.run():
            self.log.warning("closed: the peer does not read", unsent_bytes=self._unsent_bytes)
        self._all.cancel()

    def _is_finished(self) -> bool:
        return self.draining and not self._slots

    def _take_ready(self) -> list[Buffer]:
        """The responses at the head of the line."""
        out: list[Buffer] = []
        slots = self._slots
        while slots and slots[0].buffers:
            out += slots.popleft().buffers
        return out

    def _sent(self, size_bytes: int) -> None:
        self._unsent_bytes -= size_bytes
        self._count_responses()
        self._room.set()
