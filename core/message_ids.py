"""The id of a message: one text that stays with it wherever it goes.

The rule:
* The SDK makes it and sends it as header `trivium.id`, so it is known before the broker answers. Whoever else sets that
  header has chosen the id.
* A record that came without one and that the broker moves (schedule, half message, retry, dead letters) gets, when it
  is moved, the id of the place where it was first stored: cluster, engine partition (a number never used again) and
  its number there. From then on the header carries it.
* Whatever moves a record keeps the header: the first one that can be read counts, nobody replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trivium.headers import MESSAGE_ID

ID_BYTES_MAX: Final = 255

Header = tuple[str, bytes | None]


def id_of(headers: Sequence[Header]) -> str | None:
    """The id that a record carries, None when it carries none (or one that is too long, empty or no text)."""
    for name, value in headers:
        if name == MESSAGE_ID and value and len(value) <= ID_BYTES_MAX:
            try:
                return value.decode()
            except UnicodeDecodeError:
                continue
    return None


def place_id(cluster_id: str, partition: int, number: int) -> str:
    """The id of a record first stored at `number` (its offset, or its number in a schedule) of an engine partition."""
    return f"{cluster_id}.{partition}.{number}"


def with_id(headers: Sequence[Header], message_id: str) -> list[Header]:
    """The headers of a record that is moved: they carry an id, `message_id` unless they had one."""
    if id_of(headers) is not None:
        return list(headers)
    kept = [header for header in headers if header[0] != MESSAGE_ID]
    return [*kept, (MESSAGE_ID, message_id.encode())]
