"""Send once: a message with an application's own id (`once-id`) is stored once within its topic's window.

Rules:
* A claim is a record of an internal compacted partition, in the same append as the message: after a crash both are
  there or neither, so the same id finds the first message whoever sends it, after restarts of producer and broker too.
* The window is `once.window.ms` and the last `once.ids.max` ids of the topic; over all topics IDS_MAX are kept, beyond
  which a topic that takes more forgets its own oldest. An id that is forgotten may be used again.
* A claim that is on its way counts: who comes second is told so when the first is durable. If the first is refused,
  the second is told to send again (CONTENDED), for its place has been given away.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from core.state import StateLog
from core.store.engine import Append, Engine
from core.topics import Topic
from trivium.records import Record

IDS_MAX: Final = 2_000_000
ID_BYTES_MAX: Final = 255
FORGOTTEN_PER_APPEND_MAX: Final = 10_000
SWEEP_S: Final = 1
_AT = struct.Struct(">q")
_TOPIC_ID_BYTES: Final = 16


@dataclass(slots=True)
class Claim:
    """`durable` None: on its way; False: refused."""

    message_id: str  # of the first; empty when that had none
    at_ms: int
    durable: bool | None = None


class Made(NamedTuple):
    """A claim that an append is to make."""

    key: bytes
    claim: Claim


class Once:
    """`load` once, then `run`."""

    def __init__(self, engine: Engine, partition: int) -> None:
        self._state = StateLog(engine, partition)
        self._topics: dict[bytes, OrderedDict[bytes, Claim]] = {}  # oldest first
        self._count = 0
        self._forgotten: deque[bytes] = deque()

    async def load(self) -> None:
        await self._state.load_records(self._apply)

    def _apply(self, record: Record) -> None:
        key = record.key or b""
        topic_id, once_id = key[:_TOPIC_ID_BYTES], key[_TOPIC_ID_BYTES:]
        if record.value is None:
            self._drop(topic_id, once_id)
            return
        (at_ms,) = _AT.unpack_from(record.value)
        self._put(topic_id, once_id, Claim(record.value[_AT.size :].decode(), at_ms, True))

    def _put(self, topic_id: bytes, once_id: bytes, claim: Claim) -> None:
        claims = self._topics.setdefault(topic_id, OrderedDict())
        self._count += once_id not in claims
        claims[once_id] = claim
        claims.move_to_end(once_id)

    def _drop(self, topic_id: bytes, once_id: bytes) -> None:
        claims = self._topics.get(topic_id)
        if claims is not None and claims.pop(once_id, None) is not None:
            self._count -= 1
            if not claims:
                del self._topics[topic_id]

    def claim(self, topic: Topic, once_id: bytes, message_id: str, now_ms: int) -> tuple[Claim, Made | None]:
        """The first claim of the id, and, when that is made now, what the append must carry (`entry`)."""
        settings = topic.settings
        claims = self._topics.get(topic.id)
        if claims is not None:
            self._forget(topic, lambda oldest: oldest.at_ms + settings.once_window_ms <= now_ms)
            found = claims.get(once_id)
            if found is not None:
                return found, None
            self._forget(topic, lambda _: len(claims) >= settings.once_ids_max or self._count >= IDS_MAX)
        claim = Claim(message_id, now_ms)
        self._put(topic.id, once_id, claim)
        return claim, Made(topic.id + once_id, claim)

    def _forget(self, topic: Topic, is_over: Callable[[Claim], bool]) -> None:
        """Forgets the oldest while `is_over` says so of it; not what is on its way."""
        claims = self._topics.get(topic.id)
        while claims:
            once_id, oldest = next(iter(claims.items()))
            if oldest.durable is None or not is_over(oldest):
                return
            self._drop(topic.id, once_id)
            self._forgotten.append(topic.id + once_id)

    def entry(self, made: Sequence[Made]) -> Append:
        """The claims as one entry of the append that stores their messages."""
        changes = [(key, _AT.pack(claim.at_ms) + claim.message_id.encode()) for key, claim in made]
        return self._state.entry(changes)._replace(unless_duplicate=True)

    def settle(self, made: Sequence[Made], durable: bool) -> None:
        """The append has been answered."""
        for key, claim in made:
            claim.durable = durable
            topic_id, once_id = key[:_TOPIC_ID_BYTES], key[_TOPIC_ID_BYTES:]
            claims = self._topics.get(topic_id)
            if not durable and claims is not None and claims.get(once_id) is claim:
                self._drop(topic_id, once_id)

    def topic_changed(self, topic: Topic, deleted: bool) -> None:
        """The ids of a topic that is gone are forgotten; fewer are kept when its window shrinks, at the next claim."""
        claims = self._topics.pop(topic.id, None) if deleted else None
        if claims is not None:
            self._count -= len(claims)
            self._forgotten.extend(topic.id + once_id for once_id in claims)

    async def run(self) -> None:
        """Takes what is forgotten out of the log, until cancelled. What a crash leaves is forgotten again."""
        while True:
            await trio.sleep(SWEEP_S)
            while self._forgotten:
                gone: dict[bytes, None] = {}
                while self._forgotten and len(gone) < FORGOTTEN_PER_APPEND_MAX:
                    key = self._forgotten.popleft()
                    if key[_TOPIC_ID_BYTES:] not in self._topics.get(key[:_TOPIC_ID_BYTES], {}):  # not claimed anew
                        gone[key] = None
                if gone:
                    await self._state.put([(key, None) for key in gone])
