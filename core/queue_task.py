"""One queue group's task: hands out what there is, lets run out of time what has, moves what has died; then it sleeps
until it is woken or the next time comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from core.dead_letters import DeadLetters
from core.errors import CoreFailure
from core.queue_dealer import Dealer
from core.queue_group import QueueGroup
from core.queue_log import QueueLog
from core.queue_partition import QueuePartition

log = structlog.get_logger(__name__)

BURY_AGAIN_S: Final = 1


class QueueTask:
    """`run` serves a group until `stop`. `now_ms` is the clock of leases, `wall_ms` that of dead letters."""

    def __init__(
        self,
        dealer: Dealer,
        dead_letters: DeadLetters,
        log_: QueueLog,
        now_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self._dealer = dealer
        self._dead_letters = dead_letters
        self._log = log_
        self._now_ms = now_ms
        self._wall_ms = wall_ms
        self._work = trio.Event()  # there may be something to do
        self._death = trio.Event()  # something is dying
        self._stopped = False

    def wake(self) -> None:
        self._work.set()

    def stop(self) -> None:
        self._stopped = True
        self._work.set()

    async def run(self, group: QueueGroup) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bury, group)
            while not self._stopped:
                now_ms = self._now_ms()
                group.sweep(now_ms)
                if group.dying:
                    self._death.set()
                progress = not group.paused and await self._deal(group, now_ms)
                self._log.touch_busy(group)
                self._log.flush()
                if progress:
                    await trio.lowlevel.checkpoint()
                    continue
                due_ms = group.next_time_ms(now_ms)
                with trio.move_on_after(float("inf") if due_ms is None else max(due_ms - now_ms, 0) / 1000):
                    await self._work.wait()
                self._work = trio.Event()
            nursery.cancel_scope.cancel()

    async def _deal(self, group: QueueGroup, now_ms: int) -> bool:
        """One turn for every queue that may have something. Where members have little credit, what was given to them
        last stands last the next time, so that no partition starves.
        """
        progress = False
        served: list[QueuePartition] = []
        for queue in list(group.awake):
            del group.awake[queue]
            group.busy[queue] = None
            if group.queues.get((queue.topic, queue.index)) is not queue:
                continue
            made = await self._dealer.deal(group, queue, now_ms)
            group.send_out()
            if made:
                served.append(queue)
            elif self._dealer.has_more(group, queue) or queue.due(now_ms) is not None:
                group.touch(queue)
            progress |= made
        for queue in served:
            if group.queues.get((queue.topic, queue.index)) is queue:
                group.awake.pop(queue, None)
                group.touch(queue)
        return progress

    async def _bury(self, group: QueueGroup) -> None:
        while True:
            while not group.dying:
                self._death = trio.Event()
                await self._death.wait()
            try:
                await self._dead_letters.bury(group, self._wall_ms())
            except CoreFailure as failure:
                log.warning("dead letters wait", group=group.id, reason=failure.message)
                await trio.sleep(BURY_AGAIN_S)
            self._log.touch_busy(group)
            group.wake()
