"""Messages given to connections: to a device, or to the member of a shared subscription whose turn it is."""

from __future__ import annotations

from collections.abc import Callable

from core.queue_partition import QueuePartition
from gateway.protocols.mqtt.codec.packets import V5
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.outbound import Handed
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.traces import MqttTraces


class Handing:
    """`unstored` is told of devices with packet ids to be stored, `traces` of what is delivered."""

    def __init__(self, traces: MqttTraces, unstored: Callable[[set[Device]], None]) -> None:
        self._traces = traces
        self._unstored = unstored
        self._storing: set[Device] = set()

    def to_device(
        self,
        device: Device,
        run: Run,
        start: int,
        qos: int,
        published: bool,
        identifiers: bytes,
        now_s: float,
    ) -> int:
        """`run.messages[start:]` at a granted QoS, as far as there is room; the index of the first one not taken."""
        connection = device.connection
        if connection is None:
            return start
        if device.access is not None and not device.access.may_read(run.messages[start].topic):
            return len(run)
        taken = connection.deliver(
            run,
            start,
            qos,
            now_s,
            retain_as_published=published,
            identifiers=identifiers if connection.version == V5 else b"",
        )
        if taken > start and self._traces.active:
            self._traces.delivered(connection, run.messages[start:taken], "")
        self._changed(device, connection)
        return taken

    def _changed(self, device: Device, connection: Connection) -> None:
        """Something was handed to it."""
        if device.session.durable:
            device.dirty = True
            if connection.has_unstored:
                self._storing.add(device)

    def redelivered(self, device: Device, connection: Connection) -> None:
        """Something of its old connection was sent again."""
        if connection.has_unstored:
            self._storing.add(device)

    def plain_to_member(self, group: Group, run: Run) -> bool:
        """One message without anything to be looked at, to the member whose turn it is; False, and nothing is done,
        where `to_member` must look.
        """
        member = group.first
        if run.plain_qos != 1 or len(run.payloads) != 1 or member is None or member.identifiers:
            return False
        device = member.device
        connection = device.connection
        if connection is None or device.access is not None:
            return False
        lease = group.next_lease()
        if not connection.deliver_plain(run, member.qos, group.id, lease):
            return False
        group.pass_turn()
        group.hand_out(lease, member, run.partition, run.base_offset, None)
        group.dirty = True
        if device.session.durable:
            device.dirty = True
        return True

    def to_member(self, group: Group, message: Message, now_s: float, again: QueuePartition | None = None) -> bool:
        """Gives a message to the member whose turn it is; False when nobody who may read it has room. `again`: the
        queue in which it was due.
        """
        group.dirty = True
        asked = refused = 0
        for member in group.in_turn():
            asked += 1
            device = member.device
            connection = device.connection
            if connection is None or (device.access is not None and not device.access.may_read(message.topic)):
                refused += 1
                continue
            lease = group.next_lease()
            handed = connection.deliver_one(
                message,
                member.qos,
                now_s,
                retain_as_published=member.retain_as_published,
                identifiers=member.identifiers if connection.version == V5 else b"",
                group=group.id,
                lease=lease,
            )
            if handed is Handed.NOT:
                continue
            if handed is Handed.LEASED:
                group.hand_out(lease, member, message.partition, message.offset, again)
            else:
                group.over(message.partition, message.offset, again)
            if self._traces.active:
                self._traces.delivered(connection, [message], group.id)
            self._changed(device, connection)
            return True
        if refused < asked or not asked:
            return False
        group.over(message.partition, message.offset, again)  # nobody may read it
        return True

    def store_packet_ids(self) -> None:
        """Has the packet ids of new QoS 2 messages stored, for all devices that got some."""
        if self._storing:
            storing, self._storing = self._storing, set()
            self._unstored(storing)
