"""What a connection tells the core, in the order it happened.

An event with a `ticket` waits for an answer, given by a method of its connection, at any time and in any order; the
connection sends the replies in the order of the tickets. Answers to a closed connection still change its session.

| event               | answer                                                                     |
|---------------------|----------------------------------------------------------------------------|
| ConnectReceived     | `accept` or `refuse`                                                       |
| PublishReceived     | `publish_done` (none at QoS 0, whose ticket is 0)                          |
| RunReceived         | `publish_done` or `run_done`, for all of it (none at QoS 0, whose ticket is 0) |
| ReleaseReceived     | `release_done`, when the release is durable                                |
| ReceiptReceived     | `receipt_done`, when "released" is durable                                 |
| SubscribeReceived   | `subscribe_done`                                                           |
| UnsubscribeReceived | `unsubscribe_done`                                                         |
| DeliveriesEnded     | none; only for shared subscriptions, or all when `observed`        |
| WindowOpened        | none; delivery that had stopped may go on                                  |
| Closed              | none; the last event of its connection                                     |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from gateway.protocols.mqtt.codec.packets import Connect, Publish, Subscribe, Unsubscribe, Will
from gateway.protocols.mqtt.session import Delivery

if TYPE_CHECKING:
    from gateway.protocols.mqtt.connection import Connection


class ConnectReceived(NamedTuple):
    """A valid CONNECT. `connect.client_id` is empty when the broker is to assign one.

    The core authenticates, ends the session's old connection (`disconnect(SESSION_TAKEN_OVER)`), waits until that one
    has no unanswered tickets, makes changed session state durable, and answers.
    """

    connection: Connection
    connect: Connect


class PublishReceived(NamedTuple):
    """A PUBLISH to route; topic aliases are resolved, QoS 2 repetitions are not reported.

    At QoS 2 of a durable session the record and `(session, inbound, packet_id)` go into one append.
    """

    connection: Connection
    ticket: int
    publish: Publish


class RunReceived(NamedTuple):
    """Messages of one name that came together, QoS 0 or 1, no properties, no RETAIN. `publisher` is the core's."""

    connection: Connection
    ticket: int
    topic: str
    raw_topic: bytes
    payloads: list[bytes]
    qos: int
    publisher: str | None = None


class ReleaseReceived(NamedTuple):
    """PUBREL of a durable session: the end of `(session, inbound, packet_id)` is to be made durable before PUBCOMP."""

    connection: Connection
    ticket: int
    packet_id: int


class ReceiptReceived(NamedTuple):
    """PUBREC of a durable session: `(session, inflight, packet_id)` "released" is to be durable before PUBREL."""

    connection: Connection
    ticket: int
    packet_id: int


class SubscribeReceived(NamedTuple):
    connection: Connection
    ticket: int
    subscribe: Subscribe


class UnsubscribeReceived(NamedTuple):
    connection: Connection
    ticket: int
    unsubscribe: Unsubscribe


class DeliveriesEnded(NamedTuple):
    """The client acknowledged (code below 0x80) or discarded (0x80 and above) messages."""

    connection: Connection
    deliveries: list[Delivery]
    code: int


class WindowOpened(NamedTuple):
    connection: Connection


class Closed(NamedTuple):
    """The connection is over. `will` is the will to publish (its delay is the core's), None if there is none.

    `code` is the reason code of the DISCONNECT that was received (`by_client`) or sent, or that tells why.
    `session_expiry_s` is the expiry that counts from now on.
    """

    connection: Connection
    code: int
    reason: str
    by_client: bool
    will: Will | None
    session_expiry_s: int


Event: TypeAlias = (
    ConnectReceived
    | PublishReceived
    | RunReceived
    | ReleaseReceived
    | ReceiptReceived
    | SubscribeReceived
    | UnsubscribeReceived
    | DeliveriesEnded
    | WindowOpened
    | Closed
)


class Outbox:
    """Where machines put what is for others: events for the core, connections that have bytes to send.

    One outbox serves all connections of a loop, so that a turn of it hands over lists, not single things. A connection
    is in `dirty` once, until its output is taken. It also counts what went in and out, since the start.
    """

    __slots__ = (
        "connects_in",
        "controls_out",
        "dirty",
        "dropped",
        "events",
        "observed",
        "packets_in",
        "publish_bytes_out",
        "publishes_out",
    )

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.dirty: list[Connection] = []
        self.observed = False  # DeliveriesEnded is wanted of all messages
        self.packets_in = 0
        self.connects_in = 0
        self.controls_out = 0  # packets that are no PUBLISH
        self.publishes_out = 0
        self.publish_bytes_out = 0  # their payloads
        self.dropped = 0  # QoS 0 messages that found the output of a connection full

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events
