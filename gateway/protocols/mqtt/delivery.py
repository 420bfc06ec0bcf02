"""From the log to devices that are behind: each reads on from its cursor until it meets the tail, then it is live.

First comes what was in flight on the old connection ([MQTT-4.4.0-1]), then retained messages that had no room, then the
log, partition by partition up to where the tail is. A few readers serve all who are behind; one whose window is full
leaves its reader and comes back when the window opens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import structlog
import trio

from core.delivery import READ_BYTES, Stretch, committed_batches, next_offset
from core.filters import matches
from core.store.engine import DataDamaged, OffsetOutOfRange, UnknownPartition
from core.topics import Topic
from gateway.protocols.mqtt.codec.packets import V5
from gateway.protocols.mqtt.devices import Device, RetainedMessages
from gateway.protocols.mqtt.live import Live, encoded_identifiers
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.session import Delivery
from gateway.protocols.mqtt.shared import Group

log = structlog.get_logger(__name__)

ALL: Final = 1 << 63  # a position behind all
READERS: Final = 4  # devices that read the log at the same time


class Deliveries(Live):
    """Live delivery and reading for the behind; `run` must be running."""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.tail.run)
            for _ in range(READERS):
                nursery.start_soon(self._read_for_the_behind)

    async def _read_for_the_behind(self) -> None:
        async for device in self._behind_receive:
            device.queued = False
            device.catching_up = True
            try:
                await self._catch_up(device)
            except Exception:
                # A fault of ours in one delivery ends that connection alone; its session stays.
                log.exception("MQTT delivery failed", name=device.name)
                device.give_up()
            finally:
                device.catching_up = False
            if device.queued:
                self._behind_send.send_nowait(device)
            self.store_packet_ids()
            self.flush()

    async def _catch_up(self, device: Device | Group) -> None:
        if isinstance(device, Group):
            if not await self._give_again(device):
                return
        elif not await self._redeliver(device) or not self._retained(device):
            return
        while not device.live and device.present:
            position, held = self.tail.position, dict(self.tail.held)
            change = self._mappings.next_change(device.position)
            if change is not None and change < position:
                # From there on names may lie in other topics: what is older comes first, whatever topic it is in.
                if not await self._read_to_change(device, change, held):
                    return
                continue
            offsets = device.offsets
            for partition in self.partitions_for(device):
                try:
                    start = await self.start_of(device, partition)
                    target = self.tail.end(partition) if self.tail.position == position else held.get(partition)
                    if target is None:
                        target = await self._engine.offset_at(partition, position)
                    if start < target and not await self._read_on(device, partition, start, target):
                        return
                except UnknownPartition:
                    continue  # deleted meanwhile
            if device.offsets is not offsets:
                continue  # it was rewound
            device.position, device.offsets = position, held
            if self.tail.position == position and self.tail.held == held:
                self._join_tail(device)
            else:
                await trio.lowlevel.checkpoint()

    async def _read_to_change(self, device: Device | Group, change: int, held: dict[int, int]) -> bool:
        """Delivers up to a position where names changed their topics; False as of `_read_on`."""
        offsets = device.offsets
        for partition in self.partitions_for(device):
            try:
                start = await self.start_of(device, partition)
                target = await self._engine.offset_at(partition, change)
                target = min(target, held.get(partition, target))
                if start < target and not await self._read_on(device, partition, start, target):
                    return False
            except UnknownPartition:
                continue  # deleted meanwhile
            if device.offsets is not offsets:
                return True  # it was rewound
            offsets[partition] = max(start, target)
        device.position = change
        return True

    def partitions_for(self, device: Device | Group) -> list[int]:
        """The partitions that its subscriptions can match something of."""
        names: set[str] = set()
        topics: Iterable[Topic | None] | None = None
        for filter_ in [device.filter] if isinstance(device, Group) else device.filters():
            found = self._mappings.topics_since(filter_, device.position)
            if found is None:
                topics = self._topics.all()
                break
            names |= found
        if topics is None:
            topics = [self._topics.get(name) for name in names]
        numbers = [number for topic in topics if topic is not None for number in topic.partitions]
        return [number for number in numbers if self.visible(number) is not None]

    async def _read_on(self, device: Device | Group, partition: int, offset: int, target: int) -> bool:
        """Delivers a partition up to `target`; False when the device's window is full, or it is gone or rewound."""
        offsets = device.offsets
        while offset < target:
            try:
                read = self._engine.read_nowait(partition, offset, READ_BYTES, committed=True)
                if read is None:
                    read = await self._engine.read(partition, offset, READ_BYTES, committed=True)
            except OffsetOutOfRange:
                offset = max(offset, self._engine.info(partition).log_start)  # retention has cut it
                if offset >= target:
                    break
                continue
            except DataDamaged as damage:
                offset = damage.end_offset
                continue
            if device.offsets is not offsets:
                return False
            for stretch in committed_batches(partition, read, offset):
                if stretch.base_offset >= target:
                    break
                if isinstance(device, Group):
                    stopped = self._deliver_behind_to_group(device, stretch, offset)
                else:
                    stopped = self._deliver_behind(device, stretch, offset)
                if stopped is not None:
                    offsets[partition] = stopped
                    return False
            after = min(next_offset(read, offset), target)  # what was read behind the target was not looked at
            if after <= offset:
                break
            offset = after
            offsets[partition] = offset
            await trio.lowlevel.checkpoint()
            if device.offsets is not offsets:
                return False
        offsets[partition] = max(offset, target)
        return True

    async def mark_since(self, position: int, held: dict[int, int], bytes_max: int) -> bool:
        """Marks the sessions that something stored since a place is for, and gives it to nobody; nobody may be
        connected yet. False when that is more than `bytes_max`: then not all are marked.
        """
        left_bytes = bytes_max
        for partition in [one for one in self._engine.partitions() if self._wanted(one)]:
            offset = held.get(partition)
            if offset is None:
                offset = await self._engine.offset_at(partition, position)
            while offset < (end := self.tail.end(partition)):
                try:
                    read = await self._engine.read(partition, offset, READ_BYTES, committed=True)
                except OffsetOutOfRange:
                    offset = max(offset + 1, self._engine.info(partition).log_start)  # retention has cut it
                    continue
                except DataDamaged as damage:
                    offset = damage.end_offset
                    continue
                left_bytes -= read.size_bytes
                if left_bytes < 0:
                    return False
                for stretch in committed_batches(partition, read, offset):
                    if stretch.base_offset < end:
                        self._mark(stretch)
                after = next_offset(read, offset)
                if after <= offset:
                    break
                offset = after
        return True

    def _mark(self, stretch: Stretch) -> None:
        for named in self._runs(stretch):
            for target in self._plan(named.name):
                device = self.devices.get(target.number)
                if device is not None:
                    device.pending = True
                elif target.number not in self.groups_by_number:
                    self.resting_pending.add(target.number)

    def _deliver_behind(self, device: Device, stretch: Stretch, offset: int) -> int | None:
        """Hands one batch to one device; the offset where it stopped, None if it took all."""
        now_s = time.time()
        position = self._engine.position_at(stretch.partition, stretch.base_offset)
        for named in self._runs(stretch):
            if named.run.messages[-1].offset < offset:
                continue
            granted = device.granted(named.name, position, named.publisher)
            if granted is None:
                continue
            run = named.passing(device.selections(named.name, position))
            messages = run.messages
            if not messages or messages[-1].offset < offset:
                continue
            start = next(index for index, message in enumerate(messages) if message.offset >= offset)
            capped = self.offline_messages_max >= 0 and position < device.returned
            if capped and len(messages) - start > device.backlog_left:
                run = self._cut_backlog(device, messages, start)
                messages = run.messages
                if len(messages) == start:
                    continue
            qos, published, identifiers = granted
            encoded = encoded_identifiers(identifiers)
            taken = self._hand_over(device, run, start, qos, published, encoded, now_s)
            if capped:
                device.backlog_left -= taken - start
            if taken < len(messages):
                return messages[taken].offset
        return None

    def _cut_backlog(self, device: Device, messages: list[Message], start: int) -> Run:
        """Leaves out what is beyond `offline_messages_max`: the newest of what came while the device was away."""
        left = start + device.backlog_left
        if not device.cut:
            device.cut = True
            log.info(
                "MQTT session: more came while it was away than it may get",
                client_id=device.name,
                offline_messages_max=self.offline_messages_max,
            )
        self.cut += len(messages) - left
        return Run(messages[:left])

    def _deliver_behind_to_group(self, group: Group, stretch: Stretch, offset: int) -> int | None:
        now_s = time.time()
        for named in self._runs(stretch):
            if matches(group.filter, named.name):
                for message in named.passing(group.selections).messages:
                    if message.offset < offset:
                        continue
                    if not group.is_new(message.partition, message.offset):
                        group.over(message.partition, message.offset, None)
                    elif not self._to_member(group, message, now_s):
                        return message.offset
        return None

    async def _give_again(self, group: Group) -> bool:
        """What members that left had not acknowledged; False when nobody has room before the end."""
        while group.awake:
            queue = next(iter(group.awake))
            offset = queue.due(0)
            if offset is None:
                del group.awake[queue]
                continue
            message = await self.read_message(queue.partition, offset)
            if queue not in group.awake or queue.due(0) != offset:
                continue
            if message is None:
                queue.complete(offset, 1)  # the log no longer has it
                group.dirty = True
            elif not self._to_member(group, message, time.time(), queue):
                return False
        return True

    async def _redeliver(self, device: Device) -> bool:
        """What was in flight on the old connection; False when the window is full before the end."""
        connection = device.connection
        while connection is not None and (found := connection.next_redelivery()) is not None:
            packet_id, delivery = found
            message = await self.read_message(delivery.partition, delivery.offset)
            if device.connection is not connection:
                return False
            if connection.next_redelivery() == found:
                identifiers = self._identifiers(device, delivery, message) if connection.version == V5 else b""
                connection.redeliver(packet_id, message, time.time(), identifiers)
                if connection.has_unstored:
                    self._storing.add(device)
        return connection is not None and not connection.stalled

    def _identifiers(self, device: Device, delivery: Delivery, message: Message | None) -> bytes:
        """Those that a message had the first time, as far as its subscriptions still stand ([MQTT-3.3.4-3])."""
        if message is None:
            return b""
        if delivery.group:
            group = self.groups.get(delivery.group)
            member = group.members.get(device.session.client_id) if group is not None else None
            return member.identifiers if member is not None else b""
        retained = delivery.partition == self.retained_partition
        position = ALL if retained else self._engine.position_at(delivery.partition, delivery.offset)
        granted = device.granted(message.topic.decode(), position, None)
        return encoded_identifiers(granted[2] if granted is not None else [])

    async def read_message(self, partition: int, offset: int) -> Message | None:
        """The record of a message in flight, None when the log does not have it any more."""
        try:
            read = await self._engine.read(partition, offset, 1, committed=True)
        except (UnknownPartition, OffsetOutOfRange, DataDamaged):
            return None
        for stretch in committed_batches(partition, read, offset):
            for named in self._runs(stretch):
                for message in named.run.messages:
                    if message.offset == offset:
                        return message
        return None

    def deliver_retained(self, device: Device) -> None:
        """Retained messages for new subscriptions, as far as there is room now."""
        self._retained(device)
        self.store_packet_ids()

    def _retained(self, device: Device) -> bool:
        """Retained messages that did not fit when they were asked for; False when they still do not."""
        while device.retained:
            for message, qos, identifiers in device.retained[0]:
                run = Run([message])
                if not self._hand_over(device, run, 0, qos, True, identifiers, time.time()):
                    rest = device.retained[0]
                    device.retained[0] = _again((message, qos, identifiers), rest)
                    return False
            device.retained.pop(0)
        return True


def _again(first: tuple[Message, int, bytes], rest: RetainedMessages) -> RetainedMessages:
    yield first
    yield from rest
