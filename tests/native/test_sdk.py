"""The SDK against a broker over real sockets, on trio, on asyncio and blocking, and beside Kafka's clients."""

from __future__ import annotations

import warnings
from typing import Any

import anyio
import pytest
import trio

import trivium
import trivium.blocking
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium.frame_reader import FrameReader
from trivium.reconnecting import parse_addresses

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python's own, when it is imported
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

PARTITIONS = 4
HEADERS = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]


async def produce_and_consume(address: str) -> None:
    async with trivium.connect(address) as client:
        await client.create_topic("orders", PARTITIONS)
        async with client.producer(codec=trivium.Codec.ZSTD) as producer, anyio.create_task_group() as tasks:

            async def send(number: int) -> None:
                await producer.send("orders", b"%d" % number, key=b"k%d" % (number % 7), headers=HEADERS)

            for number in range(200):
                tasks.start_soon(send, number)
        seen: dict[int, list[int]] = {}
        values = set()
        async with client.consumer("orders", group="g", start=trivium.EARLIEST) as consumer:
            async for message in consumer:
                seen.setdefault(message.partition, []).append(message.offset)
                values.add(message.value)
                assert message.headers == HEADERS
                if len(values) == 200:
                    break
            await consumer.commit()
        assert values == {b"%d" % number for number in range(200)}
        assert all(offsets == list(range(len(offsets))) for offsets in seen.values())
        ends = {("orders", partition): len(offsets) for partition, offsets in seen.items()}
        kept = await client.committed("g")
        assert {where: offset for where, offset in kept.items() if offset} == ends


async def test_produce_and_consume_on_trio() -> None:
    async with serving() as addresses:
        await produce_and_consume(addresses.native)


def test_produce_and_consume_on_asyncio() -> None:
    with in_thread() as addresses:
        anyio.run(produce_and_consume, addresses.native, backend="asyncio")


def test_blocking_produce_and_consume() -> None:
    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:
        client.create_topic("t", 1)
        with client.producer() as producer:
            assert [producer.send("t", b"%d" % number).offset for number in range(3)] == [0, 1, 2]
        with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert [next(consumer).value for _ in range(3)] == [b"0", b"1", b"2"]


async def test_a_group_goes_on_where_it_committed() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        for number in range(5):
            await producer.send("t", b"%d" % number)
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            assert [(await anext(consumer)).value for _ in range(2)] == [b"0", b"1"]
            await consumer.commit()
        async with client.consumer("t", group="g", start=trivium.EARLIEST) as consumer:
            assert (await anext(consumer)).value == b"2"
            consumer.seek("t", 0, 1)
            assert (await anext(consumer)).value == b"1"


async def test_a_waiting_consumer_is_woken_by_a_record_and_ends_when_cancelled() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        async with client.consumer("t") as consumer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(producer.send, "t", b"late")
                assert (await anext(consumer)).value == b"late"
            with trio.move_on_after(0.05) as scope:
                await anext(consumer)
            assert scope.cancelled_caught
            await producer.send("t", b"after")
            assert (await anext(consumer)).value == b"after"


async def test_concurrent_sends_are_joined_and_all_get_their_own_offset() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        offsets: list[int] = []

        async def send() -> None:
            offsets.append((await producer.send("t", b"x" * 100)).offset)

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(send)
        assert sorted(offsets) == list(range(500))


async def test_topics_are_made_listed_described_and_deleted() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 3, {"retention.ms": "1000"})
        assert await client.describe_topic("t") == trivium.TopicDescription("t", 3, {"retention.ms": "1000"})
        assert [topic.name for topic in await client.topics()] == ["t"]
        with pytest.raises(trivium.RequestRefused) as refused:
            await client.create_topic("t", 3)
        assert refused.value.code == trivium.ErrorCode.TOPIC_EXISTS
        await client.delete_topic("t")
        with pytest.raises(trivium.RequestRefused) as refused:
            await client.describe_topic("t")
        assert refused.value.code == trivium.ErrorCode.UNKNOWN_TOPIC


async def test_a_refused_record_fails_alone_and_the_next_goes_through() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("small", 1, {"max.message.bytes": "500"})
        await producer.send("small", b"one")
        with pytest.raises(trivium.RequestRefused) as refused:
            await producer.send("small", bytes(1000))
        assert refused.value.code == trivium.ErrorCode.BATCH_TOO_LARGE
        assert (await producer.send("small", b"two")).offset == 1


async def test_offsets_by_time() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        for number in range(3):
            await producer.send("t", b"", timestamp_ms=1_000 * (number + 1))
        assert await client.find_offsets("t", 1_500) == {0: 1}
        assert await client.find_offsets("t", trivium.EARLIEST) == {0: 0}
        assert await client.find_offsets("t", trivium.LATEST) == {0: 3}
        assert await client.find_offsets("t", 9_000) == {0: 3}


