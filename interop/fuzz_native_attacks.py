"""Attacks on a native listener, over real sockets; what an attack is stands in `fuzz_outcomes`.

Every declared frame is sent whole and byte by byte, changed at random, in any order over one connection, and with
numbers that nobody means.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from interop.fuzz_outcomes import HOSTILE, MIB, TIMEOUT_S, Address, Attack, watch
from tests.native.test_frames import MESSAGES
from trivium.frame_reader import FrameReader
from trivium.frames.codec import KINDS, PREFIX_BYTES, REPLY_BIT, Frame, encode
from trivium.frames.connection import MAGIC, Hello
from trivium.frames.queues import Grant, Receive, SettleEntry, SettleRequest, Subscribe
from trivium.frames.sending import Send, SendEntry
from trivium.frames.topics import CreateTopic

TOPIC = "t"
ANSWER_BYTES_MAX = 128 * MIB
TOGETHER = 200  # connections at once
INT64_MAX, UINT32_MAX = 2**63 - 1, 2**32 - 1
HELLO = encode(1, 1, Hello(MAGIC, 1, 1, "fuzz", "fuzz/1"))
SUBSCRIBE = encode(16, 2, Subscribe(1, "g", "m", [TOPIC], "", "", 0, 0, -1, []))


class Client:
    """A blocking client that has said hello."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self._reader = FrameReader(ANSWER_BYTES_MAX)
        self._frames: list[Frame] = []
        self.socket.sendall(HELLO)
        assert self.answer(1) is not None

    def answer(self, correlation: int, wait_s: float = TIMEOUT_S) -> Frame | None:
        """The reply to a request; None when the broker closes, or says nothing for so long."""
        self.socket.settimeout(wait_s)
        while True:
            for at, frame in enumerate(self._frames):
                if frame.is_reply and frame.correlation == correlation:
                    return self._frames.pop(at)
            try:
                data = self.socket.recv(MIB)
            except (TimeoutError, ConnectionError):
                return None
            if not data:
                return None
            self._frames += self._reader.receive(data)

    def call(self, kind: int, message: Any, payload: bytes = b"") -> Frame:
        self.socket.sendall(encode(kind, 9, message, len(payload)) + payload)
        found = self.answer(9)
        assert found is not None, f"no answer to {type(message).__name__}"
        return found

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _create_topic(address: Address) -> None:
    with Client(address) as client:
        client.call(3, CreateTopic(TOPIC, 1, []))


def _requests() -> list[bytes]:
    return [
        encode(kind, 7, message, len(payload)) + payload
        for kind, message, payload in MESSAGES
        if not kind & REPLY_BIT and kind != 1
    ]


def native_lengths(address: Address, scale: float) -> str:
    """Lengths that no frame has, a first frame that is no Hello, and frames that end early close the connection."""
    starts = [struct.pack(">I", size) for size in (0, PREFIX_BYTES - 5, UINT32_MAX)]
    starts += [encode(18, 0, Grant(1, 1, 1)), encode(1, 1, Hello(b"NOTHING", 1, 1, "", "")), HELLO + HELLO]
    starts += [HELLO[:9], HELLO + SUBSCRIBE[:20]]
    for start in starts:
        with socket.create_connection(address, TIMEOUT_S) as client:
            client.sendall(start)
            if start in starts[-2:]:
                client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(MIB):
                    pass
            except ConnectionError:
                pass
    return f"{len(starts)} closed"


def native_pieces(address: Address, scale: float) -> str:
    """Every frame that a client may send is answered alike, sent whole and byte by byte."""
    _create_topic(address)
    seen: Counter[str] = Counter()
    for request in _requests():
        answers = []
        for pieces in ([request], [request[at : at + 1] for at in range(len(request))]):
            with Client(address) as client:
                client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    try:
                        client.socket.sendall(piece)
                    except ConnectionError:
                        break
                found = client.answer(7, 1.5)
                answers.append(None if found is None else found.kind)
        assert answers[0] == answers[1], (request, answers)
        seen["no answer" if answers[0] is None else "answered"] += 1
    return f"{seen.total()} kinds of frames: {dict(seen)}"


