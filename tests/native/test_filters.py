"""Pulls with a filter: what passes comes, positions go on over the rest, mistakes are refused when one subscribes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

import trivium
from core.store.engine import Read
from gateway.protocols.native.context import SELECTING_MAX, Context
from gateway.protocols.native.handlers_pull import SELECT_BYTES_MAX, _selected
from tests.native.harness import serving
from tests.patience import PATIENCE_S
from trivium.errors import ErrorCode, RequestRefused


async def fill(client: trivium.Client, count: int, codec: trivium.Codec = trivium.Codec.NONE) -> None:
    async with client.producer(codec=codec) as producer:
        for number in range(count):
            tag = b"even" if number % 2 == 0 else b"odd"
            headers = [("n", b"%d" % number), ("trivium.tag", tag)]
            await producer.send("t", b"%d" % number, headers=headers)


@pytest.mark.parametrize("codec", [trivium.Codec.NONE, trivium.Codec.ZSTD])
async def test_what_passes_comes_and_positions_go_on(codec: trivium.Codec) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1)
        await fill(client, 20, codec)
        async with client.consumer("t", group="g", start=trivium.EARLIEST, filter="n BETWEEN 5 AND 7") as consumer:
            found = [await anext(consumer) for _ in range(3)]
            assert [(one.value, one.offset) for one in found] == [(b"5", 5), (b"6", 6), (b"7", 7)]
            assert consumer.positions == {("t", 0): 8}
        async with client.consumer("t", start=trivium.EARLIEST, tags="odd") as consumer:
            assert [(await anext(consumer)).value for _ in range(10)] == [b"%d" % n for n in range(1, 20, 2)]


async def test_one_that_waits_gets_the_next_that_passes() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1)
        async with client.consumer("t", filter="n = 7") as consumer:
            await fill(client, 10)
            assert (await anext(consumer)).value == b"7"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"filter": "n ="}, "at character 4"), ({"tags": "||"}, "no tag"), ({"filter": "(" * 100}, "nested")],
)
async def test_a_mistake_is_refused_when_one_subscribes(options: dict[str, str], words: str) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1)
        with pytest.raises(RequestRefused, match=words) as caught:
            async with client.consumer("t", filter=options.get("filter"), tags=options.get("tags")):
                pass
        assert caught.value.code == ErrorCode.INVALID_FILTER


async def test_both_are_refused() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        with pytest.raises(ValueError, match="one of filter, tags and key"):
            async with client.consumer("t", filter="a = 1", tags="b"):
                pass


async def test_few_threads_look_through_messages_for_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    pulls = 5

    def select(buffers: list[memoryview], _: object) -> list[memoryview]:
        assert go_on.wait(PATIENCE_S)
        return buffers

    monkeypatch.setattr("gateway.protocols.native.handlers_pull.select", select)
    broker: Any = None
    context = Context(broker, 0)
    read = Read([], SELECT_BYTES_MAX + 1, 0, 0, 0, [])
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(pulls):
                nursery.start_soon(_selected, context, read, "sql:a = 1")
            while (found := context.selecting.statistics()).borrowed_tokens + found.tasks_waiting < pulls:
                await trio.lowlevel.checkpoint()
            assert (found.borrowed_tokens, found.tasks_waiting) == (SELECTING_MAX, pulls - SELECTING_MAX)
            go_on.set()
