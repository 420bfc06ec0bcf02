"""A consumer's place in its queue group: joined again on every new connection, and left in the end.

While it lasts, what is held is renewed, and the broker is told what more can be taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel

from trivium.client import Client
from trivium.connection import Connection
from trivium.errors import Disconnected, ErrorCode, RequestRefused
from trivium.frames.queues import EXTEND, NACK, Grant, SettleEntry, SettleRequest, Subscribe, Unsubscribe
from trivium.handouts import Handout
from trivium.held_messages import HeldMessages
from trivium.settling import Settling, parts

RENEWALS_PER_TIME = 3  # messages are renewed so often in the time they are invisible
AGAIN_S = 0.1


class Membership:
    """`keep`, `grant` and `renew` must be running. `wake` is called when what is held has been renewed, and when the
    group no longer takes this member: `error` says why.
    """

    def __init__(
        self,
        client: Client,
        subscribe: Subscribe,
        held: HeldMessages,
        settling: Settling,
        wake: Callable[[], None],
    ) -> None:
        self._client = client
        self._subscribe = subscribe
        self._held = held
        self._settling = settling
        self._wake = wake
        self._connection: Connection | None = None  # over which it is a member
        self._joining: Connection | None = None  # over which it is one, or has asked to be
        self._connected = anyio.Event()
        self._invisible_ms = 30_000  # as the group says
        self.error: RequestRefused | None = None

    async def request(self, message: Any) -> tuple[Any, memoryview]:
        """One request of the member. Raises Disconnected, RequestRefused."""
        await self._connected.wait()
        connection = self._connection
        if self.error is not None:
            raise self.error
        if connection is None:
            await anyio.lowlevel.checkpoint()
            raise Disconnected("the connection is lost")
        return await connection.request(message)

    async def keep(self, started: anyio.Event) -> None:
        """Joins, and again whenever the connection was lost. `started`: it has been let in, or refused."""
        while True:
            try:
                connection = self._joining = await self._client.connection()
                await self._join(connection)
                started.set()
                await connection.lost.wait()
            except Disconnected:
                await anyio.sleep(AGAIN_S)
            except RequestRefused as refused:
                self.error = refused
                self._wake()
                self._connected.set()
                started.set()
                return
            finally:
                self._connection = self._joining = None
            if self._connected.is_set():
                self._connected = anyio.Event()

    async def _join(self, connection: Connection) -> None:
        held = self._held.leased
        leases = {handout.lease for handout in held} | self._settling.leases
        reply, _ = await connection.request(self._subscribe._replace(held=list(leases)))
        self._held.joined(reply.invisible_ms)
        self.follow(reply.invisible_ms)
        for handout in await self._extend(connection, held):
            self._held.drop(handout)
        credit = self._held.take_all_credit()
        if credit is not None:
            await connection.tell(Grant(self._subscribe.stream, *credit))
        self._connection = connection
        self._connected.set()

    def follow(self, invisible_ms: int) -> None:
        """The group says for how long messages are invisible."""
        self._invisible_ms = invisible_ms
        self._held.follow(invisible_ms)
        self._held.renewing.set()

    async def _extend(self, connection: Connection, held: Sequence[Handout]) -> list[Handout]:
        """Renews what is held; returns what is no longer ours."""
        lost: dict[Handout, None] = {}
        until_s = time.monotonic() + self._invisible_ms / 1000
        for part in parts(held):
            entries = [
                SettleEntry(one.topic, one.partition, one.lease, first, last, EXTEND, self._invisible_ms, "")
                for one, first, last in part
            ]
            reply, _ = await connection.request(SettleRequest(self._subscribe.stream, entries))
            pairs = zip(part, reply.statuses, strict=True)
            lost.update((one, None) for (one, _, _), status in pairs if status != ErrorCode.NONE)
        for one in held:
            one.until_s = until_s
        return list(lost)

    async def grant(self) -> None:
        """Tells the broker what more can be taken."""
        while True:
            await self._held.granting.wait()
            self._held.granting = anyio.Event()
            await self._connected.wait()
            connection = self._connection
            if connection is not None:
                messages, size = self._held.take_credit()
                if messages or size:
                    with suppress(Disconnected):
                        await connection.tell(Grant(self._subscribe.stream, messages, size))

    async def renew(self) -> None:
        """Renews what is held before its time is over, and at once when that may have passed, or the group has another
        time: the one that it has may be shorter than what would be waited now.
        """
        while True:
            await self._connected.wait()
            self._held.renewing = anyio.Event()
            with anyio.move_on_after(self._invisible_ms / RENEWALS_PER_TIME / 1000):
                await self._held.renewing.wait()
            self._held.runs()
            held = self._held.leased
            connection = self._connection
            if held and connection is not None:
                with suppress(Disconnected, RequestRefused):
                    for handout in await self._extend(connection, held):
                        self._held.drop(handout)
                    self._wake()

    async def leave(self) -> None:
        """Says that what was started on and not settled has failed, waits for what was settled, and leaves the group,
        which gives the rest back; all that only as long as the connection lasts.
        """
        for handout in self._held.leased:
            for first, last in handout.ranges(handout.started):
                where = (handout.topic, handout.partition, handout.lease, first, last)
                self._settling.ask(SettleEntry(*where, NACK, -1, "left without being settled"))
        connection = self._joining
        if connection is None:
            return
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await connection.lost.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._connected.wait()  # who has asked to join may be a member by now, and leaves as one
            await self._settling.wait_settled()
            with suppress(Disconnected, RequestRefused):
                await connection.request(Unsubscribe(self._subscribe.stream))
            tasks.cancel_scope.cancel()
