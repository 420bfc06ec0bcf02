"""Transactions: messages to several partitions and a group's offsets become visible together, or not at all.

    async with client.transactional("copier-1") as producer:
        async for message in consumer:
            async with producer.transaction() as txn:
                await txn.send("out", message.value, key=message.key)
                await txn.send_offsets("copiers", {("in", message.partition): message.offset + 1})

Rules:
- The transaction is committed when the block ends, aborted when it raises. Consumers see it then (`committed=True`).
- Whoever opens a transactional id fences the one that had it: that one's next call raises RequestRefused
  (PRODUCER_FENCED), and its open transaction is aborted. So a zombie cannot write a second time.
- What is sent is collected and goes in batches; `send` returns when it is collected. After an error nothing else can be
  done in the transaction but abort it.
- A request whose answer was lost is asked again; the broker does each once. If the end of a transaction is not answered
  in time it may have ended or not (RequestTimedOut): the sender asks again before it begins the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

import anyio

from trivium.client import Client
from trivium.errors import ErrorCode, RequestRefused, TriviumError
from trivium.frames.offsets import OffsetEntry
from trivium.frames.sending import Send, SendEntry
from trivium.frames.transactions import EndTransaction, OpenTransactions, SendOffsets, TransactionalProducer
from trivium.message_ids import message_ids
from trivium.outgoing import BATCH_BYTES_MAX, Outgoing, Place, PlaceOptions, outgoing
from trivium.record_batch import Codec
from trivium.records import build

CONCURRENT_TRIES_MAX = 100
CONCURRENT_WAIT_S = 0.05


class Transaction:
    """One transaction, of one task."""

    def __init__(self, owner: TransactionalSender) -> None:
        self._owner = owner
        self._waiting: dict[Place, list[Outgoing]] = {}
        self._waiting_bytes = 0
        self.is_empty = True

    async def send(self, topic: str, value: bytes | None, **options: Unpack[PlaceOptions]) -> str:
        """Adds a message; its id. It is stored and seen when the transaction is committed. Raises RequestRefused."""
        one = outgoing(topic, value, self._owner.ids, **options)
        partition = one.choose_partition(await self._owner.client.partitions(topic, create=True), self._owner.round)
        self._waiting.setdefault((topic, partition), []).append(one)
        self._waiting_bytes += one.size
        self.is_empty = False
        if self._waiting_bytes >= BATCH_BYTES_MAX:
            await self.flush()
        return one.message_id

    async def send_offsets(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Offsets, (topic, partition) -> next to read, that the group has when the transaction is committed."""
        entries = [OffsetEntry(topic, part, offset, "") for (topic, part), offset in offsets.items()]
        self.is_empty = False
        reply = await self._owner.ask(lambda who: SendOffsets(*who, group, entries))
        for entry, status in zip(entries, reply.statuses, strict=True):
            if status:
                raise RequestRefused(status, f"offset of {entry.topic}/{entry.partition} for group {group!r}")

    async def flush(self) -> None:
        """Sends what is collected."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if waiting:
            await self._owner.send(waiting)


class TransactionalSender:
    """Made by `transactional`: one transaction at a time."""

    def __init__(self, client: Client, transactional_id: str, timeout_ms: int, codec: Codec) -> None:
        self.client = client
        self.ids = message_ids()
        self.round = 0
        self._transactional_id = transactional_id
        self._timeout_ms = timeout_ms
        self._codec = codec
        self._producer = TransactionalProducer(-1, -1)
        self._sequences: dict[Place, int] = {}
        self._ending: bool | None = None  # how the last transaction is to end (True: commit), until that is answered
        self._busy = anyio.Lock()

    async def open(self) -> None:
        """Takes the transactional id over. Raises RequestRefused."""
        request = OpenTransactions(self._transactional_id, self._timeout_ms)
        for _ in range(CONCURRENT_TRIES_MAX):
            try:
                self._producer, _ = await self.client.request(request)
            except RequestRefused as refused:
                if refused.code != ErrorCode.CONCURRENT_TRANSACTIONS:
                    raise
                await anyio.sleep(CONCURRENT_WAIT_S)
            else:
                self._sequences.clear()
                return
        raise RequestRefused(ErrorCode.CONCURRENT_TRANSACTIONS, f"transactional id {self._transactional_id!r}")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction, committed when the block ends and aborted when it raises.

        Raises RequestRefused (PRODUCER_FENCED: another has taken the id over; nothing of this transaction is seen).
        """
        async with self._busy:
            while self._ending is not None:  # nothing of it may come into the next one
                before = self._ending
                try:
                    await self._finish()
                except RequestRefused:
                    if self._ending == before:
                        raise
            self.round += 1
            txn = Transaction(self)
            try:
                yield txn
                await txn.flush()
            except BaseException:
                with anyio.CancelScope(shield=True), anyio.move_on_after(self.client.request_timeout_s):
                    await self._abort(txn)
                raise
            await self._end(txn, commit=True)

    async def _abort(self, txn: Transaction) -> None:
        try:
            await self._end(txn, commit=False)
        except TriviumError:
            pass  # fenced, or out of reach: then the broker aborts it, at the latest when its time is up

    async def _end(self, txn: Transaction, *, commit: bool) -> None:
        if txn.is_empty:
            return
        self._ending = commit
        await self._finish()

    async def _finish(self) -> None:
        ending = self._ending
        try:
            self._producer = await self.ask(lambda who: EndTransaction(*who, int(bool(ending))))
        except RequestRefused as refused:
            if ending and refused.code == ErrorCode.INVALID_TXN_STATE:  # it has been aborted: its time was over
                self._ending = False
            raise
        self._ending = None
        self._sequences.clear()

    async def send(self, waiting: Mapping[Place, list[Outgoing]]) -> None:
        """One request for what was collected, again while another's taking over, or the end by time, is on its way."""
        batches = []
        for where, part in waiting.items():
            batches.append(
                build(
                    [one.record for one in part],
                    codec=self._codec,
                    producer_id=self._producer.producer_id,
                    producer_epoch=self._producer.producer_epoch,
                    base_sequence=self._sequences.get(where, 0),
                    transactional=True,
                )
            )
        entries = [SendEntry(*where, len(batch)) for where, batch in zip(waiting, batches, strict=True)]
        for _ in range(CONCURRENT_TRIES_MAX):
            reply, _ = await self.client.request(Send(0, self._transactional_id, entries), batches)
            if all(result.status != ErrorCode.CONCURRENT_TRANSACTIONS for result in reply.entries):
                break
            await anyio.sleep(CONCURRENT_WAIT_S)  # what has been stored is known by its sequence
        for (where, part), result in zip(waiting.items(), reply.entries, strict=True):
            if result.status:
                raise RequestRefused(result.status, result.reason or f"topic {where[0]!r}, partition {where[1]}")
            self._sequences[where] = self._sequences.get(where, 0) + len(part)

    async def ask(self, request: Callable[[tuple[str, int, int]], Any]) -> Any:
        """One request of this producer, again while the end of the last transaction is on its way."""
        who = (self._transactional_id, *self._producer)
        for _ in range(CONCURRENT_TRIES_MAX):
            try:
                reply, _ = await self.client.request(request(who))
            except RequestRefused as refused:
                if refused.code != ErrorCode.CONCURRENT_TRANSACTIONS:
                    raise
                await anyio.sleep(CONCURRENT_WAIT_S)
            else:
                return reply
        raise RequestRefused(ErrorCode.CONCURRENT_TRANSACTIONS, f"transactional id {self._transactional_id!r}")


@asynccontextmanager
async def transactional(
    client: Client, transactional_id: str, *, timeout_ms: int = 60_000, codec: Codec = Codec.NONE
) -> AsyncIterator[TransactionalSender]:
    """Takes a transactional id over and sends under it. `timeout_ms`: after which an open transaction is aborted."""
    made = TransactionalSender(client, transactional_id, timeout_ms, codec)
    await made.open()
    yield made
