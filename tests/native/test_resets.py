"""Groups reset while they run: native ones, and over the wire what the SDK and the command line ask."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest
import trio
from click.testing import CliRunner

import trivium
from gateway.cli import main
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium.errors import ErrorCode, RequestRefused


async def fill(client: trivium.Client, topic: str, count: int, partitions: int = 1) -> None:
    await client.create_topic(topic, partitions)
    async with client.producer() as producer:
        for number in range(count):
            await producer.send(topic, b"%d" % number, partition=number % partitions, timestamp_ms=1_000 * number)


async def test_a_running_consumer_goes_where_its_group_is_reset_to() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await fill(client, "t", 10)
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            assert [(await anext(consumer)).value for _ in range(10)] == [b"%d" % number for number in range(10)]
            await consumer.commit()
            async with trivium.connect(addresses.native) as admin:
                assert await admin.reset("g", offset=7) == {("t", 0): 7}
                assert (await anext(consumer)).value == b"7"  # it may wait in a pull at the end
                assert await admin.reset("g", datetime.fromtimestamp(3, UTC)) == {("t", 0): 3}
                await consumer.commit()  # of 8, from before: left out
                assert await admin.committed("g") == {("t", 0): 3}
                assert (await anext(consumer)).value == b"3"
                assert await admin.reset("g", trivium.EARLIEST) == {("t", 0): 0}
                assert (await anext(consumer)).value == b"0"
                assert await admin.reset("g", trivium.LATEST) == {("t", 0): 10}
                async with admin.producer() as producer:
                    await producer.send("t", b"new")
                assert (await anext(consumer)).value == b"new"
                await consumer.commit()
                assert await admin.committed("g") == {("t", 0): 11}


async def test_a_consumer_that_waits_at_the_end_is_woken() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await fill(client, "t", 3)
        async with client.consumer("t", group="g", start=trivium.LATEST) as consumer:
            await consumer.commit()
            waiting = trio.Event()
            found: list[bytes | None] = []

            async def wait() -> None:
                waiting.set()
                found.append((await anext(consumer)).value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await waiting.wait()
                await trio.testing.wait_all_tasks_blocked()
                await client.reset("g", trivium.EARLIEST)
        assert found == [b"0"]


async def test_a_consumer_that_is_cancelled_while_it_asks_where_to_goes_there_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await fill(client, "t", 3)
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            assert [(await anext(consumer)).value for _ in range(3)] == [b"0", b"1", b"2"]
            await consumer.commit()
            await client.reset("g", trivium.EARLIEST)
            with monkeypatch.context() as patched, trio.CancelScope() as scope:

                async def cancelled(_: str, *, watch: bool) -> None:
                    scope.cancel()
                    await trio.sleep_forever()

                patched.setattr(client, "committed_since", cancelled)
                await anext(consumer)
            assert scope.cancelled_caught
            with trio.fail_after(PATIENCE_S):
                assert (await anext(consumer)).value == b"0"


async def test_a_commit_that_crosses_a_reset_is_refused() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await fill(client, "t", 5)
        await client.commit("g", {("t", 0): 5})
        _, resets = await client.committed_since("g", watch=False)
        await client.reset("g", offset=1)
        with pytest.raises(RequestRefused) as caught:
            await client.commit_since("g", {("t", 0): 5}, resets)
        assert caught.value.code == ErrorCode.GROUP_WAS_RESET
        assert await client.committed("g") == {("t", 0): 1}
        await client.commit_since("g", {("t", 0): 2}, resets + 1)
        assert await client.committed("g") == {("t", 0): 2}


async def test_places_are_kept_within_the_partition_and_topics_can_be_named() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await fill(client, "a", 6, 2)
        await fill(client, "b", 1)
        await client.commit("g", {("a", 0): 3, ("a", 1): 3, ("b", 0): 1})
        assert await client.reset("g", offset=99, topics=["a"]) == {("a", 0): 3, ("a", 1): 3}
        assert await client.reset("g", 2_500, topics=["a"]) == {("a", 0): 2, ("a", 1): 1}
        assert await client.reset("g", 10**13) == {("a", 0): 3, ("a", 1): 3, ("b", 0): 1}
        assert await client.reset("new", trivium.EARLIEST, topics=["b"]) == {("b", 0): 0}


async def test_what_cannot_be_reset_is_refused() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1)
        for code, arguments in (
            (ErrorCode.GROUP_NOT_FOUND, {"name": "nobody"}),
            (ErrorCode.UNKNOWN_TOPIC, {"name": "g", "topics": ["missing"]}),
            (ErrorCode.INVALID_GROUP_REQUEST, {"name": "g", "kind": "nonsense"}),
        ):
            with pytest.raises(RequestRefused) as caught:
                await client.reset(to=trivium.EARLIEST, **arguments)
            assert caught.value.code == code
        with pytest.raises(ValueError, match="either"):
            await client.reset("g")
    async with serving() as addresses:
        with pytest.raises(RequestRefused):  # as it is, though it leaves the client's block
            async with trivium.connect(addresses.native) as client:
                await client.reset("nobody", trivium.EARLIEST)


def test_from_the_command_line() -> None:
    with in_thread() as addresses:

        async def prepare() -> None:
            async with trivium.connect(addresses.native) as client:
                await fill(client, "t", 4, 2)
                await client.commit("g", {("t", 0): 2, ("t", 1): 2})

        anyio.run(prepare)

        def run(*arguments: str) -> tuple[int, str]:
            result = CliRunner().invoke(main, ["groups", "reset", *arguments, "--broker", addresses.native])
            return result.exit_code, result.stdout + result.stderr

        assert run("g", "--to-offset", "1") == (0, "t 0 1\nt 1 1\n")
        assert run("g", "--to-time", "1970-01-01T00:00:02") == (0, "t 0 1\nt 1 1\n")
        assert run("g", "--to-time", "3000", "--topic", "t") == (0, "t 0 2\nt 1 1\n")
        assert run("g", "--to-latest") == (0, "t 0 2\nt 1 2\n")
        code, text = run("nobody", "--to-earliest")
        assert code == 1
        assert "group not found" in text
        assert run("g")[0] == 2
        assert run("g", "--to-time", "soon")[0] == 2
