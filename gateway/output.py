"""What one connection sends: in the step that made it ready where the kernel has room, by the connection's task else.

Small buffers are joined, larger ones and views gathered as they are: views may be of pages that only the kernel may
read (`core.store.mapping`). A peer that takes nothing for as long as the send time-out is given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import trio

from core.store.engine import Buffer
from gateway.direct_stream import SEND_BUFFERS_MAX, DirectStream

JOIN_BYTES_MAX = 4 * 1024


class Output:
    """`take` gives what is ready, in its order; `sent` hears how many bytes the kernel took; `finished` says whether
    `run` returns once nothing is ready."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        take: Callable[[], list[Buffer]],
        sent: Callable[[int], None],
        finished: Callable[[], bool],
        send_timeout_ms_max: int,
    ) -> None:
        self._stream = stream
        self._direct = stream if isinstance(stream, DirectStream) else None
        self._take = take
        self._sent = sent
        self._finished = finished
        self._timeout_s = send_timeout_ms_max / 1000
        self._rest: list[Buffer] = []  # taken by `send_now`, for the task to send
        self._sending = False  # the task is at it
        self._ready = trio.Event()

    def wake(self) -> None:
        """Lets the task look in the next turn: more may get ready in this one."""
        self._ready.set()

    def send_now(self) -> None:
        """Sends what is ready in the caller's step; what the kernel does not take is left to the task."""
        if self._sending or self._rest:
            return
        self._rest = _joined(self._take())
        if self._rest and self._direct is not None:
            with contextlib.suppress(OSError):  # the task meets it too
                self._rest = self._offer(self._direct, self._rest)
        if self._rest or self._finished():
            self._ready.set()

    async def run(self) -> bool:
        """False when the peer does not read. Raises what the stream raises when the connection is gone."""
        while True:
            out, self._rest = self._rest or _joined(self._take()), []
            if out:
                self._sending = True
                if not await self._send(out):
                    return False
                self._sending = False
            elif self._finished():
                return True
            else:
                self._ready = trio.Event()
                await self._ready.wait()

    async def _send(self, out: list[Buffer]) -> bool:
        if self._direct is not None:
            out = self._offer(self._direct, out)
        while out:
            held = self._held_bytes()
            with trio.move_on_after(self._timeout_s) as sending:
                out = await self._send_some(out)
            if sending.cancelled_caught and (self._direct is None or self._held_bytes() >= held):
                return False
        return True

    def _held_bytes(self) -> int:
        return 0 if self._direct is None else self._direct.held_bytes()

    async def _send_some(self, out: list[Buffer]) -> list[Buffer]:
        """What is left."""
        if self._direct is not None:
            await self._direct.wait_writable()
            return self._offer(self._direct, out)
        await self._stream.send_all(out[0])
        self._sent(len(out[0]))
        return out[1:]

    def _offer(self, stream: DirectStream, out: list[Buffer]) -> list[Buffer]:
        """Gives the kernel what it has room for; what is left. Raises OSError when the connection is gone."""
        at, count = 0, len(out)
        while at < count:
            sent = stream.send_nowait(out[at : at + SEND_BUFFERS_MAX])
            self._sent(sent)
            if not sent:
                break
            while at < count and sent >= len(out[at]):
                sent -= len(out[at])
                at += 1
            if sent:
                out[at] = memoryview(out[at])[sent:]
                break
        return out[at:]


def _joined(buffers: Iterable[Buffer]) -> list[Buffer]:
    out: list[Buffer] = []
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < JOIN_BYTES_MAX and type(buffer) is not memoryview:
            small.append(buffer)
            continue
        if small:
            out.append(b"".join(small))
            small = []
        out.append(buffer)
    if small:
        out.append(b"".join(small))
    return out
