"""A topic is given partitions, deleted and made again while it is written and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
import trio
from confluent_kafka.admin import AdminClient, NewPartitions

import trivium
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium import topics


async def _grows(native: str, kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    async with trivium.connect(native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        await producer.send("t", b"old")
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            assert (await anext(consumer)).value == b"old"
            grown = admin.create_partitions([NewPartitions("t", 4)])["t"]
            await anyio.to_thread.run_sync(grown.result)
            while client.known_partitions("t") != 4:
                await anyio.lowlevel.checkpoint()
            sent = [await producer.send("t", b"%d" % n, key=b"key-%d" % n) for n in range(20)]
            assert {one.partition for one in sent} == {0, 1, 2, 3}
            found = [await anext(consumer) for _ in range(20)]
            assert {message.partition for message in found} == {0, 1, 2, 3}
            await consumer.commit()
            assert len(await client.committed("g")) == 4


def test_new_partitions_are_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "DISCOVERY_S", 0.01)
    with in_thread() as at:
        anyio.run(_grows, at.native, at.kafka)


async def values(consumer: trivium.Consumer, count: int) -> list[bytes | None]:
    with trio.fail_after(PATIENCE_S):
        return [(await anext(consumer)).value for _ in range(count)]


async def refill(client: trivium.Client, count: int) -> None:
    """Makes the topic again, with other messages."""
    await client.delete_topic("t")
    await client.create_topic("t", 1)
    async with client.producer() as producer:
        for number in range(count):
            await producer.send("t", b"new %d" % number)


@asynccontextmanager
async def at_five(
    start: int, partitions: int = 1
) -> AsyncIterator[tuple[trivium.Client, trivium.Client, trivium.Consumer]]:
    """Another client, and a client whose consumer has read five messages of a topic."""
    async with serving() as at, trivium.connect(at.native) as other, trivium.connect(at.native) as client:
        await other.create_topic("t", partitions)
        async with client.consumer("t", start=start) as consumer, other.producer() as producer:
            for number in range(5):
                await producer.send("t", b"old %d" % number, partition=0)
                await anext(consumer)
            yield other, client, consumer


@pytest.mark.parametrize("start", [trivium.EARLIEST, trivium.LATEST])
@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_topic_that_was_made_again_and_is_shorter_is_read_from_its_beginning(
    start: int, partitions: int
) -> None:
    async with at_five(start, partitions) as (other, _, consumer):
        await refill(other, 3)
        assert await values(consumer, 3) == [b"new 0", b"new 1", b"new 2"]
        assert consumer.positions == {("t", 0): 3}


@pytest.mark.parametrize("start", [trivium.EARLIEST, trivium.LATEST])
async def test_a_topic_that_was_made_again_and_is_longer_is_found(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_five(start) as (other, client, consumer):
        known = client.known_id("t")
        await refill(other, 7)
        monkeypatch.setattr(topics, "DISCOVERY_S", 0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.keep_partitions)
            while client.known_id("t") == known:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await values(consumer, 7) == [b"new %d" % number for number in range(7)]


async def test_a_consumer_starts_where_it_is_told_to_in_a_topic_that_was_made_again_before() -> None:
    async with at_five(trivium.EARLIEST) as (other, client, _):
        await refill(other, 3)
        async with client.consumer("t", start=trivium.LATEST) as consumer, other.producer() as producer:
            await client.look_up("t")
            await producer.send("t", b"last")
            assert await values(consumer, 1) == [b"last"]


async def test_who_is_told_that_a_topic_is_gone_goes_on_when_it_is_back() -> None:
    async with at_five(trivium.EARLIEST) as (other, _, consumer):
        await other.delete_topic("t")
        for _ in range(2):
            with pytest.raises(trivium.RequestRefused, match=r"^unknown topic"):
                await anext(consumer)
        await other.create_topic("t", 1)
        async with other.producer() as producer:
            await producer.send("t", b"new 0")
        assert await values(consumer, 1) == [b"new 0"]


async def test_an_error_of_one_topic_loses_nothing_of_another() -> None:
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await client.create_topic("a", 1)
        await client.create_topic("b", 1)
        async with client.consumer("a", "b", start=trivium.EARLIEST) as consumer:
            await producer.send("a", b"kept")
            await client.delete_topic("b")
            with pytest.raises(trivium.RequestRefused):
                await anext(consumer)
            await client.create_topic("b", 1)
            assert await values(consumer, 1) == [b"kept"]
