"""Share groups (KIP-932): ShareGroupHeartbeat, ShareFetch, ShareAcknowledge. What is kept is core.share_groups' and
core.share_sessions'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from core.errors import CoreError, CoreFailure
from core.queue_batches import in_order
from core.queue_types import Handout, Verb
from core.share_sessions import Acknowledgement, Place, ShareSession
from core.topics import Topic
from core.tracing import Actor
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_groups import code
from gateway.protocols.kafka.messages import (
    Message,
    ShareAcknowledgeRequest,
    ShareAcknowledgeResponse,
    ShareFetchRequest,
    ShareFetchResponse,
    ShareGroupHeartbeatRequest,
    ShareGroupHeartbeatResponse,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

Beat = ShareGroupHeartbeatResponse
Fetched = ShareFetchResponse.PartitionData
Acknowledged = ShareAcknowledgeResponse.PartitionData
Batches = Iterable[ShareFetchRequest.AcknowledgementBatch | ShareAcknowledgeRequest.AcknowledgementBatch]

OPEN, CLOSE = 0, -1  # session epochs
_EPOCH_MAX: Final = 2**31 - 1
WAIT_MS_MAX: Final = 60_000
RECORDS_MAX: Final = 10_000  # acquired by one fetch, whatever it asks
# Of an acknowledgement's types: gap (the client found no record there), accept, release, reject, renew (version 2).
_VERBS: Final = {0: Verb.ACK, 1: Verb.ACK, 2: Verb.NACK, 3: Verb.REJECT, 4: Verb.EXTEND}


async def share_group_heartbeat(context: Context, request: Request) -> Message:
    body: ShareGroupHeartbeatRequest = request.body  # type: ignore[assignment]
    groups = context.broker.share_groups
    try:
        member, assignment = await groups.heartbeat(
            body.group_id,
            body.member_id,
            body.member_epoch,
            body.subscribed_topic_names,
            body.rack_id,
            request.client_id,
            request.client_host,
        )
    except CoreFailure as failure:
        return Beat(error_code=code(failure.error), error_message=failure.message)
    told = None
    if assignment is not None:
        told = Beat.Assignment(
            topic_partitions=[Beat.TopicPartitions(topic_id=one, partitions=parts) for one, parts in assignment.items()]
        )
    return Beat(
        error_code=ErrorCode.NONE,
        error_message=None,
        member_id=member.id,
        member_epoch=member.epoch,
        heartbeat_interval_ms=groups.configs.heartbeat_ms(body.group_id),
        assignment=told,
    )


class _SessionError(Exception):
    def __init__(self, error: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.error = error


def _session(
    context: Context, request: Request, group_id: str | None, member_id: str | None, epoch: int
) -> ShareSession:
    """The member's session, opened or moved on. Raises _SessionError."""
    sessions = context.broker.share_groups.sessions
    if epoch == OPEN:
        if not group_id or not member_id:
            raise _SessionError(ErrorCode.INVALID_REQUEST, "a share session is that of a member of a group")
        actor = Actor("kafka", request.client_id, request.client_host.removeprefix("/"))
        try:
            return sessions.open(group_id, member_id, actor, request.connection)
        except CoreFailure as failure:
            raise _SessionError(ErrorCode.SHARE_SESSION_LIMIT_REACHED, failure.message) from None
    session = sessions.find(group_id or "", member_id or "")
    if session is None:
        raise _SessionError(ErrorCode.SHARE_SESSION_NOT_FOUND, "there is no such share session")
    if epoch not in (CLOSE, session.epoch):
        raise _SessionError(ErrorCode.INVALID_SHARE_SESSION_EPOCH, f"epoch {epoch} where {session.epoch} was due")
    if epoch != CLOSE:
        session.epoch = epoch + 1 if epoch < _EPOCH_MAX else 1
    return session


def _lock_ms(context: Context, session: ShareSession) -> int:
    groups = context.broker.share_groups
    return groups.configs.policy(session.group_id).invisible_ms


