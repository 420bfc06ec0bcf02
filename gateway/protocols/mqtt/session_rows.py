"""Between sessions in memory and their rows in the log (core.sessions)."""

from __future__ import annotations

from core import sessions as stored
from core.sessions import SessionRow
from core.state import Change
from gateway.protocols.mqtt import session as ses
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.outbound import Unsent
from gateway.protocols.mqtt.session import Delivery, Session


def session_row(session: Session) -> Change:
    subscriptions = [[filter_, *subscription] for filter_, subscription in (session.subscriptions or {}).items()]
    return stored.session_change(session.client_id, session.expiry_s, session.number, subscriptions)


def position_changes(device: Device, position: int, offsets: dict[int, int]) -> list[Change]:
    """The session's place in the log, its QoS 1 messages in flight, and the end of QoS 2 exchanges that are over."""
    session = device.session
    inflight = session.inflight or {}
    qos1 = {
        packet_id: (delivery.partition, delivery.offset, delivery.retain)
        for packet_id, delivery in inflight.items()
        if delivery.state == ses.QOS1_SENT
    }
    shared: dict[str, list[int]] = {}
    if device.groups:
        for packet_id, delivery in inflight.items():
            if delivery.group:
                shared.setdefault(delivery.group, []).append(packet_id)
    changes = [stored.position_change(session.client_id, position, offsets, qos1, shared)]
    over = [one for one in device.stored_out if one not in inflight or inflight[one].state == ses.QOS1_SENT]
    for packet_id in over:
        device.stored_out.discard(packet_id)
        changes.append(stored.outbound_change(session.client_id, packet_id, None))
    device.dirty = False
    return changes


def unstored_changes(device: Device, unstored: list[Unsent]) -> list[Change]:
    changes: list[Change] = []
    for packet_id, message, qos, retain, _ in unstored:
        if qos == 2:
            place = (ses.QOS2_SENT, message.partition, message.offset, retain)
            changes.append(stored.outbound_change(device.session.client_id, packet_id, place))
            device.stored_out.add(packet_id)
    return changes


def forget(device: Device) -> list[Change]:
    """The end of a session; nothing if it was never stored."""
    if not device.stored:
        return []
    device.stored = False
    session = device.session
    inbound = set(session.inbound or ())
    return stored.forget_changes(session.client_id, inbound, device.stored_out)


def inflight_of(row: SessionRow) -> dict[int, Delivery]:
    """What is in flight to a stored session. The order of the log is the order in which it is sent again, in each
    partition ([MQTT-4.6.0-1]).
    """
    inflight = {
        packet_id: Delivery(ses.QOS1_SENT, partition, offset, retain, row.shared.get(packet_id, ""))
        for packet_id, (partition, offset, retain) in row.qos1.items()
    }
    for packet_id, place in row.outbound.items():
        inflight[packet_id] = Delivery(*place, row.shared.get(packet_id, ""))
    return dict(sorted(inflight.items(), key=lambda item: (item[1].partition, item[1].offset)))
