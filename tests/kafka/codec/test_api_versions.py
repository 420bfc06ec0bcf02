"""What we say that we serve: within the tables, and in the form that each client version can read."""

from __future__ import annotations

import pytest

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.api_versions import ADVERTISED, ApiKey, answer_api_versions, is_served
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import ApiVersionsRequest, ApiVersionsResponse
from gateway.protocols.kafka.schemas import NAMES

REQUEST = ApiVersionsRequest(client_software_name="librdkafka", client_software_version="2.11.0")


def test_all_that_is_advertised_is_in_the_tables() -> None:
    for key, (low, high) in ADVERTISED.items():
        known_low, known_high = codec.known_versions(key)
        assert known_low <= low <= high <= known_high
        assert is_served(key, low)
        assert is_served(key, high)
        assert not is_served(key, high + 1)
        assert not is_served(key, low - 1)
    assert not is_served(12345, 0)


def test_names_are_those_of_the_tables() -> None:
    for key in ApiKey:
        assert NAMES[key, "request"].removesuffix("Request").lower() == key.name.replace("_", "").lower()


@pytest.mark.parametrize("version", range(5))
def test_every_version_answers_with_all_apis(version: int) -> None:
    encoded_as, response = answer_api_versions(version, REQUEST)
    assert encoded_as == version
    decoded = codec.decode_response(18, version, codec.encode_message(version, response))
    assert isinstance(decoded, ApiVersionsResponse)
    assert {row.api_key: (row.min_version, row.max_version) for row in decoded.api_keys} == ADVERTISED
    levels = {row.name: row.max_version_level for row in decoded.finalized_features}
    assert levels == ({"transaction.version": 2, "group.version": 1, "share.version": 1} if version >= 3 else {})
    assert bool(decoded.supported_features) == (version >= 4)
    assert decoded.finalized_features_epoch == (1 if version >= 3 else -1)


@pytest.mark.parametrize("version", [5, 99, -1])
def test_an_unknown_version_is_answered_in_version_0(version: int) -> None:
    encoded_as, response = answer_api_versions(version, None)
    assert encoded_as == 0
    frame = b"".join(codec.encode_response(18, encoded_as, 7, response))
    assert frame == bytes.fromhex("00000010 00000007 0023 00000001 0012 0000 0004")


@pytest.mark.parametrize(
    ("name", "number"), [("", "1"), ("a b", "1"), ("a", ""), ("-a", "1"), ("a", "1_0"), ("a\n", "1")]
)
def test_malformed_client_software_is_an_invalid_request(name: str, number: str) -> None:
    request = ApiVersionsRequest(client_software_name=name, client_software_version=number)
    assert answer_api_versions(3, request)[1].error_code == ErrorCode.INVALID_REQUEST
    assert answer_api_versions(2, request)[1].error_code == ErrorCode.NONE
