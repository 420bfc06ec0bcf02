"""Traces as OpenTelemetry spans: in the message's own trace context, with who, where and what."""

from __future__ import annotations

import threading

import trio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from core.broker import Broker, BrokerSettings, TraceSettings
from core.store.engine import Append, append
from core.store.memory import MemoryEngine
from core.tracing import Actor, Event, Trace
from gateway.otel import ROOTS_MAX, Roots, export_through, stop_within
from tests.kafka.wire import batch_of
from tests.patience import PATIENCE_S
from trivium.record_batch import parse_header
from trivium.records import Record, build

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_events_are_spans_in_the_messages_context() -> None:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, BrokerSettings(traces=TraceSettings(region="eu-1")))
        await nursery.start(broker.run)
        topic = await broker.topics.create("t", 1, {"trace": "on"})
        exporter = InMemorySpanExporter()
        stop = export_through(broker.tracer, SimpleSpanProcessor(exporter))
        headers: list[tuple[str, bytes | None]] = [("traceparent", PARENT.encode()), ("trivium.id", b"one")]
        actor = Actor("mqtt", "sensor", "::1")
        for batch in (build([Record(0, 0, b"k", b"v", headers)]), batch_of(b"without a context")):
            answer = (await append(engine, [Append(topic.partitions[0], parse_header(batch), batch)]))[0]
            broker.tracer.stored(topic, 0, answer.base_offset, batch, actor)
        broker.tracer.note(Event.DELIVERED, topic, 0, 0, 1, actor, group="g", attempt=2)
        await broker.tracer.flush()
        stop()
        nursery.cancel_scope.cancel()
    stored, other, delivered = exporter.get_finished_spans()
    for span in (stored, delivered):
        assert span.parent is not None
        assert format_trace_id(span.context.trace_id) == PARENT.split("-")[1]
        assert format_span_id(span.parent.span_id) == PARENT.split("-")[2]
    assert other.parent is None
    assert (stored.name, stored.kind, delivered.name, delivered.kind) == (
        "stored t",
        SpanKind.PRODUCER,
        "delivered t",
        SpanKind.CONSUMER,
    )
    assert stored.attributes is not None
    assert dict(stored.attributes) == {
        "messaging.system": "trivium",
        "messaging.operation.type": "send",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "0",
        "messaging.client.id": "sensor",
        "messaging.batch.message_count": 1,
        "messaging.message.id": "one",
        "trivium.offset.first": 0,
        "trivium.offset.last": 0,
        "network.protocol.name": "mqtt",
        "client.address": "::1",
        "cloud.region": "eu-1",
    }
    assert delivered.attributes is not None
    assert delivered.attributes["messaging.consumer.group.name"] == "g"
    assert delivered.attributes["trivium.attempt"] == 2


async def test_events_of_messages_without_a_context_are_in_one_trace_and_of_several_in_each_of_theirs() -> None:
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, BrokerSettings())
        await nursery.start(broker.run)
        topic = await broker.topics.create("t", 1, {"trace": "on"})
        exporter = InMemorySpanExporter()
        stop = export_through(broker.tracer, SimpleSpanProcessor(exporter))
        actor = Actor("kafka", "c", "::1")
        contexts = [PARENT.replace("0af7", other).encode() for other in ("aaaa", "bbbb", "aaaa")]
        broker.tracer.stored_records(topic, 0, 0, 4, [], actor)  # none has a context
        broker.tracer.stored_records(
            topic, 0, 5, 7, [(5 + at, [("traceparent", context)]) for at, context in enumerate(contexts)], actor
        )
        broker.tracer.note(Event.DELIVERED, topic, 0, 3, 3, actor)
        broker.tracer.note(Event.ACKNOWLEDGED, topic, 0, 5, 7, actor)
        broker.tracer.note(Event.DELIVERED, topic, 0, 9, 9, actor)  # of one that was stored before this broker ran
        await broker.tracer.flush()
        stop()
        nursery.cancel_scope.cancel()
    root, stored, stored_too, delivered, acknowledged, acknowledged_too, other = exporter.get_finished_spans()
    assert root.parent is None
    assert delivered.parent is not None
    assert delivered.parent.span_id == root.context.span_id
    assert delivered.context.trace_id == root.context.trace_id
    assert [format_trace_id(one.context.trace_id)[:4] for one in (stored, stored_too)] == ["aaaa", "bbbb"]
    assert [format_trace_id(one.context.trace_id)[:4] for one in (acknowledged, acknowledged_too)] == ["aaaa", "bbbb"]
    assert other.parent is None
    assert other.context.trace_id != root.context.trace_id


def test_roots_are_bounded_and_a_topic_that_is_made_again_has_none() -> None:
    roots = Roots()
    trace = Trace(Event.STORED, 0, "t", 0, 0, 9, Actor("", "", ""))
    roots.add(trace, "first")
    assert roots.find(trace._replace(first=9, last=20)) == "first"
    assert roots.find(trace._replace(first=10, last=20)) is None
    roots.add(trace._replace(first=12, last=12), "second")
    assert roots.find(trace._replace(first=10, last=20)) == "second"
    roots.add(trace._replace(first=0, last=0), "again")
    assert roots.find(trace._replace(first=12, last=12)) is None
    for offset in range(1, ROOTS_MAX + 10):
        roots.add(trace._replace(first=offset, last=offset), offset)
    assert roots.find(trace) is None
    assert roots.find(trace._replace(first=ROOTS_MAX, last=ROOTS_MAX)) == ROOTS_MAX


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end() -> None:
    given_up = threading.Event()

    def stop() -> None:
        assert given_up.wait(PATIENCE_S)

    stop_within(stop, given_up.set, 0.05)
    assert given_up.is_set()


def test_what_is_sent_in_time_is_not_given_up() -> None:
    given_up = threading.Event()
    stop_within(lambda: None, given_up.set, PATIENCE_S)
    assert not given_up.is_set()
