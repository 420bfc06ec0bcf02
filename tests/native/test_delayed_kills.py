"""A broker killed among schedules, cancellations, half messages and ids stored once: what was told holds."""

from __future__ import annotations

import random
import time
from pathlib import Path

import trio

import trivium
from gateway.testing import free_port
from tests.native.test_restart import kill, start
from trivium.client import Client

KILLS = 3
SENDERS = 6


class Told:
    """What clients were told."""

    def __init__(self) -> None:
        self.scheduled: set[str] = set()
        self.cancelled: dict[str, trivium.Cancellation] = {}
        self.committed: set[str] = set()
        self.rolled_back: set[str] = set()
        self.once: dict[str, str] = {}
        self.done = 0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def schedule(client: Client, told: Told, rng: random.Random) -> None:
    """Sends for soon, and cancels some of it about when it is due."""
    async with client.producer() as producer:
        sent = await producer.send("later", b"", deliver_at_ms=now_ms() + rng.choice((2, 20, 60)))
    told.scheduled.add(sent.message_id)
    if sent.scheduled and rng.random() < 0.7:
        await trio.sleep(rng.choice((0, 0.001, 0.02)))
        told.cancelled[sent.message_id] = await client.cancel(sent.message_id)


async def half(client: Client, told: Told, rng: random.Random, group: str) -> None:
    async def nobody_knows(half: trivium.HalfMessage) -> int:
        return trivium.DO_NOT_KNOW

    async with client.half_producer(group, nobody_knows) as producer:
        one = await producer.send("halves", b"")
        if rng.random() < 0.6:
            await one.commit()
            told.committed.add(one.message_id)
        else:
            await one.roll_back()
            told.rolled_back.add(one.message_id)


async def once(client: Client, told: Told, rng: random.Random) -> None:
    once_id = f"id-{rng.randrange(40)}"
    async with client.producer() as producer:
        sent = await producer.send("once", b"", once_id=once_id)
    assert told.once.setdefault(once_id, sent.message_id) == sent.message_id


async def ids_in(client: Client, topic: str) -> list[str]:
    """The ids of a topic's messages up to its end, in order."""
    ends = await client.find_offsets(topic, trivium.LATEST)
    found: list[str] = []
    async with client.consumer(topic, start=trivium.EARLIEST) as consumer, client.producer() as producer:
        marker = await producer.send(topic, b"", key=b"end")
        assert marker.offset >= ends[0]
        async for message in consumer:
            if message.message_id == marker.message_id:
                return found
            found.append(message.message_id)
    raise AssertionError("a consumer ended")


async def test_what_was_told_holds_through_kills(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    broker = await trio.to_thread.run_sync(start, tmp_path, address)
    told = Told()
    stop = False
    enough = trio.Event()

    async def work(number: int) -> None:
        rng = random.Random(number)
        async with trivium.connect(address) as client:
            while not stop:
                match number % 3:
                    case 0:
                        await schedule(client, told, rng)
                    case 1:
                        await half(client, told, rng, f"g{number}")
                    case _:
                        await once(client, told, rng)
                told.done += 1
                if told.done % 60 == 0:
                    enough.set()

    try:
        async with trivium.connect(address) as client:
            await client.create_topic("later", 1)
            await client.create_topic("halves", 1)
            await client.create_topic("once", 1, {"once.window.ms": "600000"})
            async with trio.open_nursery() as nursery:
                for number in range(SENDERS):
                    nursery.start_soon(work, number)
                for _ in range(KILLS):
                    enough = trio.Event()
                    await enough.wait()
                    kill(broker)
                    broker = await trio.to_thread.run_sync(start, tmp_path, address)
                enough = trio.Event()
                await enough.wait()
                stop = True
            async for waiting in client.scheduled():
                await trio.sleep(max(0, waiting.due_ms - now_ms()) / 1000)
            async for _ in client.scheduled():
                pass  # a round of the schedule: all that was due is there
            delivered = await ids_in(client, "later")
            halves = await ids_in(client, "halves")
            stored = await ids_in(client, "once")
            asked_again = {one: await client.cancel(one) for one in told.cancelled}
    finally:
        kill(broker)
    for ids in (delivered, halves, stored):
        assert len(ids) == len(set(ids)), "twice"
    cancelled = {one for one, answer in told.cancelled.items() if answer is trivium.Cancellation.CANCELLED}
    assert not cancelled & set(delivered)
    assert told.scheduled - cancelled <= set(delivered)
    assert asked_again == told.cancelled
    assert trivium.Cancellation.UNKNOWN not in told.cancelled.values()
    assert told.committed <= set(halves)
    assert not told.rolled_back & set(halves)
    assert set(told.once.values()) <= set(stored)
    assert len(stored) <= 40
