"""The consumer: reads all partitions of its topics by pulling, and keeps positions under a group's name if it has one.

Rules:
- It starts where the group's offsets say, else at `start`. A position that retention has overtaken goes on at `start`'s
  end of what is there; damaged data raises RequestRefused (DATA_DAMAGED), and `seek` goes on behind it.
- Records of aborted transactions, and the markers, are left out (Kafka's read_committed rule: a producer's records
  count not from an aborted transaction's first offset up to its marker).
- What one pull brought is bounded by `PULL_BYTES_MAX` and by one batch; nothing is pulled ahead of the reader.
- Partitions that a topic is given while it is read are found within `topics.DISCOVERY_S` and read from their beginning,
  and so are those of a topic that was deleted and made again. While there is none, RequestRefused (UNKNOWN_TOPIC) is
  raised; who asks again goes on when it is back.
- A message whose time to live is over (by this machine's clock) is passed over.
- `commit` keeps the offset after the last message handed out, per partition.
- A group here shares no load: give each group one consumer at a time.
- When the group is reset (`Client.reset`) the consumer goes on there, wherever it was; `commit` of what came before is
  left out. The broker tells of resets; a commit that crosses one is refused, and a new connection asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

from trivium.asking import check_names
from trivium.client import Client
from trivium.connection import Connection
from trivium.errors import ErrorCode, RequestRefused
from trivium.expiry import is_expired
from trivium.frames.offsets import LATEST
from trivium.frames.pulling import Pull, PullEntry, PullResult
from trivium.frames.resets import GroupReset
from trivium.message_ids import take_id
from trivium.record_batch import iter_batches
from trivium.records import DECODED_BYTES_MAX, decode, parse_control

PULL_BYTES_MAX = 4 * 1024 * 1024
PARTITION_BYTES_MAX = 1024 * 1024
WAIT_MS = 5_000

_Key = tuple[str, int]


class Message(NamedTuple):
    """One record: where it stands, its time (ms since the epoch, -1 for none), and what was sent.

    `message_id` is empty when it has none, which only other clients' records may.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    message_id: str = ""


class Consumer:
    """Made by `consumer`; iterate over it. One task at a time."""

    def __init__(
        self,
        client: Client,
        topics: Sequence[str],
        group: str | None,
        start: int,
        committed: bool,
        selector: str = "",
        partitions: Sequence[int] | None = None,
    ) -> None:
        self._client = client
        self._topics = topics
        self._group = group
        self._start = start
        self._committed = committed
        self._selector = selector
        self._partitions = partitions
        self._positions: dict[_Key, int] = {}  # where the next pull reads
        self._handed: dict[_Key, int] = {}  # what `commit` will keep
        self._known: dict[str, tuple[bytes | None, int]] = {}  # a topic's id and partitions when it was looked at last
        self._messages: Iterator[Message] = iter(())
        self._resets = -1  # of the group, as the broker counts them
        self._watched: Connection | None = None  # over which it tells of them
        self._was_reset = False
        self._pulling = anyio.CancelScope()

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> offset after the last message handed out."""
        return dict(self._handed)

    async def open(self) -> None:
        """Finds where to start. Raises RequestRefused (UNKNOWN_TOPIC, INVALID_FILTER)."""
        if self._selector:
            await self._client.request(Pull(0, [], self._selector, 0, 0))
        kept = await self._kept() if self._group is not None else {}
        for topic in self._topics:
            info = await self._client.look_up(topic, create=True)
            self._known[topic] = (info.id, info.partitions)
            for partition, offset in (await self._client.find_offsets(topic, self._start)).items():
                if self._partitions is None or partition in self._partitions:
                    self._positions[topic, partition] = kept.get((topic, partition), offset)
        if not self._positions:
            raise ValueError(f"none of the topics has any of the partitions {self._partitions}")
        self._handed = dict(self._positions)

    async def _discover(self) -> bool:
        """Partitions that were added meanwhile, and those of a topic that was made again (True), are read from their
        beginning: nothing in them is older than we are.
        """
        made_again = False
        for topic in self._topics:
            count = await self._client.partitions(topic)
            known_id, known = self._known[topic]
            topic_id = self._client.known_id(topic)
            if topic_id != known_id:
                for where in [where for where in self._positions if where[0] == topic]:
                    del self._positions[where], self._handed[where]
                known, made_again = 0, True
            for partition in range(known, count):
                if self._partitions is None or partition in self._partitions:
                    self._positions[topic, partition] = self._handed[topic, partition] = 0
            self._known[topic] = (topic_id, count)
        return made_again

    async def _kept(self) -> dict[_Key, int]:
        """The group's offsets; from now on its resets are told over this connection."""
        assert self._group is not None
        self._was_reset, self._watched = False, None  # until it is answered: who is cancelled here asks again
        connection = await self._client.connection()
        kept, self._resets = await self._client.committed_since(self._group, watch=True)
        self._watched = connection
        return kept

    def told(self, reset: GroupReset) -> None:
        """The broker says that a group was reset."""
        if reset.group == self._group:
            self._was_reset = True
            self._pulling.cancel()

    async def _follow_resets(self) -> None:
        """Goes to the group's offsets if it has been reset."""
        if self._group is None or (not self._was_reset and self._watched is await self._client.connection()):
            return
        known = self._resets
        kept = await self._kept()
        if self._resets != known:
            places = {where: offset for where, offset in kept.items() if where in self._handed}
            self._handed.update(places)
            self._positions = dict(self._handed)
            self._messages = iter(())

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Goes on at this offset; what has been pulled already is dropped. Raises KeyError for another's partition."""
        self._handed[topic, partition]
        self._handed[topic, partition] = offset
        self._positions = dict(self._handed)
        self._messages = iter(())

    async def commit(self) -> None:
        """Keeps the positions under the group's name; durable on return. Raises ValueError without a group."""
        if self._group is None:
            raise ValueError("a consumer without a group has nothing to commit under: give group=...")
        try:
            await self._client.commit_since(self._group, self._handed, self._resets)
        except RequestRefused as refused:
            if refused.code != ErrorCode.GROUP_WAS_RESET:
                raise
            self._was_reset = True  # what was to be kept does not count any more

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Message:
        """The next message, when there is one. Raises RequestRefused, RequestTimedOut, BatchError."""
        while True:
            if self._was_reset:
                await self._follow_resets()
            for message in self._messages:
                self._handed[message.topic, message.partition] = message.offset + 1
                if not message.headers or not is_expired(message.headers, message.timestamp_ms):
                    return message
            self._handed.update(self._positions)
            await self._follow_resets()
            await self._pull()

    async def _pull(self) -> None:
        await self._discover()
        # Whoever had the bytes first last time stands last now, so that no partition starves.
        entries = [PullEntry(*where, offset, PARTITION_BYTES_MAX) for where, offset in self._positions.items()]
        request = Pull(int(self._committed), entries, self._selector, PULL_BYTES_MAX, WAIT_MS)
        timeout_s = self._client.request_timeout_s + WAIT_MS / 1000
        with anyio.CancelScope() as self._pulling:
            reply, payload = await self._client.request(request, timeout_s=timeout_s)
        if self._pulling.cancelled_caught:
            return
        found: list[Message] = []
        positions: dict[_Key, int] = {}  # taken over when all of it can be read: who is told of an error may go on
        lost: list[tuple[PullEntry, PullResult]] = []
        at = 0
        for entry, result in zip(entries, reply.entries, strict=True):
            if result.status in (ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.UNKNOWN_TOPIC, ErrorCode.UNKNOWN_PARTITION):
                lost.append((entry, result))
            elif result.status:
                raise _refusal(entry, result)
            elif result.size:
                data = payload[at : at + result.size]
                messages, following = _open(entry, result, data, committed=self._committed)
                found += messages
                positions[entry.topic, entry.partition] = following
            at += result.size
        if lost and await self._go_where_something_is(lost):
            return
        for where, following in positions.items():
            del self._positions[where]
            self._positions[where] = following
        self._messages = iter(found)

    async def _go_where_something_is(self, lost: Sequence[tuple[PullEntry, PullResult]]) -> bool:
        """Retention has overtaken us, or the topic is gone (raises RequestRefused), or was made again (True)."""
        for topic in {entry.topic for entry, _ in lost}:
            await self._client.look_up(topic)
        if await self._discover():
            return True
        for entry, result in lost:
            if result.status != ErrorCode.OFFSET_OUT_OF_RANGE:
                raise _refusal(entry, result)
        for entry, result in lost:
            to = result.log_start if self._start != LATEST else result.high_watermark
            self._positions[entry.topic, entry.partition] = self._handed[entry.topic, entry.partition] = to
        return False


