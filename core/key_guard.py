"""Optimistic concurrency: a batch of one key is stored if the key's last record still stands where the sender thinks.

How: look the key up to the high watermark, append with `if_next_offset` at that watermark, and if something came
between, look only at what came and try again. So nothing is locked out, and two senders cannot both succeed. Senders
of conditions on one partition go one after the other; plain senders are not held up. A partition that others write to
without a pause may outrun it: after TRIES_MAX the answer is CONTENDED, and nothing is stored.

Every stored record of the key counts, also one whose transaction is open or was aborted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from core.errors import CoreError, CoreFailure
from core.group_log import store_error
from core.store.engine import Append, DataDamaged, Engine, OffsetOutOfRange, Outcome, UnknownPartition, append
from trivium.record_batch import BatchError, BatchHeader, Buffer, iter_batches
from trivium.records import decode

TRIES_MAX: Final = 100
WAIT_S: Final = 1
KNOWN_MAX: Final = 10_000  # keys whose last place is remembered
CANDIDATES_MAX: Final = 1_000
DECODED_BYTES_MAX: Final = 128 * 1024 * 1024


class Guarded(NamedTuple):
    """`base_offset` -1: not stored, because the key's last record stands at `last_offset` (-1: there is none)."""

    base_offset: int
    last_offset: int


class _Known(NamedTuple):
    last_offset: int
    seen: int  # looked at below this offset


class KeyGuard:
    """One for the broker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[int, tuple[trio.Lock, int]] = {}  # partition -> lock, users
        self._known: OrderedDict[tuple[int, bytes], _Known] = OrderedDict()

    async def append(self, partition: int, key: bytes, last_offset: int, header: BatchHeader, batch: Buffer) -> Guarded:
        """Stores a checked batch, all of `key`; durable on return. Raises CoreFailure: CONTENDED, UNKNOWN_TOPIC (the
        partition is gone), STORE_FULL, STORE_FAILED.
        """
        lock, users = self._locks.get(partition, (trio.Lock(), 0))
        self._locks[partition] = (lock, users + 1)
        try:
            async with lock:
                return await self._append(partition, key, last_offset, header, batch)
        except UnknownPartition:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC) from None
        finally:
            lock, users = self._locks.pop(partition)
            if users > 1:
                self._locks[partition] = (lock, users - 1)

    async def _append(
        self, partition: int, key: bytes, last_offset: int, header: BatchHeader, batch: Buffer
    ) -> Guarded:
        for _ in range(TRIES_MAX):
            known = await self._last(partition, key)
            if known.last_offset != last_offset:
                return Guarded(-1, known.last_offset)
            if self._engine.info(partition).next_offset != known.seen:
                await self._wait_durable(partition, known.seen)  # something is on its way, maybe of this key
                continue
            entry = Append(partition, header, batch, if_next_offset=known.seen)
            [answer] = await append(self._engine, [entry])
            if answer.outcome is Outcome.OFFSET_MISMATCH:
                continue
            if answer.outcome is Outcome.UNKNOWN_PARTITION:
                raise UnknownPartition(partition)
            if (error := store_error(answer.outcome)) is not None:
                raise CoreFailure(error)
            last = answer.base_offset + header.last_offset_delta
            self._remember(partition, key, _Known(last, last + 1))
            return Guarded(answer.base_offset, last)
        raise CoreFailure(CoreError.CONTENDED, "others write to this partition without a pause: try again")

    async def _wait_durable(self, partition: int, seen: int) -> None:
        """Until the high watermark is above `seen`."""
        with _watching(self._engine, partition) as moved, trio.move_on_after(WAIT_S):
            while self._engine.info(partition).high_watermark <= seen:
                await moved[0].wait()
                moved[0] = trio.Event()

    def _remember(self, partition: int, key: bytes, known: _Known) -> None:
        self._known[partition, key] = known
        self._known.move_to_end((partition, key))
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _last(self, partition: int, key: bytes) -> _Known:
        """The key's last offset: from what is known of it on, only what came since is looked at."""
        info = self._engine.info(partition)
        last_offset, seen = self._known.get((partition, key), _Known(-1, 0))
        at = max(seen, info.log_start)
        if last_offset < info.log_start:
            last_offset = -1  # retention has taken it
        while at < info.high_watermark:
            found = await self._engine.offsets_for_key(partition, key, from_offset=at, count_max=CANDIDATES_MAX)
            for offset in reversed(found):
                if await self._is_of(partition, key, offset):
                    last_offset = offset
                    break
            if len(found) < CANDIDATES_MAX:
                break
            at = found[-1] + 1
        known = _Known(last_offset, info.high_watermark)
        self._remember(partition, key, known)
        return known

    async def _is_of(self, partition: int, key: bytes, offset: int) -> bool:
        try:
            read = await self._engine.read(partition, offset, 1)
            return any(
                record.offset == offset and record.key == key
                for buffer in read.buffers
                for _, batch in iter_batches(buffer)
                for record in decode(batch, DECODED_BYTES_MAX)
            )
        except (OffsetOutOfRange, DataDamaged, BatchError):
            return False


@contextmanager
def _watching(engine: Engine, partition: int) -> Iterator[list[trio.Event]]:
    """A list of one event that is set whenever the partition has moved."""
    moved = [trio.Event()]

    def wake(_: int) -> None:
        moved[0].set()

    engine.watch(partition, wake)
    try:
        yield moved
    finally:
        engine.unwatch(partition, wake)
