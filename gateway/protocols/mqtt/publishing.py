"""PUBLISH into the log: one batch per partition and turn of the loop, one append for all of them.

Answers are given when the append is durable, so nothing acknowledged is lost. A message with the user property
`deliver-at` waits for its time (core.schedules); one with `once-id`, in a topic that keeps such ids, has an append of
its own and is acknowledged alike whether it is stored or was before (core.once).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from core.errors import CoreFailure
from core.intake import Intake, check_transactional, deliver_at
from core.retained import RetainedTable
from core.schedules import Schedules, Wanted
from core.state import Change, StateLog
from core.store.engine import Append, Appended, Engine, Entry, Outcome
from core.topic_mapping import TopicMapping
from core.topics import Topics
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.batches import Row, batch_of, parts_of
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.outgoing import (
    Outgoing,
    Published,
    Publishing,
    has_once_id,
    refuse,
    retained_record,
)
from gateway.protocols.mqtt.parked import Parked, PublishSettings
from gateway.protocols.mqtt.records import headers_of
from gateway.protocols.mqtt.routes import Route, Routes
from trivium.record_batch import BatchHeader, parse_header
from trivium.records import Record, build


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
        self._state = state
        self._retained = retained
        self._schedules = schedules
        self._intake = intake
        self._unlogged = unlogged
        self._flush = flush
        self.routes = Routes(topics, mapping)
        self._parked = Parked(topics, self.routes, mapping.catch_all, settings, state, auto_topics, self._made, flush)
        # Looked up for every message: taken from where they are once.
        self._known_routes, self._parked_messages = self.routes.known, self._parked.messages
        self._fresh: dict[int, tuple[BatchHeader, Sequence[RunReceived]]] = {}  # of batches under way
        self._turn = 0
        self._under_way: dict[int, int] = {}  # turn -> its appends without an answer, topics that are made for it
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()  # for the turns up to one
        self._parked_turns: dict[str, int] = {}  # topic that is made -> the turn that it is made for
        self.observed: Callable[[], bool] = lambda: False  # whether `on_stored` is to be told of what is durable
        self.on_stored: Callable[[Sequence[Row], Appended], None] = lambda rows, answer: None
        self.on_scheduled: Callable[[Sequence[Row]], None] = lambda rows: None
        self.in_flight_bytes = 0

    def fresh(self, header: BatchHeader) -> Sequence[RunReceived] | None:
        """What a batch is made of that has just become durable, if it is of plain runs only: it need not be decoded."""
        found = self._fresh.get(id(header))
        return found[1] if found is not None and found[0] is header else None

    def begin_turn(self) -> int:
        """What is published from now on is of the turn whose number this returns."""
        self._turn += 1
        return self._turn

    def is_stored(self, turn: int) -> bool:
        """Whether what was published in a turn, and before it, is durable or refused."""
        return turn < next(iter(self._under_way), turn + 1)  # the oldest: an old one comes back only while it is there

    def when_stored(self, done: Callable[[], object]) -> None:
        """Calls `done` as soon as all that was published until now is durable or refused."""
        if self.is_stored(self._turn):
            done()
        else:
            self._waiting.append((self._turn, done))

    def _hold(self, turn: int) -> None:
        self._under_way[turn] = self._under_way.get(turn, 0) + 1

    def _release(self, turn: int) -> None:
        left = self._under_way[turn] - 1
        if left:
            self._under_way[turn] = left
            return
        del self._under_way[turn]
        waiting = self._waiting
        while waiting and self.is_stored(waiting[0][0]):
            waiting.popleft()[1]()

    def _hold_for(self, topic: str, turn: int) -> None:
        """Something of a turn waits for a topic: the oldest turn is kept, and with it the later ones."""
        kept = self._parked_turns.get(topic)
        if kept is not None and kept <= turn:
            return
        self._parked_turns[topic] = turn
        self._hold(turn)
        if kept is not None:
            self._release(kept)

    def _submit(self, turn: int, entries: Sequence[Entry], done: Callable[[list[Appended]], object]) -> None:
        self._hold(turn)

        def answered(answers: list[Appended]) -> None:
            done(answers)  # before the turn is let go: what is published again is still of it
            self._release(turn)

        self._engine.append(entries, answered)

    def publish(self, messages: Sequence[Published]) -> None:
        """Stores the messages of a turn, in order; answers each when it is durable or refused."""
        self._publish(self._turn, messages)

    def _publish(self, turn: int, messages: Sequence[Published]) -> None:
        now_ms = int(time.time() * 1000)
        partitions: dict[int, list[Row]] = {}
        scheduled: list[tuple[Wanted, Row]] = []
        routes, parked = self._known_routes, self._parked_messages
        for message in messages:
            route = routes.get(message[2])  # its name
            if route is None or (parked and route.topic in parked):
                route = self._route(turn, message)
                if route is None:
                    continue
            if message.__class__ is RunReceived:
                if route.special and not self._is_to_be_stored(turn, route, message, now_ms, scheduled):
                    continue
            elif message.properties or route.special:  # type: ignore[union-attr]
                if route.settings.once_window_ms and has_once_id(message):  # type: ignore[arg-type]
                    self._append(turn, partitions, now_ms)  # what came before it of its name
                    partitions = {}
                    self._store_once(turn, route, message, now_ms)  # type: ignore[arg-type]
                    continue
                if not self._is_to_be_stored(turn, route, message, now_ms, scheduled):
                    continue
            rows = partitions.get(route.partition)
            if rows is None:
                partitions[route.partition] = [(route, message)]
            else:
                rows.append((route, message))
        if scheduled:
            self._schedule(turn, scheduled)
        self._append(turn, partitions, now_ms)

    def _route(self, turn: int, message: Published) -> Route | None:
        """Where a message goes; None when it was refused, or waits for its topic."""
        name = message[2]
        refused = self.routes.refusal(name)
        if refused is not None:
            refuse(message, *refused)
            return None
        topic_name, key = self.routes.place(name)
        topic = self._topics.get(topic_name)
        if topic is None or topic_name in self._parked_messages:
            if self._parked.park(topic_name, message):
                self._hold_for(topic_name, turn)
            return None
        return self.routes.add(name, topic, key)

    def _made(self, topic: str, messages: Sequence[Published]) -> None:
        """A topic was made and these were waiting for it, or it was not and they have been refused."""
        turn = self._parked_turns.pop(topic)
        self._publish(turn, messages)
        self._release(turn)

    def _is_to_be_stored(
        self, turn: int, route: Route, message: Published, now_ms: int, scheduled: list[tuple[Wanted, Row]]
    ) -> bool:
        """Whether a message goes into its topic now; else it is refused, scheduled, or handed on unstored."""
        if isinstance(message, RunReceived):
            payloads, retain = message.payloads, False
            headers = headers_of(message.qos, False, None, message.publisher)
        else:
            payloads, retain = [message.payload], message.retain
            headers = message.headers()
        try:
            check_transactional(route.settings, False)
            due_ms = deliver_at(route.settings, route.key, headers)
        except CoreFailure as failure:
            refuse(message, reasons.PAYLOAD_FORMAT_INVALID, failure.message)
            return False
        records = [Record(0, now_ms, route.key, payload, headers) for payload in payloads]
        if due_ms is not None and due_ms > now_ms:
            scheduled.append((Wanted(route.partition, due_ms, records[0]), (route, message)))
            return False
        if message.qos == 0 and not retain and not route.settings.mqtt_store_qos0:
            for record in records:
                self._unlogged(route.topic, record)
            if isinstance(message, Outgoing) and message.changes:  # a will has been said
                self._submit(turn, [self._state.entry(message.changes)], partial(self._handed_on, message))
            return False
        return True

    def _handed_on(self, message: Outgoing, answers: list[Appended]) -> None:
        """It is not said again where its changes are refused: that is no want of room."""
        if answers[0].outcome is Outcome.APPENDED:
            message.connection.publish_done(message.ticket, reasons.SUCCESS, "")
        else:
            refuse(message, reasons.UNSPECIFIED, "it was handed on, and that cannot be stored")

    def _store_once(self, turn: int, route: Route, message: Outgoing, now_ms: int) -> None:
        """Stores a message with an id of the application's own, unless one with this id was stored before."""
        topic = self._topics.get(route.topic)
        assert topic is not None  # the route would be gone
        headers = message.headers()
        record = Record(0, now_ms, route.key, message.payload, headers)
        batch = build([record])
        try:
            check_transactional(route.settings, False)
            header = parse_header(batch)
            found = self._intake.sort(topic, route.partition, header, batch, [record], now_ms, len(batch))
        except CoreFailure as failure:
            refuse(message, reasons.PAYLOAD_FORMAT_INVALID, failure.message)
            return
        entries: list[Entry] = [*found.entries]
        if message.changes:
            entries.append(self._state.entry(message.changes))
        fresh = not found.duplicates and not found.scheduled
        if fresh and message.retain and route.settings.mqtt_retain == "true":
            entries.append(self._retained.entry([retained_record(message, now_ms)]))

        def done(answers: list[Appended]) -> None:
            try:
                self._intake.settle(found, answers[0].outcome)
            except CoreFailure as failure:
                refuse(message, reasons.UNSPECIFIED, failure.message)
                self._flush()
                return
            self._appended(turn, [[(route, message)]], answers, observe=fresh)

        self._submit(turn, entries, done)

    def _schedule(self, turn: int, rows: list[tuple[Wanted, Row]]) -> None:
        """One append for what waits for its time. It is not retained: RETAIN counts when a message is published."""
        entry = self._schedules.entry([wanted for wanted, _ in rows])
        changes = [change for _, (_, message) in rows if isinstance(message, Outgoing) for change in message.changes]
        entries = [entry, self._state.entry(changes)] if changes else [entry]
        scheduled = [row for _, row in rows]

        def done(answers: list[Appended]) -> None:
            if answers[0].outcome is Outcome.APPENDED and self.observed():
                self.on_scheduled(scheduled)
            self._appended(turn, [scheduled], answers, observe=False)

        self._submit(turn, entries, done)

    def _append(self, turn: int, partitions: dict[int, list[Row]], now_ms: int) -> None:
        if not partitions:
            return
        entries: list[Entry] = []
        sent: list[list[Row]] = []
        changes: list[Change] = []
        retained: dict[str, Record] = {}
        fresh: list[int] = []
        size = 0
        for number, rows in partitions.items():
            for part in parts_of(rows):
                header, batch, plain = batch_of(part, now_ms)
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
                        retained[message[2]] = retained_record(message, now_ms)  # type: ignore[arg-type]
        if changes:
            entries.append(self._state.entry(changes))
        if retained:
            entries.append(self._retained.entry(list(retained.values())))
        self.in_flight_bytes += size

        def done(answers: list[Appended]) -> None:
            self.in_flight_bytes -= size
            for one in fresh:
                del self._fresh[one]
            self._appended(turn, sent, answers)

        self._submit(turn, entries, done)

    def write_now(self) -> None:
        """All of a turn has been appended, here and elsewhere: it goes to the disk in this step."""
        self._engine.write_now()

    def _appended(self, turn: int, sent: list[list[Row]], answers: list[Appended], *, observe: bool = True) -> None:
        stored: dict[Publishing, list[int]] = {}
        again: list[Published] = []
        for rows, answer in zip(sent, answers, strict=False):
            if answer.outcome is Outcome.APPENDED:
                if observe and self.observed():
                    self.on_stored(rows, answer)
                for _, message in rows:
                    if not message.ticket:
                        continue
                    if message.__class__ is RunReceived:
                        message.connection.run_done(message.ticket)
                    else:
                        stored.setdefault(message.connection, []).append(message.ticket)
            elif answer.outcome is Outcome.NOT_APPENDED:
                again.extend([message for _, message in rows])  # another's topic was deleted under it
            else:
                for _, message in rows:
                    if answer.outcome is Outcome.FULL:
                        refuse(message, reasons.QUOTA_EXCEEDED, "the broker's disk is full")
                    else:
                        refuse(message, reasons.UNSPECIFIED, answer.outcome.value)
        for connection, tickets in stored.items():
            tickets.sort()
            if tickets[-1] - tickets[0] + 1 == len(tickets):
                connection.publishes_done(tickets[0], tickets[-1])
            else:
                for ticket in tickets:
                    connection.publish_done(ticket, reasons.SUCCESS, "")
        if again:
            self._publish(turn, again)
        self._flush()

    async def run(self) -> None:
        """Makes the topics that are asked for, until cancelled."""
        await self._parked.run()
