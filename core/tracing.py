"""Traces: who stored, was given, acknowledged or failed which messages, when, from where, over which protocol.

A trace is about a range of offsets of one partition, because that is what happens at once: a batch is stored, a fetch
delivers batches, a commit acknowledges up to an offset. So its cost hangs on requests, not on messages. Traces stand in
an internal topic with a retention of its own, oldest first, and are found by time, by place, by message id and, through
the topic's key index, by key.

Which topics: `trace` = `on`, or `marked`: then only messages with a header `trivium.trace` (any value), and events that
touch one. Batches stored on traced topics are opened if they mention an id, a mark or a W3C trace parent (or are
compressed); nothing else is.

A record that waits for its time is traced as scheduled, at the place in its batch that it leaves empty, and as stored
when it is delivered, by nobody; so are half messages that are committed. By its id all of it is found.

Events are written, and given to listeners, FLUSH_S later and in order: a device may have a message before whoever
stored it is answered, and its trace parent is known from then on.

Nothing waits for a trace: at most `EVENTS_MAX` wait to be written, what comes above that is counted, and the count is
written as a trace of its own (LOST). What waits when the broker dies is lost with it: at most FLUSH_S worth.
"""

from __future__ import annotations

import enum
import json
import time
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import structlog
import trio

from core.message_ids import id_of
from core.store.engine import Append, Appended, Buffer, Engine, Outcome, append
from core.topics import Topic, Topics
from trivium.headers import MESSAGE_ID, TRACE, TRACE_PARENT, TRACE_STATE
from trivium.record_batch import BatchError, Codec, parse_header
from trivium.records import Record, build, decode

log = structlog.get_logger(__name__)

EVENTS_MAX: Final = 100_000
EVENTS_PER_BATCH_MAX: Final = 2_000
FLUSH_S: Final = 0.1
MARKED_MAX: Final = 100_000  # marked messages whose later events are traced; the oldest are forgotten
PARENTS_MAX: Final = 100_000  # messages whose trace parent later events are given
DECODED_BYTES_MAX: Final = 64 * 1024 * 1024
OFFSETS_LOOKED_AT_MAX: Final = 1_000  # for the trace parents of one event
CONTEXTS_MAX: Final = 100  # trace contexts that one event is told in
TEXT_CHARS_MAX: Final = 200  # of names that clients give themselves
_MENTIONS: Final = (MESSAGE_ID.encode(), TRACE.encode(), TRACE_PARENT.encode())


Headers = Sequence[tuple[str, bytes | None]]


class Event(enum.IntEnum):
    """What happened. The numbers are the native protocol's."""

    STORED = 1
    DELIVERED = 2
    ACKNOWLEDGED = 3
    FAILED = 4  # given back, or not settled in time
    SCHEDULED = 5  # waits for its time
    DEAD_LETTER = 6  # moved there: that group does not get it any more
    LOST = 9  # so many traces (`last`) were not written


class Actor(NamedTuple):
    """Whose doing it was."""

    protocol: str
    client: str
    host: str


NOBODY: Final = Actor("", "", "")  # the broker itself


class Trace(NamedTuple):
    """One event. `ids` are (offset, message id) of stored messages that carry one; `attempt` counts deliveries from 1,
    0 where nobody counts.
    """

    event: Event
    time_ms: int
    topic: str
    partition: int
    first: int
    last: int
    actor: Actor
    group: str = ""
    attempt: int = 0
    region: str = ""
    ids: tuple[tuple[int, str], ...] = ()


class Parent(NamedTuple):
    """The W3C trace context that a message came with."""

    traceparent: str
    tracestate: str


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def pack(trace: Trace) -> bytes:
    fields = [trace.event, trace.topic, trace.partition, trace.first, trace.last, *trace.actor]
    fields += [trace.group, trace.attempt, trace.region, trace.ids]
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def unpack(record: Record) -> Trace:
    """Raises ValueError."""
    event, topic, partition, first, last, protocol, client, host, group, attempt, region, ids = json.loads(
        record.value or b"[]"
    )
    actor = Actor(protocol, client, host)
    found = tuple((offset, message_id) for offset, message_id in ids)
    return Trace(Event(event), record.timestamp, topic, partition, first, last, actor, group, attempt, region, found)


