"""Reading a backlog from the disk gives way to appends, while both together ask for more than the processors have.

A consumer that catches up takes all it can get: its own processor, the broker's and the disk. Where they share a
machine, or the loop or the disk is busy all the time, producers pay for it. So meanwhile a reader gets RATIO times what
is appended, but always BYTES_PER_S_MIN, and thus catches up in any case; reads of what is in memory are not held up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

RATIO: Final = 1.5
BYTES_PER_S_MIN: Final = 96 * 1024 * 1024
PAUSE_S_MAX: Final = 0.25
BUSY_MIN: Final = 0.9  # of the time: the loop runs, or waits for a processor, or appends for the disk
APPENDED_BYTES_PER_S_MIN: Final = 16 * 1024 * 1024  # less does not need much of anything
WINDOW_S: Final = 0.2  # looked at again after so long
FORGOTTEN_S: Final = 2.0
_SCHEDSTAT: Final = "/proc/thread-self/schedstat"  # ns on a processor, ns waiting for one, slices


class ReadPace:
    """`appended_bytes` is what has been appended so far, `sync_s` how long appends have waited for the disk.

    On the trio thread.
    """

    def __init__(self, appended_bytes: Callable[[], int], sync_s: Callable[[], float]) -> None:
        self._appended_bytes = appended_bytes
        self._sync_s = sync_s
        self._looked_s = self._busy_s = float("-inf")
        self._looked_bytes = 0
        self._bytes_per_s = 0.0  # 0: no limit

    def load_s_min(self, size_bytes: int) -> float:
        """How long one reader's load of so many bytes has to take."""
        now = time.monotonic()
        since = now - self._looked_s
        if since >= WINDOW_S:
            busy_s, appended = _busy_s() + self._sync_s(), self._appended_bytes()
            rate = (appended - self._looked_bytes) / since
            pressed = busy_s - self._busy_s >= BUSY_MIN * since and rate >= APPENDED_BYTES_PER_S_MIN
            known = since < FORGOTTEN_S
            self._bytes_per_s = max(BYTES_PER_S_MIN, RATIO * rate) if known and pressed else 0.0
            self._looked_s, self._busy_s, self._looked_bytes = now, busy_s, appended
        return min(PAUSE_S_MAX, size_bytes / self._bytes_per_s) if self._bytes_per_s else 0.0


def _busy_s() -> float:
    """Seconds for which this thread has run or waited for a processor; only run, where the system tells no more."""
    try:
        with open(_SCHEDSTAT) as file:
            ran_ns, waited_ns, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9