def _refusal(entry: PullEntry, result: PullResult) -> RequestRefused:
    return RequestRefused(result.status, f"{entry.topic}/{entry.partition} at {entry.offset}")


def _open(entry: PullEntry, result: PullResult, data: memoryview, *, committed: bool) -> tuple[list[Message], int]:
    """The messages from the asked offset on, and the offset to read on at."""
    aborted = sorted(result.aborted, key=lambda one: one.first_offset, reverse=True)
    aborting: set[int] = set()
    found: list[Message] = []
    following = entry.offset
    for header, batch in iter_batches(data):
        following = header.next_offset
        while aborted and aborted[-1].first_offset <= header.last_offset:
            aborting.add(aborted.pop().producer_id)
        if header.is_control:
            marker = parse_control(batch)
            if marker is not None and not marker.commit:
                aborting.discard(header.producer_id)
            continue
        if committed and header.is_transactional and header.producer_id in aborting:
            continue
        for offset, timestamp_ms, key, value, headers in decode(batch, DECODED_BYTES_MAX):
            if offset >= entry.offset:
                message_id, rest = take_id(headers)
                found.append(Message(entry.topic, entry.partition, offset, timestamp_ms, key, value, rest, message_id))
    return found, following


@asynccontextmanager
async def consumer(
    client: Client,
    topics: Sequence[str],
    *,
    group: str | None = None,
    start: int = LATEST,
    committed: bool = True,
    filter: str | None = None,
    tags: str | None = None,
    key: str | None = None,
    partitions: Sequence[int] | None = None,
) -> AsyncIterator[Consumer]:
    """A consumer of `topics`; `start` is EARLIEST, LATEST or a time in ms, where the group has kept no offset.

    `committed` leaves out what belongs to open or aborted transactions. `filter` is an SQL-92 expression over the
    headers, `tags` a tag expression (`"TagA || TagB"`): the broker sends what passes, and positions go on over the
    rest. `key` is a key, or a pattern of keys as devices have it (`line3/+`, `plant/#`). `partitions` reads only these
    of every topic. Raises ValueError without topics, or with two filters; RequestRefused (INVALID_FILTER).
    """
    check_names(topics, "topics")
    if not topics:
        raise ValueError("a consumer needs at least one topic")
    given = {"sql": filter, "tags": tags, "key": key}
    selectors = [f"{kind}:{text}" for kind, text in given.items() if text is not None]
    if len(selectors) > 1:
        raise ValueError("give one of filter, tags and key: a filter can ask for TAGS and KEYS")
    made = Consumer(client, topics, group, start, committed, "".join(selectors), partitions)
    with client.watching_resets(made.told):
        await made.open()
        yield made
