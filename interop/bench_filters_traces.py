"""What tracing and filters cost, as ratios to plain in the same run:
`python -m interop.bench_filters_traces [PART OF A NAME]`.

Loads go through the SDK over the native port to a broker of its own (flush = async, so that the disk says nothing), in
rounds that take turns: sends of 1 KB, joined and one at a time, to a plain and to a traced topic; pulls of a backlog of
100 B messages in batches of 500, plain, traced, with a tag filter and with an SQL filter that let a tenth pass;
the same backlog through a queue group, each message acknowledged, likewise.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

import trivium
from interop.brokers import free_port
from interop.places import scratch_root, trivium_command

ROUNDS = 5
SENDS, SENDERS = 4_000, 64
SINGLES = 400
BACKLOG, BATCH = 40_000, 500
Cell = Callable[[trivium.Client], Awaitable[int]]


def send(topic: str, count: int, senders: int) -> Cell:
    async def run(client: trivium.Client) -> int:
        async with client.producer() as producer, anyio.create_task_group() as tasks:

            async def sender() -> None:
                for _ in range(count // senders):
                    await producer.send(topic, b"x" * 1024, key=b"k")

            for _ in range(senders):
                tasks.start_soon(sender)
        return count

    return run


def pull(topic: str, expected: int, **options: str) -> Cell:
    async def run(client: trivium.Client) -> int:
        async with client.consumer(topic, start=trivium.EARLIEST, **options) as consumer:  # type: ignore[arg-type]
            for _ in range(expected):
                await anext(consumer)
        return BACKLOG

    return run


groups = itertools.count()


def queue(topic: str, expected: int, **options: str) -> Cell:
    """A new group with two members reads all of it."""

    async def run(client: trivium.Client) -> int:
        group, left = f"group{next(groups)}", expected
        subscribers: list[trivium.subscriber.Subscriber] = []

        async def consume() -> None:
            nonlocal left
            async with client.subscribe(
                topic,
                group=group,
                start=trivium.EARLIEST,
                credit_messages=4_000,
                **options,  # type: ignore[arg-type]
            ) as subscriber:
                subscribers.append(subscriber)
                async for message in subscriber:
                    subscriber.ack_nowait(message)
                    left -= 1
                    if not left:
                        for one in subscribers:
                            one.stop()
                await subscriber.wait_settled()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            tasks.start_soon(consume)
        return BACKLOG

    return run


SQL = "n BETWEEN 0 AND 9 AND TAGS = 'hot'"
CELLS: dict[str, dict[str, Cell]] = {
    "send, 64 at once": {"plain": send("plain", SENDS, SENDERS), "traced": send("traced", SENDS, SENDERS)},
    "send, one at a time": {"plain": send("plain", SINGLES, 1), "traced": send("traced", SINGLES, 1)},
    "pull": {
        "plain": pull("backlog", BACKLOG),
        "traced": pull("backlog-traced", BACKLOG),
        "tags": pull("backlog", BACKLOG // 10, tags="hot"),
        "sql": pull("backlog", BACKLOG // 10, filter=SQL),
    },
    "queue group": {
        "plain": queue("backlog", BACKLOG),
        "traced": queue("backlog-traced", BACKLOG),
        "tags": queue("backlog", BACKLOG // 10, tags="hot"),
        "sql": queue("backlog", BACKLOG // 10, filter=SQL),
    },
}


async def prepare(client: trivium.Client) -> None:
    for topic in ("plain", "traced", "backlog", "backlog-traced"):
        await client.create_topic(topic, 1, {"trace": "on"} if "traced" in topic else {})
        if topic.startswith("backlog"):
            async with client.producer(linger_ms=20) as producer:
                for start in range(0, BACKLOG, BATCH):
                    async with anyio.create_task_group() as tasks:
                        for number in range(start, start + BATCH):
                            tag = b"hot" if number % 10 == 0 else b"cold"
                            headers = {"trivium.tag": tag, "n": b"%d" % (number % 10)}
                            tasks.start_soon(_send, producer, topic, headers)


async def _send(producer: trivium.Producer, topic: str, headers: dict[str, bytes | None]) -> None:
    await producer.send(topic, b"x" * 100, headers=headers)


async def measure(address: str, pid: int, only: str) -> None:
    async with trivium.connect(address) as client:
        await prepare(client)
        for name, variants in CELLS.items():
            if only not in name:
                continue
            rates: dict[str, list[float]] = {one: [] for one in variants}
            cpu: dict[str, list[float]] = {one: [] for one in variants}
            for _ in range(ROUNDS):
                for one, cell in variants.items():
                    began, used = time.perf_counter(), _cpu_s(pid)
                    count = await cell(client)
                    rates[one].append(count / (time.perf_counter() - began))
                    cpu[one].append((_cpu_s(pid) - used) / count * 1e6)
            for one in variants:
                rate, plain = statistics.median(rates[one]), statistics.median(rates["plain"])
                print(
                    f"{name:20} {one:7} {rate:9.0f}/s  {rate / plain:5.2f} of plain, broker CPU "
                    f"{statistics.median(cpu[one]):6.1f} us a message"
                )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    scratch_root().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch_root()))
    address = f"127.0.0.1:{free_port()}"
    command = [*trivium_command(), "serve", "--data-dir", str(folder), "--native", address, "--flush", "async"]
    command += ["--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]
    broker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        anyio.run(measure, address, broker.pid, sys.argv[1] if sys.argv[1:] else "")
    finally:
        broker.terminate()
        broker.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
