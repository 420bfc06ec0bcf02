"""Half messages: sent, ended, listed, resumed; and the check-back to whoever joined a producer group."""

from __future__ import annotations

import time
from functools import partial
from itertools import islice

import trio

from core.errors import CoreError, CoreFailure
from core.half_log import CheckPlan, HalfEnd
from core.half_messages import Question
from core.intake import deliver_at
from core.message_ids import ID_BYTES_MAX, id_of
from gateway.protocols.native.codes import Refused
from gateway.protocols.native.context import Area, AskFailed, Call, Peer, Reply
from gateway.protocols.native.incoming import prepare_opened
from trivium.errors import ErrorCode
from trivium.frames.connection import Done
from trivium.frames.halves import (
    COMMIT,
    ROLL_BACK,
    CheckBack,
    EndHalf,
    HalfRow,
    JoinProducers,
    LeaveProducers,
    ListHalves,
    ListHalvesReply,
    ResumeHalf,
    SendHalf,
)
from trivium.headers import ONCE_ID

CHECK_TIMEOUT_S = 10
ROWS_MAX = 1_000
GROUPS_PER_CONNECTION_MAX = 100
_DEFAULT = CheckPlan()
_ENDS = {COMMIT: HalfEnd.COMMITTED, ROLL_BACK: HalfEnd.ROLLED_BACK}


async def send_half(call: Call, request: SendHalf) -> Done:
    context = call.context
    topic, partition = context.partition(request.topic, request.partition)
    now_ms = time.time_ns() // 1_000_000
    batch = await trio.to_thread.run_sync(prepare_opened, topic, call.payload, now_ms)
    records = batch.records or ()
    if not 0 < len(request.message_id.encode()) <= ID_BYTES_MAX or id_of(records[0].headers) != request.message_id:
        raise Refused(ErrorCode.INVALID_MESSAGE, "the first record must carry the message id that the request names")
    for record in records:
        if topic.settings.message_type != "transaction":
            deliver_at(topic.settings, record.key, record.headers)
        if any(name == ONCE_ID for name, _ in record.headers):
            raise CoreFailure(
                CoreError.INVALID_MESSAGE, f"a half message is sent once by its id: it takes no {ONCE_ID}"
            )
    plan = CheckPlan(
        request.first_check_ms or _DEFAULT.first_ms,
        request.check_interval_ms or _DEFAULT.interval_ms,
        request.checks_max or _DEFAULT.checks_max,
    )
    await context.broker.halves.send(topic, partition, request.group, request.message_id, batch.batch, plan)
    return Done()


async def end_half(call: Call, request: EndHalf) -> Done:
    end = HalfEnd.COMMITTED if request.commit else HalfEnd.ROLLED_BACK
    await call.context.broker.halves.end(request.message_id, end)
    return Done()


async def join_producers(call: Call, request: JoinProducers, reply: Reply) -> None:
    """The connection answers check-backs of the group until it leaves, or ends. In order with its leaving: who gives
    up while it joins leaves at once.
    """
    halves, peer = call.context.broker.halves, call.peer
    if request.group in peer.producers:
        reply(Done())
        return
    if len(peer.producers) >= GROUPS_PER_CONNECTION_MAX:
        raise CoreFailure(CoreError.LIMIT_REACHED, f"a connection joins {GROUPS_PER_CONNECTION_MAX} groups at most")
    ask = partial(_ask, peer, request.group)
    halves.add_producer(request.group, ask)
    leave = peer.producers[request.group] = partial(halves.remove_producer, request.group, ask)
    peer.on_close.append(leave)
    reply(Done())


async def leave_producers(call: Call, request: LeaveProducers, reply: Reply) -> None:
    leave = call.peer.producers.pop(request.group, None)
    if leave is not None:
        call.peer.on_close.remove(leave)
        leave()
    reply(Done())


async def _ask(peer: Peer, group: str, question: Question) -> HalfEnd | None:
    message_id, topic, partition, checks, batch = question
    message = CheckBack(group, message_id, topic, partition, checks)
    try:
        reply, _ = await peer.ask(message, [bytes(batch)], timeout_s=CHECK_TIMEOUT_S)
    except AskFailed:
        return None  # gone, slow, or it could not say: asked again later
    return _ENDS.get(reply.answer)


async def list_halves(call: Call, request: ListHalves) -> ListHalvesReply:
    found = call.context.broker.halves.listed(
        request.group or None, parked=True if request.parked else None, after_number=request.after_number
    )
    rows = [
        HalfRow(
            row.number,
            row.message_id,
            row.group,
            row.topic or "",
            row.partition,
            row.stored_ms,
            int(row.parked),
            row.checks,
        )
        for row in islice(found, min(request.rows_max, ROWS_MAX))
    ]
    return ListHalvesReply(rows)


async def resume_half(call: Call, request: ResumeHalf) -> Done:
    await call.context.broker.halves.resume(request.message_id)
    return Done()


AREA = Area(
    tasks={
        SendHalf: send_half,
        EndHalf: end_half,
        ListHalves: list_halves,
        ResumeHalf: resume_half,
    },
    in_order={JoinProducers: join_producers, LeaveProducers: leave_producers},
)
