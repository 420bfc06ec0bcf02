"""The base of a connection: its output, the order of its replies, and its end.

Every reply to a PUBLISH, PUBREL, PUBREC, SUBSCRIBE or UNSUBSCRIBE has a ticket. Tickets are numbers in the order of the
packets; `_done` holds the replies that are ready; what is ready at the front goes out ([MQTT-4.6.0-2] to -4). An entry
of `_tickets` is `reply kind << 16 | packet id`, or, for a run of publishes at QoS 1, the list of its packet ids. In
`_done`, None stands for the plain, successful reply of that kind.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5, Ack, Disconnect, Packet, Will
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.codec.reader import Reader
from gateway.protocols.mqtt.codec.writer import acks, encode
from gateway.protocols.mqtt.events import Closed, Outbox
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.session import APPENDING, QOS2_RELEASED, STORED, Session

REPEATED: Final = 16  # reply kind: PUBREC for a repeated PUBLISH, as the first one turned out


class State(IntEnum):
    AWAIT_CONNECT = 0  # nothing has come yet
    CONNECTING = 1  # CONNECT waits for the core's verdict; what follows it is held unread
    CONNECTED = 2
    LEAVING = 3  # DISCONNECT came, what was sent before it is still to be answered; nothing else goes out
    CLOSED = 4  # nothing is read any more; what is in the output may still be sent


_CONNECTED: Final = State.CONNECTED


class Replies:
    """See the module; `Connection` is what is used."""

    __slots__ = (
        "_done",
        "_first_ticket",
        "_goodbye",
        "_next_ticket",
        "_output",
        "_packet_bytes_max",
        "_problem_information",
        "_reader",
        "_tickets",
        "client_id",
        "limits",
        "outbox",
        "output_bytes",
        "session",
        "session_expiry_s",
        "state",
        "unacknowledged",
        "unsent_bytes",
        "version",
        "will",
    )

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        self.limits = limits
        self.outbox = outbox
        self.state = State.AWAIT_CONNECT
        self.version = 0
        self.client_id = ""
        self.session: Session | None = None
        self.session_expiry_s = 0
        self.will: Will | None = None
        self.output_bytes = 0
        self.unsent_bytes = 0  # kept by the transport: taken from here, not yet taken by the socket
        self.unacknowledged = 0  # QoS 1 and 2 publishes by the client that count against our receive maximum
        self._reader = Reader(limits.connect_bytes_max, joining=True)
        self._output: list[bytes] = []
        self._packet_bytes_max = 0xFFFFFFFF  # what the client takes
        self._problem_information = True
        self._tickets: dict[int, int | list[int]] = {}
        self._done: dict[int, bytes | None] = {}
        self._first_ticket = self._next_ticket = 1
        self._goodbye: tuple[int, str] | None = None  # code and reason of the DISCONNECT of one that is leaving

    # -- output ------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if not self._output:
            self.outbox.dirty.append(self)  # type: ignore[arg-type]
        self._output.append(data)
        self.output_bytes += len(data)

    def _send_control(self, data: bytes, packets: int = 1) -> None:
        """Packets that are no PUBLISH."""
        self.outbox.controls_out += packets
        self._send(data)

    def take_output(self) -> bytes:
        """All bytes to send, in order; they count as unsent until the transport says otherwise."""
        output = self._output
        data = output[0] if len(output) == 1 else b"".join(output)
        self._output = []
        self.unsent_bytes += self.output_bytes
        self.output_bytes = 0
        return data

    def _with_reason(self, packet: Packet, properties: Properties, reason: str) -> bytes:
        """The packet, with the reason string put in its `properties` if the client wants and can take it."""
        if reason and self.version == V5 and (self._problem_information or isinstance(packet, Disconnect)):
            properties[props.REASON_STRING] = reason
            data = encode(packet, self.version)
            if len(data) <= self._packet_bytes_max:
                return data
            del properties[props.REASON_STRING]
        return encode(packet, self.version)

    # -- replies in order --------------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> int:
        """Tickets whose answer has not come. A session may be taken over when its old connection has none."""
        return len(self._tickets) - len(self._done)

    def _ticket(self, kind: int, packet_id: int) -> int:
        ticket = self._next_ticket
        self._next_ticket = ticket + 1
        self._tickets[ticket] = kind << 16 | packet_id
        return ticket

    def _reply_now(self, kind: int, packet_id: int, reply: bytes | None = None) -> None:
        """A reply that needs no answer from the core, in its place behind those that do."""
        self._done[self._ticket(kind, packet_id)] = reply
        self._emit()

    def _answer(self, ticket: int, reply: bytes | None) -> None:
        self._done[ticket] = reply
        if ticket == self._first_ticket:
            self._emit()

    def give_up(self, ticket: int) -> None:
        """The answer will not come, and the connection was ended for that; its successor does not wait for it."""
        self._answer(ticket, b"")

    def _emit(self) -> None:
        """Send the replies at the front that are ready, runs of plain ones of a kind in one piece."""
        done, tickets = self._done, self._tickets
        first = self._first_ticket
        run: list[int] = []
        run_kind = 0
        while first in done:
            reply = done.pop(first)
            entry = tickets.pop(first)
            first += 1
            if isinstance(entry, list):
                self.unacknowledged = max(0, self.unacknowledged - len(entry))
                if run and (reply is not None or run_kind != props.PUBACK):
                    self._send_if_open(acks(run_kind, run), len(run))
                    run = []
                if reply is None:
                    run, run_kind = [*run, *entry], props.PUBACK
                elif reply:
                    self._send_if_open(reply, len(entry))
                continue
            kind, packet_id = entry >> 16, entry & 0xFFFF
            if kind == REPEATED:
                kind, reply = self._repeated(packet_id)
            if kind in (props.PUBACK, props.PUBCOMP) or (kind == props.PUBREC and reply is not None):
                self.unacknowledged -= self.unacknowledged > 0
            if reply is None and kind == run_kind:
                run.append(packet_id)
                continue
            if run:
                self._send_if_open(acks(run_kind, run), len(run))
                run = []
            if reply is None:
                run, run_kind = [packet_id], kind
            elif reply:
                self._send_if_open(reply)
        if run:
            self._send_if_open(acks(run_kind, run), len(run))
        self._first_ticket = first
        if not tickets:
            self._tickets = {}  # a dict that has been large stays large
            if self._goodbye is not None:
                self._close(*self._goodbye, by_client=True)

    def _send_if_open(self, data: bytes, packets: int = 1) -> None:
        # A tiny maximum packet size is kept even for the smallest replies ([MQTT-3.1.2-24]).
        if (self.state is _CONNECTED or self.state is State.LEAVING) and (
            self._packet_bytes_max >= 4 or len(data) <= self._packet_bytes_max
        ):
            self._send_control(data, packets)

    def _repeated(self, packet_id: int) -> tuple[int, bytes | None]:
        inbound = self.session.inbound if self.session is not None else None
        if inbound is not None and inbound.get(packet_id, APPENDING) != APPENDING:
            return props.PUBREC, None
        return props.PUBREC, encode(Ack(props.PUBREC, packet_id, reasons.UNSPECIFIED, None), self.version)

    def _settle(self, entry: int, succeeded: bool) -> None:
        """What an answer changes in the session; it counts even when the connection is gone."""
        session = self.session
        if session is None:
            return
        kind, packet_id = entry >> 16, entry & 0xFFFF
        if kind == props.PUBREC:
            inbound = session.inbound
            if inbound is not None and packet_id in inbound:
                if succeeded:
                    inbound[packet_id] = STORED
                else:
                    del inbound[packet_id]
        elif kind == props.PUBCOMP:
            if session.inbound is not None:
                session.inbound.pop(packet_id, None)
        elif kind == props.PUBREL and session.inflight is not None and packet_id in session.inflight:
            session.inflight[packet_id] = session.inflight[packet_id]._replace(state=QOS2_RELEASED)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _leave(self, code: int, reason: str) -> None:
        """The client's DISCONNECT: what it has sent before is answered, then the connection ends."""
        if self._tickets:
            self.state = State.LEAVING
            self._goodbye = code, reason
        else:
            self._close(code, reason, by_client=True)

    def _close(self, code: int, reason: str, *, by_client: bool = False, say: bool = True) -> None:
        """End the connection; MQTT 5 clients are told why unless `say` is False. Does nothing on a closed one."""
        if self.state is State.CLOSED:
            return
        if self._goodbye is not None:  # it has said why, whatever ends it now
            (code, reason), by_client = self._goodbye, True
            self._goodbye = None
        connected = self.state >= State.CONNECTED
        if connected and not by_client and say and self.version == V5:
            disconnect = Disconnect(code)
            data = self._with_reason(disconnect, disconnect.properties, reason)
            if len(data) <= self._packet_bytes_max:
                self._send_control(data)
        self.state = State.CLOSED
        will = self.will if connected and not (by_client and code == reasons.SUCCESS) else None
        self.will = None
        self._reader = Reader(0)  # lets go of what was half read
        event = Closed(self, code, reason, by_client, will, self.session_expiry_s)  # type: ignore[arg-type]
        self.outbox.events.append(event)
