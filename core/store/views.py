"""What the embedded engine shows of its partitions: reads, watches, state. All on the trio thread."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter

from core.store.engine import DurableBatch, PartitionInfo, PartitionPolicy, ProducerState, Read
from core.store.searches import Searches

_epoch_number = itemgetter(0)
_epoch_start = itemgetter(1)


class Views(Searches):
    """The reading half of the engine."""

    _listeners: list[Callable[[list[DurableBatch]], None]]

    def read_nowait(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read | None:
        return self._reader.read_nowait(self._get(partition), offset, bytes_max, committed, first_whole, mapped)

    async def read(
        self,
        partition: int,
        offset: int,
        bytes_max: int,
        *,
        committed: bool = False,
        first_whole: bool = True,
        mapped: bool = False,
    ) -> Read:
        return await self._reader.read(self._get(partition), offset, bytes_max, committed, first_whole, mapped)

    def watch(self, partition: int, callback: Callable[[int], None]) -> None:
        self._get(partition).watchers.append(callback)

    def unwatch(self, partition: int, callback: Callable[[int], None]) -> None:
        p = self._partitions.get(partition)
        if p is not None and callback in p.watchers:
            p.watchers.remove(callback)

    def add_tail_listener(self, listener: Callable[[list[DurableBatch]], None]) -> None:
        self._listeners.append(listener)

    def info(self, partition: int) -> PartitionInfo:
        p = self._get(partition)
        return PartitionInfo(
            p.log_start, p.high_watermark, p.last_stable, p.next_offset, p.size_bytes, p.max_timestamp_ms
        )

    def partitions(self) -> list[int]:
        return sorted(self._partitions)

    def set_policy(self, partition: int, policy: PartitionPolicy) -> None:
        self._get(partition).policy = policy

    def epoch_end(self, partition: int, epoch: int) -> tuple[int, int]:
        p = self._get(partition)
        i = bisect_right(p.epochs, epoch, key=_epoch_number)
        if i == 0:
            return -1, -1
        return p.epochs[i - 1][0], p.epochs[i][1] if i < len(p.epochs) else p.high_watermark

    def epoch_of(self, partition: int, offset: int) -> int:
        p = self._get(partition)
        i = bisect_right(p.epochs, offset, key=_epoch_start)
        return p.epochs[i - 1][0] if i and offset < p.high_watermark else -1

    def producers(self, partition: int) -> list[ProducerState]:
        p = self._get(partition)
        return [] if p.producers is None else p.producers.states()
