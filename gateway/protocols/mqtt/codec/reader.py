"""Incremental parser: bytes as they come -> packets.

Rules: a packet is parsed when all of it is here; its announced length is checked against `packet_bytes_max` before
anything is kept for it; what is kept is what arrived, so a promise of 256 MB costs nothing. Parsing stops behind a
CONNECT, since the rest may only be read once the CONNECT is accepted and its version known; `feed(b"")` goes on.
PUBLISH and plain PUBACK, the packets that come once per message, are parsed in the loop itself; every other packet,
and every odd form of these two, goes through `decode.parse`. A reader that is `joining` hands them on as runs, since
what one read brought of one name costs little more then than one message.
"""

from __future__ import annotations

from typing import Final

from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.codec.decode import decode_topic, parse
from gateway.protocols.mqtt.codec.packets import V5, Ack, Connect, Packet, PubAckRun, Publish, PublishRun
from gateway.protocols.mqtt.codec.properties import CONNECT, PUBACK
from gateway.protocols.mqtt.errors import RemoteProtocolError, malformed

_new = tuple.__new__  # skips the argument handling of NamedTuple: half the cost of a packet

# Topic names seen lately, already checked, so that a device that publishes the same name again costs one look-up.
TOPICS_CACHED_MAX: Final = 16_384
_TOPIC_CACHED_BYTES_MAX: Final = 256
_topics: dict[bytes, str] = {}


def _checked_topic(raw: bytes) -> str:
    topic = decode_topic(raw)
    if len(raw) <= _TOPIC_CACHED_BYTES_MAX:
        if len(_topics) >= TOPICS_CACHED_MAX:
            _topics.clear()
        _topics[raw] = topic
    return topic


