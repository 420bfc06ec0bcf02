"""Half messages: sent, kept where nobody reads, and delivered or dropped when their producer has decided.

Rules:
* A half message is a batch in an internal partition. Committing it is ONE append: the batch in its own partition, the
  end of the half. A crash leaves both or neither, so it is delivered once; before, nobody sees it, and nobody waits.
* `end` is known by message id and may be repeated: the same end again is fine, another is told how it ended
  (MESSAGE_ENDED), as long as that is known (a day, ENDED_MAX of them). Ends of one message run one after the other.
* Of one that is not ended in time, any live producer of its group is asked (`plan`: first after 6 s, then every 30 s).
  "Unknown" or no answer: asked again later. After 15 checks it is parked: asked no more, kept, listed, and resumed or
  ended when someone says so. While the group has no live producer nothing counts: whoever comes is asked.
* At most HALVES_MAX wait, parked ones included; then new ones are refused with LIMIT_REACHED.
* A committed message has the time of its commit as timestamp; one with `deliver-at` waits for its time from then on.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

import structlog
import trio

from core.errors import CoreError, CoreFailure
from core.group_log import store_error
from core.half_log import (
    Checked,
    CheckPlan,
    Ended,
    Half,
    HalfEnd,
    check_change,
    end_records,
    parse,
    put_record,
)
from core.intake import Intake, Sorted
from core.schedule_log import first_number
from core.state import StateLog
from core.store.engine import Append, Appended, DataDamaged, Engine, OffsetOutOfRange, Outcome, append
from core.topics import Topic, Topics
from core.tracing import NOBODY, Tracer, trace_stored
from trivium.record_batch import BatchError, Buffer, iter_batches, parse_header
from trivium.records import Record, build, decode

log = structlog.get_logger(__name__)

HALVES_MAX: Final = 100_000
ENDED_MAX: Final = 100_000
GROUP_BYTES_MAX: Final = 255
CHECKING_MAX: Final = 64  # checks on their way at a time
CHECKS_PER_APPEND_MAX: Final = 1_000
CHECK_TIMEOUT_S: Final = 10
DECODED_BYTES_MAX: Final = 128 * 1024 * 1024
LOOK_INTERVAL_MS: Final = 1_000
UNASKED_INTERVAL_MS_MAX: Final = 10_000  # where nobody can be asked, it is looked for somebody again
_KINDS: Final = ("any", "mixed", "transaction")


class Question(NamedTuple):
    """What a producer is asked: which message, and its batch."""

    message_id: str
    topic: str
    partition: int
    checks: int
    batch: Buffer


Ask = Callable[[Question], Awaitable[HalfEnd | None]]
"""Asks one producer; None when it does not know or does not answer."""


class Listed(NamedTuple):
    number: int
    message_id: str
    group: str
    topic: str | None
    partition: int
    stored_ms: int
    checks: int
    parked: bool


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class HalfMessages:
    """`load` once, then `run`."""

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        intake: Intake,
        partition: int,
        wall_ms: Callable[[], int] = _wall_ms,
        tracer: Tracer | None = None,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self._intake = intake
        self._state = StateLog(engine, partition)
        self._wall_ms = wall_ms
        self._tracer = tracer
        self._numbers = count(first_number(engine.epoch))
        self._halves: dict[int, Half] = {}
        self._by_id: dict[str, Half] = {}
        self._ended: OrderedDict[str, HalfEnd] = OrderedDict()
        self._checks: list[tuple[int, int]] = []  # heap of (when, number); entries that no longer hold are passed over
        self._producers: dict[str, list[Ask]] = {}
        self._checking = trio.CapacityLimiter(CHECKING_MAX)
        self._wake = trio.Event()

    async def load(self) -> None:
        """Replays the log."""
        await self._state.load_records(self._apply)
        for half in self._halves.values():
            self._by_id[half.message_id] = half
            if not half.parked:
                passed = half.plan.first_ms + half.checks * half.plan.interval_ms
                self._plan(half, half.stored_ms + passed)

    def _apply(self, record: Record) -> None:
        match parse(record):
            case Half() as half:
                self._halves[half.number] = half
            case Checked(number, checks, parked) if number in self._halves:
                self._halves[number].checks, self._halves[number].parked = checks, bool(parked)
            case Ended(number, end, _, message_id):
                self._halves.pop(number, None)
                self._remember(message_id, end)
            case _:
                pass

    def _remember(self, message_id: str, end: HalfEnd) -> None:
        self._ended[message_id] = end
        self._ended.move_to_end(message_id)
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    # -- sending

    async def send(
        self, topic: Topic, partition: int, group: str, message_id: str, batch: Buffer, plan: CheckPlan
    ) -> None:
        """Keeps a batch (checked, with records that the topic takes) until its end; durable on return.

        One that is sent again under its id is kept once. Raises CoreFailure: WRONG_MESSAGE_TYPE, MESSAGE_ENDED,
        INVALID_GROUP_ID, LIMIT_REACHED, STORE_FULL, STORE_FAILED.
        """
        if topic.settings.message_type not in _KINDS:
            kind = topic.settings.message_type
            raise CoreFailure(CoreError.WRONG_MESSAGE_TYPE, f"a topic of type {kind} takes no half messages")
        if not 0 < len(group.encode()) <= GROUP_BYTES_MAX:
            raise CoreFailure(CoreError.INVALID_GROUP_ID, f"a producer group has 1 to {GROUP_BYTES_MAX} bytes")
        if (end := self._ended.get(message_id)) is not None:
            raise _ended(message_id, end)
        half = self._by_id.get(message_id)
        if half is None:
            half = self._begin(partition, group, message_id, batch, plan)
        if half.offset < 0:
            await self._stored(half)

    def _begin(self, partition: int, group: str, message_id: str, batch: Buffer, plan: CheckPlan) -> Half:
        if len(self._by_id) >= HALVES_MAX:
            raise CoreFailure(CoreError.LIMIT_REACHED, f"{HALVES_MAX} half messages wait for their end")
        half = Half(next(self._numbers), message_id, group, partition, self._wall_ms(), plan)
        self._by_id[message_id] = half
        state = build([put_record(half, bytes(batch))])

        def done(answers: list[Appended]) -> None:
            waiting, half.waiting = half.waiting, []
            error = store_error(answers[0].outcome)
            if error is None:
                half.offset = answers[0].base_offset
                self._halves[half.number] = half
                self._plan(half, half.stored_ms + plan.first_ms)
            else:
                del self._by_id[message_id]
            for tell in waiting:
                tell(error)

        self._engine.append([Append(self._state.partition, parse_header(state), state)], done)
        return half

    async def _stored(self, half: Half) -> None:
        told = trio.Event()
        errors: list[CoreError | None] = []

        def tell(error: CoreError | None) -> None:
            errors.append(error)
            told.set()

        half.waiting.append(tell)
        await told.wait()
        if errors[0] is not None:
            raise CoreFailure(errors[0])

    # -- the end

    async def end(self, message_id: str, end: HalfEnd) -> None:
        """COMMITTED or ROLLED_BACK; durable on return.

        Raises CoreFailure: UNKNOWN_MESSAGE, MESSAGE_ENDED (otherwise), UNKNOWN_TOPIC (committed, but its topic is
        gone: it is dropped), STORE_FULL, STORE_FAILED (nothing has changed).
        """
        while True:
            if (before := self._ended.get(message_id)) is not None:
                if before is not end:
                    raise _ended(message_id, before)
                return
            half = self._by_id.get(message_id)
            if half is None:
                raise CoreFailure(CoreError.UNKNOWN_MESSAGE, f"no half message has the id {message_id!r}")
            if half.offset < 0 or half.ending:
                await self._changed(half)
                continue
            half.ending = True
            try:
                await self._end(half, end)
            finally:
                half.ending = False
                waiting, half.waiting = half.waiting, []
                for tell in waiting:
                    tell(None)
            return

    async def _changed(self, half: Half) -> None:
        told = trio.Event()
        half.waiting.append(lambda _: told.set())
        await told.wait()

    async def _end(self, half: Half, end: HalfEnd) -> None:
        found: Sorted | None = None
        now_ms = self._wall_ms()
        if end is HalfEnd.COMMITTED:
            owner = self._topics.owner(half.partition)
            batch = await self._batch(half)
            if owner is None:
                end = HalfEnd.DROPPED
            else:
                found = self._delivery(owner[0], half.partition, batch, now_ms)
        with trio.CancelScope(shield=True):  # what becomes durable must be known
            entries = found.entries if found is not None else []
            answers = await append(self._engine, [*entries, self._end_entry(half, end, now_ms)])
            if found is not None:
                self._intake.settle(found, answers[0].outcome)
                if self._tracer is not None and self._tracer.active and answers[0].outcome is Outcome.APPENDED:
                    trace_stored(self._tracer, self._topics, found.entries[0], answers[0], NOBODY, found.waits)
            if answers[0].outcome is Outcome.UNKNOWN_PARTITION:
                end = HalfEnd.DROPPED
                answers = await append(self._engine, [self._end_entry(half, end, now_ms)])
        error = next((e for answer in answers if (e := _error(answer)) is not None), None)
        if error is not None:
            raise CoreFailure(error)
        del self._by_id[half.message_id], self._halves[half.number]
        self._remember(half.message_id, end)
        if end is HalfEnd.DROPPED:
            log.warning("a committed half message is dropped: its topic is gone", message_id=half.message_id)
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, "the topic is gone: the message is dropped")

    def _end_entry(self, half: Half, end: HalfEnd, now_ms: int) -> Append:
        state = build(end_records(half, end, now_ms))
        return Append(self._state.partition, parse_header(state), state)

    def _delivery(self, topic: Topic, partition: int, batch: Buffer, now_ms: int) -> Sorted:
        stamp = now_ms if topic.settings.log_append_time else None
        records = [record._replace(timestamp=now_ms) for record in decode(batch, DECODED_BYTES_MAX)]
        built = build(records, log_append_time_ms=stamp)
        header = parse_header(built)
        return self._intake.sort(topic, partition, header, built, records, now_ms, DECODED_BYTES_MAX, enforce=False)

    async def _batch(self, half: Half) -> Buffer:
        """The batch as it was sent, from the log."""
        with suppress(DataDamaged, OffsetOutOfRange, BatchError):
            read = await self._engine.read(self._state.partition, half.offset, 1)
            for buffer in read.buffers:
                for _, stored in iter_batches(buffer):
                    for record in decode(stored, DECODED_BYTES_MAX):
                        if record.offset == half.offset and record.value is not None:
                            return record.value
        raise CoreFailure(CoreError.STORE_FAILED, "the half message cannot be read any more")

    # -- checking back

    def add_producer(self, group: str, ask: Ask) -> None:
        """A live producer of the group, that may be asked about any message of it."""
        self._producers.setdefault(group, []).append(ask)

    def remove_producer(self, group: str, ask: Ask) -> None:
        producers = self._producers.get(group, [])
        if ask in producers:
            producers.remove(ask)
        if not producers:
            self._producers.pop(group, None)

    def _plan(self, half: Half, when_ms: int) -> None:
        half.next_check_ms = when_ms
        heapq.heappush(self._checks, (when_ms, half.number))
        self._wake.set()

    async def run(self) -> None:
        """Checks back when it is time, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                due = self._due()
                if due:
                    await self._note(due)
                    for half in due:
                        if not half.parked:
                            nursery.start_soon(self._check, half)
                    continue
                self._wake = trio.Event()
                wait_ms = self._checks[0][0] - self._wall_ms() if self._checks else float("inf")
                with trio.move_on_after(min(max(wait_ms, 0), LOOK_INTERVAL_MS if self._checks else wait_ms) / 1000):
                    await self._wake.wait()

    def look(self) -> None:
        """Looks at the clock now: it may have been set."""
        self._wake.set()

    def _due(self) -> list[Half]:
        """Halves to be checked now, counted and planned again. Those with no check left are parked, those of groups
        without a producer wait for one.
        """
        found: list[Half] = []
        now_ms = self._wall_ms()
        for _ in range(CHECKS_PER_APPEND_MAX):
            if not self._checks or self._checks[0][0] > now_ms:
                break
            when_ms, number = heapq.heappop(self._checks)
            half = self._halves.get(number)
            if half is None or half.parked or half.next_check_ms != when_ms:
                continue
            if half.group not in self._producers:
                self._plan(half, now_ms + min(half.plan.interval_ms, UNASKED_INTERVAL_MS_MAX))
                continue
            if half.checks >= half.plan.checks_max:
                half.parked = True
                log.warning("half message parked", message_id=half.message_id, group=half.group, checks=half.checks)
            else:
                half.checks += 1
                self._plan(half, now_ms + half.plan.interval_ms)
            found.append(half)
        return found

    async def _note(self, halves: list[Half]) -> None:
        """Keeps the counts. A refusal costs no more than checks that are made again after a restart."""
        changes = [check_change(half) for half in halves if half.number in self._halves and not half.ending]
        if not changes:
            return
        answer = await self._state.put(changes)
        if (error := store_error(answer.outcome)) is not None:
            log.warning("checks of half messages cannot be stored", error=error.value)

    async def _check(self, half: Half) -> None:
        producers = self._producers.get(half.group)
        owner = self._topics.owner(half.partition)
        if not producers or half.number not in self._halves:
            return
        ask = producers[half.checks % len(producers)]
        topic, index = ("", -1) if owner is None else (owner[0].name, owner[1])
        try:
            async with self._checking:
                answer = None
                with trio.move_on_after(CHECK_TIMEOUT_S):
                    question = Question(half.message_id, topic, index, half.checks, await self._batch(half))
                    answer = await ask(question)
            if answer is not None:
                await self.end(half.message_id, answer)
        except CoreFailure as failure:
            log.warning("a checked half message did not end", message_id=half.message_id, reason=failure.message)

    # -- looking

    def listed(
        self, group: str | None = None, *, parked: bool | None = None, after_number: int = -1
    ) -> Iterator[Listed]:
        """What waits, oldest first. Not to be kept over an await."""
        for half in self._halves.values():
            if half.number > after_number and group in (None, half.group) and parked in (None, half.parked):
                owner = self._topics.owner(half.partition)
                topic, index = (None, -1) if owner is None else (owner[0].name, owner[1])
                yield Listed(
                    half.number, half.message_id, half.group, topic, index, half.stored_ms, half.checks, half.parked
                )

    async def resume(self, message_id: str) -> None:
        """A parked one is checked again, from the first check on, at once; durable. Raises CoreFailure."""
        half = self._by_id.get(message_id)
        if half is None or half.offset < 0:
            raise CoreFailure(CoreError.UNKNOWN_MESSAGE, f"no half message has the id {message_id!r}")
        half.checks, half.parked = 0, False
        self._plan(half, self._wall_ms())
        answer = await self._state.put([check_change(half)])
        if (error := store_error(answer.outcome)) is not None:
            raise CoreFailure(error)


def _ended(message_id: str, end: HalfEnd) -> CoreFailure:
    how = end.name.lower().replace("_", " ")
    return CoreFailure(CoreError.MESSAGE_ENDED, f"half message {message_id!r} has been {how}")


def _error(answer: Appended) -> CoreError | None:
    return None if answer.outcome is Outcome.NOT_APPENDED else store_error(answer.outcome)