def _changed(rng: random.Random, frame: bytes) -> bytes:
    """With hostile numbers, flipped bytes, or parts left out or doubled; mostly of a length that says the truth."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                piece = rng.choice(HOSTILE)
                data[at : at + len(piece)] = piece
            case 2:
                del data[at : at + rng.randint(1, 8)]
                data = data or bytearray(1)
            case _:
                data[at:at] = data[at : at + rng.randint(1, 8)]
    if rng.random() < 0.9 and len(data) > 8:
        data[:4] = struct.pack(">I", len(data) - 4)
        if rng.random() < 0.5:
            head = rng.choice((len(data) - PREFIX_BYTES, struct.unpack_from(">I", frame, 4)[0]))
            data[4:8] = struct.pack(">I", max(head, 0))
    return bytes(data)


def native_changed(address: Address, scale: float) -> str:
    """Frames changed at random, behind a Hello and a subscription."""
    _create_topic(address)
    rng = random.Random(11)
    requests = _requests()
    frames = [_changed(rng, rng.choice(requests)) for _ in range(int(20_000 * scale) + 100)]
    total: Counter[str] = Counter()
    for at in range(0, len(frames), TOGETHER):
        total += _outcomes(address, frames[at : at + TOGETHER])
    return f"{len(frames)} frames: {dict(total)}"


def _outcomes(address: Address, frames: Sequence[bytes], wait_s: float = 0.3) -> Counter[str]:
    """Sends each on a connection of its own, all at once: how many were answered, closed, or let wait."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in frames]
        for client, frame in zip(clients, frames, strict=True):
            with suppress(ConnectionError):
                client.socket.sendall(SUBSCRIBE + frame)
            client.answer(2)
        return watch([client.socket for client in clients], wait_s)


def native_orders(address: Address, scale: float) -> str:
    """Frames that are right by themselves, in any order over one connection; the last is still answered."""
    _create_topic(address)
    rng = random.Random(13)
    ours = {number for number, kind in KINDS.items() if not kind.from_broker}
    requests = [one for one in _requests() if one[8] in ours]
    closed = 0
    runs = int(200 * scale) + 5
    for _ in range(runs):
        with Client(address) as client:
            try:
                for request in rng.choices(requests, k=50):
                    client.socket.sendall(request)
                client.socket.sendall(encode(3, 9, CreateTopic("u", 1, [])))
            except ConnectionError:
                closed += 1
                continue
            closed += client.answer(9) is None
    assert closed < runs / 2, f"{closed} of {runs} closed"
    return f"{runs} runs of 50 frames, {closed} closed"


def _numbers() -> Iterator[tuple[int, Any]]:
    yield 18, Grant(1, UINT32_MAX, UINT32_MAX)
    yield 18, Grant(77, UINT32_MAX, UINT32_MAX)
    for numbers in ((UINT32_MAX, UINT32_MAX, 0), (0, 0, 0), (1, 1, UINT32_MAX)):
        yield 20, Receive(1, 2**62, *numbers)
    for first, last in ((0, INT64_MAX), (INT64_MAX, INT64_MAX), (-(2**63), -1), (5, 4)):
        for verb, lease in ((0, 0), (1, INT64_MAX), (2, 1), (3, -1), (4, 1), (9, 1)):
            yield 21, SettleRequest(1, [SettleEntry(TOPIC, 0, lease, first, last, verb, INT64_MAX, "x" * 65_535)])
    yield 21, SettleRequest(1, [SettleEntry(TOPIC, 0, 1, 0, 0, 0, -1, "")] * 20_000)
    yield 6, Send(1, "", [SendEntry(TOPIC, 0, UINT32_MAX)])
    for stream in range(2, 3_000):
        yield 16, Subscribe(stream, f"g{stream}", "m", [TOPIC], "", "", 0, 0, -1, [])
    yield 16, Subscribe(1, "g", "m", [f"t{i}" for i in range(5_000)], "", "", 0, 0, -1, [])
    yield 16, Subscribe(1, "g", "m", [TOPIC], "", "sql:" + "(" * 16_000, 0, 0, -1, [])
    yield 16, Subscribe(1, "g", "m", [TOPIC], "/".join("+" * 30_000), "", 0, 0, -1, list(range(100_000)))


def native_numbers(address: Address, scale: float) -> str:
    """Credits, waits, ranges and counts at their ends, thousands of streams, filters as deep as they go."""
    _create_topic(address)
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        client = stack.enter_context(Client(address))
        client.socket.sendall(SUBSCRIBE)
        client.answer(2)
        for correlation, (kind, message) in enumerate(_numbers(), 100):
            one_way = kind == 18
            try:
                client.socket.sendall(encode(kind, correlation, message))
                found = None if one_way else client.answer(correlation, 1.0)
                if found is None and not one_way:
                    raise ConnectionError
                seen["one-way" if found is None else "refused" if found.status else "answered"] += 1
            except ConnectionError:
                seen["closed or waiting"] += 1
                client = stack.enter_context(Client(address))
                client.socket.sendall(SUBSCRIBE)
                client.answer(2)
    return str(dict(seen))


NATIVE_ATTACKS: dict[str, Attack] = {
    attack.__name__: attack for attack in (native_lengths, native_pieces, native_changed, native_orders, native_numbers)
}
