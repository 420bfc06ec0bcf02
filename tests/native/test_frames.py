"""Frames on the wire: golden bytes, every declared message there and back, hostile bytes, first words."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from core.errors import CoreError
from core.store.engine import Outcome
from gateway.protocols.native.codes import CORE_CODES, OUTCOME_CODES
from gateway.protocols.native.handlers import HANDLERS
from tests.native.harness import serving
from trivium.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from trivium.frame_reader import FrameReader
from trivium.frames.codec import KINDS, PREFIX_BYTES, REPLY_BIT, SIZE_BYTES, Frame, decode, encode
from trivium.frames.connection import MAGIC, AskStatus, Done, Error, Hello, Status, Welcome
from trivium.frames.halves import (
    CheckBack,
    CheckBackReply,
    EndHalf,
    HalfRow,
    JoinProducers,
    LeaveProducers,
    ListHalves,
    ListHalvesReply,
    ResumeHalf,
    SendHalf,
)
from trivium.frames.offsets import (
    Commit,
    CommitReply,
    Committed,
    CommittedReply,
    FindOffsets,
    FindOffsetsReply,
    FoundOffset,
    OffsetEntry,
    TimeEntry,
)
from trivium.frames.pulling import Aborted, Pull, PullEntry, PullReply, PullResult
from trivium.frames.queue_admin import (
    AskMember,
    ConfigureQueue,
    DeleteQueue,
    DescribeQueues,
    DescribeQueuesReply,
    PauseQueue,
    QueueInfo,
    QueueMember,
    QueuePlace,
    ResendDeadLetters,
)
from trivium.frames.queues import (
    Deliver,
    Delivery,
    Grant,
    QueueSettings,
    Range,
    Receive,
    ReceiveReply,
    SettleEntry,
    SettleReply,
    SettleRequest,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from trivium.frames.resets import GroupReset, Place, Reset, ResetReply
from trivium.frames.scheduled import Cancel, CancelReply, ListScheduled, ListScheduledReply, ScheduledRow
from trivium.frames.sending import (
    NewProducer,
    NewProducerReply,
    Note,
    Send,
    SendEntry,
    SendIf,
    SendIfReply,
    SendReply,
    SendResult,
)
from trivium.frames.topics import ConfigEntry, CreateTopic, DeleteTopic, Metadata, MetadataReply, TopicInfo
from trivium.frames.traces import FindTraces, FindTracesReply, TraceEntry
from trivium.frames.transactions import EndTransaction, OpenTransactions, SendOffsets, TransactionalProducer

FRAME_BYTES_MAX = 1 << 20

MEMBER, PLACE = QueueMember("m", "c", 1), QueuePlace("t", 0, 1, 2, 3, 1, 0, 2)
MESSAGES: list[tuple[int, Any, bytes]] = [
    (0x01, Hello(MAGIC, 1, 1, "me", "x/1"), b""),
    (0x81, Welcome(1, "cluster", 1 << 20, 256), b""),
    (0x02, Metadata(1, ["a", "b"]), b""),
    (0x82, MetadataReply([TopicInfo("a", 0, bytes(16), 3, [ConfigEntry("k", "v")])]), b""),
    (0x03, CreateTopic("a", 3, [ConfigEntry("k", "v")]), b""),
    (0x83, Done(), b""),
    (0x04, DeleteTopic("a"), b""),
    (0x05, NewProducer(), b""),
    (0x85, NewProducerReply(7, 0), b""),
    (0x06, Send(1, "x", [SendEntry("t", 0, 2), SendEntry("\u00fc", 9, 1)]), b"abc"),
    (0x86, SendReply([SendResult(0, "", 1, [Note(3, "i", 2)], 41), SendResult(80, "full", 0, [], -1)]), b""),
    (0x07, Pull(1, [PullEntry("t", 0, 5, 100)], "sql:a = 1", 1000, 500), b""),
    (0x87, PullReply([PullResult(0, 0, 9, 9, [Aborted(3, 4)], 2)]), b"ab"),
    (0x08, FindOffsets([TimeEntry("t", 0, -2)]), b""),
    (0x88, FindOffsetsReply([FoundOffset(0, 5)]), b""),
    (0x09, Commit("g", [OffsetEntry("t", 0, 5, "m")], -1), b""),
    (0x89, CommitReply([0, 11]), b""),
    (0x0A, Committed("g", 1), b""),
    (0x8A, CommittedReply([OffsetEntry("t", 0, 5, "")], 3), b""),
    (0x40, Reset("group", "g", ["t"], 3, 1_700_000_000_000), b""),
    (0xC0, ResetReply([Place("t", 0, 5)]), b""),
    (0x41, GroupReset("g"), b""),
    (0x42, FindTraces(3, "t", "id", b"k", 0, 5, 0, 2**62), b""),
    (0xC2, FindTracesReply([TraceEntry(1, 7, "t", 0, 5, 9, "mqtt", "me", "::1", "g", 1, "eu")], -1), b""),
    (0x28, SendIf("t", 0, -1), b"abc"),
    (0xA8, SendIfReply(1, 5, 5), b""),
    (0x29, OpenTransactions("x", 60_000), b""),
    (0xA9, TransactionalProducer(7, 1), b""),
    (0x2A, SendOffsets("x", 7, 1, "g", [OffsetEntry("t", 0, 5, "m")]), b""),
    (0xAA, CommitReply([0]), b""),
    (0x2B, EndTransaction("x", 7, 1, 1), b""),
    (0xAB, TransactionalProducer(7, 2), b""),
    (0x2C, Cancel("i"), b""),
    (0xAC, CancelReply(2), b""),
    (0x2D, ListScheduled(-1, -1, 10), b""),
    (0xAD, ListScheduledReply([ScheduledRow(9, 1, "i", "t", 0, 1, b"k", 3)]), b""),
    (0x30, SendHalf("t", 0, "g", "i", 6_000, 30_000, 15), b"abc"),
    (0xB0, Done(), b""),
    (0x31, EndHalf("i", 1), b""),
    (0xB1, Done(), b""),
    (0x32, JoinProducers("g"), b""),
    (0xB2, Done(), b""),
    (0x33, CheckBack("g", "i", "t", 0, 2), b"abc"),
    (0xB3, CheckBackReply(1), b""),
    (0x34, ListHalves("g", 1, -1, 10), b""),
    (0xB4, ListHalvesReply([HalfRow(1, "i", "g", "t", 0, 9, 1, 15)]), b""),
    (0x35, ResumeHalf("i"), b""),
    (0x36, LeaveProducers("g"), b""),
    (0xB5, Done(), b""),
    (0xB6, Done(), b""),
    (0x0B, AskStatus(), b""),
    (0x8B, Status("{}"), b""),
    (0x10, Subscribe(1, "g", "m", ["t"], "a/+", "tags:x", 1, 0, -1, [7]), b""),
    (0x90, Subscribed(30_000, 16), b""),
    (0x11, Unsubscribe(1), b""),
    (0x91, Done(), b""),
    (0x12, Grant(1, 10, 1000), b""),
    (0x16, QueueSettings(1, 30_000, 16), b""),
    (0x13, Deliver(1, [Delivery("t", 0, 9, 1, [Range(5, 6), Range(8, 8)], 2)]), b"ab"),
    (0x14, Receive(1, 5, 10, 1000, 500), b""),
    (0x94, ReceiveReply([Delivery("t", 0, 9, 2, [Range(5, 5)], 3)]), b"abc"),
    (0x15, SettleRequest(1, [SettleEntry("t", 0, 9, 5, 6, 1, -1, "why")]), b""),
    (0x95, SettleReply([0, 65]), b""),
    (0x18, DescribeQueues(["g"]), b""),
    (0x98, DescribeQueuesReply([QueueInfo("g", 0, "s", 0, 1, 2, 3, [4], [MEMBER], [PLACE])]), b""),
    (0x19, ConfigureQueue("g", -1, 3, -1, [1000]), b""),
    (0x99, Done(), b""),
    (0x1A, PauseQueue("g", 1), b""),
    (0x9A, Done(), b""),
    (0x1B, DeleteQueue("g"), b""),
    (0x9B, Done(), b""),
    (0x1C, ResendDeadLetters("g", [1, 2]), b""),
    (0x9C, Done(), b""),
    (0x1D, AskMember("g", "m"), b""),
    (0x9D, Status("{}"), b""),
]
WIRE = b"".join(encode(kind, 7, message, len(payload)) + payload for kind, message, payload in MESSAGES)


def test_golden_bytes() -> None:
    send = encode(6, 7, Send(1, "", [SendEntry("t", 2, 3)]), 3) + b"abc"
    assert send.hex(" ") == (
        "00 00 00 1f 00 00 00 12 06 00 00 00 00 07 01 00 00 00 00 00 01 00 01 74 00 00 00 02 00 00 00 03 61 62 63"
    )
    hello = encode(1, 0, Hello(MAGIC, 1, 1, "me", "x/1"))
    assert hello.hex(" ") == (
        "00 00 00 1c 00 00 00 12 01 00 00 00 00 00 54 52 49 56 49 55 4d 01 01 00 02 6d 65 00 03 78 2f 31"
    )
    error = encode(0x84, 9, Error("no"), 0, ErrorCode.UNKNOWN_TOPIC)
    assert error.hex(" ") == "00 00 00 0e 00 00 00 04 84 0a 00 00 00 09 00 02 6e 6f"


def test_golden_bytes_of_queues() -> None:
    assert encode(18, 0, Grant(1, 10, 1000)).hex() == (
        "000000160000000c120000000000" + "00000001" + "0000000a" + "000003e8"
    )
    deliver = encode(19, 0, Deliver(1, [Delivery("t", 2, 9, 1, [Range(5, 6)], 3)]), 3) + b"abc"
    assert deliver.hex() == (
        "0000004000000033130000000000" + "00000001" + "00000001" + "000174" + "00000002" + "0000000000000009"
        "00000001" + "00000001" + "0000000000000005" + "0000000000000006" + "00000003" + "616263"
    )
    settle = encode(21, 7, SettleRequest(1, [SettleEntry("t", 2, 9, 5, 6, 0, -1, "")]))
    assert settle.hex() == (
        "0000003c00000032150000000007" + "00000001" + "00000001" + "000174" + "00000002" + "0000000000000009"
        "0000000000000005" + "0000000000000006" + "00" + "ffffffffffffffff" + "0000"
    )


def check(found: list[Frame]) -> None:
    assert [(one.kind, one.message, bytes(one.payload)) for one in found] == MESSAGES
    assert {one.correlation for one in found} == {7}


def test_every_message_there_and_back_whole_and_byte_by_byte() -> None:
    declared = set(KINDS) | {number | REPLY_BIT for number, kind in KINDS.items() if kind.reply is not None}
    assert {kind for kind, _, _ in MESSAGES} | {0x84} == declared
    check(FrameReader(FRAME_BYTES_MAX).receive(WIRE))
    reader = FrameReader(FRAME_BYTES_MAX)
    found: list[Frame] = []
    for byte in WIRE:
        found += reader.receive(bytes([byte]))
    check(found)
    assert reader.held_bytes == 0


def test_any_bytes_are_frames_or_a_protocol_error() -> None:
    rng = random.Random(7)
    refused = 0
    for _ in range(4_000):
        data = bytearray(WIRE)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
        try:
            for frame in FrameReader(FRAME_BYTES_MAX).receive(bytes(data)):
                assert frame.message is not None or not frame.is_reply
        except RemoteProtocolError:
            refused += 1
    assert refused > 1_000


@pytest.mark.parametrize(("kind", "message", "payload"), MESSAGES)
def test_a_head_that_is_cut_or_too_long_is_refused(kind: int, message: Any, payload: bytes) -> None:
    whole = encode(kind, 7, message)
    head = whole[PREFIX_BYTES:]
    for cut in [head[:size] for size in range(len(head))] + [head + b"\0"]:
        size = PREFIX_BYTES - SIZE_BYTES + len(cut)
        frame = size.to_bytes(4, "big") + len(cut).to_bytes(4, "big") + whole[8:PREFIX_BYTES] + cut
        with pytest.raises(RemoteProtocolError):
            decode(memoryview(frame))


def test_a_frame_above_the_limit_is_refused_by_its_length() -> None:
    with pytest.raises(RemoteProtocolError):
        FrameReader(100).receive(b"\x7f\xff\xff\xff")


def test_what_does_not_fit_a_frame_is_the_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode(4, 0, DeleteTopic("x" * 70_000))


def test_every_request_of_a_client_has_a_handler_of_its_kind() -> None:
    served = {**HANDLERS.tasks, **HANDLERS.in_order}
    requests = {kind.request.cls for kind in KINDS.values() if not kind.from_broker and kind.reply is not None}
    assert set(served) == requests - {Hello}
    one_way = {kind.request.cls for kind in KINDS.values() if not kind.from_broker and kind.reply is None}
    assert set(HANDLERS.one_way) == one_way


def test_every_error_of_the_core_has_a_code() -> None:
    assert set(CORE_CODES) == set(CoreError)
    assert ErrorCode.INTERNAL not in CORE_CODES.values()
    assert set(OUTCOME_CODES) == set(Outcome)


async def talk(address: str, data: bytes) -> list[Frame]:
    """What the broker answers until it closes, or until we have said all and it is done."""
    host, port = address.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    reader = FrameReader(FRAME_BYTES_MAX)
    found: list[Frame] = []
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        try:
            while chunk := await stream.receive_some(65_536):
                found += reader.receive(bytes(chunk))
        except trio.BrokenResourceError:
            pass
    return found


HELLO = encode(1, 0, Hello(MAGIC, 1, 1, "test", "test"))


async def test_a_connection_begins_with_a_hello() -> None:
    async with serving() as addresses:
        assert await talk(addresses.native, encode(2, 1, Metadata(0, []))) == []
        assert await talk(addresses.native, b"GET / HTTP/1.1\r\n\r\n") == []
        newer = encode(1, 3, Hello(MAGIC, 9, 10, "", ""))
        assert [one.status for one in await talk(addresses.native, newer)] == [ErrorCode.UNSUPPORTED_VERSION]


async def test_an_unknown_kind_is_answered_and_the_connection_goes_on() -> None:
    unknown = b"\0\0\0\x0a\0\0\0\0\x60\0\0\0\0\x05"
    async with serving() as addresses:
        found = await talk(addresses.native, HELLO + unknown + encode(2, 6, Metadata(0, [])))
    answers = {one.correlation: one.status for one in found}
    assert answers == {0: 0, 5: ErrorCode.UNKNOWN_KIND, 6: 0}


async def test_sizes_that_disagree_with_the_payload_end_the_connection() -> None:
    send = encode(6, 1, Send(0, "", [SendEntry("t", 0, 4)]), 3) + b"abc"
    async with serving() as addresses:
        assert all(one.kind == 0x81 for one in await talk(addresses.native, HELLO + send))


async def test_an_atomic_send_with_one_bad_batch_stores_nothing() -> None:
    create = encode(3, 1, CreateTopic("t", 1, []))
    from trivium.records import Record, build

    good = build([Record(0, 1, None, b"v", [])])
    entries = [SendEntry("t", 0, len(good)), SendEntry("t", 0, 3)]
    async with serving() as addresses:
        await talk(addresses.native, HELLO + create)
        for atomic, statuses in ((1, [24, 20]), (0, [0, 20])):
            send = encode(6, 2, Send(atomic, "", entries), len(good) + 3) + good + b"abc"
            found = await talk(addresses.native, HELLO + send)
            assert [[one.status for one in f.message.entries] for f in found if f.correlation == 2] == [statuses]
