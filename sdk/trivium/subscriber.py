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
- After its loop stood still for longer than messages are invisible, what is here is given out when it has been renewed,
  and dropped where others have got it.
- Leaving the block, or `stop`: nothing more is given out, what has not been started on goes back without counting as an
  attempt, what was settled is sent, and the group is left. What was started on and not settled has failed.
- In a broadcast nothing is settled.
- A message whose time to live is over (by this machine's clock) when it would be given out is acknowledged unseen.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio

from trivium.client import Client
from trivium.errors import Disconnected, ErrorCode, RequestRefused
from trivium.frames.queues import (
    ACK,
    EXTEND,
    NACK,
    NO_LEASE,
    POSTPONE,
    REJECT,
    Deliver,
    QueueSettings,
    Receive,
    ReceiveReply,
    SettleEntry,
    Subscribe,
)
from trivium.handouts import Message
from trivium.held_messages import HeldMessages
from trivium.membership import Membership
from trivium.settling import REASON_CHARS_MAX, Asked, Settling
from trivium.tasks import task_group
from trivium.trace_context import continuing

LEAVE_S_MAX = 10.0

Handler = Callable[[Message], Awaitable[None]]


class Subscriber:
    """Made by `subscribe`; iterate over it, with several tasks if you like, or `run` a handler."""

    def __init__(self, client: Client, subscribe: Subscribe, credit_messages: int, credit_bytes: int) -> None:
        self._subscribe = subscribe
        self._credit_bytes = credit_bytes
        self._settling = Settling(subscribe.stream, lambda message: self._membership.request(message))
        self._held = HeldMessages(self._settling, credit_messages, credit_bytes)
        self._membership = Membership(client, subscribe, self._held, self._settling, self._wake)
        self._news = anyio.Event()
        self._receives = 0
        self._stopping = False
        self._left = False

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
            return self._held.give()
        self._check_taken()
        return None

    def take_nowait(self) -> Message | None:
        """The next message if there is one here."""
        held = self._held
        return held.give() if not self._stopping and held.open() else None

    async def take_ahead(self, messages_max: int) -> list[Message]:
        """As many messages as are here, at least one, none after `stop`. They do not count as started on before `begin`
        says so: what is left goes back as what waits here does.
        """
        if await self._wait_here():
            return self._held.give_ahead(messages_max)
        self._check_taken()
        return []

    def begin(self, message: Message) -> bool:
        """A message of `take_ahead` is given to the application, in whatever thread; False: it is no longer to be."""
        handout = message.handout
        if self._stopping or (handout.lease != NO_LEASE and not handout.is_pending(message.offset)):
            return False
        handout.next_offset = message.offset + 1
        return True

    async def renewed(self, message: Message) -> None:
        """Waits until it is known whether a message of `take_ahead` is still ours; then `begin` says so."""
        handout = message.handout
        while handout.may_be_over and handout.is_pending(message.offset) and not self._stopping:
            if self._membership.error is not None:
                return
            self._news = anyio.Event() if self._news.is_set() else self._news
            self._held.renewing.set()
            await self._news.wait()

    async def _wait_here(self) -> bool:
        """Until there is a message; False when there will be none: after `stop`, or `_check_taken` says why."""
        held = self._held
        while not self._stopping:
            if held.open():
                return True
            if self._membership.error is not None:
                return False
            if self._news.is_set():
                self._news = anyio.Event()
            held.look_at_credit()
            await self._news.wait()
        return False

    def _check_taken(self) -> None:
        """Raises RequestRefused when the group no longer takes this member."""
        if self._membership.error is not None and not self._stopping:
            raise self._membership.error

    def _told(self, message: Deliver | QueueSettings, payload: memoryview) -> None:
        if isinstance(message, QueueSettings):
            self._membership.follow(message.invisible_ms)
        else:
            self._held.deliver(message.entries, payload)
            self._wake()

    def _wake(self) -> None:
        self._news.set()

    async def receive(self, messages_max: int = 1, *, wait_ms: int = 5_000) -> list[Message]:
        """Asks for messages instead of having them pushed (`credit_messages=0`): what there is, at most so many, or
        nothing after `wait_ms`, or `stop`. When the answer is lost, or a call was cancelled, it is asked for again, and
        is the same. One call at a time.
        """
        if self._stopping:
            return []
        until_s = time.monotonic() + wait_ms / 1000
        found: list[Message] = []
        while not self._stopping:
            left_ms = max(0, math.ceil((until_s - time.monotonic()) * 1000))
            reply, payload = await self._receive(messages_max, left_ms)
            self._held.deliver(reply.entries, payload)
            while (message := self.take_nowait()) is not None:
                found.append(message)
            if found or not (reply.entries and left_ms):
                break
            # Nothing of what came can be given: its time to live is over, or it cannot be read.
        return found

    async def _receive(self, messages_max: int, wait_ms: int) -> tuple[ReceiveReply, memoryview]:
        request = Receive(self._subscribe.stream, self._receives, messages_max, self._credit_bytes, wait_ms)
        while True:
            with suppress(Disconnected):
                answer = await self._membership.request(request)
                self._receives += 1
                return answer

    def status(self) -> dict[str, Any]:
        """What it has, for `Client.member_status`."""
        return {
            "group": self._subscribe.group,
            "member": self._subscribe.member,
            "topics": self._subscribe.topics,
            "waiting": self._held.waiting_count,
            "not settled": self._held.unsettled_count,
            "late": self.late,
        }

    # -- settling

    def ack_nowait(self, message: Message) -> None:
        """It is done. The broker is told soon, together with others; `wait_settled` waits for that."""
        handout = message.handout
        if handout.pending >> (message.offset - handout.first) & 1 and handout.lease != NO_LEASE:
            self._settling.ack(handout, message.offset)
            self._held.settle(message)

    async def ack(self, message: Message) -> None:
        """It is done; durable on return. Again is fine. Raises RequestRefused (RECEIPT_LATE): its time was over, and it
        may be done again by others.
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
        if message.handout.lease == NO_LEASE:
            return
        asked = self._ask(message, EXTEND, more_ms, "")
        await asked.done.wait()
        _check(asked, message)

    async def _settle(self, message: Message, verb: int, delay_ms: int | None, reason: str) -> None:
        if message.handout.lease == NO_LEASE:
            return
        pending = message.handout.is_pending(message.offset)
        if not pending and (verb != ACK or self._left):  # whether an acknowledgement repeats one, the broker knows
            raise RequestRefused(ErrorCode.RECEIPT_LATE, f"{_name(message)} is settled already")
        asked = self._ask(message, verb, delay_ms, reason)
        if pending:
            self._held.settle(message)
        await asked.done.wait()
        _check(asked, message)

    def _ask(self, message: Message, verb: int, delay_ms: int | None, reason: str) -> Asked:
        where = (message.topic, message.partition, message.handout.lease, message.offset, message.offset)
        delay_ms = -1 if delay_ms is None else delay_ms
        # Texts of errors may hold what no UTF-8 is made of, such as names of files.
        text = reason[:REASON_CHARS_MAX].encode(errors="backslashreplace").decode()
        return self._settling.ask(SettleEntry(*where, verb, delay_ms, text))

    async def wait_settled(self) -> None:
        """Returns when everything that was settled is durable at the broker."""
        await self._settling.wait_settled()

    @property
    def late(self) -> int:
        """How many `ack_nowait` came too late."""
        return self._settling.late

    # -- running a handler

    async def run(self, handler: Handler, *, concurrency: int = 1, signals: Sequence[int] = (signal.SIGTERM,)) -> None:
        """Calls `handler` with each message, so many at a time, until `stop` or one of the signals (in the main thread,
        which alone can take them). Returns: acknowledged. Raises: failed, with the error as reason.
        """
        async with task_group() as tasks:
            if signals and threading.current_thread() is threading.main_thread():
                tasks.start_soon(self._stop_on, signals)
            async with anyio.create_task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(self._work, handler)
            self._check_taken()
            tasks.cancel_scope.cancel()

    async def _work(self, handler: Handler) -> None:
        while await self._wait_here():
            message = self._held.give()
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
        self._wake()


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
    shown = f"consumer {subscribe.stream}"
    client.status[shown] = made.status
    started = anyio.Event()
    ends: list[anyio.CancelScope] = []

    async def run(task: Callable[[], Awaitable[None]]) -> None:
        # Not cancelled with the block: leaving needs it.
        with anyio.CancelScope(shield=True) as end:
            ends.append(end)
            await task()

    membership = made._membership
    try:
        with client.taking(subscribe.stream, made._told):
            async with task_group() as tasks:
                for task in (made._settling.run, membership.grant, membership.renew, partial(membership.keep, started)):
                    tasks.start_soon(run, task)
                try:
                    await started.wait()
                    made._check_taken()
                    yield made
                finally:
                    made.stop()
                    with anyio.move_on_after(LEAVE_S_MAX, shield=True):
                        await membership.leave()
                    made._left = True
                    for end in ends:
                        end.cancel()
                    tasks.cancel_scope.cancel()
    finally:
        del client.status[shown]
