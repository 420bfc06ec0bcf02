"""Topics: looked up, made, deleted."""

from __future__ import annotations

from core.errors import CoreError, CoreFailure
from core.topic_config import check_topic_config
from core.topics import INTERNAL_PREFIX, Topic, check_name
from gateway.protocols.native.codes import CORE_CODES, Refused
from gateway.protocols.native.context import Area, Call, Context
from trivium.errors import ErrorCode
from trivium.frames.connection import Done
from trivium.frames.topics import ConfigEntry, CreateTopic, DeleteTopic, Metadata, MetadataReply, TopicInfo

NO_ID = bytes(16)


async def metadata(call: Call, request: Metadata) -> MetadataReply:
    topics = call.context.broker.topics
    if not request.topics:
        return MetadataReply([_describe(topic) for topic in topics.all() if not topic.internal])
    found = []
    for name in request.topics:
        try:
            found.append(_describe(await _find(call.context, name, bool(request.create))))
        except CoreFailure as failure:
            found.append(TopicInfo(name, CORE_CODES[failure.error], NO_ID, 0, []))
    return MetadataReply(found)


async def _find(context: Context, name: str, create: bool) -> Topic:
    topic = context.broker.topics.get(name)
    if topic is not None and not topic.internal:
        return topic
    check_name(name)
    settings = context.broker.settings
    if name.startswith(INTERNAL_PREFIX) or not (create and settings.auto_create_topics):
        raise CoreFailure(CoreError.UNKNOWN_TOPIC)
    return await context.broker.topics.ensure(name, settings.num_partitions)


def _describe(topic: Topic) -> TopicInfo:
    config = [ConfigEntry(name, value) for name, value in topic.config.items()]
    return TopicInfo(topic.name, ErrorCode.NONE, topic.id, len(topic.partitions), config)


def _refuse_internal(name: str) -> None:
    if name.startswith(INTERNAL_PREFIX):
        raise Refused(ErrorCode.INVALID_TOPIC, f"names that begin with {INTERNAL_PREFIX} are the broker's own")


async def create_topic(call: Call, request: CreateTopic) -> Done:
    _refuse_internal(request.name)
    settings = call.context.broker.settings
    config = check_topic_config({one.name: one.value for one in request.config}, call.context.broker.topics.defaults)
    await call.context.broker.topics.create(request.name, request.partitions or settings.num_partitions, config)
    return Done()


async def delete_topic(call: Call, request: DeleteTopic) -> Done:
    _refuse_internal(request.name)
    await call.context.broker.topics.delete(request.name)
    return Done()


AREA = Area(tasks={Metadata: metadata, CreateTopic: create_topic, DeleteTopic: delete_topic})
