"""What devices publish, on its way into the log: single messages, and runs of plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from core.message_headers import Headers
from core.state import Change
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.records import headers_of
from trivium.headers import ONCE_ID
from trivium.records import Record


class Publishing(Protocol):
    """Who has published: what became of it is said there, once for each ticket that is not 0."""

    def publish_done(self, ticket: int, code: int, reason: str) -> None:
        """The message is durable (code 0), or refused."""

    def publishes_done(self, first_ticket: int, last_ticket: int) -> None:
        """All with tickets from first to last are durable."""


class Outgoing(NamedTuple):
    """A message to be stored, of a connection or a will; `changes` are state changes that go with it."""

    connection: Publishing
    ticket: int
    name: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties | None
    publisher: str | None = None
    changes: Sequence[Change] = ()

    def headers(self) -> Headers:
        return headers_of(self.qos, self.retain, self.properties, self.publisher)


Published: TypeAlias = Outgoing | RunReceived


def refuse(message: Published, code: int, reason: str) -> None:
    """Answers a message that is not stored, if somebody waits for that."""
    if message.ticket:
        message.connection.publish_done(message.ticket, code, reason)


def totals(messages: Sequence[Published]) -> tuple[int, int]:
    """How many messages these are, and the bytes of their payloads."""
    count = size_bytes = 0
    for message in messages:
        if message.__class__ is RunReceived:
            payloads = message.payloads
            count += len(payloads)
            size_bytes += sum(map(len, payloads))
        else:
            count += 1
            size_bytes += len(message.payload)  # type: ignore[union-attr]
    return count, size_bytes


def payload_bytes(message: Published) -> int:
    if isinstance(message, RunReceived):
        return sum(map(len, message.payloads))
    return len(message.payload)


def has_once_id(message: Outgoing) -> bool:
    """Whether it has an id of the application's own, under which it is to be stored once."""
    return any(name == ONCE_ID for name, _ in message.headers())


def retained_record(message: Outgoing, now_ms: int) -> Record:
    """As it is retained; an empty payload deletes what was ([MQTT-3.3.1-6], [MQTT-3.3.1-10] of 3.1.1)."""
    headers = headers_of(message.qos, True, message.properties, message.publisher)
    return Record(0, now_ms, message.name.encode(), message.payload or None, headers)
