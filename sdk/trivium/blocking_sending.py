"""What `trivium.blocking` sends with: the producers of the asynchronous SDK, every call of which waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

import anyio.to_thread

from trivium import half_messages as async_halves
from trivium import producer as async_producer
from trivium import requests as async_requests
from trivium import transactions as async_transactions
from trivium.blocking_calls import Blocking, block, waiting
from trivium.loop_thread import LoopThread
from trivium.outgoing import HalfOptions, Headers, Outgoing, SendOptions, Sent
from trivium.trace_context import Traced


class Posted:
    """A message that was taken: its id is known, `wait` gives the outcome."""

    def __init__(self, loop: LoopThread, one: Outgoing) -> None:
        self._loop = loop
        self._one = one
        self.message_id = one.message_id

    def wait(self) -> Sent:
        """Durable on return; raises as `send`."""
        return self._loop.call(self._one.wait)


class Producer(Blocking[async_producer.Producer]):
    """As `trivium.producer.Producer`."""

    send = waiting(async_producer.Producer.send)
    send_all = waiting(async_producer.Producer.send_all)
    send_one_way = waiting(async_producer.Producer.send_one_way)
    send_if = waiting(async_producer.Producer.send_if)

    def post(self, topic: str, value: bytes | None, **options: Unpack[SendOptions]) -> Posted:
        """As `send`, without waiting for the outcome."""
        return Posted(self._loop, self._loop.call(partial(self._made.post, topic, value, **options)))

    def reply(self, message: Traced, value: bytes | None, *, headers: Headers = ()) -> Sent:
        """Answers a request; see `trivium.requests.reply`."""
        return self._loop.call(partial(async_requests.reply, self._made, message, value, headers=headers))


class Half(Blocking[async_halves.Half]):
    """As `trivium.half_messages.Half`."""

    commit = waiting(async_halves.Half.commit)
    roll_back = waiting(async_halves.Half.roll_back)

    @property
    def message_id(self) -> str:
        return self._made.message_id


class HalfProducer(Blocking[async_halves.HalfProducer]):
    """As `trivium.half_messages.HalfProducer`; `check` is a plain function, called in a thread of its own."""

    def send(self, topic: str, value: bytes | None, **options: Unpack[HalfOptions]) -> Half:
        """Keeps a message that nobody sees before it is committed; durable on return."""
        return Half(self._loop, self._loop.call(partial(self._made.send, topic, value, **options)))

    half = block(async_halves.HalfProducer.half, Half)


class Transaction(Blocking[async_transactions.Transaction]):
    """As `trivium.transactions.Transaction`."""

    send = waiting(async_transactions.Transaction.send)
    send_offsets = waiting(async_transactions.Transaction.send_offsets)


class TransactionalSender(Blocking[async_transactions.TransactionalSender]):
    """As `trivium.transactions.TransactionalSender`."""

    transaction = block(async_transactions.TransactionalSender.transaction, Transaction)


def in_thread(check: Callable[[async_halves.HalfMessage], int]) -> async_halves.Check:
    """A plain check as the asynchronous SDK wants it."""

    async def asked(half: async_halves.HalfMessage) -> int:
        return await anyio.to_thread.run_sync(check, half)

    return asked
