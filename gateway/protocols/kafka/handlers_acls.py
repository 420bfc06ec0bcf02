"""Access control lists over Kafka's protocol.

There is no authorizer here, and this is said in Kafka's words: tools such as MirrorMaker take them for nothing to do,
and a missing API for a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    CreateAclsRequest,
    CreateAclsResponse,
    DeleteAclsRequest,
    DeleteAclsResponse,
    DescribeAclsResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

_NO_AUTHORIZER: Final = "No Authorizer is configured."


async def describe_acls(context: Context, request: Request) -> Message:
    return DescribeAclsResponse(
        error_code=ErrorCode.SECURITY_DISABLED, error_message="No Authorizer is configured on the broker"
    )


async def create_acls(context: Context, request: Request) -> Message:
    body: CreateAclsRequest = request.body  # type: ignore[assignment]
    refused = CreateAclsResponse.AclCreationResult(error_code=ErrorCode.SECURITY_DISABLED, error_message=_NO_AUTHORIZER)
    return CreateAclsResponse(results=[refused] * len(body.creations))


async def delete_acls(context: Context, request: Request) -> Message:
    body: DeleteAclsRequest = request.body  # type: ignore[assignment]
    refused = DeleteAclsResponse.DeleteAclsFilterResult(
        error_code=ErrorCode.SECURITY_DISABLED, error_message=_NO_AUTHORIZER
    )
    return DeleteAclsResponse(filter_results=[refused] * len(body.filters))
