"""Transactions on the wire: old clients name partitions first, new ones (KIP-890) use them and get an epoch per end."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    DescribeProducersRequest,
    DescribeTransactionsRequest,
    EndTxnRequest,
    FetchRequest,
    InitProducerIdRequest,
    ListTransactionsRequest,
    OffsetFetchRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
)
from tests.kafka.wire import WireClient, batch_of, kafka_listener
from trivium.record_batch import parse_header

Id = tuple[int, int]


async def _init(client: WireClient, name: str | None = "x", version: int = 5, expected: Id = (-1, -1)) -> Any:
    request = InitProducerIdRequest(
        transactional_id=name, transaction_timeout_ms=60_000, producer_id=expected[0], producer_epoch=expected[1]
    )
    return await client.call(ApiKey.INIT_PRODUCER_ID, version, request)


async def _producer(client: WireClient, name: str = "x") -> Id:
    answer = await _init(client, name)
    assert answer.error_code == 0
    return answer.producer_id, answer.producer_epoch


async def _produce(
    client: WireClient,
    producer: Id,
    value: bytes,
    *,
    version: int,
    index: int = 0,
    sequence: int = 0,
    name: str | None = "x",
) -> int:
    batch = batch_of(
        value, producer_id=producer[0], producer_epoch=producer[1], base_sequence=sequence, transactional=True
    )
    data = ProduceRequest.PartitionProduceData(index=index, records=memoryview(batch))
    topic = ProduceRequest.TopicProduceData(name="t", partition_data=[data])
    request = ProduceRequest(transactional_id=name, acks=-1, topic_data=[topic])
    code: int = (await client.call(ApiKey.PRODUCE, version, request)).responses[0].partition_responses[0].error_code
    return code


async def _add(
    client: WireClient, producer: Id, *partitions: tuple[str, int], version: int = 3, name: str = "x"
) -> list[int]:
    request = AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=name,
        v3_and_below_producer_id=producer[0],
        v3_and_below_producer_epoch=producer[1],
        v3_and_below_topics=[
            AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(name=topic, partitions=[index])
            for topic, index in partitions
        ],
    )
    answer = await client.call(ApiKey.ADD_PARTITIONS_TO_TXN, version, request)
    rows = [row for topic in answer.results_by_topic_v3_and_below for row in topic.results_by_partition]
    return [row.partition_error_code for row in rows]


async def _end(client: WireClient, producer: Id, commit: bool, version: int = 5, name: str = "x") -> Any:
    request = EndTxnRequest(
        transactional_id=name, producer_id=producer[0], producer_epoch=producer[1], committed=commit
    )
    return await client.call(ApiKey.END_TXN, version, request)


async def _send_offset(client: WireClient, producer: Id, offset: int, version: int) -> int:
    partition = TxnOffsetCommitRequest.TxnOffsetCommitRequestPartition(
        partition_index=0, committed_offset=offset, committed_metadata=""
    )
    request = TxnOffsetCommitRequest(
        transactional_id="x",
        group_id="g",
        producer_id=producer[0],
        producer_epoch=producer[1],
        topics=[TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic(name="t", partitions=[partition])],
    )
    answer = await client.call(ApiKey.TXN_OFFSET_COMMIT, version, request)
    code: int = answer.topics[0].partitions[0].error_code
    return code


async def _committed(client: WireClient) -> int:
    topic = OffsetFetchRequest.OffsetFetchRequestTopic(name="t", partition_indexes=[0])
    answer = await client.call(ApiKey.OFFSET_FETCH, 5, OffsetFetchRequest(group_id="g", topics=[topic]))
    offset: int = answer.topics[0].partitions[0].committed_offset
    return offset


async def _fetch(client: WireClient, index: int = 0) -> Any:
    """The partition's answer to a reader of committed data."""
    partition = FetchRequest.FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=1_000_000)
    topic = FetchRequest.FetchTopic(topic="t", partitions=[partition])
    request = FetchRequest(
        max_wait_ms=0, min_bytes=0, max_bytes=1_000_000, isolation_level=1, session_epoch=-1, topics=[topic]
    )
    return (await client.call(ApiKey.FETCH, 11, request)).responses[0].partitions[0]


