"""Traces as OpenTelemetry spans, sent over OTLP: the extra `otel` brings the libraries.

Every event of a traced topic is a span of no length, named `stored orders` and the like, in the W3C trace context that
its message came with; a message without one begins a trace of its own. Spans wait in OpenTelemetry's own queue, which
drops what does not fit, and are sent by its thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.tracing import Event, Parent, Trace, Tracer

_KINDS = {Event.STORED: "PRODUCER", Event.DELIVERED: "CONSUMER"}
_OPERATIONS = {Event.STORED: "send", Event.DELIVERED: "receive", Event.ACKNOWLEDGED: "settle", Event.FAILED: "settle"}


class Unavailable(Exception):
    """The libraries are not installed."""


def export(tracer: Tracer, endpoint: str) -> Callable[[], None]:
    """Sends spans to an OTLP endpoint (`http://host:4318/v1/traces`); returns what ends that. Raises Unavailable."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            f"tracing.otlp_endpoint needs OpenTelemetry: pip install 'trivium-broker[otel]' ({error})"
        ) from None
    return export_through(tracer, BatchSpanProcessor(OTLPSpanExporter(endpoint)))


def export_through(tracer: Tracer, processor: Any) -> Callable[[], None]:
    """The same through a span processor of OpenTelemetry's."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    provider = TracerProvider(resource=Resource.create({"service.name": "trivium"}))
    provider.add_span_processor(processor)
    spans = provider.get_tracer("trivium.broker")
    propagator = TraceContextTextMapPropagator()

    def send(trace: Trace, parent: Parent | None) -> None:
        carrier = {} if parent is None else {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        at_ns = trace.time_ms * 1_000_000
        span = spans.start_span(
            f"{trace.event.name.lower()} {trace.topic}",
            context=propagator.extract(carrier),
            kind=SpanKind[_KINDS.get(trace.event, "INTERNAL")],
            attributes=_attributes(trace),
            start_time=at_ns,
        )
        span.end(at_ns)

    tracer.listeners.append(send)

    def stop() -> None:
        tracer.listeners.remove(send)
        provider.shutdown()

    return stop


def _attributes(trace: Trace) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.system": "trivium",
        "messaging.operation.type": _OPERATIONS.get(trace.event, "other"),
        "messaging.destination.name": trace.topic,
        "messaging.destination.partition.id": str(trace.partition),
        "messaging.client.id": trace.actor.client,
        "messaging.batch.message_count": trace.last - trace.first + 1,
        "trivium.offset.first": trace.first,
        "trivium.offset.last": trace.last,
        "network.protocol.name": trace.actor.protocol,
        "client.address": trace.actor.host,
    }
    optional = {"messaging.consumer.group.name": trace.group, "cloud.region": trace.region}
    found.update({name: text for name, text in optional.items() if text})
    if len(trace.ids) == 1:
        found["messaging.message.id"] = trace.ids[0][1]
    if trace.attempt:
        found["trivium.attempt"] = trace.attempt
    return found
