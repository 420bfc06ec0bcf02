"""Queue groups: subscribe, credits, receives, settling. A stream is a member of a group on this connection.

What is handed out goes into the connection's output at once; a stream whose connection has too much unsent gets nothing
more until there is room. Streams of a connection: STREAMS_MAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from core.bitmaps import full, runs
from core.errors import CoreFailure
from core.queue_group import Member, QueueGroup
from core.queue_types import Handout, Order, Policy, Settle, Settled, Subscription, Verb
from core.queues import Queues
from core.store.engine import Buffer
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Area, Call, Peer, Reply
from gateway.protocols.native.handlers_traces import actor_of
from trivium.errors import ErrorCode
from trivium.frames.connection import Done
from trivium.frames.queues import (
    SETTLED_OFFSETS_MAX,
    SETTLES_MAX,
    Deliver,
    Delivery,
    Grant,
    QueueSettings,
    Range,
    Receive,
    ReceiveReply,
    SettleReply,
    SettleRequest,
    Subscribe,
    Subscribed,
    Unsubscribe,
)

STREAMS_MAX = 256
WAIT_MS_MAX = 60_000
CREDIT_MAX = 1 << 31  # messages or bytes; grants above it do not add up further

_STATUSES = {
    Settled.DONE: ErrorCode.NONE,
    Settled.LATE: ErrorCode.RECEIPT_LATE,
    Settled.INVALID: ErrorCode.INVALID_GROUP_REQUEST,
}
_ORDERS = {int(order): order for order in Order}
_VERBS = {int(verb): verb for verb in Verb}


class Stream:
    """One member on one connection."""

    def __init__(self, peer: Peer, number: int, queues: Queues) -> None:
        self.peer = peer
        self.number = number
        self.queues = queues
        self.group: QueueGroup
        self.member: Member
        self.told: Policy  # as the client knows the group's
        self.collected: list[Handout] | None = None  # of a receive that waits
        self.arrived = trio.Event()

    def tell_settings(self) -> None:
        """Where the group's are no longer those that the client knows: it renews what it holds by them."""
        policy = self.group.policy
        if self.told is not policy:
            self.told = policy
            self.peer.tell(QueueSettings(self.number, policy.invisible_ms, policy.attempts_max))

    def take(self, handouts: list[Handout]) -> None:
        self.tell_settings()
        if self.collected is not None:
            self.collected += handouts
            self.arrived.set()
            return
        self.peer.tell(Deliver(self.number, deliveries(handouts)), [handout.batch for handout in handouts])
        if not self.peer.has_room and not self.member.blocked:
            self.member.blocked = True
            self.peer.start(self._unblock)

    async def _unblock(self) -> None:
        await self.peer.wait_room()
        self.member.blocked = False
        self.group.wake()

    def lost(self) -> None:
        self.queues.lost(self.group, self.member)


def deliveries(handouts: Sequence[Handout]) -> list[Delivery]:
    return [
        Delivery(
            one.topic, one.partition, one.lease, one.attempt, [Range(*ends) for ends in one.ranges], len(one.batch)
        )
        for one in handouts
    ]


async def subscribe(call: Call, request: Subscribe) -> Subscribed:
    queues, peer = call.context.broker.queues, call.peer
    if len(peer.streams) >= STREAMS_MAX:
        raise Refused(ErrorCode.LIMIT_REACHED, f"a connection has at most {STREAMS_MAX} streams: open another")
    if request.stream in peer.streams:
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, f"stream {request.stream} is in use")
    order = _ORDERS.get(request.order)
    if order is None or not request.member:
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, "a member has a name, and an order of 0, 1 or 2")
    subscription = Subscription(
        tuple(request.topics), request.key_pattern, request.selector, order, bool(request.broadcast)
    )
    for name in request.topics:
        call.context.partition(name, 0)
    stream = Stream(peer, request.stream, queues)
    peer.streams[request.stream] = stream
    try:
        stream.member = await queues.join(
            request.group, request.member, actor_of(peer), subscription, request.start, stream.take, request.held
        )
        stream.member.owner = stream
        stream.group = queues.find(request.group)
    except BaseException:
        del peer.streams[request.stream]
        raise
    peer.on_close.append(stream.lost)
    policy = stream.told = stream.group.policy
    return Subscribed(policy.invisible_ms, policy.attempts_max)


