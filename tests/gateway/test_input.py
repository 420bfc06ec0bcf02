"""What a connection receives: when it counts as idle, and what `stop` interrupts."""

from __future__ import annotations

import trio
import trio.testing

from gateway.input import Input

IDLE_S = 10.0


class Reader:
    """The loop of a connection: takes chunks, and works `works_s` on each."""

    def __init__(self, works_s: float = 0.0) -> None:
        self.peer, ours = trio.testing.memory_stream_pair()
        self.busy = False
        self.idle = 0
        self.begun: list[bytes] = []
        self.handled: list[bytes] = []
        self.input = Input(ours, int(IDLE_S * 1000), lambda: self.busy, self._on_idle)
        self._works_s = works_s

    def _on_idle(self) -> None:
        self.idle += 1

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.input.watch_idle)
            with self.input.scope:
                while chunk := await self.input.receive():
                    self.begun.append(bytes(chunk))
                    await trio.sleep(self._works_s)
                    self.handled.append(bytes(chunk))
            nursery.cancel_scope.cancel()


async def test_a_silent_connection_ends_when_its_time_is_up(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader()
    await reader.run()
    assert reader.idle == 1
    assert trio.current_time() == IDLE_S


async def test_what_comes_puts_the_end_off(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        for _ in range(3):
            await trio.sleep(IDLE_S - 1)
            await reader.peer.send_all(b"x")
    assert reader.handled == [b"x"] * 3
    assert 3 * (IDLE_S - 1) + IDLE_S <= trio.current_time() <= 3 * (IDLE_S - 1) + IDLE_S * 1.1


async def test_a_connection_with_requests_under_way_is_not_idle(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader()
    reader.busy = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.sleep(5 * IDLE_S)
        assert reader.idle == 0
        reader.busy = False
    assert reader.idle == 1


async def test_stop_ends_a_read_that_waits(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        reader.input.stop()
    assert trio.current_time() < IDLE_S
    assert reader.idle == 0


async def test_stop_lets_what_was_received_be_handled(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader(works_s=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await reader.peer.send_all(b"x")
        await trio.sleep(0.5)
        reader.input.stop()
        await trio.sleep(1.0)
        assert reader.handled == [b"x"]
        await reader.peer.aclose()


async def test_what_arrives_with_stop_is_not_begun(autojump_clock: trio.testing.MockClock) -> None:
    reader = Reader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.testing.wait_all_tasks_blocked()
        await reader.peer.send_all(b"x")
        reader.input.stop()
    assert reader.begun == []
