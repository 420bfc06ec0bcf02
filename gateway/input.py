"""What one connection receives: until its peer leaves, it is told to stop, or nothing has come for too long.

A cancel scope and a deadline for each read cost as much as the read. So one scope surrounds them all, cancelled only
while it is a read that waits, and one timer looks now and then at when the last one began.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from gateway.direct_stream import READ_BYTES


class Input:
    """`with input.scope` surrounds the loop of `receive` calls. `is_busy` says whether requests are under way: then the
    connection is not idle, however long nothing comes. `on_idle` is called before it is ended for that."""

    def __init__(
        self, stream: trio.abc.Stream, idle_ms_max: int, is_busy: Callable[[], bool], on_idle: Callable[[], object]
    ) -> None:
        self.scope = trio.CancelScope()
        self._stream = stream
        self._idle_s = idle_ms_max / 1000
        self._is_busy = is_busy
        self._on_idle = on_idle
        self._receiving = False
        self._began = trio.current_time()

    async def receive(self) -> bytes | bytearray:
        """What has come; empty when the peer has left or `stop` was called. Raises what the stream raises."""
        self._began = trio.current_time()
        self._receiving = True
        chunk = await self._stream.receive_some(READ_BYTES)
        self._receiving = False
        return b"" if self.scope.cancel_called else chunk  # it came with the end, and is not begun

    def stop(self) -> None:
        """Ends a read that waits; what was received before is handled to its end."""
        if self._receiving:
            self.scope.cancel()

    async def watch_idle(self) -> None:
        """Returns when the connection has been idle for too long, and stops it."""
        due = self._began + self._idle_s
        while True:
            await trio.sleep_until(due)
            due = self._began + self._idle_s
            if self._receiving and not self._is_busy() and due <= trio.current_time():
                break
            due = max(due, trio.current_time() + self._idle_s / 10)  # something is under way: look again later
        self._on_idle()
        self.stop()
