"""Offsets: found by time, kept for a group."""

from __future__ import annotations

import trio

from core.errors import CoreError
from core.offsets import CommitRequest, OffsetToCommit
from core.store.engine import UnknownPartition
from core.trace_commits import CommitTrace
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Area, Call, Context
from gateway.protocols.native.handlers_resets import watch_resets
from gateway.protocols.native.handlers_traces import actor_of
from trivium.errors import ErrorCode
from trivium.frames.offsets import (
    EARLIEST,
    Commit,
    CommitReply,
    Committed,
    CommittedReply,
    FindOffsets,
    FindOffsetsReply,
    FoundOffset,
    OffsetEntry,
    TimeEntry,
)


async def find_offsets(call: Call, request: FindOffsets) -> FindOffsetsReply:
    return FindOffsetsReply([await _find_offset(call.context, entry) for entry in request.entries])


async def _find_offset(context: Context, entry: TimeEntry) -> FoundOffset:
    engine = context.broker.engine
    try:
        _, number = context.partition(entry.topic, entry.partition)
        info = engine.info(number)
        if entry.time_ms == EARLIEST:
            return FoundOffset(ErrorCode.NONE, info.log_start)
        found = await engine.offset_for_time(number, entry.time_ms) if entry.time_ms >= 0 else None
    except Refused as refused:
        return FoundOffset(refused.code, -1)
    except UnknownPartition:
        return FoundOffset(ErrorCode.UNKNOWN_PARTITION, -1)
    return FoundOffset(ErrorCode.NONE, info.high_watermark if found is None else found.offset)


async def commit(call: Call, request: Commit) -> CommitReply:
    statuses: list[int] = []
    offsets: list[OffsetToCommit] = []
    for entry in request.entries:
        try:
            call.context.partition(entry.topic, entry.partition)
            if entry.offset < 0:
                raise Refused(ErrorCode.OFFSET_OUT_OF_RANGE)
        except Refused as refused:
            statuses.append(refused.code)
            continue
        statuses.append(ErrorCode.NONE)
        offsets.append(OffsetToCommit(entry.topic, entry.partition, entry.offset, metadata=entry.metadata))
    if not offsets:
        return CommitReply(statuses)
    answered = trio.Event()
    outcome: list[CoreError | None] = []

    def reply(error: CoreError | None, errors: list[CoreError | None]) -> None:
        outcome.extend(errors or [error] * len(offsets))
        answered.set()

    broker = call.context.broker
    trace = CommitTrace(broker.tracer, broker.topics, broker.offsets, request.group, offsets)
    broker.offsets.commit(
        CommitRequest(request.group, "", None, -1, offsets, resets=request.resets), reply, call.context.now_ms()
    )
    await answered.wait()
    trace.done(outcome, actor_of(call.peer))
    each = iter(outcome)
    for index, status in enumerate(statuses):
        if status == ErrorCode.NONE:
            error = next(each)
            statuses[index] = ErrorCode.NONE if error is None else CORE_CODES[error]
    return CommitReply(statuses)


async def committed(call: Call, request: Committed) -> CommittedReply:
    offsets = call.context.broker.offsets
    if request.watch:
        watch_resets(call, request.group)
    found = offsets.fetch(request.group, None, -1)
    entries = [OffsetEntry(name, part, one.offset, one.metadata) for (name, part), one in found.items()]
    return CommittedReply(entries, offsets.resets(request.group))


AREA = Area(tasks={FindOffsets: find_offsets, Commit: commit, Committed: committed})
