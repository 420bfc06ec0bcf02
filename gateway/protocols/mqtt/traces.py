"""What devices do to messages of traced topics, for the core's tracer. Nothing is looked at while none is traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.store.engine import Appended
from core.topics import Topics
from core.tracing import Actor, Event, Tracer
from gateway.protocols.mqtt.batches import Row
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.message import Message
from gateway.protocols.mqtt.outgoing import Outgoing, Published
from gateway.protocols.mqtt.peers import Peer
from gateway.protocols.mqtt.records import headers_of
from gateway.protocols.mqtt.session import Delivery


def actor_of(connection: Connection | None) -> Actor:
    """Who is on a connection; a will's has none any more."""
    if connection is None:
        return Actor("mqtt", "", "")
    peer = connection.transport
    host = peer.address.rpartition(":")[0].strip("[]") if isinstance(peer, Peer) else ""
    return Actor("mqtt", connection.client_id, host)


def _actor_of(message: Published) -> Actor:
    connection = message.connection
    return actor_of(connection if isinstance(connection, Connection) else None)


class MqttTraces:
    def __init__(self, tracer: Tracer, topics: Topics) -> None:
        self._tracer = tracer
        self._topics = topics

    @property
    def active(self) -> bool:
        return self._tracer.active

    def observes(self, partition: int) -> bool:
        """Whether the partition's topic is traced."""
        owner = self._topics.owner(partition) if self._tracer.active else None
        return owner is not None and self._tracer.traces(owner[0])

    def stored(self, rows: Sequence[Row], answer: Appended) -> None:
        """One append's messages of one partition are durable."""
        owner = self._topics.owner(rows[0][0].partition)
        if owner is None or not self._tracer.traces(owner[0]):
            return
        offset = answer.base_offset
        for _, message in rows:
            if isinstance(message, Outgoing):
                headers = headers_of(message.qos, message.retain, message.properties, message.publisher)
                records, last = [(offset, headers)], offset
            else:
                records, last = [], offset + len(message.payloads) - 1
            self._tracer.stored_records(*owner, offset, last, records, _actor_of(message))
            offset = last + 1

    def scheduled(self, rows: Sequence[Row]) -> None:
        """Messages that wait for their time."""
        for route, message in rows:
            owner = self._topics.owner(route.partition)
            if owner is not None and self._tracer.traces(owner[0]) and isinstance(message, Outgoing):
                self._tracer.scheduled(*owner, -1, message.headers(), _actor_of(message))

    def delivered(self, connection: Connection, messages: Iterable[Message], group: str) -> None:
        for message in messages:
            self._note(Event.DELIVERED, connection, message.partition, message.offset, group)

    def acknowledged(self, connection: Connection, delivery: Delivery, group: str) -> None:
        self._note(Event.ACKNOWLEDGED, connection, delivery.partition, delivery.offset, group)

    def _note(self, event: Event, connection: Connection, partition: int, offset: int, group: str) -> None:
        owner = self._topics.owner(partition)
        if owner is not None and self._tracer.traces(owner[0]):
            self._tracer.note(event, *owner, offset, offset, actor_of(connection), group=group)
