"""The small common shape that the MQTT scenarios drive: one connected client, blocking, whatever library is below it.

An adapter (paho_client.py, ...) makes a subclass of `Device` whose constructor connects and fills `session_present` and
`connack`, whose callbacks call `_got` and `_closed`. Properties have short names on this side, see PROPERTIES.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from harness import WAIT_S, eventually, true

V31, V311, V5 = 3, 4, 5
HOST, _, _PORT = os.environ.get("MQTT", "127.0.0.1:1883").rpartition(":")
PORT = int(_PORT)
# Our name -> the name that paho (and so aiomqtt) has for it.
PROPERTIES = {
    "user": "UserProperty",
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation": "CorrelationData",
    "format": "PayloadFormatIndicator",
    "expiry": "MessageExpiryInterval",
    "alias": "TopicAlias",
    "identifiers": "SubscriptionIdentifier",
}


@dataclass
class Got:
    """A message that came."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    delay_s: int = 0


@dataclass
class Options:
    """How to connect. `expiry_s`, `receive_max`, `packet_bytes_max` are MQTT 5's."""

    client_id: str
    version: int = V311
    clean: bool = True
    keep_alive_s: int = 30
    will: Will | None = None
    expiry_s: int = 0
    receive_max: int = 0
    packet_bytes_max: int = 0


class Refused(Exception):
    """CONNECT was answered with an error; the text is the client's."""


class Device(ABC):
    """One connection. Every call waits for the broker's answer and raises AssertionError where none comes."""

    tells_codes = True  # the library shows the reason codes of UNSUBACK and DISCONNECT

    def __init__(self, options: Options) -> None:
        self.options = options
        self.session_present: bool | None = False  # None: the library does not tell
        self.connack: dict[str, Any] = {}
        self.messages: list[Got] = []
        self.closed_with: int | None = None
        self._ended = threading.Event()

    # -- for adapters

    def _got(self, message: Got) -> None:
        self.messages.append(message)

    def _closed(self, code: int | None) -> None:
        self.closed_with = code
        self._ended.set()

    # -- what adapters do

    @abstractmethod
    def publish_nowait(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **properties: Any) -> Any:
        """Begins a publish; `wait_published` takes what is returned."""

    @abstractmethod
    def wait_published(self, begun: Any) -> int:
        """The reason code (0 before MQTT 5)."""

    @abstractmethod
    def subscribe(self, filter_: str, qos: int = 0, **options: Any) -> int:
        """The granted QoS or failure code. Options of MQTT 5: no_local, retain_as_published, handling, identifier."""

    @abstractmethod
    def unsubscribe(self, filter_: str) -> int: ...

    @abstractmethod
    def disconnect(self, code: int = 0) -> None: ...

    @abstractmethod
    def drop(self) -> None:
        """Closes the network connection without DISCONNECT."""

    # -- common

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **properties: Any) -> int:
        return self.wait_published(self.publish_nowait(topic, payload, qos, retain, **properties))

    def wait_closed(self) -> int | None:
        true(self._ended.wait(WAIT_S), "the connection was not closed")
        return self.closed_with

    def wait(self, count: int) -> list[Got]:
        """The first `count` messages. Raises AssertionError if they do not come."""
        eventually(lambda: len(self.messages) >= count, f"{count} messages (there are {len(self.messages)})", WAIT_S)
        return list(self.messages)

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]
