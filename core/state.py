"""The broker's own state in its own log: tables of key -> value kept as records of one internal compacted partition.

A change is durable when its batch is, so an owner puts it into the same append as whatever must happen together with
it (`entry`), or appends it alone (`put`), and applies it to memory when `done` says so. At start `load` replays the
partition, oldest first; a null value deletes. What the disk has lost of it is reported and passed over: a broker whose
every table but one is whole starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from core.errors import CoreError, CoreFailure
from core.store.engine import Append, Appended, DataDamaged, Engine, Outcome, append
from trivium.record_batch import iter_batches, parse_header
from trivium.records import Record, build, decode

Change = tuple[bytes, bytes | None]

_LOAD_BYTES_MAX = 4 * 1024 * 1024
_BATCH_BYTES_MAX = 64 * 1024 * 1024

_log = structlog.get_logger("core")


class StateLog:
    """One internal compacted partition as a key -> value table's log."""

    def __init__(self, engine: Engine, partition: int) -> None:
        self._engine = engine
        self.partition = partition
        self.damaged = False  # a part was lost by the disk before `load` read it

    async def load(self, apply: Callable[[bytes, bytes | None], None]) -> None:
        """Calls `apply(key, value)` for every record from the beginning to the high watermark (compaction may have
        left gaps).
        """
        await self.load_records(lambda record: apply(record.key or b"", record.value))

    async def load_records(self, apply: Callable[[Record], None]) -> None:
        """As `load`, with the whole records."""
        info = self._engine.info(self.partition)
        offset = info.log_start
        while offset < info.high_watermark:
            try:
                read = await self._engine.read(self.partition, offset, _LOAD_BYTES_MAX)
            except DataDamaged as damage:
                _log.error("changes of the broker's own state are lost", damage=str(damage))
                self.damaged = True
                offset = damage.end_offset
                continue
            for buffer in read.buffers:
                for header, batch in iter_batches(buffer):
                    for record in decode(batch, _BATCH_BYTES_MAX):
                        apply(record)
                    offset = header.last_offset + 1
            if not read.buffers:
                return

    def entry(self, changes: Sequence[Change]) -> Append:
        """The changes as one entry for an append."""
        now_ms = int(time.time() * 1000)
        batch = build([Record(i, now_ms, key, value, []) for i, (key, value) in enumerate(changes)])
        return Append(self.partition, parse_header(batch), batch)

    async def put(self, changes: Sequence[Change]) -> Appended:
        """Appends the changes and waits until they are durable."""
        return (await append(self._engine, [self.entry(changes)]))[0]


def raise_unless_appended(answers: Sequence[Appended]) -> None:
    """Raises CoreFailure for what the store refused."""
    for answer in answers:
        if answer.outcome is Outcome.FULL:
            raise CoreFailure(CoreError.STORE_FULL, "the data directory has no room left")
        if answer.outcome not in (Outcome.APPENDED, Outcome.NOT_APPENDED):
            raise CoreFailure(CoreError.STORE_FAILED, f"the store answered: {answer.outcome.value}")
