"""Traces: what happened to messages, found by time, place, id or key; and this protocol's own events."""

from __future__ import annotations

from core.errors import CoreError, CoreFailure
from core.trace_search import Found
from core.tracing import Actor, Trace
from gateway.protocols.native.context import Area, Call, Peer
from trivium.frames.traces import BY_ID, BY_KEY, BY_PLACE, BY_TIME, FindTraces, FindTracesReply, TraceEntry


def actor_of(peer: Peer) -> Actor:
    return Actor("native", peer.client_id, peer.address.rpartition(":")[0].strip("[]"))


async def find_traces(call: Call, request: FindTraces) -> FindTracesReply:
    await call.context.broker.tracer.flush()
    found = await _find(call, request)
    return FindTracesReply([_entry(trace) for trace in found.traces], found.next_ms)


async def _find(call: Call, request: FindTraces) -> Found:
    search, times = call.context.broker.trace_search, (request.from_ms, request.to_ms)
    if request.by == BY_TIME:
        return await search.by_time(*times, request.topic)
    if request.by == BY_PLACE:
        return await search.by_places({(request.topic, request.partition, request.offset)}, *times)
    if request.by == BY_ID:
        return await search.by_id(request.message_id, *times)
    if request.by == BY_KEY:
        return await search.by_key(request.topic, request.key, *times)
    raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"traces are not found by {request.by}")


def _entry(trace: Trace) -> TraceEntry:
    head = (trace.event, trace.time_ms, trace.topic, trace.partition, trace.first, trace.last)
    return TraceEntry(*head, *trace.actor, trace.group, trace.attempt, trace.region)


AREA = Area(tasks={FindTraces: find_traces})
