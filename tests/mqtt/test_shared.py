"""Random histories of a shared subscription, with crashes, against a ledger of who has what.

What holds: a message is never with two members, nothing that was not acknowledged is lost however old the stored rows
of group and members are, and without a crash nothing that was acknowledged, or is over for the group, comes again.
"""

from __future__ import annotations

import random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from core import sessions as stored
from core.queue_partition import QueuePartition
from core.queue_replay import QueueRows
from core.state import Change
from gateway.protocols.mqtt import session as ses
from gateway.protocols.mqtt import shared
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.session import Delivery, Session, Subscription
from gateway.protocols.mqtt.shared import Group

NAME: Final = "$share/g/+/x"
MEMBERS: Final = ("a", "b", "c")
PARTITIONS: Final = (3, 4)
Place = tuple[int, int]

member = st.sampled_from(MEMBERS)
action = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(PARTITIONS), st.integers(1, 8)),
    st.tuples(st.just("publish"), st.sampled_from(PARTITIONS), st.integers(1, 8)),
    st.tuples(st.just("deliver"), st.integers(1, 10)),
    st.tuples(st.just("deliver"), st.integers(1, 10)),
    st.tuples(st.just("join"), member),
    st.tuples(st.just("acknowledge"), member, st.integers(1, 6)),
    st.tuples(st.just("acknowledge"), member, st.integers(1, 6)),
    st.tuples(st.just("disconnect"), member),
    st.tuples(st.just("unsubscribe"), member),
    st.tuples(st.just("end"), member),
    st.tuples(st.just("store"), st.booleans()),
    st.tuples(st.just("store member"), member),
    st.tuples(st.just("reset"), st.sampled_from(PARTITIONS), st.floats(0, 1)),
    st.tuples(st.just("crash")),
)


class Connected:
    """What a device has while it is connected; nothing is asked of it here."""


