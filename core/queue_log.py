"""Makes queue groups durable: whatever changed in memory while one append is on its way goes together into the next.

A failed append leaves memory ahead of the log; who waited is told, and with the next one the rows of queues are written
again, and what memory has forgotten is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from core.errors import CoreError, CoreFailure
from core.group_log import store_error
from core.queue_group import QueueGroup
from core.queue_partition import QueuePartition
from core.state import Change, StateLog
from core.store.engine import Appended, Engine

Answer = Callable[[CoreError | None], None]


class QueueLog:
    """`wall_ms_of` turns a monotonic time into wall clock; `turned` is called with a queue in which messages that
    waited for others of their key can go out.
    """

    def __init__(
        self,
        engine: Engine,
        state: StateLog,
        wall_ms_of: Callable[[int], int],
        turned: Callable[[QueuePartition], None],
    ) -> None:
        self._turned = turned
        self._engine = engine
        self.state = state
        self._wall_ms_of = wall_ms_of
        self._dirty: dict[QueuePartition, None] = {}
        self._changes: list[Change] = []
        self._waiting: list[Answer] = []
        self._appending = False

    def touch(self, queue: QueuePartition) -> None:
        """The queue may have changed."""
        if queue.is_dirty:
            self._dirty[queue] = None

    def touch_busy(self, group: QueueGroup) -> None:
        """Any of the group's queues may have changed. Those that nothing can change any more are no longer busy."""
        for queue in list(group.busy):
            self.touch(queue)
            if not queue.is_busy:
                del group.busy[queue]

    def forget(self, queue: QueuePartition) -> None:
        self._dirty.pop(queue, None)

    def change(self, changes: Sequence[Change]) -> None:
        """More rows for the next append."""
        self._changes += changes

    def wait(self, answer: Answer) -> None:
        """Answers when everything that has been touched or changed so far is durable."""
        self._waiting.append(answer)

    async def put(self, changes: Sequence[Change]) -> None:
        """Returns when these, and all that has been touched or changed so far, are durable. Raises CoreFailure."""
        answered = trio.Event()
        errors: list[CoreError | None] = []

        def answer(error: CoreError | None) -> None:
            errors.append(error)
            answered.set()

        self.change(changes)
        self.wait(answer)
        self.flush()
        await answered.wait()
        if errors[0] is not None:
            raise CoreFailure(errors[0])

    def flush(self) -> None:
        """Begins to write, or leaves it to the append that is on its way."""
        if self._appending:
            return
        changes, self._changes = self._changes, []
        queues, self._dirty = list(self._dirty), {}
        waiting, self._waiting = self._waiting, []
        deletions = [change for change in changes if change[1] is None]
        for queue in queues:
            changes += queue.changes(self._wall_ms_of)
        if not changes:
            assert not queues
            for answer in waiting:
                answer(None)
            return
        self._appending = True

        def done(results: list[Appended]) -> None:
            self._appending = False
            error = store_error(results[0].outcome)
            if error is not None:
                self._changes[:0] = deletions
                for queue in queues:
                    queue.not_written()
                    self._dirty[queue] = None
            else:
                for queue in queues:
                    if queue.written():
                        self._turned(queue)
            for answer in waiting:
                answer(error)
            if self._waiting or (error is None and (self._dirty or self._changes)):
                self.flush()

        self._engine.append([self.state.entry(changes)], done)
