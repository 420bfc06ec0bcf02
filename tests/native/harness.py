"""A broker in this process with a native and a Kafka listener: in this loop (`serving`) or a thread (`in_thread`)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import trio

import trivium
from conf.schema import Config
from core.broker import Broker
from core.store.memory import MemoryEngine
from gateway.core_settings import broker_settings
from gateway.protocols.native.server import native_server
from gateway.serve import kafka_server
from tests.patience import PATIENCE_S


class Addresses(NamedTuple):
    native: str
    kafka: str


@asynccontextmanager
async def serving(**sections: dict[str, object]) -> AsyncIterator[Addresses]:
    listen = {"kafka": {"listen": "127.0.0.1:0"}, "native": {"listen": "127.0.0.1:0"}}
    config = Config.model_validate({**listen, **sections})
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        broker = Broker(engine, broker_settings(config))
        await nursery.start(broker.run)
        native, kafka = await native_server(config, broker), await kafka_server(config, broker)
        nursery.start_soon(native.run)
        nursery.start_soon(kafka.run)
        yield Addresses(native.address, kafka.address)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(**sections: dict[str, object]) -> AsyncIterator[trivium.Client]:
    """A client of a broker in this loop."""
    async with serving(**sections) as addresses, trivium.connect(addresses.native, client_id="test") as client:
        yield client


@contextmanager
def in_thread(**sections: dict[str, object]) -> Iterator[Addresses]:
    """The same for clients of other loops."""
    ready = threading.Event()
    found: list[Addresses] = []
    stops: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def main() -> None:
        stop = trio.Event()
        stops.append((trio.lowlevel.current_trio_token(), stop))
        async with serving(**sections) as addresses:
            found.append(addresses)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield found[0]
    finally:
        token, stop = stops[0]
        trio.from_thread.run_sync(stop.set, trio_token=token)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
