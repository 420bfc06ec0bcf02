"""The MQTT front-end put together: pump, handler, publishing, deliveries, and their tables in the log."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import trio

from core.broker import Broker
from core.retained import RetainedTable
from core.sessions import SessionLog
from core.topic_mapping import TopicMapping
from gateway.listeners import BACKLOG_CONNECTIONS, format_address
from gateway.protocols.mqtt.broker_handler import BrokerHandler
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.passwords import Passwords
from gateway.protocols.mqtt.peers import Listener
from gateway.protocols.mqtt.publishing import Publisher, PublishSettings
from gateway.protocols.mqtt.pump import Pump
from gateway.protocols.mqtt.retained import Retained

SESSIONS_TOPIC = "__trivium_sessions"
RETAINED_TOPIC = "__trivium_retained"
SWEEP_S = 1.0
APPENDING_BYTES_MAX = 64 * 1024 * 1024  # publishes on their way to the log; above it nothing is read


@dataclass(frozen=True, slots=True)
class MqttSettings:
    limits: Limits
    publishing: PublishSettings
    mapping: TopicMapping
    connections_max: int
    drain_s: float
    passwords: Passwords | None = None  # None: everybody may connect


class MqttServer:
    """Serves one listener; made by `open_server`."""

    protocol = "mqtt"

    def __init__(
        self, broker: Broker, listener: socket.socket, settings: MqttSettings, log: SessionLog, table: RetainedTable
    ) -> None:
        self.address = format_address(*listener.getsockname()[:2])
        self._listener = listener
        self._settings = settings
        self._stopping = trio.Event()
        self._table = table
        mapping = settings.mapping
        self.deliveries = Deliveries(broker.engine, broker.topics, mapping, self._store_packet_ids)
        self.publisher = Publisher(
            broker.engine, broker.topics, mapping, settings.publishing, log.state, log.topics, table, self._flush
        )
        self.deliveries.retained_partition = table.partition
        self.handler = BrokerHandler(
            log,
            self.publisher,
            self.deliveries,
            Retained(table, mapping),
            settings.limits.session_expiry_s_max,
            settings.passwords,
        )
        self.pump = Pump(self.handler, connections_max=settings.connections_max)
        self.handler.flush = self.deliveries.flush = self._flush
        self.handler.load(time.time())
        broker.topics.on_change(lambda _: self.publisher.forget_places())

    def _store_packet_ids(self, devices: set[Device]) -> None:
        self.handler.store_packet_ids(devices)

    def _flush(self) -> None:
        if self.publisher.in_flight_bytes > APPENDING_BYTES_MAX:
            self.pump.pause()
        else:
            self.pump.resume()
        self.handler.serve_waiting()
        self.pump.flush()

    def stop(self) -> None:
        """`run` returns when connections were told, or the time for it is up."""
        self._stopping.set()

    async def run(self) -> None:
        listening = Listener(self._listener, self._settings.limits)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.deliveries.run)
                nursery.start_soon(self.publisher.run)
                nursery.start_soon(self._sweeper)
                nursery.start_soon(self.pump.run, [listening])
                await self._stopping.wait()
                await self.pump.drain(self._settings.drain_s)
                nursery.cancel_scope.cancel()
        finally:
            self._table.close()

    async def _sweeper(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            self.handler.sweep(time.time())


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0 takes a free one). Raises OSError with the address named."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG_CONNECTIONS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {format_address(host, port)}: {reason}") from error


async def open_server(broker: Broker, listener: socket.socket, settings: MqttSettings) -> MqttServer:
    """Folds the stored sessions and retained messages; then the server may `run`."""
    compact = {"cleanup.policy": "compact"}
    topic = await broker.topics.ensure(SESSIONS_TOPIC, 1, compact)
    log = SessionLog(broker.engine, topic.partitions[0])
    await log.load()
    topic = await broker.topics.ensure(RETAINED_TOPIC, 1, compact)
    table = RetainedTable(broker.engine, topic.partitions[0])
    await table.load()
    return MqttServer(broker, listener, settings, log, table)
