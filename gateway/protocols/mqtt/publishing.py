"""PUBLISH into the log: one batch per partition and turn of the loop, one append for all of them.

A name's topic is made when it is not there; what is published to it meanwhile waits behind, in order, in at most
`PARKED_BYTES_MAX`. Devices make at most `auto_topics_max` topics; later names go to the catch-all topic, whole. Answers
are given when the append is durable, so nothing acknowledged is lost. A message with the user property `deliver-at`
waits for its time (core.schedules); one with `once-id`, in a topic that keeps such ids, has an append of its own and is
acknowledged alike whether it is stored or was before (core.once).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from core.errors import CoreFailure
from core.filters import check_topic
from core.intake import Intake, check_transactional, deliver_at
from core.retained import RetainedTable
from core.schedules import Schedules, Wanted
from core.state import Change, StateLog
from core.store.engine import Append, Appended, Engine, Entry, Outcome
from core.topic_mapping import TopicMapping, partition_of
from core.topics import Topic, Topics
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.records import headers_of
from trivium.headers import ONCE_ID
from trivium.record_batch import BatchHeader, parse_header
from trivium.record_writer import Template, assemble
from trivium.records import Record, build

log = structlog.get_logger(__name__)

ROUTES_MAX: Final = 65_536  # names whose route is remembered
PARKED_BYTES_MAX: Final = 16 * 1024 * 1024
BATCH_BYTES_MAX: Final = 512 * 1024
AUTO_TOPIC_KEY: Final = b"t"


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """`auto_topics_max`: topics that devices may make; `partitions`, `config`: what they are made with."""

    auto_topics_max: int
    partitions: int
    config: dict[str, str]


class Outgoing(NamedTuple):
    """A message to be stored. `connection` is None for wills; `changes` are state changes that go with it."""

    connection: Connection | None
    ticket: int
    name: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties | None
    publisher: str | None = None
    changes: Sequence[Change] = ()


class Route:
    """Where the messages of a name go, and how their records begin and end, by QoS. It holds until topics change.

    `special`: the topic's settings have a say in each message.
    """

    __slots__ = ("key", "partition", "settings", "special", "templates", "topic")

    def __init__(self, topic: Topic, key: bytes | None, partition: int) -> None:
        self.topic = topic.name
        self.settings = topic.settings
        self.special = topic.settings.message_type != "any" or not topic.settings.mqtt_store_qos0
        self.key = key
        self.partition = partition
        self.templates: list[Template | None] = [None, None, None]

    def template(self, qos: int, publisher: str | None) -> Template:
        """For messages without properties and RETAIN."""
        if publisher is not None:
            return Template(self.key, headers_of(qos, False, None, publisher))
        template = self.templates[qos]
        if template is None:
            template = self.templates[qos] = Template(self.key, headers_of(qos, False, None))
        return template


Row = tuple[Route, Outgoing | RunReceived]


class Publisher:
    """`state` is where changes that go with a message are kept; `unlogged(topic, record)` is given what is not to be
    stored; `flush` is called after answers were given.
    """

    def __init__(
        self,
        engine: Engine,
        topics: Topics,
        mapping: TopicMapping,
        settings: PublishSettings,
        state: StateLog,
        auto_topics: set[str],
        retained: RetainedTable,
        schedules: Schedules,
        intake: Intake,
        unlogged: Callable[[str, Record], None],
        flush: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._topics = topics
        self._mapping = mapping
        self._settings = settings
        self._state = state
        self._auto_topics = auto_topics  # topics that devices made
        self._retained = retained
        self._schedules = schedules
        self._intake = intake
        self._unlogged = unlogged
        self._flush = flush
        self._routes: dict[str, Route] = {}
        self._catch_all_places: dict[str, tuple[str, bytes | None]] = {}  # names whose topic could not be made
        self._fresh: dict[int, tuple[BatchHeader, Sequence[RunReceived]]] = {}  # of batches under way
        self._parked: dict[str, list[Outgoing | RunReceived]] = {}
        self._parked_bytes = 0
        self._make_send, self._make_receive = trio.open_memory_channel[str](10_000)
        self._last = self._stored = 0  # appends that were made, and how many of them are answered: it goes in order
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()  # for an append
        self._behind_parked: dict[str, list[Callable[[], object]]] = {}  # for a topic
        self.observed: Callable[[], bool] = lambda: False  # whether `on_stored` is to be told of what is durable
        self.on_stored: Callable[[Sequence[Row], Appended], None] = lambda rows, answer: None
        self.in_flight_bytes = 0
        self.dropped = 0

    def refusal(self, name: str) -> tuple[int, str] | None:
        """Why nothing may be published under a name, or None."""
        if (problem := check_topic(name)) is not None:
            return reasons.TOPIC_NAME_INVALID, problem
        if name.startswith(("__", "$SYS/", "$share/")) or name in ("$SYS", "$share"):
            return reasons.NOT_AUTHORIZED, "the topic is the broker's own"
        topic = self._topics.get(self._mapping.place(name).topic)
        if topic is not None and not topic.settings.mqtt_visible:
            return reasons.NOT_AUTHORIZED, "the topic is not for MQTT"
        return None

    def forget_places(self) -> None:
        """Topics have changed."""
        self._routes.clear()

    def fresh(self, header: BatchHeader) -> Sequence[RunReceived] | None:
        """What a batch is made of that has just become durable, if it is of plain runs only: it need not be decoded."""
        found = self._fresh.get(id(header))
        return found[1] if found is not None and found[0] is header else None

    @property
    def next_number(self) -> int:
        """For `is_stored`: of what is published next."""
        return self._last + 1

    def is_stored(self, number: int) -> bool:
        """Whether what was published under a number is durable or refused."""
        return number <= self._stored and not self._parked

    def when_stored(self, done: Callable[[], object]) -> None:
        """Calls `done` as soon as all that was published until now is durable or refused."""
        if self._parked:
            last = next(reversed(self._parked))  # topics are made in the order in which they were asked for
            self._behind_parked.setdefault(last, []).append(done)
        else:
            self._wait(done)

    def _wait(self, done: Callable[[], object]) -> None:
        if self._stored == self._last:
            done()
        else:
            self._waiting.append((self._last, done))

    def _submit(self, entries: Sequence[Entry], done: Callable[[list[Appended]], object]) -> None:
        self._last += 1
        number = self._last

        def answered(answers: list[Appended]) -> None:
            done(answers)
            self._stored = number
            waiting = self._waiting
            while waiting and waiting[0][0] <= number:
                waiting.popleft()[1]()

        self._engine.append(entries, answered)

    def publish(self, messages: Sequence[Outgoing | RunReceived]) -> None:
        """Stores the messages of a turn, in order; answers each when it is durable or refused."""
        now_ms = int(time.time() * 1000)
        partitions: dict[int, list[Row]] = {}
        scheduled: list[tuple[Wanted, Row]] = []
        routes, parked = self._routes, self._parked
        for message in messages:
            route = routes.get(message[2])  # its name
            if route is None or (parked and route.topic in parked):
                route = self._route(message)
                if route is None:
                    continue
            if message.__class__ is RunReceived:
                if route.special and not self._is_to_be_stored(route, message, now_ms, scheduled):
                    continue
            elif message.properties or route.special:  # type: ignore[union-attr]
                if route.settings.once_window_ms and _has_once_id(message):  # type: ignore[arg-type]
                    self._append(partitions, now_ms)  # what came before it of its name
                    partitions = {}
                    self._store_once(route, message, now_ms)  # type: ignore[arg-type]
                    continue
                if not self._is_to_be_stored(route, message, now_ms, scheduled):
                    continue
            rows = partitions.get(route.partition)
            if rows is None:
                partitions[route.partition] = [(route, message)]
            else:
                rows.append((route, message))
        if scheduled:
            self._schedule(scheduled)
        self._append(partitions, now_ms)

    def _route(self, message: Outgoing | RunReceived) -> Route | None:
        """Where a message goes; None when it was refused, or waits for its topic."""
        name = message[2]
        refused = self.refusal(name)
        if refused is not None:
            _answer(message, *refused)
            return None
        topic_name, key = self._mapping.place(name)
        topic = self._topics.get(topic_name)
        if topic is None and name in self._catch_all_places:  # else somebody has made it since
            topic_name, key = self._catch_all_places[name]
            topic = self._topics.get(topic_name)
        if topic is None or topic_name in self._parked:
            self._park(topic_name, message)
            return None
        partition = topic.partitions[partition_of(key, len(topic.partitions))]
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        route = self._routes[name] = Route(topic, key, partition)
        return route

    def _is_to_be_stored(
        self, route: Route, message: Outgoing | RunReceived, now_ms: int, scheduled: list[tuple[Wanted, Row]]
    ) -> bool:
        """Whether a message goes into its topic now; else it is refused, scheduled, or handed on unstored."""
        if isinstance(message, RunReceived):
            payloads, retain = message.payloads, False
            headers = headers_of(message.qos, False, None, message.publisher)
        else:
            payloads, retain = [message.payload], message.retain
            headers = headers_of(message.qos, retain, message.properties, message.publisher)
        try:
            check_transactional(route.settings, False)
            due_ms = deliver_at(route.settings, route.key, headers)
        except CoreFailure as failure:
            _answer(message, reasons.PAYLOAD_FORMAT_INVALID, failure.message)
            return False
        records = [Record(0, now_ms, route.key, payload, headers) for payload in payloads]
        if due_ms is not None and due_ms > now_ms:
            scheduled.append((Wanted(route.partition, due_ms, records[0]), (route, message)))
            return False
        if message.qos == 0 and not retain and not route.settings.mqtt_store_qos0:
            for record in records:
                self._unlogged(route.topic, record)
            return False
        return True

    def _store_once(self, route: Route, message: Outgoing, now_ms: int) -> None:
        """Stores a message with an id of the application's own, unless one with this id was stored before."""
        topic = self._topics.get(route.topic)
        assert topic is not None  # the route would be gone
        headers = headers_of(message.qos, message.retain, message.properties, message.publisher)
        record = Record(0, now_ms, route.key, message.payload, headers)
        batch = build([record])
        try:
            check_transactional(route.settings, False)
            header = parse_header(batch)
            found = self._intake.sort(topic, route.partition, header, batch, [record], now_ms, len(batch))
        except CoreFailure as failure:
            _answer(message, reasons.PAYLOAD_FORMAT_INVALID, failure.message)
            return
        entries: list[Entry] = [*found.entries]
        if message.changes:
            entries.append(self._state.entry(message.changes))
        fresh = not found.duplicates and not found.scheduled
        if fresh and message.retain and route.settings.mqtt_retain == "true":
            entries.append(self._retained.entry([_retained(message, now_ms)]))

        def done(answers: list[Appended]) -> None:
            try:
                self._intake.settle(found, answers[0].outcome)
            except CoreFailure as failure:
                _answer(message, reasons.UNSPECIFIED, failure.message)
                self._flush()
                return
            self._appended([[(route, message)]], answers, observe=fresh)

        self._submit(entries, done)

    def _schedule(self, rows: list[tuple[Wanted, Row]]) -> None:
        """One append for what waits for its time. It is not retained: RETAIN counts when a message is published."""
        entry = self._schedules.entry([wanted for wanted, _ in rows])
        changes = [change for _, (_, message) in rows if isinstance(message, Outgoing) for change in message.changes]
        entries = [entry, self._state.entry(changes)] if changes else [entry]
        self._submit(entries, lambda answers: self._appended([[row for _, row in rows]], answers))

    def _append(self, partitions: dict[int, list[Row]], now_ms: int) -> None:
        if not partitions:
            return
        entries: list[Entry] = []
        sent: list[list[Row]] = []
        changes: list[Change] = []
        retained: dict[str, Record] = {}
        fresh: list[int] = []
        size = 0
        for number, rows in partitions.items():
            for part in _parts(rows):
                header, batch, plain = _batch(part, now_ms)
                size += len(batch)
                entries.append(Append(number, header, batch))
                sent.append(part)
                if plain:
                    self._fresh[id(header)] = header, [message for _, message in part]  # type: ignore[misc]
                    fresh.append(id(header))
                    continue
                for route, message in part:
                    if message.__class__ is RunReceived:
                        continue
                    changes.extend(message.changes)  # type: ignore[union-attr]
                    if message.retain and route.settings.mqtt_retain == "true":  # type: ignore[union-attr]
                        # An empty payload deletes ([MQTT-3.3.1-6], [MQTT-3.3.1-10] of 3.1.1).
                        retained[message[2]] = _retained(message, now_ms)  # type: ignore[arg-type]
        if changes:
            entries.append(self._state.entry(changes))
        if retained:
            entries.append(self._retained.entry(list(retained.values())))
        self.in_flight_bytes += size

        def done(answers: list[Appended]) -> None:
            self.in_flight_bytes -= size
            for one in fresh:
                del self._fresh[one]
            self._appended(sent, answers)

        self._submit(entries, done)

    def write_now(self) -> None:
        """All of a turn has been appended, here and elsewhere: it goes to the disk in this step."""
        self._engine.write_now()

    def _appended(self, sent: list[list[Row]], answers: list[Appended], *, observe: bool = True) -> None:
        stored: dict[Connection, list[int]] = {}
        again: list[Outgoing | RunReceived] = []
        for rows, answer in zip(sent, answers, strict=False):
            if answer.outcome is Outcome.APPENDED:
                if observe and self.observed():
                    self.on_stored(rows, answer)
                for _, message in rows:
                    if not message.ticket:
                        continue
                    if message.__class__ is RunReceived:
                        message.connection.run_done(message.ticket)
                    elif message.connection is not None:
                        stored.setdefault(message.connection, []).append(message.ticket)
            elif answer.outcome is Outcome.NOT_APPENDED:
                again.extend([message for _, message in rows])  # another's topic was deleted under it
            else:
                for _, message in rows:
                    if answer.outcome is Outcome.FULL:
                        _answer(message, reasons.QUOTA_EXCEEDED, "the broker's disk is full")
                    else:
                        _answer(message, reasons.UNSPECIFIED, answer.outcome.value)
        for connection, tickets in stored.items():
            tickets.sort()
            if tickets[-1] - tickets[0] + 1 == len(tickets):
                connection.publishes_done(tickets[0], tickets[-1])
            else:
                for ticket in tickets:
                    connection.publish_done(ticket)
        if again:
            self.publish(again)
        self._flush()

    # -- topics that are not there yet -------------------------------------------------------------------------------

    def _park(self, topic: str, message: Outgoing | RunReceived) -> None:
        waiting = self._parked.get(topic)
        size = _parked_bytes(message)
        if self._parked_bytes + size > PARKED_BYTES_MAX:
            self.dropped += 1
            _answer(message, reasons.QUOTA_EXCEEDED, "too many topics are being made")
            return
        if waiting is None:
            try:
                self._make_send.send_nowait(topic)
            except trio.WouldBlock:
                _answer(message, reasons.QUOTA_EXCEEDED, "too many topics are being made")
                return
            waiting = self._parked[topic] = []
        waiting.append(message)
        self._parked_bytes += size

    async def run(self) -> None:
        """Makes the topics that are asked for, until cancelled."""
        async for name in self._make_receive:
            made = await self._make(name)
            waiting = self._parked.pop(name)
            self._parked_bytes -= sum(map(_parked_bytes, waiting))
            if made is None:
                await self._to_catch_all(waiting)
            else:
                self.publish(waiting)
            for done in self._behind_parked.pop(name, ()):
                self._wait(done)
            self._flush()

    async def _make(self, name: str) -> Topic | None:
        topic = self._topics.get(name)
        if topic is not None:
            return topic
        if len(self._auto_topics) >= self._settings.auto_topics_max and name != self._mapping.catch_all:
            return None
        try:
            topic = await self._topics.ensure(name, self._settings.partitions, self._settings.config)
        except CoreFailure as failure:
            log.warning("a topic for MQTT cannot be made", topic=name, reason=str(failure))
            return None
        if name != self._mapping.catch_all:
            self._auto_topics.add(name)
            await self._state.put([(AUTO_TOPIC_KEY + name.encode(), b"")])
        return topic

    async def _to_catch_all(self, messages: list[Outgoing | RunReceived]) -> None:
        other = self._mapping.catch_all
        if await self._make(other) is None:
            for message in messages:
                _answer(message, reasons.QUOTA_EXCEEDED, "no topic can be made")
            return
        for message in messages:
            if len(self._catch_all_places) >= ROUTES_MAX:
                self._catch_all_places.clear()
            name = message[2]
            self._catch_all_places[name] = other, name.encode()
        self.publish(messages)


