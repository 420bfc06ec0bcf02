"""What the embedded engine shows its settler: the `Host` of `settler`, over the engine's own state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.store.engine import Appended, Entry, append
from core.store.index import Block, Extent
from core.store.log_files import SealedFiles
from core.store.partition import Partition

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

    def room_pressed(self) -> bool:
        room = self._engine._room
        return room.full or self._engine.disk.free_bytes() < 2 * room.reserve_bytes
