"""PUBLISH into the log: one batch per partition and turn of the loop, one append for all of them.

A name's topic is made when it is not there; what is published to it meanwhile waits behind, in order, in at most
`PARKED_BYTES_MAX`. Devices make at most `auto_topics_max` topics; later names go to the catch-all topic, whole. Answers
are given when the append is durable, so nothing acknowledged is lost. A message with the user property `deliver-at`
waits for its time (core.schedules).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
import trio

from core.errors import CoreFailure
from core.filters import check_topic
from core.intake import check_transactional, deliver_at
from core.retained import RetainedTable
from core.schedules import Schedules, Wanted
from core.state import Change, StateLog
from core.store.engine import Append, Appended, Engine, Entry, Outcome
from core.topic_mapping import TopicMapping, partition_of
from core.topics import Topic, Topics
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.records import headers_of
from trivium.record_batch import parse_header
from trivium.records import Record, build

log = structlog.get_logger(__name__)

PLACES_MAX: Final = 65_536  # names whose place is remembered
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
        self._unlogged = unlogged
        self._flush = flush
        self._places: dict[str, tuple[str, bytes | None]] = {}
        self._parked: dict[str, list[Outgoing]] = {}
        self._parked_bytes = 0
        self._make_send, self._make_receive = trio.open_memory_channel[str](10_000)
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
        self._places.clear()

    def publish(self, messages: list[Outgoing]) -> None:
        """Stores the messages of a turn, in order; answers each when it is durable or refused."""
        now_ms = int(time.time() * 1000)
        partitions: dict[int, list[tuple[Record, Outgoing]]] = {}
        scheduled: list[tuple[Wanted, Outgoing]] = []
        places = self._places
        for message in messages:
            place = places.get(message.name)
            if place is None:
                refused = self.refusal(message.name)
                if refused is not None:
                    _answer(message, *refused)
                    continue
                found = self._mapping.place(message.name)
                place = (found.topic, found.key)
                if len(places) >= PLACES_MAX:
                    places.clear()
                places[message.name] = place
            name, key = place
            topic = None if self._parked and name in self._parked else self._topics.get(name)
            if topic is None:
                self._park(name, message)
                continue
            headers = headers_of(message.qos, message.retain, message.properties, message.publisher)
            record = Record(0, now_ms, key, message.payload, headers)
            number = topic.partitions[partition_of(key, len(topic.partitions))]
            due_ms = None
            if message.properties or topic.settings.message_type != "any":
                try:
                    check_transactional(topic.settings, False)
                    due_ms = deliver_at(topic.settings, key, headers)
                except CoreFailure as failure:
                    _answer(message, reasons.PAYLOAD_FORMAT_INVALID, failure.message)
                    continue
            if due_ms is not None and due_ms > now_ms:
                scheduled.append((Wanted(number, due_ms, record), message))
            elif message.qos == 0 and not message.retain and not topic.settings.mqtt_store_qos0:
                self._unlogged(name, record)
            else:
                partitions.setdefault(number, []).append((record, message))
        if scheduled:
            self._schedule(scheduled)
        if partitions:
            self._append(partitions)

    def _schedule(self, rows: list[tuple[Wanted, Outgoing]]) -> None:
        """One append for what waits for its time. It is not retained: RETAIN counts when a message is published."""
        entry = self._schedules.entry([wanted for wanted, _ in rows])
        changes = [change for _, message in rows for change in message.changes]
        entries = [entry, self._state.entry(changes)] if changes else [entry]
        self._engine.append(entries, lambda answers: self._appended([[message for _, message in rows]], answers))

    def _append(self, partitions: dict[int, list[tuple[Record, Outgoing]]]) -> None:
        entries: list[Entry] = []
        sent: list[list[Outgoing]] = []
        changes: list[Change] = []
        retained: dict[str, Record] = {}
        size = 0
        for number, rows in partitions.items():
            for part in _parts(rows):
                batch = build([record for record, _ in part])
                size += len(batch)
                entries.append(Append(number, parse_header(batch), batch))
                sent.append([message for _, message in part])
                for record, message in part:
                    changes.extend(message.changes)
                    if message.retain and self._keeps(number):
                        # An empty payload deletes ([MQTT-3.3.1-6], [MQTT-3.3.1-10] of 3.1.1).
                        retained[message.name] = record._replace(
                            key=message.name.encode(), value=message.payload or None
                        )
        if changes:
            entries.append(self._state.entry(changes))
        if retained:
            entries.append(self._retained.entry(list(retained.values())))
        self.in_flight_bytes += size

        def done(answers: list[Appended]) -> None:
            self.in_flight_bytes -= size
            self._appended(sent, answers)

        self._engine.append(entries, done)

    def _keeps(self, partition: int) -> bool:
        owner = self._topics.owner(partition)
        return owner is not None and owner[0].settings.mqtt_retain == "true"

    def _appended(self, sent: list[list[Outgoing]], answers: list[Appended]) -> None:
        stored: dict[Connection, list[int]] = {}
        again: list[Outgoing] = []
        for messages, answer in zip(sent, answers, strict=False):
            if answer.outcome is Outcome.NOT_APPENDED:
                again.extend(messages)  # another's topic was deleted under it
                continue
            for message in messages:
                if answer.outcome is Outcome.APPENDED:
                    if message.ticket and message.connection is not None:
                        stored.setdefault(message.connection, []).append(message.ticket)
                elif answer.outcome is Outcome.FULL:
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

    def _park(self, topic: str, message: Outgoing) -> None:
        waiting = self._parked.get(topic)
        size = len(message.payload) + 200
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
            self._parked_bytes -= sum(len(message.payload) + 200 for message in waiting)
            if made is None:
                await self._to_catch_all(waiting)
            else:
                self.publish(waiting)
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

    async def _to_catch_all(self, messages: list[Outgoing]) -> None:
        other = self._mapping.catch_all
        if await self._make(other) is None:
            for message in messages:
                _answer(message, reasons.QUOTA_EXCEEDED, "no topic can be made")
            return
        for message in messages:
            self._places[message.name] = (other, message.name.encode())
        self.publish(messages)


def _answer(message: Outgoing, code: int, reason: str) -> None:
    if message.ticket and message.connection is not None:
        message.connection.publish_done(message.ticket, code, reason)


def _parts(rows: list[tuple[Record, Outgoing]]) -> list[list[tuple[Record, Outgoing]]]:
    """The rows in order, in pieces of about BATCH_BYTES_MAX."""
    parts: list[list[tuple[Record, Outgoing]]] = [[]]
    size = 0
    for row in rows:
        size += len(row[1].payload)
        if size > BATCH_BYTES_MAX and parts[-1]:
            parts.append([])
            size = len(row[1].payload)
        parts[-1].append(row)
    return parts
