"""Scheduled messages: cancelled, listed."""

from __future__ import annotations

from core.schedule_log import End
from gateway.protocols.native.context import Area, Call
from trivium.frames.scheduled import (
    CANCELLED,
    DELIVERED,
    UNKNOWN,
    Cancel,
    CancelReply,
    ListScheduled,
    ListScheduledReply,
    ScheduledRow,
)

_STATES = {None: UNKNOWN, End.DROPPED: UNKNOWN, End.DELIVERED: DELIVERED, End.CANCELLED: CANCELLED}


async def cancel(call: Call, request: Cancel) -> CancelReply:
    return CancelReply(_STATES[await call.context.broker.schedules.cancel(request.message_id)])


async def list_scheduled(call: Call, request: ListScheduled) -> ListScheduledReply:
    found = await call.context.broker.schedules.page((request.after_due_ms, request.after_number), request.rows_max)
    rows = [
        ScheduledRow(
            row.due_ms,
            row.number,
            row.message_id,
            row.topic or "",
            row.partition,
            int(row.key is not None),
            row.key or b"",
            row.value_bytes,
        )
        for row in found
    ]
    return ListScheduledReply(rows)


AREA = Area(tasks={Cancel: cancel, ListScheduled: list_scheduled})
