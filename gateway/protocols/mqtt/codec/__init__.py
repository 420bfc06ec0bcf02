"""MQTT 3.1, 3.1.1 and 5 on the wire: one codec, without I/O. `Reader` and `encode` are the two ways through it."""

from gateway.protocols.mqtt.codec.reader import Reader
from gateway.protocols.mqtt.codec.writer import encode

__all__ = ["Reader", "encode"]
