"""Over real sockets: what the kernel has no room for waits, in order, and a closed socket is nobody else's."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from core.store.engine import Buffer
from gateway.direct_stream import SEND_BYTES, UNSENT_BYTES_MAX, DirectStream
from gateway.output import JOIN_BYTES_MAX, Output, _joined
from gateway.protocols.kafka.api_versions import ApiKey
from tests.kafka.test_connection import fetch, produce
from tests.kafka.wire import batch_of, kafka_listener
from tests.patience import PATIENCE_S

TIMEOUT_MS = 30_000


def pair(buffer_bytes: int) -> tuple[DirectStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return DirectStream(trio.SocketStream(ours)), trio.SocketStream(theirs)


async def tcp_pair() -> tuple[DirectStream, trio.SocketStream]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    theirs = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    ours = DirectStream(await listener.accept())
    await listener.aclose()
    return ours, theirs


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


class Sender:
    """An output whose peer reads when the test says so."""

    def __init__(self, ours: trio.abc.Stream, data: list[Buffer]) -> None:
        self._data = [data]
        self.sent_bytes = 0
        self.result: bool | None = None
        self.output = Output(ours, self._take, self._sent, lambda: not self._data, TIMEOUT_MS)

    def _take(self) -> list[Buffer]:
        return self._data.pop() if self._data else []

    def _sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes

    async def run(self) -> None:
        self.result = await self.output.run()


async def test_a_peer_that_reads_slowly_is_waited_for_one_that_stops_is_not(mock_clock: trio.testing.MockClock) -> None:
    """However little it takes in the time: long before the socket counts as writable again."""
    ours, theirs = await tcp_pair()
    sender = Sender(ours, [bytes(10_000)] * 2_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        first = sender.sent_bytes
        assert 0 < first < 20_000_000
        for _ in range(2):
            held = ours.held_bytes()
            while ours.held_bytes() == held:
                await theirs.receive_some(10_000)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(TIMEOUT_MS / 1000 + 1)
            await trio.testing.wait_all_tasks_blocked()
            assert sender.result is None
            assert sender.sent_bytes == first
        mock_clock.jump(TIMEOUT_MS / 1000 + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert sender.result is False
    await ours.aclose()
    await theirs.aclose()


async def test_a_stream_that_is_no_socket_is_given_as_long(mock_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    sender = Sender(ours, [b"a" * 5_000, b"b" * 5_000])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        received = b""
        while len(received) < 5_000:
            received += await theirs.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert (sender.sent_bytes, sender.result) == (5_000, None)
        mock_clock.jump(TIMEOUT_MS / 1000 + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert sender.result is False


async def test_what_the_kernel_has_room_for_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: DirectStream) -> None:
        raise AssertionError("waited for room")

    monkeypatch.setattr(DirectStream, "wait_writable", refuse)
    ours, theirs = pair(64 * 1024)
    sender = Sender(ours, [b"answer"])
    await sender.run()
    assert (sender.result, sender.sent_bytes) == (True, 6)
    await ours.aclose()
    await theirs.aclose()


def test_views_are_sent_as_they_are() -> None:
    """They may be of pages that only the kernel may read."""
    view = memoryview(b"view")
    joined = _joined([b"a", b"b", view, b"c", bytearray(b"d"), bytes(JOIN_BYTES_MAX)])
    assert joined == [b"ab", b"view", b"cd", bytes(JOIN_BYTES_MAX)]
    assert joined[1] is view


async def test_the_kernel_may_hold_a_share_of_an_answer() -> None:
    ours, theirs = await tcp_pair()
    assert ours._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES_MAX
    await ours.aclose()
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
