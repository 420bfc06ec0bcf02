"""A broker killed with SIGKILL: what was acknowledged is there once, in order, and clients go on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import trio

import trivium
from gateway.testing import free_port

ROUNDS = 3
SENDERS = 8


def start(data_dir: Path, native: str) -> subprocess.Popen[str]:
    ports = ["--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--native", native]
    command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(data_dir), *ports]
    broker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert broker.stdout is not None
    for line in broker.stdout:
        if line.startswith("native listening on"):
            return broker
    raise AssertionError(f"the broker ended with {broker.wait()}")


def kill(broker: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    broker.send_signal(number)
    broker.wait()
    assert broker.stdout is not None
    broker.stdout.close()


async def test_acknowledged_records_survive_kills_once_and_in_order(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    broker = await trio.to_thread.run_sync(start, tmp_path, address)
    acknowledged: list[list[int]] = [[] for _ in range(SENDERS)]
    enough = trio.Event()
    stop = False

    async def send(number: int) -> None:
        count = 0
        while not stop:
            sent = await producer.send("t", b"%d:%d" % (number, count))
            acknowledged[number].append(sent.offset)
            count += 1
            if count % 20 == 0:
                enough.set()

    try:
        async with trivium.connect(address) as client, client.producer() as producer:
            await client.create_topic("t", 1)
            async with trio.open_nursery() as nursery:
                for number in range(SENDERS):
                    nursery.start_soon(send, number)
                for _ in range(ROUNDS):
                    enough = trio.Event()
                    await enough.wait()
                    kill(broker)
                    broker = await trio.to_thread.run_sync(start, tmp_path, address)
                enough = trio.Event()
                await enough.wait()
                stop = True
            total = sum(map(len, acknowledged))
            stored: dict[bytes, int] = {}
            async with client.consumer("t", start=trivium.EARLIEST) as consumer:
                for offset in range(total):
                    message = await anext(consumer)
                    assert message.offset == offset
                    assert message.value is not None
                    assert message.value not in stored
                    stored[message.value] = offset
            for number, offsets in enumerate(acknowledged):
                assert offsets == sorted(offsets)
                assert offsets == [stored[b"%d:%d" % (number, count)] for count in range(len(offsets))]
            assert await client.find_offsets("t", trivium.LATEST) == {0: total}
    finally:
        kill(broker)


async def test_a_broker_that_stops_in_good_order_writes_what_it_has_traced(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    broker = await trio.to_thread.run_sync(start, tmp_path, address)
    try:
        async with trivium.connect(address) as client, client.producer() as producer:
            await client.create_topic("t", 1, {"trace": "on"})
            await producer.send("t", b"x")
            kill(broker, signal.SIGTERM)
            broker = await trio.to_thread.run_sync(start, tmp_path, address)
            assert len([one async for one in client.traces(topic="t")]) == 1
    finally:
        kill(broker)


async def test_marked_messages_are_traced_over_a_restart(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    broker = await trio.to_thread.run_sync(start, tmp_path, address)
    try:
        async with trivium.connect(address) as client, client.producer() as producer:
            await client.create_topic("t", 1, {"trace": "marked"})
            await producer.send("t", b"other")
            await producer.send("t", b"marked", headers={"trivium.trace": b""})
            kill(broker, signal.SIGTERM)
            broker = await trio.to_thread.run_sync(start, tmp_path, address)
            async with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
                for _ in range(2):
                    message = await messages.take()
                    assert message is not None
                    await messages.ack(message)
            found = [
                (trivium.TraceEvent(one.event).name, one.first, one.last) async for one in client.traces(topic="t")
            ]
            assert found[0] == ("STORED", 1, 1)
            assert {name for name, first, last in found if first <= 1 <= last} == {
                "STORED",
                "DELIVERED",
                "ACKNOWLEDGED",
            }
            assert all(first <= 1 <= last for _, first, last in found)
    finally:
        kill(broker)
