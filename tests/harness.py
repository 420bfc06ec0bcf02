"""A broker in this process for tests with real clients: the trio loop runs in a thread, the clients wherever the
test is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from conf.schema import Config
from core.broker import Broker
from core.store.memory import MemoryEngine
from gateway.core_settings import broker_settings
from gateway.serve import kafka_server
from tests.patience import PATIENCE_S


class RunningBroker:
    """`kafka` is the bootstrap address. `call` runs a function on the broker's loop."""

    def __init__(self) -> None:
        self.kafka = ""
        self.broker: Broker
        self.token: trio.lowlevel.TrioToken
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._stop: trio.CancelScope
        self._thread = threading.Thread(target=self._main, daemon=True)

    def start(self, config: Config) -> None:
        self._config = config
        self._thread.start()
        self._ready.wait(PATIENCE_S)
        if self._failed:
            raise self._failed

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stop.cancel, trio_token=self.token)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._failed:
            raise self._failed

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._failed = error
        self._ready.set()

    async def _serve(self) -> None:
        engine = MemoryEngine()
        with trio.CancelScope() as self._stop:
            self.token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                self.broker = Broker(engine, broker_settings(self._config))
                await nursery.start(self.broker.run)
                server = await kafka_server(self._config, self.broker)
                nursery.start_soon(server.run)
                self.kafka = server.address
                self._ready.set()


@contextmanager
def running_broker(**sections: dict[str, object]) -> Iterator[RunningBroker]:
    """A broker over the in-memory engine with the given configuration sections, listening on a free port."""
    values = {"kafka": {"listen": "127.0.0.1:0"}, **sections}
    running = RunningBroker()
    running.start(Config.model_validate(values))
    try:
        yield running
    finally:
        running.stop()