@pytest.mark.parametrize("version", range(6))
async def test_an_idempotent_producer_gets_a_fresh_id_each_time(version: int) -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        answers = [await _init(client, None, version) for _ in range(3)]
        assert {(answer.error_code, answer.producer_epoch) for answer in answers} == {(0, 0)}
        assert len({answer.producer_id for answer in answers}) == 3


@pytest.mark.parametrize("version", range(5))
async def test_old_clients_name_partitions_and_keep_their_epoch(version: int) -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        client = listener.connect()
        producer = await _producer(client)
        assert await _produce(client, producer, b"no", version=9) == ErrorCode.INVALID_TXN_STATE
        assert await _add(client, producer, ("t", 0), ("t", 1), version=min(version, 3)) == [0, 0]
        assert await _produce(client, producer, b"v", version=9) == 0
        assert (await _fetch(client)).last_stable_offset == 0
        assert (await _end(client, producer, True, version)).error_code == 0
        assert (await _end(client, producer, True, version)).error_code == 0
        assert (await _end(client, producer, False, version)).error_code == ErrorCode.INVALID_TXN_STATE
        found = await _fetch(client)
        assert (found.last_stable_offset, found.aborted_transactions) == (2, [])
        assert parse_header(found.records).producer_id == producer[0]
        assert await _produce(client, producer, b"next", version=11, sequence=1) == ErrorCode.TRANSACTION_ABORTABLE


async def test_new_clients_use_partitions_and_get_an_epoch_per_end() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        client = listener.connect()
        producer = await _producer(client)
        for commit in (False, True):
            assert await _produce(client, producer, b"v", version=12) == 0
            answer = await _end(client, producer, commit)
            assert (answer.error_code, answer.producer_id, answer.producer_epoch) == (0, producer[0], producer[1] + 1)
            again = await _end(client, producer, commit)
            assert (again.error_code, again.producer_epoch) == (0, answer.producer_epoch)
            producer = (answer.producer_id, answer.producer_epoch)
        found = await _fetch(client)
        assert found.last_stable_offset == 4
        assert [aborted.first_offset for aborted in found.aborted_transactions] == [0]


async def test_new_clients_cannot_begin_in_the_middle() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        producer = await _producer(client)
        out_of_order = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert await _produce(client, producer, b"second", version=12, sequence=1) == out_of_order
        assert await _produce(client, producer, b"first", version=12) == 0
        assert await _produce(client, producer, b"second", version=12, sequence=1) == 0


async def test_a_new_producer_fences_the_old_one_in_every_request() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        old = await _producer(client)
        assert await _produce(client, old, b"open", version=12) == 0
        await _producer(client)
        fenced, invalid = ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH
        assert await _produce(client, old, b"zombie", version=12, sequence=1) == invalid
        assert await _add(client, old, ("t", 0)) == [fenced]
        assert await _add(client, old, ("t", 0), version=1) == [invalid]
        assert (await _end(client, old, True)).error_code == fenced
        assert (await _end(client, old, True, 1)).error_code == invalid
        assert await _send_offset(client, old, 1, 5) == invalid
        assert (await _init(client, expected=old)).error_code == fenced
        assert (await _init(client, version=3, expected=old)).error_code == invalid
        assert (await _fetch(client)).last_stable_offset == 2


async def test_one_missing_partition_refuses_all() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        producer = await _producer(client)
        codes = await _add(client, producer, ("t", 0), ("no", 0), ("t", 5))
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert codes == [ErrorCode.OPERATION_NOT_ATTEMPTED, unknown, unknown]
        assert await _produce(client, producer, b"v", version=9) == ErrorCode.INVALID_TXN_STATE


