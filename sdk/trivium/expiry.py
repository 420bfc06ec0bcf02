"""Time to live: who reads leaves out what came too late (header `trivium.expiry-s`), by its own machine's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trivium.headers import EXPIRY_S

DIGITS_MAX = 10


def is_expired(headers: Sequence[tuple[str, bytes | None]], timestamp_ms: int) -> bool:
    for name, value in headers:
        if name == EXPIRY_S and value is not None and value.isdigit() and len(value) <= DIGITS_MAX:
            return time.time() * 1000 >= timestamp_ms + int(value) * 1000
    return False
