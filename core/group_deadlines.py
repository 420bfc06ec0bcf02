"""When groups are to be looked at: one heap, in which a group stands with its earliest deadline.

A deadline that moves away leaves its entry, which fires once for nothing; that is cheaper than moving it with each
heartbeat.
"""

from __future__ import annotations

import heapq

from core.group_classic import NEVER
from core.group_replay import Group


class GroupDeadlines:
    """Times are monotonic milliseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    @property
    def next_ms(self) -> float:
        return self._heap[0][0] if self._heap else NEVER

    def put(self, group: Group, deadline_ms: float) -> bool:
        """A deadline before the one the group has. True: it is the next of all."""
        group.armed_ms = deadline_ms
        heapq.heappush(self._heap, (deadline_ms, group.id))
        return self._heap[0][0] == deadline_ms

    def take_due(self, now_ms: int, table: dict[str, Group]) -> Group | None:
        """The next group whose deadline has come; it has none then."""
        while self._heap and self._heap[0][0] <= now_ms:
            deadline_ms, group_id = heapq.heappop(self._heap)
            group = table.get(group_id)
            if group is not None and group.armed_ms == deadline_ms:
                group.armed_ms = NEVER
                return group
        return None
