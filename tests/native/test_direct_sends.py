"""What a native connection sends over a real socket that has little room: all of it, once, in order."""

from __future__ import annotations

import os
import socket

import trio
import trio.testing

from gateway.direct_stream import DirectStream
from tests.native.test_asking import broker_side
from trivium.frames.codec import KIND_OF, encode
from trivium.frames.resets import GroupReset

SIZES = [10, 70_000, 5, 9_000, 0, 300_000, 1, 65_536]


async def test_what_the_kernel_does_not_take_follows_in_order() -> None:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_000)
    told = GroupReset("g")
    expected = b""
    for number, size in enumerate(SIZES):
        expected += encode(KIND_OF[GroupReset], 0, told, size) + bytes([number + 1]) * size
    with theirs:
        async with broker_side(DirectStream(trio.SocketStream(ours))) as served:
            received = b""
            for number, size in enumerate(SIZES):
                served.tell(told, [bytes([number + 1]) * size])
                if number == 3:  # the writer task is in the middle of it, and there is room, when more is said
                    await trio.testing.wait_all_tasks_blocked()
                    received += os.read(theirs.fileno(), 65_536)
            while len(received) < len(expected):
                received += await theirs.recv(65_536)
            assert received == expected
            await trio.testing.wait_all_tasks_blocked()
            assert served.has_room
            assert served._unsent_bytes == 0


async def test_what_fits_is_sent_in_the_step_that_said_it() -> None:
    ours, theirs = trio.socket.socketpair()
    with theirs:
        async with broker_side(DirectStream(trio.SocketStream(ours))) as served:
            await trio.testing.wait_all_tasks_blocked()
            served.tell(GroupReset("g"))
            expected = encode(KIND_OF[GroupReset], 0, GroupReset("g"), 0)
            assert os.read(theirs.fileno(), 65_536) == expected  # without a turn of the loop
