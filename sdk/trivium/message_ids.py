"""Message ids as the SDK makes them: known before the broker is, unique without asking anyone.

An id is a random prefix of the producer (80 bits) and a counter: 16 characters of base 32, a dot, the number in base 36
(as short as it can be, because it travels with every record).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from itertools import count
from typing import Final

from trivium.headers import MESSAGE_ID

Header = tuple[str, bytes | None]
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def message_ids() -> Iterator[str]:
    """Each `next` is an id that no one else makes."""
    prefix = base64.b32encode(secrets.token_bytes(10)).decode().lower() + "."
    yield from (prefix + digit for digit in _DIGITS)
    for front in count(1):  # what stands before the last digit: made once for 36 ids
        start = prefix + _base36(front)
        for digit in _DIGITS:
            yield start + digit


def take_id(headers: list[Header]) -> tuple[str, list[Header]]:
    """A message's id (empty when it has none), and its other headers."""
    for at, (name, value) in enumerate(headers):
        if name == MESSAGE_ID and value:
            return value.decode(errors="replace"), headers[:at] + headers[at + 1 :]
    return "", headers


def _base36(number: int) -> str:
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
        if not number:
            return text
