"""What outlives a connection: a client's subscriptions and the state of its QoS 1 and 2 exchanges.

- `inbound`: packet ids of QoS 2 publishes by the client, from PUBLISH to PUBREL.
- `inflight`: packet ids of our QoS 1 and 2 publishes, oldest first, each with the place of its record in the log.
- `position`: everything in the log before it was delivered, or is in `inflight`. There are no copies of messages.
Tables are None until first used: most devices never need most of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.protocols.mqtt.errors import LocalProtocolError

# States of an inbound QoS 2 packet id.
APPENDING: Final = 0  # the record is on its way to the log
STORED: Final = 1  # the record and the packet id are durable; PUBREC may be sent again
RELEASING: Final = 2  # PUBREL came, its record is on its way to the log

# States of an outbound packet id.
QOS1_SENT: Final = 1
QOS2_STORING: Final = 2  # the packet id is on its way to the log, PUBLISH was not sent
QOS2_SENT: Final = 3
QOS2_RELEASING: Final = 4  # PUBREC came, "released" is on its way to the log
QOS2_RELEASED: Final = 5  # PUBREL was sent, PUBLISH never again ([MQTT-4.3.3-6])


class Delivery(NamedTuple):
    """A message in flight to a client: state, and where its record is."""

    state: int
    partition: int
    offset: int
    retain: bool = False  # the RETAIN flag it was sent with
    group: str = ""  # the shared subscription it was sent for; empty for none
    lease: int = 0  # at QoS 1 for a shared subscription; 0 for none


class Subscription(NamedTuple):
    """A granted subscription. `since` is the log position from which it counts, `selection` a filter (selection.py)."""

    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int = 0  # 0: none
    since: int = 0
    selection: str = ""


class Session:
    """State kept under one client identifier. `durable` ones outlive the connection, and their changes are logged."""

    __slots__ = (
        "client_id",
        "durable",
        "expiry_s",
        "inbound",
        "inflight",
        "next_packet_id",
        "number",
        "position",
        "subscriptions",
    )

    def __init__(self, client_id: str, number: int = 0, expiry_s: int = 0) -> None:
        self.client_id = client_id
        self.number = number  # its subscriber number in the subscription index
        self.expiry_s = expiry_s  # 0: ends with the connection; 0xFFFFFFFF: never
        self.durable = expiry_s > 0
        self.position = 0
        self.subscriptions: dict[str, Subscription] | None = None
        self.inbound: dict[int, int] | None = None
        self.inflight: dict[int, Delivery] | None = None
        self.next_packet_id = 1

    def take_packet_ids(self, count: int) -> int:
        """The first of `count` unused packet ids in a row; 0 when the next ones are not all free."""
        first = self.next_packet_id
        end = first + count
        if end > 65_535:
            return 0
        inflight = self.inflight
        if inflight and not (first not in inflight if count == 1 else inflight.keys().isdisjoint(range(first, end))):
            return 0
        self.next_packet_id = end
        return first

    def take_packet_id(self) -> int:
        """An unused packet id for a PUBLISH to the client ([MQTT-2.2.1-4]); ids are used in turn."""
        inflight = self.inflight
        packet_id = self.next_packet_id
        if inflight:
            if len(inflight) >= 65_535:
                raise LocalProtocolError("all packet ids are in use")
            while packet_id in inflight:
                packet_id = packet_id + 1 if packet_id < 65_535 else 1
        self.next_packet_id = packet_id + 1 if packet_id < 65_535 else 1
        return packet_id
