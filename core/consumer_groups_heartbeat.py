"""What a KIP-848 heartbeat says, how it is answered, and which are refused: those that contradict themselves, and those
of a member that is not where it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from core.consumer_group import STATIC_LEAVE_EPOCH, ConsumerMember, Epochs
from core.consumer_groups_assign import ASSIGNORS
from core.consumer_groups_reconcile import Owned
from core.errors import CoreError, CoreFailure
from core.group_types import Client


class HeartbeatRequest(NamedTuple):
    """None (-1 for the time-out) means "as before". `epoch` 0 joins, -1 leaves, -2 leaves and will be back (static
    members).
    """

    group_id: str
    member_id: str
    epoch: int
    instance_id: str | None
    rack: str | None
    rebalance_timeout_ms: int
    topics: list[str] | None
    regex: str | None
    assignor: str | None
    owned: Owned | None
    client: Client
    chooses_member_id: bool = True  # the member brings its own id (version 1)


class HeartbeatResult(NamedTuple):
    """`assignment` is None when the member has nothing new to learn."""

    error: CoreError | None
    message: str = ""
    member_id: str = ""
    epoch: int = 0
    interval_ms: int = 0
    assignment: Epochs | None = None


HeartbeatReply = Callable[[HeartbeatResult], None]


def refused_heartbeat(failure: CoreFailure) -> HeartbeatResult:
    return HeartbeatResult(failure.error, failure.message)


def check_heartbeat(request: HeartbeatRequest) -> None:
    """Raises CoreFailure for a request that contradicts itself."""

    def refuse(message: str) -> None:
        raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, message)

    if not request.member_id and (request.chooses_member_id or request.epoch > 0 or request.epoch < 0):
        refuse("MemberId can't be empty.")
    if not request.group_id.strip():
        refuse("GroupId can't be empty.")
    if request.instance_id is not None and not request.instance_id.strip():
        refuse("InstanceId can't be empty.")
    if request.rack is not None and not request.rack.strip():
        refuse("RackId can't be empty.")
    if request.epoch == 0:
        if request.rebalance_timeout_ms == -1:
            refuse("RebalanceTimeoutMs must be provided in first request.")
        if request.owned is None or request.owned:
            refuse("TopicPartitions must be empty when (re-)joining.")
        if request.topics is None and request.regex is None:
            refuse("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
    elif request.epoch == STATIC_LEAVE_EPOCH and request.instance_id is None:
        refuse("InstanceId can't be null.")
    elif request.epoch < STATIC_LEAVE_EPOCH:
        refuse(f"MemberEpoch is {request.epoch}, but must be greater than or equal to -2.")
    if request.assignor is not None and request.assignor not in ASSIGNORS:
        supported = ", ".join(ASSIGNORS)
        raise CoreFailure(
            CoreError.UNSUPPORTED_ASSIGNOR,
            f"ServerAssignor {request.assignor} is not supported. Supported assignors: {supported}.",
        )


def check_epoch(member: ConsumerMember, request: HeartbeatRequest) -> None:
    """Raises CoreFailure(FENCED_MEMBER_EPOCH) unless the member is where it says, or missed the last answer."""
    if request.epoch in (0, member.epoch):
        return
    if request.epoch > member.epoch:
        raise CoreFailure(
            CoreError.FENCED_MEMBER_EPOCH,
            f"The consumer group member has a greater member epoch ({request.epoch}) than the one known by the group "
            f"coordinator ({member.epoch}). The member must abandon all its partitions and rejoin.",
        )
    missed = request.epoch == member.previous_epoch and request.owned is not None
    if not missed or not all(
        partitions <= member.assigned.get(topic_id, {}).keys() for topic_id, partitions in (request.owned or {}).items()
    ):
        raise CoreFailure(
            CoreError.FENCED_MEMBER_EPOCH,
            f"The consumer group member has a smaller member epoch ({request.epoch}) than the one known by the group "
            f"coordinator ({member.epoch}). The member must abandon all its partitions and rejoin.",
        )
