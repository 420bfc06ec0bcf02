"""The client: one connection to one of several addresses, opened anew with backoff when it is lost, and what is asked
about topics and offsets.

Written once for trio and asyncio, with anyio: the two differ in streams, tasks and cancellation, and anyio gives both
trio's rules, of which the SDK needs one most: what is cancelled has ended when its scope is left.
"""

from __future__ import annotations

import enum
import json
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio
import anyio.abc

from trivium.connection import Connection, Incoming, open_connection
from trivium.errors import Closed, Disconnected, ErrorCode, RequestRefused, RequestTimedOut
from trivium.frames.connection import AskStatus, Status
from trivium.frames.halves import DO_NOT_KNOW, CheckBack, CheckBackReply, EndHalf, ResumeHalf
from trivium.frames.offsets import EARLIEST, LATEST, Commit, Committed, FindOffsets, OffsetEntry, TimeEntry
from trivium.frames.queues import ORDER_KEY, ORDER_NONE, ORDER_PARTITION, Deliver, Subscribe
from trivium.frames.resets import TO_EARLIEST, TO_LATEST, TO_OFFSET, TO_TIME, GroupReset, Reset
from trivium.frames.scheduled import Cancel, ListScheduled
from trivium.frames.topics import ConfigEntry, CreateTopic, DeleteTopic, Metadata, TopicInfo
from trivium.frames.traces import BY_ID, BY_KEY, BY_PLACE, BY_TIME, FindTraces, TraceEntry
from trivium.queue_admin import QueueAdmin
from trivium.record_batch import Codec
from trivium.stacks import stacks
from trivium.tasks import task_group

if TYPE_CHECKING:
    from trivium.consumer import Consumer
    from trivium.half_messages import Check, HalfProducer, WaitingHalf
    from trivium.producer import Producer
    from trivium.requests import Requester
    from trivium.subscriber import Subscriber
    from trivium.transactions import TransactionalSender

DEFAULT_PORT = 9876
SOFTWARE = "trivium-python/0.1.0"
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 2.0
ADDRESSES_MAX = 100
SILENT_S_MAX = 10.0  # of a connection over which a request has timed out: then it is given up
DISCOVERY_S = 30.0  # as long as this new partitions of a topic may go unnoticed
DISCOVERED_MAX = 1_000  # topics in one request
ALWAYS_MS = 2**62

Buffer = bytes | memoryview


class Cancellation(enum.IntEnum):
    """The answer to a cancellation. UNKNOWN: never was, its topic was deleted, or it ended longer ago than is known."""

    UNKNOWN = 0
    DELIVERED = 1
    CANCELLED = 2

    __str__ = enum.Enum.__str__  # its name: who prints an answer wants no number


