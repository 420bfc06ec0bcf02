"""A broker behind the machine for tests: everything in memory, every answer at once, nothing durable.

It knows just enough to let real clients talk: routing by `SubscriptionIndex`, sessions by client id, take-over.
"""

from __future__ import annotations

import itertools
import time

from core.matching import OPTIONS_BITS, SubscriptionIndex
from gateway.protocols.mqtt import events as ev
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5, Publish
from gateway.protocols.mqtt.codec.properties import encode_property
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.session import Session, Subscription
from tests.mqtt.driver import singles


def message_of(publish: Publish, offset: int = 0) -> Message:
    properties = dict(publish.properties or {})
    expiry_s = properties.pop(props.MESSAGE_EXPIRY, None)
    encoded = b"".join([encode_property(key, value) for key, value in properties.items()])
    expires_s = None if expiry_s is None else time.time() + expiry_s
    return Message(publish.topic.encode(), publish.payload, publish.qos, publish.retain, encoded, expires_s, 0, offset)


class FakeBroker:
    """A handler for the pump; `events` keeps what came when `record` is set."""

    def __init__(self) -> None:
        self.index = SubscriptionIndex()
        self.sessions: dict[str, Session] = {}
        self.online: dict[str, Connection] = {}
        self.by_number: dict[int, Session] = {}
        self.numbers = itertools.count(1)
        self.offsets = itertools.count()
        self.closed: list[ev.Closed] = []

    def handle(self, events: list[ev.Event]) -> None:
        messages: dict[str, list[Message]] = {}
        for event in [single for received in events for single in singles(received)]:
            match event:
                case ev.PublishReceived(connection, ticket, publish):
                    messages.setdefault(publish.topic, []).append(message_of(publish, next(self.offsets)))
                    if ticket:
                        connection.publish_done(ticket)
                case ev.ConnectReceived(connection, connect):
                    self._connect(connection, connect.client_id, connect.clean_start)
                case ev.SubscribeReceived(connection, ticket, subscribe):
                    self._route(messages)
                    messages = {}
                    identifier = subscribe.properties.get(props.SUBSCRIPTION_ID, 0)
                    for request in subscribe.requests:
                        self._subscribe(connection, request.filter, Subscription(*request[1:], identifier))
                    connection.subscribe_done(ticket, [request.qos for request in subscribe.requests])
                case ev.UnsubscribeReceived(connection, ticket, unsubscribe):
                    codes = [self._unsubscribe(connection, name) for name in unsubscribe.filters]
                    connection.unsubscribe_done(ticket, codes)
                case ev.ReleaseReceived(connection, ticket, _):
                    connection.release_done(ticket)
                case ev.ReceiptReceived(connection, ticket, _):
                    connection.receipt_done(ticket)
                case ev.Closed():
                    self._closed(event)
                case _:
                    pass
        self._route(messages)

    def _connect(self, connection: Connection, client_id: str, clean: bool) -> None:
        client_id = client_id or f"assigned-{next(self.numbers)}"
        if (old := self.online.get(client_id)) is not None:
            old.disconnect(reasons.SESSION_TAKEN_OVER)
        session = self.sessions.get(client_id)
        present = session is not None and not clean
        if session is None or clean:
            if session is not None:
                self._forget(session)
            session = Session(client_id, next(self.numbers))
            self.sessions[client_id] = session
            self.by_number[session.number] = session
        if connection.accept(session, 0.0, session_present=present):
            self.online[client_id] = connection

    def _subscribe(self, connection: Connection, filter_: str, subscription: Subscription) -> None:
        session = connection.session
        assert session is not None
        if session.subscriptions is None:
            session.subscriptions = {}
        session.subscriptions[filter_] = subscription
        self.index.add(filter_, session.number, subscription.qos)

    def _unsubscribe(self, connection: Connection, filter_: str) -> int:
        session = connection.session
        assert session is not None
        if (session.subscriptions or {}).pop(filter_, None) is None:
            return reasons.NO_SUBSCRIPTION_EXISTED
        self.index.remove(filter_, session.number)
        return reasons.SUCCESS

    def _closed(self, event: ev.Closed) -> None:
        self.closed.append(event)
        session = event.connection.session
        if session is None:
            return
        if self.online.get(session.client_id) is event.connection:
            del self.online[session.client_id]
        if event.session_expiry_s == 0:
            self._forget(session)
        if event.will is not None:
            will = event.will
            publish = Publish(will.topic, will.payload, will.qos, will.retain, False, 0, None)
            self._route({will.topic: [message_of(publish)]})

    def _forget(self, session: Session) -> None:
        for filter_ in session.subscriptions or ():
            self.index.remove(filter_, session.number)
        self.by_number.pop(session.number, None)
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]

    def _route(self, messages: dict[str, list[Message]]) -> None:
        now = time.time()
        for topic, batch in messages.items():
            run = Run(batch)
            for entry in self.index.match(topic):
                session = self.by_number[entry >> OPTIONS_BITS]
                connection = self.online.get(session.client_id)
                if connection is not None:
                    subscription = (session.subscriptions or {}).get(topic)
                    identifiers = b""
                    if connection.version == V5 and subscription is not None and subscription.identifier:
                        identifiers = encode_property(props.SUBSCRIPTION_ID, subscription.identifier)
                    connection.deliver(run, 0, entry & 3, now, identifiers=identifiers)