async def test_no_broker_is_a_time_out_that_names_the_address() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    async with trivium.connect(address, request_timeout_s=0.2) as client:
        with pytest.raises(trivium.RequestTimedOut, match=address):
            await client.topics()


async def test_a_time_out_says_why_no_broker_could_be_used() -> None:
    async with serving() as addresses, trivium.connect(addresses.kafka, request_timeout_s=0.2) as client:
        with pytest.raises(trivium.RequestTimedOut, match=rf"; {addresses.kafka}: "):
            await client.topics()


@pytest.mark.parametrize(
    "options",
    [
        {"timestamp_ms": 2**70},
        {"timestamp_ms": -2},
        {"deliver_at_ms": -1},
        {"deliver_at_ms": 10**15},
        {"ttl_s": 0},
        {"headers": {"\udcff": b""}},
    ],
)
async def test_what_no_batch_can_hold_fails_alone(options: dict[str, Any]) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        other = producer.post("t", b"other")
        with pytest.raises(ValueError):
            producer.post("t", b"1", **options)
        assert (await other.wait()).offset == 0


def test_public_names_are_listed() -> None:
    assert {"connect", "QueueMessage"} <= set(dir(trivium))
    assert [getattr(trivium, name).__name__ for name in ("QueueMessage", "Message")] == ["Message", "Message"]
    assert str(trivium.Cancellation.CANCELLED) == "Cancellation.CANCELLED"


def test_native_and_kafka_agree_on_keys_order_and_headers() -> None:
    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:
        client.create_topic("t", PARTITIONS)
        keys = [b"key-%d" % number for number in range(20)]
        with client.producer(codec=trivium.Codec.LZ4) as producer:
            places = {key: producer.send("t", b"native", key=key, headers=HEADERS).partition for key in keys}
        kafka = KafkaProducer(bootstrap_servers=addresses.kafka)
        for key in keys:
            sent = kafka.send("t", key=key, value=b"kafka", headers=[("h", b"v")]).get(PATIENCE_S)
            assert sent.partition == places[key]
        kafka.close()
        read = KafkaConsumer(bootstrap_servers=addresses.kafka, auto_offset_reset="earliest")
        read.assign([TopicPartition("t", partition) for partition in range(PARTITIONS)])
        by_key: dict[bytes, list[bytes]] = {}
        for _ in range(2 * len(keys)):
            record = next(read)
            by_key.setdefault(record.key, []).append(record.value)
            assert record.partition == places[record.key]
            headers = list(map(tuple, record.headers))
            if record.value == b"native":
                assert headers.pop(0)[0] == "trivium.id"
            assert headers == (HEADERS if record.value == b"native" else [("h", b"v")])
        read.close()
        assert by_key == {key: [b"native", b"kafka"] for key in keys}
        with client.consumer("t", start=trivium.EARLIEST) as consumer:
            messages = [next(consumer) for _ in range(2 * len(keys))]
        assert {m.key for m in messages if m.value == b"kafka" and m.headers == [("h", b"v")]} == set(keys)


class Relay:
    """Stands between client and broker, and cuts the connection instead of passing on the answer to a chosen send."""

    def __init__(self, target: str, cut_reply: int) -> None:
        self.target = target
        self.cut_reply = cut_reply
        self.connections = 0
        self.sends = 0

    async def serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        host, port = self.target.split(":")
        broker = await trio.open_tcp_stream(host, int(port))
        async with client, broker, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, broker, nursery.cancel_scope)
            reader = FrameReader(1 << 20)
            while chunk := await broker.receive_some(65_536):
                self.sends += sum(frame.kind == 0x86 for frame in reader.receive(bytes(chunk)))
                if self.sends == self.cut_reply:
                    self.sends += 1
                    break
                await client.send_all(chunk)
            nursery.cancel_scope.cancel()

    async def _forward(self, client: trio.SocketStream, broker: trio.SocketStream, scope: trio.CancelScope) -> None:
        while chunk := await client.receive_some(65_536):
            await broker.send_all(chunk)
        scope.cancel()


async def test_a_lost_answer_is_asked_for_again_and_the_record_is_stored_once() -> None:
    async with serving() as addresses, trio.open_nursery() as nursery:
        relay = Relay(addresses.native, cut_reply=2)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trivium.connect(address) as client, client.producer() as producer:
            await client.create_topic("t", 1)
            assert [(await producer.send("t", b"x")).offset for _ in range(4)] == [0, 1, 2, 3]
            assert await client.find_offsets("t", trivium.LATEST) == {0: 4}
        assert relay.connections == 2
        nursery.cancel_scope.cancel()


def test_addresses_are_parsed_or_refused_by_name() -> None:
    assert parse_addresses("a:1, [::1]:2,b,[::2]") == [("a", 1), ("::1", 2), ("b", 9876), ("::2", 9876)]
    for wrong in ("", "a:", "a:0", "a:70000", "a:b", ":1", "a:1,,b:2"):
        with pytest.raises(ValueError, match="is no address"):
            parse_addresses(wrong)
