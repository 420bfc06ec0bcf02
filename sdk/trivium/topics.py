"""Topics: made, described, deleted, and what a client remembers of them: partitions and ids."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import anyio

from trivium.asking import Asking
from trivium.errors import RequestRefused, TriviumError
from trivium.frames.offsets import FindOffsets, TimeEntry
from trivium.frames.topics import ConfigEntry, CreateTopic, DeleteTopic, Metadata, TopicInfo

DISCOVERY_S = 30.0  # as long as this new partitions of a topic, or a new topic in its place, may go unnoticed
DISCOVERED_MAX = 1_000  # topics in one request


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it stands; `config` holds what was set for it alone."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Topics(Asking):
    """Part of the client."""

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}
        self._ids: dict[str, bytes] = {}  # of the same topics

    # -- what is remembered

    async def partitions(self, topic: str, *, create: bool = False) -> int:
        """How many partitions a topic has; `create` makes a missing one, if the broker allows it. Remembered.

        Raises RequestRefused (UNKNOWN_TOPIC, INVALID_TOPIC).
        """
        known = self._partitions.get(topic)
        return (await self.look_up(topic, create=create)).partitions if known is None else known

    async def look_up(self, topic: str, *, create: bool = False) -> TopicInfo:
        """Asks for what is remembered of a topic, also if it is known. Raises as `partitions`."""
        reply, _ = await self.request(Metadata(int(create), [topic]))
        info: TopicInfo = reply.topics[0]
        if info.status:
            self.forget(topic)
            raise RequestRefused(info.status, f"topic {topic!r}")
        self._remember(info)
        return info

    def _remember(self, info: TopicInfo) -> None:
        self._partitions[info.name] = info.partitions
        self._ids[info.name] = info.id

    def known_partitions(self, topic: str) -> int | None:
        """As remembered; None when it must be asked for."""
        return self._partitions.get(topic)

    def known_id(self, topic: str) -> bytes | None:
        """As remembered: a topic that was deleted and made again has another."""
        return self._ids.get(topic)

    def forget(self, topic: str) -> None:
        """Asks anew for the topic next time."""
        self._partitions.pop(topic, None)
        self._ids.pop(topic, None)

    async def keep_partitions(self) -> None:
        """Looks every DISCOVERY_S whether known topics have more partitions by now, or were made again, until
        cancelled.
        """
        while True:
            await anyio.sleep(DISCOVERY_S)
            names = list(self._partitions)
            for first in range(0, len(names), DISCOVERED_MAX):
                with suppress(TriviumError):
                    reply, _ = await self.request(Metadata(0, names[first : first + DISCOVERED_MAX]))
                    for info in reply.topics:
                        if info.status:
                            self.forget(info.name)
                        elif info.name in self._partitions:
                            self._remember(info)

    # -- what is asked and changed

    async def topics(self) -> list[TopicDescription]:
        """All topics but the broker's own."""
        reply, _ = await self.request(Metadata(0, []))
        return [_description(info) for info in reply.topics]

    async def describe_topic(self, name: str) -> TopicDescription:
        """Raises RequestRefused (UNKNOWN_TOPIC)."""
        return _description(await self.look_up(name))

    async def create_topic(self, name: str, partitions: int = 0, config: Mapping[str, str] | None = None) -> None:
        """Makes a topic; durable on return. 0 partitions: the broker's default. `config` is Kafka's topic configs.

        Not asked twice when the connection is lost: Disconnected then leaves open whether it was made. Raises
        RequestRefused (TOPIC_EXISTS, INVALID_TOPIC, INVALID_PARTITIONS, INVALID_CONFIG).
        """
        entries = [ConfigEntry(key, value) for key, value in (config or {}).items()]
        await self.request(CreateTopic(name, partitions, entries), retry=False)
        self.forget(name)

    async def delete_topic(self, name: str) -> None:
        """Deletes a topic with its records; durable on return. Raises as `create_topic` (UNKNOWN_TOPIC)."""
        await self.request(DeleteTopic(name), retry=False)
        self.forget(name)

    async def find_offsets(self, topic: str, time_ms: int) -> dict[int, int]:
        """Per partition the first offset with at least this time (ms since the epoch), or `EARLIEST` or
        `LATEST`; the end where there is none. Raises RequestRefused.
        """
        count = await self.partitions(topic)
        entries = [TimeEntry(topic, index, time_ms) for index in range(count)]
        reply, _ = await self.request(FindOffsets(entries))
        for found in reply.entries:
            if found.status:
                raise RequestRefused(found.status, f"topic {topic!r}")
        return {index: found.offset for index, found in enumerate(reply.entries)}


def _description(info: TopicInfo) -> TopicDescription:
    return TopicDescription(info.name, info.partitions, {one.name: one.value for one in info.config})
