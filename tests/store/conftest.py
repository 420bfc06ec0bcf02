from __future__ import annotations

import math

import pytest

from core.store import syncs, writer


@pytest.fixture(autouse=True)
def _no_disk_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes and syncs that a busy machine interrupts do not send the next ones another way: tests say which."""
    monkeypatch.setattr(writer, "SLOW_WRITE_S", math.inf)
    monkeypatch.setattr(syncs, "QUICK_S", math.inf)


@pytest.fixture(params=["the loop syncs", "synced beside the loop"])
def either_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs with both."""
    if request.param != "the loop syncs":
        monkeypatch.setattr(syncs.Syncs, "sync_now", lambda self, file: False)
