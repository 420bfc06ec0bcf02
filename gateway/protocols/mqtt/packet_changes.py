"""What packets ask to be stored: publishes with the state changes that belong into their append."""

from __future__ import annotations

from core import sessions as stored
from core.state import Change
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5, Connect, Publish
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.outgoing import Outgoing

NEVER_S = 0xFFFFFFFF


def outgoing_of(connection: Connection, ticket: int, publish: Publish) -> Outgoing:
    """A PUBLISH of a connected device; at QoS 2 of a durable session with its packet id."""
    device = connection.user
    assert isinstance(device, Device)
    session = device.session
    changes: tuple[Change, ...] = ()
    if publish.qos == 2 and session.durable:
        changes = (stored.inbound_change(session.client_id, publish.packet_id, True),)
    name, payload, qos, retain, _, _, properties = publish
    publisher = session.client_id if device.no_local else None
    return Outgoing(connection, ticket, name, payload, qos, retain, properties, publisher, changes)


def asked_expiry_s(connect: Connect) -> int:
    """The session expiry a CONNECT asks for; MQTT 3 sessions without clean session never end."""
    if connect.version == V5:
        return int(connect.properties.get(props.SESSION_EXPIRY, 0))
    return 0 if connect.clean_start else NEVER_S
