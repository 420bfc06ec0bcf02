"""Quotas and SCRAM credentials: codes and words as Apache Kafka 4.2, which had none either, gave them."""

from __future__ import annotations

import pytest

from gateway.protocols.kafka.api_versions import ADVERTISED, ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import DescribeClientQuotasRequest, DescribeUserScramCredentialsRequest
from tests.kafka.wire import kafka_listener

Component = tuple[str, int, str | None]
EXACT, DEFAULT, ANY = 0, 1, 2


def _filter(*components: Component) -> DescribeClientQuotasRequest:
    return DescribeClientQuotasRequest(
        components=[
            DescribeClientQuotasRequest.ComponentData(entity_type=kind, match_type=match_type, match=match)
            for kind, match_type, match in components
        ]
    )


@pytest.mark.parametrize("version", range(2))
@pytest.mark.parametrize(
    "components",
    [
        [],
        [("user", ANY, None)],
        [("user", DEFAULT, None), ("client-id", EXACT, "c")],
        [("client-id", EXACT, "")],
        [("ip", EXACT, "no address")],
    ],
)
async def test_nobody_has_a_quota(components: list[Component], version: int) -> None:
    async with kafka_listener() as listener:
        answer = await listener.connect().call(ApiKey.DESCRIBE_CLIENT_QUOTAS, version, _filter(*components))
        assert (answer.error_code, answer.error_message, answer.entries) == (0, "", [])


@pytest.mark.parametrize(
    ("components", "code", "message"),
    [
        ([("", ANY, None)], ErrorCode.INVALID_REQUEST, "Invalid empty entity type."),
        ([("foo", ANY, None)], ErrorCode.UNSUPPORTED_VERSION, "Unsupported entity type foo"),
        ([("foo", ANY, None), ("user", 9, None)], ErrorCode.UNSUPPORTED_VERSION, "Unsupported entity type foo"),
        ([("user", 3, None)], ErrorCode.INVALID_REQUEST, "Unknown match type 3"),
        ([("user", -1, None)], ErrorCode.INVALID_REQUEST, "Unknown match type -1"),
        (
            [("user", EXACT, None)],
            ErrorCode.INVALID_REQUEST,
            "Request specified MATCH_TYPE_EXACT, but set match string to null.",
        ),
        (
            [("user", DEFAULT, "x")],
            ErrorCode.INVALID_REQUEST,
            "Request specified MATCH_TYPE_DEFAULT, but also specified a match string.",
        ),
        (
            [("user", ANY, "x")],
            ErrorCode.INVALID_REQUEST,
            "Request specified MATCH_TYPE_SPECIFIED, but also specified a match string.",
        ),
        (
            [("ip", ANY, None), ("user", ANY, None), ("user", ANY, None)],
            ErrorCode.INVALID_REQUEST,
            "Entity type user cannot appear more than once in the filter.",
        ),
        (
            [("client-id", ANY, None), ("ip", ANY, None)],
            ErrorCode.INVALID_REQUEST,
            (
                "Invalid entity filter component combination. "
                "IP filter component should not be used with user or clientId filter component."
            ),
        ),
    ],
)
async def test_filters_that_match_nothing_are_refused(
    components: list[Component], code: ErrorCode, message: str
) -> None:
    async with kafka_listener() as listener:
        answer = await listener.connect().call(ApiKey.DESCRIBE_CLIENT_QUOTAS, 1, _filter(*components))
        assert (answer.error_code, answer.error_message, answer.entries) == (code, message, None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, []),
        ([], []),
        (["x"], [("x", ErrorCode.RESOURCE_NOT_FOUND)]),
        (
            ["x", "", "x", "y", "x"],
            [
                ("x", ErrorCode.DUPLICATE_RESOURCE),
                ("", ErrorCode.RESOURCE_NOT_FOUND),
                ("y", ErrorCode.RESOURCE_NOT_FOUND),
            ],
        ),
    ],
)
async def test_nobody_has_scram_credentials(names: list[str] | None, expected: list[tuple[str, ErrorCode]]) -> None:
    users = None if names is None else [DescribeUserScramCredentialsRequest.UserName(name=name) for name in names]
    async with kafka_listener() as listener:
        request = DescribeUserScramCredentialsRequest(users=users)
        answer = await listener.connect().call(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, request)
        assert (answer.error_code, answer.error_message) == (0, "")
        assert [(one.user, one.error_code) for one in answer.results] == expected
        assert all(one.error_message.endswith(f": {one.user}") and not one.credential_infos for one in answer.results)


def test_nothing_can_give_them_any() -> None:
    assert not {ApiKey.ALTER_CLIENT_QUOTAS, ApiKey.ALTER_USER_SCRAM_CREDENTIALS} & ADVERTISED.keys()
