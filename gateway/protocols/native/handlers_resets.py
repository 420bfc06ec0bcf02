"""Resets of readers, and telling who watches a group."""

from __future__ import annotations

from core.errors import CoreError, CoreFailure
from core.retroactive import Target, To
from gateway.protocols.native.codes import Refused
from gateway.protocols.native.context import Area, Call
from trivium.errors import ErrorCode
from trivium.frames.resets import GroupReset, Place, Reset, ResetReply

WATCHED_MAX = 100


async def reset(call: Call, request: Reset) -> ResetReply:
    try:
        to = To(request.to)
    except ValueError:
        raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"{request.to} is no place to go to") from None
    target = Target(to, request.value)
    places = await call.context.broker.retroactive.reset(request.kind, request.name, request.topics, target)
    return ResetReply([Place(topic, partition, offset) for (topic, partition), offset in places.items()])


def watch_resets(call: Call, group: str) -> None:
    """Has the client told of every reset of the group, for as long as it is connected. Raises Refused."""
    context, peer = call.context, call.peer
    watched = context.watched.setdefault(peer, set())
    if len(watched) >= WATCHED_MAX and group not in watched:
        raise Refused(ErrorCode.INVALID_GROUP_REQUEST, f"one connection watches at most {WATCHED_MAX} groups")

    def was_reset(group_id: str) -> None:
        if group_id in watched:
            peer.tell(GroupReset(group_id))

    if not watched:
        peer.on_close.append(context.broker.offsets.on_reset(was_reset))
    watched.add(group)


AREA = Area(tasks={Reset: reset})
