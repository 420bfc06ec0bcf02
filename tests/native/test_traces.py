"""Traces: who stored, got and acknowledged messages of traced topics, over the native and Kafka's protocol."""

from __future__ import annotations

import time
import warnings
from typing import Any

import anyio
import pytest
import trio
from click.testing import CliRunner

import trivium
import trivium.blocking
from gateway.cli import main
from tests.native.harness import in_thread, serving
from trivium.errors import ErrorCode, RequestRefused
from trivium.frames.traces import TraceEntry

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python's own, when it is imported
    from kafka import KafkaConsumer, KafkaProducer

STORED, DELIVERED, ACKNOWLEDGED, FAILED, SCHEDULED, DEAD_LETTER = 1, 2, 3, 4, 5, 6


async def found(client: trivium.Client, **wanted: Any) -> list[TraceEntry]:
    return [one async for one in client.traces(**wanted)]


async def test_a_message_is_traced_from_the_producer_to_the_commit() -> None:
    async with (
        serving(tracing={"region": "eu-1"}) as addresses,
        trivium.connect(addresses.native, client_id="me") as client,
        client.producer() as producer,
    ):
        await client.create_topic("t", 1, {"trace": "on", "key.index": "true"})
        await client.create_topic("silent", 1)
        sent = []
        for number in range(3):
            sent.append(await producer.send("t", b"%d" % number, key=b"k%d" % number))
            await producer.send("silent", b"x")
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            for _ in range(3):
                await anext(consumer)
            await consumer.commit()
        everything = await found(client)
        assert {one.topic for one in everything} == {"t"}
        assert {(one.protocol, one.client, one.host, one.region) for one in everything} == {
            ("native", "me", "127.0.0.1", "eu-1")
        }
        events = [(one.event, one.first, one.last, one.group) for one in everything]
        assert events[:3] == [(STORED, 0, 0, ""), (STORED, 1, 1, ""), (STORED, 2, 2, "")]
        assert (DELIVERED, 0, 2, "") in events
        assert events[-1] == (ACKNOWLEDGED, 0, 2, "g")
        for wanted in (
            {"message_id": sent[1].message_id},
            {"topic": "t", "key": b"k1"},
            {"topic": "t", "partition": 0, "offset": 1},
        ):
            one = await found(client, **wanted)
            assert [trace.event for trace in one] == [STORED, DELIVERED, ACKNOWLEDGED]
            assert one[0].first == 1
        middle_ms = everything[1].time_ms
        assert await found(client, since_ms=middle_ms) == [one for one in everything if one.time_ms >= middle_ms]
        assert await found(client, until_ms=middle_ms - 1) == [one for one in everything if one.time_ms < middle_ms]
        with pytest.raises(RequestRefused) as caught:
            await found(client, message_id="nobody")
        assert caught.value.code == ErrorCode.UNKNOWN_MESSAGE


async def test_traces_outlive_their_topic() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"trace": "on"})
        await producer.send("t", b"x")
        await client.delete_topic("t")
        assert [(one.event, one.topic) for one in await found(client, topic="t")] == [(STORED, "t")]
        assert len(await found(client, topic="t", partition=0, offset=0)) == 1
        assert await found(client, topic="never") == []
        with pytest.raises(RequestRefused) as caught:
            await found(client, topic="t", key=b"k")
        assert caught.value.code == ErrorCode.UNKNOWN_TOPIC


async def test_only_marked_messages_of_a_topic_that_asks_for_marks() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"trace": "marked"})
        for number in range(4):
            headers = {"trivium.trace": b""} if number == 2 else {}
            await producer.send("t", b"%d" % number, headers=headers)
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            for number in range(4):
                await anext(consumer)
                if number in (1, 3):
                    await consumer.commit()
        everything = await found(client)
        assert [(one.event, one.first) for one in everything if one.event == STORED] == [(STORED, 2)]
        assert [(one.first, one.last) for one in everything if one.event == ACKNOWLEDGED] == [(2, 3)]
        assert all(one.first <= 2 <= one.last for one in everything)


async def test_tracing_begins_and_ends_with_the_topics_config() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        await producer.send("t", b"before")
        assert await found(client) == []
        await client.delete_topic("t")
        await client.create_topic("t", 1, {"trace": "on"})
        await producer.send("t", b"after")
        assert [one.event for one in await found(client)] == [STORED]


async def test_a_queue_groups_deliveries_and_what_becomes_of_them() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"trace": "on"})
        await producer.send("t", b"x")
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            message = await messages.take()
            assert message is not None
            await messages.nack(message, delay_ms=0)
            again = await messages.take()
            assert again is not None
            await messages.ack(again)
        events = [(one.event, one.group, one.attempt) for one in await found(client)]
        first, second = [(DELIVERED, "g", 1), (FAILED, "g", 0)], [(DELIVERED, "g", 2), (ACKNOWLEDGED, "g", 0)]
        assert sorted(events) == sorted([(STORED, "", 0), *first, *second])  # a failure is told when it is durable


