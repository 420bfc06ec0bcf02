"""A client that is nothing but a socket: packets out, packets in, and whatever a real client would never do."""

from __future__ import annotations

import socket
from typing import Any

from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec.packets import ConnAck, Connect, Packet, Publish, SubAck, Subscribe
from gateway.protocols.mqtt.codec.packets import SubscriptionRequest as Request
from gateway.protocols.mqtt.codec.properties import Properties
from tests.patience import PATIENCE_S

WAIT_S = PATIENCE_S


class Wire:
    """One connection. `next` raises TimeoutError when nothing comes, and returns None at the end of the stream."""

    def __init__(self, port: int, version: int = 5) -> None:
        self.version = version
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self._reader = Reader(1 << 28, version)
        self._packets: list[Packet] = []

    @classmethod
    def connected(cls, port: int, client_id: str = "", *, version: int = 5, **fields: Any) -> Wire:
        """CONNECT and its CONNACK, which is in `connack`."""
        wire = cls(port, version)
        wire.connack = wire.connect(client_id, **fields)
        assert wire.connack.code == 0, wire.connack
        return wire

    connack: ConnAck

    def connect(self, client_id: str = "", *, clean: bool = True, **fields: Any) -> ConnAck:
        self.send(Connect(self.version, client_id, clean, fields.pop("keep_alive_s", 0), **fields))
        answer = self.next()
        assert isinstance(answer, ConnAck), answer
        return answer

    def send(self, *packets: Packet) -> None:
        self._socket.sendall(b"".join([encode(packet, self.version) for packet in packets]))

    def next(self) -> Any:
        while not self._packets:
            data = self._socket.recv(65_536)
            if not data:
                self._socket.close()
                return None
            self._reader.feed(data, self._packets)
        return self._packets.pop(0)

    def subscribe(self, filter_: str, qos: int = 0, properties: Properties | None = None) -> list[int]:
        """The codes of SUBACK, which must be the next packet."""
        self.send(Subscribe(1, [Request(filter_, qos)], properties or {}))
        answer = self.next()
        assert isinstance(answer, SubAck), answer
        return list(answer.codes)

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, **fields: Any) -> Any:
        """The answer to it at QoS 1 and 2."""
        base: dict[str, Any] = {"retain": False, "dup": False, "packet_id": 1 if qos else 0, "properties": None}
        self.send(Publish(topic, payload, qos, **{**base, **fields}))
        return self.next() if qos else None

    def close(self) -> None:
        """Without DISCONNECT."""
        self._socket.close()
