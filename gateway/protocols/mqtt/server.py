"""The MQTT front-end put together: pump, handler, publishing, deliveries, and their tables in the log."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog
import trio

from core.broker import Broker
from core.mapping_history import MappingHistory
from core.retained import RetainedTable
from core.sessions import SessionLog
from core.store.engine import Outcome, StoreFailed
from core.topic_mapping import TopicMapping
from gateway.listeners import BACKLOG_CONNECTIONS, format_address
from gateway.protocols.mqtt.admission import Admission
from gateway.protocols.mqtt.broker_handler import BrokerHandler
from gateway.protocols.mqtt.decoded import NamedRun
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.figures import read_figures
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.message import Run
from gateway.protocols.mqtt.parked import PublishSettings
from gateway.protocols.mqtt.peers import Listener
from gateway.protocols.mqtt.publishing import Publisher
from gateway.protocols.mqtt.pump import Pump
from gateway.protocols.mqtt.records import message_of
from gateway.protocols.mqtt.retained import Retained
from gateway.protocols.mqtt.rewinding import Rewinder
from gateway.protocols.mqtt.sys_topics import SysTopics
from gateway.protocols.mqtt.traces import MqttTraces
from gateway.tls import Certificate
from trivium.records import Record

log = structlog.get_logger(__name__)

SESSIONS_TOPIC = "__trivium_sessions"
RETAINED_TOPIC = "__trivium_retained"
SWEEP_S = 1.0
APPENDING_BYTES_MAX = 64 * 1024 * 1024  # publishes on their way to the log; above it nothing is read


@dataclass(frozen=True, slots=True)
class ListenAt:
    """Where devices connect, and how."""

    host: str
    port: int
    tls: bool = False
    websocket_path: str | None = None


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """`certificate` is what the listeners with TLS show."""

    listeners: Sequence[ListenAt]
    limits: Limits
    publishing: PublishSettings
    mapping: TopicMapping
    connections_max: int
    drain_s: float
    will_grace_s: float
    sessions_max: int
    offline_messages_max: int  # that a session gets of what came while it was away; -1: all
    sys_interval_s: int  # 0: there is no $SYS
    admission: Admission
    certificate: Certificate | None = None


class MqttServer:
    """Serves its listeners; made by `open_server`, to be closed at the end."""

    def __init__(
        self,
        broker: Broker,
        listeners: Sequence[Listener],
        settings: MqttSettings,
        log: SessionLog,
        table: RetainedTable,
        mappings: MappingHistory,
    ) -> None:
        self.listening = [(one.protocol, format_address(*one.socket.getsockname()[:2])) for one in listeners]
        self._listeners = listeners
        self._settings = settings
        self._stopping = trio.Event()
        self._table = table
        mapping = settings.mapping
        self.publisher = Publisher(
            broker.engine,
            broker.topics,
            mapping,
            settings.publishing,
            log.state,
            log.topics,
            table,
            broker.schedules,
            broker.intake,
            self._unlogged,
            self._flush,
        )
        traces = MqttTraces(broker.tracer, broker.topics)
        self.deliveries = Deliveries(
            broker.engine,
            broker.topics,
            mappings,
            traces,
            fresh=self.publisher.fresh,
            unstored=self._store_packet_ids,
            flush=self._flush,
            retained_partition=table.partition,
            offline_messages_max=settings.offline_messages_max,
        )
        self.handler = BrokerHandler(
            log,
            self.publisher,
            self.deliveries,
            Retained(
                table,
                broker.topics,
                mapping,
                lambda filter_: self._sys_topics.retained(filter_),
                self.deliveries.tail.end,
            ),
            settings.limits.session_expiry_s_max,
            settings.admission,
            settings.will_grace_s,
            settings.sessions_max,
        )
        self.pump = Pump(self.handler, connections_max=settings.connections_max)
        self.handler.flush = self._flush
        self.publisher.observed, self.publisher.on_stored = (lambda: broker.tracer.active), traces.stored
        self.publisher.on_scheduled = traces.scheduled
        broker.tracer.on_active(self._observe)
        figures = partial(read_figures, broker.engine, broker.topics, self.handler, self.deliveries, table, self.pump)
        self._sys_topics = SysTopics(version("trivium-broker"), settings.sys_interval_s, figures, time.monotonic())
        rewinder = Rewinder(broker.engine, broker.topics, self.handler, self.deliveries)
        broker.retroactive.register("session", rewinder.move)
        broker.topics.on_change(lambda _: self.publisher.routes.forget())

    def _observe(self, active: bool) -> None:
        self.pump.outbox.observed = active

    def _unlogged(self, topic: str, record: Record) -> None:
        name, message, publisher = message_of(record, topic, -1, self._settings.mapping)
        self.deliveries.live.deliver_unlogged(NamedRun(name, publisher, Run([message]), partial(list, [record])))

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

    def reload(self) -> None:
        """Reads the files of the settings again; one that cannot be used is logged, and what it said before holds."""
        certificate = self._settings.certificate
        for reload in (self.handler.reload, *([certificate.reload] if certificate is not None else [])):
            try:
                reload()
            except (OSError, ValueError) as error:
                log.error("MQTT: not read again", reason=str(error))
        log.info("MQTT files read again")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.deliveries.run)
            nursery.start_soon(self.publisher.run)
            nursery.start_soon(self._sweeper)
            nursery.start_soon(self._table.run)
            nursery.start_soon(self.pump.run, self._listeners)
            await self._stopping.wait()
            await self.pump.drain(self._settings.drain_s)
            with trio.move_on_after(self._settings.drain_s):
                await self.handler.keep_positions()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Closes the tables. To be called when the store has ended: its answers are acted upon until then."""
        self._table.close()
        self.handler.sessions.resting.close()

    async def _sweeper(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            self.handler.sweep(time.time())
            for name, message in self._sys_topics.update(time.monotonic()):
                record = Record(0, 0, None, message.payload, [])
                self.deliveries.live.deliver_unlogged(NamedRun(name, None, Run([message]), partial(list, [record])))
            self.pump.flush()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0 takes a free one). Raises OSError with the address named."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG_CONNECTIONS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen on {format_address(host, port)}: {reason}") from error


