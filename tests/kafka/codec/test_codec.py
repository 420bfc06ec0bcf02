"""The codec's own rules: headers, limits, records that are not copied, tagged fields, and errors that say why."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.protocols.kafka import codec
from gateway.protocols.kafka.codec_model import message_class
from gateway.protocols.kafka.codec_runtime import ELEMENTS_MAX, uvarint
from gateway.protocols.kafka.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, UnsupportedVersionError
from gateway.protocols.kafka.messages import (
    ElectLeadersRequest,
    FetchResponse,
    MetadataRequest,
    MetadataResponse,
    ProduceRequest,
)
from tests.patience import PATIENCE_S


def refused(name: str, version: int, golden: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        codec.decode_message(name, version, bytes.fromhex(golden))
    assert f"{name} v{version}" in str(caught.value)


def test_records_of_a_produce_request_are_a_view_of_the_frame() -> None:
    partition = ProduceRequest.PartitionProduceData(index=0, records=memoryview(b"x" * 1000))
    request = ProduceRequest(topic_data=[ProduceRequest.TopicProduceData(name="t", partition_data=[partition])])
    frame = codec.encode_message(7, request)
    decoded = codec.decode_request(0, 7, memoryview(frame))
    assert isinstance(decoded, ProduceRequest)
    records = decoded.topic_data[0].partition_data[0].records
    assert records is not None
    assert records.obj is frame


def test_records_of_a_fetch_response_are_passed_on_uncopied() -> None:
    views: list[bytes | memoryview] = [memoryview(bytearray(100)), memoryview(bytearray(200))]
    partition = FetchResponse.PartitionData(partition_index=0, records=views)
    response = FetchResponse(responses=[FetchResponse.FetchableTopicResponse(topic="t", partitions=[partition])])
    for version in (4, 12):
        pieces = codec.encode_response(1, version, 1, response)
        assert [piece for piece in pieces if any(piece is view for view in views)] == views
        assert int.from_bytes(pieces[0][:4], "big") == sum(map(len, pieces)) - 4


@pytest.mark.parametrize(
    ("version", "golden", "why"),
    [
        (1, "7fffffff", "array of 2147483647 elements"),
        (1, "00000002 0001", "array of 2 elements"),
        (1, "fffffffe", "length -2"),
        (0, "ffffffff", "topics may not be null"),
        (1, "00000001 ffff", "name may not be null"),
        (1, "00000001 fff0", "length -16"),
        (1, "00000001 7fff 61", "32767 bytes announced"),
        (1, "00000001 0002 61", "2 bytes announced"),
        (1, "00000001 0002 c328", "not UTF-8"),
        (9, "ffffffff0f 01", "array of 4294967294 elements"),
        (9, "ffffffffff01", "varint longer than 5 bytes"),
        (9, "ffffffff10", "varint over 32 bits"),
        (9, "02 8180028080", "string of 32768 bytes"),
        (9, "01 00 00 00 01", "ends early|tagged fields"),
        (9, "01 00 00 00 7f 0000", "127 tagged fields"),
        (9, "01 00 00 00 01 05 03 00", "3 bytes announced"),
        (9, "01 00 00 00 00 00", "1 bytes behind"),
        (9, "", "ends early"),
    ],
)
def test_lying_metadata_requests_are_refused(version: int, golden: str, why: str) -> None:
    refused("MetadataRequest", version, golden, why)


def test_a_tagged_field_must_fill_its_size() -> None:
    refused("ApiVersionsResponse", 3, "0000 01 00000000 01 01 09 000000000000000100", "does not fill its 9 bytes")
    refused("ApiVersionsResponse", 3, "0000 01 00000000 01 01 07 00000000000001", "ends early|does not fill")


def test_unknown_tagged_fields_are_skipped_at_every_level() -> None:
    plain = bytes.fromhex("02 02 61 00 01 00 00 00")
    tagged = bytes.fromhex("02 02 61 01 63 03 aabbcc 01 00 00 02 00 00 8101 01 ff")
    assert codec.decode_request(3, 9, tagged) == codec.decode_request(3, 9, plain)


def test_elements_of_one_message_are_limited_over_all_its_arrays() -> None:
    one_array = (ELEMENTS_MAX + 1).to_bytes(4, "big") + bytes(2 * ELEMENTS_MAX + 2)
    with pytest.raises(RemoteProtocolError, match=f"more than {ELEMENTS_MAX} array elements"):
        codec.decode_request(3, 1, one_array)
    half = ElectLeadersRequest.TopicPartitions(topic="t", partitions=[0] * (ELEMENTS_MAX // 2))
    request = ElectLeadersRequest(topic_partitions=[half, half])
    with pytest.raises(RemoteProtocolError, match=f"more than {ELEMENTS_MAX} array elements"):
        codec.decode_request(43, 1, codec.encode_message(1, request))


def test_varint_takes_up_to_32_bits() -> None:
    assert uvarint(b"\xff\xff\xff\xff\x0f", 0) == (2**32 - 1, 5)
    assert uvarint(b"\x80\x00", 0) == (0, 2)


@pytest.mark.parametrize(("api_key", "version"), [(3, 14), (3, -1), (999, 0), (-1, 0)])
def test_unknown_versions_and_apis_carry_their_code(api_key: int, version: int) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        codec.decode_request(api_key, version, b"")
    assert caught.value.code is ErrorCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    ("api_key", "version", "request_header", "response_header"),
    [
        (0, 0, 1, 0),
        (0, 9, 2, 1),
        (7, 0, 0, 0),
        (7, 1, 1, 0),
        (18, 2, 1, 0),
        (18, 3, 2, 0),
        (18, 99, 2, 0),
        (47, 0, 1, 0),
    ],
)
def test_header_versions(api_key: int, version: int, request_header: int, response_header: int) -> None:
    assert codec.request_header_version(api_key, version) == request_header
    assert codec.response_header_version(api_key, version) == response_header


@pytest.mark.parametrize(
    ("golden", "why"),
    [
        ("0003", "ends early"),
        ("0003 0001 00000001", "ends early"),
        ("0003 0001 00000001 0005 61", "client id of 5 bytes"),
        ("0003 0001 00000001 fffe", "client id of -2 bytes"),
        ("0003 0009 00000001 ffff", "ends early"),
        ("0003 0009 00000001 ffff 01 00 05", "announced"),
        ("7fff 0001 00000001 ffff", "unknown"),
    ],
)
def test_broken_request_headers_are_refused(golden: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        codec.decode_request_header(bytes.fromhex(golden))


def test_tagged_fields_of_a_request_header_are_skipped() -> None:
    header, offset = codec.decode_request_header(bytes.fromhex("0003 0009 00000005 0001 63 01 09 02 aabb 01"))
    assert (header.client_id, header.correlation_id, offset) == ("c", 5, 16)


def test_a_client_id_that_is_not_utf8_is_accepted_as_kafka_does() -> None:
    header, offset = codec.decode_request_header(bytes.fromhex("0003 0001 00000001 0002 61ff"))
    assert (header.client_id, offset) == ("a\ufffd", 12)


def test_what_a_version_cannot_carry_is_our_error() -> None:
    topic = MetadataResponse.MetadataResponseTopic(name=None)
    with pytest.raises(LocalProtocolError, match="MetadataResponse v9"):
        codec.encode_message(9, MetadataResponse(topics=[topic]))
    assert codec.encode_message(12, MetadataResponse(topics=[topic]))
    with pytest.raises(LocalProtocolError):
        codec.encode_message(1, MetadataResponse(controller_id=2**31))
    for version in (1, 9):
        long_name = MetadataRequest.MetadataRequestTopic(name="x" * 40_000)
        with pytest.raises(LocalProtocolError):
            codec.encode_message(version, MetadataRequest(topics=[long_name]))
    with pytest.raises(LocalProtocolError, match="unknown"):
        codec.encode_message(99, MetadataRequest())
    with pytest.raises(LocalProtocolError):
        message_class("NoSuchRequest")


def test_defaults_are_fresh_and_messages_compare_by_value() -> None:
    first, second = MetadataRequest(), MetadataRequest()
    assert first == second
    assert first.topics is not second.topics
    assert first != MetadataResponse()
    assert repr(MetadataRequest.MetadataRequestTopic(name="t")).startswith("MetadataRequest.MetadataRequestTopic(")
    with pytest.raises(AttributeError):
        first.no_such_field = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        MetadataRequest(no_such_field=1)  # type: ignore[call-arg]


def test_importing_the_codec_compiles_no_message() -> None:
    script = (
        "from gateway.protocols.kafka import codec, codec_model\n"
        "assert not codec._decoders and not codec_model.struct_classes.cache_info().currsize"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


def test_bytes_behind_a_request_are_left_alone() -> None:
    # Metadata v13 for all topics as librdkafka 2.16 sends it: the null array is followed by what its count had reserved
    request = codec.decode_request(3, 13, bytes.fromhex("00 000000 01 00 00"))
    assert isinstance(request, MetadataRequest)
    assert request.topics is None
