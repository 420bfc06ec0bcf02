"""TLS on memory: what one piece of the wire may hold."""

from __future__ import annotations

import ssl

from gateway.protocols.mqtt.layers import Tls
from tests.mqtt.served import client_tls, server_tls


class Client:
    def __init__(self) -> None:
        self.server = Tls(server_tls())
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = client_tls().wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.object.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.server.received(self.outgoing.read())
                self.incoming.write(self.server.to_send(b""))
        self.server.received(self.outgoing.read())

    def wire(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            self.object.write(piece)
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        try:
            self.object.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()


def test_records_in_one_piece_are_all_read() -> None:
    client = Client()
    assert client.server.received(client.wire(b"one", b"two", b"x" * 100_000)) == b"onetwo" + b"x" * 100_000
    assert not client.server.ended


def test_a_record_may_come_byte_by_byte_and_with_the_beginning_of_the_next() -> None:
    client = Client()
    wire = client.wire(b"one") + client.wire(b"two")
    assert b"".join(client.server.received(wire[at : at + 1]) for at in range(len(wire))) == b"onetwo"
    wire = client.wire(b"three") + client.wire(b"four")
    assert client.server.received(wire[:-5]) == b"three"
    assert client.server.received(wire[-5:]) == b"four"


def test_a_goodbye_is_seen_alone_and_behind_data() -> None:
    client = Client()
    assert client.server.received(client.wire(b"last") + client.goodbye()) == b"last"
    assert client.server.ended
    client = Client()
    assert client.server.received(client.goodbye()) == b""
    assert client.server.ended
