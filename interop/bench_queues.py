"""Reads a backlog through one queue group of several consumers, each message acknowledged: messages per second.

    python -m interop.bench_queues [--messages 400000] [--consumers 4] [--size 1024] [--flush sync|async]

The broker is a process of its own over an empty directory, the consumers are tasks of this one. The clock runs from
the first subscription to the last durable acknowledgement. Beside it, what the plain consumer (pulls, no groups) reads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

import trivium
from trivium.client import Client

CREDIT_MESSAGES = 4_000


def start(data_dir: Path, flush: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(data_dir), "--flush", flush]
    command += ["--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--native", "127.0.0.1:0"]
    broker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert broker.stdout is not None
    for line in broker.stdout:
        if line.startswith("native listening on"):
            return broker, line.split()[-1]
    raise SystemExit(f"the broker ended with {broker.wait()}")


async def fill(client: Client, messages: int, size: int) -> float:
    await client.create_topic("backlog", 12)
    value = bytes(size)
    begun = time.perf_counter()
    async with client.producer() as producer, anyio.create_task_group() as tasks:

        async def send(number: int, count: int) -> None:
            for _ in range(count):
                await producer.send("backlog", value, key=b"k%d" % number)

        for index in range(2_000):
            tasks.start_soon(send, index, messages // 2_000 + (index < messages % 2_000))
    return messages / (time.perf_counter() - begun)


async def pull(client: Client, messages: int) -> float:
    begun = time.perf_counter()
    async with client.consumer("backlog", start=trivium.EARLIEST) as consumer:
        for _ in range(messages):
            await anext(consumer)
    return messages / (time.perf_counter() - begun)


async def drain(client: Client, messages: int, consumers: int, order: str, group: str) -> float:
    left = messages
    begun = time.perf_counter()

    async def consume() -> None:
        nonlocal left
        async with client.subscribe(
            "backlog",
            group=group,
            start=trivium.EARLIEST,
            order=order,
            credit_messages=CREDIT_MESSAGES,  # type: ignore[arg-type]
        ) as subscriber:
            subscribers.append(subscriber)
            async for message in subscriber:
                subscriber.ack_nowait(message)
                left -= 1
                if not left:
                    for one in subscribers:
                        one.stop()
            await subscriber.wait_settled()
            assert subscriber.late == 0

    subscribers: list[trivium.subscriber.Subscriber] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(consumers):
            tasks.start_soon(consume)
    return messages / (time.perf_counter() - begun)


async def measure(address: str, arguments: argparse.Namespace) -> None:
    async with trivium.connect(address) as client:
        print(f"send          {await fill(client, arguments.messages, arguments.size):10,.0f} /s")
        print(f"pull          {await pull(client, arguments.messages):10,.0f} /s")
        for order in arguments.order.split(","):
            rate = await drain(client, arguments.messages, arguments.consumers, order, f"bench-{order}")
            print(f"queue {order:9}{rate:9,.0f} /s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=400_000)
    parser.add_argument("--consumers", type=int, default=4)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--flush", default="sync")
    parser.add_argument("--order", default="none")
    parser.add_argument("--backend", default="trio")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir:
        broker, address = start(Path(data_dir), arguments.flush)
        try:
            anyio.run(measure, address, arguments, backend=arguments.backend)
        finally:
            broker.terminate()
            broker.wait()


if __name__ == "__main__":
    main()
