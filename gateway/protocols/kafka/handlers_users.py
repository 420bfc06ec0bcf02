"""What tools ask about users, clients and addresses: DescribeClientQuotas (KIP-546) and DescribeUserScramCredentials
(KIP-554).

Nobody has a quota or credentials here, and nothing can give them any: the APIs that would are not served. Codes and
words are Kafka's.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_configs import Refusal
from gateway.protocols.kafka.messages import (
    DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    Message,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

USER, CLIENT, ADDRESS = "user", "client-id", "ip"
EXACT = 0
MATCH_TYPES: Final = {EXACT: "MATCH_TYPE_EXACT", 1: "MATCH_TYPE_DEFAULT", 2: "MATCH_TYPE_SPECIFIED"}


# -- DescribeClientQuotas


async def describe_client_quotas(context: Context, request: Request) -> Message:
    body: DescribeClientQuotasRequest = request.body  # type: ignore[assignment]
    try:
        _check_filter(body.components)
    except Refusal as refusal:
        return DescribeClientQuotasResponse(error_code=refusal.code, error_message=refusal.message, entries=None)
    return DescribeClientQuotasResponse(entries=[])


def _check_filter(components: list[DescribeClientQuotasRequest.ComponentData]) -> None:
    """Raises Refusal for the first component that no entity could be matched with, then for a combination."""
    seen: set[str] = set()
    for component in components:
        kind = component.entity_type
        if not kind:
            raise Refusal(ErrorCode.INVALID_REQUEST, "Invalid empty entity type.")
        if kind in seen:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Entity type {kind} cannot appear more than once in the filter.")
        if kind not in (USER, CLIENT, ADDRESS):
            raise Refusal(ErrorCode.UNSUPPORTED_VERSION, f"Unsupported entity type {kind}")
        seen.add(kind)
        _check_match(component)
    if ADDRESS in seen and len(seen) > 1:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            "Invalid entity filter component combination. "
            "IP filter component should not be used with user or clientId filter component.",
        )


def _check_match(component: DescribeClientQuotasRequest.ComponentData) -> None:
    """Raises Refusal unless there is a name to match exactly where one is needed, and only there."""
    match_type = MATCH_TYPES.get(component.match_type)
    if match_type is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown match type {component.match_type}")
    if component.match_type == EXACT and component.match is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Request specified {match_type}, but set match string to null.")
    if component.match_type != EXACT and component.match is not None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"Request specified {match_type}, but also specified a match string.")


# -- DescribeUserScramCredentials


async def describe_user_scram_credentials(context: Context, request: Request) -> Message:
    """No users, or an empty list of them, ask for all."""
    body: DescribeUserScramCredentialsRequest = request.body  # type: ignore[assignment]
    results = []
    for name, count in Counter(user.name for user in body.users or ()).items():
        code, message = ErrorCode.RESOURCE_NOT_FOUND, "Attempt to describe a user credential that does not exist"
        if count > 1:
            code = ErrorCode.DUPLICATE_RESOURCE
            message = "Cannot describe SCRAM credentials for the same user twice in a single request"
        results.append(
            DescribeUserScramCredentialsResponse.DescribeUserScramCredentialsResult(
                user=name, error_code=code, error_message=f"{message}: {name}", credential_infos=[]
            )
        )
    return DescribeUserScramCredentialsResponse(results=results)
