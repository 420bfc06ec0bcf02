"""Between PUBLISH packets and records of the log: DESIGN's mapping of properties and headers, both ways."""

from __future__ import annotations

from typing import Final

from core.message_headers import (
    NULL_VALUE,
    Attributes,
    Headers,
    from_headers,
    key_property,
    plain_headers,
    to_headers,
)
from core.topic_mapping import TopicMapping
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.properties import Properties, encode_property
from gateway.protocols.mqtt.message import Message
from trivium.records import Record

_QOS_ONLY: Final = {b"0": 0, b"1": 1, b"2": 2}


def headers_of(qos: int, retain: bool, properties: Properties | None, publisher: str | None = None) -> Headers:
    """The record headers of a message a device publishes (or of its will)."""
    if not properties and publisher is None:
        return plain_headers(qos, retain)
    found = properties or {}
    return to_headers(
        Attributes(
            qos=qos,
            retain=retain,
            payload_format=found.get(props.PAYLOAD_FORMAT),
            expiry_s=found.get(props.MESSAGE_EXPIRY),
            content_type=found.get(props.CONTENT_TYPE),
            response_topic=found.get(props.RESPONSE_TOPIC),
            correlation_data=found.get(props.CORRELATION_DATA),
            publisher=publisher,
            user=found.get(props.USER_PROPERTY, []),
        )
    )


def message_of(record: Record, topic: str, partition: int, mapping: TopicMapping) -> tuple[str, Message, str | None]:
    """(topic name, message, client id that must not get it back) of a record of the Kafka topic `topic`."""
    name = mapping.name(topic, record.key)
    headers = record.headers
    value = record.value
    if name is not None and value is not None and len(headers) == 1 and headers[0][0] == "trivium.qos":
        qos = _QOS_ONLY.get(headers[0][1] or b"", 2)
        return name, Message(name.encode(), value, qos, False, b"", None, partition, record.offset), None
    attributes = from_headers(headers)
    user = attributes.user
    if name is None:
        name = topic
        user = [*user, key_property(record.key or b"")]
    if value is None:
        user = [*user, (NULL_VALUE, "")]
        value = b""
    expires_s = None if attributes.expiry_s is None else record.timestamp / 1000 + attributes.expiry_s
    message = Message(
        name.encode(),
        value,
        attributes.qos,
        attributes.retain,
        _encoded(attributes, user),
        expires_s,
        partition,
        record.offset,
    )
    return name, message, attributes.publisher


def _encoded(attributes: Attributes, user: list[tuple[str, str]]) -> bytes:
    pieces: list[bytes] = []
    if attributes.payload_format is not None:
        pieces.append(encode_property(props.PAYLOAD_FORMAT, attributes.payload_format))
    if attributes.content_type is not None:
        pieces.append(encode_property(props.CONTENT_TYPE, attributes.content_type))
    if attributes.response_topic is not None:
        pieces.append(encode_property(props.RESPONSE_TOPIC, attributes.response_topic))
    if attributes.correlation_data is not None:
        pieces.append(encode_property(props.CORRELATION_DATA, attributes.correlation_data))
    if user:
        pieces.append(encode_property(props.USER_PROPERTY, user))
    return b"".join(pieces)
