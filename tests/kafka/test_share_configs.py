"""What can be configured for one share group: where it starts, its interval and its session time-out."""

from __future__ import annotations

import time

import pytest

from core.dynamic_configs import SHARE_HEARTBEAT, SHARE_LOCK, SHARE_SESSION, Scope, share_start
from tests.kafka.test_share_groups import Member, acquired, joined, store
from tests.kafka.wire import kafka_listener


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", "latest"),
        ("by_duration:PT1H", 3_600_000),
        ("by_duration:P2DT3H4M5.006S", 183_845_006),
        ("by_duration:p1d", 86_400_000),
        ("by_duration:PT0S", 0),
    ],
)
def test_where_a_share_group_may_start(text: str, start: str | int) -> None:
    assert share_start(text) == start


@pytest.mark.parametrize("text", ["", "PT1H", "by_duration:", "by_duration:P", "by_duration:P1DT", "by_duration:-PT1H"])
def test_where_a_share_group_may_not_start(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        share_start(text)


async def test_a_share_group_starts_so_far_back_in_time() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        now_ms = int(time.time() * 1000)
        await store(listener, b"old", timestamp_ms=now_ms - 7_200_000)
        await store(listener, b"new", timestamp_ms=now_ms - 1_800_000)
        member = await joined(listener, reset="by_duration:PT1H")
        assert acquired(await member.fetch(wait_ms=10_000)) == [(1, 1, 1)]


async def test_a_share_groups_own_interval_and_session_time_out() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        member = await joined(listener)
        assert (await member.beat()).heartbeat_interval_ms == 5_000
        configs = {SHARE_HEARTBEAT: "6000", SHARE_SESSION: "60000"}
        await listener.broker.configs.update(Scope.GROUP, "g", lambda _: configs)
        before_ms = _now_ms()
        assert (await member.beat()).heartbeat_interval_ms == 6_000
        group = listener.broker.share_groups.find("g")
        assert group is not None
        assert before_ms + 60_000 <= group.members[member.name].deadline_ms <= _now_ms() + 60_000


async def test_a_share_groups_lock_goes_back_to_the_default_with_its_config() -> None:
    async with kafka_listener(topics={"t": 1}) as listener:
        await listener.broker.configs.update(Scope.GROUP, "g", lambda _: {SHARE_LOCK: "20000"})
        member = Member(listener, listener.connect(), "m")
        await member.beat(0, ["t"])
        await member.fetch()
        group = listener.broker.share_groups.queue_group("g")
        assert group.policy.invisible_ms == 20_000
        await listener.broker.configs.update(Scope.GROUP, "g", lambda _: {})
        assert group.policy.invisible_ms == 30_000
        assert (await member.fetch()).acquisition_lock_timeout_ms == 30_000
