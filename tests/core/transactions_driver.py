"""A coordinator over the in-memory engine, with real offsets, that can crash after any append and start again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from core.errors import CoreError
from core.group_coordinator import GroupCoordinator
from core.offsets import CommitRequest, OffsetToCommit
from core.state import StateLog
from core.store.engine import Append, Appended, CreatePartition, Done, Entry, Outcome, append
from core.store.memory import MemoryEngine
from core.transaction_types import InitResult, Producer, TransactionLimits
from core.transactions import Transactions
from tests.core.groups_driver import Topics
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

TXN_STATE, GROUP_STATE = 1, 2
DATA = (10, 11, 12)  # partitions of topic "t"
TIMEOUT_MS = 60_000
GROUP = "g"
T = TypeVar("T")


class RecordingEngine(MemoryEngine):
    """Keeps every append in order: a crash after n of them is a new engine that is given the first n."""

    def __init__(self, *, seed: int = 0, epoch: int = 1) -> None:
        super().__init__(seed=seed, epoch=epoch)
        self.appends: list[list[Entry]] = []
        self.answered = 0
        self.refuse: Outcome | None = None  # the next appends get this answer

    def append(self, entries: Sequence[Entry], done: Done) -> None:
        if self.refuse is not None:
            refusal = [Appended(self.refuse) for _ in entries]
            trio.lowlevel.current_trio_token().run_sync_soon(done, refusal)
            return
        self.appends.append(list(entries))

        def counted(answers: list[Appended]) -> None:
            self.answered += 1
            done(answers)

        super().append(entries, counted)


class Coordinator:
    """One life of the broker."""

    def __init__(self, engine: RecordingEngine, limits: TransactionLimits | None = None) -> None:
        self.engine = engine
        self.now_ms = 1_000_000
        self.wall_ms = 1_700_000_000_000
        self.groups = GroupCoordinator(
            engine, StateLog(engine, GROUP_STATE), Topics(t=len(DATA)), None, lambda: self.wall_ms, lambda: self.now_ms
        )
        self.transactions = Transactions(
            engine,
            StateLog(engine, TXN_STATE),
            self.groups.offsets,
            StateLog(engine, GROUP_STATE),
            limits or TransactionLimits(),
            lambda: self.wall_ms,
        )
        self.sequences: dict[tuple[Producer, int], int] = {}

    async def load(self) -> None:
        await self.groups.load()
        await self.transactions.load(self.now_ms)

    # Requests, awaited

    async def init(
        self, name: str | None, expected: Producer | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> InitResult:
        return await answer_of(
            lambda done: self.transactions.init_producer(name, timeout_ms, expected, self.now_ms, done)
        )

    async def producer(self, name: str) -> Producer:
        error, producer = await self.init(name)
        while error is CoreError.CONCURRENT_TRANSACTIONS:
            await trio.lowlevel.checkpoint()
            error, producer = await self.init(name)
        assert error is None
        return producer

    async def add(self, name: str, producer: Producer, *partitions: int, group: str | None = None) -> CoreError | None:
        groups = () if group is None else (group,)
        return await answer_of(
            lambda done: self.transactions.add(name, producer, partitions, groups, self.now_ms, done)
        )

    async def end(self, name: str, producer: Producer, commit: bool, *, bump: bool = True) -> InitResult:
        return await answer_of(lambda done: self.transactions.end(name, producer, commit, bump, done))

    async def produce(
        self, name: str, producer: Producer, partition: int, value: bytes, *, implicit: bool = True
    ) -> CoreError | Outcome | None:
        """A transactional batch of one record, checked as Produce does."""
        if implicit:
            error = self.transactions.ensure_partition(name, producer, partition, self.now_ms)
        else:
            error = self.transactions.check_partition(name, producer, partition)
        if error is not None:
            return error
        [answer] = await append(self.engine, [self.batch(producer, partition, value)])
        return None if answer.outcome is Outcome.APPENDED else answer.outcome

    def batch(self, producer: Producer, partition: int, value: bytes) -> Append:
        sequence = self.sequences.get((producer, partition), 0)
        self.sequences[producer, partition] = sequence + 1
        batch = build(
            [Record(0, self.wall_ms, None, value, [])],
            producer_id=producer.id,
            producer_epoch=producer.epoch,
            base_sequence=sequence,
            transactional=True,
        )
        return Append(partition, parse_header(batch), batch)

    async def send_offset(
        self, name: str, producer: Producer, offset: int, *, implicit: bool = True
    ) -> CoreError | None:
        check = self.transactions.ensure_group if implicit else None
        error = (
            check(name, producer, GROUP, self.now_ms)
            if check is not None
            else self.transactions.check_group(name, producer, GROUP)
        )
        if error is not None:
            return error
        request = CommitRequest(GROUP, "", None, -1, [OffsetToCommit("t", 0, offset)])

        def start(done: Callable[[CoreError | None], None]) -> None:
            def reply(whole: CoreError | None, each: list[CoreError | None]) -> None:
                done(whole or each[0])

            self.groups.offsets.commit_pending(producer.id, request, reply, self.now_ms)

        return await answer_of(start)

    def committed_offset(self) -> int:
        found = self.groups.offsets.fetch(GROUP, None, -1).get(("t", 0))
        return -1 if found is None else found.offset

    # What readers see

    async def visible(self, partition: int) -> list[bytes]:
        """Values of committed records, as a reader of committed data filters them."""
        read = await self.engine.read(partition, 0, 10_000_000, committed=True)
        open_aborts = sorted(read.aborted, key=lambda aborted: aborted.first_offset)
        values: list[bytes] = []
        for buffer in read.buffers:
            at = 0
            while at < len(buffer):
                header = parse_header(buffer, at)
                is_aborted = any(
                    aborted.producer_id == header.producer_id
                    and aborted.first_offset <= header.base_offset <= aborted.last_offset
                    for aborted in open_aborts
                )
                if not header.is_control and not is_aborted:
                    records = decode(bytes(buffer[at : at + header.size_bytes]), 1_000_000)
                    values += [bytes(record.value or b"") for record in records]
                at += header.size_bytes
        return values

    def is_stable(self, partition: int) -> bool:
        info = self.engine.info(partition)
        return info.last_stable == info.high_watermark


async def answer_of(start: Callable[[Callable[[T], None]], None]) -> T:
    answered = trio.Event()
    results: list[T] = []

    def done(result: T) -> None:
        results.append(result)
        answered.set()

    start(done)
    await answered.wait()
    return results[0]


@asynccontextmanager
async def coordinator(
    *, seed: int = 0, limits: TransactionLimits | None = None, history: Sequence[Sequence[Entry]] = (), epoch: int = 1
) -> AsyncIterator[Coordinator]:
    """A started coordinator; with `history` it finds what these appends had written."""
    engine = RecordingEngine(seed=seed, epoch=epoch)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        if not history:
            await append(engine, [CreatePartition(number) for number in (TXN_STATE, GROUP_STATE, *DATA)])
        for entries in history:
            await append(engine, entries)
        life = Coordinator(engine, limits)
        await life.load()
        yield life
        nursery.cancel_scope.cancel()
