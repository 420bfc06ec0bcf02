"""One bound on the bytes that the peers of a listener keep in the broker's memory, over all connections together.

What is *held* stays until the peer does something: half-received requests, long polls, answers that it does not read.
Only bytes that are really there count, so a peer that announces much and sends nothing holds nothing. At the limit the
connection that holds the most is cut: it is the one whose loss frees the most, and whoever sends ordinary requests is
never the heaviest.

What is *pending* the broker itself will finish (batches on their way to the disk): nobody is cut for it, but while it
takes more than half of the bound, nothing further is read.
"""

from __future__ import annotations

from collections.abc import Callable


class MemoryBudget:
    """Counts held bytes by holder; `cut` of the heaviest is called when held and pending pass `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: dict[Callable[[], None], int] = {}
        self._sum_bytes = 0
        self._pending_bytes = 0
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def held_bytes(self) -> int:
        return self._sum_bytes

    @property
    def room_bytes(self) -> int:
        """What may still be held."""
        return max(0, self._bytes_max - self._sum_bytes - self._pending_bytes)

    @property
    def full(self) -> bool:
        """Whether so much is pending that nothing further should be read."""
        return self._pending_bytes * 2 > self._bytes_max

    def hold(self, cut: Callable[[], None], size_bytes: int) -> None:
        """`cut`, which identifies the holder, now holds `size_bytes` (0: nothing any more)."""
        self._sum_bytes += size_bytes - self._held.pop(cut, 0)
        if size_bytes:
            self._held[cut] = size_bytes
        while self._sum_bytes + self._pending_bytes > self._bytes_max and self._held:
            heaviest = max(self._held, key=self._held.__getitem__)
            self._sum_bytes -= self._held.pop(heaviest)
            heaviest()

    def begin(self, size_bytes: int) -> None:
        """A request of `size_bytes` is being handled, until `end`."""
        self._pending_bytes += size_bytes

    def end(self, size_bytes: int) -> None:
        self._pending_bytes -= size_bytes
        if self._waiting and not self.full:
            waiting, self._waiting = self._waiting, {}
            for wake in waiting:
                wake()

    def call_when_not_full(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once, when less is pending."""
        self._waiting[wake] = None
