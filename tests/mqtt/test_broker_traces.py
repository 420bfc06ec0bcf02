"""Traces of what devices do, and the W3C trace context along every road, with real clients."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import anyio
import pytest
from paho.mqtt.packettypes import PacketTypes

import trivium
import trivium.blocking
from tests.mqtt.child import Child, Device, child_broker, properties
from trivium.frames.traces import TraceEntry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


def traces(broker: Child, topic: str) -> list[TraceEntry]:
    async def ask() -> list[TraceEntry]:
        async with trivium.connect(broker.native) as client:
            return [one async for one in client.traces(topic=topic)]

    return anyio.run(ask)


def test_who_published_and_who_got_and_acknowledged_it(broker: Child) -> None:
    with trivium.blocking.connect(broker.native) as client:
        client.create_topic("plant", 1, {"trace": "on"})
    device, shared = Device(broker.mqtt, "reader", v5=True), Device(broker.mqtt, "member", v5=True)
    device.subscribe("plant/#", qos=2)
    shared.subscribe("$share/g/plant/#", qos=1)
    publisher = Device(broker.mqtt, "sensor", v5=True)
    for qos in (1, 2, 0):
        publisher.publish("plant/x", b"%d" % qos, qos)
    for one in (device, shared):
        one.payloads(3)
        one.close()
    publisher.close()
    found = [(one.event, one.first, one.client, one.group) for one in traces(broker, "plant")]
    assert [one for one in found if one[0] == 1] == [(1, offset, "sensor", "") for offset in range(3)]
    assert {one for one in found if one[0] == 2} == {
        *((2, offset, "reader", "") for offset in range(3)),
        *((2, offset, "member", "$share/g/plant/#") for offset in range(3)),
    }
    assert {one[1:3] for one in found if one[0] == 3} >= {(0, "reader"), (1, "reader"), (0, "member")}
    assert {(one.protocol, one.host) for one in traces(broker, "plant")} == {("mqtt", "127.0.0.1")}


def test_a_devices_message_that_waits_for_its_time_is_stored_when_it_is_delivered(broker: Child) -> None:
    with trivium.blocking.connect(broker.native) as client:
        client.create_topic("later", 1, {"trace": "on"})
    device = Device(broker.mqtt, "patient", v5=True)
    device.subscribe("later/#", qos=1)
    timed = properties(PacketTypes.PUBLISH)
    timed.UserProperty = [("deliver-at", str(time.time_ns() // 1_000_000 + 1_000))]
    device.publish("later/x", b"1", properties=timed)
    device.payloads(1)
    device.close()
    found = [(one.event, one.first, one.client) for one in traces(broker, "later") if one.event != 3]
    assert found == [(5, -1, "patient"), (1, 0, ""), (2, 0, "patient")]


def test_a_device_marks_a_message(broker: Child) -> None:
    with trivium.blocking.connect(broker.native) as client:
        client.create_topic("marks", 1, {"trace": "marked"})
    publisher = Device(broker.mqtt, v5=True)
    marked = properties(PacketTypes.PUBLISH)
    marked.UserProperty = [("trivium.trace", "1")]
    publisher.publish("marks/x", b"0")
    publisher.publish("marks/x", b"1", properties=marked)
    publisher.publish("marks/x", b"2")
    publisher.close()
    assert [(one.event, one.first) for one in traces(broker, "marks")] == [(1, 1)]


def test_the_trace_context_travels_along_every_road(broker: Child) -> None:
    headers: list[tuple[str, bytes | None]] = [("traceparent", PARENT.encode()), ("tracestate", STATE.encode())]
    device = Device(broker.mqtt, v5=True)
    device.subscribe("roads/#", qos=1)
    device.publish("roads/x", b"first")
    assert device.payloads(1) == [b"first"]
    consumer = KafkaConsumer("roads", bootstrap_servers=broker.kafka, auto_offset_reset="earliest")
    with trivium.blocking.connect(broker.native) as client, client.consumer("roads", start=trivium.EARLIEST) as reader:
        assert [next(reader).value, next(consumer).value] == [b"first", b"first"]
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        published = properties(PacketTypes.PUBLISH)
        published.UserProperty = [("traceparent", PARENT), ("tracestate", STATE)]
        with client.producer() as sender:
            for send in (
                lambda: producer.send("roads", key=b"x", value=b"v", headers=headers).get(30),
                lambda: sender.send("roads", b"v", key=b"x", headers=headers),
                lambda: device.publish("roads/x", b"v", properties=published),
            ):
                send()
                got = [next(reader).headers, next(consumer).headers]
                assert all({*headers} <= {*one} for one in got)
                assert set(device.get().properties.UserProperty) >= {("traceparent", PARENT), ("tracestate", STATE)}
        producer.close()
    consumer.close()
    device.close()
