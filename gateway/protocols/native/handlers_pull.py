"""Pull: batches as they lie in the store, at once or when some partition moves.

A pull that finds nothing waits at most `wait_ms` (WAIT_MS_MAX above that), and ends early when the connection drains.
Bytes are bounded by what the client asks for and by the broker's own limit; one batch is always given. A filter takes
records out of what was read, in a thread when that is much; what it leaves counts as something, so that readers of
rare records come on.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from core.delivery import last_offset
from core.selectors import selector_of
from core.selectors.batches import select
from core.store.engine import Buffer, DataDamaged, OffsetOutOfRange, Read, UnknownPartition
from core.tracing import Event
from gateway.protocols.native.codes import Refused
from gateway.protocols.native.context import Area, Call, Context
from gateway.protocols.native.handlers_traces import actor_of
from trivium.errors import ErrorCode
from trivium.frames.pulling import Aborted, Pull, PullEntry, PullReply, PullResult

WAIT_MS_MAX = 60_000

SELECT_BYTES_MAX = 16 * 1024  # more than that is looked through in a thread

Pulled = tuple[PullReply, list[Buffer]]


async def pull(call: Call, request: Pull) -> Pulled:
    """The reply, and the buffers of its payload."""
    found = await _pull(call, request)
    if call.context.broker.tracer.active and found[1]:
        _trace(call, request, found)
    return found


def _trace(call: Call, request: Pull, found: Pulled) -> None:
    actor = actor_of(call.peer)
    buffers = iter(found[1])
    for entry, result in zip(request.entries, found[0].entries, strict=True):
        size, last = result.size, -1
        while size:
            buffer = next(buffers)
            size -= len(buffer)
            last = last_offset(buffer)
        topic = call.context.broker.topics.get(entry.topic)
        if last >= 0 and topic is not None and call.context.broker.tracer.traces(topic):
            call.context.broker.tracer.note(Event.DELIVERED, topic, entry.partition, entry.offset, last, actor)


async def _pull(call: Call, request: Pull) -> Pulled:
    context, connection = call.context, call.peer
    if request.selector:
        selector_of(request.selector)  # raises what is wrong with it, also when there is nothing to read
    found = await _collect(context, request)
    if request.wait_ms == 0 or not request.entries or _is_enough(found):
        return found
    engine = context.broker.engine
    moved = trio.Event()

    def wake(_: int) -> None:
        moved.set()

    watched = _numbers(context, request)
    for number in watched:
        engine.watch(number, wake)
    connection.wakers.add(moved)
    try:
        with trio.move_on_after(min(request.wait_ms, WAIT_MS_MAX) / 1000):
            found = await _collect(context, request)  # what came between the look and the watch
            while not _is_enough(found) and not connection.draining:
                await moved.wait()
                connection.wakers.discard(moved)
                moved = trio.Event()
                connection.wakers.add(moved)
                found = await _collect(context, request)
    finally:
        connection.wakers.discard(moved)
        for number in watched:
            engine.unwatch(number, wake)
    return found


def _numbers(context: Context, request: Pull) -> list[int]:
    return [context.partition(entry.topic, entry.partition)[1] for entry in request.entries]


def _is_enough(found: Pulled) -> bool:
    return bool(found[1]) or any(result.status for result in found[0].entries)


async def _collect(context: Context, request: Pull) -> Pulled:
    room = min(request.bytes_max, context.fetch_bytes_max)
    results: list[PullResult] = []
    buffers: list[Buffer] = []
    for entry in request.entries:
        result, read = await _read(context, request, entry, room, first=not buffers)
        if read is not None and read.size_bytes:
            kept: Sequence[Buffer] = read.buffers
            if request.selector:
                kept = await _selected(context, read, request.selector)
                result = result._replace(size=sum(map(len, kept)))
            buffers += kept
            room -= read.size_bytes
        results.append(result)
    return PullReply(results), buffers


async def _selected(context: Context, read: Read, selector: str) -> list[Buffer]:
    if read.size_bytes <= SELECT_BYTES_MAX:
        return select(read.buffers, selector_of(selector))
    return await trio.to_thread.run_sync(select, read.buffers, selector_of(selector), limiter=context.selecting)


async def _read(
    context: Context, request: Pull, entry: PullEntry, room: int, *, first: bool
) -> tuple[PullResult, Read | None]:
    engine = context.broker.engine
    try:
        _, number = context.partition(entry.topic, entry.partition)
        info = engine.info(number)
    except Refused as refused:
        return PullResult(refused.code, -1, -1, -1, [], 0), None
    except UnknownPartition:
        return PullResult(ErrorCode.UNKNOWN_PARTITION, -1, -1, -1, [], 0), None
    known = (info.log_start, info.high_watermark, info.last_stable)
    bytes_max = min(entry.bytes_max, room)
    if bytes_max <= 0 and not first:
        return PullResult(ErrorCode.NONE, *known, [], 0), None
    committed = bool(request.committed)
    try:
        read = engine.read_nowait(number, entry.offset, bytes_max, committed=committed, first_whole=first)
        if read is None:
            read = await engine.read(number, entry.offset, bytes_max, committed=committed, first_whole=first)
    except OffsetOutOfRange:
        return PullResult(ErrorCode.OFFSET_OUT_OF_RANGE, *known, [], 0), None
    except DataDamaged as damaged:
        # Where reading can go on stands in place of the log start.
        return PullResult(ErrorCode.DATA_DAMAGED, damaged.end_offset, *known[1:], [], 0), None
    except UnknownPartition:
        return PullResult(ErrorCode.UNKNOWN_PARTITION, -1, -1, -1, [], 0), None
    aborted = [Aborted(one.producer_id, one.first_offset) for one in read.aborted]
    result = PullResult(ErrorCode.NONE, read.log_start, read.high_watermark, read.last_stable, aborted, read.size_bytes)
    return result, read


AREA = Area(tasks={Pull: pull})
