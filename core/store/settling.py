"""What the embedded engine shows its settler: the `Host` of `settler`, over the engine's own state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.store.engine import Appended, DeleteBefore, Entry, Outcome, append
from core.store.index import Block, Extent
from core.store.log_files import SealedFiles
from core.store.partition import Partition
from core.store.writer import Signal

if TYPE_CHECKING:
    from core.store.embedded import EmbeddedEngine


class EngineHost:
    """Part of the embedded engine: it looks at its private state, on the trio thread."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine

    @property
    def epoch(self) -> int:
        return self._engine.epoch

    @property
    def checkpoint_log_number(self) -> int:
        return self._engine._checkpoint_log_number

    @property
    def open_log_number(self) -> int:
        segment = self._engine._segment
        return self._engine._supply.next_number if segment is None else segment.number

    def living_partitions(self) -> dict[int, Partition]:
        return self._engine._partitions

    @property
    def sealed_files(self) -> SealedFiles:
        return self._engine.files

    async def load_block(self, extent: Extent) -> Block:
        block = self._engine.files.block(extent)
        return block if block is not None else await self._engine._reader.load(extent)

    async def append_entries(self, entries: Sequence[Entry]) -> list[Appended]:
        return await append(self._engine, entries)

    @property
    def scattered_reads(self) -> dict[str, int]:
        return self._engine._reader.scattered_reads

    def open_dead_share(self) -> tuple[int, float]:
        segment = self._engine._segment
        if segment is None:
            return 0, 0.0
        dead = 0
        for number, block in segment.blocks.items():
            partition = self._engine._partitions.get(number)
            if partition is None or block.end_offset <= partition.log_start:
                dead += block.size_bytes
        return dead, dead / segment.groups_end

    async def flush(self) -> None:
        if self._engine.config.flush == "async":
            await self._engine._writer.flush()

    async def roll(self) -> None:
        for partition in list(self._engine._partitions.values()):
            self._engine._put(Signal.ROLL)
            # the engine takes note of a new segment with the first group in it
            [answer] = await self.append_entries([DeleteBefore(partition.number, partition.log_start)])
            if answer.outcome is Outcome.APPENDED:
                return

    def room_pressed(self) -> bool:
        room = self._engine._room
        return room.full or self._engine.disk.free_bytes() < 2 * room.reserve_bytes
