"""Sessions and shared subscriptions moved to another place in the log while they run (core.retroactive).

A session is named by its client identifier, a shared subscription by `$share/NAME/FILTER`. What is in flight stays in
flight: its acknowledgement ends that exchange and moves nothing else, so it cannot undo the move. Messages come again
even if they were acknowledged, and those from before the subscription was made come too.
"""

from __future__ import annotations

import trio

from core.errors import CoreError, CoreFailure
from core.retroactive import Places, Target, resolve
from core.store.engine import Engine
from core.topics import Topics
from gateway.protocols.mqtt.broker_handler import BrokerHandler
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.session_rows import position_changes, session_row
from gateway.protocols.mqtt.shared import Group


class Rewinder:
    """`move` is the mover for `session` that the core's `Retroactive` is given."""

    def __init__(self, engine: Engine, topics: Topics, handler: BrokerHandler, deliveries: Deliveries) -> None:
        self._engine = engine
        self._topics = topics
        self._handler = handler
        self._deliveries = deliveries

    async def move(self, name: str, names: list[str], target: Target) -> Places:
        """Raises CoreFailure(GROUP_NOT_FOUND | UNKNOWN_TOPIC | STORE_FULL)."""
        read = self._topics_of(self._reader(name))
        if unread := set(names) - read:
            raise CoreFailure(CoreError.UNKNOWN_TOPIC, f"{name!r} subscribes nothing of {', '.join(sorted(unread))}")
        places = await resolve(self._engine, self._topics, names or read, target)
        reader = self._reader(name)  # it may have ended meanwhile
        offsets: dict[int, int] = {}
        for (topic_name, index), offset in places.items():
            topic = self._topics.get(topic_name)
            if topic is not None:
                offsets[topic.partitions[index]] = offset
        self._deliveries.cursors.rewind(reader, offsets)
        await self._store(reader)
        self._deliveries.cursors.catch_up(reader)
        return places

    def _reader(self, name: str) -> Device | Group:
        groups, sessions = self._deliveries.subscribers.groups, self._handler.sessions
        reader = groups.get(name) if name.startswith("$share/") else sessions.find(name)
        if reader is None:
            raise CoreFailure(CoreError.GROUP_NOT_FOUND, f"there is no MQTT session or shared subscription {name!r}")
        return reader

    def _topics_of(self, reader: Device | Group) -> set[str]:
        owners = [self._topics.owner(number) for number in self._deliveries.catching_up.partitions_for(reader)]
        return {owner[0].name for owner in owners if owner is not None}

    async def _store(self, reader: Device | Group) -> None:
        if not (reader.session.durable if isinstance(reader, Device) else reader.durable):
            return
        self._handler.positions.put()  # with it, that there is something to get
        stored = trio.Event()
        durable: list[bool] = []

        def answered(done: bool) -> None:
            durable.append(done)
            stored.set()

        if isinstance(reader, Device):
            changes = [session_row(reader.session), *position_changes(reader, reader.position, reader.offsets)]
            self._handler.store(changes, answered)
        else:
            self._handler.store_group(reader, answered)
        await stored.wait()
        if not durable[0]:
            raise CoreFailure(CoreError.STORE_FULL)
