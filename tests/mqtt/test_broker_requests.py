"""Request and reply between devices and the SDK, both ways, with real clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from paho.mqtt.packettypes import PacketTypes

import trivium
import trivium.blocking
from tests.mqtt.child import WAIT_S, Child, Device, child_broker, properties


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with child_broker(tmp_path_factory.mktemp("broker")) as child:
        yield child


def test_a_device_answers_a_request_of_the_sdk(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    device.subscribe("commands/valve7", qos=1)
    with (
        trivium.blocking.connect(broker.native) as client,
        client.requester() as requester,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(requester.request, "commands", b"open?", key=b"valve7")
        message = device.get()
        assert (message.topic, message.payload) == ("commands/valve7", b"open?")
        assert 0 < message.properties.MessageExpiryInterval <= 30
        answer = properties(PacketTypes.PUBLISH)
        answer.CorrelationData = message.properties.CorrelationData
        device.publish(message.properties.ResponseTopic, b"open", properties=answer)
        assert asked.result(WAIT_S).value == b"open"
    device.close()


def test_the_sdk_answers_a_request_of_a_device(broker: Child) -> None:
    device = Device(broker.mqtt, v5=True)
    device.subscribe("answers/dev1", qos=1)
    question = properties(PacketTypes.PUBLISH)
    question.ResponseTopic, question.CorrelationData = "answers/dev1", b"\x00\xff7"
    device.publish("questions/dev1", b"time?", properties=question)
    with (
        trivium.blocking.connect(broker.native) as client,
        client.producer() as producer,
        client.consumer("questions", start=trivium.EARLIEST) as consumer,
    ):
        producer.reply(next(consumer), b"noon")
    message = device.get()
    assert (message.topic, message.payload) == ("answers/dev1", b"noon")
    assert message.properties.CorrelationData == b"\x00\xff7"
    device.close()
