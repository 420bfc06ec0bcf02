"""Raw MQTT connections to a broker under comparison, and what came over them as lines of text.

What a broker may choose freely is left out: reason strings, the limits it announces, which packet ids it takes (they
are numbered as they come), the id it assigns. A step ends when nothing has come for QUIET_S.
"""

from __future__ import annotations

import select
import socket
import time

from gateway.protocols.mqtt.codec import encode
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Packet
from gateway.protocols.mqtt.codec.properties import Properties, read_properties

QUIET_S = 0.2
STEP_S_MAX = 3.0
KINDS = ("", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK")
KINDS += ("UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH")
FREE = {
    props.REASON_STRING,
    props.RECEIVE_MAXIMUM,
    props.TOPIC_ALIAS_MAXIMUM,
    props.MAXIMUM_PACKET_SIZE,
    props.RETAIN_AVAILABLE,
    props.WILDCARD_AVAILABLE,
    props.SUBSCRIPTION_IDS_AVAILABLE,
    props.SHARED_AVAILABLE,
    props.SERVER_KEEP_ALIVE,
}


class Wire:
    """One connection: `send` packets or bytes, `lines` is what has come."""

    def __init__(self, port: int, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.lines: list[str] = []
        self.open = True
        self.packet_ids: list[int] = []  # of QoS 1 and 2 messages, as they came
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._left = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *packets: Packet | bytes) -> None:
        data = b"".join([one if isinstance(one, bytes) else encode(one, self.version) for one in packets])
        try:
            self._socket.sendall(data)
        except OSError:
            pass  # that it is closed is seen when it is read

    def close(self) -> None:
        self._socket.close()
        self.open = False

    def take(self) -> None:
        """What is there now."""
        try:
            data = self._socket.recv(262_144)
        except OSError:
            data = b""
        if not data:
            self.lines.append("closed")
            self.close()
            return
        self._left += data
        while (size := _size(self._left)) and len(self._left) >= size[0] + size[1]:
            head, rest = size
            self.lines.append(self._line(self._left[0], self._left[head : head + rest]))
            self._left = self._left[head + rest :]

    def _line(self, first: int, body: bytes) -> str:
        kind = first >> 4
        name, five = KINDS[kind], self.version == 5
        if kind == 2:
            return f"CONNACK present={body[0]} code={body[1]:#04x}{self._properties(kind, body, 2)}"
        if kind == 3:
            return self._publish(first, body)
        if kind in (4, 5, 6, 7):
            code = body[2] if len(body) > 2 else 0
            number = int.from_bytes(body[:2], "big")
            if kind == 6 and number in self.packet_ids:
                number = self.packet_ids.index(number) + 1
            return f"{name} {number} code={code:#04x}{self._properties(kind, body, 3)}"
        if kind in (9, 11):
            text, at = self._list(kind, body, 2) if five else ("", 2)
            return f"{name} {int.from_bytes(body[:2], 'big')} codes={body[at:].hex(' ')}{text}"
        if kind == 14:
            return f"DISCONNECT code={body[0] if body else 0:#04x}{self._properties(kind, body, 1)}"
        return name

    def _publish(self, first: int, body: bytes) -> str:
        end = 2 + int.from_bytes(body[:2], "big")
        topic, at = body[2:end].decode(errors="replace"), end
        qos = first >> 1 & 3
        flags = f"qos={qos} retain={first & 1} dup={first >> 3 & 1}"
        if qos:
            packet_id = int.from_bytes(body[at : at + 2], "big")
            if packet_id not in self.packet_ids:
                self.packet_ids.append(packet_id)
            flags += f" id={self.packet_ids.index(packet_id) + 1}"
            at += 2
        text, at = self._list(3, body, at) if self.version == 5 else ("", at)
        payload = body[at:]
        return f"PUBLISH {topic!r} {payload[:40]!r}{len(payload) if len(payload) > 40 else ''} {flags}{text}"

    def _properties(self, kind: int, body: bytes, at: int) -> str:
        return self._list(kind, body, at)[0] if self.version == 5 and len(body) > at else ""

    def _list(self, kind: int, body: bytes, at: int) -> tuple[str, int]:
        found, at = read_properties(body, at, len(body), kind)
        return _told(found), at


def _told(found: Properties) -> str:
    shown = {key: value for key, value in found.items() if key not in FREE}
    if props.ASSIGNED_CLIENT_ID in shown:
        shown[props.ASSIGNED_CLIENT_ID] = "assigned"
    if props.MESSAGE_EXPIRY in shown:
        shown[props.MESSAGE_EXPIRY] = "some"
    return "".join(f" {key:#04x}={value!r}" for key, value in sorted(shown.items()))


def _size(data: bytes) -> tuple[int, int] | None:
    """(bytes of the fixed header, bytes behind it), None if the length is not whole yet."""
    value = 0
    for index in range(1, min(5, len(data))):
        value |= (data[index] & 0x7F) << 7 * (index - 1)
        if data[index] < 0x80:
            return index + 1, value
    return None


class Talk:
    """One scenario with one broker: connections by name, the transcript."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.transcript: list[str] = []
        self.wires: list[Wire] = []

    def wire(self, name: str, version: int = 5) -> Wire:
        made = Wire(self.port, name, version)
        self.wires.append(made)
        return made

    def settle(self, quiet_s: float = QUIET_S) -> None:
        """Waits until nothing more comes, and adds what came to the transcript, by connection."""
        end = time.monotonic() + STEP_S_MAX + quiet_s
        while time.monotonic() < end:
            ready, _, _ = select.select([one for one in self.wires if one.open], [], [], quiet_s)
            if not ready:
                break
            for one in ready:
                one.take()
        for one in self.wires:
            self.transcript += [f"{one.name} < {line}" for line in one.lines]
            one.lines.clear()

    def step(self, wire: Wire, *packets: Packet | bytes) -> None:
        """Sends, and waits for what comes of it."""
        wire.send(*packets)
        self.transcript.append(f"{wire.name} >")
        self.settle()

    def end(self) -> None:
        for one in self.wires:
            if one.open:
                one.close()
