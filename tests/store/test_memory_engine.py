"""The in-memory engine keeps the contract, whatever order its appends travel in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from core.store.memory import MemoryEngine
from tests.store.contract import EngineContract


class TestMemoryEngine(EngineContract):
    @pytest.fixture(params=range(3))
    async def engine(self, request: pytest.FixtureRequest) -> AsyncIterator[MemoryEngine]:
        engine = MemoryEngine(seed=request.param, travel_turns_max=1 + 3 * request.param)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