class Tracer:
    """Takes events, writes them. `active` says whether any topic is traced: look there before anything costs."""

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        partition: int,
        region: str = "",
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self.partition = partition
        self._region = region
        self._wall_ms = wall_ms
        self._waiting: list[tuple[Trace, int]] = []  # with the engine's partition
        self._news = trio.Event()
        self._flushing = trio.Lock()
        self._marked: dict[int, list[int]] = {}  # engine's partition -> offsets, rising
        self._marked_count = 0
        self._parents: OrderedDict[tuple[int, int], Parent] = OrderedDict()
        self.lost = 0
        self.listeners: list[Callable[[Trace, Parent | None], None]] = []
        self._active_listeners: list[Callable[[bool], None]] = []
        self.active = False
        topics.on_change(lambda _: self._look())
        self._look()

    def on_active(self, listener: Callable[[bool], None]) -> None:
        """Calls `listener` with `active`, now and whenever it changes."""
        self._active_listeners.append(listener)
        listener(self.active)

    def _look(self) -> None:
        before, self.active = self.active, any(topic.settings.trace != "off" for topic in self._topics.all())
        if self.active != before:
            for listener in self._active_listeners:
                listener(self.active)

    def traces(self, topic: Topic) -> bool:
        return self.active and topic.settings.trace != "off"

    # -- events

    def stored(self, topic: Topic, index: int, base_offset: int, batch: Buffer, actor: Actor) -> None:
        """A batch of a traced topic is durable, its first record at `base_offset`."""
        header = parse_header(batch)
        records: list[tuple[int, Headers]] = []
        whole = header.count == header.last_offset_delta + 1
        if not whole or header.codec != Codec.NONE or _mentions(batch):
            shift = base_offset - header.base_offset
            records = [(record.offset + shift, record.headers) for record in _records(batch)]
        if whole:
            self.stored_records(topic, index, base_offset, base_offset + header.last_offset_delta, records, actor)
        else:  # some records were taken out: they wait for their time, or had been stored before
            for _, run in groupby(enumerate(records), key=lambda one: one[1][0] - one[0]):
                part = [record for _, record in run]
                self.stored_records(topic, index, part[0][0], part[-1][0], part, actor)

    def scheduled(self, topic: Topic, index: int, offset: int, headers: Headers, actor: Actor) -> None:
        """A record is kept for its time; `offset` is the one it leaves empty, -1 if there is none."""
        names = dict(headers)
        if topic.settings.trace == "marked" and TRACE not in names:
            return
        message_id = id_of(headers)
        ids = () if message_id is None else ((offset, message_id),)
        if self.listeners and (parent := _parent_of(names)) is not None:
            self._remember(topic.partitions[index], offset, parent)
        self._note(Event.SCHEDULED, topic, index, offset, offset, actor, "", 0, ids)

    def stored_records(
        self, topic: Topic, index: int, first: int, last: int, records: Sequence[tuple[int, Headers]], actor: Actor
    ) -> None:
        """The same; `records` are (offset, headers) of those that may say something about themselves."""
        ids: list[tuple[int, str]] = []
        marked: list[int] = []
        number = topic.partitions[index]
        for offset, headers in records:
            names = dict(headers)
            if (message_id := id_of(headers)) is not None:
                ids.append((offset, message_id))
            if TRACE in names:
                marked.append(offset)
            if self.listeners and (parent := _parent_of(names)) is not None:
                self._remember(number, offset, parent)
        if topic.settings.trace == "marked":
            self._mark(number, marked)
            for offset in marked:
                own = tuple(one for one in ids if one[0] == offset)
                self._note(Event.STORED, topic, index, offset, offset, actor, "", 0, own)
        else:
            self._note(Event.STORED, topic, index, first, last, actor, "", 0, tuple(ids))

    def note(
        self,
        event: Event,
        topic: Topic,
        index: int,
        first: int,
        last: int,
        actor: Actor,
        *,
        group: str = "",
        attempt: int = 0,
    ) -> None:
        """Something happened to offsets `first` to `last` of a traced topic."""
        if topic.settings.trace == "marked" and not self._touches_marked(topic.partitions[index], first, last):
            return
        self._note(event, topic, index, first, last, actor, group, attempt)

    def _note(
        self,
        event: Event,
        topic: Topic,
        index: int,
        first: int,
        last: int,
        actor: Actor,
        group: str,
        attempt: int,
        ids: tuple[tuple[int, str], ...] = (),
    ) -> None:
        if len(self._waiting) >= EVENTS_MAX:
            self.lost += 1
            return
        shown = Actor(actor.protocol, actor.client[:TEXT_CHARS_MAX], actor.host[:TEXT_CHARS_MAX])
        trace = Trace(event, self._wall_ms(), topic.name, index, first, last, shown, group, attempt, self._region, ids)
        self._waiting.append((trace, topic.partitions[index]))
        self._news.set()

    def _remember(self, partition: int, offset: int, parent: Parent) -> None:
        self._parents[partition, offset] = parent
        if len(self._parents) > PARENTS_MAX:
            self._parents.popitem(last=False)

    def recall(self, traces: Iterable[Trace]) -> None:
        """What an earlier run stored of topics that ask for marks was marked: what happens to it is traced as well."""
        for one in traces:
            topic = self._topics.get(one.topic) if one.event is Event.STORED else None
            if topic is not None and topic.settings.trace == "marked" and one.partition < len(topic.partitions):
                self._mark(topic.partitions[one.partition], list(range(one.first, one.last + 1)))

    def _mark(self, partition: int, offsets: list[int]) -> None:
        known = self._marked.setdefault(partition, [])
        for offset in offsets:
            insort(known, offset)
        self._marked_count += len(offsets)
        while self._marked_count > MARKED_MAX:
            longest = max(self._marked.values(), key=len)
            cut = len(longest) // 2 + 1
            del longest[:cut]
            self._marked_count -= cut

    def _touches_marked(self, partition: int, first: int, last: int) -> bool:
        known = self._marked.get(partition, [])
        at = bisect_left(known, first)
        return at < len(known) and known[at] <= last

    # -- writing

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Writes all that waits, also what an earlier call has taken and not yet written."""
        async with self._flushing:
            while self._waiting or self.lost:
                self._waiting = _in_order(self._waiting)
                some, self._waiting = self._waiting[:EVENTS_PER_BATCH_MAX], self._waiting[EVENTS_PER_BATCH_MAX:]
                self._tell(some)
                taken = [trace for trace, _ in some]
                lost, self.lost = self.lost, 0
                if lost:
                    taken.append(Trace(Event.LOST, self._wall_ms(), "", 0, 0, lost, NOBODY, region=self._region))
                records = [
                    Record(at, one.time_ms, f"{one.topic}/{one.partition}".encode(), pack(one), [])
                    for at, one in enumerate(taken)
                ]
                batch = build(records)
                answers = await append(self._engine, [Append(self.partition, parse_header(batch), batch)])
                if answers[0].outcome is not Outcome.APPENDED:
                    self.lost += lost + len(taken) - bool(lost)
                    log.warning("traces cannot be written", count=self.lost, reason=answers[0].outcome.value)
                    return

    def _tell(self, events: Sequence[tuple[Trace, int]]) -> None:
        """Listeners hear of an event once for each trace context that its messages came with."""
        if not self.listeners:
            return
        for trace, number in events:
            offsets = range(trace.first, min(trace.last, trace.first + OFFSETS_LOOKED_AT_MAX) + 1)
            found = {self._parents.get((number, offset)): None for offset in offsets}
            parents = [parent for parent in found if parent is not None][:CONTEXTS_MAX]
            for parent in parents or (None,):
                for listener in self.listeners:
                    listener(trace, parent)


def _in_order(events: list[tuple[Trace, int]]) -> list[tuple[Trace, int]]:
    """What was delivered before it was said to be stored comes behind that."""
    stored: dict[int, list[tuple[int, int, int]]] = {}  # partition -> first and last offset, where it stands; rising
    for at, (one, number) in enumerate(events):
        if one.event is Event.STORED:
            stored.setdefault(number, []).append((one.first, one.last, at))
    found: list[tuple[int, int, Trace, int]] = []
    for at, (one, number) in enumerate(events):
        place, trace = at, one
        if one.event is Event.DELIVERED and (ranges := stored.get(number)):
            behind = bisect_right(ranges, (one.first, 2**63, 0)) - 1
            if behind >= 0 and ranges[behind][1] >= one.first and ranges[behind][2] > at:
                place = ranges[behind][2]
                trace = one._replace(time_ms=max(one.time_ms, events[place][0].time_ms))
        found.append((place, at if place == at else len(events) + at, trace, number))
    found.sort(key=lambda one: one[:2])
    return [(trace, number) for _, _, trace, number in found]


def trace_stored(
    tracer: Tracer,
    topics: Topics,
    entry: Append,
    answer: Appended,
    actor: Actor,
    scheduled: Iterable[tuple[int, Headers]] = (),
) -> None:
    """An append of one batch is durable. `scheduled`: place in the batch and headers of records that wait for their
    time.
    """
    owner = topics.owner(entry.partition)
    if owner is not None and tracer.traces(owner[0]):
        for at, headers in scheduled:
            tracer.scheduled(*owner, answer.base_offset + at, headers, actor)
        tracer.stored(*owner, answer.base_offset, entry.batch, actor)


def _mentions(batch: Buffer) -> bool:
    held = bytes(batch)
    return any(name in held for name in _MENTIONS)


def _records(batch: Buffer) -> list[Record]:
    try:
        return decode(batch, DECODED_BYTES_MAX)
    except BatchError:
        return []


def _parent_of(headers: dict[str, bytes | None]) -> Parent | None:
    parent, state = headers.get(TRACE_PARENT), headers.get(TRACE_STATE) or b""
    if parent is None:
        return None
    try:
        return Parent(parent.decode("ascii"), state.decode("ascii"))
    except UnicodeDecodeError:
        return None
