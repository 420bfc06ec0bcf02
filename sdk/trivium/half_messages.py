"""Half messages: a message and a piece of local work that happen together, or not at all.

    async def check(half):                       # asked when it is not known what became of a message
        return trivium.COMMIT if await order_is_paid(half.message_id) else trivium.ROLL_BACK

    async with client.half_producer("shop", check) as producer:
        async with producer.half("orders", b"paid", key=b"17") as half:
            await pay_order(half.message_id)     # the message is seen if this block ends well

Rules:
- Nobody sees the message before the block has ended. It is committed then; an exception rolls it back; a cancelled
  block, a lost connection or a dead process leaves it to the check-back.
- The broker asks any live producer of the group: first after `first_check_ms`, then every `check_interval_ms`, and
  parks the message after `checks_max` answers of `DO_NOT_KNOW`. So each producer of a group must be able to answer for
  all of it.
- A late end is answered by RequestRefused (MESSAGE_ENDED, UNKNOWN_MESSAGE): the local work has then to be looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Unpack

import anyio
import anyio.abc

from trivium.client import Client
from trivium.connection import Connection
from trivium.errors import Disconnected, RequestTimedOut, TriviumError
from trivium.frames.halves import (
    COMMIT,
    DO_NOT_KNOW,
    ROLL_BACK,
    CheckBack,
    CheckBackReply,
    EndHalf,
    JoinProducers,
    LeaveProducers,
    ListHalves,
    SendHalf,
)
from trivium.message_ids import message_ids, take_id
from trivium.outgoing import HalfOptions, Headers, outgoing
from trivium.records import DECODED_BYTES_MAX, build, decode
from trivium.tasks import task_group

REJOIN_S = 1.0
LEAVE_S_MAX = 5.0


class HalfMessage(NamedTuple):
    """What `check` is asked about. `checks` counts how often it has been asked, this time too."""

    message_id: str
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checks: int


class WaitingHalf(NamedTuple):
    """A half message without its end, as listed. `topic` is empty when it has been deleted since."""

    message_id: str
    group: str
    topic: str
    partition: int
    stored_ms: int
    checks: int
    parked: bool


Check = Callable[[HalfMessage], Awaitable[int]]
"""Returns COMMIT, ROLL_BACK or DO_NOT_KNOW. What it raises counts as DO_NOT_KNOW."""


class Half:
    """One half message on its way."""

    def __init__(self, client: Client, message_id: str) -> None:
        self._client = client
        self.message_id = message_id

    async def commit(self) -> None:
        """Delivers it; durable on return, and once however often it is asked. Raises RequestRefused (MESSAGE_ENDED:
        it has been rolled back; UNKNOWN_MESSAGE; UNKNOWN_TOPIC: it is dropped, its topic is gone).
        """
        await self._client.request(EndHalf(self.message_id, 1))

    async def roll_back(self) -> None:
        """Drops it; raises as `commit`."""
        await self._client.request(EndHalf(self.message_id, 0))


class HalfProducer:
    """Made by `half_producer`. Safe to share between tasks of one event loop."""

    def __init__(self, client: Client, group: str, check: Check) -> None:
        self._client = client
        self._group = group
        self._check = check
        self._ids = message_ids()
        self._joined: Connection | None = None  # over which it has joined, or has asked to

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        ttl_s: int | None = None,
        deliver_at_ms: int | None = None,
        first_check_ms: int = 0,
        check_interval_ms: int = 0,
        checks_max: int = 0,
    ) -> Half:
        """Keeps a message that nobody sees before it is committed; durable on return. Its `ttl_s` count from then on. 0
        takes the broker's default (6 s, 30 s, 15 checks). Raises RequestRefused; MESSAGE_ENDED where the answer was
        lost and a producer of the group was asked about the message before it came.
        """
        one = outgoing(
            topic,
            value,
            self._ids,
            key=key,
            headers=headers,
            partition=partition,
            ttl_s=ttl_s,
            deliver_at_ms=deliver_at_ms,
        )
        where = one.choose_partition(await self._client.partitions(topic, create=True), hash(one.message_id))
        plan = (first_check_ms, check_interval_ms, checks_max)
        await self._client.request(SendHalf(topic, where, self._group, one.message_id, *plan), [build([one.record])])
        return Half(self._client, one.message_id)

    @asynccontextmanager
    async def half(self, topic: str, value: bytes | None, **options: Unpack[HalfOptions]) -> AsyncIterator[Half]:
        """A message that is committed when the block ends, and rolled back when it raises. `options` as in `send`."""
        half = await self.send(topic, value, **options)
        try:
            yield half
        except Exception:
            await half.roll_back()
            raise
        await half.commit()

    async def answer(self, request: CheckBack, payload: memoryview) -> CheckBackReply:
        """The broker asks."""
        try:
            record = decode(payload, DECODED_BYTES_MAX)[0]
            half = HalfMessage(
                request.message_id,
                request.topic,
                request.partition,
                record.key,
                record.value,
                take_id(record.headers)[1],
                request.checks,
            )
            answer = await self._check(half)
        except Exception:  # the application's code: whatever it raises, the message is asked about again
            answer = DO_NOT_KNOW
        return CheckBackReply(answer if answer in (COMMIT, ROLL_BACK) else DO_NOT_KNOW)

    async def keep_joined(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Joins the group on every connection that the client opens."""
        while True:
            try:
                connection = await self._client.connection()
                await self._join(connection)
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                await connection.lost.wait()
            except Disconnected:
                continue  # the client waits with backoff before it connects again
            except TriviumError:
                if task_status is not anyio.TASK_STATUS_IGNORED:
                    raise
                await anyio.sleep(REJOIN_S)

    async def leave(self) -> None:
        """Is asked no more: an answer of nobody would count among the checks. Also who has only asked to join."""
        if self._joined is not None:
            with suppress(TriviumError):
                await self._joined.request(LeaveProducers(self._group))

    async def _join(self, connection: Connection) -> None:
        limit_s = self._client.request_timeout_s
        try:
            with anyio.fail_after(limit_s):
                self._joined = connection
                await connection.request(JoinProducers(self._group))
        except TimeoutError:
            raise RequestTimedOut(f"no answer to JoinProducers in {limit_s} s") from None


@asynccontextmanager
async def half_producer(client: Client, group: str, check: Check) -> AsyncIterator[HalfProducer]:
    """A producer of half messages that answers for its group as long as the block lasts.

    Raises ValueError when this client has one of the group already, RequestTimedOut when no broker can be reached.
    """
    made = HalfProducer(client, group, check)
    if group in client.half_producers:
        raise ValueError(f"this client has a producer of group {group!r} already")
    client.half_producers[group] = made.answer
    try:
        async with task_group() as tasks:
            try:
                try:
                    with anyio.fail_after(client.request_timeout_s):
                        await tasks.start(made.keep_joined)
                except TimeoutError:
                    raise RequestTimedOut(f"no broker took a producer of group {group!r} in time") from None
                yield made
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(LEAVE_S_MAX, shield=True):
                    await made.leave()
    finally:
        del client.half_producers[group]


async def list_halves(client: Client, group: str | None, *, parked: bool) -> AsyncIterator[WaitingHalf]:
    """Half messages without their end, oldest first."""
    after = -1
    while True:
        reply, _ = await client.request(ListHalves(group or "", int(parked), after, 1_000))
        for row in reply.rows:
            after = row.number
            yield WaitingHalf(
                row.message_id, row.group, row.topic, row.partition, row.stored_ms, row.checks, bool(row.parked)
            )
        if not reply.rows:
            return
