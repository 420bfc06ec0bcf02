"""What an application gets wrong is said at once, with what to give instead."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import trivium
from tests.native.harness import connected, serving
from tests.patience import PATIENCE_S
from trivium.errors import LocalProtocolError, RequestTimedOut
from trivium.reconnecting import parse_addresses


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:9876",
        "http://localhost",
        "tcp://127.0.0.1:9876,other:9876",
        "localhost:9876/",
        "me@localhost:9876",
        "local host:9876",
        "::1",
        "[localhost]:9876",
        "[::1:9876",
        "localhost:",
        "localhost:99999",
        "a:1,",
        "",
    ],
)
async def test_what_is_no_address_is_refused_before_anything_is_tried(address: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        async with trivium.connect(address):
            pytest.fail("let in")


@pytest.mark.parametrize("address", [["localhost:9876"], ("localhost", 9876), None, b"localhost:9876"])
async def test_addresses_are_one_text(address: Any) -> None:
    with pytest.raises(TypeError, match="addresses are one text"):
        async with trivium.connect(address):
            pytest.fail("let in")


def test_an_address_may_name_an_interface() -> None:
    assert parse_addresses("[fe80::1%eth0]:1,under_score.example:2") == [
        ("fe80::1%eth0", 1),
        ("under_score.example", 2),
    ]


async def test_who_connects_to_another_port_is_asked_whether_it_is_the_native_one() -> None:
    async with serving() as addresses, trivium.connect(addresses.kafka, request_timeout_s=0.5) as client:
        with pytest.raises(RequestTimedOut, match="native port"):
            await client.topics()


async def test_names_are_arguments_by_themselves() -> None:
    names: Any = ["t", "u"]
    async with connected() as client:
        with pytest.raises(TypeError, match="groups are texts, each an argument by itself"):
            await client.describe_queues(names)
        with pytest.raises(TypeError, match="topics are texts"):
            async with client.subscribe(names, group="g"):
                pytest.fail("let in")
        with pytest.raises(TypeError, match="topics are texts"):
            async with client.consumer(names):
                pytest.fail("let in")
        with pytest.raises(TypeError, match="a list of names"):
            await client.reset("g", trivium.LATEST, topics="t", kind="queue")
        assert await client.topics() == []  # the connection is as it was


async def test_what_fits_no_frame_is_shown() -> None:
    name: Any = b"t"
    async with connected() as client:
        with pytest.raises(LocalProtocolError, match=r"it is DeleteTopic.*b't'"):
            await client.delete_topic(name)


async def test_partitions_that_no_topic_has_are_not_waited_for() -> None:
    async with connected() as client:
        await client.create_topic("t", 2)
        with anyio.fail_after(PATIENCE_S), pytest.raises(ValueError, match="none of the topics has any"):
            async with client.consumer("t", partitions=[7]):
                pytest.fail("let in")
        async with client.consumer("t", partitions=[1, 7]) as consumer:
            assert set(consumer.positions) == {("t", 1)}


async def test_times_are_whole_milliseconds() -> None:
    time: Any = 1_767_225_600.5
    text: Any = "2026-01-31"
    async with connected() as client, client.producer() as producer:
        for name in ("deliver_at_ms", "timestamp_ms"):
            with pytest.raises(ValueError, match=name):
                await producer.send("t", b"x", **{name: time})
        with pytest.raises(TypeError, match="is no time"):
            await client.reset("g", text)


@pytest.mark.parametrize("asked", [{"key": b"k"}, {"offset": 1}, {"topic": "t", "partition": 0}])
async def test_traces_of_a_key_or_a_place_need_the_rest_of_it(asked: Any) -> None:
    async with connected() as client:
        with pytest.raises(ValueError, match="a place is"):
            _ = [one async for one in client.traces(**asked)]
        key: Any = "k"
        with pytest.raises(TypeError, match="keys are bytes"):
            _ = [one async for one in client.traces(topic="t", key=key)]