class Reader:
    """One direction of one connection. `version` is 0 until a CONNECT was read, or what the caller sets."""

    __slots__ = ("_joining", "_needed", "_partial", "packet_bytes_max", "version")

    def __init__(self, packet_bytes_max: int, version: int = 0, *, joining: bool = False) -> None:
        self.version = version
        self.packet_bytes_max = packet_bytes_max
        self._joining = joining
        self._partial: bytearray | None = None
        self._needed = 0

    @property
    def buffered_bytes(self) -> int:
        return len(self._partial) if self._partial is not None else 0

    def feed(self, data: bytes, packets: list[Packet]) -> None:
        """Append to `packets` what is complete; packets before a broken one are there when RemoteProtocolError rises.

        After an error the reader holds nothing and must not be fed again.
        """
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed:
                return
            data = bytes(partial)
            self._partial = None
        at = 0
        size = len(data)
        needed = 0
        v5 = self.version == V5
        cached = _topics.get
        append = packets.append
        joining = self._joining
        while at + 2 <= size:
            first = data[at]
            length = data[at + 1]
            body = at + 2
            if length >= 0x80:
                length, body = self._long_length(data, at, size)
                if body == 0:
                    break
            end = body + length
            if end - at > self.packet_bytes_max:
                raise RemoteProtocolError(reasons.PACKET_TOO_LARGE, f"packet of {end - at} bytes")
            if end > size:
                needed = end - at
                break
            if first == 0x40 and length == 2:
                if packet_id := data[body] << 8 | data[body + 1]:
                    if joining:
                        at = self._pubacks(data, end, size, packet_id, packets)
                        continue
                    append(_new(Ack, (PUBACK, packet_id, 0, None)))
                    at = end
                    continue
            elif first in _PLAIN_PUBLISH and length > 4:
                name_end = body + 2 + (data[body] << 8 | data[body + 1])
                qos = first >> 1 & 3
                rest = name_end + 2 if qos else name_end
                if rest < end:
                    packet_id = data[name_end] << 8 | data[name_end + 1] if qos else -1
                    if v5:
                        if data[rest] != 0:
                            packet_id = 0
                        rest += 1
                    raw = data[body + 2 : name_end]
                    if packet_id and raw:
                        topic = cached(raw) or _checked_topic(raw)
                        if joining and first in _JOINED:
                            run = _new(PublishRun, (topic, raw, qos, [data[rest:end]], [packet_id] if qos else []))
                            append(run)
                            at = end
                            if at < size and data[at] == first:
                                at = self._publishes(data, body, name_end, at, size, run)
                            continue
                        if not qos:
                            packet_id = 0
                        append(_new(Publish, (topic, data[rest:end], qos, first & 1 == 1, False, packet_id, None)))
                        at = end
                        continue
            elif first >> 4 == CONNECT:
                append(self._connect(data, body, end, first))
                at = end
                break
            append(parse(data, body, end, first, self.version))
            at = end
        if at < size:
            self._partial = bytearray(data[at:])
            self._needed = needed

    def _publishes(self, data: bytes, body: int, name_end: int, at: int, size: int, run: PublishRun) -> int:
        """Adds the PUBLISH packets at `at` that are as the one whose name stands at `body`; returns where they end."""
        name = data[body:name_end]
        name_bytes = len(name)
        qos = run.qos
        v5 = self.version == V5
        rest_bytes_min = 2 * qos + v5 + 1
        first = data[at]
        packet_bytes_max = self.packet_bytes_max
        payloads, packet_ids = run.payloads, run.packet_ids
        while at + 2 < size and data[at] == first:
            length = data[at + 1]
            body = at + 2
            if length >= 0x80:
                more = data[body]
                if not 0 < more < 0x80:
                    break
                length = length & 0x7F | more << 7
                body += 1
            end = body + length
            rest = body + name_bytes
            if end > size or end - rest < rest_bytes_min or end - at > packet_bytes_max:
                break
            if not data.startswith(name, body):
                break
            if qos:
                packet_id = data[rest] << 8 | data[rest + 1]
                if not packet_id:
                    break
                rest += 2
            if v5:
                if data[rest]:
                    break
                rest += 1
            if qos:
                packet_ids.append(packet_id)
            payloads.append(data[rest:end])
            at = end
        return at

    @staticmethod
    def _pubacks(data: bytes, at: int, size: int, packet_id: int, packets: list[Packet]) -> int:
        """The plain PUBACKs from the one with `packet_id`, which ends at `at`, as one; returns where they end."""
        packet_ids = [packet_id]
        while at + 4 <= size and data[at] == 0x40 and data[at + 1] == 2:
            packet_id = data[at + 2] << 8 | data[at + 3]
            if not packet_id:
                break
            packet_ids.append(packet_id)
            at += 4
        packets.append(_new(PubAckRun, (packet_ids,)))
        return at

    def hold(self, data: bytes) -> None:
        """Keep bytes without parsing them, until the next `feed`."""
        if self._partial is None:
            self._partial = bytearray()
            self._needed = 0
        self._partial += data

    def _connect(self, data: bytes, body: int, end: int, first: int) -> Packet:
        # A CONNECT of MQTT 5 that breaks later rules can still be answered in its own version.
        if not self.version and data[body : body + 7] == b"\0\4MQTT\5":
            self.version = V5
        packet = parse(data, body, end, first, self.version)
        if not self.version and isinstance(packet, Connect):
            self.version = packet.version
        return packet

    def _long_length(self, data: bytes, at: int, size: int) -> tuple[int, int]:
        """Remaining length of two to four bytes: (length, start of the body), or (0, 0) when it is not all here."""
        value = shift = 0
        for index in range(at + 1, min(size, at + 5)):
            byte = data[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                # MQTT 3 does not ask for the shortest form, and devices exist that pad it.
                if byte == 0 and self.version == V5:
                    raise malformed("remaining length is not in its shortest form")
                return value, index + 1
            shift += 7
        if size - at >= 5:
            raise malformed("remaining length of more than four bytes")
        return 0, 0


_JOINED: Final = frozenset((0x30, 0x32))
_PLAIN_PUBLISH: Final = frozenset((0x30, 0x31, 0x32, 0x33, 0x34, 0x35))
