"""Topics that are not there yet: they are made, and what is published to them waits behind, in order.

Devices make at most `auto_topics_max` topics; names of others go to the catch-all topic, whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from core.errors import CoreFailure
from core.state import StateLog
from core.topics import Topic, Topics
from gateway.protocols.mqtt import reasons
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.outgoing import Published, payload_bytes, refuse
from gateway.protocols.mqtt.routes import Routes

log = structlog.get_logger(__name__)

PARKED_BYTES_MAX: Final = 16 * 1024 * 1024
TOPICS_MAX: Final = 10_000  # that wait to be made
AUTO_TOPIC_KEY: Final = b"t"


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """`auto_topics_max`: topics that devices may make; `partitions`, `config`: what they are made with."""

    auto_topics_max: int
    partitions: int
    config: dict[str, str]


class Parked:
    """`run` must be running. `catch_all` is the topic that takes what no other does; `auto_topics` has those that
    devices made, which `state` keeps; `made` is given a topic
    and what waited for it, nothing if that was refused; `flush` is called after that.
    """

    def __init__(
        self,
        topics: Topics,
        routes: Routes,
        catch_all: str,
        settings: PublishSettings,
        state: StateLog,
        auto_topics: set[str],
        made: Callable[[str, list[Published]], None],
        flush: Callable[[], None],
    ) -> None:
        self.messages: dict[str, list[Published]] = {}  # by their topics, in the order in which these are made
        self._bytes = 0
        self._topics = topics
        self._routes = routes
        self._catch_all = catch_all
        self._settings = settings
        self._state = state
        self._auto_topics = auto_topics
        self._made = made
        self._flush = flush
        self._ask, self._asked = trio.open_memory_channel[str](TOPICS_MAX)

    def park(self, topic: str, message: Published) -> bool:
        """Has a message wait for its topic, or refuses it: False."""
        waiting = self.messages.get(topic)
        size = _parked_bytes(message)
        if self._bytes + size > PARKED_BYTES_MAX:
            refuse(message, reasons.QUOTA_EXCEEDED, "too many topics are being made")
            return False
        if waiting is None:
            try:
                self._ask.send_nowait(topic)
            except trio.WouldBlock:
                refuse(message, reasons.QUOTA_EXCEEDED, "too many topics are being made")
                return False
            waiting = self.messages[topic] = []
        waiting.append(message)
        self._bytes += size
        return True

    async def run(self) -> None:
        """Makes the topics that are asked for, until cancelled."""
        async for name in self._asked:
            made = await self._make(name) is not None
            elsewhere = not made and await self._make(self._catch_all) is not None
            waiting = self.messages.pop(name)  # now: what came meanwhile goes behind what was there
            self._bytes -= sum(map(_parked_bytes, waiting))
            if elsewhere:
                for message in waiting:
                    self._routes.to_catch_all(message[2])
            if not made and not elsewhere:
                for message in waiting:
                    refuse(message, reasons.QUOTA_EXCEEDED, "no topic can be made")
                waiting = []
            self._made(name, waiting)
            self._flush()

    async def _make(self, name: str) -> Topic | None:
        topic = self._topics.get(name)
        if topic is not None:
            return topic
        if len(self._auto_topics) >= self._settings.auto_topics_max and name != self._catch_all:
            return None
        try:
            topic = await self._topics.ensure(name, self._settings.partitions, self._settings.config)
        except CoreFailure as failure:
            log.warning("a topic for MQTT cannot be made", topic=name, reason=str(failure))
            return None
        if name != self._catch_all:
            self._auto_topics.add(name)
            await self._state.put([(AUTO_TOPIC_KEY + name.encode(), b"")])
        return topic


def _parked_bytes(message: Published) -> int:
    return payload_bytes(message) + 200 * (len(message.payloads) if isinstance(message, RunReceived) else 1)