def _has_once_id(message: Outgoing) -> bool:
    headers = headers_of(message.qos, message.retain, message.properties, message.publisher)
    return any(name == ONCE_ID for name, _ in headers)


def _answer(message: Outgoing | RunReceived, code: int, reason: str) -> None:
    if message.ticket and message.connection is not None:
        message.connection.publish_done(message.ticket, code, reason)


def totals(messages: Sequence[Outgoing | RunReceived]) -> tuple[int, int]:
    """How many messages these are, and the bytes of their payloads."""
    count = size_bytes = 0
    for message in messages:
        if message.__class__ is RunReceived:
            payloads = message.payloads
            count += len(payloads)
            size_bytes += sum(map(len, payloads))
        else:
            count += 1
            size_bytes += len(message.payload)  # type: ignore[union-attr]
    return count, size_bytes


def _payload_bytes(message: Outgoing | RunReceived) -> int:
    if isinstance(message, RunReceived):
        return sum(map(len, message.payloads))
    return len(message.payload)


def _parked_bytes(message: Outgoing | RunReceived) -> int:
    return _payload_bytes(message) + 200 * (len(message.payloads) if isinstance(message, RunReceived) else 1)


def _batch(rows: list[Row], now_ms: int) -> tuple[BatchHeader, bytes, bool]:
    """The records of the rows as one batch; and whether all of them are runs."""
    pieces: list[bytes] = []
    count = 0
    plain = True
    for route, message in rows:
        if message.__class__ is RunReceived:
            template = route.template(message.qos, message.publisher)
            count = template.write(pieces, count, message.payloads)
        else:
            plain = False
            _, _, _, payload, qos, retain, properties, publisher, _ = message  # type: ignore[misc]
            template = Template(route.key, headers_of(qos, retain, properties, publisher))
            count = template.write(pieces, count, (payload,))
    return *assemble(pieces, count, now_ms), plain


def _retained(message: Outgoing, now_ms: int) -> Record:
    headers = headers_of(message.qos, True, message.properties, message.publisher)
    return Record(0, now_ms, message.name.encode(), message.payload or None, headers)


def _parts(rows: list[Row]) -> list[list[Row]]:
    """The rows in order, in pieces of about BATCH_BYTES_MAX."""
    sizes = [_payload_bytes(message) for _, message in rows]
    if sum(sizes) <= BATCH_BYTES_MAX:
        return [rows]
    parts: list[list[Row]] = [[]]
    size = 0
    for row, row_bytes in zip(rows, sizes, strict=True):
        size += row_bytes
        if size > BATCH_BYTES_MAX and parts[-1]:
            parts.append([])
            size = row_bytes
        parts[-1].append(row)
    return parts
