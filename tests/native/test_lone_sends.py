"""Sends that make their own request: cancelled on their way, on their way at the end, and none overtakes another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

import trivium
from tests.native.harness import serving
from trivium.frame_reader import FrameReader
from trivium.frames.codec import KIND_OF, REPLY_BIT
from trivium.frames.sending import Send

SENT = KIND_OF[Send] | REPLY_BIT


class Holder:
    """Stands between client and broker, and holds back the answer to the second send."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._answers = 0
        self.held = trio.Event()
        self.release = trio.Event()

    async def serve(self, client: trio.SocketStream) -> None:
        host, port = self._target.split(":")
        broker = await trio.open_tcp_stream(host, int(port))
        async with client, broker, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, broker)
            reader = FrameReader(1 << 20)
            while chunk := await broker.receive_some(65_536):
                self._answers += sum(frame.kind == SENT for frame in reader.receive(bytes(chunk)))
                if self._answers == 2:
                    self.held.set()
                    await self.release.wait()
                await client.send_all(chunk)
            nursery.cancel_scope.cancel()

    async def _forward(self, client: trio.SocketStream, broker: trio.SocketStream) -> None:
        while chunk := await client.receive_some(65_536):
            await broker.send_all(chunk)
        await broker.send_eof()


@asynccontextmanager
async def held_back() -> AsyncIterator[tuple[Holder, trivium.Client]]:
    async with serving() as addresses, trio.open_nursery() as nursery:
        holder = Holder(addresses.native)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, holder.serve, [listener])
        async with trivium.connect(f"127.0.0.1:{listener.socket.getsockname()[1]}") as client:
            await client.create_topic("t", 1)
            yield holder, client
        nursery.cancel_scope.cancel()


async def values_of(client: trivium.Client, topic: str, count: int) -> list[bytes | None]:
    async with client.consumer(topic, start=trivium.EARLIEST) as consumer:
        return [(await anext(consumer)).value for _ in range(count)]


async def test_one_that_is_cancelled_on_its_way_does_not_harm_the_next() -> None:
    async with held_back() as (holder, client), client.producer() as producer:
        await producer.send("t", b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "t", b"cancelled")
            await holder.held.wait()
            nursery.cancel_scope.cancel()
        holder.release.set()
        assert (await producer.send("t", b"next")).offset == 2
        assert (await producer.send("t", b"last")).offset == 3
        assert await values_of(client, "t", 4) == [b"first", b"cancelled", b"next", b"last"]


async def test_one_on_its_way_is_finished_before_the_producer_ends() -> None:
    offsets: list[int] = []
    async with held_back() as (holder, client), trio.open_nursery() as nursery:

        async def send() -> None:
            offsets.append((await producer.send("t", b"second")).offset)

        async def release() -> None:
            await trio.testing.wait_all_tasks_blocked()  # the producer waits for its end
            holder.release.set()

        async with client.producer() as producer:
            await producer.send("t", b"first")
            nursery.start_soon(send)
            await holder.held.wait()
            nursery.start_soon(release)
        assert offsets == [1]


async def test_none_overtakes_what_waits_for_its_topic() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        for number in range(20):  # two tasks hear of the new topic at once, and either may be the first to go on
            topic = f"t{number}"
            posted = producer.post(topic, b"1", key=b"k")
            await client.partitions(topic, create=True)
            second = await producer.send(topic, b"2", key=b"k")
            assert ((await posted.wait()).offset, second.offset) == (0, 1)
