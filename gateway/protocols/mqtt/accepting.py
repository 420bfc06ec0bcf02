"""The pump's listeners: who is let in, and when.

When many connect at once, each turn begins with accepting and reads few: the system keeps only so many waiting, and
drops the rest.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterable, Sized
from typing import Any, Final

import structlog

from gateway.protocols.mqtt.peers import Listener

log = structlog.get_logger(__name__)

ACCEPTS_MAX: Final = 4_096  # new connections of one listener in one turn, some 20 us each; as the system keeps at most
# So many in one turn are a storm: turns are short then, and each begins with accepting, or the system would drop who
# comes next, and they would try again after a second or more.
STORM_ACCEPTS: Final = 64
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Accepting:
    """`opened(socket, address, listener, now)` is given who has come, while there are fewer than `connections_max`
    `connections`. In a turn: `begin_turn` if `left`, `at` for each listener that is ready, `end_turn` if `left` was
    set when it began.
    """

    def __init__(
        self,
        epoll: select.epoll,
        connections: Sized,
        connections_max: int,
        opened: Callable[[socket.socket, Any, Listener, float], None],
    ) -> None:
        self.connections_max = connections_max
        self.accepted = self.refused = 0
        self.left = False  # somebody was left to wait at a listener until the next turn
        self.stormed: list[Listener] = []  # listeners that many came to in the last turn
        self._crowded: list[Listener] = []  # listeners that somebody without a place waits at since the last turn
        self._served: list[Listener] = []  # of those that stormed, in this turn
        self._refusing: list[Listener] = []  # those that were crowded, in this turn
        self._resting: list[Listener] = []  # listeners that found no file descriptor free
        self._listeners: dict[int, Listener] = {}
        self._epoll = epoll
        self._connections = connections
        self._opened = opened

    def listen(self, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            listener.socket.setblocking(False)
            self._listeners[listener.socket.fileno()] = listener
            self._epoll.register(listener.socket.fileno(), select.EPOLLIN)

    def stop(self) -> None:
        """Nobody is let in any more."""
        for fd, listener in self._listeners.items():
            if listener not in self._resting:
                self._epoll.unregister(fd)
            listener.socket.close()
        for each in (self._listeners, self._resting, self.stormed, self._crowded, self._served, self._refusing):
            each.clear()

    def begin_turn(self, now: float) -> None:
        """First of all, who is still waiting where many came."""
        self.left = False
        self._served, self.stormed = self.stormed, []
        self._refusing, self._crowded = self._crowded, []
        for listener in self._served:
            self._accept(listener, now)

    def at(self, fd: int, now: float) -> None:
        """A listener is ready, if that is one."""
        listener = self._listeners.get(fd)
        if listener is not None and listener not in self._served:
            self._accept(listener, now)

    def end_turn(self, now: float) -> None:
        """Last, who found no place in the turn before: who has none now gets none."""
        refusing, self._refusing = self._refusing, []
        self._served = []
        for listener in refusing:
            if listener not in self._resting:
                self._accept(listener, now, refusing=True)

    def wake(self) -> None:
        """Looks again at listeners that rest."""
        for listener in self._resting:
            self._epoll.register(listener.socket.fileno(), select.EPOLLIN)
        self._resting.clear()

    def _accept(self, listener: Listener, now: float, *, refusing: bool = False) -> None:
        """Takes who waits at the listener. Unless `refusing`, who finds no place is left there until the next turn has
        ended: the close of a client that came back at once may stand behind what is still to be read of it.
        """
        for number in range(ACCEPTS_MAX):
            if len(self._connections) >= self.connections_max and not refusing:
                self._crowded.append(listener)
                self.left = True
                return
            if number == STORM_ACCEPTS:
                self.stormed.append(listener)
                self.left = True
            try:
                sock, address = listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    log.warning("MQTT accept failed", error=str(error))
                    return
                # Level-triggered, the full table would wake us for ever: look again at the next sweep.
                log.error("MQTT accept failed: out of resources", error=str(error))
                self._epoll.unregister(listener.socket.fileno())
                self._resting.append(listener)
                if listener in self.stormed:
                    self.stormed.remove(listener)
                return
            if len(self._connections) >= self.connections_max:
                self.refused += 1
                sock.close()
                continue
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._opened(sock, address, listener, now)
            self.accepted += 1
