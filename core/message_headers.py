"""What a message says about itself, as record headers, the same for every road into and out of the log.

Headers whose name begins with `trivium.` are ours: QoS, RETAIN, content type, response topic, correlation data, payload
format and expiry; and the message's tag and its wish to be traced, which any client may set (from MQTT: user properties
`trivium.tag`, `trivium.trace`). User properties of MQTT are headers under their own names, in order, with duplicates;
what else devices send under the reserved prefix is dropped. The other way, headers are user properties; what is no
UTF-8 text without NUL travels as base64 under `trivium.base64.<name>`, a null value as empty text under
`trivium.null.<name>`, and both are turned back when a device sends them on. Empty payloads of MQTT are empty values,
never null; a null value reaches MQTT as an empty payload with `trivium.null-value`, a key that is no topic name in
`trivium.key` or `trivium.key-base64`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from trivium.headers import CORRELATION_DATA, PREFIX, RESPONSE_TOPIC, TAG, TRACE
from trivium.headers import EXPIRY_S as EXPIRY

Headers: TypeAlias = list[tuple[str, bytes | None]]

QOS: Final = "trivium.qos"
RETAIN: Final = "trivium.retain"
PAYLOAD_FORMAT: Final = "trivium.payload-format"
CONTENT_TYPE: Final = "trivium.content-type"
PUBLISHER: Final = "trivium.publisher"
BASE64: Final = "trivium.base64."
NULL: Final = "trivium.null."
NULL_VALUE: Final = "trivium.null-value"
KEY: Final = "trivium.key"
KEY_BASE64: Final = "trivium.key-base64"
TEXT_BYTES_MAX: Final = 65_535
EXPIRY_S_MAX: Final = 0xFFFFFFFF


@dataclass(slots=True)
class Attributes:
    """A message without its name, value and time. `expiry_s` counts from the record's timestamp."""

    qos: int = 2  # records that say nothing are delivered at the granted QoS
    retain: bool = False
    payload_format: int | None = None  # 0 bytes, 1 UTF-8 text
    expiry_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    publisher: str | None = None  # client id of a publisher that must not get its own message back (no-local)
    user: list[tuple[str, str]] = field(default_factory=list)


_RETAIN_SET: Final[Headers] = [(RETAIN, b"1")]
_PLAIN: Final[dict[tuple[int, bool], Headers]] = {
    (qos, retain): [(QOS, b"%d" % qos), *(_RETAIN_SET if retain else ())]
    for qos in (0, 1, 2)
    for retain in (False, True)
}


def plain_headers(qos: int, retain: bool) -> Headers:
    """The headers of a message that has nothing else to say. Shared: not to be changed."""
    return _PLAIN[qos, retain]


def to_headers(attributes: Attributes) -> Headers:
    """A device's message as record headers."""
    headers = list(_PLAIN[attributes.qos, attributes.retain])
    if attributes.payload_format is not None:
        headers.append((PAYLOAD_FORMAT, b"%d" % attributes.payload_format))
    if attributes.expiry_s is not None:
        headers.append((EXPIRY, b"%d" % attributes.expiry_s))
    if attributes.content_type is not None:
        headers.append((CONTENT_TYPE, attributes.content_type.encode()))
    if attributes.response_topic is not None:
        headers.append((RESPONSE_TOPIC, attributes.response_topic.encode()))
    if attributes.correlation_data is not None:
        headers.append((CORRELATION_DATA, attributes.correlation_data))
    if attributes.publisher is not None:
        headers.append((PUBLISHER, attributes.publisher.encode()))
    for name, text in attributes.user:
        if not name.startswith(PREFIX):
            headers.append((name, text.encode()))
        elif (header := _unmark(name, text)) is not None:
            headers.append(header)
    return headers


def _unmark(name: str, text: str) -> tuple[str, bytes | None] | None:
    """The header that a marked user property (or the tag) stands for; None for every other reserved name."""
    if name in (TAG, TRACE):
        return name, text.encode()
    if name.startswith(NULL) and not text:
        inner = name[len(NULL) :]
        return None if inner.startswith(PREFIX) else (inner, None)
    if name.startswith(BASE64):
        inner = name[len(BASE64) :]
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
        return None if inner.startswith(PREFIX) else (inner, value)
    return None


def from_headers(headers: Sequence[tuple[str, bytes | None]]) -> Attributes:
    """Record headers, whoever wrote them, as a message's attributes. What cannot be read is left out, never raised.

    A user property that would not fit MQTT's 65,535 bytes is left out.
    """
    attributes = Attributes()
    for name, value in headers:
        if not name.startswith(PREFIX) or name in (TAG, TRACE):
            if (pair := _user_property(name, value)) is not None:
                attributes.user.append(pair)
        elif value is not None:
            _reserved(attributes, name, value)
    return attributes


def _reserved(attributes: Attributes, name: str, value: bytes) -> None:
    match name:
        case "trivium.qos":
            attributes.qos = value[0] - 48 if value in (b"0", b"1", b"2") else 2
        case "trivium.retain":
            attributes.retain = value == b"1"
        case "trivium.payload-format":
            attributes.payload_format = 1 if value == b"1" else 0
        case "trivium.expiry-s":
            if value.isdigit() and len(value) <= 10:
                attributes.expiry_s = min(int(value), EXPIRY_S_MAX)
        case "trivium.content-type":
            attributes.content_type = _text(value)
        case "trivium.response-topic":
            topic = _text(value)
            attributes.response_topic = topic if topic and "+" not in topic and "#" not in topic else None
        case "trivium.correlation-data":
            attributes.correlation_data = value if len(value) <= TEXT_BYTES_MAX else None
        case "trivium.publisher":
            attributes.publisher = _text(value)
        case _:
            pass


def _text(value: bytes) -> str | None:
    """The bytes as a string MQTT can carry, None if they are none."""
    if len(value) > TEXT_BYTES_MAX or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _user_property(name: str, value: bytes | None) -> tuple[str, str] | None:
    if "\0" in name:
        return None
    if value is None:
        pair = (NULL + name, "")
    elif (text := _text(value)) is not None:
        pair = (name, text)
    else:
        pair = (BASE64 + name, base64.b64encode(value).decode())
    try:
        fits = len(pair[0].encode()) <= TEXT_BYTES_MAX and len(pair[1]) <= TEXT_BYTES_MAX
    except UnicodeEncodeError:
        return None
    return pair if fits else None


def key_property(key: bytes) -> tuple[str, str]:
    """The user property that carries a key which is no topic name."""
    text = _text(key)
    return (KEY, text) if text is not None else (KEY_BASE64, base64.b64encode(key[:49_000]).decode())
