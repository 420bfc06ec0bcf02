"""Dead letters: what failed for the last time moves, with body, key, headers and the reason, into a topic of its group.

* `dead-letters.<group>`, one partition: Kafka and native clients read it like any topic, MQTT does not see it.
* One append holds the record and the end of its row, so a message is in one place or the other, never in both or none.
* A dead letter has no time to live: it is there for who looks why it failed, and to be sent again. The header of its
  message that says one bears another name.
* To send one again gives it a row as if it had failed, in the dead letters' own partition: only this group gets it, and
  nothing is copied. It stays readable in the topic as long as the topic keeps it. Members of a share group fetch only
  from the topics that they subscribe to: there the row is the message's own, which its topic must still have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from core.errors import CoreError, CoreFailure
from core.group_log import store_error
from core.message_ids import place_id, with_id
from core.queue_batches import OpenedBatches
from core.queue_codec import failed_key
from core.queue_group import QueueGroup
from core.queue_log import QueueLog
from core.queue_partition import QueuePartition
from core.queue_types import DEAD_LETTERS_PREFIX
from core.store.engine import Append, Engine, append
from core.topics import Topics
from trivium import headers as names
from trivium.record_batch import parse_header
from trivium.records import Record, build

log = structlog.get_logger(__name__)

CONFIG: Final = {"mqtt.visible": "false", "retention.ms": str(30 * 86_400_000)}
BURIED_AT_ONCE_MAX: Final = 100
BURIED_BYTES_MAX: Final = 4 * 1024 * 1024

Headers = list[tuple[str, bytes | None]]


class _Dying(NamedTuple):
    queue: QueuePartition
    offset: int
    record: Record


def _is_dying(queue: QueuePartition, offset: int) -> bool:
    failed = queue.failed.get(offset)
    return failed is not None and failed.dying


def topic_of(group: str) -> str:
    return DEAD_LETTERS_PREFIX + group


class DeadLetters:
    """Moves what is dying. One `bury` at a time for a group."""

    def __init__(self, engine: Engine, topics: Topics, queue_log: QueueLog, opened: OpenedBatches) -> None:
        self._engine = engine
        self._topics = topics
        self._log = queue_log
        self._opened = opened

    async def bury(self, group: QueueGroup, wall_ms: int) -> None:
        """Moves some of what is dying in a group. Raises CoreFailure when that cannot be done now; nothing is lost."""
        taken = await self._take(group)
        if not taken:
            return
        topic = await self._topics.ensure(topic_of(group.id), 1, CONFIG)
        # Rows first: one that is written behind its end would come back to life at the next start.
        await self._log.put([])
        # A reset or retention may have come meanwhile.
        taken = [one for one in taken if one.queue.bury(one.offset)]
        if not taken:
            return
        records = [self._letter(group.id, one, wall_ms) for one in taken]
        rows = [(failed_key(group.id, one.queue.partition, one.offset), None) for one in taken]
        batch = build(records)
        answers = await append(
            self._engine, [Append(topic.partitions[0], parse_header(batch), batch), self._log.state.entry(rows)]
        )
        for answer in answers:
            error = store_error(answer.outcome)
            if error is not None:
                for one in taken:
                    one.queue.not_dead(one.offset)
                    group.touch(one.queue)
                raise CoreFailure(error)
        gone = {(id(one.queue), one.offset) for one in taken}
        for one in taken:
            group.buried(one.queue, one.offset)
        kept = [one for one in group.dying if (id(one[0]), one[1]) not in gone]
        group.dying.clear()
        group.dying.extend(kept)
        log.warning("dead letters", group=group.id, count=len(taken), topic=topic.name)

    async def _take(self, group: QueueGroup) -> list[_Dying]:
        """The next that are dying; what the log no longer has is done."""
        taken: list[_Dying] = []
        size = 0
        for queue, offset in list(group.dying)[:BURIED_AT_ONCE_MAX]:
            record = await self._opened.record(queue.partition, offset)
            dying = _is_dying(queue, offset)
            if not dying or record is None:
                if dying:
                    queue.complete(offset, 1)
                    group.touch(queue)
                group.dying.remove((queue, offset))
                continue
            taken.append(_Dying(queue, offset, record))
            size += len(record.value or b"")
            if size > BURIED_BYTES_MAX:
                break
        return taken

    def _letter(self, group: str, one: _Dying, wall_ms: int) -> Record:
        failed = one.queue.failed[one.offset]
        origin = place_id(self._topics.cluster_id, one.queue.partition, one.offset)
        # One that was sent again and failed again says where it came from at first.
        known = {name: value for name, value in one.record.headers if name.startswith(names.DEAD_LETTER_PREFIX)}
        kept = [header for header in one.record.headers if header[0] not in known and header[0] != names.EXPIRY_S]
        expiry_s = dict(one.record.headers).get(names.EXPIRY_S) or known.get(names.DEAD_LETTER_EXPIRY_S)
        said: Headers = [
            (names.DEAD_LETTER_GROUP, group.encode()),
            (names.DEAD_LETTER_TOPIC, known.get(names.DEAD_LETTER_TOPIC) or one.queue.topic.encode()),
            (names.DEAD_LETTER_PARTITION, known.get(names.DEAD_LETTER_PARTITION) or b"%d" % one.queue.index),
            (names.DEAD_LETTER_OFFSET, known.get(names.DEAD_LETTER_OFFSET) or b"%d" % one.offset),
            (names.DEAD_LETTER_ATTEMPTS, b"%d" % failed.attempts),
            (names.DEAD_LETTER_REASON, failed.reason.encode()),
            (names.DEAD_LETTER_TIME, b"%d" % wall_ms),
            *([] if expiry_s is None else [(names.DEAD_LETTER_EXPIRY_S, expiry_s)]),
        ]
        return Record(0, one.record.timestamp, one.record.key, one.record.value, [*with_id(kept, origin), *said])

    async def origins(self, group: QueueGroup, offsets: Sequence[int]) -> list[tuple[QueuePartition, int]]:
        """Where the messages are that these dead letters were. Raises CoreFailure for one that is no longer there."""
        topic = self._topics.get(topic_of(group.id))
        found: list[tuple[QueuePartition, int]] = []
        for offset in offsets:
            letter = None if topic is None else await self._opened.record(topic.partitions[0], offset)
            origin = None if letter is None else await self._origin(group, letter)
            if origin is None:
                why = "its topic no longer has the message, or the group no longer reads it"
                raise CoreFailure(CoreError.INVALID_GROUP_REQUEST, f"dead letter {offset} cannot be sent again: {why}")
            found.append(origin)
        return found

    async def _origin(self, group: QueueGroup, letter: Record) -> tuple[QueuePartition, int] | None:
        said = {name: value or b"" for name, value in letter.headers}
        try:
            place = (said[names.DEAD_LETTER_TOPIC].decode(), int(said[names.DEAD_LETTER_PARTITION]))
            offset = int(said[names.DEAD_LETTER_OFFSET])
        except (KeyError, ValueError):
            return None  # anybody may write into that topic
        queue = group.queues.get(place)
        record = None if queue is None else await self._opened.record(queue.partition, offset)
        if queue is None or record is None or group.queues.get(place) is not queue:
            return None
        # A topic that was made anew has others at these offsets.
        same = (record.key, record.value, record.timestamp) == (letter.key, letter.value, letter.timestamp)
        return (queue, offset) if same else None

    def check_resend(self, group: str, offsets: Sequence[int]) -> None:
        """Raises CoreFailure unless all of these are dead letters that are still there."""
        topic = self._topics.get(topic_of(group))
        if topic is None:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"group {group!r} has no dead letters")
        info = self._engine.info(topic.partitions[0])
        wrong = [offset for offset in offsets if not info.log_start <= offset < info.high_watermark]
        if wrong:
            raise CoreFailure(
                CoreError.INVALID_GROUP_REQUEST,
                f"dead letters {wrong[:10]} are not there: {info.log_start} to {info.high_watermark - 1} are",
            )
