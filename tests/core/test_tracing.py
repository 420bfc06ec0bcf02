"""The tracer writes what it was told behind the back of those it watches; who asks waits for all of it."""

from __future__ import annotations

import trio
import trio.lowlevel

from core.store.memory import MemoryEngine
from core.topics import Topics
from core.tracing import Actor, Tracer


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
