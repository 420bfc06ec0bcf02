"""Which sessions something stored is for that nobody was told of: at start, from a place in the log on."""

from __future__ import annotations

from core.delivery import READ_BYTES, LogTail, Stretch, committed_batches, next_offset
from core.store.engine import DataDamaged, Engine, OffsetOutOfRange
from gateway.protocols.mqtt.decoded import DecodedBatches
from gateway.protocols.mqtt.subscribers import Subscribers


class Marking:
    """All stored sessions must be in the index."""

    def __init__(self, engine: Engine, tail: LogTail, subscribers: Subscribers, decoded: DecodedBatches) -> None:
        self._engine = engine
        self._tail = tail
        self._subscribers = subscribers
        self._decoded = decoded

    async def since(self, position: int, held: dict[int, int], bytes_max: int) -> bool:
        """Marks the sessions that something stored since a place is for, and gives it to nobody; nobody may be
        connected yet. False when that is more than `bytes_max`: then not all are marked.
        """
        left_bytes = bytes_max
        for partition in [one for one in self._engine.partitions() if self._subscribers.wanted(one)]:
            offset = held.get(partition)
            if offset is None:
                offset = await self._engine.offset_at(partition, position)
            while offset < (end := self._tail.end(partition)):
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
        for named in self._decoded.runs(stretch):
            for target in self._subscribers.plan(named.name):
                device = self._subscribers.devices.get(target.number)
                if device is not None:
                    device.pending = True
                elif target.number not in self._subscribers.groups_by_number:
                    self._subscribers.resting_pending.add(target.number)