def bind_listeners(settings: MqttSettings) -> list[Listener]:
    """One listener for each address. Raises OSError with the address named."""
    listeners: list[Listener] = []
    for one in settings.listeners:
        tls = settings.certificate.context if one.tls and settings.certificate is not None else None
        listeners.append(Listener(bind(one.host, one.port), settings.limits, tls, one.websocket_path))
    return listeners


async def open_server(broker: Broker, listeners: Sequence[Listener], settings: MqttSettings) -> MqttServer:
    """Folds the stored sessions and retained messages; then the server may `run`."""
    compact = {"cleanup.policy": "compact"}
    topic = await broker.topics.ensure(SESSIONS_TOPIC, 1, compact)
    log = SessionLog(broker.engine, topic.partitions[0])
    await log.load()
    topic = await broker.topics.ensure(RETAINED_TOPIC, 1, compact)
    table = RetainedTable(
        broker.engine,
        broker.topics,
        settings.mapping,
        topic.partitions[0],
        broker.settings.tables_dir,
        f"{broker.topics.cluster_id}:{topic.id.hex()}",
    )
    await table.load()
    mappings = MappingHistory(settings.mapping, log.mappings, broker.engine.position)
    if mappings.changes:
        stored = await log.state.put(mappings.changes)
        if stored.outcome is not Outcome.APPENDED:
            raise StoreFailed(f"the mapping of MQTT names cannot be stored: {stored.outcome.value}")
    server = MqttServer(broker, listeners, settings, log, table, mappings)
    await server.handler.load(time.time())
    return server
