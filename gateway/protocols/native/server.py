"""The native listener, put together from the configuration."""

from __future__ import annotations

from functools import partial

from conf.schema import Config
from core.broker import Broker
from gateway.listeners import Server, bind
from gateway.memory_budget import MemoryBudget
from gateway.protocols.native.connection import Connection, ConnectionLimits
from gateway.protocols.native.context import Context


async def native_server(config: Config, broker: Broker) -> Server:
    """Binds `[native] listen`. Raises OSError with the address named."""
    limits = config.limits
    listener = await bind(*config.native.listen)
    context = Context(broker, limits.fetch_bytes_max)
    connect = partial(
        Connection,
        context,
        limits=ConnectionLimits(
            request_bytes_max=limits.request_bytes_max,
            output_bytes_max=limits.connection_output_bytes_max,
            idle_ms_max=limits.connection_idle_ms_max,
            send_timeout_ms_max=limits.send_timeout_ms_max,
        ),
        budget=MemoryBudget(limits.request_memory_bytes_max),
    )
    return Server(
        "native",
        listener,
        connect,
        connections_max=limits.connections_max,
        drain_deadline_s=limits.drain_ms_max / 1000,
    )