async def test_a_scheduled_message_is_traced_up_to_its_delivery() -> None:
    async with (
        serving() as addresses,
        trivium.connect(addresses.native, client_id="me") as client,
        client.producer() as producer,
        client.subscribe("t", group="g") as messages,
    ):
        await client.delete_topic("t")
        await client.create_topic("t", 1, {"trace": "on"})
        due_ms = time.time_ns() // 1_000_000 + 1_000
        batch = [
            producer.post("t", b"now"),
            producer.post("t", b"later", deliver_at_ms=due_ms),
            producer.post("t", b"now"),
        ]
        sent = [await one.wait() for one in batch]
        while (message := await messages.take()) is None or message.value != b"later":
            pass
        await messages.ack(message)
        events = [(one.event, one.first, one.client) for one in await found(client, message_id=sent[1].message_id)]
        assert sorted(events) == [
            (STORED, 3, ""),
            (DELIVERED, 3, "me"),
            (ACKNOWLEDGED, 3, "me"),
            (SCHEDULED, 1, "me"),
        ]
        stored = [(one.first, one.last) for one in await found(client, topic="t") if one.event == STORED]
        assert sorted(stored) == [(0, 0), (2, 2), (3, 3)]  # none of the offset that it left empty


async def test_a_half_message_is_traced_when_it_is_committed() -> None:
    async def check(_: trivium.HalfMessage) -> int:
        return trivium.COMMIT

    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1, {"trace": "on"})
        async with client.half_producer("p", check) as producer:
            async with producer.half("t", b"x") as half:
                assert await found(client) == []
            assert [one.event for one in await found(client, message_id=half.message_id)] == [STORED]


async def test_a_dead_letter_is_traced() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"trace": "on"})
        async with client.subscribe("t", group="g") as messages:
            sent = await producer.send("t", b"x")
            message = await messages.take()
            assert message is not None
            await messages.reject(message, "no")
            assert await client.dead_letters("g", wait_ms=60_000)
        last = (await found(client, message_id=sent.message_id))[-1]
        assert (last.event, last.group, last.attempt) == (DEAD_LETTER, "g", 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")
def test_a_message_whose_id_the_broker_gave_is_found_by_it() -> None:
    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:
        client.create_topic("t", 1, {"trace": "on"})
        producer = KafkaProducer(bootstrap_servers=addresses.kafka)
        producer.send("t", b"connected").get(30)
        due_ms = time.time_ns() // 1_000_000 + 1_000
        producer.send("t", b"x", headers=[("deliver-at", b"%d" % due_ms)]).get(30)
        producer.close()
        with client.consumer("t", start=trivium.EARLIEST) as consumer:
            message = next(one for one in consumer if one.value == b"x")
        assert message.message_id
        events = [(one.event, one.first) for one in client.traces(message_id=message.message_id)]
        assert events == [(STORED, message.offset), (DELIVERED, message.offset)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")
def test_kafka_clients_and_the_command_line() -> None:
    with in_thread(groups={"initial_rebalance_delay_ms": 0}) as addresses:
        with trivium.blocking.connect(addresses.native) as client:
            client.create_topic("t", 1, {"trace": "on"})
        producer = KafkaProducer(bootstrap_servers=addresses.kafka, client_id="maker", compression_type="gzip")
        parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = [("traceparent", parent), ("trivium.id", b"one")]
        producer.send("t", b"x", headers=headers).get(30)
        producer.close()
        consumer = KafkaConsumer(
            "t",
            bootstrap_servers=addresses.kafka,
            group_id="g",
            client_id="reader",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        message = next(consumer)
        assert dict(message.headers)["traceparent"] == parent
        consumer.commit()
        consumer.close()
        result = CliRunner().invoke(main, ["trace", "one", "--broker", addresses.native])
        lines = [line.split()[1:] for line in result.output.splitlines()]
        host = "127.0.0.1"
        assert lines == [
            ["stored", "t", "0", "0", "-", "-", "kafka", "maker", host, "-"],
            ["delivered", "t", "0", "0", "-", "-", "kafka", "reader", host, "-"],
            ["acknowledged", "t", "0", "0", "g", "-", "kafka", "reader", host, "-"],
        ]
        assert CliRunner().invoke(main, ["trace", "--key", "k", "--broker", addresses.native]).exit_code == 2
        assert CliRunner().invoke(main, ["trace", "nobody", "--broker", addresses.native]).exit_code == 1
        for more in (["--topic", "t"], ["--topic", "t", "--key", "k"]):
            assert CliRunner().invoke(main, ["trace", "one", *more, "--broker", addresses.native]).exit_code == 2
        wrong = CliRunner().invoke(main, ["trace", "one", "--broker", "http://localhost:1"])
        assert (wrong.exit_code, wrong.output.count("\n")) == (1, 1)
        both = ["trace", "--topic", "t", "--key", "k", "--place", "0:0", "--broker", addresses.native]
        assert CliRunner().invoke(main, both).exit_code == 2


async def test_overload_is_counted_and_said() -> None:
    from core import tracing

    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"trace": "on"})
        kept, tracing.EVENTS_MAX = tracing.EVENTS_MAX, 5  # type: ignore[misc]
        try:
            async with anyio.create_task_group():
                for _ in range(20):
                    await producer.send("t", b"x")
        finally:
            tracing.EVENTS_MAX = kept  # type: ignore[misc]
        await trio.testing.wait_all_tasks_blocked()
        everything = await found(client)
        stored = sum(one.event == STORED for one in everything)
        lost = sum(one.last for one in everything if one.event == 9)
        assert stored + lost == 20
        assert lost > 0
