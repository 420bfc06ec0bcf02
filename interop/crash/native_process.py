"""A process of the native crash run, on asyncio or trio: `python -m interop.crash.native_process BACKEND LIFE ...`."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

import trivium
from interop.crash.native_roles import (
    SETTLED_BY_TIME_S,
    Journal,
    Topics,
    check,
    fate_of,
    is_committed,
    may_pass,
    now_ms,
)
from trivium.client import Client
from trivium.handouts import Message
from trivium.subscriber import Subscriber

BACKENDS = ("asyncio", "trio")


class Process:
    """One life of it; `index` says which of the processes it is."""

    def __init__(self, address: str, directory: Path, life: str, index: int, topics: Topics) -> None:
        self._address = address
        self._journal = Journal(directory)
        self._life = life
        self._index = index
        self._topics = topics
        self._random = random.Random(life)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settle, "none", "none")
            tasks.start_soon(self._settle, "key", "key")
            tasks.start_soon(self._settle, "moved", "none")
            for role in (self._read, self._copy, self._send_halves):
                tasks.start_soon(self._go_on, role)

    async def _go_on(self, role: Callable[[Client], Awaitable[None]]) -> None:
        """Again and again: a full disk, or another of the same name, ends one turn."""
        while True:
            try:
                async with trivium.connect(self._address, request_timeout_s=240) as client:
                    await role(client)
            except trivium.RequestRefused as refused:
                if not may_pass(refused) and refused.code != trivium.ErrorCode.PRODUCER_FENCED:
                    raise
                await anyio.sleep(0.1)

    # -- queue groups

    async def _settle(self, group: str, order: str) -> None:
        asks = group == "none" and self._index == 1  # for messages, and is not pushed any
        options = {"group": group, "order": order, "start": trivium.EARLIEST, "credit_messages": 0 if asks else 20}
        async with (
            trivium.connect(self._address, request_timeout_s=240) as client,
            client.subscribe(self._topics.plain, **options) as messages,  # type: ignore[arg-type]
        ):
            while asks:
                for message in await messages.receive(10, wait_ms=500):
                    await self._take(messages, group, message)
            async for message in messages:
                await self._take(messages, group, message)

    async def _take(self, messages: Subscriber, group: str, message: Message) -> None:
        self._journal.say_of("got", group, message)
        with contextlib.suppress(trivium.RequestRefused):
            await self._say(messages, group, message)

    async def _say(self, messages: Subscriber, group: str, message: Message) -> None:
        fate = "ack" if group == "moved" else fate_of(message)
        match fate:
            case "ack":
                self._journal.say_of("ack?", group, message)
                await messages.ack(message)
                self._journal.say_of("acked", group, message)
            case "reject":
                self._journal.say_of("reject?", group, message)
                await messages.reject(message, "no")
                self._journal.say_of("rejected", group, message)
            case "nack":
                await messages.nack(message, "again", delay_ms=self._random.choice((None, 0, 5)))
            case _:
                await messages.postpone(message, self._random.choice((0, 5)))

    # -- readers

    async def _read(self, client: Client) -> None:
        async with client.consumer(self._topics.plain, start=trivium.EARLIEST) as consumer:
            async for message in consumer:
                value = (message.value or b"").decode()
                self._journal.say("read", self._life, message.partition, message.offset, value)

    async def _copy(self, client: Client) -> None:
        """One partition, in transactions with the group's offset."""
        group = f"copiers-{self._index}"
        options = {"group": group, "start": trivium.EARLIEST, "partitions": [self._index]}
        async with (
            client.transactional(f"{self._topics.copies}-{self._index}", timeout_ms=10_000) as sender,
            client.consumer(self._topics.plain, **options) as consumer,  # type: ignore[arg-type]
        ):
            while True:
                found = [await anext(consumer)]
                with anyio.move_on_after(0.02):
                    while len(found) < 20:
                        found.append(await anext(consumer))
                async with sender.transaction() as txn:
                    for one in found:
                        await txn.send(self._topics.copies, one.value, key=one.key, partition=self._index)
                    offsets = {(self._topics.plain, self._index): found[-1].offset + 1}
                    await txn.send_offsets(group, offsets)

    # -- half messages

    async def _send_halves(self, client: Client) -> None:
        async def answer(half: trivium.HalfMessage) -> int:
            return check(self._journal, half)

        number = 0
        async with client.half_producer("halves", answer) as producer, anyio.create_task_group() as tasks:
            for task in range(3):
                tasks.start_soon(self._send_some, producer, f"{self._life}:{task}:{number}")

    async def _send_some(self, producer: trivium.HalfProducer, name: str) -> None:
        number = 0
        while True:
            await anyio.sleep(self._random.uniform(0.0, 0.05))
            if self._journal.is_resting:
                continue
            value, number = f"{name}:{now_ms()}:{number}", number + 1
            later_ms = now_ms() + self._random.randrange(300) if self._random.random() < 0.2 else None
            self._journal.say("half?", value)
            try:
                half = await producer.send(
                    self._topics.halves,
                    value.encode(),
                    deliver_at_ms=later_ms,
                    first_check_ms=300,
                    check_interval_ms=300,
                    checks_max=10_000,
                )
            except trivium.RequestRefused as refused:
                if refused.code == trivium.ErrorCode.MESSAGE_ENDED:  # its answer was lost, and others were asked since
                    self._journal.say("half", value, "-")
                elif not may_pass(refused):
                    raise
                continue
            self._journal.say("half", value, half.message_id)
            if self._random.random() < 0.2:
                await anyio.sleep(self._random.uniform(0.0, SETTLED_BY_TIME_S))
            await self._end(half, value)

    async def _end(self, half: trivium.Half, value: str) -> None:
        """As the database says; now and then also the contrary, which is refused once it has ended."""
        right, wrong = half.commit, half.roll_back
        if not is_committed(value):
            right, wrong = wrong, right
        self._journal.say("said", value, now_ms())
        while True:
            try:
                await right()
                break
            except trivium.RequestRefused as refused:
                if not may_pass(refused):
                    self._journal.say("violated", value, refused.code)
                    return
                await anyio.sleep(0.1)
        if self._random.random() < 0.3:
            try:
                await wrong()
                self._journal.say("violated", value, "ended-twice")
            except trivium.RequestRefused as refused:
                if refused.code != trivium.ErrorCode.MESSAGE_ENDED:
                    self._journal.say("violated", value, refused.code)


def main() -> None:
    backend, life, index, address, directory, *topics = sys.argv[1:]
    process = Process(address, Path(directory), life, int(index), Topics(*topics))
    anyio.run(process.run, backend=backend)


if __name__ == "__main__":
    main()
