"""To the client: messages at the three qualities, their acknowledgements, redelivery.

Flow: QoS 1 and 2 messages take a place of the client's receive maximum from PUBLISH to PUBACK, PUBCOMP or a refusing
PUBREC ([MQTT-4.9.0-2]). When there is no place, or too many bytes wait for the socket, delivery stops and the log is
the buffer: the caller keeps its cursor and goes on at `WindowOpened`. At QoS 0 a full output drops, and counts.
A packet too large for the client counts as delivered ([MQTT-3.1.2-25]).

At QoS 2 in a durable session the packet id is made durable before PUBLISH: `deliver` puts such messages aside
(`take_unstored`), and whatever comes behind them, as a topic has one order at all qualities; `send_stored` sends them.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5, Ack
from gateway.protocols.mqtt.codec.writer import acks, encode
from gateway.protocols.mqtt.errors import LocalProtocolError, protocol_error
from gateway.protocols.mqtt.events import DeliveriesEnded, Outbox, ReceiptReceived, WindowOpened
from gateway.protocols.mqtt.inbound import Inbound
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.message import Message, Run, head_of
from gateway.protocols.mqtt.publish_form import AliasesOut, fits, own_form
from gateway.protocols.mqtt.replies import State
from gateway.protocols.mqtt.session import (
    QOS1_SENT,
    QOS2_RELEASED,
    QOS2_RELEASING,
    QOS2_SENT,
    QOS2_STORING,
    Delivery,
    Session,
)

_new = tuple.__new__
_CONNECTED = State.CONNECTED


class Handed(enum.Enum):
    """What became of a message for a shared subscription: not taken, in flight at QoS 1, or nothing is awaited."""

    NOT = 0
    LEASED = 1
    OVER = 2


class Unsent(NamedTuple):
    """A message that waits for a packet id to be stored: its own, or that of one before it. Packet id 0: QoS 0."""

    packet_id: int
    message: Message
    qos: int
    retain: bool
    identifiers: bytes


class Outbound(Inbound):
    """See the module; `Connection` is what is used."""

    __slots__ = (
        "_aliases_out",
        "_quota",
        "_quota_max",
        "_redeliver",
        "_storing",
        "_unstored",
        "_waiting_bytes",
        "stalled",
    )

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        super().__init__(limits, outbox)
        self.stalled = False  # delivery has stopped and waits for WindowOpened
        self._quota = self._quota_max = 0
        self._aliases_out: AliasesOut | None = None  # None: the client takes none
        self._redeliver: list[int] | None = None  # packet ids of the old connection, latest first
        self._unstored: list[Unsent] | None = None
        self._storing: list[Unsent] | None = None
        self._waiting_bytes = 0  # of both

    # -- new messages ------------------------------------------------------------------------------------------------

    def deliver(
        self,
        run: Run,
        start: int,
        granted_qos: int,
        now_s: float,
        *,
        retain_as_published: bool = False,
        identifiers: bytes = b"",
    ) -> int:
        """Send `run.messages[start:]` as far as there is room; returns the index of the first one not taken.

        `granted_qos` is the highest of the matching subscriptions, `identifiers` their encoded subscription identifier
        properties (MQTT 5), `now_s` Unix time. When less than all was taken, WindowOpened follows. A closed
        connection takes nothing.
        """
        if self.state is not State.CONNECTED:
            return start
        room = self.limits.output_bytes_max - self.output_bytes - self.unsent_bytes - self._waiting_bytes
        v5 = self.version == V5
        own = v5 and (bool(identifiers) or self._aliases_out is not None)
        waiting = self._waiting_bytes > 0
        if not start and (granted_qos == 0 or run.qos_max == 0) and not own and run.plain and not waiting:
            data, largest = run.joined(v5, retain_as_published)
            if largest <= self._packet_bytes_max:
                count = len(run)
                if room <= 0:
                    self.outbox.dropped += count
                elif data:
                    self.outbox.publishes_out += count
                    self.outbox.publish_bytes_out += run.payload_bytes
                    self._send(data)
                return count
        messages = run.messages
        for index in range(start, len(messages)):
            message = messages[index]
            if message.expires_s is not None and message.expires_s <= now_s:
                continue
            qos = message.qos if message.qos < granted_qos else granted_qos
            retain = retain_as_published and message.retain
            if qos == 0:
                if room <= 0:
                    self.outbox.dropped += 1
                    continue
                if waiting:
                    room -= self._wait_behind(0, message, 0, retain, identifiers)
                else:
                    room -= self._publish(message, 0, retain, 0, identifiers, now_s, own)
                continue
            if self._quota <= 0 or room <= 0 or self._redeliver:
                self.stalled = True
                return index
            room -= self._publish_new(message, qos, retain, identifiers, now_s, own)
            waiting = self._waiting_bytes > 0
        return len(messages)

    def deliver_plain(self, run: Run, granted_qos: int, group: str = "", lease: int = 0) -> bool:
        """Send all of a plain run at QoS 1; False, and nothing is sent, where `deliver` must look at the messages."""
        session = self.session
        if (
            self.state is not _CONNECTED
            or granted_qos == 0
            or run.plain_qos != 1
            or self._redeliver
            or self._aliases_out is not None
            or self._waiting_bytes
            or session is None
        ):
            return False
        payloads = run.payloads
        count = len(payloads)
        if count == 1:
            tail = payloads[0]
            payload_bytes = len(tail)
            if self.version == V5:
                tail = b"\0" + tail
            head = head_of(run.topic, len(tail) + 2)
            largest = size = len(head) + 2 + len(tail)
        else:
            forms, largest, size = run.forms(self.version == V5)
            payload_bytes = run.payload_bytes
        if (
            count > self._quota
            or largest > self._packet_bytes_max
            or self.output_bytes + self.unsent_bytes + size > self.limits.output_bytes_max
        ):
            return False
        packet_id = session.take_packet_ids(count)
        if not packet_id:
            return False
        inflight = session.inflight
        if inflight is None:
            inflight = session.inflight = {}
        partition, offset = run.partition, run.base_offset
        if count == 1:
            inflight[packet_id] = _new(Delivery, (QOS1_SENT, partition, offset, False, group, lease))
            data = head + packet_id.to_bytes(2, "big") + tail
        else:
            pieces: list[bytes] = []
            for head, tail in forms:
                inflight[packet_id] = _new(Delivery, (QOS1_SENT, partition, offset, False, group, lease))
                pieces += (head, packet_id.to_bytes(2, "big"), tail)
                packet_id += 1
                offset += 1
            data = b"".join(pieces)
        self._quota -= count
        outbox = self.outbox
        outbox.publishes_out += count
        outbox.publish_bytes_out += payload_bytes
        if not self._output:
            outbox.dirty.append(self)  # type: ignore[arg-type]
        self._output.append(data)
        self.output_bytes += size
        return True

    def deliver_one(
        self,
        message: Message,
        granted_qos: int,
        now_s: float,
        *,
        retain_as_published: bool,
        identifiers: bytes,
        group: str,
        lease: int,
    ) -> Handed:
        """As `deliver`, a message of a shared subscription."""
        qos = message.qos if message.qos < granted_qos else granted_qos
        expired = message.expires_s is not None and message.expires_s <= now_s
        if qos == 0 or expired:
            taken = self.deliver(
                Run([message]), 0, qos, now_s, retain_as_published=retain_as_published, identifiers=identifiers
            )
            return Handed.OVER if taken else Handed.NOT
        room = self.limits.output_bytes_max - self.output_bytes - self.unsent_bytes - self._waiting_bytes
        if self.state is not _CONNECTED:
            return Handed.NOT
        if self._quota <= 0 or room <= 0 or self._redeliver:
            self.stalled = True
            return Handed.NOT
        own = self.version == V5 and (bool(identifiers) or self._aliases_out is not None)
        retain = retain_as_published and message.retain
        added = self._publish_new(message, qos, retain, identifiers, now_s, own, group, lease if qos == 1 else 0)
        return Handed.LEASED if added and qos == 1 else Handed.OVER

    def _publish_new(
        self,
        message: Message,
        qos: int,
        retain: bool,
        identifiers: bytes,
        now_s: float,
        own: bool,
        group: str = "",
        lease: int = 0,
    ) -> int:
        """One new message at QoS 1 or 2. Returns the bytes it added to the output, 0 if it is too large."""
        session = self.session
        assert session is not None
        inflight = session.inflight
        if inflight is None:
            inflight = session.inflight = {}
        packet_id = session.take_packet_id()
        if qos == 2 and session.durable:
            if not self._fits(message, identifiers):
                return 0
            inflight[packet_id] = Delivery(QOS2_STORING, message.partition, message.offset, retain, group, lease)
            self._quota -= 1
            return self._wait_behind(packet_id, message, 2, retain, identifiers)
        if self._waiting_bytes:
            added = self._wait_behind(packet_id, message, qos, retain, identifiers)
        else:
            added = self._publish(message, qos, retain, packet_id, identifiers, now_s, own)
        if added:
            state = QOS1_SENT if qos == 1 else QOS2_SENT
            inflight[packet_id] = _new(Delivery, (state, message.partition, message.offset, retain, group, lease))
            self._quota -= 1
        return added

    def _wait_behind(self, packet_id: int, message: Message, qos: int, retain: bool, identifiers: bytes) -> int:
        """Puts a message aside. Returns the bytes it will add to the output, 0 if it is too large for the client."""
        if not self._fits(message, identifiers):
            return 0
        if self._unstored is None:
            self._unstored = []
        self._unstored.append(Unsent(packet_id, message, qos, retain, identifiers))
        size = message.form(self.version == V5, qos, retain)[2]
        self._waiting_bytes += size
        return size

    @property
    def has_unstored(self) -> bool:
        """Whether `take_unstored` has something."""
        return self._unstored is not None

    def take_unstored(self) -> list[Unsent]:
        """What was put aside; of what is QoS 2, `(session, inflight, packet id) -> offset` is to be stored.

        `send_stored` with as many, when that is durable, sends them.
        """
        unstored, self._unstored = self._unstored or [], None
        if unstored:
            self._storing = unstored if self._storing is None else self._storing + unstored
        return unstored

    def send_stored(self, count: int, now_s: float) -> None:
        """The oldest `count` of what `take_unstored` named is durable: send it. A closed connection only notes it."""
        storing = self._storing or []
        session = self.session
        for packet_id, message, qos, retain, identifiers in storing[:count]:
            self._waiting_bytes -= message.form(self.version == V5, qos, retain)[2]
            if self.state is not State.CONNECTED or session is None:
                continue
            if qos == 2 and session.inflight is not None:
                session.inflight[packet_id] = session.inflight[packet_id]._replace(state=QOS2_SENT)
            self._publish(message, qos, retain, packet_id, identifiers, now_s, self.version == V5)
        self._storing = storing[count:] or None

    # -- bytes of a PUBLISH ------------------------------------------------------------------------------------------

    def _publish(
        self, message: Message, qos: int, retain: bool, packet_id: int, identifiers: bytes, now_s: float, own: bool
    ) -> int:
        """Put a PUBLISH into the output; returns its size in bytes, 0 if it is too large for the client."""
        if own or (message.expires_s is not None and self.version == V5):
            pieces = self._own_form(message, qos, retain, False, packet_id, identifiers, now_s)
            if pieces:
                self._send(pieces)
                self._count(message)
            return len(pieces)
        head, tail, size = message.form(self.version == V5, qos, retain)
        if size > self._packet_bytes_max:
            return 0
        output = self._output
        if not output:
            self.outbox.dirty.append(self)  # type: ignore[arg-type]
        output.append(head)
        if qos:
            output.append(packet_id.to_bytes(2, "big"))
        output.append(tail)
        self.output_bytes += size
        self._count(message)
        return size

    def _count(self, message: Message) -> None:
        self.outbox.publishes_out += 1
        self.outbox.publish_bytes_out += len(message.payload)

    def _own_form(
        self, message: Message, qos: int, retain: bool, dup: bool, packet_id: int, identifiers: bytes, now_s: float
    ) -> bytes:
        aliases, bytes_max = self._aliases_out, self._packet_bytes_max
        return own_form(message, self.version, qos, retain, dup, packet_id, identifiers, now_s, aliases, bytes_max)

    def _fits(self, message: Message, identifiers: bytes) -> bool:
        aliased = self._aliases_out is not None
        return fits(message, self.version, identifiers, aliased=aliased, bytes_max=self._packet_bytes_max)

    # -- after a resumption ------------------------------------------------------------------------------------------

    def _begin_redelivery(self, session: Session) -> None:
        """PUBREL again for what was released; the PUBLISH packets wait for the core, which reads their records."""
        waiting: list[int] = []
        released: list[int] = []
        for packet_id, delivery in (session.inflight or {}).items():
            if delivery.state in (QOS2_RELEASED, QOS2_RELEASING):
                released.append(packet_id)
                session.inflight[packet_id] = delivery._replace(state=QOS2_RELEASED)  # type: ignore[index]
            else:
                waiting.append(packet_id)
        if released:
            self._send_control(acks(props.PUBREL, released), len(released))
        self._redeliver = waiting[::-1] or None

    @property
    def quota_max(self) -> int:
        """Messages of QoS 1 and 2 that may wait for an acknowledgement."""
        return self._quota_max

    def next_redelivery(self) -> tuple[int, Delivery] | None:
        """The next message of the old connection that is to be sent again, if there is room for it."""
        session = self.session
        while self._redeliver and session is not None and session.inflight:
            packet_id = self._redeliver[-1]
            delivery = session.inflight.get(packet_id)
            if delivery is not None:
                waiting = self.output_bytes + self.unsent_bytes + self._waiting_bytes
                if self._quota > 0 and waiting < self.limits.output_bytes_max:
                    return packet_id, delivery
                self.stalled = True
                return None
            self._redeliver.pop()
        self._redeliver = None
        return None

    def redeliver(self, packet_id: int, message: Message | None, now_s: float, identifiers: bytes = b"") -> None:
        """Send again what `next_redelivery` named, with its packet id and DUP ([MQTT-4.4.0-1], [MQTT-3.3.1-1]).

        None: the log does not have the record any more. QoS 1 ends there; at QoS 2 PUBREL follows, so that the client
        forgets the packet id before it is used for another message.
        """
        session = self.session
        assert session is not None
        assert session.inflight is not None
        assert self._redeliver
        if packet_id != self._redeliver[-1]:
            raise LocalProtocolError("messages are delivered again in their order")
        delivery = session.inflight[packet_id]
        self._redeliver.pop()  # what next_redelivery named
        qos = 1 if delivery.state == QOS1_SENT else 2
        if message is not None and delivery.state == QOS2_STORING:
            # The old connection ended before its packet id was durable, so it was never sent.
            if self._wait_behind(packet_id, message, 2, delivery.retain, identifiers):
                self._quota -= 1
                return
        elif message is not None:
            data = self._own_form(message, qos, delivery.retain, True, packet_id, identifiers, now_s)
            if data:
                self._send(data)
                self._count(message)
                self._quota -= 1
                if qos == 2:
                    session.inflight[packet_id] = delivery._replace(state=QOS2_SENT)
                return
        if qos == 2 and delivery.state != QOS2_STORING:
            session.inflight[packet_id] = delivery._replace(state=QOS2_RELEASED)
            self._send_control(acks(props.PUBREL, [packet_id]))
        else:
            self._forget(session, packet_id)
            self._delivery_ended(delivery, reasons.UNSPECIFIED)

    # -- acknowledgements from the client ----------------------------------------------------------------------------

    def _on_pubacks(self, packet_ids: list[int]) -> None:
        self.outbox.packets_in += len(packet_ids) - 1
        session = self.session
        assert session is not None
        inflight = session.inflight
        if inflight is None:
            return
        ended = 0
        told: list[Delivery] = []
        observed = self.outbox.observed
        for packet_id in packet_ids:
            delivery = inflight.get(packet_id)
            if delivery is None:
                continue
            if delivery.state != QOS1_SENT:
                raise protocol_error("PUBACK for a message of QoS 2")
            del inflight[packet_id]
            ended += 1
            if delivery.group or observed:
                told.append(delivery)
        if told:
            self.outbox.events.append(DeliveriesEnded(self, told, reasons.SUCCESS))  # type: ignore[arg-type]
        if not inflight:
            session.inflight = None
        if ended:
            self._places_free(ended)

    def _on_puback(self, ack: Ack) -> None:
        session = self.session
        assert session is not None
        inflight = session.inflight
        delivery = inflight.get(ack.packet_id) if inflight is not None else None
        if delivery is None:
            return  # acknowledged before, or delivered by a connection whose state was given up
        if delivery.state != QOS1_SENT:
            raise protocol_error("PUBACK for a message of QoS 2")
        del inflight[ack.packet_id]  # type: ignore[union-attr]
        if not inflight:
            session.inflight = None
        self._place_free()
        if delivery.group or self.outbox.observed:
            self._delivery_ended(delivery, ack.code)

    def _on_pubrec(self, ack: Ack) -> None:
        session = self.session
        assert session is not None
        packet_id = ack.packet_id
        delivery = session.inflight.get(packet_id) if session.inflight is not None else None
        if delivery is None:
            code = reasons.PACKET_ID_NOT_FOUND if self.version == V5 else reasons.SUCCESS
            if ack.code < 0x80:
                self._reply_now(props.PUBREL, packet_id, encode(Ack(props.PUBREL, packet_id, code, None), self.version))
            return
        if delivery.state in (QOS1_SENT, QOS2_STORING):
            raise protocol_error("PUBREC for a message that was not sent at QoS 2")
        if ack.code >= 0x80:
            self._forget(session, packet_id)
            self._place_free()
            self._delivery_ended(delivery, ack.code)
        elif delivery.state == QOS2_RELEASED:
            self._reply_now(props.PUBREL, packet_id)
        elif delivery.state == QOS2_SENT and session.durable:
            session.inflight[packet_id] = delivery._replace(state=QOS2_RELEASING)  # type: ignore[index]
            ticket = self._ticket(props.PUBREL, packet_id)
            self.outbox.events.append(ReceiptReceived(self, ticket, packet_id))  # type: ignore[arg-type]
        elif delivery.state == QOS2_SENT:
            session.inflight[packet_id] = delivery._replace(state=QOS2_RELEASED)  # type: ignore[index]
            self._reply_now(props.PUBREL, packet_id)

    def receipt_done(self, ticket: int) -> None:
        """ "Released" is durable: PUBREL may go."""
        self._settle(self._open_ticket(ticket, props.PUBREL), True)
        self._answer(ticket, None)

    def _on_pubcomp(self, ack: Ack) -> None:
        session = self.session
        assert session is not None
        delivery = session.inflight.get(ack.packet_id) if session.inflight is not None else None
        if delivery is None:
            return
        if delivery.state != QOS2_RELEASED:
            raise protocol_error("PUBCOMP before PUBREL")
        self._forget(session, ack.packet_id)
        self._place_free()
        self._delivery_ended(delivery, reasons.SUCCESS)

    def _forget(self, session: Session, packet_id: int) -> None:
        assert session.inflight is not None
        del session.inflight[packet_id]
        if not session.inflight:
            session.inflight = None

    def _delivery_ended(self, delivery: Delivery, code: int) -> None:
        if delivery.group or self.outbox.observed:
            self.outbox.events.append(DeliveriesEnded(self, [delivery], code))  # type: ignore[arg-type]

    # -- room --------------------------------------------------------------------------------------------------------

    def _place_free(self) -> None:
        self._places_free(1)

    def _places_free(self, count: int) -> None:
        self._quota = min(self._quota + count, self._quota_max)
        if self.stalled and self.unsent_bytes + self.output_bytes <= self.limits.output_bytes_max // 2:
            self._open_window()

    def sent(self, unsent_bytes: int) -> None:
        """The transport has sent what it could of the output; `unsent_bytes` of it are left."""
        self.unsent_bytes = unsent_bytes
        if self.stalled and unsent_bytes + self.output_bytes <= self.limits.output_bytes_max // 2 and self._quota > 0:
            self._open_window()

    def _open_window(self) -> None:
        if self.state is State.CONNECTED:
            self.stalled = False
            self.outbox.events.append(WindowOpened(self))  # type: ignore[arg-type]
