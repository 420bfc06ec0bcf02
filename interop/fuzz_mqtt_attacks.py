"""Attacks on MQTT listeners, over real sockets, as fuzz_kafka_attacks.py has them for Kafka; these are functions of
(addresses, scale).
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import (
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    Publish,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from interop.fuzz_outcomes import MIB, TIMEOUT_S

LAST = b"\xff\xff\xff\x7f"  # the largest remaining length, 268,435,455


@dataclass(frozen=True)
class Addresses:
    tcp: tuple[str, int]
    websocket: tuple[str, int]


class Client:
    """A blocking client of few words."""

    def __init__(self, address: tuple[str, int], version: int = 5, client_id: str = "", **fields: Any) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self.version = version
        self._reader = Reader(1 << 24, version)
        self._packets: list[Packet] = []
        if client_id:
            try:
                self._connect(Connect(version, client_id, fields.pop("clean_start", True), 0, **fields))
            except BaseException:
                self.socket.close()
                raise

    def _connect(self, connect: Connect) -> None:
        self.send(connect)
        answer = self.next()
        assert isinstance(answer, ConnAck), answer
        assert answer.code == 0, answer

    def send(self, *packets: Packet) -> None:
        self.raw(b"".join([encode(packet, self.version) for packet in packets]))

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def next(self) -> Packet | None:
        """The next packet, None at the end of the connection. Raises TimeoutError."""
        while not self._packets:
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._reader.feed(data, self._packets)
        return self._packets.pop(0)

    def ended_with(self) -> int:
        """Reads to the end: the code of the DISCONNECT or CONNACK that came, -1 if none did."""
        code = -1
        while (packet := self.next()) is not None:
            if isinstance(packet, Disconnect | ConnAck):
                code = packet.code
        return code

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _push(client: Client, data: bytes) -> None:
    """Sends what the broker may have closed the connection over by now."""
    with contextlib.suppress(OSError):
        client.raw(data)


def _all_closed(clients: list[Client], timeout_s: float) -> int:
    """How many are closed by the broker in time."""
    waiting = {client.socket: client for client in clients}
    deadline = time.monotonic() + timeout_s
    while waiting and time.monotonic() < deadline:
        ready = _readable(list(waiting))
        for sock in ready:
            with contextlib.suppress(OSError):
                if sock.recv(65_536):
                    continue
            del waiting[sock]
    return len(clients) - len(waiting)


def _readable(sockets: list[socket.socket], wait_ms: int = 1000) -> list[socket.socket]:
    """Those with something to read, or at their end, within `wait_ms`. As many as there are: select stops at 1,024."""
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in sockets}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(wait_ms)]


def _end(clients: Iterable[Client]) -> None:
    for client in clients:
        client.close()


# -- before CONNACK ----------------------------------------------------------------------------------------------------


def half_open(at: Addresses, scale: float) -> str:
    """Connections that say nothing, or half a CONNECT, and wait."""
    count = int(2000 * scale)
    whole = encode(Connect(5, "half", True, 0), 5)
    clients = [Client(at.tcp) for _ in range(count)]
    for number, client in enumerate(clients):
        client.raw(whole[: number % len(whole)])
    closed = _all_closed(clients, 30.0)
    _end(clients)
    assert closed == count, f"{closed} of {count} were closed"
    return f"{count} half-open connections, all closed"


def promises(at: Addresses, scale: float) -> str:
    """256 MB announced and never sent, as CONNECT and as PUBLISH."""
    count = int(300 * scale)
    codes: Counter[int] = Counter()
    for number in range(count):
        with Client(at.tcp, client_id=f"promise-{number}" if number % 2 else "") as client:
            _push(client, (b"\x32" if number % 2 else b"\x10") + LAST + b"\0\1a")
            codes[client.ended_with()] += 1
    assert codes[0x95] >= count // 2, codes
    return f"{count} promises of 256 MB, ended with { {hex(k): v for k, v in codes.items()} }"


def great_connects(at: Addresses, scale: float) -> str:
    """CONNECTs full of user properties, nearly as large as is taken."""
    count = int(300 * scale)
    user = [("a" * 200, "b" * 200)] * 310
    for number in range(count):
        with Client(at.tcp, client_id=f"great-{number}", properties={props.USER_PROPERTY: user}):
            pass
    return f"{count} CONNECTs of 125 KB"


def noise(at: Addresses, scale: float) -> str:
    """Bytes by chance, alone and behind a CONNECT; packets with bytes changed."""
    chance = random.Random(4)
    count = int(1500 * scale)
    good = [
        encode(Publish("noise/a", b"x" * 50, 1, False, False, 7, {props.USER_PROPERTY: [("a", "b")]}), 5),
        encode(Subscribe(3, [SubscriptionRequest("noise/#", 1)]), 5),
        encode(Connect(5, "n", True, 0, will=Will("noise/w", b"", 1, False)), 5),
    ]
    for number in range(count):
        with Client(at.tcp, client_id=f"noise-{number % 20}" if number % 3 else "") as client:
            data = bytearray(chance.choice(good) if number % 2 else chance.randbytes(chance.randrange(1, 300)))
            for _ in range(chance.randrange(3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            _push(client, bytes(data))
    return f"{count} connections of noise"


# -- connected clients -------------------------------------------------------------------------------------------------


def nearly_whole(at: Addresses, scale: float) -> str:
    """Many clients that send all but the last byte of a megabyte, and wait: what is held for all of them is bounded."""
    count = int(800 * scale)
    size = MIB - 100
    rest = size - 3
    head = b"\x30" + bytes((rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14))
    clients = [Client(at.tcp, client_id=f"nearly-{number}") for number in range(count)]
    for client in clients:
        _push(client, head + b"\0\1a\0" + b"x" * (rest - 5))
    alive = 0
    for client in clients:
        with contextlib.suppress(OSError):
            alive += not _readable([client.socket], 0)
    _end(clients)
    return f"{count} publishes of 1 MiB but for a byte, {alive} of them still open"


def never_released(at: Addresses, scale: float) -> str:
    """QoS 2 without PUBREL: MQTT 5 is held to its receive maximum, MQTT 3 to its 65,535 packet ids."""
    with Client(at.tcp, client_id="never-5") as client:
        _push(
            client, b"".join([encode(Publish("never/a", b"x", 2, False, False, n + 1, None), 5) for n in range(1500)])
        )
        code = client.ended_with()
        assert code == 0x93, hex(code)
    count = int(65_535 * min(scale, 1))
    with Client(at.tcp, 4, "never-4", clean_start=False) as client:
        receipts = 0
        for start in range(0, count, 500):
            ids = range(start + 1, min(start + 501, count + 1))
            client.send(*[Publish("never/a", b"x", 2, False, False, n, None) for n in ids])
            while receipts < ids[-1]:
                packet = client.next()
                assert isinstance(packet, Ack), packet
                receipts += 1
    with Client(at.tcp, 4, "never-4", clean_start=True):
        pass  # forgets them
    return f"0x93 above the receive maximum; {count} packet ids held by MQTT 3"


def never_read(at: Addresses, scale: float) -> str:
    """Subscribers of everything who never read, at each QoS, beside one who does."""
    count = int(60 * scale) or 3
    stuck = [Client(at.tcp, client_id=f"stuck-{number}") for number in range(count)]
    for number, client in enumerate(stuck):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(Subscribe(1, [SubscriptionRequest("flood/#", number % 3)]))
    payload = b"x" * 60_000
    messages = int(800 * scale)
    with Client(at.tcp, client_id="flood-reader") as reader, Client(at.tcp, client_id="flood-writer") as writer:
        reader.send(Subscribe(1, [SubscriptionRequest("flood/#", 1)]))
        reader.next()
        for number in range(messages):
            writer.send(Publish("flood/a", payload, 1, False, False, number % 60_000 + 1, None))
            assert isinstance(writer.next(), Ack)
            message = reader.next()
            assert isinstance(message, Publish), message
            reader.send(Ack(props.PUBACK, message.packet_id, 0, None))
    _end(stuck)
    return f"{messages} messages of 60 KB past {count} subscribers who never read"


def subscriptions(at: Addresses, scale: float) -> str:
    """As many subscriptions as a session may have, of many levels, by many clients; and one more."""
    clients = [Client(at.tcp, client_id=f"many-{number}") for number in range(int(10 * scale) or 1)]
    for number, client in enumerate(clients):
        for start in range(0, 10_000, 500):
            names = [f"many/{number}/{start + n}/" + "/".join("+" * 20) for n in range(500)]
            client.send(Subscribe(start + 1, [SubscriptionRequest(name, 1) for name in names]))
            client.next()
        client.send(Subscribe(60_000, [SubscriptionRequest("one/more", 1)]))
        answer = client.next()
        assert getattr(answer, "codes", None) == [0x97], answer
    with Client(at.tcp, client_id="deep") as client:
        client.send(Subscribe(1, [SubscriptionRequest("/".join("a" * 20_000), 0)]))
        client.next()
        client.send(Publish("/".join("a" * 20_000), b"x", 1, False, False, 1, None))
        client.next()
    _end(clients)
    return f"{len(clients)} x 10,000 subscriptions of 23 levels; a filter of 20,000 levels"


def storms(at: Addresses, scale: float) -> str:
    """One client id taken over by many connections at once; clients with wills that are cut."""
    count = int(400 * scale)
    threads = []

    def connect(number: int) -> None:
        for _ in range(8):
            with contextlib.suppress(OSError, AssertionError):
                will = Will(f"storm/{number}", b"gone", 1, False)
                with Client(at.tcp, 5, "storm", clean_start=bool(number % 2), will=will):
                    pass

    for number in range(count // 8):
        threads.append(threading.Thread(target=connect, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    with Client(at.tcp, 5, "storm") as client:
        client.send(PingReq())
        client.next()
    return f"{count} take-overs with wills"


# -- WebSocket ---------------------------------------------------------------------------------------------------------


def websockets(at: Addresses, scale: float) -> str:
    """Endless headers, frames that announce 2^63 bytes, masks left out, fragments and pings without end."""
    handshake = (
        b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    ends: Counter[str] = Counter()

    def feed(name: str, first: bytes, again: bytes, times: int) -> None:
        with Client(at.websocket) as client:
            client.socket.settimeout(5)
            try:
                client.raw(first)
                for _ in range(times):
                    client.raw(again)
                client.socket.shutdown(socket.SHUT_WR)
                while client.socket.recv(65_536):
                    pass
                ends[f"{name} closed"] += 1
            except TimeoutError:
                ends[f"{name} open"] += 1
            except OSError:
                ends[f"{name} reset"] += 1

    times = int(20 * scale) or 1
    for _ in range(times):
        feed("headers", b"GET /mqtt HTTP/1.1\r\n", b"X-A: " + b"b" * 60_000 + b"\r\n", 200)
        feed("no-line-end", b"GET /", b"a" * 65_000, 200)
        feed("great-frame", handshake, b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"\0\0\0\0" + b"x" * 60_000, 1)
        feed("unmasked", handshake, b"\x82\x05hello", 1)
        feed("fragments", handshake, b"\x02\x81\0\0\0\0x" + b"\x00\x81\0\0\0\0x" * 5000, 10)
        feed("pings", handshake, b"\x89\xfd\0\0\0\0" + b"p" * 125, 3000)
        feed("text", handshake, b"\x81\x85\0\0\0\0hello", 1)
    assert not any(key.endswith(" open") for key in ends), ends
    return ", ".join(f"{count} {what}" for what, count in sorted(ends.items()))


MQTT_ATTACKS: dict[str, Callable[[Addresses, float], str]] = {
    "half-open": half_open,
    "promises": promises,
    "great-connects": great_connects,
    "noise": noise,
    "nearly-whole": nearly_whole,
    "never-released": never_released,
    "never-read": never_read,
    "subscriptions": subscriptions,
    "storms": storms,
    "websockets": websockets,
}
