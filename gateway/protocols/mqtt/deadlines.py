"""What is due for clients that are away, and when: one thing for each client."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """A table client id -> what is due at a time; times are in seconds of one clock."""

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, T]] = {}
        self._order: list[tuple[float, str]] = []  # a heap; entries that `_due` does not bear out are passed over

    def put(self, client_id: str, due_s: float, item: T) -> None:
        """Sets or replaces what is due for a client."""
        self._due[client_id] = due_s, item
        heapq.heappush(self._order, (due_s, client_id))
        if len(self._order) > 2 * len(self._due) + 1_000:
            self._order = [(due, name) for name, (due, _) in self._due.items()]
            heapq.heapify(self._order)

    def take(self, client_id: str) -> T | None:
        """Takes back what is due for a client."""
        found = self._due.pop(client_id, None)
        return None if found is None else found[1]

    def due_of(self, client_id: str) -> float | None:
        """When something is due for a client."""
        found = self._due.get(client_id)
        return None if found is None else found[0]

    def take_due(self, now_s: float) -> list[tuple[str, T]]:
        """What is due by now, in the order of its times."""
        found: list[tuple[str, T]] = []
        while self._order and self._order[0][0] <= now_s:
            due_s, client_id = heapq.heappop(self._order)
            held = self._due.get(client_id)
            if held is not None and held[0] == due_s:
                del self._due[client_id]
                found.append((client_id, held[1]))
        return found
