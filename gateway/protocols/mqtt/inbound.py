"""From the client: PUBLISH at the three qualities, PUBREL, SUBSCRIBE, UNSUBSCRIBE, and the core's answers to them.

QoS 2: a packet id is in `session.inbound` from its PUBLISH until its PUBREL is done; a PUBLISH with an id that is there
is a repetition, answered but not reported ([MQTT-4.3.3-10]). Nothing is acknowledged before the core has answered.
"""

from __future__ import annotations

from typing import Final

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import V5, Ack, Publish, PublishRun, SubAck, Subscribe, UnsubAck, Unsubscribe
from gateway.protocols.mqtt.codec.properties import Properties
from gateway.protocols.mqtt.codec.writer import acks, encode
from gateway.protocols.mqtt.errors import LocalProtocolError, RemoteProtocolError, protocol_error
from gateway.protocols.mqtt.events import (
    Outbox,
    PublishReceived,
    ReleaseReceived,
    RunReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)
from gateway.protocols.mqtt.limits import Limits
from gateway.protocols.mqtt.replies import REPEATED, Replies
from gateway.protocols.mqtt.session import APPENDING, RELEASING, STORED

_new = tuple.__new__

# MQTT 3 cannot say no to a PUBLISH: it is acknowledged and dropped, as mosquitto does ([MQTT-3.3.5-2] of 3.1.1), or,
# where the message would be lost by a fault of ours, the connection is closed.
_DROPPED_IN_V3: Final = frozenset((reasons.NOT_AUTHORIZED, reasons.TOPIC_NAME_INVALID, reasons.PAYLOAD_FORMAT_INVALID))


