"""Queue groups as an administrator sees and changes them."""

from __future__ import annotations

from core.errors import CoreFailure
from core.queue_group import QueueGroup
from core.queue_partition import QueuePartition
from core.store.engine import Engine, UnknownPartition
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Area, AskFailed, Call
from gateway.protocols.native.handlers_queues import Stream
from trivium.errors import ErrorCode
from trivium.frames.connection import AskStatus, Done, Status
from trivium.frames.queue_admin import (
    AskMember,
    ConfigureQueue,
    DeleteQueue,
    DescribeQueues,
    DescribeQueuesReply,
    PauseQueue,
    QueueInfo,
    QueueMember,
    QueuePlace,
    ResendDeadLetters,
)

ASK_S_MAX = 30.0
RESENT_MAX = 10_000


async def describe(call: Call, request: DescribeQueues) -> DescribeQueuesReply:
    queues, engine = call.context.broker.queues, call.context.broker.engine
    names = request.groups or [group.id for group in queues.all()]
    found = []
    for name in names:
        try:
            found.append(_info(queues.find(name), engine))
        except CoreFailure as failure:
            found.append(QueueInfo(name, CORE_CODES[failure.error], "", 0, 0, 0, 0, [], [], []))
    return DescribeQueuesReply(found)


def _info(group: QueueGroup, engine: Engine) -> QueueInfo:
    policy = group.policy
    held = group.held()
    members = [
        QueueMember(one.id, f"{one.actor.client} {one.actor.host}", held.get(one.id, 0))
        for one in group.members.values()
    ]
    return QueueInfo(
        group.id,
        ErrorCode.NONE,
        "" if group.subscription is None else group.subscription.describe(),
        int(group.paused),
        policy.invisible_ms,
        policy.attempts_max,
        policy.rejoin_ms,
        list(policy.backoff_ms),
        members,
        [_place(queue, engine) for queue in group.queues.values() if queue.failed or not queue.is_retry_only],
    )


def _place(queue: QueuePartition, engine: Engine) -> QueuePlace:
    try:
        log_end = engine.info(queue.partition).high_watermark
    except UnknownPartition:
        log_end = queue.end
    held = sum(lease.pending.bit_count() for lease in queue.leases.values())
    floor, end = (log_end, log_end) if queue.is_retry_only else (queue.floor, queue.end)
    failed, left = len(queue.failed), queue.left(log_end)
    return QueuePlace(queue.topic, queue.index, floor, end, log_end, held, failed, left)


async def configure(call: Call, request: ConfigureQueue) -> Done:
    asked = {
        "invisible_ms": request.invisible_ms,
        "attempts_max": request.attempts_max,
        "rejoin_ms": request.rejoin_ms,
    }
    change: dict[str, object] = {name: value for name, value in asked.items() if value != -1}
    if request.backoff_ms:
        change["backoff_ms"] = tuple(request.backoff_ms)
    await call.context.broker.queues.configure(request.group, change)
    return Done()


async def pause(call: Call, request: PauseQueue) -> Done:
    await call.context.broker.queues.pause(request.group, bool(request.paused))
    return Done()


async def delete(call: Call, request: DeleteQueue) -> Done:
    await call.context.broker.queues.delete(request.group)
    return Done()


async def resend(call: Call, request: ResendDeadLetters) -> Done:
    if len(request.offsets) > RESENT_MAX:
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, f"one request sends at most {RESENT_MAX} again")
    await call.context.broker.queues.resend(request.group, request.offsets)
    return Done()


async def ask_member(call: Call, request: AskMember) -> Status:
    """What the member's client says about itself."""
    member = call.context.broker.queues.find(request.group).members.get(request.member)
    if member is None or not member.connected or not isinstance(member.owner, Stream):
        raise Refused(ErrorCode.UNKNOWN_MEMBER, f"{request.member!r} is not connected")
    try:
        status, _ = await member.owner.peer.ask(AskStatus(), timeout_s=ASK_S_MAX)
    except AskFailed as failed:
        raise Refused(ErrorCode.INTERNAL, str(failed)) from None
    return Status(status.text)


AREA = Area(
    tasks={
        DescribeQueues: describe,
        ConfigureQueue: configure,
        PauseQueue: pause,
        DeleteQueue: delete,
        ResendDeadLetters: resend,
        AskMember: ask_member,
    }
)
