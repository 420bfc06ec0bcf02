"""Brokers and consumers killed with SIGKILL in the middle: nothing acknowledged comes again, nothing is lost, per key
the order holds.

Consumers are processes. Each says what it gets and what was acknowledged in one file that all append to, so its lines
stand in the order in which they were said.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import trivium
from gateway.testing import free_port
from tests.native.test_restart import kill, start

MESSAGES = 400
KEYS = 12
CONSUMERS = 3
CONSUMER = """
import os, sys, trio, trivium

ledger = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)

def say(verb, message):
    line = b"%s %d %s\\n" % (verb, message.offset, message.key)
    os.write(ledger, line)
    os.write(1, line)

async def main():
    group = dict(group="g", order=sys.argv[2], start=trivium.EARLIEST, credit_messages=20)
    async with trivium.connect(sys.argv[1]) as client, client.subscribe("t", **group) as messages:
        async for message in messages:
            say(b"got", message)
            try:
                if message.offset % 11 == 5 and message.attempt == 1:
                    await messages.nack(message, "again", delay_ms=1)
                else:
                    await messages.ack(message)
                    say(b"acked", message)
            except trivium.RequestRefused as refused:
                assert refused.code == trivium.ErrorCode.RECEIPT_LATE

trio.run(main)
"""


class Rounds:
    """One broker and its consumers, killed and started again."""

    def __init__(self, tmp_path: Path, order: str) -> None:
        self.data_dir = tmp_path / "data"
        self.ledger = tmp_path / "ledger"
        self.ledger.touch()
        self.address = f"127.0.0.1:{free_port()}"
        self.order = order
        self.broker: subprocess.Popen[str]
        self.consumers: list[trio.Process] = []
        self.lines = 0
        self.news = trio.Event()

    async def start_broker(self) -> None:
        self.broker = await trio.to_thread.run_sync(start, self.data_dir, self.address)

    async def start_consumer(self, nursery: trio.Nursery) -> None:
        command = [sys.executable, "-c", CONSUMER, self.address, self.order, str(self.ledger)]
        consumer = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        self.consumers.append(consumer)
        nursery.start_soon(self._follow, consumer)

    async def _follow(self, consumer: trio.Process) -> None:
        assert consumer.stdout is not None
        async with consumer.stdout as said:
            async for chunk in said:
                self.lines += chunk.count(b"\n")
                self.news.set()
        await consumer.wait()

    async def wait_lines(self, more: int) -> None:
        goal = self.lines + more
        while self.lines < goal:
            self.news = trio.Event()
            await self.news.wait()

    def check(self) -> None:
        got: dict[bytes, int] = {}  # key -> the last that was handed out
        acknowledged: set[int] = set()
        seen: set[int] = set()
        for line in self.ledger.read_bytes().splitlines():
            verb, offset_text, key = line.split()
            offset = int(offset_text)
            if verb == b"acked":
                acknowledged.add(offset)
                continue
            assert offset not in acknowledged
            seen.add(offset)
            if self.order == "key":
                assert got.get(key, -1) <= offset
                got[key] = offset
        assert seen == set(range(MESSAGES))


async def is_done(client: trivium.Client) -> bool:
    (info,) = await client.describe_queues("g")
    (place,) = info.places
    return place.floor == MESSAGES and place.failed == place.held == 0


@pytest.mark.parametrize("order", ["none", "key"])
async def test_brokers_and_consumers_are_killed(tmp_path: Path, order: str) -> None:
    rounds = Rounds(tmp_path, order)
    await rounds.start_broker()
    try:
        async with trivium.connect(rounds.address) as client:
            await client.create_topic("t", 1)
            await client.configure_queue("g", rejoin_ms=100, invisible_ms=2_000, backoff_ms=[1])
            async with client.producer() as producer, trio.open_nursery() as nursery:
                for number in range(MESSAGES):
                    nursery.start_soon(send, producer, number)
            async with trio.open_nursery() as nursery:
                for _ in range(CONSUMERS):
                    await rounds.start_consumer(nursery)
                for victim in (0, 1, None, 2, None):
                    await rounds.wait_lines(40)
                    if victim is None:
                        kill(rounds.broker)
                        await rounds.start_broker()
                    else:
                        rounds.consumers[victim].send_signal(signal.SIGKILL)
                        await rounds.start_consumer(nursery)
                while not await is_done(client):
                    rounds.news = trio.Event()
                    with trio.move_on_after(0.2):
                        await rounds.news.wait()
                for consumer in rounds.consumers:
                    consumer.kill()
        rounds.check()
    finally:
        for consumer in rounds.consumers:
            consumer.kill()
        kill(rounds.broker)


async def send(producer: trivium.Producer, number: int) -> None:
    await producer.send("t", b"%d" % number, key=b"k%d" % (number % KEYS))


WORKER = """
import os, sys, trio, trivium

async def handle(message):
    await trio.sleep(0.005)
    os.write(1, b"%d\\n" % message.offset)

async def main():
    async with trivium.connect(sys.argv[1]) as client:
        async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            await messages.run(handle, concurrency=4)

trio.run(main)
"""


async def test_sigterm_finishes_what_was_begun_and_gives_back_the_rest(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, "none")
    await rounds.start_broker()
    try:
        async with trivium.connect(rounds.address) as client:
            await client.create_topic("t", 1)
            async with client.producer() as producer, trio.open_nursery() as nursery:
                for number in range(MESSAGES):
                    nursery.start_soon(send, producer, number)
            command = [sys.executable, "-c", WORKER, rounds.address]
            worker = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
            assert worker.stdout is not None
            said = b""
            while chunk := await worker.stdout.receive_some():
                if not said:
                    worker.terminate()
                said += chunk
            assert await worker.wait() == 0
            handled = {int(line) for line in said.splitlines()}
            assert 0 < len(handled) < MESSAGES
            async with client.subscribe("t", group="g") as messages:
                rest = [await anext(messages) for _ in range(MESSAGES - len(handled))]
                assert {message.attempt for message in rest} == {1}
                assert {message.offset for message in rest} == set(range(MESSAGES)) - handled
    finally:
        kill(rounds.broker)
