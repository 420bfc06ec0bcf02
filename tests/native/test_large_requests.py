"""Requests that are too large for the broker, and what many large messages share."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import trivium
from tests.native.harness import Addresses, serving
from trivium.connection import Connection
from trivium.frames.sending import Send


def small() -> AbstractAsyncContextManager[Addresses]:
    """A broker that takes frames of 1 MiB."""
    return serving(topics={"message_bytes_max": 900_000}, limits={"request_bytes_max": 1024 * 1024})


async def test_what_is_too_large_for_the_broker_is_refused_and_nothing_else_suffers() -> None:
    async with small() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await producer.send("t", b"before")
        connection = await client.connection()
        for send in (producer.send, producer.send_one_way):
            with pytest.raises(trivium.RequestRefused, match="the broker takes") as refused:
                await send("t", bytes(2 * 1024 * 1024))
            assert refused.value.code == trivium.ErrorCode.BATCH_TOO_LARGE
        assert await client.connection() is connection
        assert (await producer.send("t", b"after")).offset == 1


async def test_a_request_of_many_messages_is_no_larger_than_the_broker_takes() -> None:
    async with small() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await client.create_topic("t", 8)
        await client.partitions("t")
        posted = [producer.post("t", bytes(100_000), partition=number % 8) for number in range(40)]
        for one in posted:
            await one.wait()
        assert sum((await client.find_offsets("t", trivium.LATEST)).values()) == 40


async def test_partitions_for_which_a_request_had_no_room_come_first_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trivium.producer.REQUEST_BYTES_MAX", 800)
    monkeypatch.setattr("trivium.producer.BATCH_BYTES_MAX", 800)
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await client.create_topic("t", 2)
        await client.partitions("t")
        request = Connection.request
        partitions: list[int] = []

        async def seen(self: Connection, message: Any, *rest: Any) -> Any:
            if isinstance(message, Send):
                partitions.extend(entry.partition for entry in message.entries)
            return await request(self, message, *rest)

        monkeypatch.setattr(Connection, "request", seen)
        posted = [producer.post("t", bytes(900), partition=partition) for partition in (0, 0, 0, 1)]
        for one in posted:
            await one.wait()
        assert partitions == [0, 1, 0, 0]
