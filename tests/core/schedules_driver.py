"""A broker's schedules over the in-memory engine, with a clock of the test's, that can crash after any append."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from core.errors import CoreFailure
from core.intake import Intake
from core.message_ids import id_of
from core.once import Once
from core.schedule_log import End
from core.schedules import Listed, Schedules, Wanted
from core.store.engine import Append, Appended, Entry, append
from core.store.memory import MemoryEngine
from core.topics import Topics
from tests.core.transactions_driver import RecordingEngine
from trivium.record_batch import iter_batches
from trivium.records import Record, decode

SCHEDULES = "__trivium_schedules"
START_MS = 1_700_000_000_000


class Life:
    """One life of the broker: topics, schedules, intake. Rounds are the test's, not a task's."""

    def __init__(self, engine: RecordingEngine, clock: list[int], directory: Path | None) -> None:
        self.engine = engine
        self.clock = clock
        self.directory = directory
        self.topics = Topics(engine)
        self.schedules: Schedules
        self.once: Once
        self.intake: Intake

    async def load(self) -> None:
        await self.topics.load()
        topic = await self.topics.ensure(SCHEDULES, 1, {"cleanup.policy": "compact"})
        self.schedules = Schedules(self.engine, self.topics, topic.partitions[0], self.directory, lambda: self.clock[0])
        await self.schedules.load()
        topic = await self.topics.ensure("__trivium_once", 1, {"cleanup.policy": "compact"})
        self.once = Once(self.engine, topic.partitions[0])
        await self.once.load()
        self.intake = Intake(self.schedules, self.once)

    async def schedule(self, partition: int, due_ms: int, message_id: str, value: bytes | None = b"") -> Appended:
        record = Record(0, self.clock[0], b"k", value, [("trivium.id", message_id.encode())])
        return (await append(self.engine, [self.schedules.entry([Wanted(partition, due_ms, record)])]))[0]

    async def cancel(self, message_id: str) -> End | None:
        answers: list[End | CoreFailure | None] = []

        async def ask() -> None:
            try:
                answers.append(await self.schedules.cancel(message_id))
            except CoreFailure as failure:
                answers.append(failure)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await self.schedules.round()
        if isinstance(answers[0], CoreFailure):
            raise answers[0]
        return answers[0]

    async def page(self, after: tuple[int, int] = (-1, -1), rows_max: int = 1_000) -> list[Listed]:
        pages: list[list[Listed]] = []

        async def ask() -> None:
            pages.append(await self.schedules.page(after, rows_max))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await self.schedules.round()
        return pages[0]

    async def settle(self) -> None:
        """Rounds until nothing is due."""
        await self.schedules.round()
        while self.schedules.is_busy:
            await self.schedules.round()

    def read(self, partition: int) -> list[Record]:
        return records_in(self.engine, partition)

    def ids(self, partition: int) -> list[str]:
        return [id_of(record.headers) or "" for record in self.read(partition)]


def records_in(engine: MemoryEngine, partition: int) -> list[Record]:
    read = engine.read_nowait(partition, engine.info(partition).log_start, 1 << 30)
    assert read is not None
    found: list[Record] = []
    for buffer in read.buffers:
        for _, batch in iter_batches(buffer):
            found += decode(batch, 1 << 30)
    return found


@asynccontextmanager
async def life(
    clock: list[int],
    directory: Path | None = None,
    *,
    appends: Sequence[Sequence[Entry]] = (),
    epoch: int = 1,
    cls: type[Life] = Life,
) -> AsyncIterator[Life]:
    """A new life; `appends` is what its log holds."""
    async with trio.open_nursery() as nursery:
        engine = RecordingEngine(seed=epoch, epoch=epoch)
        await nursery.start(engine.run)
        for entries in appends:
            await append(engine, entries)
        one = cls(engine, clock, directory)
        await one.load()
        try:
            yield one
        finally:
            one.schedules.close()
        nursery.cancel_scope.cancel()


def value_of(entry: Entry) -> list[Record]:
    assert isinstance(entry, Append)
    return decode(entry.batch, 1 << 30)
