"""A TCP connection with as little as can be between the loop and the socket.

trio's own stream costs some 15 us a call above the system call (error translation, conflict detectors, a first attempt
that mostly finds nothing). A broker that answers each small request pays that twice. Here a read waits until there is
something and takes it; `send_nowait` gives the kernel what it has room for, gathered, and only what is left over waits.

trio lets the kernel hold 16 KiB that are not on their way yet, so that an answer of megabytes wakes the loop hundreds
of times. Here it is UNSENT_BYTES_MAX: a consumer of 1 GB takes 1.3 s of the broker's processor instead of 1.7.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Final

import trio

READ_BYTES = 256 * 1024
SEND_BYTES = 1024 * 1024  # a copy of some 0.2 ms
SEND_BUFFERS_MAX = 512  # below IOV_MAX
UNSENT_BYTES_MAX = 1024 * 1024  # of one connection, in the kernel; with less than half of it, it is writable again

_INT: Final = struct.Struct("i")


class DirectStream(trio.abc.Stream):
    """Over a `trio.SocketStream`, which it takes over. One task reads, one sends. Errors of the socket are raised as
    the system's (ConnectionError and other OSError)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # Asked each time: once the socket is closed it is -1, and never another connection's.
        self._fileno = stream.socket.fileno
        with contextlib.suppress(OSError):  # no TCP: a socket pair
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._fileno())
            try:
                return os.read(self._fileno(), max_bytes or READ_BYTES)
            except BlockingIOError:
                continue

    def send_nowait(self, buffers: Sequence[bytes | bytearray | memoryview]) -> int:
        """How many bytes the kernel took from the front of `buffers` (at most SEND_BUFFERS_MAX), possibly none; it is
        offered some SEND_BYTES at a time. Raises OSError when the connection is gone."""
        size = count = 0
        for buffer in buffers:
            size += len(buffer)
            count += 1
            if size >= SEND_BYTES:
                break
        try:
            return os.writev(self._fileno(), buffers[:count])
        except BlockingIOError:
            return 0

    def held_bytes(self) -> int:
        """What the kernel holds because the peer has not acknowledged it."""
        return _INT.unpack(fcntl.ioctl(self._fileno(), termios.TIOCOUTQ, _INT.pack(0)))[0]  # type: ignore[no-any-return]

    async def wait_writable(self) -> None:
        """Until `send_nowait` finds room."""
        await trio.lowlevel.wait_writable(self._fileno())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
