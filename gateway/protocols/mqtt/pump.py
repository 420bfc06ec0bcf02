"""The pump: one trio task that serves every MQTT connection of the broker through one epoll set.

A task per connection costs two context switches a message and 5 KiB an idle device. Here a turn takes all sockets that
are ready, reads each once, feeds its machine, hands all events to the handler in one call, and writes each connection
with output once. Nothing is allocated for a socket that is silent, and it has no timer (wheel.py). Who connects is let
in by accepting.py.

The handler answers from inside `handle`, or later from other trio callbacks, after which it calls `flush`.

Backpressure: a connection whose machine does not want to read, or all of them while `pause` holds, are not read. Output
the socket does not take stays in the machine, which bounds it (see outbound.py). A closed connection sends what it
still has, then lingers for `linger_s` at most, so that the reason for the close is not lost in a reset.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog
import trio

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.accepting import Accepting
from gateway.protocols.mqtt.ack_reading import GATHERING, PUBACK_BYTE, AckReading
from gateway.protocols.mqtt.connection import Connection
from gateway.protocols.mqtt.events import Closed, Event, Outbox
from gateway.protocols.mqtt.half_received import HalfReceived
from gateway.protocols.mqtt.layers import LayerError
from gateway.protocols.mqtt.peers import READING, Listener, Peer
from gateway.protocols.mqtt.replies import State
from gateway.protocols.mqtt.wheel import Wheel

log = structlog.get_logger(__name__)

READ_BYTES_MAX: Final = 131_072  # one read of one socket in one turn
READY_MAX: Final = 1_024  # sockets in one turn
STORM_READY_MAX: Final = 128  # while many connect: the next turn begins with accepting
TURNS_MAX: Final = 2  # small turns before others have theirs: one of trio's costs as much, and mostly nothing has come
SMALL_READY_MAX: Final = 16
ROUNDS_MAX: Final = 4  # times that output of one turn may lead to more output before other sockets get their turn
_OUT: Final = select.EPOLLOUT
_CONNECTED: Final = State.CONNECTED
_CLOSED: Final = State.CLOSED


class Handler(Protocol):
    def handle(self, events: list[Event]) -> None:
        """All events of a turn, in order per connection. Must not block; may answer at once or later."""


class Pump:
    """Serves listeners until cancelled; see the module. `clock` is monotonic time in seconds."""

    def __init__(
        self,
        handler: Handler,
        *,
        connections_max: int = 100_000,
        linger_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outbox = Outbox()
        self._handler = handler
        self._linger_s = linger_s
        self._clock = clock
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        self._wheel = Wheel(clock())
        self.accepting = Accepting(self._epoll, self._peers, connections_max, self._opened)
        self._half_received = HalfReceived()
        self._ack_reading = AckReading()
        self._buffer = memoryview(bytearray(READ_BYTES_MAX))
        self._in_turn = False
        self._draining = False
        self._resumed: trio.Event | None = None
        self._flushed: trio.Event | None = None
        self._emptied: trio.Event | None = None
        self.bytes_in = self.bytes_out = 0

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, listeners: Sequence[Listener]) -> None:
        """Serve until cancelled. The listening sockets are closed at the end, like everything else."""
        self.accepting.listen(listeners)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweeper)
                nursery.start_soon(self._ack_reading.run, self._clock)
                await self._turns()
        finally:
            for peer in list(self._peers.values()):
                self._drop(peer)
            for listener in listeners:
                listener.socket.close()
            self._epoll.close()

    async def _turns(self) -> None:
        busy = False
        while True:
            if self._resumed is not None:
                await self._resumed.wait()
            elif busy or self.outbox.events:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            for _ in range(TURNS_MAX):
                ready = self._epoll.poll(0, STORM_READY_MAX if self.accepting.stormed else READY_MAX)
                busy = bool(ready)
                if not busy and not self.outbox.events:
                    break
                self._turn(ready)
                if self._resumed is not None or len(ready) > SMALL_READY_MAX:
                    break

    async def _sweeper(self) -> None:
        while True:
            await trio.sleep(1.0)
            self._sweep(self._clock())

    def pause(self) -> None:
        """Stop reading from everybody until `resume`; what is under way still goes out."""
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def drain(self, timeout_s: float) -> None:
        """Stop taking connections and, but for what is there, packets; let what was begun be answered, say goodbye
        (0x8B), close.

        Returns when all are gone or the time is up; then `run` may be cancelled.
        """
        self._draining = True
        self.accepting.stop()
        self._ack_reading.forget_all()
        # What was acknowledged before the stop must not come again after it.
        self._turn(self._epoll.poll(0, len(self._peers) + 1))
        for peer in list(self._peers.values()):
            self._watch(peer)
        with trio.move_on_after(timeout_s / 2):
            while any(peer.connection.unanswered for peer in self._peers.values()):
                self._flushed = trio.Event()
                await self._flushed.wait()
        self._flushed = None
        for peer in list(self._peers.values()):
            if peer.connection.state is State.CONNECTING:
                peer.connection.refuse(reasons.SERVER_UNAVAILABLE, "the server is shutting down")
            peer.connection.disconnect(reasons.SERVER_SHUTTING_DOWN, "the server is shutting down")
            self._write(peer)
        self.flush()
        if self._peers:
            self._emptied = trio.Event()
            with trio.move_on_after(timeout_s / 2):
                await self._emptied.wait()

    def statistics(self) -> dict[str, int]:
        return {
            "connections": len(self._peers),
            "accepted": self.accepting.accepted,
            "refused": self.accepting.refused,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }

    # -- one turn ----------------------------------------------------------------------------------------------------

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        now = self._clock()
        self._in_turn = True
        unready: list[Peer] = []
        peers = self._peers
        accepting = self.accepting
        left = accepting.left
        if left:
            accepting.begin_turn(now)
        for fd, mask in ready:
            peer = peers.get(fd)
            if peer is None:
                accepting.at(fd, now)
                continue
            if mask & _OUT:
                self._write(peer)
                if mask == _OUT or peer.socket.fileno() < 0:
                    continue
            self._read(peer, now)
            if not peer.connection.reading:
                unready.append(peer)
        self._in_turn = False
        self.flush()
        for peer in unready:
            if peer.fd in self._peers:
                self._watch(peer)
        if left:
            accepting.end_turn(now)

    def flush(self) -> None:
        """Hand out events and write output, until there is neither or others should have their turn.

        To be called after answers were given from outside `handle`; inside a turn it does nothing, as the turn does it.
        """
        if self._in_turn:
            return
        self._in_turn = True
        try:
            for _ in range(ROUNDS_MAX):
                events = self.outbox.take_events()
                if events:
                    self._handler.handle(events)
                    for event in events:
                        if type(event) is Closed:
                            self._on_closed(event)
                self._write_dirty()
                if not self.outbox.events:
                    break
        finally:
            self._in_turn = False
        if self._flushed is not None:
            self._flushed.set()

    def _write_dirty(self) -> None:
        """Write every connection that has output, once. Where nothing stands in the way the sends follow each other
        closely: a peer that sleeps must be woken for what it gets, one that still has something to read need not.
        """
        dirty, self.outbox.dirty = self.outbox.dirty, []
        plain: list[tuple[Peer, bytes]] = []
        for connection in dirty:
            peer = connection.transport
            if peer.__class__ is not Peer:
                continue
            if peer.backlog is None and peer.layer is None and peer.mask == READING and connection.state is _CONNECTED:
                plain.append((peer, connection.take_output()))
            else:
                self._write(peer)
        bytes_out = 0
        for peer, data in plain:
            try:
                sent = peer.socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._drop(peer)
                continue
            bytes_out += sent
            connection = peer.connection
            if sent < len(data):
                peer.backlog = memoryview(data)[sent:]
                connection.sent(len(peer.backlog))
                self._watch(peer)
            elif connection.stalled:
                connection.sent(0)
            else:
                connection.unsent_bytes = 0
        self.bytes_out += bytes_out

    def _on_closed(self, event: Closed) -> None:
        peer = event.connection.transport
        if not isinstance(peer, Peer):
            return
        say = log.info if event.code and not event.by_client else log.debug
        say(
            "MQTT connection closed",
            client_id=event.connection.client_id,
            peer=peer.address,
            code=f"0x{event.code:02x}",
            reason=event.reason,
            by_client=event.by_client,
        )
        peer.told = True
        # Who says goodbye is still sent what was ready, as far as its socket takes it at once.
        waiting = event.connection.output_bytes > 0
        if waiting or not event.by_client:
            self._write(peer)
        if peer.socket.fileno() < 0 or (event.by_client and (not waiting or peer.backlog is not None)):
            self._drop(peer)

    # -- sockets -----------------------------------------------------------------------------------------------------

    def _opened(self, sock: socket.socket, address: Any, listener: Listener, now: float) -> None:
        connection = Connection(listener.limits, self.outbox, now)
        peer = Peer(sock, f"{address[0]}:{address[1]}" if address else "local", connection, listener.layer())
        connection.transport = peer
        self._peers[peer.fd] = peer
        self._epoll.register(peer.fd, READING)
        self._wheel.put(peer, now)

    def _read(self, peer: Peer, now: float) -> None:
        try:
            count = peer.socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        connection = peer.connection
        if count == 0:
            if connection.closed:
                self._drop(peer)
            else:
                peer.ended = True
                connection.eof()
            return
        if connection.state is _CLOSED:
            return  # lingering: what comes now is read and thrown away
        data = bytes(self._buffer[:count])
        self.bytes_in += count
        layer = peer.layer
        try:
            if layer is None:
                if data[0] == PUBACK_BYTE or peer.acks:
                    self._ack_reading.read(peer, data, now)
            else:
                data = layer.received(data)
                self._write(peer, force=True)
            if data:
                connection.receive(data, now)
                if connection.held_bytes or peer in self._half_received.holders:
                    self._half_received.note(peer, connection.held_bytes)
            if layer is not None and layer.ended:
                connection.eof()
        except LayerError as error:
            log.info("MQTT transport refused", peer=peer.address, reason=str(error))
            self._write(peer, force=True)
            connection.eof()
        except Exception:
            # A fault of ours in one machine ends that connection alone.
            log.exception("MQTT connection failed", peer=peer.address, client_id=connection.client_id)
            connection.eof()

    def _write(self, peer: Peer, *, force: bool = False) -> None:
        """Send output until the socket is full; `force` also asks the layer when there is no output."""
        connection = peer.connection
        if peer.socket.fileno() < 0:
            return
        while True:
            wire = peer.backlog
            if wire is None:
                data = connection.take_output() if connection.output_bytes else b""
                if peer.layer is not None and (data or force or connection.closed):
                    data = peer.layer.to_send(data)
                    force = False
                if not data:
                    break
                wire = memoryview(data)
            try:
                sent = peer.socket.send(wire)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                peer.backlog = None
                connection.take_output()
                self._drop(peer)
                return
            self.bytes_out += sent
            if sent < len(wire):
                peer.backlog = wire[sent:]
                break
            peer.backlog = None
            if connection.unsent_bytes:
                connection.sent(0)
        if peer.backlog is not None:
            connection.sent(len(peer.backlog))
        if connection.closed and peer.backlog is None and not connection.output_bytes:
            self._linger(peer)
        else:
            self._watch(peer)

    def _linger(self, peer: Peer) -> None:
        if peer.linger_until_s:
            return
        peer.linger_until_s = self._clock() + self._linger_s
        try:
            if peer.layer is not None and (wire := peer.layer.finish()):
                peer.socket.send(wire)
            peer.socket.shutdown(socket.SHUT_WR)
        except OSError:
            peer.ended = True
        if peer.ended:
            self._drop(peer)
            return
        self._wheel.put(peer, self._clock())
        self._watch(peer)

    def _watch(self, peer: Peer) -> None:
        """Make the epoll set ask for what this connection wants now."""
        connection = peer.connection
        deadline = connection.deadline
        if deadline is not None and int(deadline) + 1 < peer.slot:
            self._wheel.put(peer, self._clock())  # a keep alive that ends before the time for CONNECT did, or a pause
        mask = 0
        if peer.linger_until_s or (connection.reading and not self._draining):
            mask = READING
        if peer.backlog is not None:
            mask |= _OUT
        if mask != peer.mask and peer.socket.fileno() >= 0:
            peer.mask = mask
            self._epoll.modify(peer.fd, mask)

    def _drop(self, peer: Peer) -> None:
        """Close the socket. A machine that does not know yet is told, so that its end is heard of."""
        if peer.socket.fileno() >= 0:
            if peer.acks == GATHERING and not peer.connection.closed:
                self._read(peer, self._clock())  # it broke, but what it acknowledged before is there
            if self._peers.pop(peer.fd, None) is not None:
                self._epoll.unregister(peer.fd)
            peer.socket.close()
            self._half_received.note(peer, 0)
            self._ack_reading.forget(peer)
            peer.backlog = None
            peer.layer = None
            peer.connection.eof()
            if self._emptied is not None and not self._peers:
                self._emptied.set()
        if peer.told:
            peer.connection.transport = None  # no cycle is left for the collector

    # -- time --------------------------------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Look at the connections whose deadlines may be due."""
        for peer in self._wheel.take_due(self._peers, now):
            if peer.linger_until_s and now >= peer.linger_until_s:
                self._drop(peer)
                continue
            peer.connection.check_time(now)
            self._watch(peer)
            if peer.connection.closed and not peer.linger_until_s and peer.backlog is not None:
                # It was told to go and does not even read that.
                peer.linger_until_s = now + self._linger_s
            self._wheel.put(peer, now)
        self.accepting.wake()
        self.flush()
