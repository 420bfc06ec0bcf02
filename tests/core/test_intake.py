"""The search for a mention of `deliver-at`: by two engines, for small and large batches, over any bytes."""

from __future__ import annotations

import random

import pytest

from core.intake import MENTION, mentions_time
from core.topic_config import topic_settings
from trivium.record_batch import Codec
from trivium.records import Record, build

ANY = topic_settings({})


@pytest.mark.parametrize("size", [0, 300, 4_000, 5_000, 200_000])
@pytest.mark.parametrize("headed", [True, False])
def test_a_mention_is_found_wherever_it_stands_among_any_bytes(size: int, headed: bool) -> None:
    rng = random.Random(size)
    for _ in range(20):
        before, after = rng.randbytes(rng.randint(0, size)), rng.randbytes(size)
        headers: list[tuple[str, bytes | None]] = [("deliver-at", b"1")] if headed else [("deliver-a", b"1")]
        batch = memoryview(build([Record(0, 0, b"", before, []), Record(0, 0, None, after, headers)]))
        assert mentions_time(ANY, batch) is headed


def test_only_uncompressed_batches_of_topics_without_a_type_are_searched() -> None:
    records = [Record(0, 0, None, b"", [("deliver-at", b"1")])]
    assert not mentions_time(ANY, memoryview(build(records, codec=Codec.LZ4)))
    assert not mentions_time(ANY, None)
    assert not mentions_time(ANY, memoryview(MENTION))
    for kind in ("normal", "fifo", "delay", "transaction", "mixed"):
        assert not mentions_time(topic_settings({"message.type": kind}), memoryview(build(records)))
