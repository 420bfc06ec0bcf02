"""Share sessions (KIP-932): what Kafka's share consumers fetch, have acquired and acknowledge, over queue groups.

* A *session* is one member's stream of fetches over one connection, numbered from 0 (open) by steps of 1; -1 closes it.
  As in Kafka it asks for no membership (`share_groups`): a client whose member is not known, after a restart of the
  broker say, goes on fetching while its next heartbeat joins it again.
* While a session is there, its member is a member of the queue group, limited to the partitions that the session
  names. It has credit only while a fetch waits, so nothing is acquired for nobody.
* A record is acquired for the group's lock time. It is accepted (done), released (handed out again, which counts) or
  rejected (a dead letter, like one that was delivered too often). When the session is closed or its connection is gone,
  all that it had acquired is released. One that is opened anew over a living connection keeps what it has.
* Whoever acknowledges what it has not acquired, or no longer has, is told so; what everybody is done with counts as
  acknowledged, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from core.errors import CoreError, CoreFailure
from core.queue_group import Member, QueueGroup
from core.queue_types import Handout, Settle, Settled, Verb
from core.queues import Queues
from core.tracing import Actor

SESSIONS_MAX: Final = 2_000  # over all groups, as Kafka's group.share.max.share.sessions

Place = tuple[str, int]  # topic, partition index


class Acknowledgement(NamedTuple):
    """What becomes of the offsets `first` to `last`, which the member has acquired."""

    place: Place
    first: int
    last: int
    verb: Verb


@dataclass(slots=True, eq=False)
class ShareSession:
    """`owner` is the connection, whatever the front-end has for it."""

    group_id: str
    member_id: str
    actor: Actor
    owner: object
    queue_member: Member = field(init=False)
    group: QueueGroup | None = None  # where it is a member now
    epoch: int = 1  # that the next request must name
    places: set[Place] = field(default_factory=set)
    handouts: list[Handout] = field(default_factory=list)
    acquired: dict[Place, dict[int, int]] = field(default_factory=dict)  # offset -> lease
    news: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.queue_member = Member(self.member_id, self.actor, self.take)
        self.queue_member.places = self.places

    def take(self, handouts: list[Handout]) -> None:
        """The queue group hands something out."""
        self.handouts += handouts
        for one in handouts:
            held = self.acquired.setdefault((one.topic, one.partition), {})
            for first, last in one.ranges:
                held.update(dict.fromkeys(range(first, last + 1), one.lease))
        self.news.set()


class ShareSessions:
    """All share sessions. `tune` gives a queue group what is configured for it."""

    def __init__(self, queues: Queues, now_ms: Callable[[], int], tune: Callable[[QueueGroup], None]) -> None:
        self._queues = queues
        self._now_ms = now_ms
        self._tune = tune
        self._sessions: dict[tuple[str, str], ShareSession] = {}

    def find(self, group_id: str, member_id: str) -> ShareSession | None:
        return self._sessions.get((group_id, member_id))

    def open(self, group_id: str, member_id: str, actor: Actor, owner: object) -> ShareSession:
        """A new session, or that of the member begun anew. Raises CoreFailure(LIMIT_REACHED)."""
        session = self._sessions.get((group_id, member_id))
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                raise CoreFailure(CoreError.LIMIT_REACHED, f"the broker holds at most {SESSIONS_MAX} share sessions")
            session = self._sessions[group_id, member_id] = ShareSession(group_id, member_id, actor, owner)
        session.owner = owner
        session.epoch = 1
        session.places.clear()
        self._attend(session)
        return session

    def _attend(self, session: ShareSession) -> QueueGroup | None:
        """Makes the session a member of the queue group that now bears its group's name. None: there is no group, or
        the session is closed.
        """
        if self.find(session.group_id, session.member_id) is not session:
            return None
        try:
            group = self._queues.find(session.group_id)
        except CoreFailure:
            return None
        if session.group is not group:
            session.group = group
            session.acquired.clear()
            self._tune(group)
            group.join(session.queue_member, (), self._now_ms())
        return group

    def close(self, session: ShareSession) -> None:
        """Releases what the session has acquired."""
        if self.find(session.group_id, session.member_id) is not session:
            return
        del self._sessions[session.group_id, session.member_id]
        session.handouts.clear()
        session.acquired.clear()
        session.news.set()
        if session.group is not None:
            self._queues.leave(session.group, session.queue_member)

    def connection_gone(self, owner: object) -> None:
        """Closes the sessions of a connection."""
        for session in [one for one in self._sessions.values() if one.owner is owner]:
            self.close(session)

    def topic_deleted(self, name: str) -> None:
        """Of another topic of this name nothing is handed out to clients that have not asked for it by its id."""
        for session in self._sessions.values():
            for place in [one for one in session.places if one[0] == name]:
                session.places.remove(place)

    def close_all(self, group_id: str) -> None:
        """Closes the sessions of a group, which is to go."""
        for session in [one for one in self._sessions.values() if one.group_id == group_id]:
            self.close(session)

    def ask(self, session: ShareSession, records: int, size_bytes: int) -> None:
        """The member can take so much now; `news` is set when it gets something."""
        session.news = trio.Event()
        group = self._attend(session)
        if group is not None:
            self._queues.grant(group, session.queue_member, records, size_bytes)

    def taken(self, session: ShareSession) -> list[Handout]:
        """Ends what `ask` began, and gives what has come."""
        session.queue_member.credit_messages = session.queue_member.credit_bytes = 0
        handouts, session.handouts = session.handouts, []
        return handouts

    async def acknowledge(
        self, session: ShareSession, acknowledgements: Sequence[Acknowledgement]
    ) -> dict[Place, CoreError | None]:
        """The outcome for each partition, when it is durable: the first error there."""
        outcomes: dict[Place, CoreError | None] = {one.place: None for one in acknowledgements}
        group = self._attend(session)
        if group is None:
            return dict.fromkeys(outcomes, CoreError.GROUP_NOT_FOUND)
        settles: list[Settle] = []
        for one in acknowledgements:
            found, error = _leased(group, session, one)
            settles += found
            outcomes[one.place] = outcomes[one.place] or error
        if not settles:
            return outcomes
        answered = trio.Event()
        failure: list[CoreFailure | None] = []
        settled: list[Settled] = []

        def done(error: CoreFailure | None, answers: Sequence[Settled]) -> None:
            failure.append(error)
            settled.extend(answers)
            answered.set()

        self._queues.settle(group, settles, session.actor, done)
        await answered.wait()
        if failure[0] is not None:
            return dict.fromkeys(outcomes, failure[0].error)
        for settle, answer in zip(settles, settled, strict=True):
            if answer is not Settled.DONE:
                outcomes[settle.topic, settle.partition] = CoreError.RECEIPT_LATE
        return outcomes

    def forget_done(self, session: ShareSession) -> None:
        """Lets go of what is settled, whoever did it."""
        for place, held in session.acquired.items():
            queue = None if session.group is None else session.group.queues.get(place)
            for offset in [one for one in held if queue is None or (one < queue.floor and queue.is_done(one))]:
                del held[offset]


def _leased(group: QueueGroup, session: ShareSession, one: Acknowledgement) -> tuple[list[Settle], CoreError | None]:
    """The acknowledgement cut into runs of one lease each, nothing when the member has not acquired all of it. What it
    has not acquired and lies below the group's floor is left out: it is no longer for this member to say.
    """
    queue = group.queues.get(one.place)
    if queue is None or one.last >= queue.end > queue.floor:
        return [], CoreError.INVALID_GROUP_REQUEST
    if one.last >= queue.end:  # nothing is out: it was handed out before a reset, or a restart of the broker
        return [], CoreError.RECEIPT_LATE
    held = session.acquired.get(one.place, {})
    if one.last - one.first < len(held):
        mine = [offset for offset in range(one.first, one.last + 1) if offset in held]
    else:
        mine = sorted(offset for offset in held if one.first <= offset <= one.last)
    above = max(one.first, queue.floor)
    if sum(offset >= above for offset in mine) < one.last - above + 1:
        return [], CoreError.RECEIPT_LATE
    settles: list[Settle] = []
    delay_ms, reason = (0, "released") if one.verb is Verb.NACK else (-1, "rejected")
    for offset in mine:
        lease = held[offset]
        last = settles[-1] if settles else None
        if last is not None and last.lease == lease and last.last == offset - 1:
            settles[-1] = last._replace(last=offset)
        else:
            settles.append(Settle(*one.place, lease, offset, offset, one.verb, delay_ms, reason))
    if one.verb is not Verb.EXTEND:
        for offset in mine:
            del held[offset]
    return settles, None
