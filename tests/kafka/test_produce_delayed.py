"""Produce with `deliver-at`, and topics that take one kind of message only."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
import trio.lowlevel

from core.intake import MENTION
from core.schedules import Schedules
from gateway.protocols.kafka.errors import ErrorCode
from tests.core.schedules_driver import records_in
from tests.kafka.test_produce import produced, request
from tests.kafka.wire import Listener, kafka_listener
from trivium.record_batch import Codec
from trivium.records import Record, build

SOON_MS, LATER_MS = 60_000, 120_000
CODECS = [Codec.NONE, Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD]


def record(value: bytes, deliver_at: bytes | None = None, key: bytes | None = b"k") -> Record:
    headers: list[tuple[str, bytes | None]] = [("a", b"1")]
    if deliver_at is not None:
        headers.append(("deliver-at", deliver_at))
    return Record(0, 1_700_000_000_000, key, value, headers)


def at(after_ms: int) -> bytes:
    return b"%d" % (time.time_ns() // 1_000_000 + after_ms)


async def topic_of(listener: Listener, kind: str = "any") -> int:
    topic = await listener.broker.topics.create("t", 1, {"message.type": kind})
    return topic.partitions[0]


async def pending(schedules: Schedules) -> list[str | None]:
    return [row.topic for row in await schedules.page()]


def values(listener: Listener, partition: int) -> list[bytes | None]:
    return [record.value for record in records_in(listener.broker.engine, partition)]  # type: ignore[arg-type]


def test_the_searched_bytes_are_a_headers_name_as_it_stands_in_a_batch() -> None:
    assert MENTION in build([record(b"", b"1")])


@pytest.mark.parametrize("padding", [0, 10_000])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["any", "mixed"])
async def test_records_with_a_time_leave_holes_and_the_rest_is_there(kind: str, codec: Codec, padding: int) -> None:
    async with kafka_listener() as listener:
        partition = await topic_of(listener, kind)
        records = [
            record(bytes(range(256)) * (padding // 256)),
            record(b"later", at(LATER_MS)),
            record(b"past", b"1"),
            record(b"soon", at(SOON_MS)),
            record(b"now"),
        ]
        client = listener.connect()
        batch = build(records, codec=codec, producer_id=7, producer_epoch=0, base_sequence=0)
        first = await produced(client, request(batch))
        again = await produced(client, request(batch))
        assert (first.error_code, first.base_offset, again.error_code, again.base_offset) == (0, 0, 0, 0)
        following = build([record(b"next")], producer_id=7, producer_epoch=0, base_sequence=5)
        assert (await produced(client, request(following))).base_offset == 5
        looked = kind == "mixed" or codec == Codec.NONE
        found = values(listener, partition)[1:]
        assert found == ([b"past", b"now", b"next"] if looked else [b"later", b"past", b"soon", b"now", b"next"])
        assert await pending(listener.broker.schedules) == ["t"] * (2 if looked else 0)


async def test_a_batch_of_nothing_but_later_records_is_an_empty_one() -> None:
    async with kafka_listener() as listener:
        partition = await topic_of(listener)
        client = listener.connect()
        for _ in range(2):
            assert (await produced(client, request(build([record(b"x", at(SOON_MS))])))).error_code == 0
        assert values(listener, partition) == []
        assert listener.broker.engine.info(partition).high_watermark == 2
        assert await pending(listener.broker.schedules) == ["t", "t"]


@pytest.mark.parametrize(
    ("kind", "sent", "taken"),
    [
        ("any", record(b"x", b"tomorrow"), True),
        ("any", record(b"x", b"9" * 16), True),
        ("mixed", record(b"x", b"tomorrow"), False),
        ("mixed", record(b"x", b"9" * 15), False),
        ("mixed", record(b"x", b"-5"), False),
        ("mixed", record(b"x"), True),
        ("delay", record(b"x"), False),
        ("delay", record(b"x", b"1"), True),
        ("fifo", record(b"x"), True),
        ("fifo", record(b"x", key=None), False),
        ("fifo", record(b"x", b"1"), False),
        ("normal", record(b"x", at(SOON_MS), key=None), True),
        ("transaction", record(b"x"), False),
    ],
)
async def test_a_topic_takes_its_kind_of_records_only(kind: str, sent: Record, taken: bool) -> None:
    async with kafka_listener() as listener:
        partition = await topic_of(listener, kind)
        answer = await produced(listener.connect(), request(build([sent])))
        assert answer.error_code == (ErrorCode.NONE if taken else ErrorCode.INVALID_RECORD), answer.error_message
        assert values(listener, partition) == [b"x"] * taken


@pytest.mark.parametrize(
    ("kind", "headed", "taken"), [("any", True, False), ("any", False, True), ("mixed", True, False)]
)
async def test_a_transaction_takes_no_record_that_must_wait(kind: str, headed: bool, taken: bool) -> None:
    async with kafka_listener() as listener:
        partition = await topic_of(listener, kind)
        done: list[Any] = []
        transactions = listener.broker.transactions
        transactions.init_producer("x", 60_000, None, 0, done.append)
        while not done:
            await trio.lowlevel.checkpoint()
        producer = done[0].producer
        sent = record(b"x", at(SOON_MS) if headed else None)
        batch = build([sent], producer_id=producer.id, producer_epoch=0, base_sequence=0, transactional=True)
        message = request(batch)
        message.transactional_id = "x"
        answer = await produced(listener.connect(), message, 12)
        assert answer.error_code == (ErrorCode.NONE if taken else ErrorCode.INVALID_RECORD)
        assert len(values(listener, partition)) == taken