def _acknowledgements(place: Place, batches: Batches) -> list[Acknowledgement] | None:
    """What a partition's batches mean; None when they contradict themselves."""
    found: list[Acknowledgement] = []
    for batch in batches:
        types, count = batch.acknowledge_types, batch.last_offset - batch.first_offset + 1
        if count < 1 or len(types) not in (1, count) or any(one not in _VERBS for one in types):
            return None
        if len(types) == 1:
            found.append(Acknowledgement(place, batch.first_offset, batch.last_offset, _VERBS[types[0]]))
            continue
        start = 0
        for at in range(1, count + 1):
            if at == count or types[at] != types[start]:
                first = batch.first_offset
                found.append(Acknowledgement(place, first + start, first + at - 1, _VERBS[types[start]]))
                start = at
    return found


def _record_error(error: CoreError | None) -> int:
    return ErrorCode.INVALID_RECORD_STATE if error is CoreError.RECEIPT_LATE else code(error)


# -- ShareAcknowledge


async def share_acknowledge(context: Context, request: Request) -> Message:
    body: ShareAcknowledgeRequest = request.body  # type: ignore[assignment]
    sessions = context.broker.share_groups.sessions
    if body.share_session_epoch == OPEN:
        return ShareAcknowledgeResponse(error_code=ErrorCode.INVALID_SHARE_SESSION_EPOCH)
    try:
        session = _session(context, request, body.group_id, body.member_id, body.share_session_epoch)
    except _SessionError as refused:
        return ShareAcknowledgeResponse(error_code=refused.error, error_message=str(refused))
    response = ShareAcknowledgeResponse(error_code=ErrorCode.NONE, error_message=None)
    wanted: list[Acknowledgement] = []
    answers: list[tuple[Place, Acknowledged]] = []
    for named in body.topics:
        topic = context.broker.topics.by_id(named.topic_id)
        parts: list[Acknowledged] = []
        for part in named.partitions:
            answer = Acknowledged(partition_index=part.partition_index)
            parts.append(answer)
            place = ("" if topic is None else topic.name, part.partition_index)
            found = _acknowledgements(place, part.acknowledgement_batches)
            if topic is None:
                answer.error_code = ErrorCode.UNKNOWN_TOPIC_ID
            elif found is None:
                answer.error_code = ErrorCode.INVALID_REQUEST
            else:
                wanted += found
                answers.append((place, answer))
        response.responses.append(
            ShareAcknowledgeResponse.ShareAcknowledgeTopicResponse(topic_id=named.topic_id, partitions=parts)
        )
    outcomes = await sessions.acknowledge(session, wanted)
    for place, answer in answers:
        answer.error_code = _record_error(outcomes.get(place))
    response.acquisition_lock_timeout_ms = _lock_ms(context, session)
    if body.share_session_epoch == CLOSE:
        sessions.close(session)
    return response


# -- ShareFetch


async def share_fetch(context: Context, request: Request) -> Message:
    body: ShareFetchRequest = request.body  # type: ignore[assignment]
    sessions = context.broker.share_groups.sessions
    acknowledges = any(part.acknowledgement_batches for named in body.topics for part in named.partitions)
    if body.share_session_epoch == OPEN and acknowledges:
        return ShareFetchResponse(
            error_code=ErrorCode.INVALID_REQUEST, error_message="a new session has acquired nothing"
        )
    try:
        session = _session(context, request, body.group_id, body.member_id, body.share_session_epoch)
    except _SessionError as refused:
        return ShareFetchResponse(error_code=refused.error, error_message=str(refused))
    answers: dict[Place, Fetched] = {}
    unknown = ShareFetchResponse(error_code=ErrorCode.NONE, error_message=None)
    wanted = _name_partitions(context, session, body, answers, unknown)
    for place, error in (await sessions.acknowledge(session, wanted)).items():
        answers[place].acknowledge_error_code = _record_error(error)
    handouts: list[Handout] = []
    if body.share_session_epoch == CLOSE:
        sessions.close(session)
    elif not body.is_renew_ack:
        sessions.forget_done(session)
        handouts = await _wait_for_some(context, request, session, body, wait=not wanted)
    by_place: dict[Place, list[Handout]] = {}
    for handout in handouts:
        by_place.setdefault((handout.topic, handout.partition), []).append(handout)
    for place, handed in by_place.items():
        _add(answers.setdefault(place, Fetched(partition_index=place[1], records=[])), handed)
    response = _by_topic(context, answers)
    response.responses += unknown.responses
    response.acquisition_lock_timeout_ms = _lock_ms(context, session)
    return response


