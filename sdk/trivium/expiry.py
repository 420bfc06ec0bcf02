"""Time to live: who reads leaves out what came too late (header `trivium.expiry-s`), by its own machine's clock.

It is looked at when a message is given to the application, which may be long after it came here. Where the header is
there twice, as when a message is sent on with a time to live of its own, the last one counts, as for devices.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from trivium.headers import EXPIRY_S

DIGITS_MAX = 10


def is_expired(headers: Sequence[tuple[str, bytes | None]], timestamp_ms: int) -> bool:
    for name, value in reversed(headers):
        if name == EXPIRY_S and value is not None and value.isdigit() and len(value) <= DIGITS_MAX:
            return time.time() * 1000 >= timestamp_ms + int(value) * 1000
    return False


def can_expire(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether it is worth while to ask again."""
    return any(name == EXPIRY_S for name, _ in headers)
