"""Message ids as the SDK makes them: known before the broker is, unique without asking anyone.

An id is a random prefix of the producer (80 bits) and a counter: 16 characters of base 32, a dot, the number in base 36
(as short as it can be, because it travels with every record).
"""

from __future__ import annotations

import base64
import secrets
from itertools import count
from typing import Final

from trivium.headers import MESSAGE_ID

Header = tuple[str, bytes | None]
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class MessageIds:
    """Iterate over it: each `next` is an id that no one else makes."""

    def __init__(self) -> None:
        self._prefix = base64.b32encode(secrets.token_bytes(10)).decode().lower() + "."
        self._numbers = count()

    def __iter__(self) -> MessageIds:
        return self

    def __next__(self) -> str:
        return self._prefix + _base36(next(self._numbers))


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
