"""What the processes of the native crash run do, which are killed as the broker is: members of queue groups, readers,
copiers, producers of half messages. They say in a file what they do (`Journal`); each word of a line is written before
what it says is asked, or after it was answered.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import trivium
from trivium.handouts import Message

ATTEMPTS_MAX = 4
SETTLED_BY_TIME_S = 0.6  # of half messages that their producer leaves to the check-back for a while
_REFUSED_FOR_NOW = (trivium.ErrorCode.STORE_FULL, trivium.ErrorCode.STORE_FAILED)


class Topics(NamedTuple):
    """Of a generation: what is sent, copied, and half sent."""

    plain: str
    copies: str
    halves: str


class Journal:
    """Lines of one file that all processes append to. `resting`: a file that is there while nothing new is begun."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._resting = directory / "rest"

    def say(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def say_of(self, verb: str, group: str, message: Message) -> None:
        key = (message.key or b"-").decode()
        self.say(verb, group, message.partition, message.offset, message.handout.lease, key)

    @property
    def is_resting(self) -> bool:
        return self._resting.exists()


def may_pass(refused: trivium.RequestRefused) -> bool:
    """Whether the disk was full."""
    return refused.code in _REFUSED_FOR_NOW


def fate_of(message: Message) -> str:
    """What a member does with it: `ack`, `nack`, `postpone` or `reject`. Some messages fail whenever they come."""
    number = zlib.crc32(b"%d/%d" % (message.partition, message.offset))
    if number % 60 == 0:
        return "nack"
    if message.attempt > 1 or message.handout.lease % 2:  # what was postponed comes as the first attempt again
        return "ack"
    return {1: "reject", 2: "nack", 3: "nack", 4: "nack", 5: "postpone", 6: "postpone"}.get(number % 60, "ack")


def is_committed(value: str) -> bool:
    """What becomes of a half message: the local database of its producers, which they all know."""
    return zlib.crc32(value.encode()) % 3 != 0


def check(journal: Journal, half: trivium.HalfMessage) -> int:
    """The answer of a producer that is asked."""
    value = (half.value or b"").decode()
    if (zlib.crc32(value.encode()) + half.checks) % 4 == 0:
        return trivium.DO_NOT_KNOW
    journal.say("said", value, now_ms())
    return trivium.COMMIT if is_committed(value) else trivium.ROLL_BACK


def now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000
