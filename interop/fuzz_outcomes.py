"""What became of connections over which somebody sent what no client should; and numbers to send."""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

Address = tuple[str, int]
Attack = Callable[[Address, float], str]
"""Of a listener, at a scale: 1 is the full size. Returns a line of what was seen; raises AssertionError when the broker
answered otherwise than it should.
"""

MIB: Final = 1024 * 1024
TIMEOUT_S: Final = 120.0
HOSTILE: Final = tuple(
    map(bytes.fromhex, ("ffffffff0f", "feffffff07", "7fffffff", "80000000", "ffff", "7fff", "ffffffffff", "00"))
)


def watch(sockets: Sequence[socket.socket], wait_s: float) -> Counter[str]:
    """How many are answered, closed, or let wait."""
    seen: Counter[str] = Counter()
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        deadline = time.monotonic() + wait_s
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                try:
                    seen["answered" if key.fileobj.recv(1) else "closed"] += 1  # type: ignore[union-attr]
                except ConnectionError:
                    seen["closed"] += 1
        seen["waiting"] = len(selector.get_map())
    return seen
