"""Settling keeps each request within what the broker takes, whatever has gathered meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trivium import settling as module
from trivium.errors import ErrorCode
from trivium.frames.queues import ACK, NACK, Delivery, Range, SettleEntry, SettleReply, SettleRequest
from trivium.handouts import Handout
from trivium.settling import Settling, parts


def handout(lease: int, count: int) -> Handout:
    return Handout(Delivery("t", 0, lease, 1, [Range(0, count - 1)], 0), memoryview(b""))


async def test_what_gathered_is_said_in_requests_of_a_size_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLES_MAX", 4)
    monkeypatch.setattr(module, "SETTLED_OFFSETS_MAX", 10)
    said: list[SettleEntry] = []

    async def request(message: SettleRequest) -> tuple[Any, memoryview]:
        assert len(message.entries) <= 4
        assert sum(one.last - one.first + 1 for one in message.entries) <= 10
        said.extend(message.entries)
        return SettleReply([ErrorCode.NONE] * len(message.entries)), memoryview(b"")

    settling = Settling(1, request)
    whole, sieve = handout(1, 25), handout(2, 20)
    for offset in range(25):
        settling.ack(whole, offset)
    for offset in range(0, 20, 2):
        settling.ack(sieve, offset)
    asked = [settling.ask(SettleEntry("t", 0, 3, first, first + 5, NACK, -1, "")) for first in (0, 6, 12)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settling.run)
        await settling.wait_settled()
        nursery.cancel_scope.cancel()
    done = [(one.lease, offset) for one in said if one.verb == ACK for offset in range(one.first, one.last + 1)]
    assert sorted(done) == [(1, offset) for offset in range(25)] + [(2, offset) for offset in range(0, 20, 2)]
    assert all(one.status == ErrorCode.NONE for one in asked)
    assert settling.late == 0


def test_what_is_held_is_named_in_parts_of_a_size_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLES_MAX", 4)
    monkeypatch.setattr(module, "SETTLED_OFFSETS_MAX", 10)
    whole, sieve = handout(1, 25), handout(2, 20)
    for offset in range(0, 20, 2):
        sieve.settle(offset)
    found = list(parts([whole, sieve]))
    assert all(len(part) <= 4 and sum(last - first + 1 for _, first, last in part) <= 10 for part in found)
    named = [(one.lease, offset) for part in found for one, first, last in part for offset in range(first, last + 1)]
    assert named == [(1, offset) for offset in range(25)] + [(2, offset) for offset in range(1, 20, 2)]
