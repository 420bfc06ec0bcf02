"""What is published to topics that are not there yet."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from core.state import StateLog
from core.store.memory import MemoryEngine
from core.topic_mapping import TopicMapping
from core.topics import Topic, Topics
from gateway.protocols.mqtt.due_wills import DueWill, DueWills
from gateway.protocols.mqtt.outgoing import Outgoing, Published
from gateway.protocols.mqtt.parked import Parked, PublishSettings
from gateway.protocols.mqtt.routes import Routes
from tests.mqtt.driver import WILL


def unexpected(*_: object) -> None:
    raise AssertionError


def outgoing(name: str, payload: bytes) -> Outgoing:
    return Outgoing(DueWill(DueWills(unexpected, unexpected), "device", WILL), 0, name, payload, 1, False, None)


async def test_what_comes_while_the_catch_all_topic_is_made_goes_behind(nursery: trio.Nursery) -> None:
    first, second = outgoing("a/1", b"first"), outgoing("a/1", b"second")

    class Making(Topics):
        async def ensure(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> Topic:
            made = await super().ensure(name, partitions, config)
            parked.park("a", second)
            return made

    engine = MemoryEngine()
    await nursery.start(engine.run)
    topics, mapping = Making(engine), TopicMapping()
    await topics.load()
    state = StateLog(engine, (await topics.create("__state", 1)).partitions[0])
    published: dict[str, list[Published]] = {}
    done = trio.Event()
    parked = Parked(
        topics,
        Routes(topics, mapping),
        mapping.catch_all,
        PublishSettings(0, 1, {}),
        state,
        set(),
        published.__setitem__,
        done.set,
    )
    parked.park("a", first)
    nursery.start_soon(parked.run)
    await done.wait()
    assert published == {"a": [first, second]}
    assert not parked.messages
