"""What happens in queue groups, as traces: delivered, acknowledged, failed, dead letters.

Costs nothing while no topic is traced.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.bitmaps import runs
from core.queue_leases import Expired
from core.queue_partition import QueuePartition
from core.queue_types import Handout, Settle, Settled, Verb
from core.topics import Topics
from core.tracing import NOBODY, Actor, Event, Tracer

_EVENTS = {Verb.ACK: Event.ACKNOWLEDGED, Verb.NACK: Event.FAILED, Verb.REJECT: Event.FAILED}


class QueueTraces:
    """Notes the events of all groups."""

    def __init__(self, tracer: Tracer, topics: Topics) -> None:
        self._tracer = tracer
        self._topics = topics

    def delivered(self, group: str, actor: Actor, handouts: Sequence[Handout]) -> None:
        if self._tracer.active:
            for one in handouts:
                for first, last in one.ranges:
                    self._note(Event.DELIVERED, group, actor, (one.topic, one.partition), first, last, one.attempt)

    def settled(self, group: str, actor: Actor, settles: Sequence[Settle], answers: Sequence[Settled]) -> None:
        if self._tracer.active:
            for one, answer in zip(settles, answers, strict=True):
                event = _EVENTS.get(one.verb)
                if event is not None and answer is Settled.DONE:
                    self._note(event, group, actor, (one.topic, one.partition), one.first, one.last, 0)

    def expired(self, group: str, actor: Actor, queue: QueuePartition, expired: Expired) -> None:
        if self._tracer.active:
            lease = expired.lease
            for at, count in runs(expired.mask):
                first = lease.first + at
                place = (queue.topic, queue.index)
                self._note(Event.FAILED, group, actor, place, first, first + count - 1, lease.attempt)

    def buried(self, group: str, queue: QueuePartition, offset: int) -> None:
        if self._tracer.active:
            failed = queue.failed.get(offset)  # none after a reset
            attempts = 0 if failed is None else failed.attempts
            self._note(Event.DEAD_LETTER, group, NOBODY, (queue.topic, queue.index), offset, offset, attempts)

    def _note(
        self, event: Event, group: str, actor: Actor, place: tuple[str, int], first: int, last: int, attempt: int
    ) -> None:
        topic = self._topics.get(place[0])
        if topic is not None and self._tracer.traces(topic):
            self._tracer.note(event, topic, place[1], first, last, actor, group=group, attempt=attempt)