class ScheduledMessage(NamedTuple):
    """A message that waits for its time. `topic` is empty when it has been deleted since."""

    message_id: str
    due_ms: int
    topic: str
    partition: int
    key: bytes | None
    value_bytes: int


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it stands; `config` holds what was set for it alone."""

    name: str
    partitions: int
    config: Mapping[str, str]


def _target(to: int | datetime | None, offset: int | None) -> tuple[int, int]:
    if (to is None) == (offset is None):
        raise ValueError("give either a place or time to go to, or an offset")
    if to is None:
        return TO_OFFSET, offset or 0
    if isinstance(to, datetime):
        return TO_TIME, int(to.timestamp() * 1000)
    if to < 0:
        return {EARLIEST: TO_EARLIEST, LATEST: TO_LATEST}[to], 0
    return TO_TIME, to


def selector_text(filter: str | None, tags: str | None) -> str:
    """A filter as frames carry it. Raises ValueError for two."""
    if filter is not None and tags is not None:
        raise ValueError("give a filter or tags, not both: TAGS is a property of filters")
    return f"sql:{filter}" if filter is not None else f"tags:{tags}" if tags is not None else ""


def parse_addresses(addresses: str) -> list[tuple[str, int]]:
    """Hosts and ports of `host:port,[ipv6]:port,host`. Raises ValueError."""
    found = []
    for address in addresses.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not colon or port.endswith("]"):
            host, port = address.strip(), str(DEFAULT_PORT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError(f"{address.strip()!r} is no address: give HOST:PORT")
        found.append((host, int(port)))
    if len(found) > ADDRESSES_MAX:
        raise ValueError(f"more than {ADDRESSES_MAX} addresses")
    return found


class Client(QueueAdmin):
    """Made by `connect`. Safe to share between tasks of one event loop."""

    def __init__(self, addresses: str, tasks: anyio.abc.TaskGroup, client_id: str, request_timeout_s: float) -> None:
        self._addresses = parse_addresses(addresses)
        self._tasks = tasks
        self._client_id = client_id
        self.request_timeout_s = request_timeout_s
        self._connection: Connection | None = None
        self._failures: dict[str, str] = {}  # why an address could not be used when it was tried last
        self._connecting = anyio.Lock(fast_acquire=True)
        self._closed = False
        self._partitions: dict[str, int] = {}
        # Who takes what the broker says.
        self.incoming = Incoming(
            {AskStatus: self._status, CheckBack: self._check_back},
            {GroupReset: lambda message, _: self._group_reset(message)},
        )
        self.incoming.one_way[Deliver] = self._deliver
        self._last_stream = 0
        self._streams: dict[int, Callable[[Deliver, memoryview], None]] = {}
        self._reset_watchers: list[Callable[[GroupReset], None]] = []
        self.half_producers: dict[str, Callable[[CheckBack, memoryview], Awaitable[CheckBackReply]]] = {}
        self.status: dict[str, Callable[[], Any]] = {}  # what else this client's status shows, for JSON

    async def connection(self) -> Connection:
        """The connection as it stands, or a new one: addresses are tried in random order, then again after a pause
        with jitter. Raises Closed, or RequestRefused when no address speaks our version.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        backoff_s = BACKOFF_S_MIN
        async with self._connecting:
            while self._connection is None or self._connection.closed:
                if self._closed:
                    raise Closed("the client is closed")
                found = await self._try_addresses()
                if found is None:
                    await anyio.sleep(backoff_s * random.uniform(0.5, 1))
                    backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                    continue
                self._connection = found
                self._tasks.start_soon(found.receive)
            return self._connection

    async def _try_addresses(self) -> Connection | None:
        """None when none can be reached now. Raises RequestRefused when all that can be refuse us."""
        refusal: RequestRefused | None = None
        for host, port in random.sample(self._addresses, len(self._addresses)):
            try:
                found = await open_connection(
                    host, port, self._client_id, SOFTWARE, self.request_timeout_s, self.incoming
                )
            except Disconnected as failure:
                self._failures[f"{host}:{port}"] = str(failure)
            except RequestRefused as refused:
                refusal = refused
            else:
                self._failures.clear()
                return found
        if refusal is not None:
            raise refusal
        return None

    async def request(
        self, message: Any, payload: Sequence[Buffer] = (), *, timeout_s: float | None = None, retry: bool = True
    ) -> tuple[Any, memoryview]:
        """One request, over as many connections as it takes within the time (seconds; the client's by default).

        `retry` says that asking twice does no harm. Raises RequestRefused, RequestTimedOut; Disconnected without
        `retry`; Closed.
        """
        limit_s = self.request_timeout_s if timeout_s is None else timeout_s
        began_s = time.monotonic()
        connection: Connection | None = None
        try:
            with anyio.fail_after(None if math.isinf(limit_s) else limit_s):
                while True:
                    connection = await self.connection()
                    try:
                        return await connection.request(message, payload)
                    except Disconnected:
                        if not retry:
                            raise
        except TimeoutError:
            if connection is not None and time.monotonic() - max(began_s, connection.heard_s) >= SILENT_S_MAX:
                await connection.aclose()  # its broker hangs, or the way there: the next request finds another
            where = ", ".join(f"{host}:{port}" for host, port in self._addresses)
            why = "".join(f"; {failure}" for failure in self._failures.values())
            raise RequestTimedOut(f"no answer to {type(message).__name__} in {limit_s} s from {where}{why}") from None

    async def tell(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """A one-way message over the connection as it stands; lost with it. Raises Disconnected."""
        if self._connection is None:
            raise Disconnected("there is no connection")
        await self._connection.tell(message, payload)

    async def _status(self, _: AskStatus, __: memoryview) -> Status:
        settings = {"client_id": self._client_id, "software": SOFTWARE, "request_timeout_s": self.request_timeout_s}
        known = {name: show() for name, show in self.status.items()}
        return Status(json.dumps({"settings": settings, **known, "stacks": stacks()}, default=str))

    def take_deliveries(self, stream: int, taker: Callable[[Deliver, memoryview], None] | None) -> None:
        """Who takes what is handed out to a stream; None: nobody any more."""
        if taker is None:
            self._streams.pop(stream, None)
        else:
            self._streams[stream] = taker

    def _deliver(self, message: Deliver, payload: memoryview) -> None:
        taker = self._streams.get(message.stream)
        if taker is not None:
            taker(message, payload)

    async def say(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """Sends a message that is not answered. Raises Disconnected, Closed."""
        connection = await self.connection()
        await connection.say(message, payload)

    async def partitions(self, topic: str, *, create: bool = False) -> int:
        """How many partitions a topic has; `create` makes a missing one, if the broker allows it. Remembered.

        Raises RequestRefused (UNKNOWN_TOPIC, INVALID_TOPIC).
        """
        known = self._partitions.get(topic)
        if known is None:
            reply, _ = await self.request(Metadata(int(create), [topic]))
            info = reply.topics[0]
            if info.status:
                raise RequestRefused(info.status, f"topic {topic!r}")
            known = self._partitions[topic] = info.partitions
        return known

    def known_partitions(self, topic: str) -> int | None:
        """As remembered; None when it must be asked for."""
        return self._partitions.get(topic)

    async def keep_partitions(self) -> None:
        """Looks every DISCOVERY_S whether known topics have more partitions by now, until cancelled."""
        while True:
            await anyio.sleep(DISCOVERY_S)
            names = list(self._partitions)
            for first in range(0, len(names), DISCOVERED_MAX):
                with suppress(RequestRefused, RequestTimedOut, Closed):
                    reply, _ = await self.request(Metadata(0, names[first : first + DISCOVERED_MAX]))
                    for info in reply.topics:
                        if info.status:
                            self.forget(info.name)
                        elif info.name in self._partitions:
                            self._partitions[info.name] = info.partitions

    def forget(self, topic: str) -> None:
        """Asks anew for the topic's partitions next time."""
        self._partitions.pop(topic, None)

    async def _check_back(self, request: CheckBack, payload: memoryview) -> CheckBackReply:
        answer = self.half_producers.get(request.group)
        return CheckBackReply(DO_NOT_KNOW) if answer is None else await answer(request, payload)

    # -- topics and offsets

    async def topics(self) -> list[TopicDescription]:
        """All topics but the broker's own."""
        reply, _ = await self.request(Metadata(0, []))
        return [_description(info) for info in reply.topics]

    async def describe_topic(self, name: str) -> TopicDescription:
        """Raises RequestRefused (UNKNOWN_TOPIC)."""
        reply, _ = await self.request(Metadata(0, [name]))
        if reply.topics[0].status:
            raise RequestRefused(reply.topics[0].status, f"topic {name!r}")
        return _description(reply.topics[0])

    async def create_topic(self, name: str, partitions: int = 0, config: Mapping[str, str] | None = None) -> None:
        """Makes a topic; durable on return. 0 partitions: the broker's default. `config` is Kafka's topic configs.

        Not asked twice when the connection is lost: Disconnected then leaves open whether it was made. Raises
        RequestRefused (TOPIC_EXISTS, INVALID_TOPIC, INVALID_PARTITIONS, INVALID_CONFIG).
        """
        entries = [ConfigEntry(key, value) for key, value in (config or {}).items()]
        await self.request(CreateTopic(name, partitions, entries), retry=False)
        self.forget(name)

    async def delete_topic(self, name: str) -> None:
        """Deletes a topic with its records; durable on return. Raises as `create_topic` (UNKNOWN_TOPIC)."""
        await self.request(DeleteTopic(name), retry=False)
        self.forget(name)

    async def find_offsets(self, topic: str, time_ms: int) -> dict[int, int]:
        """Per partition the first offset with at least this time (ms since the epoch), or `EARLIEST` or
        `LATEST`; the end where there is none. Raises RequestRefused.
        """
        count = await self.partitions(topic)
        entries = [TimeEntry(topic, index, time_ms) for index in range(count)]
        reply, _ = await self.request(FindOffsets(entries))
        for found in reply.entries:
            if found.status:
                raise RequestRefused(found.status, f"topic {topic!r}")
        return {index: found.offset for index, found in enumerate(reply.entries)}

    async def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Keeps offsets, (topic, partition) -> next to read, under a group's name; durable on return.

        Raises RequestRefused for the first that was refused, when the others have been kept.
        """
        await self.commit_since(group, offsets, -1)

    async def commit_since(self, group: str, offsets: Mapping[tuple[str, int], int], resets: int) -> None:
        """As `commit`; refused (GROUP_WAS_RESET) when the group has been reset more often than that."""
        entries = [OffsetEntry(topic, part, offset, "") for (topic, part), offset in offsets.items()]
        reply, _ = await self.request(Commit(group, entries, resets))
        for entry, status in zip(entries, reply.statuses, strict=True):
            if status:
                raise RequestRefused(status, f"commit of {entry.topic}/{entry.partition} for group {group!r}")

    async def committed(self, group: str) -> dict[tuple[str, int], int]:
        """All offsets kept under a group's name."""
        return (await self.committed_since(group, watch=False))[0]

    async def committed_since(self, group: str, *, watch: bool) -> tuple[dict[tuple[str, int], int], int]:
        """As `committed`, and how often the group was reset; `watch`: GroupReset tells of further ones."""
        try:
            reply, _ = await self.request(Committed(group, int(watch)))
        except RequestRefused as refused:
            if refused.code == ErrorCode.GROUP_NOT_FOUND:
                return {}, 0
            raise
        return {(entry.topic, entry.partition): entry.offset for entry in reply.entries}, reply.resets

    async def reset(
        self,
        name: str,
        to: int | datetime | None = None,
        *,
        offset: int | None = None,
        topics: Sequence[str] = (),
        kind: Literal["group", "queue", "session"] = "group",
    ) -> dict[tuple[str, int], int]:
        """Moves a group, which may be running, to EARLIEST, LATEST or a time (a datetime, or ms since the epoch), or to
        an offset, in these topics or in all it reads. Returns where it goes on; durable.

        Commits from before cannot undo it. `kind` "group" is what commits offsets, "queue" what `subscribe` joins;
        "session" moves an MQTT session, by its client identifier, or a shared subscription, by `$share/...`. Raises
        RequestRefused (GROUP_NOT_FOUND, UNKNOWN_TOPIC).
        """
        where, value = _target(to, offset)
        reply, _ = await self.request(Reset(kind, name, list(topics), where, value))
        return {(place.topic, place.partition): place.offset for place in reply.places}

    def _group_reset(self, message: GroupReset) -> None:
        for watcher in list(self._reset_watchers):
            watcher(message)

    @contextmanager
    def watching_resets(self, watcher: Callable[[GroupReset], None]) -> Iterator[None]:
        """Calls `watcher` with what the broker tells of resets, while the block is not left."""
        self._reset_watchers.append(watcher)
        try:
            yield
        finally:
            self._reset_watchers.remove(watcher)

    async def traces(
        self,
        *,
        message_id: str = "",
        topic: str = "",
        key: bytes | None = None,
        partition: int | None = None,
        offset: int | None = None,
        since_ms: int = 0,
        until_ms: int = ALWAYS_MS,
    ) -> AsyncIterator[TraceEntry]:
        """What happened to messages of traced topics (topic config `trace`), oldest first: of one message by its id or
        its place, of a topic's messages with a key, of a topic, or of all. Times are ms since the epoch.

        Raises RequestRefused (UNKNOWN_MESSAGE, UNKNOWN_TOPIC).
        """
        by = BY_ID if message_id else BY_KEY if key is not None else BY_PLACE if offset is not None else BY_TIME
        while True:
            asked = FindTraces(by, topic, message_id, key or b"", partition or 0, offset or 0, since_ms, until_ms)
            reply, _ = await self.request(asked)
            for entry in reply.entries:
                if reply.next_ms < 0 or entry.time_ms < reply.next_ms:
                    yield entry
            if reply.next_ms < 0:
                return
            since_ms = max(reply.next_ms, since_ms + 1)

    # -- records

    def producer(
        self, *, codec: Codec = Codec.NONE, linger_ms: int = 0, buffer_bytes_max: int = 32 * 1024 * 1024
    ) -> AbstractAsyncContextManager[Producer]:
        """A producer; see `trivium.producer`."""
        from trivium.producer import producer

        return producer(self, codec=codec, linger_ms=linger_ms, buffer_bytes_max=buffer_bytes_max)

    def consumer(
        self,
        *topics: str,
        group: str | None = None,
        start: int = LATEST,
        committed: bool = True,
        filter: str | None = None,
        tags: str | None = None,
        key: str | None = None,
        partitions: Sequence[int] | None = None,
    ) -> AbstractAsyncContextManager[Consumer]:
        """A consumer of all partitions of some topics; see `trivium.consumer`."""
        from trivium.consumer import consumer

        return consumer(
            self,
            topics,
            group=group,
            start=start,
            committed=committed,
            filter=filter,
            tags=tags,
            key=key,
            partitions=partitions,
        )

    def requester(self, replies_topic: str = "replies") -> AbstractAsyncContextManager[Requester]:
        """Asks others over the broker; see `trivium.requests`."""
        from trivium.requests import requester

        return requester(self, replies_topic)

    def subscribe(
        self,
        *topics: str,
        group: str,
        key_pattern: str = "",
        filter: str | None = None,
        tags: str | None = None,
        order: Literal["none", "key", "partition"] = "none",
        broadcast: bool = False,
        start: int = LATEST,
        credit_messages: int = 1_000,
        credit_bytes: int = 16 * 1024 * 1024,
    ) -> AbstractAsyncContextManager[Subscriber]:
        """A consumer of a queue group, whose members share the messages and settle each; see `trivium.subscriber`.

        `key_pattern` (`line/+/temp`, `line/#`), and `filter` (SQL-92 over the headers) or `tags`, say which messages
        are wanted. `order`: one message of a key, or of a partition, at a time. `broadcast`: nothing is settled; give
        each instance a group of its own. `start`: EARLIEST, LATEST or a time in ms, where the group is new to a topic.
        Entering the block raises RequestRefused: CONTRADICTS_GROUP when the group reads something else, UNKNOWN_TOPIC,
        INVALID_FILTER.
        """
        from trivium.subscriber import subscriber

        orders = {"none": ORDER_NONE, "key": ORDER_KEY, "partition": ORDER_PARTITION}
        if order not in orders:
            raise ValueError(f"order={order!r}: give one of {', '.join(orders)}")
        if credit_messages < 0 or credit_bytes < 1:
            raise ValueError("credit_messages is at least 0 (nothing is pushed then), credit_bytes at least 1")
        self._last_stream += 1
        request = Subscribe(
            self._last_stream,
            group,
            f"{self._client_id or 'client'}-{uuid.uuid4()}",
            list(topics),
            key_pattern,
            selector_text(filter, tags),
            orders[order],
            int(broadcast),
            start,
            [],
        )
        return subscriber(self, request, credit_messages, credit_bytes)

    def half_producer(self, group: str, check: Check) -> AbstractAsyncContextManager[HalfProducer]:
        """A producer of half messages; see `trivium.half_messages`."""
        from trivium.half_messages import half_producer

        return half_producer(self, group, check)

    def transactional(
        self, transactional_id: str, *, timeout_ms: int = 60_000, codec: Codec = Codec.NONE
    ) -> AbstractAsyncContextManager[TransactionalSender]:
        """A sender of transactions; see `trivium.transactions`."""
        from trivium.transactions import transactional

        return transactional(self, transactional_id, timeout_ms=timeout_ms, codec=codec)

    # -- messages that wait

    async def cancel(self, message_id: str) -> Cancellation:
        """Cancels a scheduled message: CANCELLED (now or before), DELIVERED, or UNKNOWN. Durable on return."""
        reply, _ = await self.request(Cancel(message_id))
        return Cancellation(reply.state)

    async def scheduled(self) -> AsyncIterator[ScheduledMessage]:
        """All messages that wait for their time, soonest first."""
        after = (-1, -1)
        while True:
            reply, _ = await self.request(ListScheduled(*after, 1_000))
            for row in reply.rows:
                after = (row.due_ms, row.number)
                key = row.key if row.has_key else None
                yield ScheduledMessage(row.message_id, row.due_ms, row.topic, row.partition, key, row.value_bytes)
            if not reply.rows:
                return

    def halves(self, group: str | None = None, *, parked: bool = False) -> AsyncIterator[WaitingHalf]:
        """Half messages without their end, oldest first: of one group, only parked ones."""
        from trivium.half_messages import list_halves

        return list_halves(self, group, parked=parked)

    async def end_half(self, message_id: str, *, commit: bool) -> None:
        """Commits or rolls back a half message, whoever sent it. Raises RequestRefused as `Half.commit`."""
        await self.request(EndHalf(message_id, int(commit)))

    async def resume_half(self, message_id: str) -> None:
        """Has a parked half message checked again. Raises RequestRefused (UNKNOWN_MESSAGE)."""
        await self.request(ResumeHalf(message_id))

    async def aclose(self) -> None:
        self._closed = True
        if self._connection is not None:
            await self._connection.aclose()


def _description(info: TopicInfo) -> TopicDescription:
    return TopicDescription(info.name, info.partitions, {one.name: one.value for one in info.config})


@asynccontextmanager
async def connect(addresses: str, *, client_id: str = "", request_timeout_s: float = 30.0) -> AsyncIterator[Client]:
    """A client for `host:port[,host:port...]`, closed when the block is left. Connects on first use."""
    async with task_group() as tasks:
        client = Client(addresses, tasks, client_id, request_timeout_s)
        tasks.start_soon(client.keep_partitions)
        try:
            yield client
        finally:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            tasks.cancel_scope.cancel()
