"""Over real sockets: what the kernel has no room for waits, in order, and a closed socket is nobody else's."""

from __future__ import annotations

import socket

import pytest
import trio

from gateway.direct_stream import SEND_BYTES, DirectStream
from gateway.protocols.kafka.api_versions import ApiKey
from tests.kafka.test_connection import fetch, produce
from tests.kafka.wire import batch_of, kafka_listener
from tests.patience import PATIENCE_S


def pair(buffer_bytes: int) -> tuple[DirectStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return DirectStream(trio.SocketStream(ours)), trio.SocketStream(theirs)


async def test_what_was_sent_in_part_goes_on_where_it_stopped() -> None:
    ours, theirs = pair(20_000)
    buffers: list[bytes | memoryview] = [bytes([number % 251]) * (number * 7) for number in range(300)]
    expected = b"".join(buffers)
    sent = ours.send_nowait(buffers)
    assert 0 < sent < len(expected)
    assert ours.send_nowait([b"x"]) == 0
    received = b""
    while len(received) < sent:
        received += await theirs.receive_some()
    assert received == expected[:sent]
    await ours.aclose()
    await theirs.aclose()


async def test_no_more_than_a_share_is_offered_at_a_time() -> None:
    ours, theirs = pair(64 * 1024 * 1024)
    assert ours.send_nowait([bytes(SEND_BYTES // 2)] * 10) <= SEND_BYTES
    await ours.aclose()
    await theirs.aclose()


async def test_a_closed_stream_sends_to_nobody() -> None:
    ours, theirs = pair(20_000)
    await ours.aclose()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.send_nowait([b"x"])
    await theirs.aclose()


async def test_large_answers_arrive_whole_through_a_small_socket() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        client = listener.connect(*pair(8_000))
        batches = [batch_of(bytes([number]) * 9_000) for number in range(60)]
        for batch in batches:
            answer = await client.call(ApiKey.PRODUCE, 9, produce(batch))
            assert answer.responses[0].partition_responses[0].error_code == 0
        request = fetch(0)
        request.topics[0].partitions[0].partition_max_bytes = 1_000_000
        for _ in range(3):
            await client.send(ApiKey.FETCH, 12, request)
        for _ in range(3):
            _, answer = await client.receive()
            data = bytes(answer.responses[0].partitions[0].records)
            at = 0
            for batch in batches:
                assert data[at + 16 : at + len(batch)] == batch[16:]
                at += len(batch)
            assert at == len(data)
        await client.stream.aclose()


async def test_a_drain_ends_with_the_last_answer() -> None:
    """Whichever turn the answer comes in: it is sent where it is made, and the writer task has to hear of it."""
    async with kafka_listener(topics={"t": 1}) as listener:
        for number in range(20):
            client = listener.connect(*pair(100_000))
            connection = listener.connections[-1]
            await client.send(ApiKey.PRODUCE, 9, produce(batch_of(b"%d" % number)))
            while not connection._slots:
                await trio.lowlevel.checkpoint()
            connection.drain()
            assert (await client.receive())[1].responses[0].partition_responses[0].error_code == 0
            with trio.fail_after(PATIENCE_S):
                await client.wait_closed()
            await client.stream.aclose()
