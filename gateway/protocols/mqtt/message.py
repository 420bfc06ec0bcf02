"""Messages on their way out: one object per record, shared by all who receive it, encoded once per form.

A form is (MQTT 5 or 3, QoS, RETAIN). What differs by receiver, packet id, subscription identifiers, topic alias and the
remaining expiry, is put between the shared pieces by the connection. A `Run` is consecutive messages of one topic name:
at QoS 0 all its receivers of one form share the bytes of the whole run.
"""

from __future__ import annotations

from typing import Final, TypeAlias

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
    """Messages of one topic name, in the order of the log.

    One made by `plain_run` holds payloads, and makes messages of them only for who needs messages.
    """

    __slots__ = (
        "_forms",
        "_joined",
        "_messages",
        "_payload_bytes",
        "base_offset",
        "partition",
        "payloads",
        "plain",
        "plain_qos",
        "qos_max",
        "topic",
    )

    # of plain ones only
    topic: bytes
    payloads: list[bytes]
    partition: int
    base_offset: int
    _forms: list[Forms | None]

    def __init__(self, messages: list[Message] | None) -> None:
        """None: `plain_run` says what they are."""
        self._messages = messages
        self._joined: dict[int, tuple[bytes, int]] | None = None
        self._payload_bytes = -1
        if messages is None:
            self.plain = True
            self._forms = [None, None]
            return
        self.qos_max = max([message.qos for message in messages], default=0)
        self.plain_qos = -1  # the QoS of all, where `forms` may be used
        # Plain: every receiver of a form gets the same bytes at QoS 0.
        self.plain = all(message.expires_s is None for message in messages)

    @property
    def payload_bytes(self) -> int:
        found = self._payload_bytes
        if found < 0:
            if self._messages is None:
                found = sum(map(len, self.payloads))
            else:
                found = sum([len(message.payload) for message in self._messages])
            self._payload_bytes = found
        return found

    def __len__(self) -> int:
        return len(self.payloads if self._messages is None else self._messages)

    @property
    def messages(self) -> list[Message]:
        messages = self._messages
        if messages is None:
            topic, qos, partition, offset = self.topic, self.qos_max, self.partition, self.base_offset
            messages = self._messages = [
                Message(topic, payload, qos, partition=partition, offset=offset + index)
                for index, payload in enumerate(self.payloads)
            ]
        return messages

    def joined(self, v5: bool, retain_as_published: bool) -> tuple[bytes, int]:
        """All messages at QoS 0 in one piece, and the size of the largest packet in bytes."""
        key = v5 << 1 | retain_as_published
        known = self._joined
        if known is None:
            known = self._joined = {}
        found = known.get(key)
        if found is None:
            if self._messages is None:
                pairs, largest, _ = _forms(self.topic, self.payloads, 0, v5)
            else:
                forms = [message.form(v5, 0, message.retain and retain_as_published) for message in self._messages]
                pairs, largest = [form[:2] for form in forms], max([size for _, _, size in forms], default=0)
            found = known[key] = (b"".join([piece for pair in pairs for piece in pair]), largest)
        return found

    def forms(self, v5: bool) -> Forms:
        """The messages of a plain run at QoS 1."""
        found = self._forms[v5]
        if found is None:
            found = self._forms[v5] = _forms(self.topic, self.payloads, 1, v5)
        return found


def plain_run(topic: bytes, payloads: list[bytes], qos: int, partition: int, base_offset: int) -> Run:
    """Messages of one name and QoS, without properties or RETAIN, one behind the other in the log."""
    run = Run(None)
    run.topic = topic
    run.payloads = payloads
    run.qos_max = run.plain_qos = qos
    run.partition = partition
    run.base_offset = base_offset
    return run


# (up to the packet id, behind it) of each packet; bytes of the largest packet, and of all
Forms: TypeAlias = tuple[list[tuple[bytes, bytes]], int, int]


HEADS_CACHED_MAX: Final = 16_384
_heads: dict[tuple[bytes, int], bytes] = {}


def head_of(topic: bytes, rest_bytes: int) -> bytes:
    """The beginning of a plain PUBLISH at QoS 1 behind which `rest_bytes` follow; those seen lately are kept."""
    key = topic, rest_bytes
    head = _heads.get(key)
    if head is None:
        if len(_heads) >= HEADS_CACHED_MAX:
            _heads.clear()
        head = _heads[key] = publish_head(topic, 1, False, False, rest_bytes)
    return head


def _forms(topic: bytes, payloads: list[bytes], qos: int, v5: bool) -> Forms:
    heads: dict[int, bytes] = {}
    forms: list[tuple[bytes, bytes]] = []
    largest = size = 0
    own = (2 if qos else 0) + v5
    for payload in payloads:
        length = len(payload)
        head = heads.get(length)
        if head is None:
            head = heads[length] = publish_head(topic, qos, False, False, length + own)
            largest = max(largest, len(head) + length + own)
        forms.append((head, b"\0" + payload if v5 else payload))
        size += len(head) + length + own
    return forms, largest, size
