"""Messages on their way out: one object per record, shared by all who receive it, encoded once per form.

A form is (MQTT 5 or 3, QoS, RETAIN). What differs by receiver, packet id, subscription identifiers, topic alias and the
remaining expiry, is put between the shared pieces by the connection. A `Run` is consecutive messages of one topic name:
at QoS 0 all its receivers of one form share the bytes of the whole run.
"""

from __future__ import annotations

from gateway.protocols.mqtt.codec.primitives import encode_varint
from gateway.protocols.mqtt.codec.writer import publish_head


class Message:
    """A message to deliver. `topic` is UTF-8; `properties` are encoded MQTT 5 properties without their length, without
    expiry, alias and subscription identifiers; `expires_s` is a Unix time or None."""

    __slots__ = ("_forms", "expires_s", "offset", "partition", "payload", "properties", "qos", "retain", "topic")

    def __init__(
        self,
        topic: bytes,
        payload: bytes,
        qos: int,
        retain: bool = False,
        properties: bytes = b"",
        expires_s: float | None = None,
        partition: int = 0,
        offset: int = 0,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
        self.expires_s = expires_s
        self.partition = partition
        self.offset = offset
        self._forms: dict[int, tuple[bytes, bytes, int]] = {}

    def form(self, v5: bool, qos: int, retain: bool) -> tuple[bytes, bytes, int]:
        """(up to the packet id, behind the packet id, size of the packet in bytes)."""
        key = v5 << 3 | qos << 1 | retain
        found = self._forms.get(key)
        if found is None:
            tail = self.payload
            if v5:
                tail = encode_varint(len(self.properties)) + self.properties + tail
            size = len(tail) + (2 if qos else 0)
            head = publish_head(self.topic, qos, retain, False, size)
            found = self._forms[key] = (head, tail, len(head) + size)
        return found


class Run:
    """Messages of one topic name, in the order of the log."""

    __slots__ = ("_joined", "messages", "payload_bytes", "plain", "qos_max")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.qos_max = max([message.qos for message in messages], default=0)
        self.payload_bytes = sum([len(message.payload) for message in messages])
        # Plain: every receiver of a form gets the same bytes at QoS 0.
        self.plain = all(message.expires_s is None for message in messages)
        self._joined: dict[int, tuple[bytes, int]] = {}

    def joined(self, v5: bool, retain_as_published: bool) -> tuple[bytes, int]:
        """All messages at QoS 0 in one piece, and the size of the largest packet in bytes."""
        key = v5 << 1 | retain_as_published
        found = self._joined.get(key)
        if found is None:
            forms = [message.form(v5, 0, message.retain and retain_as_published) for message in self.messages]
            pieces = [piece for head, tail, _ in forms for piece in (head, tail)]
            found = self._joined[key] = (b"".join(pieces), max([size for _, _, size in forms], default=0))
        return found
