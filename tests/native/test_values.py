"""Serializers and trace context, over a running broker and by themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

import trivium
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium import blocking
from trivium.handouts import Message as QueueMessage

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Order:
    number: int
    text: str


class OrderSerializer:
    content_type = "application/vnd.order"

    def dumps(self, value: Order, /) -> bytes:
        return json.dumps(vars(value)).encode()

    def loads(self, data: bytes, /) -> Order:
        return Order(**json.loads(data))


async def test_values_of_ones_own_type_go_out_and_come_back() -> None:
    orders = trivium.TypedTopic("orders", OrderSerializer())
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        await producer.send(*orders(Order(7, "ä")), key=b"k", headers=orders.headers)
        await producer.send(*orders(None), key=b"k")
        await producer.send("orders", b"no order", key=b"k")
        async with client.consumer("orders", start=trivium.EARLIEST) as consumer:
            first = await anext(consumer)
            assert orders.value(first) == Order(7, "ä")
            assert ("trivium.content-type", b"application/vnd.order") in first.headers
            assert orders.value(await anext(consumer)) is None
            with pytest.raises(
                trivium.CannotDeserialize, match=r"orders/0 at 2 cannot be read as application/vnd.order"
            ):
                orders.value(await anext(consumer))


@pytest.mark.parametrize(
    ("serializer", "value"), [(trivium.JSON, {"a": [1, None, "ä"]}), (trivium.TEXT, "ä\n"), (trivium.JSON, None)]
)
def test_serializers_that_come_along(serializer: trivium.Serializer[Any], value: Any) -> None:
    topic = trivium.TypedTopic("t", serializer)
    name, data = topic(value)
    message = trivium.Message(name, 0, 0, 0, None, data, [])
    assert topic.value(message) == value


async def test_what_a_handler_sends_continues_the_trace() -> None:
    async with serving() as at, trivium.connect(at.native) as client, client.producer() as producer:
        headers = {"traceparent": PARENT, "tracestate": b"a=1", "other": b"x"}
        await producer.send("in", b"1", headers=headers)
        await producer.send("in", b"2")
        handled = 0

        async def work(message: QueueMessage) -> None:
            nonlocal handled
            own = {"traceparent": b"own"} if message.value == b"2" else {}
            await producer.send("out", message.value, key=b"k")
            await producer.send("out", message.value, key=b"k", headers=own)
            handled += 1
            if handled == 2:
                subscriber.stop()

        async with client.subscribe("in", group="g", start=trivium.EARLIEST) as subscriber:
            with anyio.fail_after(PATIENCE_S):
                await subscriber.run(work, signals=())
        async with client.consumer("out", start=trivium.EARLIEST) as consumer:
            found = [dict((await anext(consumer)).headers) for _ in range(4)]
        context = [(one.get("traceparent"), one.get("tracestate"), one.get("other")) for one in found]
        assert context == [(PARENT, b"a=1", None)] * 2 + [(None, None, None), (b"own", None, None)]
        assert trivium.trace_context.passed_on() == ()


def test_a_script_continues_a_trace() -> None:
    with in_thread() as at, blocking.connect(at.native) as client, client.producer() as producer:
        asked = trivium.Message("t", 0, 0, 0, None, b"", [("traceparent", PARENT)])
        with trivium.continuing(asked):
            producer.send("out", b"1")
        producer.send("out", b"2")
        with client.consumer("out", start=trivium.EARLIEST) as consumer:
            assert [dict(next(consumer).headers).get("traceparent") for _ in range(2)] == [PARENT, None]
