from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from gateway.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    before = gc.get_threshold()
    collector = Collector()
    collector.install()
    yield collector
    collector.remove()
    gc.unfreeze()
    gc.set_threshold(*before)


def test_the_longest_pause_is_kept(collector: Collector) -> None:
    assert gc.get_freeze_count() > 0
    gc.collect()
    longest = collector.longest_pause_ms
    assert longest > 0
    gc.collect(0)
    assert collector.longest_pause_ms >= longest