class Inbound(Replies):
    """See the module; `Connection` is what is used."""

    __slots__ = ("_aliases",)

    def __init__(self, limits: Limits, outbox: Outbox) -> None:
        super().__init__(limits, outbox)
        self._aliases: dict[int, str] | None = None  # bounded by limits.topic_alias_max

    # -- packets -----------------------------------------------------------------------------------------------------

    def _on_publish(self, publish: Publish) -> None:
        if publish.properties is not None:
            publish = self._without_alias(publish)
        qos = publish.qos
        ticket = 0
        if qos:
            session = self.session
            assert session is not None
            inbound = session.inbound
            packet_id = publish.packet_id
            if inbound is not None and packet_id in inbound:
                self._on_used_packet_id(publish)
                return
            self.unacknowledged += 1
            if self.unacknowledged > self.limits.receive_max and self.version == V5:
                raise RemoteProtocolError(reasons.RECEIVE_MAXIMUM_EXCEEDED, "more publishes than the receive maximum")
            if qos == 2:
                if inbound is None:
                    inbound = session.inbound = {}
                inbound[packet_id] = APPENDING
            ticket = self._next_ticket
            self._next_ticket = ticket + 1
            self._tickets[ticket] = (props.PUBACK if qos == 1 else props.PUBREC) << 16 | packet_id
        self.outbox.events.append(PublishReceived(self, ticket, publish))  # type: ignore[arg-type]

    def _on_run(self, run: PublishRun) -> None:
        """Publishes that came together: one ticket for all, unless they must be looked at one by one."""
        ticket = 0
        packet_ids = run.packet_ids
        self.outbox.packets_in += len(run.payloads) - 1
        if packet_ids:
            session = self.session
            assert session is not None
            unacknowledged = self.unacknowledged + len(packet_ids)
            used = session.inbound is not None and not session.inbound.keys().isdisjoint(packet_ids)
            if used or (unacknowledged > self.limits.receive_max and self.version == V5):
                for payload, packet_id in zip(run.payloads, packet_ids, strict=True):
                    self._on_publish(Publish(run.topic, payload, 1, False, False, packet_id, None))
                return
            self.unacknowledged = unacknowledged
            ticket = self._next_ticket
            self._next_ticket = ticket + 1
            self._tickets[ticket] = packet_ids
        self.outbox.events.append(
            _new(RunReceived, (self, ticket, run.topic, run.raw_topic, run.payloads, run.qos, None))
        )

    def _on_used_packet_id(self, publish: Publish) -> None:
        """A PUBLISH whose packet id is in a QoS 2 exchange."""
        if publish.qos == 2:
            self._reply_now(REPEATED, publish.packet_id)
        elif self.version == V5:
            reply = encode(Ack(props.PUBACK, publish.packet_id, reasons.PACKET_ID_IN_USE, None), V5)
            self.unacknowledged += 1
            self._reply_now(props.PUBACK, publish.packet_id, reply)
        else:
            raise protocol_error("the packet identifier of a QoS 2 exchange was used at QoS 1")

    def _without_alias(self, publish: Publish) -> Publish:
        """Resolve or set the topic alias; aliases are the connection's and end with it ([MQTT-3.3.2-7])."""
        properties = publish.properties
        assert properties is not None
        if props.SUBSCRIPTION_ID in properties:
            raise protocol_error("a client's PUBLISH holds a subscription identifier")
        alias = properties.pop(props.TOPIC_ALIAS, None)
        if alias is None:
            return publish
        if not 1 <= alias <= self.limits.topic_alias_max:
            raise RemoteProtocolError(reasons.TOPIC_ALIAS_INVALID, f"topic alias {alias}")
        if self._aliases is None:
            self._aliases = {}
        topic = publish.topic
        if topic:
            self._aliases[alias] = topic
        elif (known := self._aliases.get(alias)) is not None:
            topic = known
        else:
            raise protocol_error(f"topic alias {alias} was never set")
        return publish._replace(topic=topic, properties=properties or None)

    def _on_release(self, ack: Ack) -> None:
        session = self.session
        assert session is not None
        state = session.inbound.get(ack.packet_id) if session.inbound is not None else None
        if state is None:
            reply = None
            if self.version == V5:
                reply = encode(Ack(props.PUBCOMP, ack.packet_id, reasons.PACKET_ID_NOT_FOUND, None), V5)
            self._reply_now(props.PUBCOMP, ack.packet_id, reply)
            return
        if state == APPENDING:
            raise protocol_error("PUBREL before PUBREC")
        assert session.inbound is not None
        if state == STORED and session.durable:
            session.inbound[ack.packet_id] = RELEASING
            ticket = self._ticket(props.PUBCOMP, ack.packet_id)
            self.outbox.events.append(ReleaseReceived(self, ticket, ack.packet_id))  # type: ignore[arg-type]
            return
        if state == STORED:
            del session.inbound[ack.packet_id]
        self._reply_now(props.PUBCOMP, ack.packet_id)

    def _on_subscribe(self, subscribe: Subscribe) -> None:
        ticket = self._ticket(props.SUBACK, subscribe.packet_id)
        self.outbox.events.append(SubscribeReceived(self, ticket, subscribe))  # type: ignore[arg-type]

    def _on_unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        ticket = self._ticket(props.UNSUBACK, unsubscribe.packet_id)
        self.outbox.events.append(UnsubscribeReceived(self, ticket, unsubscribe))  # type: ignore[arg-type]

    # -- answers -----------------------------------------------------------------------------------------------------

    def publish_done(self, ticket: int, code: int = reasons.SUCCESS, reason: str = "") -> None:
        """The message of a PUBLISH is durable (code below 0x80), or refused with a reason code of PUBACK and PUBREC.

        MQTT 3 clients: a refusal for want of permission is acknowledged, any other closes the connection.
        """
        if 0 < code < 0x80:
            raise LocalProtocolError("a stored message is acknowledged with 0x00, with or without subscribers")
        if isinstance(packet_ids := self._tickets.get(ticket), list):
            self._run_answered(ticket, packet_ids, code, reason)
            return
        entry = self._open_ticket(ticket, props.PUBACK, props.PUBREC)
        dropped = code >= 0x80 and self.version != V5
        if dropped and code not in _DROPPED_IN_V3:
            self._settle(entry, False)
            self._answer(ticket, b"")
            self._close(code, reason or "the message could not be stored")
            return
        self._settle(entry, code < 0x80 or dropped)
        if code == reasons.SUCCESS or dropped:
            self._answer(ticket, None)
            return
        ack = Ack(entry >> 16, entry & 0xFFFF, code, {})
        assert ack.properties is not None
        self._answer(ticket, self._with_reason(ack, ack.properties, reason))

    def _run_answered(self, ticket: int, packet_ids: list[int], code: int, reason: str) -> None:
        dropped = code >= 0x80 and self.version != V5
        if dropped and code not in _DROPPED_IN_V3:
            self._answer(ticket, b"")
            self._close(code, reason or "the messages could not be stored")
        elif code == reasons.SUCCESS or dropped:
            self._answer(ticket, None)
        else:
            refusals = []
            for packet_id in packet_ids:
                properties: Properties = {}
                ack = Ack(props.PUBACK, packet_id, code, properties)
                refusals.append(self._with_reason(ack, properties, reason))
            self._answer(ticket, b"".join(refusals))

    def run_done(self, ticket: int) -> None:
        """All of a run is durable. As `publish_done`, quicker."""
        if ticket != self._first_ticket or self._done:
            self.publish_done(ticket)
            return
        packet_ids = self._tickets.pop(ticket, None)
        if not isinstance(packet_ids, list):
            raise LocalProtocolError(f"ticket {ticket} does not wait for this answer")
        self._first_ticket = ticket + 1
        self.unacknowledged = max(0, self.unacknowledged - len(packet_ids))
        self._send_if_open(acks(props.PUBACK, packet_ids), len(packet_ids))
        if self._goodbye is not None:
            self._emit()

    def publishes_done(self, first_ticket: int, last_ticket: int) -> None:
        """All publishes with tickets from first to last are durable; other tickets between them are left alone."""
        tickets, done = self._tickets, self._done
        for ticket in range(first_ticket, last_ticket + 1):
            entry = tickets.get(ticket, 0)
            if isinstance(entry, list):
                kind = props.PUBACK
            else:
                kind = entry >> 16
                if kind == props.PUBREC:
                    self._settle(entry, True)
            if kind not in (props.PUBACK, props.PUBREC):
                continue
            if ticket not in done:
                done[ticket] = None
        self._emit()

    def release_done(self, ticket: int) -> None:
        """The release of a QoS 2 packet id is durable: PUBCOMP may go."""
        self._settle(self._open_ticket(ticket, props.PUBCOMP), True)
        self._answer(ticket, None)

    def subscribe_done(self, ticket: int, codes: list[int], reason: str = "") -> None:
        """The subscriptions are (durably) made: one code per filter, in order; granted QoS or a failure."""
        entry = self._open_ticket(ticket, props.SUBACK)
        packet = SubAck(entry & 0xFFFF, codes)
        self._answer(ticket, self._with_reason(packet, packet.properties, reason))

    def unsubscribe_done(self, ticket: int, codes: list[int], reason: str = "") -> None:
        """The subscriptions are (durably) gone: one code per filter, in order."""
        entry = self._open_ticket(ticket, props.UNSUBACK)
        packet = UnsubAck(entry & 0xFFFF, codes)
        self._answer(ticket, self._with_reason(packet, packet.properties, reason))

    def _open_ticket(self, ticket: int, *kinds: int) -> int:
        entry = self._tickets.get(ticket, 0)
        if isinstance(entry, list) or entry >> 16 not in kinds or ticket in self._done:
            raise LocalProtocolError(f"ticket {ticket} does not wait for this answer")
        return entry
