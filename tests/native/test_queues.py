"""Consumers of queue groups over real sockets, on trio, on asyncio and blocking."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from click.testing import CliRunner

import trivium
from gateway.cli import main
from tests.native.harness import connected, in_thread, serving
from tests.patience import PATIENCE_S
from trivium.client import Client
from trivium.connection import Connection
from trivium.frames.queues import Receive, Subscribe
from trivium.handouts import Message
from trivium.queue_admin import DeadLetter


async def fill(client: Client, count: int, topic: str = "t", partitions: int = 2) -> set[bytes]:
    await client.create_topic(topic, partitions)
    values = [b"%d" % number for number in range(count)]
    async with client.producer() as producer, anyio.create_task_group() as tasks:

        async def send(value: bytes) -> None:
            await producer.send(topic, value, key=b"k%d" % (int(value) % 5))

        for value in values:
            tasks.start_soon(send, value)
    return set(values)


async def share(address: str) -> None:
    """Four consumers, one partition fewer than that: each message once, and none again."""
    async with trivium.connect(address) as client:
        values = await fill(client, 200)
        got: Counter[bytes] = Counter()
        by_consumer: list[int] = []

        async def consume() -> None:
            count = 0
            async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=10) as messages:
                async for message in messages:
                    assert message.attempt == 1
                    assert message.value is not None
                    got[message.value] += 1
                    count += 1
                    await messages.ack(message)
                    if len(got) == len(values):
                        tasks.cancel_scope.cancel()
            by_consumer.append(count)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(consume)
        assert set(got) == values
        assert set(got.values()) == {1}
        async with client.subscribe("t", group="g") as messages:
            with anyio.move_on_after(0.05):
                assert await messages.take() is None


async def test_a_group_shares_on_trio() -> None:
    async with serving() as addresses:
        await share(addresses.native)


def test_a_group_shares_on_asyncio() -> None:
    with in_thread() as addresses:
        anyio.run(share, addresses.native, backend="asyncio")


async def test_a_topic_that_is_missing_is_made_for_who_subscribes_to_it() -> None:
    async with connected() as client, client.subscribe("new", group="g") as messages, client.producer() as producer:
        await producer.send("new", b"first")
        async for message in messages:
            assert message.value == b"first"
            await messages.ack(message)
            break


async def test_a_handler_that_fails_has_its_message_again_with_the_error_as_reason_in_the_end() -> None:
    async with connected() as client:
        await fill(client, 10)
        await client.configure_queue("g", attempts_max=2, backoff_ms=[0])
        tried: Counter[bytes] = Counter()

        async def handle(message: Message) -> None:
            assert message.value is not None
            tried[message.value] += 1
            if tried.total() == 11:
                messages.stop()
            if message.value == b"3":
                raise RuntimeError("no such thing")

        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            await messages.run(handle, concurrency=3, signals=())
        assert tried == {b"%d" % number: 2 if number == 3 else 1 for number in range(10)}
        letters: list[DeadLetter] = []
        while not letters:
            letters = await client.dead_letters("g", wait_ms=2_000)
        (letter,) = letters
        assert (letter.value, letter.reason, letter.attempts) == (b"3", "RuntimeError: no such thing", 2)
        assert letter.topic == "t"
        await client.resend_dead_letters("g", [letter.offset])
        async with client.subscribe("t", group="g") as messages:
            again = await anext(messages)
            assert (again.topic, again.value) == ("dead-letters.g", b"3")
            await messages.ack(again)


async def held_of(group: str, client: Client) -> int:
    (info,) = await client.describe_queues(group)
    return sum(member.held for member in info.members)


async def test_credit_bounds_what_is_here_and_leaving_gives_back_what_was_not_started_on() -> None:
    async with connected() as client:
        await fill(client, 50, partitions=1)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=8) as messages:
            first = await anext(messages)
            while (held := await held_of("g", client)) < 8:
                pass
            assert held == await held_of("g", client) == 8
            await messages.ack(first)
        async with client.subscribe("t", group="g") as messages:
            got = [await anext(messages) for _ in range(49)]
            assert {message.attempt for message in got} == {1}
            for message in got:
                messages.ack_nowait(message)
            await messages.wait_settled()
        (info,) = await client.describe_queues("g")
        assert [(place.floor, place.held, place.failed) for place in info.places] == [(50, 0, 0)]


async def test_a_member_that_contradicts_its_group_is_told_both() -> None:
    async with connected() as client:
        await fill(client, 1)
        async with client.subscribe("t", group="g", tags="a", order="key"):
            with pytest.raises(trivium.RequestRefused, match=r"tags:a.*tags:b") as refused:
                async with client.subscribe("t", group="g", tags="b", order="key"):
                    pass
            assert refused.value.code == trivium.ErrorCode.CONTRADICTS_GROUP
        with pytest.raises(trivium.RequestRefused) as refused:
            async with client.subscribe("no topic's name", group="h"):
                pass
        assert refused.value.code == trivium.ErrorCode.INVALID_TOPIC


async def test_order_per_key_over_several_consumers() -> None:
    async with connected() as client:
        await client.create_topic("t", 1)
        async with client.producer() as producer:
            for number in range(60):
                await producer.send("t", b"%d" % number, key=b"k%d" % (number % 3))
        seen: dict[bytes, list[int]] = {}
        busy: set[bytes] = set()

        async def consume() -> None:
            async with client.subscribe("t", group="g", order="key", start=trivium.EARLIEST) as messages:
                async for message in messages:
                    assert message.key is not None
                    assert message.key not in busy
                    busy.add(message.key)
                    await trio.lowlevel.checkpoint()
                    if message.attempt == 1 and message.offset % 7 == 0:
                        busy.remove(message.key)
                        await messages.nack(message, delay_ms=1)
                        continue
                    seen.setdefault(message.key, []).append(int(message.value or b""))
                    busy.remove(message.key)
                    await messages.ack(message)
                    if sum(map(len, seen.values())) == 60:
                        nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume)
        assert seen == {b"k%d" % key: list(range(key, 60, 3)) for key in range(3)}


async def test_a_paused_group_gets_nothing_and_a_reset_goes_back() -> None:
    async with connected() as client:
        await fill(client, 5, partitions=1)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            old = [await anext(messages) for _ in range(5)]
            await messages.ack(old[0])
            await client.pause_queue("g")
            await client.reset("g", trivium.EARLIEST, kind="queue")
            with trio.move_on_after(0.05):
                assert await messages.take() is None
            with pytest.raises(trivium.RequestRefused) as refused:
                await messages.ack(old[1])
            assert refused.value.code == trivium.ErrorCode.RECEIPT_LATE
            await client.resume_queue("g")
            assert [(await anext(messages)).offset for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_a_lost_connection_is_opened_anew_and_what_was_here_stays_ours() -> None:
    async with connected() as client:
        await fill(client, 20, partitions=1)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=10) as messages:
            got = [await anext(messages) for _ in range(5)]
            connection = await client.connection()
            await connection.aclose()
            for message in got:
                await messages.ack(message)
            for _ in range(15):
                got.append(await anext(messages))
                messages.ack_nowait(got[-1])
            assert sorted(message.offset for message in got) == list(range(20))
            assert {message.attempt for message in got} == {1}
            await messages.wait_settled()
            assert messages.late == 0


async def test_receiving_asks_for_messages_and_a_lost_answer_is_the_same_again() -> None:
    async with connected() as client:
        await fill(client, 5, partitions=1)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=0) as messages:
            got = await messages.receive(3)
            while len(got) < 3:
                got += await messages.receive(3 - len(got))
            assert [message.offset for message in got] == [0, 1, 2]
            await messages.ack(got[0])
            connection = await client.connection()
            request = Receive(1, 99, 10, 1 << 20, 5_000)
            first, payload = await connection.request(request)
            again, same = await connection.request(request)
            assert first.entries == again.entries
            assert bytes(payload) == bytes(same)
            assert await messages.receive(10, wait_ms=1) == []
            for message in got[1:]:
                await messages.ack(message)


async def test_to_acknowledge_what_is_acknowledged_is_done() -> None:
    async with connected() as client:
        await fill(client, 2)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            one, two = [await anext(messages) for _ in range(2)]
            messages.ack_nowait(one)
            await messages.ack(one)
            with trio.CancelScope() as given_up:
                given_up.cancel()
                await messages.ack(two)
            await messages.ack(two)
            with pytest.raises(trivium.RequestRefused) as refused:
                await messages.nack(one)
            assert refused.value.code == trivium.ErrorCode.RECEIPT_LATE
            assert all(place.failed == 0 for place in (await client.describe_queues("g"))[0].places)
        with pytest.raises(trivium.RequestRefused):  # who has left has nobody to ask
            await messages.ack(one)


async def test_what_a_members_client_does_is_shown() -> None:
    async with connected() as client:
        await fill(client, 3)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            await anext(messages)
            (info,) = await client.describe_queues("g")
            status = await client.member_status("g", info.members[0].member)
            assert status["settings"]["client_id"] == "test"
            assert status["consumer 1"]["group"] == "g"
            assert any("subscriber" in name for name in status["stacks"])
            with pytest.raises(trivium.RequestRefused) as refused:
                await client.member_status("g", "nobody")
            assert refused.value.code == trivium.ErrorCode.UNKNOWN_MEMBER


async def test_traces_show_delivery_acknowledgement_and_failure() -> None:
    async with connected() as client:
        await client.create_topic("t", 1, {"trace": "on"})
        async with client.producer() as producer:
            for number in range(2):
                await producer.send("t", b"%d" % number)
        await client.configure_queue("g", backoff_ms=[0])
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            await messages.ack(await anext(messages))
            await messages.nack(await anext(messages))
            await messages.ack(await anext(messages))
        found = client.traces(topic="t", partition=0, offset=1)
        seen = [(trace.event, trace.attempt) async for trace in found if trace.group == "g"]
        assert seen == [(2, 1), (4, 0), (2, 2), (3, 0)]


async def test_broadcast_reaches_every_instance() -> None:
    async with connected() as client:
        values = await fill(client, 10)
        for instance in ("one", "two"):
            async with client.subscribe("t", group=f"g.{instance}", broadcast=True, start=trivium.EARLIEST) as messages:
                assert {(await anext(messages)).value for _ in range(10)} == values


async def test_in_a_broadcast_nothing_is_settled() -> None:
    async with connected() as client:
        await fill(client, 1)
        async with client.subscribe("t", group="g", broadcast=True, start=trivium.EARLIEST) as messages:
            message = await anext(messages)
            messages.ack_nowait(message)
            await messages.ack(message)
            await messages.nack(message)
            await messages.postpone(message, 1)
            await messages.reject(message, "none of ours")
            await messages.extend(message, 1_000)


def test_blocking_consumer() -> None:
    import trivium.blocking

    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:
        client.create_topic("t", 1)
        with client.producer() as producer:
            for number in range(3):
                producer.send("t", b"%d" % number)
        with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            for number, message in enumerate(messages):
                assert message.value == b"%d" % number
                messages.ack(message)
                if number == 2:
                    break


def test_the_command_line_shows_pauses_and_sends_again() -> None:
    import trivium.blocking

    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:

        def run(*arguments: str) -> str:
            result = CliRunner().invoke(main, ["queue", "--broker", addresses.native, *arguments])
            assert result.exit_code == 0, result.output
            logged = re.compile(r"^\d{4}-\d\d-\d\d .*\n", re.MULTILINE)  # the broker's, in this process
            return logged.sub("", result.output)

        client.create_topic("t", 1)
        with client.producer() as producer:
            producer.send("t", b"body", key=b"k")
        run("configure", "g", "--attempts", "2", "--backoff-ms", "0")
        with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            messages.reject(next(messages), "bad customer")
            while not (shown := run("dead-letters", "g")):
                pass
            assert shown == "0 t/0/0 1 'bad customer' 'k' 'body'\n"
            assert run("list") == "g 1 0 0 topics t\n"
            run("resend", "g", "0")
            again = next(messages)
            assert (again.topic, again.value) == ("dead-letters.g", b"body")
            messages.ack(again)
            run("pause", "g")
            assert "(paused)" in run("describe", "g")
            run("resume", "g")
        run("delete", "g")
        assert run("list") == ""
        result = CliRunner().invoke(main, ["queue", "--broker", addresses.native, "describe", "g"])
        assert (result.exit_code, result.output) == (1, "trivium: group not found: queue group 'g'\n")


async def test_a_receive_that_was_cancelled_is_asked_for_again() -> None:
    async with connected() as client, client.producer() as producer:
        await client.create_topic("t", 1)
        async with client.subscribe("t", group="g", credit_messages=0) as messages:
            with trio.move_on_after(0.01):
                await messages.receive(2, wait_ms=60_000)
            await producer.send("t", b"0")
            (got,) = await messages.receive(2)
            assert (got.value, got.attempt) == (b"0", 1)
            await messages.ack(got)


async def test_a_reason_that_is_no_utf_8_is_kept_escaped() -> None:
    async with connected() as client, client.producer() as producer:
        await producer.send("t", b"0")
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            await messages.reject(await anext(messages), "no file \udcff")
        (letter,) = await client.dead_letters("g", wait_ms=60_000)
        assert letter.reason == "no file \\udcff"


async def test_messages_of_a_group_show_their_id_as_others_do() -> None:
    async with connected() as client, client.producer() as producer:
        sent = await producer.send("t", b"0", headers={"mine": b"1"})
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            message = await anext(messages)
            assert message.message_id == sent.message_id
            assert message.headers == [("mine", b"1")]
            await messages.ack(message)


async def test_who_is_refused_when_it_comes_back_is_told_by_every_call() -> None:
    async with connected() as client, client.producer() as producer:
        await producer.send("t", b"0")
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            message = await anext(messages)
            await client.delete_topic("t")
            await (await client.connection()).aclose()
            with trio.fail_after(30), pytest.raises(trivium.RequestRefused, match="t/0 at 0"):
                await messages.ack(message)

            async def handle(_: Message) -> None:
                raise AssertionError

            with pytest.raises(trivium.RequestRefused, match="topic 't' does not exist"):
                await messages.run(handle, concurrency=3, signals=())


async def test_slow_handlers_leave_the_credit_that_they_do_not_need() -> None:
    async with connected() as client:
        await fill(client, 30, partitions=1)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=7) as messages:
            slow = [await anext(messages) for _ in range(4)]
            with trio.fail_after(30):
                for _ in range(26):
                    await messages.ack(await anext(messages))
            for message in slow:
                await messages.ack(message)


async def test_a_connection_has_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.protocols.native.handlers_queues.STREAMS_MAX", 1)
    async with connected() as client, client.subscribe("t", group="g"):
        with pytest.raises(trivium.RequestRefused, match="at most 1 streams: open another") as refused:
            await client.subscribe("t", group="h").__aenter__()
        assert refused.value.code == trivium.ErrorCode.LIMIT_REACHED


async def test_who_is_cancelled_while_it_joins_is_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = trio.CancelScope()
    request = Connection.request

    async def joining(self: Connection, message: Any, *rest: Any) -> Any:
        if isinstance(message, Subscribe):
            scope.cancel()
        return await request(self, message, *rest)

    monkeypatch.setattr(Connection, "request", joining)
    async with connected() as client:
        await client.configure_queue("g", attempts_max=3)
        with scope:
            await client.subscribe("t", group="g").__aenter__()
        assert scope.cancelled_caught
        (info,) = await client.describe_queues("g")
        assert info.members == []
        await client.delete_queue("g")


async def test_what_is_left_are_the_messages_that_are_not_done() -> None:
    async with connected() as client, client.subscribe("t", group="g", order="key", credit_messages=0) as messages:

        async def left() -> tuple[int, int]:
            (info,) = await client.describe_queues("g")
            return sum(place.left for place in info.places), sum(place.failed for place in info.places)

        async with client.producer() as producer:
            keys = [b"a", b"a", b"b", b"c", b"d", b"e"]
            await producer.send_all([trivium.NewMessage("t", b"%d" % at, key) for at, key in enumerate(keys)])
        assert await left() == (6, 0)
        got = {message.value: message for message in await messages.receive(10)}
        assert set(got) == {b"0", b"2", b"3", b"4", b"5"}
        assert await left() == (6, 0)  # with a member, and one that waits for its key's turn
        await messages.ack(got[b"3"])
        await messages.ack(got[b"5"])
        assert await left() == (4, 0)
        await messages.nack(got[b"2"], delay_ms=60_000)
        await messages.reject(got[b"4"], "no")
        while await left() != (3, 1):  # until it is a dead letter
            pass
        await client.resend_dead_letters("g", [0])
        assert await left() == (4, 2)
        (again,) = await messages.receive()
        await messages.ack(again)
        assert await left() == (3, 1)
        await messages.ack(got[b"0"])
        (following,) = await messages.receive()
        assert following.value == b"1"
        await messages.ack(following)
        assert await left() == (1, 1)


def test_a_handler_may_run_in_a_loop_of_another_thread() -> None:
    handled: list[bytes | None] = []

    async def main(address: str) -> None:
        async with trivium.connect(address) as client, client.subscribe("t", group="g") as messages:

            async def handle(message: Message) -> None:
                handled.append(message.value)
                messages.stop()

            async with client.producer() as producer:
                await producer.send("t", b"x")
            await messages.run(handle)  # there are no signals for it here

    with in_thread() as addresses, ThreadPoolExecutor() as threads:
        for backend in ("asyncio", "trio"):
            threads.submit(partial(anyio.run, main, addresses.native, backend=backend)).result(PATIENCE_S)
    assert handled == [b"x", b"x"]
