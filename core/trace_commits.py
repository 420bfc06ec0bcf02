"""Commits as traces: a commit acknowledges what lies between the offset before it and its own."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import CoreError
from core.offsets import Offsets, OffsetToCommit
from core.topics import Topics
from core.tracing import Actor, Event, Tracer


class CommitTrace:
    """Make it before the commit, call `done` with its outcome. Costs nothing while no topic is traced."""

    def __init__(
        self, tracer: Tracer, topics: Topics, offsets: Offsets, group: str, wanted: Sequence[OffsetToCommit]
    ) -> None:
        self._tracer = tracer
        self._topics = topics
        self._group = group
        self._places: list[tuple[OffsetToCommit, int]] = []
        if tracer.active:
            self._places = [(one, offsets.committed(group, one.topic, one.partition) or 0) for one in wanted]

    def done(self, errors: Sequence[CoreError | None], actor: Actor) -> None:
        for (one, before), error in zip(self._places, errors, strict=False):
            topic = self._topics.get(one.topic)
            if error is None and one.offset > before and topic is not None and self._tracer.traces(topic):
                self._tracer.note(
                    Event.ACKNOWLEDGED, topic, one.partition, before, one.offset - 1, actor, group=self._group
                )
