"""The core put together: one engine, the tables kept in it, and the coordinators over them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from core.dynamic_configs import DynamicConfigs
from core.group_coordinator import GroupCoordinator
from core.group_types import GroupLimits
from core.groups import Groups
from core.half_messages import HalfMessages
from core.intake import Intake
from core.key_guard import KeyGuard
from core.offsets import Offsets
from core.once import Once
from core.queue_traces import QueueTraces
from core.queue_types import QueueLimits
from core.queues import Queues
from core.retroactive import Places, Retroactive, Target, resolve
from core.schedules import Schedules
from core.share_configs import ShareConfigs
from core.share_groups import ShareGroups
from core.state import StateLog
from core.store.engine import Engine
from core.topics import Topics
from core.trace_search import TraceSearch
from core.tracing import Tracer
from core.transaction_types import TransactionLimits
from core.transactions import Transactions

CONFIGS_TOPIC = "__trivium_configs"  # where configs that were set while the broker ran are kept
GROUPS_TOPIC = "__trivium_groups"  # where groups and offsets are kept
QUEUES_TOPIC = "__trivium_queues"  # where queue groups are kept
TRANSACTIONS_TOPIC = "__trivium_transactions"  # where transactional ids are kept
HALVES_TOPIC = "__trivium_halves"  # half messages, which nobody sees
ONCE_TOPIC = "__trivium_once"  # ids of messages that are stored once
SCHEDULES_TOPIC = "__trivium_schedules"  # where records wait for their time
TRACES_TOPIC = "__trivium_traces"  # what happened to messages of traced topics
TRANSACTION_SWEEP_S = 1
TRANSACTION_EXPIRY_SWEEPS = 60  # transactional ids are looked through at every so many sweeps


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """`region` stands in every trace."""

    region: str = ""
    retention_ms: int = 3 * 86_400_000
    retention_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """The core's settings, as the configuration gives them."""

    auto_create_topics: bool = True
    num_partitions: int = 1
    partitions_max: int = 100_000
    topic_defaults: Mapping[str, str] = field(default_factory=dict)  # broker-wide values of topic configs, name -> text
    groups: GroupLimits = field(default_factory=GroupLimits)
    transactions: TransactionLimits = field(default_factory=TransactionLimits)
    traces: TraceSettings = field(default_factory=TraceSettings)
    tables_dir: Path | None = None  # for tables that are made from the log; None: temporary ones
    queues: QueueLimits = field(default_factory=QueueLimits)


