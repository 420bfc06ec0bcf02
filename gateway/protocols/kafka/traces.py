"""What Kafka clients do to messages of traced topics, for the core's tracer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.delivery import last_offset
from core.tracing import Actor, Event

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request
    from gateway.protocols.kafka.fetch_sessions import FetchPartition
    from gateway.protocols.kafka.messages import FetchResponse

FIRST_BATCH_VERSION = 4  # of Fetch; before, answers are message sets


def actor_of(request: Request) -> Actor:
    return Actor("kafka", request.client_id or "", request.client_host.removeprefix("/"))


def trace_fetch(
    context: Context,
    request: Request,
    fetched: Iterable[tuple[FetchPartition, FetchResponse.PartitionData]],
) -> None:
    """What an answer to Fetch delivers."""
    tracer, topics = context.broker.tracer, context.broker.topics
    actor = actor_of(request)
    for partition, data in fetched:
        if not data.records:
            continue
        topic = topics.by_id(partition.topic_id) if request.version >= 13 else topics.get(partition.name)
        if topic is None or not tracer.traces(topic):
            continue
        last = data.records[-1]
        batches = data.records if isinstance(last, int) else last
        end = partition.offset if request.version < FIRST_BATCH_VERSION else last_offset(batches)  # type: ignore[arg-type]
        tracer.note(Event.DELIVERED, topic, partition.index, partition.offset, end, actor)
