"""A topic is given partitions while it is written and read."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

import trivium
from tests.native.harness import in_thread
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
