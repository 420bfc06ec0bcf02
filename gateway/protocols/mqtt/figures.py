"""The broker's figures for `$SYS`, by mosquitto's names."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from core.retained import RetainedTable
from core.store.engine import Engine
from core.topics import Topics
from gateway.protocols.mqtt.broker_handler import BrokerHandler
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.pump import Pump

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_figures(
    engine: Engine, topics: Topics, handler: BrokerHandler, deliveries: Deliveries, retained: RetainedTable, pump: Pump
) -> dict[str, int]:
    """Counters since the start and gauges. `store` and `messages/stored` are the log of the topics that devices see."""
    traffic = pump.outbox
    sessions = handler.sessions
    stored = [
        engine.info(number)
        for topic in topics.all()
        for number in topic.partitions
        if deliveries.subscribers.visible(number) is not None
    ]
    return {
        "bytes/received": pump.bytes_in,
        "bytes/sent": pump.bytes_out,
        "clients/connected": sessions.connected,
        "clients/disconnected": len(sessions) - sessions.connected,
        "clients/expired": sessions.expired,
        "clients/total": len(sessions),
        "connections/count": traffic.connects_in,
        "connections/socket/count": pump.accepting.accepted,
        "heap/current": _resident_bytes(),
        "messages/received": traffic.packets_in,
        "messages/sent": traffic.controls_out + traffic.publishes_out,
        "messages/stored": sum(info.high_watermark - info.log_start for info in stored),
        "publish/bytes/received": handler.publish_bytes_in,
        "publish/bytes/sent": traffic.publish_bytes_out,
        "publish/messages/dropped": traffic.dropped + deliveries.catching_up.cut,
        "publish/messages/received": handler.publishes_in,
        "publish/messages/sent": traffic.publishes_out,
        "retained messages/count": retained.count,
        "shared_subscriptions/count": len(deliveries.subscribers.groups),
        "store/messages/bytes": sum(info.size_bytes for info in stored),
        "subscriptions/count": deliveries.subscribers.index.count,
    }


def _resident_bytes() -> int:
    """The process's own resident memory, without the pages of files that it has mapped (the log's among them); what it
    had at its peak, with them, where the system does not say."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
        return (resident - shared) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
