"""The state machine of one MQTT connection, for all three versions, without I/O and without a clock.

    connection.receive(data, now)   bytes in      -> events in `outbox.events`
    connection.accept(...) ...      answers in    -> bytes in `take_output()`, the connection in `outbox.dirty`
    connection.check_time(now)      time in

Theory. Five states, `State`; the table below says which packets each takes. Whatever the client sends ends in events or
in a closed connection: MQTT 5 is told the reason code in CONNACK or DISCONNECT, MQTT 3 is closed. The core is asked
through events and answers by methods (see events.py). What outlives the connection is in its `Session`.

| state         | CONNECT  | DISCONNECT | AUTH             | packets only servers send | others  |
|---------------|----------|------------|------------------|---------------------------|---------|
| AWAIT_CONNECT | asks     | closes     | closes           | closes                    | closes  |
| CONNECTING    | held     | held       | held             | held                      | held    |
| CONNECTED     | 0x82     | closes     | 0x82 (no method) | 0x82                      | handled |
| LEAVING       | ignored  | ignored    | ignored          | ignored                   | ignored |
| CLOSED        | ignored  | ignored    | ignored          | ignored                   | ignored |

A DISCONNECT closes once what was sent before it is answered: until then the connection is LEAVING.
"""

from __future__ import annotations

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.decode import UnsupportedVersion
from gateway.protocols.mqtt.codec.packets import (
    V5,
    V31,
    V311,
    Ack,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAckRun,
    Publish,
    PublishRun,
    Subscribe,
    Unsubscribe,
)
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.codec.writer import PINGRESP, encode
from gateway.protocols.mqtt.errors import LocalProtocolError, RemoteProtocolError, protocol_error
from gateway.protocols.mqtt.events import ConnectReceived, Outbox
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.outbound import Outbound
from gateway.protocols.mqtt.publish_form import AliasesOut
from gateway.protocols.mqtt.replies import State
from gateway.protocols.mqtt.session import Session

_CONNECTED = State.CONNECTED
RATE_BURST_S = 2.0  # rates hold over this time, longer than the second in which a transport looks at deadlines

_ON_ACK = {
    props.PUBACK: Outbound._on_puback,
    props.PUBREC: Outbound._on_pubrec,
    props.PUBREL: Outbound._on_release,
    props.PUBCOMP: Outbound._on_pubcomp,
}


def _publishes_in(packet: Packet) -> int:
    return len(packet.payloads) if isinstance(packet, PublishRun) else isinstance(packet, Publish)


