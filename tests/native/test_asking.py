"""What the broker asks its clients, and what it tells them: answered, refused, late, too much, gone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from core.broker import Broker, BrokerSettings
from core.store.memory import MemoryEngine
from gateway.memory_budget import MemoryBudget
from gateway.protocols.native import connection
from gateway.protocols.native.connection import Connection, ConnectionLimits
from gateway.protocols.native.context import AskFailed, Context
from tests.patience import PATIENCE_S
from trivium import client as sdk
from trivium.connection import ANSWERING_MAX, Incoming
from trivium.connection import Connection as ClientConnection
from trivium.errors import ErrorCode, RequestRefused
from trivium.frames.codec import encode
from trivium.frames.connection import MAGIC, AskStatus, Hello, Status
from trivium.frames.topics import Metadata

LIMITS = ConnectionLimits(1 << 20, 1 << 20, 60_000, 60_000)


@asynccontextmanager
async def broker_side(stream: trio.abc.Stream) -> AsyncIterator[Connection]:
    """The broker's end of one connection."""
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, BrokerSettings())
        await nursery.start(broker.run)
        served = Connection(Context(broker, 1 << 20), stream, "peer", LIMITS, MemoryBudget(1 << 20))

        async def serve() -> None:
            async with stream:
                await served.run()

        nursery.start_soon(serve)
        yield served
        nursery.cancel_scope.cancel()


class Ends:
    """Both ends of a connection over memory, greeted."""

    def __init__(self, broker: Connection, client: ClientConnection) -> None:
        self.broker = broker
        self.client = client


@asynccontextmanager
async def both(incoming: Incoming) -> AsyncIterator[Ends]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with broker_side(theirs) as served, trio.open_nursery() as nursery:
        made = ClientConnection(anyio_stream(ours), incoming)
        await made.greet("me", "x/1")
        nursery.start_soon(made.receive)
        yield Ends(served, made)
        nursery.cancel_scope.cancel()


def anyio_stream(stream: trio.StapledStream[Any, Any]) -> anyio.abc.ByteStream:
    class Stream(anyio.abc.ByteStream):
        async def receive(self, max_bytes: int = 65_536) -> bytes:
            try:
                chunk = await stream.receive_some(max_bytes)
            except trio.ClosedResourceError:
                raise anyio.ClosedResourceError from None
            if not chunk:
                raise anyio.EndOfStream
            return bytes(chunk)

        async def send(self, item: bytes) -> None:
            await stream.send_all(item)

        async def send_eof(self) -> None:
            await stream.send_eof()

        async def aclose(self) -> None:
            await stream.aclose()

    return Stream()


async def test_the_client_answers_while_its_own_requests_go_on() -> None:
    async def answer(_: AskStatus, __: memoryview) -> Status:
        return Status("fine")

    async with both(Incoming(requests={AskStatus: answer})) as ends:
        assert (await ends.broker.ask(AskStatus(), timeout_s=1))[0] == Status("fine")
        assert (await ends.client.request(Metadata(0, [])))[0].topics == []
        assert ends.broker.client_id == "me"
        assert ends.broker.software == "x/1"


async def test_what_nobody_registered_for_is_refused_by_its_kind() -> None:
    async with both(Incoming()) as ends:
        with pytest.raises(AskFailed) as failed:
            await ends.broker.ask(AskStatus(), timeout_s=1)
    assert failed.value.code == ErrorCode.UNKNOWN_KIND


async def test_a_handler_refuses_with_a_code_and_a_reason() -> None:
    async def answer(_: AskStatus, __: memoryview) -> Status:
        raise RequestRefused(ErrorCode.POLICY_VIOLATION, "not today")

    async with both(Incoming(requests={AskStatus: answer})) as ends:
        with pytest.raises(AskFailed, match="not today") as failed:
            await ends.broker.ask(AskStatus(), timeout_s=1)
    assert failed.value.code == ErrorCode.POLICY_VIOLATION


async def test_a_client_that_does_not_answer_is_given_up_and_its_late_answer_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def answer(_: AskStatus, __: memoryview) -> Status:
        await trio.sleep(5)
        return Status("late")

    async with both(Incoming(requests={AskStatus: answer})) as ends:
        with pytest.raises(AskFailed, match="no answer"):
            await ends.broker.ask(AskStatus(), timeout_s=1)
        await trio.sleep(10)
        assert (await ends.broker.ask(AskStatus(), timeout_s=20))[0] == Status("late")


async def test_unanswered_requests_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(_: AskStatus, __: memoryview) -> Status:
        await trio.sleep_forever()
        raise AssertionError

    failures: list[str] = []

    async def ask(ends: Ends) -> None:
        try:
            await ends.broker.ask(AskStatus(), timeout_s=1)
        except AskFailed as failed:
            failures.append(str(failed))

    async with both(Incoming(requests={AskStatus: answer})) as ends, trio.open_nursery() as nursery:
        for _ in range(connection.ASKED_MAX + 1):
            nursery.start_soon(ask, ends)
    assert sum("unanswered" in failure for failure in failures) == 1
    assert len(failures) == connection.ASKED_MAX + 1


async def test_a_client_that_answers_nothing_goes_on_asking(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[int] = []

    async def answer(_: AskStatus, __: memoryview) -> Status:
        asked.append(1)
        await trio.sleep_forever()
        raise AssertionError

    async def ask(ends: Ends) -> None:
        with pytest.raises(AskFailed, match="no answer"):
            await ends.broker.ask(AskStatus(), timeout_s=1)

    async with both(Incoming(requests={AskStatus: answer})) as ends:
        for _ in range(2):  # the client still works on the first ones when the broker has given them up
            async with trio.open_nursery() as nursery:
                for _ in range(connection.ASKED_MAX):
                    nursery.start_soon(ask, ends)
        assert len(asked) == ANSWERING_MAX
        assert (await ends.client.request(Metadata(0, [])))[0].topics == []


async def test_closing_is_told_once() -> None:
    closed: list[int] = []
    async with both(Incoming()) as ends:
        ends.broker.on_close.append(lambda: closed.append(1))
        await ends.client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert closed == [1]
    assert closed == [1]


async def test_what_only_the_broker_may_say_ends_the_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with broker_side(theirs):
        await ours.send_all(encode(1, 0, Hello(MAGIC, 1, 1, "", "")) + encode(11, 1, AskStatus()))
        received = b""
        with trio.fail_after(PATIENCE_S):
            while chunk := await ours.receive_some():
                received += bytes(chunk)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_clients_status_shows_settings_and_stacks(backend: str) -> None:
    async def stuck_handler() -> None:
        await anyio.sleep_forever()

    async def main() -> dict[str, Any]:
        async with sdk.connect("127.0.0.1:1", client_id="me") as client, anyio.create_task_group() as tasks:
            tasks.start_soon(stuck_handler)
            await anyio.wait_all_tasks_blocked()
            client.status["lag"] = lambda: 7
            found: dict[str, Any] = json.loads((await client._status(AskStatus(), memoryview(b""))).text)
            tasks.cancel_scope.cancel()
        return found

    status = anyio.run(main, backend=backend)
    assert status["settings"]["client_id"] == "me"
    assert status["lag"] == 7
    stuck = [lines for name, lines in status["stacks"].items() if "stuck_handler" in name]
    assert any("stuck_handler: await anyio.sleep_forever()" in line for lines in stuck for line in lines)
