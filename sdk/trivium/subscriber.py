"""The consumer of a queue group: messages are pushed to it, one group shares them, and each is settled by itself.

    async with client.subscribe("orders", group="billing") as messages:
        async for message in messages:
            ...
            await messages.ack(message)

Rules:
- At most `credit_messages` are here and not settled, and about `credit_bytes` (one batch more): the rest waits in the
  broker. Other members get what this one has no credit for.
- As long as a message is here, waiting or being worked on, its time is renewed. Who holds one for ever holds it for
  ever: set a time limit of your own around the work.
- A lost connection is opened anew and what is here stays ours, if the broker still thinks so; what it has given to
  others meanwhile and nobody here has started on is dropped.
- Leaving the block, or `stop`: nothing more is given out, what has not been started on goes back without counting as an
  attempt, what was settled is sent, and the group is left. What was started on and not settled has failed.
- In a broadcast nothing is settled.
- A message whose time to live is over (by this machine's clock) is acknowledged unseen.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from trivium.client import Client
from trivium.connection import Connection
from trivium.errors import Disconnected, ErrorCode, RequestRefused
from trivium.expiry import is_expired
from trivium.frames.queues import (
    ACK,
    EXTEND,
    NACK,
    NO_LEASE,
    POSTPONE,
    REJECT,
    Deliver,
    Grant,
    Receive,
    SettleEntry,
    SettleRequest,
    Subscribe,
    Unsubscribe,
)
from trivium.handouts import Handout, Message
from trivium.record_batch import BatchError
from trivium.settling import Asked, Settling, parts
from trivium.tasks import task_group
from trivium.trace_context import continuing

RENEWALS_PER_TIME = 3  # messages are renewed so often in the time they are invisible
AGAIN_S = 0.1
LEAVE_S_MAX = 10.0
REASON_CHARS_MAX = 500

Handler = Callable[[Message], Awaitable[None]]


class Subscriber:
    """Made by `subscribe`; iterate over it, with several tasks if you like, or `run` a handler."""

    def __init__(self, client: Client, subscribe: Subscribe, credit_messages: int, credit_bytes: int) -> None:
        self._client = client
        self._subscribe = subscribe
        self._credit_messages = credit_messages
        self._credit_bytes = credit_bytes
        self._connection: Connection | None = None
        self._joining: Connection | None = None
        self._connected = anyio.Event()
        self._joined = anyio.Event()
        self._invisible_ms = 30_000
        self._buffer: deque[Handout] = deque()
        self._open: dict[Handout, None] = {}  # with messages that are not settled
        self._messages: deque[Message] = deque()
        self._held_messages = self._held_bytes = 0  # of `_open`
        self._returned_messages = self._returned_bytes = 0  # not yet granted again
        self._news = anyio.Event()
        self._granting = anyio.Event()
        self._receives = 0
        self._stopping = False
        self._error: Exception | None = None
        self._settling = Settling(subscribe.stream, self._request)

    # -- taking

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Message:
        """The next message, when there is one; the end after `stop`. Raises RequestRefused when the group no longer
        takes this member.
        """
        message = await self.take()
        if message is None:
            raise StopAsyncIteration
        return message

    async def take(self) -> Message | None:
        """The next message, None after `stop`."""
        if await self._wait_here():
            return self._give()
        self._check_taken()
        return None

    async def take_ahead(self, messages_max: int) -> list[Message]:
        """As many messages as are here, at least one, none after `stop`. They do not count as started on before `begin`
        says so: what is left goes back as what waits here does.
        """
        if not await self._wait_here():
            self._check_taken()
            return []
        while len(self._messages) < messages_max and self._buffer:
            self._open_next()
        taken = [self._messages.popleft() for _ in range(min(messages_max, len(self._messages)))]
        for message in taken:
            if message.handout.lease == NO_LEASE:
                self._done(message)
        return taken

    def begin(self, message: Message) -> bool:
        """A message of `take_ahead` is given to the application, in whatever thread; False: it is no longer to be."""
        handout = message.handout
        if self._stopping or (handout.lease != NO_LEASE and not handout.is_pending(message.offset)):
            return False
        handout.next_offset = message.offset + 1
        return True

    async def _wait_here(self) -> bool:
        """Until there is a message; False when there will be none: after `stop`, or `_check_taken` says why."""
        while not self._stopping:
            if self._messages:
                return True
            if self._buffer:
                self._open_next()
                continue
            if self._error is not None:
                return False
            if self._news.is_set():
                self._news = anyio.Event()
            self._look_at_credit()
            await self._news.wait()
        return False

    def _check_taken(self) -> None:
        """Raises RequestRefused when the group no longer takes this member."""
        if self._error is not None and not self._stopping:
            raise self._error

    def take_nowait(self) -> Message | None:
        """The next message if there is one here."""
        while not self._messages and self._buffer and not self._stopping:
            self._open_next()
        return self._give() if self._messages and not self._stopping else None

    def _give(self) -> Message:
        message = self._messages.popleft()
        message.handout.next_offset = message.offset + 1
        if message.handout.lease == NO_LEASE:
            self._done(message)
        return message

    def _open_next(self) -> None:
        handout = self._buffer.popleft()
        try:
            messages = handout.open()
        except BatchError as error:
            for first, last in handout.ranges(handout.pending):
                entry = (handout.topic, handout.partition, handout.lease, first, last)
                self._settling.ask(SettleEntry(*entry, REJECT, -1, f"cannot be read: {error}"[:REASON_CHARS_MAX]))
            self._held_messages -= handout.count
            self._returned_messages += handout.count
            handout.pending = 0
            self._closed(handout)
            return
        for message in messages:
            if not message.headers or not is_expired(message.headers, message.timestamp_ms):
                self._messages.append(message)
            elif handout.lease == NO_LEASE:
                self._done(message)
            else:
                self.ack_nowait(message)

    def _delivered(self, message: Deliver, payload: memoryview) -> None:
        at = 0
        for entry in message.entries:
            handout = Handout(entry, payload[at : at + entry.size])
            at += entry.size
            self._open[handout] = None
            self._held_messages += handout.count
            self._held_bytes += handout.size
            self._buffer.append(handout)
        self._news.set()

    async def receive(self, messages_max: int = 1, *, wait_ms: int = 5_000) -> list[Message]:
        """Asks for messages instead of having them pushed (`credit_messages=0`): what there is, at most so many, or
        nothing after `wait_ms`, or `stop`. When the answer is lost, or a call was cancelled, it is asked for again, and
        is the same. One call at a time.
        """
        if self._stopping:
            return []
        request = Receive(self._subscribe.stream, self._receives, messages_max, self._credit_bytes, wait_ms)
        while True:
            with suppress(Disconnected):
                reply, payload = await self._request(request)
                break
        self._receives += 1
        self._delivered(Deliver(self._subscribe.stream, reply.entries), payload)
        found = []
        while (message := self.take_nowait()) is not None:
            found.append(message)
        return found

    def status(self) -> dict[str, Any]:
        """What it has, for `Client.member_status`."""
        return {
            "group": self._subscribe.group,
            "member": self._subscribe.member,
            "topics": self._subscribe.topics,
            "waiting": len(self._messages) + sum(handout.count for handout in self._buffer),
            "not settled": sum(handout.count for handout in self._open),
            "late": self.late,
        }

    # -- settling

    def ack_nowait(self, message: Message) -> None:
        """It is done. The broker is told soon, together with others; `wait_settled` waits for that."""
        handout = message.handout
        if handout.pending >> (message.offset - handout.first) & 1 and handout.lease != NO_LEASE:
            self._settling.ack(handout, message.offset)
            self._done(message)

    async def ack(self, message: Message) -> None:
        """It is done; durable on return. Raises RequestRefused (RECEIPT_LATE): its time was over, and it may be done
        again by others.
        """
        await self._settle(message, ACK, -1, "")

    async def nack(self, message: Message, reason: str = "", *, delay_ms: int | None = None) -> None:
        """It failed: it comes again after the group's backoff, or after `delay_ms`, or becomes a dead letter if this
        was the last attempt. Raises as `ack`.
        """
        await self._settle(message, NACK, delay_ms, reason)

    async def postpone(self, message: Message, delay_ms: int) -> None:
        """It comes again after `delay_ms`, and this was no attempt. Raises as `ack`."""
        await self._settle(message, POSTPONE, delay_ms, "")

    async def reject(self, message: Message, reason: str) -> None:
        """It becomes a dead letter at once. Raises as `ack`."""
        await self._settle(message, REJECT, -1, reason)

    async def extend(self, message: Message, more_ms: int) -> None:
        """It is invisible to others for so long from now on; it is renewed anyway while it is here. Raises as `ack`."""
        asked = self._ask(message, EXTEND, more_ms, "")
        await asked.done.wait()
        _check(asked, message)

    async def _settle(self, message: Message, verb: int, delay_ms: int | None, reason: str) -> None:
        if message.handout.lease == NO_LEASE:
            return
        if not message.handout.is_pending(message.offset):
            raise RequestRefused(ErrorCode.RECEIPT_LATE, f"{_name(message)} is settled already")
        asked = self._ask(message, verb, delay_ms, reason)
        self._done(message)
        await asked.done.wait()
        _check(asked, message)

    def _ask(self, message: Message, verb: int, delay_ms: int | None, reason: str) -> Asked:
        where = (message.topic, message.partition, message.handout.lease, message.offset, message.offset)
        delay_ms = -1 if delay_ms is None else delay_ms
        # Texts of errors may hold what no UTF-8 is made of, such as names of files.
        text = reason[:REASON_CHARS_MAX].encode(errors="backslashreplace").decode()
        return self._settling.ask(SettleEntry(*where, verb, delay_ms, text))

    def _done(self, message: Message) -> None:
        handout = message.handout
        handout.settle(message.offset)
        self._returned_messages += 1
        if not handout.pending:
            self._closed(handout)
        self._held_messages -= 1
        self._look_at_credit()

    def _look_at_credit(self) -> None:
        """Grants again when half has come back: of all, or, when nothing waits here, of what slow handlers leave."""
        if not self._credit_messages or not self._returned_messages:
            return  # messages are asked for, or nothing came back
        messages, size = self._credit_messages, self._credit_bytes
        if not self._messages and not self._buffer:
            messages -= self._held_messages
            size -= self._held_bytes
        if self._returned_messages * 2 >= messages or self._returned_bytes * 2 >= size:
            self._granting.set()

    def _closed(self, handout: Handout) -> None:
        if handout in self._open:
            del self._open[handout]
            self._returned_bytes += handout.size
            self._held_bytes -= handout.size

    async def wait_settled(self) -> None:
        """Returns when everything that was settled is durable at the broker."""
        await self._settling.wait_settled()

    @property
    def late(self) -> int:
        """How many `ack_nowait` came too late."""
        return self._settling.late

    # -- running a handler

    async def run(self, handler: Handler, *, concurrency: int = 1, signals: Sequence[int] = (signal.SIGTERM,)) -> None:
        """Calls `handler` with each message, so many at a time, until `stop` or one of the signals (which only the main
        thread can take; () for none). Returns: acknowledged. Raises: failed, with the error as reason.
        """
        async with task_group() as tasks:
            if signals:
                tasks.start_soon(self._stop_on, signals)
            async with anyio.create_task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(self._work, handler)
            self._check_taken()
            tasks.cancel_scope.cancel()

    async def _work(self, handler: Handler) -> None:
        while await self._wait_here():
            message = self._give()
            try:
                with continuing(message):
                    await handler(message)
            except Exception as error:
                with suppress(RequestRefused):
                    await self.nack(message, f"{type(error).__name__}: {error}")
                continue
            self.ack_nowait(message)

    async def _stop_on(self, signals: Sequence[int]) -> None:
        with anyio.open_signal_receiver(*(signal.Signals(one) for one in signals)) as received:
            async for _ in received:
                self.stop()
                return

    def stop(self) -> None:
        """Takes nothing more: iterators end. Leaving the block does the rest."""
        self._stopping = True
        self._news.set()

    # -- the connection

    async def keep(self, started: anyio.Event) -> None:
        """Subscribes, and again whenever the connection was lost."""
        while True:
            try:
                connection = self._joining = await self._client.connection()
                await self._join(connection)
                started.set()
                await connection.lost.wait()
            except Disconnected:
                await anyio.sleep(AGAIN_S)
            except RequestRefused as refused:
                self._error = refused
                self._news.set()
                self._connected.set()
                started.set()
                return
            finally:
                self._connection = self._joining = None
            if self._connected.is_set():
                self._connected = anyio.Event()

    async def _join(self, connection: Connection) -> None:
        held = [handout for handout in self._open if handout.lease != NO_LEASE]
        leases = {handout.lease for handout in held} | self._settling.leases
        request = self._subscribe._replace(held=list(leases))
        reply, _ = await connection.request(request)
        self._invisible_ms = reply.invisible_ms
        lost = await self._extend(connection, held) if held else []
        for handout in lost:
            self._drop(handout)
        self._returned_messages = self._returned_bytes = 0
        messages = self._credit_messages - self._held_messages
        size = self._credit_bytes - self._held_bytes
        if self._credit_messages:
            await connection.tell(Grant(self._subscribe.stream, max(messages, 0), max(size, 1)))
        self._connection = connection
        self._connected.set()
        self._joined.set()

    async def _extend(self, connection: Connection, held: Sequence[Handout]) -> list[Handout]:
        """Renews what is held; returns what is no longer ours."""
        lost: dict[Handout, None] = {}
        for part in parts(held):
            entries = [
                SettleEntry(one.topic, one.partition, one.lease, first, last, EXTEND, self._invisible_ms, "")
                for one, first, last in part
            ]
            reply, _ = await connection.request(SettleRequest(self._subscribe.stream, entries))
            pairs = zip(part, reply.statuses, strict=True)
            lost.update((one, None) for (one, _, _), status in pairs if status != ErrorCode.NONE)
        return list(lost)

    def _drop(self, handout: Handout) -> None:
        """The broker has given it to others: what nobody here has started on is dropped."""
        dropped = handout.not_started
        handout.pending &= ~dropped
        self._returned_messages += dropped.bit_count()
        self._held_messages -= dropped.bit_count()
        if handout in self._buffer:
            self._buffer.remove(handout)
        self._messages = deque(message for message in self._messages if message.handout is not handout)
        if not handout.pending:
            self._closed(handout)

    async def _request(self, message: Any) -> tuple[Any, memoryview]:
        await self._connected.wait()
        connection = self._connection
        if self._error is not None:
            raise self._error
        if connection is None:
            await anyio.lowlevel.checkpoint()
            raise Disconnected("the connection is lost")
        return await connection.request(message)

    async def grant(self) -> None:
        """Tells the broker what more can be taken."""
        while True:
            await self._granting.wait()
            self._granting = anyio.Event()
            await self._connected.wait()
            messages, size = self._returned_messages, self._returned_bytes
            connection = self._connection
            if connection is not None and (messages or size):
                self._returned_messages = self._returned_bytes = 0
                with suppress(Disconnected):
                    await connection.tell(Grant(self._subscribe.stream, messages, size))

    async def renew(self) -> None:
        while True:
            await self._connected.wait()
            self._joined = anyio.Event()
            with anyio.move_on_after(self._invisible_ms / RENEWALS_PER_TIME / 1000) as waited:
                await self._joined.wait()  # then the time may be another
            if not waited.cancelled_caught:
                continue
            held = [handout for handout in self._open if handout.lease != NO_LEASE]
            connection = self._connection
            if held and connection is not None:
                with suppress(Disconnected, RequestRefused):
                    for handout in await self._extend(connection, held):
                        self._drop(handout)

    async def settle(self) -> None:
        await self._settling.run()

    async def leave(self) -> None:
        """Says that what was started on and not settled has failed, waits for what was settled, and leaves the group,
        which gives the rest back; all that only as long as the connection lasts.
        """
        self.stop()
        for handout in list(self._open):
            for first, last in handout.ranges(handout.started):
                if handout.lease != NO_LEASE:
                    where = (handout.topic, handout.partition, handout.lease, first, last)
                    self._settling.ask(SettleEntry(*where, NACK, -1, "left without being settled"))
        connection = self._joining
        if connection is None:
            return
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await connection.lost.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._connected.wait()  # who has asked to join may be a member by now, and leaves as one
            await self._settling.wait_settled()
            with suppress(Disconnected, RequestRefused):
                await connection.request(Unsubscribe(self._subscribe.stream))
            tasks.cancel_scope.cancel()


def _check(asked: Asked, message: Message) -> None:
    if asked.status != ErrorCode.NONE:
        raise RequestRefused(asked.status, _name(message))


def _name(message: Message) -> str:
    return f"{message.topic}/{message.partition} at {message.offset}"


@asynccontextmanager
async def subscriber(
    client: Client, subscribe: Subscribe, credit_messages: int, credit_bytes: int
) -> AsyncIterator[Subscriber]:
    """A member of a queue group for as long as the block lasts; see `Client.subscribe`.

    Topics that are missing are made, if the broker allows it.
    """
    for topic in subscribe.topics:
        await client.partitions(topic, create=True)
    made = Subscriber(client, subscribe, credit_messages, credit_bytes)
    client.take_deliveries(subscribe.stream, made._delivered)
    shown = f"consumer {subscribe.stream}"
    client.status[shown] = made.status
    started = anyio.Event()
    ends: list[anyio.CancelScope] = []

    async def run(task: Callable[[], Awaitable[None]]) -> None:
        # Not cancelled with the block: leaving needs it.
        with anyio.CancelScope(shield=True) as end:
            ends.append(end)
            await task()

    try:
        async with task_group() as tasks:
            for task in (made.settle, made.grant, made.renew, partial(made.keep, started)):
                tasks.start_soon(run, task)
            try:
                await started.wait()
                if made._error is not None:
                    raise made._error
                yield made
            finally:
                with anyio.move_on_after(LEAVE_S_MAX, shield=True):
                    await made.leave()
                for end in ends:
                    end.cancel()
                tasks.cancel_scope.cancel()
    finally:
        client.take_deliveries(subscribe.stream, None)
        del client.status[shown]