class History:
    """Messages with odd offsets do not match; those divisible by 5 are over for the group when handed out."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ends = dict.fromkeys(PARTITIONS, 1)
        self.owed: set[Place] = set()  # handed out or to be, and not acknowledged
        self.over: set[Place] = set()
        self.rows: dict[bytes, bytes] = {}
        self.members_stored: dict[str, dict[int, Delivery]] = {name: {} for name in MEMBERS}
        self.subscribed: set[str] = set()
        self.devices = {name: Device(Session(name, expiry_s=100), 0) for name in MEMBERS}
        self.group = Group(NAME, "+/x", 1, 0, lambda _: None)
        self.group.offsets = dict.fromkeys(PARTITIONS, 0)

    # -- what goes on

    def publish(self, partition: int, count: int) -> None:
        for offset in range(self.ends[partition], self.ends[partition] + count):
            if not offset % 2:
                self.owed.add((partition, offset))
        self.ends[partition] += count

    def deliver(self, count: int) -> None:
        for _ in range(count):
            if not self._deliver_one():
                return

    def _deliver_one(self) -> bool:
        group = self.group
        taker = next(group.in_turn(), None)
        if taker is None:
            return False
        for queue in list(group.awake):
            if (offset := queue.due(0)) is not None:
                self._hand(taker, queue.partition, offset, queue)
                return True
        for partition in PARTITIONS:
            while (offset := group.offsets[partition]) < self.ends[partition]:
                group.offsets[partition] += 1
                if offset % 2 or not offset:
                    continue
                if group.is_new(partition, offset):
                    self._hand(taker, partition, offset, None)
                    return True
                group.over(partition, offset, None)
        return False

    def _hand(self, taker: shared.ShareMember, partition: int, offset: int, again: QueuePartition | None) -> None:
        place = (partition, offset)
        assert place not in self.over
        assert place not in {(one.partition, one.offset) for one in self._everything()}
        if not offset % 5:
            self.over.add(place)
            self.owed.discard(place)
            self.group.over(partition, offset, again)
            return
        lease = self.group.next_lease()
        inflight = self._inflight(taker.id)
        packet_id = max(inflight, default=0) + 1
        inflight[packet_id] = Delivery(ses.QOS1_SENT, partition, offset, False, NAME, lease)
        self.group.hand_out(lease, taker, partition, offset, again)

    def _inflight(self, name: str) -> dict[int, Delivery]:
        session = self.devices[name].session
        if session.inflight is None:
            session.inflight = {}
        return session.inflight

    def _everything(self) -> list[Delivery]:
        """What members have and must be settled."""
        return [one for name in MEMBERS for one in self._inflight(name).values() if one.lease > 0]

    def join(self, name: str) -> None:
        device = self.devices[name]
        connected = device.connection is not None
        device.connection = Connected()  # type: ignore[assignment]
        if name not in self.subscribed:
            self.group.share(device, Subscription(1))
            self.subscribed.add(name)
        elif not connected:
            self.group.connected(device)

    def acknowledge(self, name: str, count: int) -> None:
        inflight = self._inflight(name)
        for packet_id in self.random.sample(sorted(inflight), min(count, len(inflight))):
            delivery = inflight.pop(packet_id)
            self.group.acknowledged(delivery)
            if delivery.lease > 0 and not self._void(delivery):
                self.owed.discard((delivery.partition, delivery.offset))
                self.over.add((delivery.partition, delivery.offset))

    def _void(self, delivery: Delivery) -> bool:
        queue = self.group.queues.get(delivery.partition)
        return queue is not None and delivery.offset >= queue.floor and not queue.is_done(delivery.offset)

    def disconnect(self, name: str) -> None:
        device = self.devices[name]
        if device.connection is not None:
            device.connection = None
            self.group.disconnected(device)

    def unsubscribe(self, name: str) -> None:
        if name in self.subscribed:
            self.subscribed.remove(name)
            self.group.unshare(self.devices[name])

    def end(self, name: str) -> None:
        """Its session is over."""
        device = self.devices[name]
        self.group.give_back(name, 0)
        self.unsubscribe(name)
        device.connection = None
        device.session.inflight = None
        self.members_stored[name] = {}

    def reset(self, partition: int, share: float) -> None:
        offset = int(share * self.ends[partition])
        self.group.offsets = {**self.group.offsets, partition: offset}
        self.group.rewind({partition: offset})
        for name in MEMBERS:
            for packet_id, one in self._inflight(name).items():
                if one.partition == partition:  # they move nothing any more
                    self._inflight(name)[packet_id] = one._replace(lease=-1)
        self.owed = {place for place in self.owed if place[0] != partition}
        self.owed |= {(partition, at) for at in range(offset, self.ends[partition]) if at and not at % 2}
        self.over = {place for place in self.over if place[0] != partition or place[1] < offset}
        self.store(True)  # answered when it is durable
        for name in MEMBERS:
            self.members_stored[name] = dict(self._inflight(name))

    # -- what is stored

    def _place(self) -> stored.GroupRow:
        return stored.GroupRow(0, dict(self.group.offsets))

    def store(self, durable: bool) -> None:
        changes, done = self.group.changes(self._place(), lambda _: True)
        if durable:
            self._apply(changes)
        done(durable)

    def _apply(self, changes: list[Change]) -> None:
        for key, value in changes:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def store_member(self, name: str) -> None:
        self.members_stored[name] = dict(self._inflight(name))

    def crash(self) -> None:
        """All but what is stored is gone; the devices are away."""
        self.over.clear()  # at QoS 1 it may come again
        self.group = Group(NAME, "+/x", 1, 0, lambda _: None)
        rows, place = QueueRows(0), stored.GroupRow(0, dict.fromkeys(PARTITIONS, 0))
        for key, value in self.rows.items():
            if key[:1] == stored.GROUP:
                log = stored.SessionLog.__new__(stored.SessionLog)
                log.groups = {}
                log._apply(key, value)
                place = log.groups[NAME]
            else:
                rows.apply(key, value)
        self.group.load(place, [rows.take(QueuePartition(NAME, "", at, at)) for _, at in rows.places()])
        for name in MEMBERS:
            device = self.devices[name] = Device(Session(name, expiry_s=100), 0)
            device.session.inflight = dict(self.members_stored[name])
            if name in self.subscribed:
                self.group.share(device, Subscription(1))
            for packet_id, one in self._inflight(name).items():
                known = one._replace(lease=0)
                claimed = self.group.claim(name, known, self.group.offsets[one.partition]) if one.lease > 0 else known
                self._inflight(name)[packet_id] = claimed

    def finish(self) -> None:
        """Sessions of all but one end, that one takes everything: nothing may be missing."""
        for name in MEMBERS[1:]:
            self.end(name)
        self.join("a")
        for _ in range(1_000):
            self.acknowledge("a", 1_000)
            if not self._deliver_one():
                break
        self.acknowledge("a", 1_000)
        assert self.owed == set()
        self.store(True)
        assert self.group.queues == {}
        assert [key for key in self.rows if key[:1] != stored.GROUP] == []


@settings(max_examples=2000, deadline=None)
@given(st.lists(action, min_size=30, max_size=80), st.integers(0, 1 << 16))
def test_a_shared_subscription_loses_nothing_and_gives_nothing_to_two(
    actions: list[tuple[str, *tuple[object, ...]]], seed: int
) -> None:
    history = History(seed)
    history.join("a")
    history.store(True)
    for name, *arguments in actions:
        getattr(history, name.replace(" ", "_"))(*arguments)
    history.finish()


def test_a_message_that_is_kept_for_long_does_not_hold_back_the_floor() -> None:
    history = History(0)
    history.join("a")
    history.publish(3, 10)
    history.deliver(1)
    history.publish(3, shared.WINDOW_OFFSETS * 2)
    history.group.offsets[3] = shared.WINDOW_OFFSETS * 2
    history.deliver(1)
    queue = history.group.queues[3]
    assert queue.end - queue.floor < 10
    assert len(queue.failed) == 1
    history.end("a")
    history.join("b")
    assert queue.due(0) == 2
