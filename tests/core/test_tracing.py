"""The tracer writes what it was told behind the back of those it watches; who asks waits for all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

import pytest
import trio
import trio.lowlevel

from core.store.memory import MemoryEngine
from core.topics import Topic, Topics
from core.trace_search import TraceSearch
from core.tracing import Actor, Event, Trace, Tracer

ACTOR = Actor("kafka", "c", "h")


async def test_a_flush_waits_for_the_one_that_is_under_way() -> None:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        topics = Topics(engine)
        await topics.load()
        traces = await topics.ensure("__trivium_traces", 1)
        topic = await topics.ensure("t", 1, {"trace": "on"})
        tracer = Tracer(engine, topics, traces.partitions[0])
        tracer.stored_records(topic, 0, 0, 0, [], Actor("kafka", "c", "h"))
        nursery.start_soon(tracer.flush)
        while tracer._waiting:  # until it has taken the event, and waits for the store
            await trio.lowlevel.checkpoint()
        await tracer.flush()
        assert engine.info(traces.partitions[0]).high_watermark == 1
        nursery.cancel_scope.cancel()


class Traced(NamedTuple):
    tracer: Tracer
    search: TraceSearch
    topic: Topic


@asynccontextmanager
async def traced() -> AsyncIterator[Traced]:
    """A topic `t` that is traced, by a clock that goes on by a millisecond with each event."""
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        topics = Topics(engine)
        await topics.load()
        traces = await topics.ensure("__trivium_traces", 1)
        topic = await topics.ensure("t", 1, {"trace": "on"})
        tracer = Tracer(engine, topics, traces.partitions[0], wall_ms=count(1).__next__)
        yield Traced(tracer, TraceSearch(engine, topics, traces.partitions[0]), topic)
        nursery.cancel_scope.cancel()


async def test_what_was_delivered_before_it_was_said_to_be_stored_comes_behind_that() -> None:
    heard: list[Trace] = []
    async with traced() as (tracer, search, topic):
        tracer.listeners.append(lambda trace, _: heard.append(trace))
        tracer.stored_records(topic, 0, 0, 4, [], ACTOR)
        for offset in (2, 5, 7):
            tracer.note(Event.DELIVERED, topic, 0, offset, offset, ACTOR)
        tracer.stored_records(topic, 0, 5, 5, [], ACTOR)
        tracer.note(Event.ACKNOWLEDGED, topic, 0, 5, 5, ACTOR)
        tracer.stored_records(topic, 0, 6, 8, [], ACTOR)
        await tracer.flush()
        found = (await search.by_time(0, 100)).traces
    assert [(one.event, one.first, one.time_ms) for one in found] == [
        (Event.STORED, 0, 1),
        (Event.DELIVERED, 2, 2),
        (Event.STORED, 5, 5),
        (Event.DELIVERED, 5, 5),
        (Event.ACKNOWLEDGED, 5, 6),
        (Event.STORED, 6, 7),
        (Event.DELIVERED, 7, 7),
    ]
    assert [one._replace(region="") for one in heard] == found


async def test_a_listing_in_parts_leaves_none_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.trace_search.FOUND_MAX", 4)
    async with traced() as (tracer, search, topic):
        for offset in range(23):
            tracer.stored_records(topic, 0, offset, offset, [], ACTOR)
        await tracer.flush()
        found: list[int] = []
        from_ms, parts = 0, 0
        while from_ms >= 0:
            part = await search.by_time(from_ms, 1_000)
            found += [one.first for one in part.traces if part.next_ms < 0 or one.time_ms < part.next_ms]
            from_ms, parts = part.next_ms, parts + 1
    assert found == list(range(23))
    assert parts > 3
