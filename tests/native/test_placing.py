"""Which partition a message goes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import trivium
from tests.native.harness import serving


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
