"""A client's way to the broker: one connection to one of several addresses, opened anew with backoff when lost."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

from trivium.asking import Asking
from trivium.connection import Buffer, Connection, Incoming, open_connection
from trivium.errors import Closed, Disconnected, RequestRefused, RequestTimedOut

DEFAULT_PORT = 9876
SOFTWARE = "trivium-python/0.1.0"
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 2.0
ADDRESSES_MAX = 100
ANY_BYTES = 2**32
_HOST = re.compile(r"[^\s/:@\[\]]+")
_IN_BRACKETS = re.compile(r"[0-9A-Fa-f:.]+(%[^\s/@\[\]]+)?")
SILENT_S_MAX = 10.0  # of a connection over which a request has timed out: then it is given up


def parse_addresses(addresses: str) -> list[tuple[str, int]]:
    """Hosts and ports of `host:port,[ipv6]:port,host`. Raises ValueError, TypeError."""
    if not isinstance(addresses, str):
        raise TypeError(f"addresses are one text, 'host:port,host:port', not {addresses!r}")
    found = []
    for address in addresses.split(","):
        host, colon, port = address.strip().rpartition(":")
        if not colon or port.endswith("]"):
            host, port = address.strip(), str(DEFAULT_PORT)
        in_brackets = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if in_brackets else host
        is_host = (_IN_BRACKETS if in_brackets else _HOST).fullmatch(host)
        if not is_host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError(
                f"{address.strip()!r} is no address: give HOST:PORT, or [IPV6]:PORT, and nothing around it"
            )
        found.append((host, int(port)))
    if len(found) > ADDRESSES_MAX:
        raise ValueError(f"more than {ADDRESSES_MAX} addresses")
    return found


class Reconnecting(Asking):
    """Connects on first use. What the broker says on its own goes to `incoming`, whatever the connection; each
    connection's reader is one of `tasks`.
    """

    def __init__(
        self,
        addresses: str,
        tasks: anyio.abc.TaskGroup,
        client_id: str,
        request_timeout_s: float,
        incoming: Incoming,
    ) -> None:
        self._addresses = parse_addresses(addresses)
        self._tasks = tasks
        self._client_id = client_id
        self.request_timeout_s = request_timeout_s
        self._incoming = incoming
        self._connection: Connection | None = None
        self._failures: dict[str, str] = {}  # why an address could not be used when it was tried last
        self._connecting = anyio.Lock(fast_acquire=True)
        self._pause_s = 0.0  # before addresses are tried again
        self._tried_s = 0.0  # when they were tried last, monotonic
        self._closed = False

    async def connection(self) -> Connection:
        """The connection as it stands, or a new one: addresses are tried in random order, then again after a pause
        with jitter, as after a connection that was lost soon. Raises Closed, or RequestRefused when no address speaks
        our version.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        async with self._connecting:
            while self._connection is None or self._connection.closed:
                if self._closed:
                    raise Closed("the client is closed")
                await self._pause()
                found = await self._try_addresses()
                if found is not None:
                    self._connection = found
                    self._tasks.start_soon(found.receive)
            return self._connection

    async def _pause(self) -> None:
        """Before an attempt: none when the last one is long ago."""
        if time.monotonic() - self._tried_s > BACKOFF_S_MAX:
            self._pause_s = 0.0
        if self._pause_s:
            await anyio.sleep(self._pause_s * random.uniform(0.5, 1))
        self._pause_s = min(max(self._pause_s * 2, BACKOFF_S_MIN), BACKOFF_S_MAX)
        self._tried_s = time.monotonic()

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame that the broker takes, as far as that is known."""
        return ANY_BYTES if self._connection is None else self._connection.frame_bytes_max

    async def _try_addresses(self) -> Connection | None:
        """None when none can be reached now. Raises RequestRefused when all that can be refuse us."""
        refusal: RequestRefused | None = None
        for host, port in random.sample(self._addresses, len(self._addresses)):
            try:
                found = await open_connection(
                    host, port, self._client_id, SOFTWARE, self.request_timeout_s, self._incoming
                )
            except Disconnected as failure:
                self._failures[f"{host}:{port}"] = str(failure)
            except RequestRefused as refused:
                refusal = refused
            else:
                self._failures.clear()
                return found
        if refusal is not None:
            raise refusal
        return None

    async def request(
        self, message: Any, payload: Sequence[Buffer] = (), *, timeout_s: float | None = None, retry: bool = True
    ) -> tuple[Any, memoryview]:
        """See `Asking`."""
        limit_s = self.request_timeout_s if timeout_s is None else timeout_s
        began_s = time.monotonic()
        connection: Connection | None = None
        try:
            with anyio.fail_after(None if math.isinf(limit_s) else limit_s):
                while True:
                    connection = await self.connection()
                    try:
                        return await connection.request(message, payload)
                    except Disconnected:
                        if not retry:
                            raise
        except TimeoutError:
            if connection is not None and time.monotonic() - max(began_s, connection.heard_s) >= SILENT_S_MAX:
                await connection.aclose()  # its broker hangs, or the way there: the next request finds another
            where = ", ".join(f"{host}:{port}" for host, port in self._addresses)
            why = "".join(f"; {failure}" for failure in self._failures.values())
            raise RequestTimedOut(f"no answer to {type(message).__name__} in {limit_s} s from {where}{why}") from None

    async def say(self, message: Any, payload: Sequence[Buffer] = ()) -> None:
        """Sends a message that is not answered. Raises Disconnected, Closed."""
        connection = await self.connection()
        await connection.say(message, payload)

    async def aclose(self) -> None:
        self._closed = True
        if self._connection is not None:
            await self._connection.aclose()
