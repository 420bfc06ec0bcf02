"""The bounds of conversion: whatever has to look into compressed records holds them in memory, several times over.

A few threads convert for all connections together; what one batch may become follows the topic's `max.message.bytes`,
so that a legal batch that compressed well passes and a bomb does not. Peak memory is about THREADS_MAX times a few
times the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import trio

from core.topics import Topic
from gateway.protocols.kafka.incoming import RefusedBatch
from trivium.record_batch import BatchError

MIB = 1024 * 1024
THREADS_MAX = 2
IN_LINE_BYTES_MAX = 16 * 1024  # smaller ones are converted on the spot: a thread costs more
IN_LINE_DECODED_BYTES_MAX = 256 * 1024  # more than this holds up everybody else
DECODED_RATIO_MAX = 32  # of a batch to `max.message.bytes`
DECODED_BYTES_MIN = 8 * MIB  # what a batch may become in any topic
DECODED_BYTES_MAX = 128 * MIB  # and in none more

T = TypeVar("T")


def decoded_bytes_max(topic: Topic) -> int:
    """What the records of one batch of this topic may take decompressed."""
    asked = topic.settings.message_bytes_max * DECODED_RATIO_MAX
    return min(DECODED_BYTES_MAX, max(DECODED_BYTES_MIN, asked))


@cache
def _threads() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(THREADS_MAX)


async def in_thread(convert: Callable[[], T]) -> T:
    """Runs a conversion in one of THREADS_MAX threads."""
    return await trio.to_thread.run_sync(_without_frames, convert, limiter=_threads())


def _without_frames(convert: Callable[[], T]) -> T:
    """Calls it; a refusal is raised without the frames it came through, for they hold what was decompressed."""
    try:
        return convert()
    except (BatchError, RefusedBatch) as error:
        error.__context__ = None
        raise error.with_traceback(None) from None
