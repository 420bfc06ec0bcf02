from __future__ import annotations

import pytest

from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.fetch_sessions import FetchPartition, FetchSession, FetchSessions

NO_ID = bytes(16)


def partition(index: int, offset: int = 0) -> FetchPartition:
    return FetchPartition("t", NO_ID, index, offset, 100, -1, -1)


def opened(sessions: FetchSessions, now_ms: int = 0) -> FetchSession:
    session = sessions.open(False, [partition(0)], now_ms)
    assert session is not None
    return session


def test_a_session_continues_only_in_epoch_order() -> None:
    sessions = FetchSessions(10, 1000)
    session = opened(sessions)
    assert sessions.resume(session.id, 1, False, 1) is session
    assert sessions.resume(session.id, 1, False, 1) is ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert sessions.resume(session.id, 2, False, 1) is session


def test_the_epoch_wraps_to_one() -> None:
    sessions = FetchSessions(10, 1000)
    session = opened(sessions)
    session.epoch = 2**31 - 1
    assert sessions.resume(session.id, 2**31 - 1, False, 1) is session
    assert sessions.resume(session.id, 1, False, 1) is session


def test_unknown_and_closed_sessions_make_the_consumer_start_anew() -> None:
    sessions = FetchSessions(10, 1000)
    assert sessions.resume(7, 1, False, 0) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    session = opened(sessions)
    sessions.close(session.id)
    assert sessions.resume(session.id, 1, False, 0) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_a_session_by_name_does_not_go_on_by_id() -> None:
    sessions = FetchSessions(10, 1000)
    assert sessions.resume(opened(sessions).id, 1, True, 0) is ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR


def test_only_an_idle_session_gives_up_its_place() -> None:
    sessions = FetchSessions(2, 1000)
    first, second = opened(sessions, 0), opened(sessions, 0)
    assert sessions.open(False, [partition(0)], 999) is None
    sessions.resume(first.id, 1, False, 900)
    third = opened(sessions, 1000)
    assert sessions.resume(second.id, 1, False, 1000) is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert sessions.resume(third.id, 1, False, 1000) is third
    assert len(sessions) == 2


def test_no_session_without_partitions() -> None:
    assert FetchSessions(2, 1000).open(False, [], 0) is None


@pytest.mark.parametrize("served", [0, 1])
def test_updates_forgetting_and_turns(served: int) -> None:
    session = FetchSession(1, False, [partition(0), partition(1)])
    session.update([partition(0, 5), partition(2)], [("t", NO_ID, 1 - served)])
    assert [wanted.index for wanted in session.partitions.values()] == [served, 2]
    session.served(("t", NO_ID, served))
    assert [wanted.index for wanted in session.partitions.values()] == [2, served]
