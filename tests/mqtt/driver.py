"""Drives a connection's machine from a test: packets in, packets out, events kept, time by hand."""

from __future__ import annotations

from typing import Any

from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt.codec import Reader, encode
from gateway.protocols.mqtt.codec.packets import ConnAck, Connect, Packet, Publish, Subscribe, SubscriptionRequest, Will
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.session import Session


class Driver:
    """A client and the core in one: what the client sends and sees, what the core is asked and answers."""

    def __init__(self, version: int = 5, limits: Limits | None = None, now: float = 0.0) -> None:
        self.version = version
        self.now = now
        self.outbox = ev.Outbox()
        self.connection = Connection(limits or Limits(), self.outbox, now)
        self._reader = Reader(1 << 28, version)

    def raw(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            self.connection.receive(piece, self.now)

    def send(self, *packets: Packet) -> None:
        self.raw(b"".join([encode(packet, self.version) for packet in packets]))

    def received(self) -> list[Packet]:
        """What the client has got since the last call."""
        packets: list[Packet] = []
        self._reader.feed(self.connection.take_output(), packets)
        self.connection.sent(0)
        return packets

    def one(self) -> Any:
        packets = self.received()
        assert len(packets) == 1, packets
        return packets[0]

    def events(self) -> list[ev.Event]:
        """What the core is asked, runs taken apart; the ticket of a run stands with its last message."""
        return [single for event in self.outbox.take_events() for single in singles(event)]

    def event(self) -> Any:
        events = self.events()
        assert len(events) == 1, events
        return events[0]

    def packet(self, **fields: Any) -> Connect:
        base: dict[str, Any] = {"version": self.version, "client_id": "c", "clean_start": True, "keep_alive_s": 0}
        return Connect(**{**base, **fields})

    def connect(self, session: Session | None = None, *, present: bool = False, **fields: Any) -> ConnAck:
        """CONNECT, accepted; returns the CONNACK (other packets that came with it stay unread)."""
        self.send(self.packet(**fields))
        event = self.event()
        assert isinstance(event, ev.ConnectReceived)
        assert self.connection.accept(
            session or Session(event.connect.client_id or "given"), self.now, session_present=present
        )
        packets = self.received()
        assert isinstance(packets[0], ConnAck)
        self.early = packets[1:]
        return packets[0]

    def publish(self, topic: str = "t", payload: bytes = b"x", qos: int = 0, **fields: Any) -> None:
        base: dict[str, Any] = {"retain": False, "dup": False, "packet_id": 1 if qos else 0, "properties": None}
        self.send(Publish(topic, payload, qos, **{**base, **fields}))

    def subscribe(self, filter_: str = "t", qos: int = 0, properties: Properties | None = None) -> None:
        self.send(Subscribe(7, [SubscriptionRequest(filter_, qos)], properties or {}))

    def closed(self) -> ev.Closed:
        """The end of the connection, which must be the last event."""
        assert self.connection.closed
        last = self.events()[-1]
        assert isinstance(last, ev.Closed)
        return last


def singles(event: ev.Event) -> list[ev.Event]:
    if not isinstance(event, ev.RunReceived):
        return [event]
    connection, ticket, topic, _, payloads, qos, _ = event
    entry = connection._tickets.get(ticket)
    packet_ids = entry if isinstance(entry, list) else [0] * len(payloads)
    return [
        ev.PublishReceived(
            connection,
            ticket if index == len(packet_ids) - 1 else 0,
            Publish(topic, payload, qos, False, False, packet_id, None),
        )
        for index, (payload, packet_id) in enumerate(zip(payloads, packet_ids, strict=True))
    ]


def message(topic: str = "t", payload: bytes = b"x", qos: int = 0, **fields: Any) -> Message:
    return Message(topic.encode(), payload, qos, **fields)


def run(*messages: Message) -> Run:
    return Run(list(messages))


def connected(
    version: int = 5, *, session: Session | None = None, limits: Limits | None = None, **fields: Any
) -> Driver:
    driver = Driver(version, limits)
    driver.connect(session, **fields)
    return driver


WILL = Will("will", b"gone", 1, True)
