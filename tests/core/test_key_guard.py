"""Optimistic concurrency: what one key's last place demands, among senders of all kinds."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from core.errors import CoreError, CoreFailure
from core.key_guard import TRIES_MAX, KeyGuard
from core.store.engine import Append, Appended, CreatePartition, DeleteBefore, Outcome, append
from tests.core.transactions_driver import RecordingEngine
from trivium.record_batch import parse_header
from trivium.records import Record, build


@asynccontextmanager
async def guarded(seed: int = 0) -> AsyncIterator[tuple[RecordingEngine, KeyGuard]]:
    async with trio.open_nursery() as nursery:
        engine = RecordingEngine(seed=seed)
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1)])
        yield engine, KeyGuard(engine)
        nursery.cancel_scope.cancel()


def batch(key: bytes, count: int = 1) -> bytes:
    return build([Record(0, 0, key, b"v", []) for _ in range(count)])


async def put(guard: KeyGuard, key: bytes, last_offset: int, count: int = 1) -> tuple[int, int]:
    data = batch(key, count)
    return tuple(await guard.append(1, key, last_offset, parse_header(data), data))  # type: ignore[return-value]


async def test_each_change_demands_the_one_before() -> None:
    async with guarded() as (engine, guard):
        assert await put(guard, b"a", -1, 3) == (0, 2)
        assert await put(guard, b"a", -1) == (-1, 2)
        assert await put(guard, b"b", -1) == (3, 3)
        assert await put(guard, b"a", 2) == (4, 4)
        plain = batch(b"a")
        await append(engine, [Append(1, parse_header(plain), plain)])
        assert await put(guard, b"a", 4) == (-1, 5)
        assert await put(KeyGuard(engine), b"a", 5) == (6, 6), "one that remembers nothing finds the same"


async def test_what_retention_took_does_not_count() -> None:
    async with guarded() as (engine, guard):
        assert await put(guard, b"a", -1) == (0, 0)
        await put(guard, b"b", -1)
        await append(engine, [DeleteBefore(1, 1)])
        assert await put(guard, b"a", 0) == (-1, -1)
        assert await put(guard, b"a", -1) == (2, 2)


async def test_a_store_that_refuses_and_a_partition_that_is_gone() -> None:
    async with guarded() as (engine, guard):
        engine.refuse = Outcome.FULL
        with pytest.raises(CoreFailure) as failure:
            await put(guard, b"a", -1)
        assert failure.value.error is CoreError.STORE_FULL
        data = batch(b"a")
        with pytest.raises(CoreFailure) as failure:
            await guard.append(2, b"a", -1, parse_header(data), data)
        assert failure.value.error is CoreError.UNKNOWN_TOPIC


async def test_a_partition_written_to_without_a_pause_is_given_up() -> None:
    async with guarded() as (engine, guard):
        engine.refuse = Outcome.OFFSET_MISMATCH
        with pytest.raises(CoreFailure) as failure:
            await put(guard, b"a", -1)
        assert failure.value.error is CoreError.CONTENDED
        assert TRIES_MAX < 1_000


@pytest.mark.parametrize("seed", range(10))
async def test_model_no_change_is_built_on_anything_but_the_last(seed: int) -> None:
    rng = random.Random(seed)
    async with guarded(seed) as (engine, guard):
        log: dict[int, tuple[bytes, int]] = {}  # offset -> key, what it was built on (-2: plain)

        async def change(key: bytes, times: int) -> None:
            last = -1
            for _ in range(times):
                base, last_offset = await put(guard, key, last)
                if base >= 0:
                    log[base] = (key, last)
                last = last_offset

        async def disturb(times: int) -> None:
            for _ in range(times):
                key = rng.choice((b"a", b"b", b"other"))
                data = batch(key)

                def done(answers: list[Appended], key: bytes = key) -> None:
                    log[answers[0].base_offset] = (key, -2)

                engine.append([Append(1, parse_header(data), data)], done)
                for _ in range(rng.randint(0, 12)):
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for key in (b"a", b"a", b"b"):
                nursery.start_soon(change, key, 12)
            nursery.start_soon(disturb, 15)
        while len(log) < engine.info(1).high_watermark:
            await trio.lowlevel.checkpoint()
        last: dict[bytes, int] = {}
        for offset in range(len(log)):
            key, built_on = log[offset]
            assert built_on in (-2, last.get(key, -1)), f"{offset} is built on {built_on}"
            last[key] = offset
