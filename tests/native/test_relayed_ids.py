"""A message's id stays where a relay copies records with their headers to another broker, as MirrorMaker 2 does."""

from __future__ import annotations

import confluent_kafka
import trio

import trivium
from tests.native.harness import Addresses, serving
from tests.patience import PATIENCE_S

COUNT = 4


def _relay(source: str, target: str, count: int) -> None:
    """Copies records as they are, by a Kafka client; in a thread."""
    reader = confluent_kafka.Consumer({"bootstrap.servers": source, "group.id": "relay"})
    writer = confluent_kafka.Producer({"bootstrap.servers": target})
    reader.assign([confluent_kafka.TopicPartition("t", 0, 0)])
    for _ in range(count):
        record = reader.poll(PATIENCE_S)
        assert record is not None
        assert record.error() is None
        writer.produce("t", record.value(), record.key(), headers=record.headers(), timestamp=record.timestamp()[1])
    assert writer.flush(PATIENCE_S) == 0
    reader.close()


async def _commits(message: trivium.HalfMessage) -> int:
    return trivium.COMMIT


async def _sent(client: trivium.Client) -> dict[bytes | None, str]:
    """One message of each kind, by value: their ids as their senders were told."""
    async with client.producer() as producer, client.half_producer("g", _commits) as halves:
        plain = await producer.send("t", b"plain", key=b"k")
        [one] = await producer.send_all([trivium.NewMessage("t", b"all")])
        later = await producer.send("t", b"later", deliver_at_ms=1)
        half = await halves.send("t", b"half")
        await half.commit()
    return {b"plain": plain.message_id, b"all": one.message_id, b"later": later.message_id, b"half": half.message_id}


async def _found(at: Addresses) -> dict[bytes | None, str]:
    async with trivium.connect(at.native) as client, client.consumer("t", start=trivium.EARLIEST) as consumer:
        messages = [await anext(consumer) for _ in range(COUNT)]
    return {message.value: message.message_id for message in messages}


async def test_ids_are_the_same_behind_a_relay() -> None:
    async with serving() as here, serving() as there:
        for at in (here, there):
            async with trivium.connect(at.native) as client:
                await client.create_topic("t", 1)
        async with trivium.connect(here.native) as client:
            sent = await _sent(client)
        assert await _found(here) == sent
        await trio.to_thread.run_sync(_relay, here.kafka, there.kafka, COUNT)
        assert await _found(there) == sent
