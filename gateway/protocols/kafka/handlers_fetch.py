"""Fetch: what the store has, at once if that is enough, else as soon as it is (long poll) or when `max_wait_ms` is
over.

Batches leave as they lie in the store, never cut: a fetch that begins inside a batch gets the whole of it (KIP-74: at
least one batch of the first partition that has any, whatever the limits). Versions below 4 read message sets, so
batches are converted for them (`legacy`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from core.store.engine import DataDamaged, OffsetOutOfRange, PartitionInfo, Read, UnknownPartition
from core.topics import Topic
from gateway.protocols.kafka import outgoing
from gateway.protocols.kafka.conversion import decoded_bytes_max
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.fetch_sessions import NEW_EPOCH, NO_EPOCH, FetchPartition, FetchSession, Key
from gateway.protocols.kafka.messages import FetchRequest, FetchResponse, Message
from gateway.protocols.kafka.traces import trace_fetch

if TYPE_CHECKING:
    from gateway.protocols.kafka.context import Context
    from gateway.protocols.kafka.dispatch import Request

log = structlog.get_logger(__name__)

PartitionData = FetchResponse.PartitionData

REREAD_PAUSE_S = 0.002  # while min_bytes is not reached: records that trickle in are not re-read one by one
FIRST_TOPIC_ID_VERSION = 13
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
ISOLATION_LEVELS = (READ_UNCOMMITTED, READ_COMMITTED)  # Kafka has no error of its own for others
POLL_MS_MAX = 120_000  # a peer that has gone is not noticed before its poll ends
PARTITIONS_PER_TURN = 500  # looked at before others get their turn,
BYTES_PER_TURN = 512 * 1024  # or so much read: some 0.3 ms, in which producers wait
SESSION_PARTITIONS_MAX = 5_000  # who fetches more is served without a session


class _Answer:
    """What one look at the partitions found. `traced`: its batches are looked into, not only sent."""

    __slots__ = ("failed", "partitions", "size_bytes", "traced")

    def __init__(self, traced: bool = False) -> None:
        self.traced = traced
        self.partitions: list[tuple[FetchPartition, PartitionData]] = []
        self.size_bytes = 0
        self.failed = False


async def fetch(context: Context, request: Request) -> Message:
    body: FetchRequest = request.body  # type: ignore[assignment]
    by_id = request.version >= FIRST_TOPIC_ID_VERSION
    wanted = _wanted(body)
    if body.isolation_level not in ISOLATION_LEVELS:
        refused = _Answer()
        refused.partitions = [(fetched, _failed(fetched, ErrorCode.UNKNOWN_SERVER_ERROR)) for fetched in wanted]
        return FetchResponse(error_code=ErrorCode.UNKNOWN_SERVER_ERROR, session_id=0, responses=_by_topic(refused))
    session: FetchSession | None = None
    if body.session_epoch in (NO_EPOCH, NEW_EPOCH):
        if body.session_id:
            context.fetch_sessions.close(body.session_id)
        partitions = wanted
    else:
        resumed = context.fetch_sessions.resume(body.session_id, body.session_epoch, by_id, context.now_ms())
        if isinstance(resumed, ErrorCode):
            return FetchResponse(error_code=resumed, session_id=0, responses=[])
        session = resumed
        session.update(wanted, _forgotten(body))
        if len(session.partitions) > SESSION_PARTITIONS_MAX:
            context.fetch_sessions.close(session.id)  # so that the next poll starts anew
        partitions = list(session.partitions.values())
    answer = await _collect_enough(context, request, body, partitions)
    if answer.traced:
        trace_fetch(context, request, answer.partitions)
    session_id = session.id if session else 0
    may_open = request.version >= 7 and len(wanted) <= SESSION_PARTITIONS_MAX
    if session is None and body.session_epoch == NEW_EPOCH and may_open:
        opened = context.fetch_sessions.open(by_id, wanted, context.now_ms())
        session_id = opened.id if opened else 0
        for fetched, data in answer.partitions:
            _remember(fetched, data)
    elif session is not None:
        answer.partitions = [(fetched, data) for fetched, data in answer.partitions if _is_news(fetched, data)]
        for fetched, data in answer.partitions:
            _remember(fetched, data)
            if data.records:
                session.served(fetched.key)
    return FetchResponse(error_code=0, session_id=session_id, responses=_by_topic(answer))


def _wanted(body: FetchRequest) -> list[FetchPartition]:
    return [
        FetchPartition(
            topic.topic,
            topic.topic_id,
            partition.partition,
            partition.fetch_offset,
            partition.partition_max_bytes,
            partition.current_leader_epoch,
            partition.last_fetched_epoch,
        )
        for topic in body.topics
        for partition in topic.partitions
    ]


def _forgotten(body: FetchRequest) -> list[Key]:
    return [(topic.topic, topic.topic_id, index) for topic in body.forgotten_topics_data for index in topic.partitions]


def _is_news(fetched: FetchPartition, data: PartitionData) -> bool:
    """Whether an incremental answer must name the partition (KIP-227)."""
    return bool(
        data.records
        or data.error_code
        or fetched.sent_error
        or data.high_watermark != fetched.sent_high_watermark
        or data.log_start_offset != fetched.sent_log_start
        or data.diverging_epoch
    )


def _remember(fetched: FetchPartition, data: PartitionData) -> None:
    fetched.sent_high_watermark = data.high_watermark
    fetched.sent_log_start = data.log_start_offset
    fetched.sent_error = data.error_code


def _by_topic(answer: _Answer) -> list[FetchResponse.FetchableTopicResponse]:
    topics: dict[tuple[str, bytes], FetchResponse.FetchableTopicResponse] = {}
    for fetched, data in answer.partitions:
        key = (fetched.name, fetched.topic_id)
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = FetchResponse.FetchableTopicResponse(
                topic=fetched.name, topic_id=fetched.topic_id, partitions=[]
            )
        topic.partitions.append(data)
    return list(topics.values())


async def _collect_enough(
    context: Context, request: Request, body: FetchRequest, partitions: list[FetchPartition]
) -> _Answer:
    """Looks again whenever a partition moves, until `min_bytes` are there, something failed, or the time is over."""
    engine = context.broker.engine
    answer = await _collect(context, request, body, partitions)
    if answer.size_bytes >= body.min_bytes or answer.failed or body.max_wait_ms <= 0 or not partitions:
        return answer
    watched = [
        number
        for number in (_number(context, fetched, request.version) for fetched in partitions)
        if number is not None
    ]
    moved = trio.Event()

    def wake(_: int) -> None:
        moved.set()

    for number in watched:
        engine.watch(number, wake)
    request.connection.waiting = moved
    try:
        with trio.move_on_after(min(body.max_wait_ms, POLL_MS_MAX) / 1000):
            answer = await _collect(context, request, body, partitions)  # what came between the look and the watch
            while answer.size_bytes < body.min_bytes and not answer.failed and not request.connection.draining:
                await moved.wait()
                if answer.size_bytes:
                    await trio.sleep(REREAD_PAUSE_S)
                moved = request.connection.waiting = trio.Event()
                answer = _Answer()  # lets go of what is read again
                answer = await _collect(context, request, body, partitions)
    finally:
        request.connection.waiting = None
        for number in watched:
            engine.unwatch(number, wake)
    return answer


def _topic(context: Context, fetched: FetchPartition, version: int) -> Topic | None:
    topics = context.broker.topics
    return topics.by_id(fetched.topic_id) if version >= FIRST_TOPIC_ID_VERSION else topics.get(fetched.name)


def _number(context: Context, fetched: FetchPartition, version: int) -> int | None:
    topic = _topic(context, fetched, version)
    return topic.partitions[fetched.index] if topic and 0 <= fetched.index < len(topic.partitions) else None


async def _collect(context: Context, request: Request, body: FetchRequest, partitions: list[FetchPartition]) -> _Answer:
    answer = _Answer(context.broker.tracer.active)
    bytes_max = min(body.max_bytes if request.version >= 3 else context.fetch_bytes_max, context.fetch_bytes_max)
    looked_at = turn_bytes = 0
    for fetched in partitions:
        if looked_at >= PARTITIONS_PER_TURN or turn_bytes >= BYTES_PER_TURN:
            looked_at = turn_bytes = 0
            await trio.lowlevel.checkpoint()
        looked_at += 1
        room = min(bytes_max - answer.size_bytes, request.connection.response_bytes_max)
        data, size = await _read_one(
            context, request, body, fetched, room, first=not answer.size_bytes, mapped=not answer.traced
        )
        answer.size_bytes += size
        turn_bytes += size
        if size:
            request.connection.collected(answer.size_bytes)
        answer.failed = answer.failed or bool(data.error_code) or data.diverging_epoch is not None
        answer.partitions.append((fetched, data))
    return answer


async def _read_one(
    context: Context,
    request: Request,
    body: FetchRequest,
    fetched: FetchPartition,
    room: int,
    *,
    first: bool,
    mapped: bool,
) -> tuple[PartitionData, int]:
    """One partition's part of the answer, and how many bytes of records it holds."""
    engine = context.broker.engine
    topic = _topic(context, fetched, request.version)
    if topic is None:
        by_id = request.version >= FIRST_TOPIC_ID_VERSION
        return _failed(fetched, ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), 0
    if not 0 <= fetched.index < len(topic.partitions):
        return _failed(fetched, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), 0
    error = context.check_leader_epoch(fetched.leader_epoch)
    if error:
        return _failed(fetched, error), 0
    number = topic.partitions[fetched.index]
    committed = body.isolation_level == READ_COMMITTED
    bytes_max = min(fetched.bytes_max, room)
    try:
        if fetched.last_fetched_epoch > engine.epoch:
            raise OffsetOutOfRange(number, fetched.offset)
        if fetched.last_fetched_epoch >= 0:
            epoch, end = engine.epoch_end(number, fetched.last_fetched_epoch)
            if epoch >= 0 and (epoch < fetched.last_fetched_epoch or end < fetched.offset):
                return _diverging(engine.info(number), fetched, epoch, end), 0
        if bytes_max <= 0 and not first:
            info = engine.info(number)
            if not info.log_start <= fetched.offset <= info.high_watermark:
                raise OffsetOutOfRange(number, fetched.offset)
            found = outgoing.Fetched(Read([], 0, info.log_start, info.high_watermark, info.last_stable, []), (), 0)
        else:
            found = await outgoing.read(
                engine,
                number,
                fetched.offset,
                bytes_max,
                request.version,
                committed=committed,
                first=first,
                zstd_topic=topic.settings.compression_type == "zstd",
                decoded_bytes_max=decoded_bytes_max(topic),
                mapped=mapped,
            )
    except UnknownPartition:
        return _failed(fetched, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), 0
    except DataDamaged as damaged:
        log.error("damaged range asked for", topic=topic.name, index=fetched.index, damage=str(damaged))
        return _failed(fetched, ErrorCode.CORRUPT_MESSAGE), 0
    except OffsetOutOfRange:
        return _failed(fetched, ErrorCode.OFFSET_OUT_OF_RANGE), 0
    read = found.read
    data = PartitionData(
        partition_index=fetched.index,
        error_code=found.error,
        high_watermark=read.high_watermark,
        last_stable_offset=read.last_stable,
        log_start_offset=read.log_start,
        aborted_transactions=_aborted(read) if committed else None,
        preferred_read_replica=-1,
        records=found.buffers,
    )
    return data, found.size_bytes


def _aborted(read: Read) -> list[FetchResponse.AbortedTransaction]:
    return [
        FetchResponse.AbortedTransaction(producer_id=aborted.producer_id, first_offset=aborted.first_offset)
        for aborted in read.aborted
    ]


def _diverging(info: PartitionInfo, fetched: FetchPartition, epoch: int, end: int) -> PartitionData:
    """KIP-595: the consumer's history parts from ours; it truncates to `end` of `epoch`."""
    data = _failed(fetched, ErrorCode.NONE, info.high_watermark, info.last_stable, info.log_start)
    data.diverging_epoch = FetchResponse.EpochEndOffset(epoch=epoch, end_offset=end)
    return data


def _failed(
    fetched: FetchPartition, error: ErrorCode, high_watermark: int = -1, last_stable: int = -1, log_start: int = -1
) -> PartitionData:
    return PartitionData(
        partition_index=fetched.index,
        error_code=error,
        high_watermark=high_watermark,
        last_stable_offset=last_stable,
        log_start_offset=log_start,
        aborted_transactions=None,
        preferred_read_replica=-1,
        records=[],
    )
