"""From the log to devices that are behind: each reads on from its cursor until it meets the tail, then it is live.

First comes what was in flight on the old connection ([MQTT-4.4.0-1]), then retained messages that had no room, then the
log, partition by partition up to where the tail is. A few readers serve all who are behind; one whose window is full
leaves its reader and comes back when the window opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from core.delivery import READ_BYTES, LogTail, Stretch, committed_batches, next_offset
from core.filters import matches
from core.mapping_history import MappingHistory
from core.store.engine import DataDamaged, Engine, OffsetOutOfRange, UnknownPartition
from core.topics import Topic, Topics
from gateway.protocols.mqtt.codec.packets import V5
from gateway.protocols.mqtt.cursors import Cursors
from gateway.protocols.mqtt.decoded import DecodedBatches
from gateway.protocols.mqtt.devices import Device, RetainedMessages
from gateway.protocols.mqtt.handing import Handing
from gateway.protocols.mqtt.message import Message, Run
from gateway.protocols.mqtt.session import Delivery
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.subscribers import Subscribers, encoded_identifiers

log = structlog.get_logger(__name__)

ALL: Final = 1 << 63  # a position behind all
READERS: Final = 4  # devices that read the log at the same time


class CatchingUp:
    """`offline_messages_max`: what a device gets of what came while it was away (-1: all); `flush` is called when one
    has left its reader.
    """

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        mappings: MappingHistory,
        tail: LogTail,
        subscribers: Subscribers,
        cursors: Cursors,
        decoded: DecodedBatches,
        handing: Handing,
        retained_partition: int,
        offline_messages_max: int,
        flush: Callable[[], None],
    ) -> None:
        self.cut = 0  # messages that devices did not get, as more came while they were away
        self._engine = engine
        self._topics = topics
        self._mappings = mappings
        self._tail = tail
        self._subscribers = subscribers
        self._cursors = cursors
        self._decoded = decoded
        self._handing = handing
        self._retained_partition = retained_partition
        self._offline_messages_max = offline_messages_max
        self._flush = flush

    async def run(self) -> None:
        """Serves those that are behind, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(self._read_for_the_behind)

    async def _read_for_the_behind(self) -> None:
        async for device in self._cursors.behind:
            device.queued = False
            device.catching_up = True
            try:
                await self._catch_up(device)
            except Exception:
                # A fault of ours in one delivery ends that connection alone; its session stays.
                log.exception("MQTT delivery failed", name=device.name)
                device.give_up()
            finally:
                self._cursors.caught_up(device)
            self._handing.store_packet_ids()
            self._flush()

    def returned(self, device: Device) -> None:
        """Its client is here again: what came until now came while it was away."""
        device.returned, device.backlog_left = self._tail.position, self._offline_messages_max
        device.cut = False

    async def _catch_up(self, device: Device | Group) -> None:
        if isinstance(device, Group):
            if not await self._give_again(device):
                return
        elif not await self._redeliver(device) or not self._retained(device):
            return
        while not device.live and device.present:
            position, held = self._tail.position, dict(self._tail.held)
            change = self._mappings.next_change(device.position)
            if change is not None and change < position:
                # From there on names may lie in other topics: what is older comes first, whatever topic it is in.
                if not await self._read_to_change(device, change, held):
                    return
                continue
            offsets = device.offsets
            for partition in self.partitions_for(device):
                try:
                    start = await self._cursors.start_of(device, partition)
                    target = self._tail.end(partition) if self._tail.position == position else held.get(partition)
                    if target is None:
                        target = await self._engine.offset_at(partition, position)
                    if start < target and not await self._read_on(device, partition, start, target):
                        return
                except UnknownPartition:
                    continue  # deleted meanwhile
            if device.offsets is not offsets:
                continue  # it was rewound
            device.position, device.offsets = position, held
            if self._tail.position == position and self._tail.held == held:
                self._cursors.join_tail(device)
            else:
                await trio.lowlevel.checkpoint()

    async def _read_to_change(self, device: Device | Group, change: int, held: dict[int, int]) -> bool:
        """Delivers up to a position where names changed their topics; False as of `_read_on`."""
        offsets = device.offsets
        for partition in self.partitions_for(device):
            try:
                start = await self._cursors.start_of(device, partition)
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
        return [number for number in numbers if self._subscribers.visible(number) is not None]

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

    # -- batches for one who is behind ---------------------------------------------------------------------------------

    def _deliver_behind(self, device: Device, stretch: Stretch, offset: int) -> int | None:
        """Hands one batch to one device; the offset where it stopped, None if it took all."""
        now_s = time.time()
        position = self._engine.position_at(stretch.partition, stretch.base_offset)
        for named in self._decoded.runs(stretch):
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
            capped = self._offline_messages_max >= 0 and position < device.returned
            if capped and len(messages) - start > device.backlog_left:
                run = self._cut_backlog(device, messages, start)
                messages = run.messages
                if len(messages) == start:
                    continue
            qos, published, identifiers = granted
            encoded = encoded_identifiers(identifiers)
            taken = self._handing.to_device(device, run, start, qos, published, encoded, now_s)
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
                offline_messages_max=self._offline_messages_max,
            )
        self.cut += len(messages) - left
        return Run(messages[:left])

    def _deliver_behind_to_group(self, group: Group, stretch: Stretch, offset: int) -> int | None:
        now_s = time.time()
        for named in self._decoded.runs(stretch):
            if matches(group.filter, named.name):
                for message in named.passing(group.selections).messages:
                    if message.offset < offset:
                        continue
                    if not group.is_new(message.partition, message.offset):
                        group.over(message.partition, message.offset, None)
                    elif not self._handing.to_member(group, message, now_s):
                        return message.offset
        return None

    # -- what was in flight, and what is retained ----------------------------------------------------------------------

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
            elif not self._handing.to_member(group, message, time.time(), queue):
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
                self._handing.redelivered(device, connection)
        return connection is not None and not connection.stalled

    def _identifiers(self, device: Device, delivery: Delivery, message: Message | None) -> bytes:
        """Those that a message had the first time, as far as its subscriptions still stand ([MQTT-3.3.4-3])."""
        if message is None:
            return b""
        if delivery.group:
            group = self._subscribers.groups.get(delivery.group)
            member = group.members.get(device.session.client_id) if group is not None else None
            return member.identifiers if member is not None else b""
        retained = delivery.partition == self._retained_partition
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
            for named in self._decoded.runs(stretch):
                for message in named.run.messages:
                    if message.offset == offset:
                        return message
        return None

    def deliver_retained(self, device: Device) -> None:
        """Retained messages for new subscriptions, as far as there is room now."""
        self._retained(device)
        self._handing.store_packet_ids()

    def _retained(self, device: Device) -> bool:
        """Retained messages that did not fit when they were asked for; False when they still do not."""
        while device.retained:
            for message, qos, identifiers in device.retained[0]:
                run = Run([message])
                if not self._handing.to_device(device, run, 0, qos, True, identifiers, time.time()):
                    rest = device.retained[0]
                    device.retained[0] = _again((message, qos, identifiers), rest)
                    return False
            device.retained.pop(0)
        return True


def _again(first: tuple[Message, int, bytes], rest: RetainedMessages) -> RetainedMessages:
    yield first
    yield from rest
