"""The stream to a broker on asyncio: what anyio's does, with what comes handed over in the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio

import trivium
from tests.native.harness import serving
from trivium.streams import AsyncioStream, connect


def _run(scenario: Callable[[AsyncioStream, socket.socket], Awaitable[None]]) -> None:
    """With a stream and the other end of it, a socket that does not block."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            stream = await connect("127.0.0.1", server.getsockname()[1])
            other, _ = server.accept()
        assert isinstance(stream, AsyncioStream)
        other.setblocking(False)
        with other:
            try:
                await asyncio.wait_for(_as_coroutine(scenario(stream, other)), 30)
            finally:
                await stream.aclose()

    asyncio.run(run())


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def test_what_came_before_is_handed_over_first() -> None:
    async def scenario(stream: AsyncioStream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(other, b"abcdef")
        assert await stream.receive(2) == b"ab"
        heard = bytearray()
        whole = asyncio.Event()

        def take(data: bytes) -> None:
            heard.extend(data)
            if heard.endswith(b"!"):
                whole.set()

        listening = asyncio.ensure_future(stream.listen(take))
        await asyncio.sleep(0)
        assert heard == b"cdef"
        for piece in (b"gh", b"i!"):
            await loop.sock_sendall(other, piece)
        await whole.wait()
        assert heard == b"cdefghi!"
        other.close()
        with pytest.raises(anyio.EndOfStream):
            await listening
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")

    _run(scenario)


def test_what_nobody_asks_for_yet_is_not_read_without_bound() -> None:
    async def scenario(stream: AsyncioStream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        data = bytes(32 * 1024 * 1024)
        sending = asyncio.ensure_future(loop.sock_sendall(other, data))
        received = len(await stream.receive(1))
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert not sending.done()
        while received < len(data):
            received += len(await stream.receive())
        await sending

    _run(scenario)


def test_what_the_taker_refuses_ends_it() -> None:
    async def scenario(stream: AsyncioStream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def take(data: bytes) -> None:
            raise ValueError(data)

        listening = asyncio.ensure_future(stream.listen(take))
        await asyncio.sleep(0)
        await loop.sock_sendall(other, b"?")
        with pytest.raises(ValueError, match=r"\?"):
            await listening
        try:
            assert await loop.sock_recv(other, 1) == b""
        except ConnectionResetError:
            pass
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")

    _run(scenario)


def test_sending_waits_for_who_does_not_read_and_can_be_cancelled() -> None:
    async def scenario(stream: AsyncioStream, other: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        data = bytes(8 * 1024 * 1024)
        sending = asyncio.ensure_future(stream.send(data))
        await asyncio.sleep(0)
        assert not sending.done()
        received = 0
        while received < len(data):
            received += len(await loop.sock_recv(other, 1 << 20))
        await sending
        again = asyncio.ensure_future(stream.send(data))
        await asyncio.sleep(0)
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again

    _run(scenario)


def test_closing_wakes_who_waits() -> None:
    async def scenario(stream: AsyncioStream, other: socket.socket) -> None:
        sending = asyncio.ensure_future(stream.send(bytes(8 * 1024 * 1024)))
        listening = asyncio.ensure_future(stream.listen(lambda data: None))
        await asyncio.sleep(0)
        await stream.aclose()
        for waiting in (sending, listening):
            with pytest.raises(anyio.ClosedResourceError):
                await waiting
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")

    _run(scenario)


def test_who_is_refused_gets_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(_connected(port))


async def _connected(port: int) -> None:
    await connect("127.0.0.1", port)


def test_many_messages_that_are_not_answered_leave_others_their_turn() -> None:
    """On asyncio a send that the socket takes needs no turn of the loop."""

    async def run(address: str) -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with trivium.connect(address) as client, client.producer() as producer:
            await producer.send("t", b"first")
            counting = asyncio.ensure_future(count())
            for _ in range(50):
                await producer.send_one_way("t", b"x")
            counting.cancel()
        return turns

    async def serve() -> int:
        async with serving() as at:
            return await trio.to_thread.run_sync(asyncio.run, run(at.native))

    assert trio.run(serve) >= 50
