"""Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete, and TxnOffsetCommit's offsets.

Topics are named by id from OffsetCommit 10 and OffsetFetch 10 on (KIP-848). Only partitions that exist can be
committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import CoreError, CoreFailure
from core.offset_record import Offset
from core.offsets import CommitRequest, OffsetToCommit
from core.topics import Topic
from core.trace_commits import CommitTrace
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_groups import Answer, code
from gateway.protocols.kafka.messages import (
    Message,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)
from gateway.protocols.kafka.traces import actor_of

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

Place = tuple[str, int]


class _CommitAnswer(Answer[tuple[CoreError | None, list[CoreError | None]]]):
    """The error of the whole request, or one (or none) for each offset."""

    def reply_each(self, error: CoreError | None, errors: list[CoreError | None]) -> None:
        self.reply((error, errors))


def _has(topic: Topic | None, partition: int) -> bool:
    return topic is not None and 0 <= partition < len(topic.partitions)


# -- commit


def commit_code(error: CoreError | None) -> ErrorCode:
    """As Kafka when its log of offsets cannot be written: clients ask again."""
    if error in (CoreError.STORE_FULL, CoreError.STORE_FAILED):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    return code(error)


async def offset_commit(context: Context, request: Request) -> Message:
    body: OffsetCommitRequest = request.body  # type: ignore[assignment]
    by_id = request.version >= 10
    response = OffsetCommitResponse(topics=[])
    offsets: list[OffsetToCommit] = []
    waiting: list[OffsetCommitResponse.OffsetCommitResponsePartition] = []
    for wanted in body.topics:
        topic = context.broker.topics.by_id(wanted.topic_id) if by_id else context.broker.topics.get(wanted.name)
        unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id and topic is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        answers = []
        for part in wanted.partitions:
            answer = OffsetCommitResponse.OffsetCommitResponsePartition(
                partition_index=part.partition_index, error_code=unknown
            )
            answers.append(answer)
            if topic is not None and _has(topic, part.partition_index):
                waiting.append(answer)
                offsets.append(
                    OffsetToCommit(
                        topic.name,
                        part.partition_index,
                        part.committed_offset,
                        part.committed_leader_epoch,
                        part.committed_metadata,
                        part.commit_timestamp,
                    )
                )
        response.topics.append(
            OffsetCommitResponse.OffsetCommitResponseTopic(
                name=wanted.name, topic_id=wanted.topic_id, partitions=answers
            )
        )
    if not offsets:
        return response
    asked = CommitRequest(
        body.group_id,
        body.member_id,
        body.group_instance_id,
        body.generation_id_or_member_epoch,
        offsets,
        body.retention_time_ms,
        knows_epochs=request.version >= 9,
    )
    committed = _CommitAnswer()
    broker = context.broker
    trace = CommitTrace(broker.tracer, broker.topics, broker.offsets, body.group_id, offsets)
    broker.offsets.commit(asked, committed.reply_each, context.now_ms())
    error, errors = await committed.wait()
    trace.done(errors or [error] * len(waiting), actor_of(request))
    for answer, one in zip(waiting, errors or [error] * len(waiting), strict=True):
        answer.error_code = commit_code(one)
    return response


async def txn_offsets(context: Context, request: Request) -> TxnOffsetCommitResponse:
    """TxnOffsetCommit's offsets, once the transaction itself has been checked."""
    body: TxnOffsetCommitRequest = request.body  # type: ignore[assignment]
    response = TxnOffsetCommitResponse(topics=[])
    offsets: list[OffsetToCommit] = []
    waiting: list[TxnOffsetCommitResponse.TxnOffsetCommitResponsePartition] = []
    for wanted in body.topics:
        topic = context.broker.topics.get(wanted.name)
        answers = []
        for part in wanted.partitions:
            answer = TxnOffsetCommitResponse.TxnOffsetCommitResponsePartition(
                partition_index=part.partition_index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            )
            answers.append(answer)
            if _has(topic, part.partition_index):
                waiting.append(answer)
                offsets.append(
                    OffsetToCommit(
                        wanted.name,
                        part.partition_index,
                        part.committed_offset,
                        part.committed_leader_epoch,
                        part.committed_metadata,
                    )
                )
        response.topics.append(
            TxnOffsetCommitResponse.TxnOffsetCommitResponseTopic(name=wanted.name, partitions=answers)
        )
    if not offsets:
        return response
    asked = CommitRequest(body.group_id, body.member_id, body.group_instance_id, body.generation_id, offsets)
    committed = _CommitAnswer()
    context.broker.offsets.commit_pending(body.producer_id, asked, committed.reply_each, context.now_ms())
    error, errors = await committed.wait()
    for answer, one in zip(waiting, errors or [error] * len(waiting), strict=True):
        answer.error_code = commit_code(one)
    return response


# -- fetch

Fetched = OffsetFetchResponse.OffsetFetchResponsePartitions


