"""The embedded engine keeps the contract, in both flush modes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import trio

from core.store.embedded import EmbeddedEngine, EngineConfig
from tests.store.contract import EngineContract


class TestEmbeddedEngine(EngineContract):
    @pytest.fixture(params=["sync", "async", "without ring"])
    async def engine(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
        flush: Literal["sync", "async"] = "async" if request.param == "async" else "sync"
        hot_batches = 0 if request.param == "without ring" else 100
        engine = EmbeddedEngine(tmp_path, EngineConfig(flush=flush, reserve_bytes=0, hot_batches_max=hot_batches))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
