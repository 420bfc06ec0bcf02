"""Incremental fetch sessions (KIP-227): the broker remembers which partitions a consumer fetches, so that a poll names
only what changed.

A session is (id, epoch). Epoch 0 asks for a new one, -1 for none (and ends the one named); every answered poll raises
the epoch by one, wrapping from 2^31-1 to 1. At `sessions_max` a new session takes the place of the one idle longest,
if that has been idle for `idle_ms_max`; otherwise the consumer is served without one, which it must accept at any
time.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.protocols.kafka.errors import ErrorCode

NO_EPOCH = -1
NEW_EPOCH = 0
_EPOCH_MAX = 2**31 - 1

Key = tuple[str, bytes, int]  # topic name ("" when the request named ids), topic id, partition index


@dataclass(slots=True)
class FetchPartition:
    """What one consumer wants of one partition, and what it was last told of it."""

    name: str
    topic_id: bytes
    index: int
    offset: int
    bytes_max: int
    leader_epoch: int
    last_fetched_epoch: int
    sent_high_watermark: int = -1
    sent_log_start: int = -1
    sent_error: int = 0

    @property
    def key(self) -> Key:
        return (self.name, self.topic_id, self.index)


class FetchSession:
    """The partitions of one consumer's polls, in the order in which they are served next."""

    def __init__(self, session_id: int, by_id: bool, partitions: Iterable[FetchPartition]) -> None:
        self.id = session_id
        self.epoch = 1
        self.by_id = by_id
        self.used_ms = 0
        self.partitions: OrderedDict[Key, FetchPartition] = OrderedDict((wanted.key, wanted) for wanted in partitions)

    def update(self, wanted: Iterable[FetchPartition], forgotten: Iterable[Key]) -> None:
        """Applies what an incremental request names."""
        for new in wanted:
            known = self.partitions.get(new.key)
            if known is None:
                self.partitions[new.key] = new
            else:
                known.offset, known.bytes_max = new.offset, new.bytes_max
                known.leader_epoch, known.last_fetched_epoch = new.leader_epoch, new.last_fetched_epoch
        for key in forgotten:
            self.partitions.pop(key, None)

    def served(self, key: Key) -> None:
        """A partition that got data goes to the end of the line, so that a byte limit starves nobody."""
        if key in self.partitions:
            self.partitions.move_to_end(key)


class FetchSessions:
    """All sessions of the broker, bounded by `sessions_max`."""

    def __init__(self, sessions_max: int, idle_ms_max: int) -> None:
        self._sessions_max = sessions_max
        self._idle_ms_max = idle_ms_max
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()  # idle longest first

    def __len__(self) -> int:
        return len(self._sessions)

    def close(self, session_id: int) -> None:
        self._sessions.pop(session_id, None)

    def open(self, by_id: bool, partitions: list[FetchPartition], now_ms: int) -> FetchSession | None:
        """A new session with these partitions, None when there is no place for one (or nothing to remember)."""
        if not partitions:
            return None
        if len(self._sessions) >= self._sessions_max:
            oldest = next(iter(self._sessions.values()))
            if now_ms - oldest.used_ms < self._idle_ms_max:
                return None
            del self._sessions[oldest.id]
        session_id = 0
        while session_id == 0 or session_id in self._sessions:
            session_id = secrets.randbelow(_EPOCH_MAX) + 1
        session = FetchSession(session_id, by_id, partitions)
        session.used_ms = now_ms
        self._sessions[session_id] = session
        return session

    def resume(self, session_id: int, epoch: int, by_id: bool, now_ms: int) -> FetchSession | ErrorCode:
        """The session that an incremental request continues, its epoch raised; or the error that makes the consumer
        start anew.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if session.epoch != epoch:
            return ErrorCode.INVALID_FETCH_SESSION_EPOCH
        if session.by_id != by_id:
            return ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
        session.epoch = 1 if epoch == _EPOCH_MAX else epoch + 1
        session.used_ms = now_ms
        self._sessions.move_to_end(session_id)
        return session
