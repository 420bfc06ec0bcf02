"""The live end of the log, for those who get records pushed: durable batches, once each, never beyond what is stable.

Batches come from the engine's tail in position order. A partition with an open transaction is *held* at its last stable
offset: nothing behind that is handed on until the transaction ends; then the partition is read as committed, so aborted
records are never seen. Whoever follows the log is therefore one position, plus the offsets of the held partitions.

`deliver` is called for each batch that `wanted(partition)` asks for, and `after` once behind each group. Both run on
the loop, must not block, and see `position` and `held` as they were when the batch was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import structlog
import trio

from core.store.engine import Buffer, DataDamaged, DurableBatch, Engine, OffsetOutOfRange, Read, UnknownPartition
from trivium.record_batch import BatchError, BatchHeader, parse_header
from trivium.records import Record, decode, salvage

log = structlog.get_logger(__name__)

READ_BYTES = 256 * 1024
DECODED_BYTES_MAX = 64 * 1024 * 1024


class Stretch(NamedTuple):
    """One batch to deliver. `base_offset` is the offset of its first record; its header's own is not set."""

    partition: int
    base_offset: int
    header: BatchHeader
    batch: Buffer


def committed_batches(partition: int, read: Read, offset: int) -> Iterator[Stretch]:
    """The batches of a committed read from `offset` on, without control batches and aborted transactions."""
    for buffer in read.buffers:
        at = 0
        while at < len(buffer):
            header = parse_header(buffer, at)
            batch = buffer[at : at + header.size_bytes]
            at += header.size_bytes
            base = header.base_offset
            if header.is_control or header.last_offset < offset:
                continue
            if header.is_transactional and any(
                one.producer_id == header.producer_id and one.first_offset <= base <= one.last_offset
                for one in read.aborted
            ):
                continue
            yield Stretch(partition, base, header, batch)


def next_offset(read: Read, offset: int) -> int:
    """The offset behind what was read."""
    return last_offset(read.buffers[-1]) + 1 if read.buffers else offset


def last_offset(batches: Buffer) -> int:
    """The last offset of one or more batches."""
    at = 0
    while True:
        header = parse_header(batches, at)
        at += header.size_bytes
        if at >= len(batches):
            return header.last_offset


def records_of(stretch: Stretch) -> list[Record]:
    """Its records with their offsets in the log. What cannot be decoded is left out and logged, never raised."""
    try:
        records = decode(stretch.batch, DECODED_BYTES_MAX)
    except BatchError as error:
        records = []
        with suppress(BatchError):
            records, _ = salvage(stretch.batch, DECODED_BYTES_MAX)
        log.warning(
            "records cannot be decoded",
            partition=stretch.partition,
            offset=stretch.base_offset,
            count=stretch.header.count - len(records),
            reason=str(error),
        )
    shift = stretch.base_offset - parse_header(stretch.batch).base_offset
    if shift:
        records = [record._replace(offset=record.offset + shift) for record in records]
    return records


class LogTail:
    """See the module. `run` must be running; it may be started once."""

    def __init__(
        self,
        engine: Engine,
        wanted: Callable[[int], bool],
        deliver: Callable[[Stretch], None],
        after: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._wanted = wanted
        self._deliver = deliver
        self._after = after
        self.held: dict[int, int] = {}  # partition -> its first offset that was not handed on
        self.position = engine.position  # everything before was handed on, but for held partitions
        self._wake = trio.Event()
        for partition in engine.partitions():
            info = engine.info(partition)
            if info.last_stable < info.high_watermark:
                self._hold(partition, info.last_stable)
        engine.add_tail_listener(self._on_group)

    def end(self, partition: int) -> int:
        """Up to which offset the partition was handed on."""
        held = self.held.get(partition)
        return self._engine.info(partition).high_watermark if held is None else held

    def _hold(self, partition: int, offset: int) -> None:
        self.held[partition] = offset
        self._engine.watch(partition, self._moved)

    def _moved(self, _: int) -> None:
        self._wake.set()

    def _on_group(self, batches: list[DurableBatch]) -> None:
        for batch in batches:
            header = batch.header
            partition = batch.partition
            if partition not in self.held:
                if header.is_transactional:
                    self._hold(partition, batch.base_offset)
                    self._wake.set()
                elif not header.is_control and self._wanted(partition):
                    try:
                        self._deliver(Stretch(partition, batch.base_offset, header, batch.batch))
                    except Exception:
                        # The store calls this: a fault in delivery must not end the broker.
                        log.exception("delivery failed", partition=partition, offset=batch.base_offset)
            self.position = batch.position + 1
        self._after()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hands on what held partitions release, until cancelled."""
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            for partition in list(self.held):
                await self._release(partition)

    async def _release(self, partition: int) -> None:
        while True:
            offset = self.held[partition]
            try:
                info = self._engine.info(partition)
                if info.last_stable <= offset:
                    if info.high_watermark <= offset:
                        self._let_go(partition)
                    return
                read = await self._engine.read(partition, max(offset, info.log_start), READ_BYTES, committed=True)
            except UnknownPartition:
                self._let_go(partition)
                return
            except OffsetOutOfRange:
                self.held[partition] = self._engine.info(partition).log_start
                continue
            except DataDamaged as damage:
                self.held[partition] = damage.end_offset
                continue
            if self._wanted(partition):
                for stretch in committed_batches(partition, read, offset):
                    self.held[partition] = stretch.base_offset
                    self._deliver(stretch)
            after = next_offset(read, offset)
            self.held[partition] = max(after, offset)
            if after <= offset:
                self.held[partition] = info.last_stable
            if self._engine.info(partition).high_watermark <= self.held[partition]:
                self._let_go(partition)
            self._after()
            if partition not in self.held:
                return

    def _let_go(self, partition: int) -> None:
        del self.held[partition]
        self._engine.unwatch(partition, self._moved)