async def offset_fetch(context: Context, request: Request) -> Message:
    """Before version 8 a request is about one group, and before version 2 errors stand with each partition."""
    body: OffsetFetchRequest = request.body  # type: ignore[assignment]
    if request.version >= 8:
        groups = [_fetch_group(context, group, body.require_stable, request.version) for group in body.groups]
        return OffsetFetchResponse(groups=groups)
    topics = None
    if body.topics is not None:
        topics = [
            OffsetFetchRequest.OffsetFetchRequestTopics(name=topic.name, partition_indexes=topic.partition_indexes)
            for topic in body.topics
        ]
    wanted = OffsetFetchRequest.OffsetFetchRequestGroup(
        group_id=body.group_id, member_id=None, member_epoch=-1, topics=topics
    )
    found = _fetch_group(context, wanted, body.require_stable, request.version)
    return OffsetFetchResponse(
        error_code=found.error_code,
        topics=[
            OffsetFetchResponse.OffsetFetchResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetFetchResponse.OffsetFetchResponsePartition(
                        partition_index=part.partition_index,
                        committed_offset=part.committed_offset,
                        committed_leader_epoch=part.committed_leader_epoch,
                        metadata=part.metadata,
                        error_code=part.error_code,
                    )
                    for part in topic.partitions
                ],
            )
            for topic in found.topics
        ],
    )


def _fetch_group(
    context: Context, wanted: OffsetFetchRequest.OffsetFetchRequestGroup, stable: bool, version: int
) -> OffsetFetchResponse.OffsetFetchResponseGroup:
    response = OffsetFetchResponse.OffsetFetchResponseGroup(group_id=wanted.group_id, topics=[], error_code=0)
    try:
        offsets = context.broker.offsets.fetch(wanted.group_id, wanted.member_id, wanted.member_epoch)
    except CoreFailure as failure:
        response.error_code = code(failure.error)
        return response
    by_id = version >= 10
    if wanted.topics is None:
        response.topics = _fetch_all(context, wanted.group_id, offsets, stable, by_id)
        return response
    for one in wanted.topics:
        topic = context.broker.topics.by_id(one.topic_id) if by_id else None
        partitions = []
        for partition in one.partition_indexes:
            if by_id and topic is None:
                partitions.append(_no_offset(partition, ErrorCode.UNKNOWN_TOPIC_ID))
                continue
            place = (one.name if topic is None else topic.name, partition)
            if version == 0 and place not in offsets:
                # As with the first clients' offsets in ZooKeeper.
                partitions.append(_no_offset(partition, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            else:
                partitions.append(_fetched(context, wanted.group_id, place, offsets, stable))
        response.topics.append(
            OffsetFetchResponse.OffsetFetchResponseTopics(name=one.name, topic_id=one.topic_id, partitions=partitions)
        )
    return response


def _fetch_all(
    context: Context, group_id: str, offsets: dict[Place, Offset], stable: bool, by_id: bool
) -> list[OffsetFetchResponse.OffsetFetchResponseTopics]:
    topics: dict[str, OffsetFetchResponse.OffsetFetchResponseTopics] = {}
    for place in sorted(offsets):
        topic = context.broker.topics.get(place[0])
        if topic is None and by_id:
            continue
        answer = topics.setdefault(
            place[0],
            OffsetFetchResponse.OffsetFetchResponseTopics(
                name=place[0], topic_id=bytes(16) if topic is None else topic.id, partitions=[]
            ),
        )
        answer.partitions.append(_fetched(context, group_id, place, offsets, stable))
    return list(topics.values())


def _fetched(context: Context, group_id: str, place: Place, offsets: dict[Place, Offset], stable: bool) -> Fetched:
    if stable and context.broker.offsets.is_unstable(group_id, *place):
        return _no_offset(place[1], ErrorCode.UNSTABLE_OFFSET_COMMIT)
    offset = offsets.get(place)
    if offset is None:
        return _no_offset(place[1], ErrorCode.NONE)
    return Fetched(
        partition_index=place[1],
        committed_offset=offset.offset,
        committed_leader_epoch=offset.leader_epoch,
        metadata=offset.metadata,
        error_code=ErrorCode.NONE,
    )


def _no_offset(partition: int, error: ErrorCode) -> Fetched:
    return Fetched(
        partition_index=partition, committed_offset=-1, committed_leader_epoch=-1, metadata="", error_code=error
    )


# -- delete


async def offset_delete(context: Context, request: Request) -> Message:
    body: OffsetDeleteRequest = request.body  # type: ignore[assignment]
    response = OffsetDeleteResponse(error_code=0, topics=[])
    places: list[Place] = []
    waiting: list[OffsetDeleteResponse.OffsetDeleteResponsePartition] = []
    for wanted in body.topics:
        topic = context.broker.topics.get(wanted.name)
        answers = []
        for part in wanted.partitions:
            answer = OffsetDeleteResponse.OffsetDeleteResponsePartition(
                partition_index=part.partition_index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            )
            answers.append(answer)
            if _has(topic, part.partition_index):
                waiting.append(answer)
                places.append((wanted.name, part.partition_index))
        response.topics.append(OffsetDeleteResponse.OffsetDeleteResponseTopic(name=wanted.name, partitions=answers))
    deleted = _CommitAnswer()
    context.broker.offsets.delete(body.group_id, places, deleted.reply_each)
    error, errors = await deleted.wait()
    if error is not None:
        return OffsetDeleteResponse(error_code=code(error), topics=[])
    for answer, one in zip(waiting, errors, strict=True):
        answer.error_code = code(one)
    return response
