"""What attacks on the broker brought to light, one test for each."""

from __future__ import annotations

import pytest

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import MetadataRequest
from tests.kafka.wire import kafka_listener


@pytest.mark.parametrize("version", [10, 11, 12, 13])
async def test_metadata_of_a_topic_without_a_name_is_answered(version: int) -> None:
    async with kafka_listener() as listener:
        request = MetadataRequest(topics=[MetadataRequest.MetadataRequestTopic(name=None, topic_id=bytes(15) + b"x")])
        answer = await listener.connect().call(ApiKey.METADATA, version, request)
        expected = ErrorCode.UNKNOWN_TOPIC_ID if version >= 12 else ErrorCode.INVALID_REQUEST
        assert answer.topics[0].error_code == expected