async def test_malformed_requests_are_refused() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        assert (await _init(client, "")).error_code == ErrorCode.INVALID_REQUEST
        assert (await _init(client, expected=(5, -1))).error_code == ErrorCode.INVALID_REQUEST
        too_long = InitProducerIdRequest(transactional_id="x", transaction_timeout_ms=900_001)
        answer = await client.call(ApiKey.INIT_PRODUCER_ID, 4, too_long)
        assert (answer.error_code, answer.producer_id) == (ErrorCode.INVALID_TRANSACTION_TIMEOUT, -1)
        producer = await _producer(client)
        assert await _add(client, producer, ("t", 0), name="y") == [ErrorCode.INVALID_PRODUCER_ID_MAPPING]
        assert await _add(client, producer, ("t", 0), name="") == [ErrorCode.INVALID_REQUEST]
        assert (await _end(client, producer, True, name="")).error_code == ErrorCode.INVALID_REQUEST
        code = await _produce(client, producer, b"v", version=12, name=None)
        assert code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize("version", range(6))
async def test_offsets_count_when_their_transaction_commits(version: int) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        producer = await _producer(client)
        for commit, offset, expected in ((True, 5, 5), (False, 9, 5)):
            if version < 5:
                refusal = ErrorCode.INVALID_TXN_STATE if version < 4 else ErrorCode.TRANSACTION_ABORTABLE
                assert await _send_offset(client, producer, offset, version) == refusal
                request = AddOffsetsToTxnRequest(
                    transactional_id="x", producer_id=producer[0], producer_epoch=producer[1], group_id="g"
                )
                assert (await client.call(ApiKey.ADD_OFFSETS_TO_TXN, min(version, 4), request)).error_code == 0
            before = await _committed(client)
            assert await _send_offset(client, producer, offset, version) == 0
            assert await _committed(client) == before
            answer = await _end(client, producer, commit)
            assert answer.error_code == 0
            producer = (answer.producer_id, answer.producer_epoch)
            assert await _committed(client) == expected


async def test_tools_see_producers_and_transactions() -> None:
    async with kafka_listener(topics={"t": 2}) as listener:
        client = listener.connect()
        await _producer(client, "idle")
        producer = await _producer(client)
        assert await _produce(client, producer, b"v", version=12, index=1) == 0

        topic = DescribeProducersRequest.TopicRequest(name="t", partition_indexes=[1, 0, 9])
        answer = await client.call(ApiKey.DESCRIBE_PRODUCERS, 0, DescribeProducersRequest(topics=[topic]))
        busy, empty, missing = answer.topics[0].partitions
        [state] = busy.active_producers
        assert (state.producer_id, state.producer_epoch, state.current_txn_start_offset) == (*producer, 0)
        assert (empty.error_code, empty.active_producers) == (0, [])
        assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

        request = DescribeTransactionsRequest(transactional_ids=["x", "no"])
        found, none = (await client.call(ApiKey.DESCRIBE_TRANSACTIONS, 0, request)).transaction_states
        assert (found.transaction_state, found.producer_id, found.transaction_timeout_ms) == (
            "Ongoing",
            producer[0],
            60_000,
        )
        assert [(topic.topic, topic.partitions) for topic in found.topics] == [("t", [1])]
        assert found.transaction_start_time_ms > 0
        assert none.error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"idle", "x"}),
        ({"state_filters": ["Ongoing"]}, {"x"}),
        ({"state_filters": ["Empty", "Nope"]}, {"idle"}),
        ({"producer_id_filters": [0]}, {"idle"}),
        ({"duration_filter": 3_600_000}, set()),
        ({"transactional_id_pattern": "i.*"}, {"idle"}),
    ],
)
async def test_list_transactions(filters: dict[str, Any], expected: set[str]) -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect()
        await _producer(client, "idle")
        producer = await _producer(client)
        assert await _produce(client, producer, b"v", version=12) == 0
        answer = await client.call(ApiKey.LIST_TRANSACTIONS, 2, ListTransactionsRequest(**filters))
        assert {state.transactional_id for state in answer.transaction_states} == expected
        assert answer.unknown_state_filters == [name for name in filters.get("state_filters", []) if name == "Nope"]


async def test_a_broken_pattern_is_an_error() -> None:
    async with kafka_listener() as listener:
        client = listener.connect()
        request = ListTransactionsRequest(transactional_id_pattern="(")
        answer = await client.call(ApiKey.LIST_TRANSACTIONS, 2, request)
        assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
