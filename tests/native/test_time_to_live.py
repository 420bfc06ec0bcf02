"""Time to live: it counts when a message is given to the application, however long it has been here before."""

from __future__ import annotations

import time

import anyio
import pytest

import trivium
from tests.native.harness import connected, in_thread
from tests.patience import PATIENCE_S
from trivium import blocking
from trivium.expiry import is_expired


class Clock:
    """What the SDK takes for the time."""

    def __init__(self) -> None:
        self.later_s = 0.0

    def time(self) -> float:
        return time.time() + self.later_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("trivium.expiry.time", made)
    return made


async def send_some(producer: trivium.Producer) -> None:
    """In one batch: two that live for a minute, one that lives for a day, in between."""
    await producer.send_all(
        [
            trivium.NewMessage("t", b"first", ttl_s=60),
            trivium.NewMessage("t", b"short", ttl_s=60),
            trivium.NewMessage("t", b"long", ttl_s=86_400),
            trivium.NewMessage("t", b"short too", ttl_s=60),
        ]
    )


async def test_what_expires_while_it_waits_here_is_not_given_out_by_a_group(clock: Clock) -> None:
    async with connected() as client, client.subscribe("t", group="g") as messages, client.producer() as producer:
        await send_some(producer)
        first = await messages.take()
        assert first is not None
        assert first.value == b"first"
        clock.later_s = 100
        long = await messages.take()
        assert long is not None
        assert long.value == b"long"
        await messages.ack(first)
        await messages.ack(long)
        assert messages.take_nowait() is None
        await messages.wait_settled()
        (info,) = await client.describe_queues("g")
        assert info.places[0].floor == 4


async def test_what_expires_while_it_waits_here_is_not_given_out_by_a_consumer(clock: Clock) -> None:
    async with connected() as client, client.consumer("t", group="g") as consumer, client.producer() as producer:
        await send_some(producer)
        assert (await anext(consumer)).value == b"first"
        clock.later_s = 100
        assert (await anext(consumer)).value == b"long"
        await producer.send("t", b"new")
        assert (await anext(consumer)).value == b"new"
        assert consumer.positions == {("t", 0): 5}


def test_what_expires_while_it_waits_here_is_not_given_to_a_thread(clock: Clock) -> None:
    with (
        in_thread() as addresses,
        blocking.connect(addresses.native) as client,
        client.subscribe("t", group="g") as messages,
        client.producer() as producer,
    ):
        producer.send_all([trivium.NewMessage("t", value, ttl_s=60) for value in (b"first", b"short")])
        producer.send("t", b"long")
        first = next(messages)
        assert first.value == b"first"
        clock.later_s = 100
        assert next(messages).value == b"long"
        messages.ack(first)
        messages.wait_settled()
        (info,) = client.describe_queues("g")
        assert info.places[0].floor == 2


async def test_a_receive_waits_when_all_that_came_has_expired(clock: Clock) -> None:
    async with (
        connected() as client,
        client.subscribe("t", group="g", credit_messages=0) as messages,
        client.producer() as producer,
    ):
        await producer.send("t", b"short", ttl_s=60)
        clock.later_s = 100

        async def send() -> None:
            while (await client.describe_queues("g"))[0].places[0].floor < 1:
                pass
            await producer.send("t", b"long")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            (message,) = await messages.receive(10, wait_ms=int(PATIENCE_S * 100))
        assert message.value == b"long"


async def test_a_dead_letter_has_no_time_to_live(clock: Clock) -> None:
    async with connected() as client, client.subscribe("t", group="g") as messages, client.producer() as producer:
        await producer.send("t", b"bad", ttl_s=60)
        for number in range(2):  # also of one that was sent again
            message = await messages.take()
            assert message is not None
            assert message.value == b"bad"
            await messages.reject(message, "no")
            clock.later_s = 100
            (letter,) = await client.dead_letters("g", offset=number, wait_ms=int(PATIENCE_S * 100))
            await client.resend_dead_letters("g", [letter.offset])
        async with client.consumer("dead-letters.g", start=trivium.EARLIEST) as consumer:
            for _ in range(2):
                seen = await anext(consumer)
                assert dict(seen.headers)["trivium.dead-letter.expiry-s"] == b"60"


@pytest.mark.parametrize("ttl_s", [0, -1, 1.5, "5", 2**32])
async def test_a_time_to_live_is_whole_seconds(ttl_s: int) -> None:
    async with connected() as client, client.producer() as producer:
        with pytest.raises(ValueError, match="ttl_s"):
            await producer.send("t", b"x", ttl_s=ttl_s)


async def test_every_way_to_send_takes_a_time_to_live() -> None:
    async def check(_: trivium.HalfMessage) -> int:
        return trivium.COMMIT

    async with connected() as client:
        await client.create_topic("t", 1)
        async with (
            client.producer() as producer,
            client.half_producer("halves", check) as halves,
            client.transactional("one") as sender,
        ):
            await producer.send_one_way("t", b"one way", ttl_s=60)
            await producer.send_if("t", b"if", key=b"k", last_offset=-1, ttl_s=60)
            async with halves.half("t", b"half", ttl_s=60):
                pass
            async with sender.transaction() as transaction:
                await transaction.send("t", b"together", ttl_s=60)
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            for _ in range(4):
                assert dict((await anext(consumer)).headers)["trivium.expiry-s"] == b"60"


def test_of_two_times_to_live_the_last_counts() -> None:
    now_ms = time.time_ns() // 1_000_000
    sent_on = [("trivium.expiry-s", b"1"), ("other", b"x"), ("trivium.expiry-s", b"3600")]
    assert not is_expired(sent_on, now_ms - 60_000)
    assert is_expired(sent_on[:2], now_ms - 60_000)
