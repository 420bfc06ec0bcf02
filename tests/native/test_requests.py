"""Request and reply, time to live, and subscriptions to keys."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
import trio

import trivium
import trivium.blocking
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium.errors import RequestRefused, RequestTimedOut


async def answer_all(client: trivium.Client, opened: trio.Event) -> None:
    async with client.producer() as producer, client.consumer("square", start=trivium.EARLIEST) as consumer:
        opened.set()
        async for message in consumer:
            assert message.value is not None
            await trivium.reply(producer, message, b"%d" % int(message.value) ** 2, headers={"by": b"me"})


async def test_many_requests_at_once_get_their_own_answers() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, anyio.create_task_group() as tasks:
        opened = trio.Event()
        await client.create_topic("square", 3)
        tasks.start_soon(answer_all, client, opened)
        await opened.wait()
        found: dict[int, bytes | None] = {}
        async with client.requester() as one, client.requester() as other, anyio.create_task_group() as asking:

            async def ask(number: int) -> None:
                asked = one if number % 2 else other
                answered = await asked.request("square", b"%d" % number, key=b"%d" % number)
                assert ("by", b"me") in answered.headers
                found[number] = answered.value

            for number in range(40):
                asking.start_soon(ask, number)
        assert found == {number: b"%d" % number**2 for number in range(40)}
        topic = await client.describe_topic("replies")
        assert topic.config["retention.ms"] == "3600000"
        tasks.cancel_scope.cancel()


async def test_who_is_not_answered_in_time_is_told_and_a_late_answer_is_dropped() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("slow", 1)
        async with client.requester() as requester, client.producer() as producer:
            unanswered: list[trivium.Message] = []

            async def read() -> None:
                async with client.consumer("slow", start=trivium.EARLIEST) as consumer:
                    unanswered.append(await anext(consumer))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                timeout_s = 0.05
                while not unanswered:  # it took longer to get there
                    with pytest.raises(RequestTimedOut, match="no reply from topic 'slow'"):
                        await requester.request("slow", b"%d" % math.ceil(timeout_s), timeout_s=timeout_s)
                    timeout_s *= 2
            (late,) = unanswered
            assert ("trivium.expiry-s", late.value) in late.headers
            await trivium.reply(producer, late, b"late")
            async with anyio.create_task_group() as tasks:

                async def answer() -> None:
                    async with client.consumer("slow", start=trivium.LATEST) as consumer:
                        opened.set()
                        await trivium.reply(producer, await anext(consumer), b"in time")

                opened = trio.Event()
                tasks.start_soon(answer)
                await opened.wait()
                assert (await requester.request("slow", b"y")).value == b"in time"


async def test_a_message_that_asks_for_nothing_cannot_be_answered() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await producer.send("t", b"x")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            message = await anext(consumer)
        with pytest.raises(ValueError, match="asks for no reply"):
            await trivium.reply(producer, message, b"y")


async def test_what_has_expired_is_passed_over() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        hour_ago_ms = (time.time_ns() // 1_000_000) - 3_600_000
        await producer.send("t", b"gone", timestamp_ms=hour_ago_ms, ttl_s=3_599)
        await producer.send("t", b"alive", timestamp_ms=hour_ago_ms, ttl_s=7_200)
        await producer.send("t", b"odd", headers={"trivium.expiry-s": b"soon"})
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert [(await anext(consumer)).value for _ in range(2)] == [b"alive", b"odd"]


async def test_one_reads_a_key_or_a_pattern_of_keys() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("plant", 2)
        for key in (b"line1/temp", b"line1/speed", b"line2/temp", None, b"\xff"):
            await producer.send("plant", key, key=key)
        for pattern, expected in (
            ("line1/temp", [b"line1/temp"]),
            ("+/temp", [b"line1/temp", b"line2/temp"]),
            ("line1/#", [b"line1/speed", b"line1/temp"]),
        ):
            async with client.consumer("plant", start=trivium.EARLIEST, key=pattern) as consumer:
                assert sorted([(await anext(consumer)).value or b"" for _ in expected]) == expected
        with pytest.raises(RequestRefused, match="stands for"):
            async with client.consumer("plant", key="line#"):
                pass


@pytest.mark.parametrize("broadcast", [False, True])
async def test_a_message_whose_time_is_over_is_not_given_to_a_queue_group(broadcast: bool) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await producer.send("t", b"late", ttl_s=1, timestamp_ms=time.time_ns() // 1_000_000 - 5_000)
        await producer.send("t", b"now", ttl_s=60)
        async with client.subscribe("t", group="g", start=trivium.EARLIEST, broadcast=broadcast) as messages:
            assert (await anext(messages)).value == b"now"
            await messages.wait_settled()
            (place,) = (await client.describe_queues("g"))[0].places
            assert place.held == (0 if broadcast else 1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
async def test_a_request_has_a_time(timeout_s: float) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.requester() as requester:
        with pytest.raises(ValueError, match="timeout_s"):
            await requester.request("t", b"x", timeout_s=timeout_s)


def test_scripts_answer_requests() -> None:
    with (
        in_thread() as addresses,
        trivium.blocking.connect(addresses.native) as client,
        client.subscribe("t", group="g") as messages,
        client.producer() as producer,
        client.requester() as requester,
        ThreadPoolExecutor() as threads,
    ):
        asked = threads.submit(requester.request, "t", b"how many?", timeout_s=PATIENCE_S)
        message = next(messages)
        trivium.blocking.reply(producer, message, b"7", headers={"a": b"b"})
        messages.ack(message)
        answer = asked.result(PATIENCE_S)
        assert (answer.value, dict(answer.headers)["a"]) == (b"7", b"b")
        with pytest.raises(ValueError, match="asks for no reply"):
            trivium.blocking.reply(producer, answer, b"8")
