"""Topics, producer ids, offsets: what is asked now and then. Each handler takes a request's message and returns the
reply's, or raises Refused or CoreFailure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from core.errors import CoreError, CoreFailure
from core.offsets import CommitRequest, OffsetToCommit
from core.store.engine import UnknownPartition
from core.topic_config import check_topic_config
from core.topics import INTERNAL_PREFIX, Topic, check_name
from core.transaction_types import InitResult
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Context
from trivium import frames
from trivium.errors import ErrorCode

NO_ID = bytes(16)


async def metadata(context: Context, request: frames.Metadata) -> frames.MetadataReply:
    topics = context.broker.topics
    if not request.topics:
        return frames.MetadataReply([_describe(topic) for topic in topics.all() if not topic.internal])
    found = []
    for name in request.topics:
        try:
            found.append(_describe(await _find(context, name, bool(request.create))))
        except CoreFailure as failure:
            found.append(frames.TopicInfo(name, CORE_CODES[failure.error], NO_ID, 0, []))
    return frames.MetadataReply(found)


async def _find(context: Context, name: str, create: bool) -> Topic:
    topic = context.broker.topics.get(name)
    if topic is not None and not topic.internal:
        return topic
    check_name(name)
    settings = context.broker.settings
    if name.startswith(INTERNAL_PREFIX) or not (create and settings.auto_create_topics):
        raise CoreFailure(CoreError.UNKNOWN_TOPIC)
    return await context.broker.topics.ensure(name, settings.num_partitions)


def _describe(topic: Topic) -> frames.TopicInfo:
    config = [frames.ConfigEntry(name, value) for name, value in topic.config.items()]
    return frames.TopicInfo(topic.name, ErrorCode.NONE, topic.id, len(topic.partitions), config)


def _refuse_internal(name: str) -> None:
    if name.startswith(INTERNAL_PREFIX):
        raise Refused(ErrorCode.INVALID_TOPIC, f"names that begin with {INTERNAL_PREFIX} are the broker's own")


async def create_topic(context: Context, request: frames.CreateTopic) -> frames.Done:
    _refuse_internal(request.name)
    settings = context.broker.settings
    config = check_topic_config({one.name: one.value for one in request.config}, settings.topic_defaults)
    await context.broker.topics.create(request.name, request.partitions or settings.num_partitions, config)
    return frames.Done()


async def delete_topic(context: Context, request: frames.DeleteTopic) -> frames.Done:
    _refuse_internal(request.name)
    await context.broker.topics.delete(request.name)
    return frames.Done()


async def new_producer(context: Context, request: frames.NewProducer) -> frames.NewProducerReply:
    answered = trio.Event()
    results: list[InitResult] = []

    def done(result: InitResult) -> None:
        results.append(result)
        answered.set()

    context.broker.transactions.init_producer(None, 0, None, context.now_ms(), done)
    await answered.wait()
    if results[0].error is not None:
        raise CoreFailure(results[0].error)
    return frames.NewProducerReply(results[0].producer.id, results[0].producer.epoch)


async def find_offsets(context: Context, request: frames.FindOffsets) -> frames.FindOffsetsReply:
    return frames.FindOffsetsReply([await _find_offset(context, entry) for entry in request.entries])


async def _find_offset(context: Context, entry: frames.TimeEntry) -> frames.FoundOffset:
    engine = context.broker.engine
    try:
        _, number = context.partition(entry.topic, entry.partition)
        info = engine.info(number)
        if entry.time_ms == frames.EARLIEST:
            return frames.FoundOffset(ErrorCode.NONE, info.log_start)
        found = await engine.offset_for_time(number, entry.time_ms) if entry.time_ms >= 0 else None
    except Refused as refused:
        return frames.FoundOffset(refused.code, -1)
    except UnknownPartition:
        return frames.FoundOffset(ErrorCode.UNKNOWN_PARTITION, -1)
    return frames.FoundOffset(ErrorCode.NONE, info.high_watermark if found is None else found.offset)


async def commit(context: Context, request: frames.Commit) -> frames.CommitReply:
    statuses: list[int] = []
    offsets: list[OffsetToCommit] = []
    for entry in request.entries:
        try:
            context.partition(entry.topic, entry.partition)
            if entry.offset < 0:
                raise Refused(ErrorCode.OFFSET_OUT_OF_RANGE)
        except Refused as refused:
            statuses.append(refused.code)
            continue
        statuses.append(ErrorCode.NONE)
        offsets.append(OffsetToCommit(entry.topic, entry.partition, entry.offset, metadata=entry.metadata))
    if not offsets:
        return frames.CommitReply(statuses)
    answered = trio.Event()
    outcome: list[CoreError | None] = []

    def reply(error: CoreError | None, errors: list[CoreError | None]) -> None:
        outcome.extend(errors or [error] * len(offsets))
        answered.set()

    context.broker.offsets.commit(CommitRequest(request.group, "", None, -1, offsets), reply, context.now_ms())
    await answered.wait()
    each = iter(outcome)
    for index, status in enumerate(statuses):
        if status == ErrorCode.NONE:
            error = next(each)
            statuses[index] = ErrorCode.NONE if error is None else CORE_CODES[error]
    return frames.CommitReply(statuses)


async def committed(context: Context, request: frames.Committed) -> frames.CommittedReply:
    found = context.broker.offsets.fetch(request.group, None, -1)
    entries = [frames.OffsetEntry(name, part, one.offset, one.metadata) for (name, part), one in found.items()]
    return frames.CommittedReply(entries)


HANDLERS: dict[type, Callable[[Context, Any], Awaitable[Any]]] = {
    frames.Metadata: metadata,
    frames.CreateTopic: create_topic,
    frames.DeleteTopic: delete_topic,
    frames.NewProducer: new_producer,
    frames.FindOffsets: find_offsets,
    frames.Commit: commit,
    frames.Committed: committed,
}
