"""Settling: what the application says about its messages goes to the broker, joined, one request at a time.

Acknowledgements that nobody waits for are merged into ranges of their handout. Whatever was not answered when a
connection was lost, or could not be stored, is said again: to settle twice is harmless.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import anyio

from trivium.errors import Disconnected, ErrorCode, RequestRefused
from trivium.frames.queues import ACK, SETTLED_OFFSETS_MAX, SETTLES_MAX, SettleEntry, SettleRequest
from trivium.handouts import Handout

AGAIN_S = 1.0
REASON_CHARS_MAX = 500
_REFUSED_FOR_NOW = {ErrorCode.STORE_FULL, ErrorCode.STORE_FAILED}

Request = Callable[[Any], Awaitable[tuple[Any, memoryview]]]


def parts(handouts: Iterable[Handout]) -> Iterator[list[tuple[Handout, int, int]]]:
    """What is not settled of these, stretch by stretch, as much at a time as one request may name."""
    part: list[tuple[Handout, int, int]] = []
    room = SETTLED_OFFSETS_MAX
    for handout in handouts:
        for start, last in handout.ranges(handout.pending):
            first = start
            while first <= last:
                end = min(last, first + room - 1)
                part.append((handout, first, end))
                room -= end - first + 1
                first = end + 1
                if not room or len(part) == SETTLES_MAX:
                    yield part
                    part, room = [], SETTLED_OFFSETS_MAX
    if part:
        yield part


class Asked:
    """One settlement that somebody waits for: `status` is there when `done` is set."""

    __slots__ = ("done", "entry", "status")

    def __init__(self, entry: SettleEntry) -> None:
        self.entry = entry
        self.done = anyio.Event()
        self.status = -1


class Settling:
    """`request` asks the broker, over as many connections as it takes. `run` must be running."""

    def __init__(self, stream: int, request: Request) -> None:
        self._stream = stream
        self._request = request
        self._handouts: dict[Handout, None] = {}  # with acknowledgements that were not sent
        self._asked: list[Asked] = []
        self._saying: list[SettleEntry] = []  # what has not been answered
        self._news = anyio.Event()
        self._idle = anyio.Event()
        self._idle.set()
        self.late = 0  # acknowledgements that came too late

    def ack(self, handout: Handout, offset: int) -> None:
        acks = handout.acks
        if acks and acks[-1][1] + 1 == offset:
            acks[-1][1] = offset
            return
        acks.append([offset, offset])
        if len(acks) == 1:
            self._handouts[handout] = None
            self._wake()

    def ask(self, entry: SettleEntry) -> Asked:
        asked = Asked(entry)
        self._asked.append(asked)
        self._wake()
        return asked

    def _wake(self) -> None:
        self._news.set()
        if self._idle.is_set():
            self._idle = anyio.Event()

    @property
    def leases(self) -> set[int]:
        """Of which something was said that the broker has not answered."""
        waiting = {handout.lease for handout in self._handouts} | {one.entry.lease for one in self._asked}
        return waiting | {entry.lease for entry in self._saying}

    async def wait_settled(self) -> None:
        """Returns when the broker has answered everything that was said."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._handouts or self._asked:
                await self._say()
            self._idle.set()

    async def _say(self) -> None:
        merged: list[SettleEntry] = []
        offsets = 0
        for handout in list(self._handouts):
            where = (handout.topic, handout.partition, handout.lease)
            while handout.acks and len(merged) < SETTLES_MAX and offsets < SETTLED_OFFSETS_MAX:
                first, last = handout.acks.pop()
                end = min(last, first + SETTLED_OFFSETS_MAX - offsets - 1)
                merged.append(SettleEntry(*where, first, end, ACK, -1, ""))
                offsets += end - first + 1
                if end < last:
                    handout.acks.append([end + 1, last])
            if handout.acks:
                break
            del self._handouts[handout]
        asked: list[Asked] = []
        while len(asked) < len(self._asked) and len(merged) + len(asked) < SETTLES_MAX:
            entry = self._asked[len(asked)].entry
            offsets += entry.last - entry.first + 1
            if offsets > SETTLED_OFFSETS_MAX and (merged or asked):
                break
            asked.append(self._asked[len(asked)])
        del self._asked[: len(asked)]
        self._saying = merged + [one.entry for one in asked]
        message = SettleRequest(self._stream, self._saying)
        while True:
            try:
                reply, _ = await self._request(message)
                statuses = reply.statuses
            except Disconnected:
                continue
            except RequestRefused as refused:  # the group no longer takes this member
                statuses = [refused.code] * len(self._saying)
            if not _REFUSED_FOR_NOW & set(statuses):
                break
            await anyio.sleep(AGAIN_S)
        self._saying = []
        self._answered(statuses, merged, asked)

    def _answered(self, statuses: Sequence[int], merged: list[SettleEntry], asked: list[Asked]) -> None:
        for entry, status in zip(merged, statuses, strict=False):
            if status != ErrorCode.NONE:
                self.late += entry.last - entry.first + 1
        for one, status in zip(asked, statuses[len(merged) :], strict=True):
            one.status = status
            one.done.set()
