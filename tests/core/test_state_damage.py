"""A disk that lost a part of the broker's own state: the rest is loaded, and nothing that was given is given again."""

from __future__ import annotations

from structlog.testing import capture_logs

from core.state import StateLog
from core.store.engine import CreatePartition, append
from core.store.log_files import log_name
from core.topics import Topics
from tests.store.simulated_disk import SimulatedDisk
from tests.store.test_recovery import CONFIG_ONE_SEGMENT, groups_in, running


async def test_what_is_lost_of_a_table_is_reported_and_the_rest_loaded() -> None:
    disk = SimulatedDisk()
    async with running(disk, CONFIG_ONE_SEGMENT) as engine:
        await append(engine, [CreatePartition(1)])
        for key in (b"a", b"b", b"c"):
            await StateLog(engine, 1).put([(key, b"value of " + key)])
        left = disk.copy()
    left.corrupt(log_name(1), groups_in(left, 1)[2][1] - 3)
    async with running(left, CONFIG_ONE_SEGMENT) as engine:
        table: dict[bytes, bytes | None] = {}
        with capture_logs() as logs:
            state = StateLog(engine, 1)
            await state.load(table.__setitem__)
        assert list(table) == [b"a", b"c"]
        assert state.damaged
        assert [line["event"] for line in logs] == ["changes of the broker's own state are lost"]


async def test_partition_numbers_of_a_topic_that_is_lost_are_not_used_again() -> None:
    disk = SimulatedDisk()
    async with running(disk, CONFIG_ONE_SEGMENT) as engine:
        topics = Topics(engine)
        await topics.load()
        await topics.create("kept", 2, {})
        await topics.create("lost", 3, {})
        await append(engine, [CreatePartition(100)])
        left = disk.copy()
    left.corrupt(log_name(1), groups_in(left, 1)[-2][1] - 3)
    async with running(left, CONFIG_ONE_SEGMENT) as engine:
        topics = Topics(engine)
        await topics.load()
        assert [topic.name for topic in topics.all()] == ["kept"]
        assert (await topics.create("new", 1, {})).partitions == (101,)
