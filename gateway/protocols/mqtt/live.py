"""From the log's tail to devices: who gets what, at once.

A batch goes, in runs of one name, to the subscribers that the index names; if it was published here in plain runs, it
is not even decoded. A device whose window is full stops being live: its cursor stays where it is, and it goes on as
catching_up.py says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from core.delivery import LogTail, Stretch, records_of
from core.store.engine import Engine
from gateway.protocols.mqtt.decoded import DecodedBatches, NamedRun
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.events import RunReceived
from gateway.protocols.mqtt.handing import Handing
from gateway.protocols.mqtt.message import Run, plain_run
from gateway.protocols.mqtt.shared import Group
from gateway.protocols.mqtt.subscribers import Subscribers, Target
from gateway.protocols.mqtt.traces import MqttTraces
from trivium.record_batch import BatchHeader
from trivium.records import Record


class Live:
    """`fresh` gives what a batch is made of that needs no decoding; `flush` is called when something was delivered."""

    def __init__(
        self,
        engine: Engine,
        subscribers: Subscribers,
        decoded: DecodedBatches,
        handing: Handing,
        traces: MqttTraces,
        fresh: Callable[[BatchHeader], Sequence[RunReceived] | None],
        flush: Callable[[], None],
    ) -> None:
        self.delivered = 0  # batches that were looked at
        # Looked up for every message: taken from where they are once.
        self._plan = subscribers.plan
        self._devices = subscribers.devices
        self._groups = subscribers.groups_by_number
        self._resting_pending = subscribers.resting_pending
        self._runs = decoded.runs
        self._to_device = handing.to_device
        self._to_member = handing.to_member
        self._plain_to_member = handing.plain_to_member
        self._handing = handing
        self._traces = traces
        self._fresh = fresh
        self._flush = flush
        self.tail = LogTail(engine, subscribers.wanted, self._deliver, self._after)

    def _deliver(self, stretch: Stretch) -> None:
        self.delivered += 1
        now_s = time.time()
        traced = self._traces.observes(stretch.partition)
        fresh = None if traced else self._fresh(stretch.header)
        if fresh is None:
            for named in self._runs(stretch):
                plan = self._plan(named.name)
                if traced:
                    for target in plan:
                        self._deliver_target(stretch.partition, target, self._devices.get(target.number), named, now_s)
                elif plan:
                    self._deliver_run(stretch.partition, plan, named.run, named, now_s)
            return
        partition, offset = stretch.partition, stretch.base_offset
        for one in fresh:
            plan = self._plan(one.topic)
            if plan:
                run = plain_run(one.raw_topic, one.payloads, one.qos, partition, offset)
                self._deliver_run(partition, plan, run, partial(_named, stretch, one, run), now_s)
            offset += len(one.payloads)

    def _deliver_run(
        self, partition: int, plan: list[Target], run: Run, named: NamedRun | Callable[[], NamedRun], now_s: float
    ) -> None:
        """Messages of one name to all who get them; `named` where more than their QoS decides."""
        devices = self._devices
        for target in plan:
            device = devices.get(target[0])
            if device is None and target.simple:
                group = self._groups.get(target[0])
                if group is not None and group.live and self._plain_to_member(group, run):
                    continue
            elif target.simple and device is not None and device.live and device.access is None:
                connection = device.connection
                if connection is not None and connection.deliver_plain(run, target.qos):
                    if device.session.durable:
                        device.dirty = True
                    continue
            if not isinstance(named, NamedRun):
                named = named()
            self._deliver_target(partition, target, device, named, now_s)

    def _deliver_target(
        self, partition: int, target: Target, device: Device | None, named: NamedRun, now_s: float
    ) -> None:
        run = named.passing(target.selections)
        if not run:
            return
        if device is None:
            group = self._groups.get(target.number)
            if group is not None:
                self._deliver_to_group(group, partition, run, now_s)
            else:
                self._resting_pending.add(target.number)
        elif not device.live:
            device.pending = True
        elif not (target.no_local and named.publisher == device.session.client_id):
            taken = self._to_device(device, run, 0, target.qos, target.published, target.identifiers, now_s)
            if taken < len(run):
                self._fall_behind(device, partition, run.messages[taken].offset)

    def _deliver_to_group(self, group: Group, partition: int, run: Run, now_s: float) -> None:
        if group.live:
            for message in run.messages:
                if not self._to_member(group, message, now_s):
                    self._fall_behind(group, partition, message.offset)
                    return

    def deliver_unlogged(self, named: NamedRun) -> None:
        """Messages of QoS 0 that are not in the log, to those who are connected."""
        now_s = time.time()
        for target in self._plan(named.name):
            run = named.passing(target.selections)
            device = self._devices.get(target.number)
            if device is None:
                group = self._groups.get(target.number)
                if group is not None:
                    for message in run.messages:
                        self._to_member(group, message, now_s)
            elif run.messages and not (target.no_local and named.publisher == device.session.client_id):
                self._to_device(device, run, 0, target.qos, target.published, target.identifiers, now_s)

    def _fall_behind(self, device: Device | Group, partition: int, offset: int) -> None:
        device.live = False
        device.pending = True
        device.position = self.tail.position  # the batch that is being delivered, or one that was held
        device.offsets = {**self.tail.held, partition: offset}

    def _after(self) -> None:
        self._handing.store_packet_ids()
        self._flush()


def _named(stretch: Stretch, one: RunReceived, run: Run) -> NamedRun:
    """A run of a batch that was not decoded."""

    def records() -> list[Record]:
        first = run.base_offset - stretch.base_offset
        return records_of(stretch)[first : first + len(run)]

    return NamedRun(one.topic, one.publisher, run, records)
