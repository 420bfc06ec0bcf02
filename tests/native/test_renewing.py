"""What a queue group's consumer holds is renewed, by the time that its group says."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trivium
from tests.native.harness import connected
from tests.patience import PATIENCE_S
from trivium.connection import Connection
from trivium.frames.queues import EXTEND, SettleRequest
from trivium.handouts import Handout
from trivium.membership import Membership


async def test_what_is_here_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivium.membership.RENEWALS_PER_TIME", 30_000)  # every millisecond
    renewed = trio.Event()
    answers = []

    async def extend(membership: Membership, *args: Any) -> Any:
        answers.append(await original(membership, *args))
        if len(answers) == 3:
            renewed.set()
        return answers[-1]

    original = Membership._extend
    monkeypatch.setattr(Membership, "_extend", extend)
    async with connected() as client:
        async with client.producer() as producer:
            await producer.send("t", b"0")
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            message = await anext(messages)
            await renewed.wait()
            await messages.ack(message)
    assert answers[:3] == [[], [], []]  # nothing was lost


async def test_messages_are_renewed_by_the_time_of_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = trio.Event()
    extend = Membership._extend

    async def seen(*arguments: Any) -> list[Handout]:
        renewed.set()
        return await extend(*arguments)

    monkeypatch.setattr(Membership, "_extend", seen)
    async with connected() as client, client.producer() as producer:
        await client.configure_queue("g", invisible_ms=300)
        await producer.send("t", b"0")
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            message = await anext(messages)
            with trio.fail_after(5):  # the time of other groups is longer
                await renewed.wait()
            await messages.ack(message)


class Extensions:
    """The times for which a client asks when it is told of settings, as it asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trivium.membership.RENEWALS_PER_TIME", 1e-6)  # none because of the time
        self._request = Connection.request
        self._send, self._receive = trio.open_memory_channel[int](1_000)
        monkeypatch.setattr(Connection, "request", lambda *args: self._asked(*args))

    async def _asked(self, connection: Connection, message: Any, *rest: Any) -> Any:
        if isinstance(message, SettleRequest):
            for entry in message.entries:
                if entry.verb == EXTEND:
                    self._send.send_nowait(entry.delay_ms)
        return await self._request(connection, message, *rest)

    async def next_ms(self) -> int:
        with trio.fail_after(PATIENCE_S):
            return await self._receive.receive()


@pytest.mark.parametrize("invisible_ms", [20_000, 60_000])
async def test_members_renew_by_settings_that_were_changed_since(
    invisible_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected() as client, client.producer() as producer:
        await producer.send("t", b"0")
        extensions = Extensions(monkeypatch)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            first = await anext(messages)
            await client.configure_queue("g", invisible_ms=invisible_ms)
            await producer.send("t", b"1")  # they are told when something is handed out
            assert await extensions.next_ms() == invisible_ms
            await client.configure_queue("g", invisible_ms=25_000)
            await messages.extend(first, 50_000)  # or when something is settled
            while (asked_ms := await extensions.next_ms()) == invisible_ms:
                pass  # of each that is here
            assert [asked_ms, await extensions.next_ms()] == [50_000, 25_000]


async def test_who_receives_renews_by_settings_that_were_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as client, client.producer() as producer:
        await producer.send("t", b"0")
        extensions = Extensions(monkeypatch)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=0) as messages:
            await messages.receive()
            await client.configure_queue("g", invisible_ms=20_000)
            await producer.send("t", b"1")
            await messages.receive()
            assert await extensions.next_ms() == 20_000
