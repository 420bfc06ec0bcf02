"""Stored sessions and shared subscriptions at start: from the session log into the index and the table of sessions at
rest, in bounded memory.

Only members of shared subscriptions, and who has something of one, become objects: they do not rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

from core.queue_partition import QueuePartition
from core.queue_replay import QueueRows
from core.sessions import SessionLog, SessionRow, group_change
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.packet_changes import NEVER_S
from gateway.protocols.mqtt.resting import Resting, RestingRow, pack_stored, unpack
from gateway.protocols.mqtt.session import QOS1_SENT, Subscription
from gateway.protocols.mqtt.subscribers import Subscribers, options_of

STRETCH_SESSIONS: Final = 2_000  # in one step of the loop, some 15 us each


async def restore_sessions(log: SessionLog, deliveries: Deliveries, resting: Resting, now_s: float) -> list[Device]:
    """Returns those that do not rest. Sessions that were connected count as gone from now on."""
    members: list[tuple[str, int, bytes]] = []
    rows: list[RestingRow] = []
    for client_id, number, row in _numbered(log, deliveries.subscribers):
        packed = pack_stored(row)
        if row.shared or any(one[0].startswith("$share/") for one in row.subscriptions):
            members.append((client_id, number, packed))
            continue
        for filter_, *options in row.subscriptions:
            deliveries.subscribers.add(filter_, number, options_of(Subscription(*options)))
        rows.append((client_id, number, None if row.expiry_s == NEVER_S else now_s + row.expiry_s, packed))
        if len(rows) >= STRETCH_SESSIONS:
            resting.put_rows(rows)
            rows = []
            await trio.lowlevel.checkpoint()
    resting.put_rows(rows)
    log.forget_loaded()
    # Last: their groups are given numbers, and now it is known which are free.
    return [_enter(unpack(*member), deliveries) for member in members]


def _numbered(log: SessionLog, subscribers: Subscribers) -> Iterator[tuple[str, int, SessionRow]]:
    """The sessions with their numbers; those without one of their own get theirs when all others are known."""
    taken = bytearray()
    others: list[str] = []
    for client_id, row in log.sessions():
        number = row.number
        if number >= len(taken):
            taken.extend(bytes(number + 1 + (number >> 3) - len(taken)))
        if number and not taken[number]:
            taken[number] = 1
            yield client_id, number, row
        else:
            others.append(client_id)
    subscribers.restore_numbers(taken)
    left = set(others)
    for client_id, row in log.sessions() if left else ():
        if client_id in left:
            number = subscribers.take_number()
            subscribers.resting_pending.add(number)
            yield client_id, number, row


def _enter(device: Device, deliveries: Deliveries) -> Device:
    session = device.session
    device.pending = session.number in deliveries.subscribers.resting_pending
    device.no_local = device.selective = 0
    deliveries.subscribers.devices[session.number] = device
    subscriptions, session.subscriptions = session.subscriptions, None
    for filter_, subscription in (subscriptions or {}).items():
        deliveries.subscribe(device, filter_, subscription)
    return device


def restore_groups(log: SessionLog, subscribers: Subscribers) -> None:
    """Shared subscriptions as they were left, once their members are restored. What no session has any more goes."""
    queues: dict[str, list[QueuePartition]] = {}
    rows = log.queue_rows
    for name, partition in rows.places():
        if name in subscribers.groups and subscribers.has(partition):
            queues.setdefault(name, []).append(rows.take(QueuePartition(name, "", partition, partition)))
    for name, place in log.groups.items():
        group = subscribers.groups.get(name)
        if group is None:
            log.put([group_change(name, None)])
        else:
            group.load(place, queues.get(name, ()))
    log.groups = {}
    log.put(rows.orphans())
    log.queue_rows = QueueRows(0)


async def claim_inflight(device: Device, deliveries: Deliveries) -> None:
    """What a restored session had in flight for shared subscriptions is still its own."""
    subscribers = deliveries.subscribers
    inflight = device.session.inflight or {}
    for packet_id, delivery in inflight.items():
        group = subscribers.groups.get(delivery.group)
        if group is not None and delivery.state == QOS1_SENT and subscribers.has(delivery.partition):
            floor = await deliveries.cursors.start_of(group, delivery.partition)
            inflight[packet_id] = group.claim(device.session.client_id, delivery, floor)
            if group.id not in device.groups:
                device.groups.append(group.id)