def _name_partitions(
    context: Context,
    session: ShareSession,
    body: ShareFetchRequest,
    answers: dict[Place, Fetched],
    unknown: ShareFetchResponse,
) -> list[Acknowledgement]:
    """Takes what the request names into the session, and what it forgets out; returns what it acknowledges."""
    topics = context.broker.topics
    wanted: list[Acknowledgement] = []
    for named in body.topics:
        topic = topics.by_id(named.topic_id)
        bad: list[Fetched] = []
        for part in named.partitions:
            if topic is None or not _has(topic, part.partition_index):
                error = ErrorCode.UNKNOWN_TOPIC_ID if topic is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                bad.append(Fetched(partition_index=part.partition_index, error_code=error, records=[]))
                continue
            place = (topic.name, part.partition_index)
            session.places.add(place)
            if part.acknowledgement_batches:
                answer = answers.setdefault(place, Fetched(partition_index=part.partition_index, records=[]))
                found = _acknowledgements(place, part.acknowledgement_batches)
                if found is None:
                    answer.acknowledge_error_code = ErrorCode.INVALID_REQUEST
                else:
                    wanted += found
        if bad:
            unknown.responses.append(
                ShareFetchResponse.ShareFetchableTopicResponse(topic_id=named.topic_id, partitions=bad)
            )
    for forgotten in body.forgotten_topics_data:
        topic = topics.by_id(forgotten.topic_id)
        if topic is not None:
            session.places.difference_update((topic.name, index) for index in forgotten.partitions)
    return wanted


def _has(topic: Topic, index: int) -> bool:
    return 0 <= index < len(topic.partitions)


async def _wait_for_some(
    context: Context, request: Request, session: ShareSession, body: ShareFetchRequest, *, wait: bool
) -> list[Handout]:
    """What the member is handed, when it is something or the time is over. One that acknowledges is answered soon."""
    sessions, connection = context.broker.share_groups.sessions, request.connection
    records = min(body.max_records or RECORDS_MAX, RECORDS_MAX)
    size_bytes = min(body.max_bytes, context.fetch_bytes_max, connection.response_bytes_max)
    if not session.handouts:
        sessions.ask(session, records, max(size_bytes, 1))
        connection.waiting = session.news
        try:
            with trio.move_on_after((min(body.max_wait_ms, WAIT_MS_MAX) if wait else 0) / 1000):
                if not connection.draining:
                    await session.news.wait()
        finally:
            connection.waiting = None
            handouts = sessions.taken(session)
        return handouts
    return sessions.taken(session)


def _add(answer: Fetched, handouts: Sequence[Handout]) -> None:
    buffers: list[Any] = in_order(handouts)
    answer.records = buffers
    answer.acquired_records = [
        ShareFetchResponse.AcquiredRecords(first_offset=first, last_offset=last, delivery_count=handout.attempt)
        for handout in handouts
        for first, last in handout.ranges
    ]
    answer.acquired_records.sort(key=lambda one: one.first_offset)


def _by_topic(context: Context, answers: dict[Place, Fetched]) -> ShareFetchResponse:
    response = ShareFetchResponse(error_code=ErrorCode.NONE, error_message=None)
    topics: dict[str, ShareFetchResponse.ShareFetchableTopicResponse] = {}
    for (name, _), answer in answers.items():
        topic = context.broker.topics.get(name)
        if topic is None:
            continue  # deleted meanwhile
        if name not in topics:
            topics[name] = ShareFetchResponse.ShareFetchableTopicResponse(topic_id=topic.id, partitions=[])
            response.responses.append(topics[name])
        topics[name].partitions.append(answer)
    return response
