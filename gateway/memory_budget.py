"""One bound on the bytes of half-received requests over all connections of a listener.

Only bytes that have arrived count, so a peer that announces much and sends nothing holds nothing. At the limit the
connection that holds the most is cut: it is the one whose loss frees the most, and whoever sends ordinary requests is
never the heaviest.
"""

from __future__ import annotations

from collections.abc import Callable


class MemoryBudget:
    """Counts held bytes by holder; `cut` of the heaviest is called when the sum passes `held_bytes_max`."""

    def __init__(self, held_bytes_max: int) -> None:
        self._held_bytes_max = held_bytes_max
        self._held: dict[Callable[[], None], int] = {}
        self._sum_bytes = 0

    @property
    def held_bytes(self) -> int:
        return self._sum_bytes

    def hold(self, cut: Callable[[], None], size_bytes: int) -> None:
        """`cut`, which identifies the holder, now holds `size_bytes` (0: nothing any more)."""
        self._sum_bytes += size_bytes - self._held.pop(cut, 0)
        if size_bytes:
            self._held[cut] = size_bytes
        while self._sum_bytes > self._held_bytes_max and self._held:
            heaviest = max(self._held, key=self._held.__getitem__)
            self._sum_bytes -= self._held.pop(heaviest)
            heaviest()
