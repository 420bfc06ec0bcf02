"""Spreading a worker thread's reading and writing over time."""

from __future__ import annotations

import time

import trio

_PAUSE_S_MAX = 0.1  # so often it looks whether it was cancelled


class Pace:
    """Called in the thread with the bytes read or written; waits its share of time. 0: no limit.

    Raises Cancelled when the task that waits for the thread was cancelled.
    """

    def __init__(self, bytes_per_s_max: int) -> None:
        self._rate = bytes_per_s_max
        self._due = time.monotonic()

    def __call__(self, size: int) -> None:
        trio.from_thread.check_cancelled()
        if not self._rate:
            return
        now = time.monotonic()
        self._due = max(self._due, now - _PAUSE_S_MAX) + size / self._rate
        while (pause := self._due - time.monotonic()) > 0:
            time.sleep(min(pause, _PAUSE_S_MAX))
            trio.from_thread.check_cancelled()
