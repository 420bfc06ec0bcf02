"""What sending costs with the SDK: batches, 64 senders of one message a call, one sender; 1 KB messages, one process.

    python -m interop.bench_sdk [--flush sync|async] [--seconds N] [--confluent] [CASE...]

The peer beside it is confluent-kafka against our own Kafka port (`--confluent`), in the same run. RocketMQ's own Java
benchmark is started by `python -m interop.bench_rocketmq`.
"""

from __future__ import annotations

import math
import shutil
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import click
import confluent_kafka

import trivium
import trivium.blocking
from interop.brokers import Trivium
from interop.places import scratch_root
from trivium.client import Client

VALUE = bytes(1024)
PARTITIONS = 4
SENDERS = 64
POSTED_MAX = 20_000


def _percentiles(latencies_s: list[float]) -> str:
    ordered = sorted(latencies_s)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    return f"p50 {statistics.median(ordered) * 1e3:.3f} ms, p99 {p99 * 1e3:.3f} ms"


async def batching(client: Client, seconds: float) -> str:
    """As fast as they are taken, awaiting the oldest when many wait."""
    count = 0
    async with client.producer(buffer_bytes_max=256 * 1024 * 1024) as producer:
        await producer.send("bench", VALUE)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            posted = [producer.post("bench", VALUE) for _ in range(POSTED_MAX // 4)]
            count += len(posted)
            await posted[0].wait()
        await posted[-1].wait()
    return f"{count / (time.perf_counter() - start):,.0f} msg/s"


async def senders(client: Client, seconds: float) -> str:
    """64 tasks, each sends one message and waits for it."""
    count = 0
    latencies_s: list[float] = []
    async with client.producer() as producer:
        await producer.send("bench", VALUE)
        start = time.perf_counter()

        async def send() -> None:
            nonlocal count
            while (began := time.perf_counter()) - start < seconds:
                await producer.send("bench", VALUE)
                latencies_s.append(time.perf_counter() - began)
                count += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(SENDERS):
                tasks.start_soon(send)
        elapsed_s = time.perf_counter() - start
    return f"{count / elapsed_s:,.0f} msg/s, {_percentiles(latencies_s)}"


async def one(client: Client, seconds: float) -> str:
    """One task, one message at a time."""
    latencies_s: list[float] = []
    async with client.producer() as producer:
        await producer.send("bench", VALUE)
        start = time.perf_counter()
        while (began := time.perf_counter()) - start < seconds:
            await producer.send("bench", VALUE)
            latencies_s.append(time.perf_counter() - began)
    return f"{statistics.fmean(latencies_s) * 1e3:.3f} ms a message, {_percentiles(latencies_s)}"


def blocking(address: str, seconds: float) -> str:
    """One script, one message at a time."""
    latencies_s: list[float] = []
    with trivium.blocking.connect(address) as client, client.producer() as producer:
        producer.send("bench", VALUE)
        start = time.perf_counter()
        while (began := time.perf_counter()) - start < seconds:
            producer.send("bench", VALUE)
            latencies_s.append(time.perf_counter() - began)
    return f"{statistics.fmean(latencies_s) * 1e3:.3f} ms a message, {_percentiles(latencies_s)}"


def confluent(bootstrap: str, seconds: float, senders: int) -> str:
    """confluent-kafka: `senders` threads that send one message and wait for it; 0: as fast as they are taken."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0 if senders else 5}
    )
    producer.produce("bench", VALUE)
    producer.flush(10)
    counts = [0] * max(senders, 1)
    start = time.perf_counter()

    def delivered(error: object, _: object) -> None:
        counts[0] += error is None

    def flood() -> None:
        while time.perf_counter() - start < seconds:
            try:
                producer.produce("bench", VALUE, on_delivery=delivered)
            except BufferError:
                producer.poll(0.01)
        producer.flush(60)

    def send(number: int) -> None:
        done = threading.Event()
        while time.perf_counter() - start < seconds:
            done.clear()
            producer.produce("bench", VALUE, on_delivery=lambda *_: done.set())
            done.wait()
            counts[number] += 1

    if not senders:
        flood()
    else:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            producer.poll(0.001)  # calls what was given as `on_delivery`
    elapsed_s = time.perf_counter() - start
    rate = sum(counts) / elapsed_s
    return f"{rate:,.0f} msg/s" if senders != 1 else f"{1e3 / rate:.3f} ms a message"


CASES: dict[str, Callable[[Client, float], Coroutine[Any, Any, str]]] = {
    "batching": batching,
    "senders": senders,
    "one": one,
}


async def _with_client(run: Callable[[Client, float], Awaitable[str]], address: str, seconds: float) -> str:
    async with trivium.connect(address) as client:
        return await run(client, seconds)


@click.command(help=__doc__)
@click.option("--flush", type=click.Choice(["sync", "async"]), default="sync")
@click.option("--seconds", default=4.0)
@click.option("--confluent", "with_confluent", is_flag=True)
@click.option("--backend", type=click.Choice(["asyncio", "trio", "both"]), default="asyncio")
@click.argument("cases", nargs=-1)
def main(flush: str, seconds: float, with_confluent: bool, backend: str, cases: tuple[str, ...]) -> None:
    folder = scratch_root() / "bench-sdk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with Trivium(folder, flush=flush) as broker:
            broker.start()
            address = f"127.0.0.1:{broker.native_port}"
            anyio.run(_create, address)
            backends = ("asyncio", "trio") if backend == "both" else (backend,)
            for name, case in CASES.items():
                if cases and name not in cases:
                    continue
                for loop in backends:
                    found = anyio.run(_with_client, case, address, seconds, backend=loop)
                    click.echo(f"{flush:6} {name:10} {loop:10} {found}")
            if not cases or "blocking" in cases:
                click.echo(f"{flush:6} blocking             {blocking(address, seconds)}")
            if with_confluent:
                for number in (0, SENDERS, 1):
                    found = confluent(broker.bootstrap, seconds, number)
                    click.echo(f"{flush:6} confluent-kafka, {number or 'batching'} senders: {found}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _create(address: str) -> None:
    async with trivium.connect(address) as client:
        await client.create_topic("bench", PARTITIONS)


if __name__ == "__main__":
    main()
