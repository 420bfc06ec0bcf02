"""The core put together: one engine, the tables kept in it, and the coordinators over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from core.store.engine import Engine
from core.topics import Topics


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """The core's settings, as the configuration gives them."""

    auto_create_topics: bool = True
    num_partitions: int = 1
    partitions_max: int = 100_000
    topic_defaults: Mapping[str, str] = field(default_factory=dict)  # broker-wide values of topic configs, name -> text


class Broker:
    """What every protocol's front-end works on, once `run` has started."""

    def __init__(self, engine: Engine, settings: BrokerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.topics = Topics(engine, settings.topic_defaults, partitions_max=settings.partitions_max)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Folds the stored state into memory, then does what hangs on time until cancelled."""
        await self.topics.load()
        task_status.started()
        await trio.sleep_forever()
