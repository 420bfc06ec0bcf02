"""The composition root: puts store, core and listeners together, and takes them down in the opposite order.

A clean stop (SIGTERM, SIGINT): listeners stop accepting, begun requests are answered within the drain deadline, the
core's tasks end, and the store flushes and notes that it was closed. SIGHUP has certificates and password files read
again. A store that fails ends the broker at once with a
message and exit code 1.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import structlog
import trio

from conf.schema import Address, Config, LimitsConfig
from core.broker import Broker
from core.store.embedded import EmbeddedEngine
from core.store.engine import StoreFailed, StoreUnusable
from gateway.allocator import keep_freed_memory
from gateway.cli import EXIT_CONFIG
from gateway.collector import Collector
from gateway.core_settings import broker_settings, engine_config, mqtt_settings
from gateway.listeners import Server, address_of, bind
from gateway.memory_budget import MemoryBudget
from gateway.otel import Unavailable, export
from gateway.protocols.kafka.broker_configs import broker_configs
from gateway.protocols.kafka.connection import Connection as KafkaConnection
from gateway.protocols.kafka.connection import ConnectionLimits
from gateway.protocols.kafka.context import Context
from gateway.protocols.kafka.dispatch import Dispatcher
from gateway.protocols.kafka.fetch_sessions import FetchSessions
from gateway.protocols.kafka.handlers import HANDLERS, PIPELINED
from gateway.protocols.mqtt.server import MqttServer, MqttSettings, bind_listeners, open_server
from gateway.protocols.native.server import native_server
from trivium.records import preload

log = structlog.get_logger(__name__)

FETCH_SESSION_IDLE_MS_MAX = 120_000  # after which its place may be taken, as in Kafka


def run(config: Config) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code."""
    try:
        mqtt = mqtt_settings(config)
    except (ValueError, OSError) as unusable:
        log.critical("the configuration cannot be used", reason=str(unusable))
        return EXIT_CONFIG
    data_dir = config.store.data_dir
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as unusable:
        log.critical("the data directory cannot be used", data_dir=str(data_dir), reason=unusable.strerror)
        return EXIT_CONFIG
    keep_freed_memory()
    try:
        trio.run(_serve, config, mqtt)
    except BaseExceptionGroup as group:
        expected, others = group.split((StoreFailed, StoreUnusable, OSError, Unavailable))
        if expected is None or others is not None:
            raise
        for error in _leaves(expected):
            log.critical("the broker cannot go on", reason=str(error) or type(error).__name__)
        return 1
    return 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


async def _serve(config: Config, mqtt: MqttSettings) -> None:
    engine = EmbeddedEngine(config.store.data_dir, engine_config(config))
    async with AsyncExitStack() as after_store, trio.open_nursery() as store_nursery:
        await store_nursery.start(engine.run)
        preload()  # the first decode would import it, and hold up the loop
        broker = Broker(engine, replace(broker_settings(config), tables_dir=config.store.data_dir / "tables"))
        async with trio.open_nursery() as core_nursery:
            await core_nursery.start(broker.run)
            endpoint = config.tracing.otlp_endpoint
            stop_spans = export(broker.tracer, endpoint) if endpoint else lambda: None
            devices = await open_server(broker, bind_listeners(mqtt), mqtt)
            after_store.callback(devices.close)
            servers: list[Server | MqttServer] = [
                await kafka_server(config, broker),
                devices,
                await native_server(config, broker),
            ]
            collector = Collector()
            collector.install()
            # Taken before anyone is told that the broker is ready: whoever hears it may stop it at once.
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async with trio.open_nursery() as listening:
                    for server in servers:
                        listening.start_soon(server.run)
                        for protocol, address in server.listening:
                            print(f"{protocol} listening on {address}", flush=True)
                    await _wait_for_stop_signal(signals, devices.reload)
                    for server in servers:
                        server.stop()
                    broker.groups.stop()
            await broker.tracer.flush()
            await trio.to_thread.run_sync(stop_spans)
            core_nursery.cancel_scope.cancel()
        store_nursery.cancel_scope.cancel()
    log.info("stopped", longest_gc_pause_ms=round(collector.longest_pause_ms, 1))


async def _wait_for_stop_signal(signals: AsyncIterator[int], reload: Callable[[], None]) -> None:
    """`reload` is called at every SIGHUP."""
    async for number in signals:
        if number != signal.SIGHUP:
            log.info("stopping", signal=signal.Signals(number).name)
            return
        reload()


async def kafka_server(config: Config, broker: Broker) -> Server:
    listener = await bind(*config.kafka.listen)
    address = Address(*address_of(listener))
    advertised = config.kafka.advertised or address
    context = Context(
        broker=broker,
        node_id=config.kafka.node_id,
        host=advertised.host,
        port=advertised.port or address.port,
        fetch_sessions=FetchSessions(config.limits.fetch_sessions_max, FETCH_SESSION_IDLE_MS_MAX),
        fetch_bytes_max=config.limits.fetch_bytes_max,
        broker_configs=broker_configs(config),
    )
    connect = partial(
        KafkaConnection,
        Dispatcher(context, HANDLERS, PIPELINED),
        limits=_connection_limits(config.limits),
        budget=MemoryBudget(config.limits.request_memory_bytes_max),
        responses=MemoryBudget(config.limits.response_memory_bytes_max),
    )
    return Server(
        "kafka",
        listener,
        connect,
        connections_max=config.limits.connections_max,
        drain_deadline_s=config.limits.drain_ms_max / 1000,
        ended=lambda connection: broker.share_groups.sessions.connection_gone(connection),
    )


def _connection_limits(limits: LimitsConfig) -> ConnectionLimits:
    return ConnectionLimits(
        request_bytes_max=limits.request_bytes_max,
        output_bytes_max=limits.connection_output_bytes_max,
        idle_ms_max=limits.connection_idle_ms_max,
        send_timeout_ms_max=limits.send_timeout_ms_max,
    )
