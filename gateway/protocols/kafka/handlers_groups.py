"""FindCoordinator; classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup; for groups of all types ListGroups,
DescribeGroups and DeleteGroups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from core.errors import CoreError, CoreFailure
from core.group_types import (
    MEMBER_PREFIX_CHARS_MAX,
    Client,
    GroupListing,
    JoinRequest,
    JoinResult,
    LeaveResult,
    LeavingMember,
    SyncRequest,
    SyncResult,
)
from gateway.protocols.kafka.core_errors import CODES
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    ListGroupsRequest,
    ListGroupsResponse,
    Message,
    SyncGroupRequest,
    SyncGroupResponse,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

# What everybody may do with a group while there are no ACLs: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS
# as bits (KIP-430).
SHARE = "share"  # type and protocol type of share groups
GROUP_OPERATIONS = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
_GROUP, _TRANSACTION = 0, 1  # what FindCoordinator can look for
OPERATIONS_NOT_ASKED = -(2**31)

Result = TypeVar("Result")


def code(error: CoreError | None) -> ErrorCode:
    return ErrorCode.NONE if error is None else CODES[error]


def client_of(request: Request) -> Client:
    """A client id may be longer than what an answer can carry; it only names the client."""
    return Client(request.client_id[:MEMBER_PREFIX_CHARS_MAX], request.client_host)


class Answer(Generic[Result]):
    """Waits for what a callback brings."""

    def __init__(self) -> None:
        self._answered = trio.Event()
        self._results: list[Result] = []

    def reply(self, result: Result) -> None:
        self._results.append(result)
        self._answered.set()

    async def wait(self) -> Result:
        await self._answered.wait()
        return self._results[0]


async def find_coordinator(context: Context, request: Request) -> Message:
    """This broker coordinates everything. From version 4 on a request names many keys (KIP-699)."""
    body: FindCoordinatorRequest = request.body  # type: ignore[assignment]
    known = body.key_type in (_GROUP, _TRANSACTION)
    error = ErrorCode.NONE if known else ErrorCode.INVALID_REQUEST
    message = None if known else f"Unknown coordinator type {body.key_type}"
    node_id, host, port = (context.node_id, context.host, context.port) if known else (-1, "", -1)
    if request.version < 4:
        return FindCoordinatorResponse(error_code=error, error_message=message, node_id=node_id, host=host, port=port)
    return FindCoordinatorResponse(
        coordinators=[
            FindCoordinatorResponse.Coordinator(
                key=key, node_id=node_id, host=host, port=port, error_code=error, error_message=message
            )
            for key in body.coordinator_keys
        ]
    )


async def join_group(context: Context, request: Request) -> Message:
    body: JoinGroupRequest = request.body  # type: ignore[assignment]
    version = request.version
    asked = JoinRequest(
        body.group_id,
        body.member_id,
        body.group_instance_id,
        client_of(request),
        body.session_timeout_ms,
        body.rebalance_timeout_ms if version >= 1 else body.session_timeout_ms,
        body.protocol_type,
        [(protocol.name, bytes(protocol.metadata)) for protocol in body.protocols],
        needs_member_id=version >= 4,
        can_skip_assignment=version >= 9,
    )
    answer = Answer[JoinResult]()
    context.broker.groups.join(asked, answer.reply, context.now_ms())
    result = await answer.wait()
    absent = None if version >= 7 else ""
    return JoinGroupResponse(
        error_code=code(result.error),
        generation_id=result.generation,
        protocol_type=result.protocol_type,
        protocol_name=absent if result.protocol is None else result.protocol,
        leader=result.leader,
        skip_assignment=result.skip_assignment,
        member_id=result.member_id,
        members=[
            JoinGroupResponse.JoinGroupResponseMember(
                member_id=member.member_id, group_instance_id=member.instance_id, metadata=member.metadata
            )
            for member in result.members
        ],
    )


async def sync_group(context: Context, request: Request) -> Message:
    body: SyncGroupRequest = request.body  # type: ignore[assignment]
    if request.version >= 5 and (body.protocol_type is None or body.protocol_name is None):
        return SyncGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    asked = SyncRequest(
        body.group_id,
        body.generation_id,
        body.member_id,
        body.group_instance_id,
        body.protocol_type,
        body.protocol_name,
        [(one.member_id, bytes(one.assignment)) for one in body.assignments],
    )
    answer = Answer[SyncResult]()
    context.broker.groups.sync(asked, answer.reply, context.now_ms())
    result = await answer.wait()
    return SyncGroupResponse(
        error_code=code(result.error),
        protocol_type=result.protocol_type,
        protocol_name=result.protocol,
        assignment=result.assignment,
    )


async def heartbeat(context: Context, request: Request) -> Message:
    body: HeartbeatRequest = request.body  # type: ignore[assignment]
    error = context.broker.groups.heartbeat(
        body.group_id, body.member_id, body.group_instance_id, body.generation_id, context.now_ms()
    )
    return HeartbeatResponse(error_code=code(error))


async def leave_group(context: Context, request: Request) -> Message:
    """Versions before 3 name one member, whose error is that of the request."""
    body: LeaveGroupRequest = request.body  # type: ignore[assignment]
    batched = request.version >= 3
    if batched:
        leaving = [LeavingMember(member.member_id, member.group_instance_id) for member in body.members]
    else:
        leaving = [LeavingMember(body.member_id, None)]
    answer = Answer[LeaveResult]()
    context.broker.groups.leave(body.group_id, leaving, answer.reply, context.now_ms())
    result = await answer.wait()
    error = result.error
    if not batched:
        return LeaveGroupResponse(error_code=code(error or next((e for _, e in result.members), None)))
    members = [
        LeaveGroupResponse.MemberResponse(
            member_id=member.member_id, group_instance_id=member.instance_id, error_code=code(member_error)
        )
        for member, member_error in result.members
    ]
    return LeaveGroupResponse(error_code=code(error), members=members)


async def list_groups(context: Context, request: Request) -> Message:
    body: ListGroupsRequest = request.body  # type: ignore[assignment]
    found = context.broker.groups.listing(body.states_filter, body.types_filter)
    states, types = ({one.lower() for one in names} for names in (body.states_filter, body.types_filter))
    if not types or SHARE in types:
        found += [
            GroupListing(group.id, SHARE, group.state, SHARE)
            for group in context.broker.share_groups.all()
            if not states or group.state.lower() in states
        ]
    return ListGroupsResponse(
        groups=[
            ListGroupsResponse.ListedGroup(
                group_id=group.group_id,
                protocol_type=group.protocol_type,
                group_state=group.state,
                group_type=group.type,
            )
            for group in found
        ]
    )


async def describe_groups(context: Context, request: Request) -> Message:
    body: DescribeGroupsRequest = request.body  # type: ignore[assignment]
    operations = GROUP_OPERATIONS if body.include_authorized_operations else OPERATIONS_NOT_ASKED
    return DescribeGroupsResponse(
        groups=[_describe(context, group_id, request.version, operations) for group_id in body.groups]
    )


def _describe(context: Context, group_id: str, version: int, operations: int) -> DescribeGroupsResponse.DescribedGroup:
    """A group that is not there is described as dead; from version 6 on that is an error (KIP-1043)."""
    try:
        view = context.broker.groups.describe(group_id)
    except CoreFailure as failure:
        return DescribeGroupsResponse.DescribedGroup(
            error_code=code(failure.error) if version >= 6 else ErrorCode.NONE,
            error_message=failure.message if version >= 6 else None,
            group_id=group_id,
            group_state="Dead",
            protocol_type="",
            protocol_data="",
            members=[],
            authorized_operations=operations,
        )
    return DescribeGroupsResponse.DescribedGroup(
        error_code=ErrorCode.NONE,
        error_message=None,
        group_id=group_id,
        group_state=view.state,
        protocol_type=view.protocol_type,
        protocol_data=view.protocol,
        members=[
            DescribeGroupsResponse.DescribedGroupMember(
                member_id=member.member_id,
                group_instance_id=member.instance_id,
                client_id=member.client.id,
                client_host=member.client.host,
                member_metadata=member.metadata,
                member_assignment=member.assignment,
            )
            for member in view.members
        ],
        authorized_operations=operations,
    )


async def _delete_share_group(context: Context, group_id: str) -> CoreError | None:
    try:
        await context.broker.share_groups.delete(group_id)
    except CoreFailure as failure:
        return failure.error
    return None


async def delete_groups(context: Context, request: Request) -> Message:
    body: DeleteGroupsRequest = request.body  # type: ignore[assignment]
    results = []
    for group_id in dict.fromkeys(body.groups_names):
        answer = Answer[CoreError | None]()
        context.broker.coordinator.delete_group(group_id, answer.reply)
        error = await answer.wait()
        if error is CoreError.GROUP_NOT_FOUND and context.broker.share_groups.find(group_id) is not None:
            error = await _delete_share_group(context, group_id)
        results.append(DeleteGroupsResponse.DeletableGroupResult(group_id=group_id, error_code=code(error)))
    return DeleteGroupsResponse(results=results)
