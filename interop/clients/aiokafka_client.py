"""aiokafka: produce with every codec and acks, groups, time, transactions, admin."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import harness
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced, TopicAlreadyExistsError
from harness import BOOTSTRAP, WAIT_S, main, same, true, unique

NOW_MS = int(time.time() * 1000)


def test(name: str, *arguments: Any) -> Callable[..., Any]:
    """As harness.test, for coroutine functions."""

    def register(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(function)
        def run(*given: Any) -> None:
            asyncio.run(asyncio.wait_for(function(*given), harness.TEST_TIMEOUT_S - 5))

        harness.test(name, *arguments)(run)
        return function

    return register


async def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        true(time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def admin() -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def new_topic(prefix: str, partitions: int = 1, **configs: str) -> str:
    name = unique(prefix)
    async with admin() as client:
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        await client.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
    return name


def producer(**settings: Any) -> Any:
    return AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **settings)


def consumer(*topics: str, **settings: Any) -> Any:
    base = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    return AIOKafkaConsumer(*topics, bootstrap_servers=BOOTSTRAP, **{**base, **settings})


async def read(client: Any, count: int, timeout_s: float = WAIT_S) -> list[Any]:
    records: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count:
        for batch in (await client.getmany(timeout_ms=200)).values():
            records += batch
        true(time.monotonic() < deadline, f"only {len(records)} of {count} records after {timeout_s:.0f} s")
    return records


async def read_topic(topic: str, count: int, partitions: int = 1, **settings: Any) -> list[Any]:
    async with consumer(**settings) as client:
        client.assign([TopicPartition(topic, number) for number in range(partitions)])
        records = await read(client, count)
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def produce(codec: str, acks: str) -> None:
    topic = await new_topic("produce")
    sent = []
    settings = {"acks": "all" if acks == "all" else int(acks), "linger_ms": 5}
    async with producer(compression_type=None if codec == "none" else codec, **settings) as client:
        for number in range(300):
            key = None if number % 7 == 0 else f"key-{number % 10}".encode()
            value = None if key and number % 11 == 5 else (f"value-{number}-".encode() * (1 + number % 30))
            headers = [("number", str(number).encode()), ("empty", b"")] if number % 2 else []
            sent.append((key, value, headers, NOW_MS + number))
            await client.send(topic, value, key, partition=0, timestamp_ms=NOW_MS + number, headers=headers)
        await client.flush()
    found = await read_topic(topic, 300)
    same([record.offset for record in found], list(range(300)), "offsets")
    same([(r.key, r.value, list(r.headers), r.timestamp) for r in found], sent, "records")


for _codec in harness.CODECS:
    for _acks in harness.ACKS:
        test(f"produce-{_codec}-acks-{_acks}", _codec, _acks)(produce)


@test("produce-idempotent")
async def idempotent() -> None:
    topic = await new_topic("idempotent", partitions=3)
    async with producer(enable_idempotence=True) as client:
        for number in range(1000):
            await client.send(topic, str(number).encode(), partition=number % 3)
    found = await read_topic(topic, 1000, partitions=3)
    numbers = [[int(r.value) for r in found if r.partition == part] for part in range(3)]
    same(numbers, [list(range(part, 1000, 3)) for part in range(3)], "order in each partition")


@test("topic-created-by-produce")
async def auto_create() -> None:
    topic = unique("auto")
    async with producer() as client:
        await client.send_and_wait(topic, b"first")
    same([record.value for record in await read_topic(topic, 1)], [b"first"], "values")


@test("message-too-large-refused")
async def too_large() -> None:
    topic = await new_topic("large", max_message_bytes="20000")
    async with producer() as client:
        try:
            await client.send_and_wait(topic, b"x" * 50_000)
        except MessageSizeTooLargeError:
            return
    raise AssertionError("nothing raised")


@test("seek-by-time")
async def seek_by_time() -> None:
    topic = await new_topic("time")
    async with producer() as client:
        for number in range(100):
            await client.send(topic, str(number).encode(), timestamp_ms=NOW_MS + number * 10, partition=0)
            if number % 9 == 0:
                await client.flush()
    place = TopicPartition(topic, 0)
    async with consumer() as reader:
        reader.assign([place])
        for asked, offset in ((0, 0), (495, 50), (500, 50), (501, 51), (990, 99)):
            found = (await reader.offsets_for_times({place: NOW_MS + asked}))[place]
            same((found.offset, found.timestamp), (offset, NOW_MS + offset * 10), f"offset at {asked} ms")
        same((await reader.offsets_for_times({place: NOW_MS + 10_000}))[place], None, "offset after the end")
        reader.seek(place, 70)
        same([int(record.value) for record in await read(reader, 30)], list(range(70, 100)), "values from there")
        same((await reader.end_offsets([place]))[place], 100, "end offset")


class Member:
    """A group member as a task: polls, commits after every poll with records, notes what it saw."""

    def __init__(self, topic: str, group: str, **settings: Any) -> None:
        self.seen: list[int] = []
        self.client = consumer(topic, group_id=group, session_timeout_ms=10_000, **settings)
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self.client.start()
        while not self._stopping:
            batches = await self.client.getmany(timeout_ms=100)
            if batches:
                await self.client.commit()
            self.seen += [int(record.value) for batch in batches.values() for record in batch]
        await self.client.stop()

    def count(self) -> int:
        if self._task.done():
            self._task.result()
        return len(self.client.assignment())

    async def stop(self) -> list[int]:
        self._stopping = True
        await self._task
        return self.seen


@test("group-rebalance-and-restart")
async def group_rebalance_and_restart() -> None:
    topic, group = await new_topic("group", partitions=4), unique("group")
    async with producer() as sender:

        async def send(first: int, last: int) -> None:
            for number in range(first, last):
                await sender.send(topic, str(number).encode(), partition=number % 4)
            await sender.flush()

        await send(0, 100)
        one = Member(topic, group)
        await eventually(lambda: len(one.seen) >= 100, "the first member to read 100 records")
        two = Member(topic, group)
        await eventually(lambda: (one.count(), two.count()) == (2, 2), "each member to get half", 30)
        await send(100, 200)
        await eventually(lambda: len(one.seen) + len(two.seen) >= 200, "both members to read 200 records")
        true(two.seen, "the second member read nothing")
        seen = await two.stop()
        await send(200, 300)
        await eventually(lambda: len(one.seen) + len(seen) >= 300, "the first member to read all partitions again", 30)
        same(sorted(await one.stop() + seen), list(range(300)), "each record seen once")
        await send(300, 350)
    again = Member(topic, group)
    await eventually(lambda: len(again.seen) >= 50, "the restarted member to go on")
    same(sorted(await again.stop()), list(range(300, 350)), "records after the restart")


@test("transaction-commit-and-abort")
async def commit_and_abort() -> None:
    topic = await new_topic("transaction", partitions=2)
    async with producer(transactional_id=unique("tx")) as client:
        for name, commit in (("a", True), ("b", False), ("c", True)):
            await client.begin_transaction()
            for number in range(10):
                await client.send_and_wait(topic, f"{name}{number}".encode(), partition=number % 2)
            await (client.commit_transaction() if commit else client.abort_transaction())
    committed = await read_topic(topic, 20, partitions=2, isolation_level="read_committed")
    same(sorted(r.value[:1] for r in committed), [b"a"] * 10 + [b"c"] * 10, "read_committed")
    same(len(await read_topic(topic, 30, partitions=2)), 30, "read_uncommitted")


@test("transaction-consume-transform-produce")
async def consume_transform_produce() -> None:
    source, sink, group = await new_topic("source"), await new_topic("sink"), unique("group")
    async with producer() as plain:
        for number in range(20):
            await plain.send_and_wait(source, str(number).encode())
    place = TopicPartition(source, 0)
    async with consumer(source, group_id=group) as reader, producer(transactional_id=unique("tx")) as client:
        records = await read(reader, 20)
        for commit, offset in ((False, None), (True, 20)):
            await client.begin_transaction()
            for record in records:
                await client.send(sink, b"done-" + record.value)
            await client.send_offsets_to_transaction({place: 20}, group)
            await (client.commit_transaction() if commit else client.abort_transaction())
            # Kafka answers EndTxn before the markers are written, and this client does not ask for stable offsets.
            for _ in range(50):
                if await reader.committed(place) == offset:
                    break
                await asyncio.sleep(0.05)
            same(await reader.committed(place), offset, f"offset after commit={commit}")
    found = await read_topic(sink, 20, isolation_level="read_committed")
    same([record.value for record in found], [f"done-{number}".encode() for number in range(20)], "transformed")


@test("transaction-fencing")
async def fencing() -> None:
    topic, name = await new_topic("fence"), unique("tx")
    old = producer(transactional_id=name)
    await old.start()
    await old.begin_transaction()
    await old.send_and_wait(topic, b"old")
    async with producer(transactional_id=name) as new:
        fenced = False
        try:
            await old.send_and_wait(topic, b"late")
            await old.commit_transaction()
        except (ProducerFenced, KafkaError):
            fenced = True
        true(fenced, "the old producer was not fenced")
        await new.begin_transaction()
        await new.send_and_wait(topic, b"new")
        await new.commit_transaction()
    found = await read_topic(topic, 1, isolation_level="read_committed")
    same([record.value for record in found], [b"new"], "committed values")


@test("admin-topics")
async def admin_topics() -> None:
    topic = unique("admin")
    async with admin() as client:
        await client.create_topics([NewTopic(topic, 3, 1)])
        again = await client.create_topics([NewTopic(topic, 3, 1)])
        same(again.topic_errors[0][1], TopicAlreadyExistsError.errno, "error of a second creation")
        await client.create_partitions({topic: NewPartitions(5)})
        await asyncio.sleep(0.2)
        described = (await client.describe_topics([topic]))[0]
        same(len(described["partitions"]), 5, "partitions")
        true(topic in await client.list_topics(), "the topic is not listed")
        await client.delete_topics([topic])
        await asyncio.sleep(0.2)
        true(topic not in await client.list_topics(), "the topic is still listed")


@test("admin-configs")
async def admin_configs() -> None:
    topic = await new_topic("configs", retention_ms="100000")
    async with admin() as client:

        async def value(name: str) -> str:
            answer = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            return next(str(entry[1]) for entry in answer[0].resources[0][4] if entry[0] == name)

        same(await value("retention.ms"), "100000", "retention.ms")
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "54321"})])
        await asyncio.sleep(0.2)
        same(await value("max.message.bytes"), "54321", "max.message.bytes")


@test("admin-groups")
async def admin_groups() -> None:
    topic, group = await new_topic("groups"), unique("group")
    async with producer() as sender:
        await sender.send_and_wait(topic, b"x")
    async with (
        consumer(topic, group_id=group, client_id="a-member") as member,
        admin() as client,
    ):
        await read(member, 1)
        await member.commit()
        described = (await client.describe_consumer_groups([group]))[0].groups[0]
        same((described[2], described[5][0][1]), ("Stable", "a-member"), "state and client id")
        true((group, "consumer") in await client.list_consumer_groups(), "the group is not listed")
        offsets = await client.list_consumer_group_offsets(group)
        same(offsets[TopicPartition(topic, 0)].offset, 1, "committed offset")


@test("admin-delete-records")
async def delete_records() -> None:
    topic = await new_topic("records")
    async with producer() as sender:
        for number in range(10):
            await sender.send_and_wait(topic, str(number).encode())
    place = TopicPartition(topic, 0)
    async with admin() as client:
        same((await client.delete_records({place: RecordsToDelete(before_offset=4)}))[place], 4, "low watermark")
    same([int(record.value) for record in await read_topic(topic, 6)], [4, 5, 6, 7, 8, 9], "values left")


if __name__ == "__main__":
    sys.exit(main())
