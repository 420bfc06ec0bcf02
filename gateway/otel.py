"""Traces as OpenTelemetry spans, sent over OTLP: the extra `otel` brings the libraries.

Every event of a traced topic is a span of no length, named `stored orders` and the like, in the W3C trace context that
its message came with; of several messages one span for each context. What came without one begins a trace where it is
stored, and later events belong to that, as far back as ROOTS_MAX remembers. Spans wait in OpenTelemetry's own queue,
which drops what does not fit, and are sent by its thread.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

import structlog

from core.tracing import Event, Parent, Trace, Tracer

_KINDS = {Event.STORED: "PRODUCER", Event.DELIVERED: "CONSUMER"}
_OPERATIONS = {Event.STORED: "send", Event.DELIVERED: "receive", Event.ACKNOWLEDGED: "settle", Event.FAILED: "settle"}


log = structlog.get_logger(__name__)

STOP_S_MAX: Final = 3.0
ROOTS_MAX: Final = 100_000  # appends whose messages' later events belong to the same trace


class Roots:
    """Spans that began a trace, by the messages that they are about."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str, int], list[tuple[int, int, Any]]] = {}  # first and last offset, context; rising
        self._count = 0

    def add(self, trace: Trace, context: Any) -> None:
        known = self._spans.setdefault((trace.topic, trace.partition), [])
        if known and known[-1][0] >= trace.first:  # the topic was made again
            self._count -= len(known)
            known.clear()
        known.append((trace.first, trace.last, context))
        self._count += 1
        if self._count > ROOTS_MAX:
            longest = max(self._spans.values(), key=len)
            cut = len(longest) // 2 + 1
            del longest[:cut]
            self._count -= cut

    def find(self, trace: Trace) -> Any | None:
        """The context of the first message of the event's that has one."""
        known = self._spans.get((trace.topic, trace.partition), [])
        at = max(0, bisect_right(known, trace.first, key=lambda one: one[0]) - 1)
        if at < len(known) and known[at][1] < trace.first:
            at += 1
        return known[at][2] if at < len(known) and known[at][0] <= trace.last else None


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
    own = logging.getLogger("opentelemetry")  # else it writes beside our log
    if not any(isinstance(one, _OwnLog) for one in own.handlers):
        own.addHandler(_OwnLog())
        own.propagate = False
    exporter = OTLPSpanExporter(endpoint)
    stop = export_through(tracer, BatchSpanProcessor(exporter))
    return lambda: stop_within(stop, exporter.shutdown, STOP_S_MAX)


def stop_within(stop: Callable[[], None], give_up: Callable[[], None], limit_s: float) -> None:
    """Sends what waits, for so long: a collector that does not answer must not hold up the broker's end."""
    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    stopping.join(limit_s)
    if stopping.is_alive():
        log.warning("the last spans are lost: the collector has not taken them in time", limit_s=limit_s)
        give_up()


class _OwnLog(logging.Handler):
    """What OpenTelemetry says, in the broker's log."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("OpenTelemetry", said=record.getMessage())


def export_through(tracer: Tracer, processor: Any) -> Callable[[], None]:
    """The same through a span processor of OpenTelemetry's."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    provider = TracerProvider(shutdown_on_exit=False, resource=Resource.create({"service.name": "trivium"}))
    provider.add_span_processor(processor)
    spans = provider.get_tracer("trivium.broker")
    propagator = TraceContextTextMapPropagator()
    roots = Roots()

    def send(trace: Trace, parent: Parent | None) -> None:
        carrier = {} if parent is None else {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        context = propagator.extract(carrier)
        if not context and (root := roots.find(trace)) is not None:
            context = set_span_in_context(NonRecordingSpan(root))
        at_ns = trace.time_ms * 1_000_000
        span = spans.start_span(
            f"{trace.event.name.lower()} {trace.topic}",
            context=context,
            kind=SpanKind[_KINDS.get(trace.event, "INTERNAL")],
            attributes=_attributes(trace),
            start_time=at_ns,
        )
        span.end(at_ns)
        if not context and trace.event is Event.STORED:
            roots.add(trace, span.get_span_context())

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
