"""Which partition a message goes to, and what becomes of messages whose topic is not known yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trivium
from tests.native.harness import serving
from tests.patience import PATIENCE_S


async def test_a_partition_that_a_topic_has_not_is_refused_at_once() -> None:
    async def check(_: trivium.HalfMessage) -> int:
        return trivium.DO_NOT_KNOW

    async with serving() as at, trivium.connect(at.native) as client:
        await client.create_topic("t", 2)
        async with (
            client.producer() as producer,
            client.half_producer("g", check) as halves,
            client.transactional("id") as sender,
            sender.transaction() as txn,
        ):
            sends: list[Callable[..., Awaitable[object]]] = [
                producer.send,
                producer.send_one_way,
                halves.send,
                txn.send,
            ]
            for send in sends:
                for partition in (-1, 2):
                    with pytest.raises(ValueError, match="has partitions 0 to 1"):
                        await send("t", b"x", partition=partition)
            await txn.send("t", b"x", partition=1)
        assert await client.find_offsets("t", trivium.LATEST) == {0: 0, 1: 2}


class Unreachable:
    """In place of a client's `partitions`: every question waits, then fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail = trio.Event()

    async def partitions(self, topic: str, *, create: bool = False) -> int:
        self.asked.append(topic)
        await self.fail.wait()
        raise trivium.RequestTimedOut("nobody answers")


async def test_a_topic_that_cannot_be_asked_for_is_asked_for_once_for_all_its_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        broker = Unreachable()
        monkeypatch.setattr(client, "partitions", broker.partitions)
        posted = [producer.post(topic, b"x") for topic in ("a", "b", "a", "b", "a")]
        await trio.testing.wait_all_tasks_blocked()
        broker.fail.set()
        for one in posted:
            with pytest.raises(trivium.RequestTimedOut):
                await one.wait()
        assert broker.asked == ["a", "b"]
        monkeypatch.undo()
        assert (await producer.send("a", b"y")).offset == 0


async def test_a_producer_that_is_cancelled_while_it_asks_for_topics_fails_all_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as at, trivium.connect(at.native) as client:
        monkeypatch.setattr(client, "partitions", Unreachable().partitions)
        with trio.CancelScope() as scope:
            async with client.producer() as producer:
                posted = [producer.post(topic, b"x") for topic in ("a", "a", "b")]
                await trio.testing.wait_all_tasks_blocked()
                posted.append(producer.post("c", b"x"))
                scope.cancel()
                await trio.sleep_forever()
        for one in posted:
            with trio.fail_after(PATIENCE_S), pytest.raises(trivium.Closed):
                await one.wait()


async def test_who_waits_for_room_goes_on_when_what_took_it_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serving() as at,
        trivium.connect(at.native) as client,
        client.producer(buffer_bytes_max=1_000) as producer,
    ):
        await client.create_topic("known", 1)
        await client.partitions("known")
        broker = Unreachable()
        monkeypatch.setattr(client, "partitions", broker.partitions)
        posted = producer.post("a", bytes(900))
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(producer.send, "known", bytes(900))
                await trio.testing.wait_all_tasks_blocked()
                broker.fail.set()
                with pytest.raises(trivium.RequestTimedOut):
                    await posted.wait()
