"""Reading the log for a device that is behind, over the in-memory engine."""

from __future__ import annotations

import trio

from core.mapping_history import MappingHistory
from core.store.engine import Append, append
from core.store.memory import MemoryEngine
from core.topic_mapping import TopicMapping
from core.topics import Topics
from core.tracing import Tracer
from gateway.protocols.mqtt.delivery import Deliveries
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.session import Session, Subscription
from gateway.protocols.mqtt.traces import MqttTraces
from tests.mqtt.driver import connected
from trivium.record_batch import parse_header
from trivium.records import Record, build


async def test_what_is_read_behind_the_target_is_left_for_the_next_look(nursery: trio.Nursery) -> None:
    """The log grows while a device catches up: a read returns more than was there when the device's look began. If its
    window fills in the next partition, it comes back to where it was told to stop, or what was read is lost."""
    engine = MemoryEngine()
    await nursery.start(engine.run)
    topics = Topics(engine)
    await topics.load()
    topic = await topics.create("t", 1)
    for number in range(3):
        batch = build([Record(0, 0, b"a", b"%d" % number, [])])
        await append(engine, [Append(topic.partitions[0], parse_header(batch), batch)])
    deliveries = Deliveries(
        engine,
        topics,
        MappingHistory(TopicMapping(), {}, 0),
        MqttTraces(Tracer(engine, topics, -1), topics),
        fresh=lambda header: None,
        unstored=lambda devices: None,
        flush=lambda: None,
        retained_partition=-1,
        offline_messages_max=-1,
    )
    session = Session("c", deliveries.subscribers.take_number())
    driver = connected(5, session=session)
    device = Device(session, 0)
    device.connection = driver.connection
    deliveries.subscribe(device, "t/#", Subscription(0))
    assert await deliveries.catching_up._read_on(device, topic.partitions[0], 0, 1)
    assert device.offsets == {topic.partitions[0]: 1}
    assert await deliveries.catching_up._read_on(device, topic.partitions[0], 1, 3)
    assert [packet.payload for packet in driver.received()] == [b"0", b"1", b"2"]  # type: ignore[union-attr]
