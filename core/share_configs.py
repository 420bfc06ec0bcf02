"""What is configured for a share group, as Kafka's group configs of KIP-932 say it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from core.dynamic_configs import (
    SHARE_HEARTBEAT,
    SHARE_ISOLATION,
    SHARE_LOCK,
    SHARE_RESET,
    SHARE_SESSION,
    DynamicConfigs,
    Scope,
    share_start,
)
from core.queue_group import QueueGroup
from core.queue_types import START_EARLIEST, START_LATEST, Policy

ATTEMPTS_MAX: Final = 5


class ShareConfigs:
    """Reads the table of configs anew each time, so that a change counts at once."""

    def __init__(self, configs: DynamicConfigs) -> None:
        self._configs = configs

    def session_ms(self, group_id: str) -> int:
        """How long a member may be silent."""
        return self._configs.share_number(group_id, SHARE_SESSION)

    def heartbeat_ms(self, group_id: str) -> int:
        return self._configs.share_number(group_id, SHARE_HEARTBEAT)

    def start(self, group_id: str) -> int:
        """Where a new group begins: START_EARLIEST, START_LATEST or wall-clock ms."""
        start = share_start(self._configs.get(Scope.GROUP, group_id).get(SHARE_RESET, "latest"))
        if isinstance(start, int):
            return max(int(time.time() * 1000) - start, 0)
        return START_EARLIEST if start == "earliest" else START_LATEST

    def policy(self, group_id: str) -> Policy:
        """What a new group is made with."""
        lock_ms = self._configs.share_number(group_id, SHARE_LOCK)
        return Policy(invisible_ms=lock_ms, attempts_max=ATTEMPTS_MAX, backoff_ms=(0,), rejoin_ms=0)

    def tune(self, group: QueueGroup) -> None:
        """Gives a queue group what is configured for it, or Kafka's default: that is what its consumers are told."""
        isolation = self._configs.get(Scope.GROUP, group.id).get(SHARE_ISOLATION)
        group.committed_only = isolation == "read_committed"
        lock_ms = self._configs.share_number(group.id, SHARE_LOCK)
        group.policy = replace(group.policy, invisible_ms=lock_ms)