def _stream(peer: Peer, number: int) -> Stream:
    stream = peer.streams.get(number)
    if not isinstance(stream, Stream) or not hasattr(stream, "member"):
        raise Refused(ErrorCode.UNKNOWN_MEMBER, f"no stream {number} on this connection: subscribe first")
    return stream


async def unsubscribe(call: Call, request: Unsubscribe) -> Done:
    stream = _stream(call.peer, request.stream)
    del call.peer.streams[request.stream]
    call.peer.on_close.remove(stream.lost)
    stream.queues.leave(stream.group, stream.member, failed=False)
    return Done()


def grant(call: Call, request: Grant) -> None:
    try:
        stream = _stream(call.peer, request.stream)
    except Refused:
        return  # a stream that has just ended
    member = stream.member
    messages = min(request.messages, CREDIT_MAX - member.credit_messages)
    size_bytes = min(request.bytes, CREDIT_MAX - member.credit_bytes)
    stream.queues.grant(stream.group, member, messages, size_bytes)


async def settle(call: Call, request: SettleRequest, reply: Reply) -> None:
    """Takes effect at once; answered when it is durable."""
    stream = _stream(call.peer, request.stream)
    stream.tell_settings()
    if not all(one.verb in _VERBS for one in request.entries):
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, f"verbs are 0 to {len(_VERBS) - 1}")
    offsets = sum(max(one.last - one.first + 1, 0) for one in request.entries)
    if len(request.entries) > SETTLES_MAX or offsets > SETTLED_OFFSETS_MAX:
        limits = f"{SETTLES_MAX} entries of {SETTLED_OFFSETS_MAX} offsets together"
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, f"one request settles at most {limits}")
    settles = [
        Settle(one.topic, one.partition, one.lease, one.first, one.last, _VERBS[one.verb], one.delay_ms, one.reason)
        for one in request.entries
    ]
    stream.queues.settle(stream.group, settles, stream.member.actor, partial(_settled, len(settles), reply))


def _settled(count: int, reply: Reply, failure: CoreFailure | None, answers: Sequence[Settled]) -> None:
    if failure is not None:
        reply(SettleReply([CORE_CODES[failure.error]] * count))
    else:
        reply(SettleReply([_STATUSES[one] for one in answers]))


async def receive(call: Call, request: Receive) -> tuple[ReceiveReply, list[Buffer]]:
    """What there is, at once or within `wait_ms`; with the last receive's id what that one got and still has."""
    stream = _stream(call.peer, request.stream)
    member = stream.member
    if stream.collected is not None:  # its caller has given it up, or would not ask again
        stream.arrived.set()
        stream.collected = None
        member.credit_messages = member.credit_bytes = 0
    if member.has_credit:
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, "a stream with credits is pushed to, and receives nothing")
    if request.receive_id == member.received[0]:
        again = [kept for one in member.received[1] if (kept := _still_held(stream.group, one)) is not None]
        if again:
            return ReceiveReply(deliveries(again)), [one.batch for one in again]
    collected: list[Handout] = []
    stream.collected, stream.arrived = collected, trio.Event()
    peer = call.peer
    peer.wakers.add(stream.arrived)
    member.received = (request.receive_id, collected)
    stream.queues.grant(stream.group, member, request.messages_max, request.bytes_max)
    try:
        with trio.move_on_after(min(request.wait_ms, WAIT_MS_MAX) / 1000):
            await stream.arrived.wait()
    finally:
        peer.wakers.discard(stream.arrived)
        if stream.collected is collected:
            stream.collected = None
            member.credit_messages = member.credit_bytes = 0
    return ReceiveReply(deliveries(collected)), [one.batch for one in collected]


def _still_held(group: QueueGroup, handout: Handout) -> Handout | None:
    queue = group.queues.get((handout.topic, handout.partition))
    lease = None if queue is None else queue.leases.get(handout.lease)
    if lease is None:
        return None
    meant = 0
    for first, last in handout.ranges:
        meant |= full(last - first + 1) << (first - lease.first)
    left = [(lease.first + at, lease.first + at + width - 1) for at, width in runs(meant & lease.pending)]
    return handout._replace(ranges=left) if left else None


AREA = Area(
    tasks={Subscribe: subscribe, Unsubscribe: unsubscribe, Receive: receive},
    in_order={SettleRequest: settle},
    one_way={Grant: grant},
)
