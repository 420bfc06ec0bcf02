"""What `trivium.blocking` sends with: the producers of the asynchronous SDK, every call of which waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Unpack

import anyio.to_thread

from trivium import half_messages as async_halves
from trivium import producer as async_producer
from trivium import requests as async_requests
from trivium import transactions as async_transactions
from trivium.loop_thread import LoopThread
from trivium.outgoing import HalfOptions, Headers, IfOptions, Outgoing, PlaceOptions, SendOptions, Sent
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


class Producer:
    """As `trivium.producer.Producer`."""

    def __init__(self, loop: LoopThread, made: async_producer.Producer) -> None:
        self._loop = loop
        self._made = made

    def send(self, topic: str, value: bytes | None, **options: Unpack[SendOptions]) -> Sent:
        """Stores one message; durable on return. The options are those of `trivium.producer`."""
        return self._loop.call(partial(self._made.send, topic, value, **options))

    def post(self, topic: str, value: bytes | None, **options: Unpack[SendOptions]) -> Posted:
        """As `send`, without waiting for the outcome."""
        return Posted(self._loop, self._loop.call(partial(self._made.post, topic, value, **options)))

    def send_all(self, messages: Sequence[async_producer.NewMessage]) -> list[Sent]:
        """All of the messages or none; durable on return."""
        return self._loop.call(self._made.send_all, messages)

    def send_one_way(self, topic: str, value: bytes | None, **options: Unpack[PlaceOptions]) -> str:
        """Hands one message to the network; its id."""
        return self._loop.call(partial(self._made.send_one_way, topic, value, **options))

    def send_if(
        self, topic: str, value: bytes | None, *, key: bytes, last_offset: int, **options: Unpack[IfOptions]
    ) -> Sent:
        """Stores a message if the last one of its key stands at `last_offset`. Raises KeyChanged."""
        send = partial(self._made.send_if, topic, value, key=key, last_offset=last_offset, **options)
        return self._loop.call(send)

    def reply(self, message: Traced, value: bytes | None, *, headers: Headers = ()) -> Sent:
        """Answers a request."""
        return self._loop.call(partial(async_requests.reply, self._made, message, value, headers=headers))


class Half:
    """As `trivium.half_messages.Half`."""

    def __init__(self, loop: LoopThread, made: async_halves.Half) -> None:
        self._loop = loop
        self._made = made
        self.message_id = made.message_id

    def commit(self) -> None:
        self._loop.call(self._made.commit)

    def roll_back(self) -> None:
        self._loop.call(self._made.roll_back)


class HalfProducer:
    """As `trivium.half_messages.HalfProducer`; `check` is a plain function, called in a thread of its own."""

    def __init__(self, loop: LoopThread, made: async_halves.HalfProducer) -> None:
        self._loop = loop
        self._made = made

    def send(self, topic: str, value: bytes | None, **options: Unpack[HalfOptions]) -> Half:
        """Keeps a message that nobody sees before it is committed; durable on return."""
        return Half(self._loop, self._loop.call(partial(self._made.send, topic, value, **options)))

    @contextmanager
    def half(self, topic: str, value: bytes | None, **options: Unpack[HalfOptions]) -> Iterator[Half]:
        """A message that is committed when the block ends, and rolled back when it raises."""
        half = self.send(topic, value, **options)
        try:
            yield half
        except Exception:
            half.roll_back()
            raise
        half.commit()


class Transaction:
    """As `trivium.transactions.Transaction`."""

    def __init__(self, loop: LoopThread, made: async_transactions.Transaction) -> None:
        self._loop = loop
        self._made = made

    def send(self, topic: str, value: bytes | None, **options: Unpack[PlaceOptions]) -> str:
        """Adds a message; its id."""
        return self._loop.call(partial(self._made.send, topic, value, **options))

    def send_offsets(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Offsets that the group has when the transaction is committed."""
        self._loop.call(self._made.send_offsets, group, offsets)


class TransactionalSender:
    """As `trivium.transactions.TransactionalSender`."""

    def __init__(self, loop: LoopThread, made: async_transactions.TransactionalSender) -> None:
        self._loop = loop
        self._made = made

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction, committed when the block ends and aborted when it raises."""
        with self._loop.entered(self._made.transaction()) as made:
            yield Transaction(self._loop, made)


def in_thread(check: Callable[[async_halves.HalfMessage], int]) -> async_halves.Check:
    """A plain check as the asynchronous SDK wants it."""

    async def asked(half: async_halves.HalfMessage) -> int:
        return await anyio.to_thread.run_sync(check, half)

    return asked
