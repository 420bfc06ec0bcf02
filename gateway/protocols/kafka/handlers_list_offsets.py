"""ListOffsets and OffsetForLeaderEpoch: from a time, or a leader epoch, to an offset."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from core.store.engine import UnknownPartition
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.handlers_fetch import ISOLATION_LEVELS, READ_COMMITTED
from gateway.protocols.kafka.messages import (
    ListOffsetsRequest,
    ListOffsetsResponse,
    Message,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
)

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6

# The version that each of these came with; Kafka refuses them below, whatever the request says.
FIRST_VERSION_OF = {
    LATEST: 0,
    EARLIEST: 0,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING_UPLOAD: 11,
}

PartitionOffset = ListOffsetsResponse.ListOffsetsPartitionResponse
EpochEnd = OffsetForLeaderEpochResponse.EpochEndOffset


def _number(context: Context, name: str, index: int) -> int | None:
    topic = context.broker.topics.get(name)
    return topic.partitions[index] if topic and 0 <= index < len(topic.partitions) else None


async def list_offsets(context: Context, request: Request) -> Message:
    body: ListOffsetsRequest = request.body  # type: ignore[assignment]
    named = Counter((topic.name, part.partition_index) for topic in body.topics for part in topic.partitions)
    answers: dict[str, dict[int, PartitionOffset]] = {topic.name: {} for topic in body.topics}
    for topic in body.topics:
        of_topic = answers[topic.name]
        for part in topic.partitions:
            index = part.partition_index
            if named[topic.name, index] > 1:  # it is answered once, as in Kafka
                of_topic[index] = _nothing(index, ErrorCode.INVALID_REQUEST)
            else:
                of_topic[index] = await _look_up(context, request.version, body.isolation_level, topic.name, part)
    return ListOffsetsResponse(
        topics=[
            ListOffsetsResponse.ListOffsetsTopicResponse(name=name, partitions=list(found.values()))
            for name, found in answers.items()
        ]
    )


def _nothing(index: int, code: int) -> PartitionOffset:
    return PartitionOffset(
        partition_index=index, error_code=code, old_style_offsets=[], timestamp=-1, offset=-1, leader_epoch=-1
    )


async def _look_up(
    context: Context, version: int, isolation_level: int, name: str, wanted: ListOffsetsRequest.ListOffsetsPartition
) -> PartitionOffset:
    answer = _nothing(wanted.partition_index, ErrorCode.NONE)
    timestamp = wanted.timestamp
    if isolation_level not in ISOLATION_LEVELS:
        answer.error_code = ErrorCode.UNKNOWN_SERVER_ERROR
        return answer
    if timestamp < 0 and version < FIRST_VERSION_OF.get(timestamp, version + 1):
        answer.error_code = ErrorCode.UNSUPPORTED_VERSION
        return answer
    number = _number(context, name, wanted.partition_index)
    if number is None:
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return answer
    answer.error_code = context.check_leader_epoch(wanted.current_leader_epoch)
    if answer.error_code:
        return answer
    committed = isolation_level == READ_COMMITTED
    try:
        await _find(context, number, committed, version, wanted, answer)
    except UnknownPartition:
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return answer


async def _find(
    context: Context,
    number: int,
    committed: bool,
    version: int,
    wanted: ListOffsetsRequest.ListOffsetsPartition,
    answer: PartitionOffset,
) -> None:
    engine = context.broker.engine
    info = engine.info(number)
    end = info.last_stable if committed else info.high_watermark
    timestamp = wanted.timestamp
    if timestamp == LATEST:
        answer.offset, answer.leader_epoch = end, engine.epoch
    elif timestamp in (EARLIEST, EARLIEST_LOCAL):
        answer.offset, answer.leader_epoch = info.log_start, engine.epoch_of(number, info.log_start)
    elif timestamp == MAX_TIMESTAMP:
        newest = await engine.max_timestamp(number)
        if newest is not None and newest.offset < end:
            answer.offset, answer.timestamp, answer.leader_epoch = newest
    elif timestamp >= 0:
        found = await engine.offset_for_time(number, timestamp)
        if found is not None and found.offset < end:
            answer.offset, answer.timestamp, answer.leader_epoch = found
    # Nothing is tiered here: for LATEST_TIERED and EARLIEST_PENDING_UPLOAD none is found.
    if version == 0:
        # v0 asked for up to max_num_offsets segment starts at or before the time, newest first.
        found_offset = end if timestamp >= 0 and answer.offset < 0 else answer.offset
        offsets = [found_offset] if timestamp == EARLIEST else [max(found_offset, info.log_start), info.log_start]
        answer.old_style_offsets = list(dict.fromkeys(offsets))[: max(wanted.max_num_offsets, 0)]


async def offset_for_leader_epoch(context: Context, request: Request) -> Message:
    body: OffsetForLeaderEpochRequest = request.body  # type: ignore[assignment]
    topics = []
    for wanted in body.topics:
        ends = [_epoch_end(context, wanted.topic, part) for part in wanted.partitions]
        topics.append(OffsetForLeaderEpochResponse.OffsetForLeaderTopicResult(topic=wanted.topic, partitions=ends))
    return OffsetForLeaderEpochResponse(topics=topics)


def _epoch_end(context: Context, name: str, wanted: OffsetForLeaderEpochRequest.OffsetForLeaderPartition) -> EpochEnd:
    answer = EpochEnd(error_code=0, partition=wanted.partition, leader_epoch=-1, end_offset=-1)
    number = _number(context, name, wanted.partition)
    if number is None:
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return answer
    answer.error_code = context.check_leader_epoch(wanted.current_leader_epoch)
    # An epoch that is not ours yet has no end here, not that of the one before it.
    if not answer.error_code and wanted.leader_epoch <= context.broker.engine.epoch:
        answer.leader_epoch, answer.end_offset = context.broker.engine.epoch_end(number, wanted.leader_epoch)
    return answer