class Connection(Outbound):
    """One connection of a client. `now` is monotonic time in seconds. Nothing blocks, or raises for what a peer did."""

    __slots__ = (
        "_last_packet_s",
        "_paced",
        "_paid_s",
        "_waiting_max",
        "connect",
        "keep_alive_s",
        "kept_waiting",
        "opened_s",
        "paused_until_s",
        "transport",
        "user",
    )

    def __init__(self, limits: Limits, outbox: Outbox, now: float) -> None:
        super().__init__(limits, outbox)
        self.opened_s = self._last_packet_s = now
        self.keep_alive_s = 0
        self._paced = limits.paced
        self._waiting_max = 2 * limits.receive_max  # replies that are due before no more is read
        self._paid_s = 0.0  # until when its rates are used up
        self.paused_until_s = 0.0  # it sent more than its rates allow and is not read until then; 0: it is
        self.kept_waiting = False  # the core looks at nothing more until something is stored
        self.connect: Connect | None = None  # from CONNECT to its answer
        self.transport: object = None  # the transport's own
        self.user: object = None  # the core's own

    # -- bytes and time in -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the client, in any pieces."""
        state = self.state
        if state is not _CONNECTED:
            if state >= State.LEAVING:
                return
            if state is State.CONNECTING:
                self._hold(data)
                return
        packets: list[Packet] = []
        error: RemoteProtocolError | None = None
        try:
            self._reader.feed(data, packets)
        except RemoteProtocolError as broken:
            error = broken
        if packets:
            self._last_packet_s = now
            self.outbox.packets_in += len(packets)  # a run adds what it holds beyond one
            if self._paced:
                self._pace(packets, len(data), now)
        try:
            for packet in packets:
                kind = packet.__class__
                if self.state is not _CONNECTED:
                    self._on_first(packet)
                elif kind is PublishRun:
                    self._on_run(packet)  # type: ignore[arg-type]
                    continue
                elif kind is PubAckRun:
                    self._on_pubacks(packet.packet_ids)  # type: ignore[union-attr]
                    continue
                elif kind is Publish:
                    self._on_publish(packet)  # type: ignore[arg-type]
                elif kind is Ack:
                    _ON_ACK[packet.kind](self, packet)  # type: ignore[union-attr, arg-type]
                else:
                    self._on_other(packet)
                if self.state >= State.LEAVING:
                    return
            if error is not None:
                raise error
        except RemoteProtocolError as broken:
            self._fail(broken)

    def _pace(self, packets: list[Packet], size_bytes: int, now: float) -> None:
        """Have what was sent paid for in time, with RATE_BURST_S in advance; who has not so much left is paused."""
        limits = self.limits
        cost_s = 0.0
        if limits.publishes_per_s_max:
            cost_s = sum(map(_publishes_in, packets)) / limits.publishes_per_s_max
        if limits.bytes_per_s_max:
            cost_s = max(cost_s, size_bytes / limits.bytes_per_s_max)
        self._paid_s = max(self._paid_s, now) + cost_s
        if self._paid_s > now + RATE_BURST_S:
            self.paused_until_s = self._paid_s - RATE_BURST_S

    def _hold(self, data: bytes) -> None:
        """[MQTT-3.1.4-6]: nothing behind a CONNECT is looked at before it is accepted."""
        if self._reader.buffered_bytes + len(data) > self.limits.packet_bytes_max:
            self._close(reasons.PACKET_TOO_LARGE, "too much was sent before CONNACK", say=False)
        else:
            self._reader.hold(data)

    @property
    def reading(self) -> bool:
        """Whether the transport should go on reading: not while a verdict on CONNECT or too many replies are due, nor
        while the client has used up its rates or the core lets it wait."""
        if self.paused_until_s or self.kept_waiting:
            return False
        if self.state is _CONNECTED:
            waiting_max = self._waiting_max
            if self.unacknowledged <= waiting_max and len(self._tickets) <= waiting_max:
                return True
            # QoS 2 messages that wait for PUBREL do not count: an MQTT 3 client may have any number of them, and
            # unread it could not release one.
            inbound = self.session.inbound if self.session is not None else None
            unreleased = len(inbound) if inbound is not None else 0
            return len(self._tickets) <= waiting_max and self.unacknowledged - unreleased <= waiting_max
        return self.state is State.AWAIT_CONNECT

    @property
    def held_bytes(self) -> int:
        """Of a packet that has not come whole, or behind a CONNECT that is not answered yet."""
        return self._reader.buffered_bytes

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED

    def eof(self) -> None:
        """The client closed the network connection, or it broke, without DISCONNECT."""
        self._close(reasons.UNSPECIFIED, "the network connection was closed", say=False)

    @property
    def deadline(self) -> float | None:
        """When `check_time` is due next; None: not before something else happens."""
        if self.state is State.AWAIT_CONNECT:
            return self.opened_s + self.limits.connect_timeout_s
        if self.paused_until_s:
            return self.paused_until_s
        if (self.state is State.CONNECTED or self.state is State.LEAVING) and self.keep_alive_s:
            return self._last_packet_s + 1.5 * self.keep_alive_s
        return None

    def check_time(self, now: float) -> None:
        """Close when CONNECT has not come in time, or nothing in one and a half keep alives ([MQTT-3.1.2-22])."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return
        if self.paused_until_s:
            self.paused_until_s = 0.0
            self._last_packet_s = now  # what it has sent meanwhile was not read
            return
        if self.state is State.AWAIT_CONNECT:
            self._close(reasons.KEEP_ALIVE_TIMEOUT, "no CONNECT in time")
        else:
            self._close(reasons.KEEP_ALIVE_TIMEOUT, "nothing was received in one and a half keep alive times")

    # -- CONNECT -----------------------------------------------------------------------------------------------------

    def _on_first(self, packet: Packet) -> None:
        if not isinstance(packet, Connect):
            self._close(reasons.PROTOCOL_ERROR, "the first packet is not CONNECT")
            return
        self.version = packet.version
        properties = packet.properties
        self._packet_bytes_max = properties.get(props.MAXIMUM_PACKET_SIZE, 0xFFFFFFFF)
        self._problem_information = properties.get(props.REQUEST_PROBLEM_INFORMATION, 1) == 1
        self.client_id = packet.client_id
        if props.AUTHENTICATION_METHOD in properties:
            self._refuse(reasons.BAD_AUTHENTICATION_METHOD, "no authentication method is supported")
        elif not packet.client_id and (packet.version == V31 or (packet.version == V311 and not packet.clean_start)):
            self._refuse(reasons.CLIENT_ID_INVALID, "the client identifier is empty")
        else:
            self.state = State.CONNECTING
            self.connect = packet
            self.outbox.connects_in += 1
            self.outbox.events.append(ConnectReceived(self, packet))

    def accept(
        self,
        session: Session,
        now: float,
        *,
        session_present: bool = False,
        session_expiry_s: int | None = None,
    ) -> bool:
        """Answer CONNECT with success: CONNACK goes out, then what was held is read. False if the client is gone.

        `session.client_id` is the assigned identifier where the client sent none; `session_expiry_s` is the granted
        expiry (None: as asked for). The session's state must be durable by now if it is a durable one.
        """
        if self.state is not State.CONNECTING or self.connect is None:
            if self.state >= State.LEAVING:
                return False
            raise LocalProtocolError("there is no CONNECT to accept")
        connect = self.connect
        properties, asked_s = self._agree(connect, session, session_expiry_s)
        self.session = session
        self.client_id = session.client_id
        session.expiry_s = self.session_expiry_s
        if connect.version == V5 and self.session_expiry_s != asked_s:
            properties[props.SESSION_EXPIRY] = self.session_expiry_s
        data = encode(ConnAck(session_present, reasons.SUCCESS, properties), self.version)
        if len(data) > self._packet_bytes_max:
            self._close(reasons.PACKET_TOO_LARGE, "CONNACK exceeds the client's maximum packet size")
            return False
        self.will = connect.will
        self.connect = None
        self.state = State.CONNECTED
        self._last_packet_s = now
        self._reader.packet_bytes_max = self.limits.packet_bytes_max
        self._send_control(data)
        self._begin_redelivery(session)
        self.receive(b"", now)
        return True

    def _agree(self, connect: Connect, session: Session, granted_s: int | None) -> tuple[Properties, int]:
        """Set what both sides may use; returns the CONNACK properties and the session expiry that was asked for."""
        asked, limits = connect.properties, self.limits
        self.keep_alive_s = connect.keep_alive_s
        self._quota_max = limits.inflight_max
        if connect.version != V5:
            asked_s = 0 if connect.clean_start else 0xFFFFFFFF
            self.session_expiry_s = asked_s if granted_s is None else granted_s
            self._quota = self._quota_max
            return {}, asked_s
        asked_s = asked.get(props.SESSION_EXPIRY, 0)
        self.session_expiry_s = min(asked_s, limits.session_expiry_s_max) if granted_s is None else granted_s
        self._quota_max = self._quota = min(asked.get(props.RECEIVE_MAXIMUM, 65_535), limits.inflight_max)
        aliases_max = min(asked.get(props.TOPIC_ALIAS_MAXIMUM, 0), limits.topic_alias_out_max)
        self._aliases_out = AliasesOut(aliases_max) if aliases_max else None
        properties: Properties = {
            props.RECEIVE_MAXIMUM: limits.receive_max,
            props.MAXIMUM_PACKET_SIZE: limits.packet_bytes_max,
        }
        if limits.topic_alias_max:
            properties[props.TOPIC_ALIAS_MAXIMUM] = limits.topic_alias_max
        if not connect.client_id:
            properties[props.ASSIGNED_CLIENT_ID] = session.client_id
        if limits.keep_alive_s_max and not 0 < connect.keep_alive_s <= limits.keep_alive_s_max:
            self.keep_alive_s = properties[props.SERVER_KEEP_ALIVE] = limits.keep_alive_s_max
        return properties, asked_s

    def refuse(self, code: int, reason: str = "") -> None:
        """Answer CONNECT with a reason code of CONNACK (0x80 and above) and close."""
        if self.state is State.CLOSED:
            return
        if self.state is not State.CONNECTING or code < 0x80:
            raise LocalProtocolError("only a CONNECT can be refused, and only with an error")
        self._refuse(code, reason)

    def _refuse(self, code: int, reason: str) -> None:
        if self.version == V5 or code in reasons.CONNACK_V3:
            packet = ConnAck(False, code)
            data = encode(packet, self.version)
            if reason and self.version == V5:
                explained = encode(ConnAck(False, code, {props.REASON_STRING: reason}), self.version)
                data = explained if len(explained) <= self._packet_bytes_max else data
            if len(data) <= self._packet_bytes_max:
                self._send_control(data)
        self.connect = None
        self._close(code, reason, say=False)

    # -- packets of a connected client -------------------------------------------------------------------------------

    def _on_other(self, packet: Packet) -> None:
        match packet:
            case PingReq():
                if self._packet_bytes_max >= len(PINGRESP):
                    self._send_control(PINGRESP)
            case Subscribe():
                self._on_subscribe(packet)
            case Unsubscribe():
                self._on_unsubscribe(packet)
            case Disconnect():
                self._on_disconnect(packet)
            case Connect():
                raise protocol_error("a second CONNECT")
            case _:
                raise protocol_error(f"{type(packet).__name__} is not for a client to send here")

    def _on_disconnect(self, packet: Disconnect) -> None:
        if packet.code not in reasons.DISCONNECT_FROM_CLIENT or props.SERVER_REFERENCE in packet.properties:
            raise protocol_error("a DISCONNECT that only servers send")
        expiry_s = packet.properties.get(props.SESSION_EXPIRY)
        if expiry_s is not None:
            if expiry_s and not self.session_expiry_s:
                raise protocol_error("a session that was to end with the connection cannot be given an expiry")
            self.session_expiry_s = min(expiry_s, self.limits.session_expiry_s_max)
            if self.session is not None:
                self.session.expiry_s = self.session_expiry_s
        self._leave(packet.code, packet.properties.get(props.REASON_STRING, ""))

    # -- the end -----------------------------------------------------------------------------------------------------

    def disconnect(self, code: int, reason: str = "") -> None:
        """End the connection from our side. Before CONNACK nothing is said ([MQTT-3.14.0-1])."""
        if code not in reasons.DISCONNECT_FROM_SERVER:
            raise LocalProtocolError(f"reason code 0x{code:02x} does not belong in a DISCONNECT by the server")
        self._close(code, reason)

    def _fail(self, error: RemoteProtocolError) -> None:
        """The client broke the protocol ([MQTT-4.13.1-1]); before CONNACK it is told in one, if its version has it."""
        if self.state is State.AWAIT_CONNECT:
            if isinstance(error, UnsupportedVersion):
                self.version = V5 if error.level & 0x7F > V5 else V311  # bit 7 marks bridges
                self._refuse(error.code, error.reason)
                return
            if self._reader.version == V5:
                self.version = V5
                self._refuse(error.code, error.reason)
                return
        self._close(error.code, error.reason)
