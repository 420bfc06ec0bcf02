"""A consumer whose loop stood still for longer than messages are invisible: what others have got is not given out."""

from __future__ import annotations

import time

import pytest

import trivium
from tests.native.harness import connected, in_thread
from trivium import blocking
from trivium.frames.queues import Delivery, Range, SettleReply, SettleRequest
from trivium.held_messages import HeldMessages
from trivium.records import Record, build
from trivium.settling import Settling


class Clock:
    """What the SDK takes for the time that has passed."""

    def __init__(self) -> None:
        self.later_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.later_s

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("handouts", "held_messages", "membership"):
        monkeypatch.setattr(f"trivium.{module}.time", made)
    return made


async def send_three(client: trivium.Client) -> None:
    async with client.producer() as producer:
        await producer.send_all([trivium.NewMessage("t", b"%d" % number) for number in range(3)])


async def test_what_others_may_have_got_is_not_given_out(clock: Clock) -> None:
    async with connected() as client, client.subscribe("t", group="g") as messages, client.producer() as producer:
        await send_three(client)
        first = await messages.take()
        assert first is not None
        assert first.value == b"0"
        await client.reset("g", trivium.LATEST, kind="queue")  # the broker thinks nothing here to be ours any more
        clock.later_s = 100
        await producer.send("t", b"new")
        following = await messages.take()
        assert following is not None
        assert following.value == b"new"


async def test_what_is_still_ours_is_given_out(clock: Clock) -> None:
    async with connected() as client, client.subscribe("t", group="g") as messages:
        await send_three(client)
        for number in range(3):
            message = await messages.take()
            assert message is not None
            assert (message.value, message.attempt) == (b"%d" % number, 1)
            clock.later_s += 100
            await messages.ack(message)


def test_what_others_may_have_got_is_not_given_to_a_thread(clock: Clock) -> None:
    with (
        in_thread() as addresses,
        blocking.connect(addresses.native) as client,
        client.subscribe("t", group="g") as messages,
        client.producer() as producer,
    ):
        producer.send_all([trivium.NewMessage("t", b"%d" % number) for number in range(3)])
        assert next(messages).value == b"0"
        client.reset("g", trivium.LATEST, kind="queue")
        clock.later_s = 100
        producer.send("t", b"new")
        assert next(messages).value == b"new"


def test_what_is_still_ours_is_given_to_a_thread(clock: Clock) -> None:
    with (
        in_thread() as addresses,
        blocking.connect(addresses.native) as client,
        client.subscribe("t", group="g") as messages,
        client.producer() as producer,
    ):
        producer.send_all([trivium.NewMessage("t", b"%d" % number) for number in range(3)])
        for number in range(3):
            message = next(messages)
            assert message.value == b"%d" % number
            clock.later_s += 100
            messages.ack(message)


async def settled(_: SettleRequest) -> tuple[SettleReply, memoryview]:
    raise AssertionError("nothing is settled here")


def test_what_came_while_the_loop_stood_still_is_as_old_as_that(clock: Clock) -> None:
    held = HeldMessages(Settling(1, settled), 10, 1_000)
    batch = build([Record(0, 0, None, b"x", [])])
    held.joined(2_000)
    for later_s, is_certain in ((0, True), (1.9, True), (10, False), (10.1, True)):
        clock.later_s = later_s
        held.runs()  # a timer may be seen before what was received earlier
        held.deliver([Delivery("t", 0, 7, 1, [Range(0, 0)], len(batch))], memoryview(batch))
        assert held.open() is is_certain, later_s
        held.drop(held.leased[0])
