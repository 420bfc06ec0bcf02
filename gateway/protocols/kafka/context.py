"""What Kafka handlers share: the core, this broker's place in the cluster that clients see, and the limits that
answers keep.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.broker import Broker
from gateway.protocols.kafka.broker_configs import BrokerConfig
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.fetch_sessions import FetchSessions


@dataclass(slots=True)
class Context:
    """One per Kafka listener. `host` and `port` are what clients are told to connect to."""

    broker: Broker
    node_id: int
    host: str
    port: int
    fetch_sessions: FetchSessions
    fetch_bytes_max: int
    broker_configs: Mapping[str, BrokerConfig] = field(default_factory=dict)  # what DescribeConfigs says of the broker

    def now_ms(self) -> int:
        """Monotonic milliseconds, for time-outs."""
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, for what is stored and shown."""
        return time.time_ns() // 1_000_000

    def check_leader_epoch(self, epoch: int) -> ErrorCode:
        """Whether a client's idea of the leader epoch is ours (KIP-320); -1 is no idea."""
        if epoch < 0 or epoch == self.broker.engine.epoch:
            return ErrorCode.NONE
        return ErrorCode.FENCED_LEADER_EPOCH if epoch < self.broker.engine.epoch else ErrorCode.UNKNOWN_LEADER_EPOCH
