"""A store full of offline persistent sessions, as clients make them and a clean stop leaves them, without network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from core.sessions import checkpoint_change, position_change, session_change
from core.state import Change, StateLog
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.topics import Topics
from gateway.protocols.mqtt.server import SESSIONS_TOPIC

BATCH_SESSIONS: Final = 5_000
_NEVER_S: Final = 0xFFFFFFFF


def write_sessions(data: Path, count: int) -> None:
    """Sessions `s0`, `s1`, ..., each subscribed to `s/<n>/c` at QoS 1, into a data directory that a broker has made."""
    trio.run(_write, data, count)


async def _write(data: Path, count: int) -> None:
    engine = EmbeddedEngine(data, EngineConfig(flush="async", reserve_bytes=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        topics = Topics(engine)
        await topics.load()
        topic = await topics.ensure(SESSIONS_TOPIC, 1, {"cleanup.policy": "compact"})
        log = StateLog(engine, topic.partitions[0])
        for first in range(0, count, BATCH_SESSIONS):
            changes: list[Change] = []
            for number in range(first, min(first + BATCH_SESSIONS, count)):
                subscription = [f"s/{number}/c", 1, False, False, 0, 0, 0, ""]
                changes.append(session_change(f"s{number}", _NEVER_S, number + 1, [subscription]))
                changes.append(position_change(f"s{number}", 0, {}, {}))
            await log.put(changes)
        await log.put([checkpoint_change(engine.position, {})])
        nursery.cancel_scope.cancel()