class Broker:
    """What every protocol's front-end works on, once `run` has started."""

    def __init__(self, engine: Engine, settings: BrokerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.coordinator: GroupCoordinator
        self.transactions: Transactions
        self.schedules: Schedules
        self.once: Once
        self.intake: Intake
        self.halves: HalfMessages
        self.configs = DynamicConfigs(settings.groups)
        self.retroactive: Retroactive
        self.tracer: Tracer
        self.trace_search: TraceSearch
        self.queues: Queues
        self.key_guard = KeyGuard(engine)
        self.share_groups: ShareGroups
        self.topics = Topics(engine, settings.topic_defaults, partitions_max=settings.partitions_max)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Folds the stored state into memory, then does what hangs on time until cancelled."""
        await self.topics.load()
        topic = await self.topics.ensure(CONFIGS_TOPIC, 1, {"cleanup.policy": "compact"})
        await self.configs.load(StateLog(self.engine, topic.partitions[0]))
        self._apply_configs()
        self.configs.on_broker_change = self._apply_configs
        topic = await self.topics.ensure(GROUPS_TOPIC, 1, {"cleanup.policy": "compact"})
        state = StateLog(self.engine, topic.partitions[0])
        self.coordinator = GroupCoordinator(self.engine, state, self.topics, self.settings.groups)
        self.coordinator.groups.limits_of = self.configs.group_limits
        await self.coordinator.load()
        await self._load_tracer()
        self.retroactive = Retroactive(self.engine, self.topics, self.coordinator)
        self.topics.on_change(lambda changed: self.coordinator.topic_changed(changed.name))
        topic = await self.topics.ensure(TRANSACTIONS_TOPIC, 1, {"cleanup.policy": "compact"})
        transactions_state = StateLog(self.engine, topic.partitions[0])
        self.transactions = Transactions(
            self.engine, transactions_state, self.offsets, state, self.settings.transactions
        )
        await self.transactions.load(_now_ms())
        topic = await self.topics.ensure(SCHEDULES_TOPIC, 1, {"cleanup.policy": "compact"})
        self.schedules = Schedules(
            self.engine, self.topics, topic.partitions[0], self.settings.tables_dir, tracer=self.tracer
        )
        await self.schedules.load()
        topic = await self.topics.ensure(ONCE_TOPIC, 1, {"cleanup.policy": "compact"})
        self.once = Once(self.engine, topic.partitions[0])
        await self.once.load()
        self.topics.on_change(lambda changed: self.once.topic_changed(changed, self.topics.get(changed.name) is None))
        self.intake = Intake(self.schedules, self.once)
        topic = await self.topics.ensure(HALVES_TOPIC, 1, {"cleanup.policy": "compact"})
        self.halves = HalfMessages(self.engine, self.topics, self.intake, topic.partitions[0], tracer=self.tracer)
        await self.halves.load()
        topic = await self.topics.ensure(QUEUES_TOPIC, 1, {"cleanup.policy": "compact"})
        queues_state = StateLog(self.engine, topic.partitions[0])
        traces = QueueTraces(self.tracer, self.topics)
        self.queues = Queues(self.engine, queues_state, self.topics, self.settings.queues, traces)
        await self.queues.load()
        self.share_groups = ShareGroups(self.queues, self.topics, ShareConfigs(self.configs), _now_ms)
        self.configs.on_group_change = self.share_groups.configured
        self.retroactive.register("queue", self._move_queue)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.coordinator.run)
            nursery.start_soon(self.share_groups.run)
            nursery.start_soon(self._keep_transactions)
            nursery.start_soon(self.tracer.run)
            nursery.start_soon(self.schedules.run)
            nursery.start_soon(self.halves.run)
            nursery.start_soon(self.once.run)
            await nursery.start(self.queues.run)
            task_status.started()

    async def _move_queue(self, name: str, topics: list[str], target: Target) -> Places:
        places = await resolve(self.engine, self.topics, topics or self.queues.topics_of(name), target)
        await self.queues.reset(name, places)
        return places

    async def _keep_transactions(self) -> None:
        """Aborts transactions that are past their time-out, forgets transactional ids that nobody uses."""
        sweeps = 0
        while True:
            await trio.sleep(TRANSACTION_SWEEP_S)
            self.transactions.sweep(_now_ms())
            sweeps += 1
            if sweeps % TRANSACTION_EXPIRY_SWEEPS == 0:
                self.transactions.expire()

    async def _load_tracer(self) -> None:
        config = {
            "retention.ms": str(self.settings.traces.retention_ms),
            "retention.bytes": str(self.settings.traces.retention_bytes),
        }
        topic = await self.topics.ensure(TRACES_TOPIC, 1, config)
        if dict(topic.config) != config:
            topic = await self.topics.update_config(TRACES_TOPIC, lambda _: config)
        self.tracer = Tracer(self.engine, self.topics, topic.partitions[0], self.settings.traces.region)
        self.trace_search = TraceSearch(self.engine, self.topics, topic.partitions[0])
        if any(one.settings.trace == "marked" for one in self.topics.all()):
            self.tracer.recall(await self.trace_search.latest())

    def _apply_configs(self) -> None:
        self.topics.override_defaults(self.configs.topic_defaults())

    @property
    def groups(self) -> Groups:
        return self.coordinator.groups

    @property
    def offsets(self) -> Offsets:
        return self.coordinator.offsets


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
