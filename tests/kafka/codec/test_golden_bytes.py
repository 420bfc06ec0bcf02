"""Bytes written by hand from the protocol guide, against the codec, both ways."""

from __future__ import annotations

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import Message
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    ConsumerGroupHeartbeatResponse,
    FetchResponse,
    MetadataRequest,
    OffsetFetchRequest,
    ProduceRequest,
    ProduceResponse,
)

TOPIC_ID = bytes(range(16))


def check(version: int, message: Message, golden: str) -> None:
    data = bytes.fromhex(golden)
    assert codec.encode_message(version, message).hex(" ") == data.hex(" ")
    assert codec.decode_message(type(message).__name__, version, data) == message


def test_metadata_v0_asks_for_two_topics() -> None:
    check(
        0,
        MetadataRequest(topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in ("ab", "c")]),
        "00000002 0002 6162 0001 63",
    )


def test_metadata_v1_null_array_is_minus_one() -> None:
    check(1, MetadataRequest(topics=None), "ffffffff")


def test_metadata_v12_is_compact_with_ids_and_nullable_names() -> None:
    topic = MetadataRequest.MetadataRequestTopic(topic_id=TOPIC_ID, name=None)
    check(
        12,
        MetadataRequest(topics=[topic], allow_auto_topic_creation=False, include_topic_authorized_operations=True),
        f"02 {TOPIC_ID.hex()} 00 00  00 01 00",
    )


def test_produce_v2_has_no_transactional_id() -> None:
    partition = ProduceRequest.PartitionProduceData(index=3, records=memoryview(b"\xaa\xbb"))
    check(
        2,
        ProduceRequest(
            acks=-1,
            timeout_ms=1000,
            topic_data=[ProduceRequest.TopicProduceData(name="t", partition_data=[partition])],
        ),
        "ffff 000003e8 00000001 0001 74 00000001 00000003 00000002 aabb",
    )


def test_produce_v9_is_compact() -> None:
    partition = ProduceRequest.PartitionProduceData(index=3, records=memoryview(b"\xaa\xbb"))
    check(
        9,
        ProduceRequest(
            transactional_id="x",
            acks=1,
            timeout_ms=1000,
            topic_data=[ProduceRequest.TopicProduceData(name="t", partition_data=[partition])],
        ),
        "02 78 0001 000003e8 02 02 74 02 00000003 03 aabb 00 00 00",
    )


def test_produce_response_v10_tags_leader_and_endpoints() -> None:
    partition = ProduceResponse.PartitionProduceResponse(
        index=0,
        error_code=ErrorCode.NOT_LEADER_OR_FOLLOWER,
        base_offset=-1,
        log_start_offset=-1,
        current_leader=ProduceResponse.LeaderIdAndEpoch(leader_id=2, leader_epoch=5),
    )
    check(
        10,
        ProduceResponse(
            responses=[ProduceResponse.TopicProduceResponse(name="t", partition_responses=[partition])],
            node_endpoints=[ProduceResponse.NodeEndpoint(node_id=2, host="h", port=9092)],
        ),
        "02 02 74 02 00000000 0006 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01 00"
        "01 00 09 00000002 00000005 00"
        "00 00000000"
        "01 00 0d 02 00000002 02 68 00002384 00 00",
    )


def test_fetch_response_v4_and_records_in_pieces() -> None:
    partition = FetchResponse.PartitionData(
        partition_index=1,
        high_watermark=9,
        last_stable_offset=8,
        aborted_transactions=[FetchResponse.AbortedTransaction(producer_id=7, first_offset=6)],
        records=memoryview(b"abcdef"),
    )
    response = FetchResponse(responses=[FetchResponse.FetchableTopicResponse(topic="t", partitions=[partition])])
    golden = (
        "00000000 00000001 0001 74 00000001 00000001 0000 0000000000000009 0000000000000008"
        "00000001 0000000000000007 0000000000000006 00000006 616263646566"
    )
    check(4, response, golden)
    partition.records = [b"ab", memoryview(b"cdef")]
    assert codec.encode_message(4, response) == bytes.fromhex(golden)


def test_fetch_response_v13_has_topic_ids_and_null_records() -> None:
    partition = FetchResponse.PartitionData(partition_index=1, error_code=3, aborted_transactions=None)
    response = FetchResponse(
        session_id=5, responses=[FetchResponse.FetchableTopicResponse(topic_id=TOPIC_ID, partitions=[partition])]
    )
    check(
        13,
        response,
        f"00000000 0000 00000005 02 {TOPIC_ID.hex()} 02 00000001 0003 0000000000000000 ffffffffffffffff"
        "ffffffffffffffff 00 ffffffff 00 00 00 00",
    )


def test_offset_fetch_v8_asks_by_group() -> None:
    group = OffsetFetchRequest.OffsetFetchRequestGroup(group_id="g", topics=None)
    check(8, OffsetFetchRequest(groups=[group], require_stable=True), "02 02 67 00 00 01 00")


def test_nullable_struct_is_marked_by_one_byte() -> None:
    assignment = ConsumerGroupHeartbeatResponse.Assignment(topic_partitions=[])
    check(
        0,
        ConsumerGroupHeartbeatResponse(member_id="m", member_epoch=1, heartbeat_interval_ms=5, assignment=None),
        "00000000 0000 00 02 6d 00000001 00000005 ff 00",
    )
    check(
        0,
        ConsumerGroupHeartbeatResponse(member_id="m", member_epoch=1, heartbeat_interval_ms=5, assignment=assignment),
        "00000000 0000 00 02 6d 00000001 00000005 01 01 00 00",
    )


def test_api_versions_v3_tags_features() -> None:
    feature = ApiVersionsResponse.FinalizedFeatureKey(name="f", max_version_level=2, min_version_level=1)
    check(
        3,
        ApiVersionsResponse(
            api_keys=[ApiVersionsResponse.ApiVersion(api_key=18, min_version=0, max_version=4)],
            finalized_features_epoch=1,
            finalized_features=[feature],
        ),
        "0000 02 0012 0000 0004 00 00000000 02 01 08 0000000000000001 02 08 02 02 66 0002 0001 00",
    )


def test_request_frames_of_each_header_version() -> None:
    v0 = codec.encode_request(18, 0, 7, "abc", ApiVersionsRequest())
    assert v0 == bytes.fromhex("0000000d 0012 0000 00000007 0003 616263")
    request = ApiVersionsRequest(client_software_name="java", client_software_version="4.2.0")
    v3 = codec.encode_request(18, 3, 7, None, request)
    assert v3 == bytes.fromhex("00000017 0012 0003 00000007 ffff 00 05 6a617661 06 342e322e30 00")
    assert codec.decode_request_header(v3[4:]) == (codec.RequestHeader(18, 3, 7, None), 11)
    assert codec.decode_request(18, 3, v3[4:], 11) == request


def test_response_frames_of_both_header_versions() -> None:
    api_versions = b"".join(codec.encode_response(18, 3, 7, ApiVersionsResponse()))
    assert api_versions == bytes.fromhex("0000000c 00000007 0000 01 00000000 00")
    produce = b"".join(codec.encode_response(0, 9, 7, ProduceResponse()))
    assert produce == bytes.fromhex("0000000b 00000007 00 01 00000000 00")
    assert codec.decode_response_header(0, 9, produce[4:]) == (7, 5)
