from __future__ import annotations

import math

import pytest

from core.store import writer


@pytest.fixture(autouse=True)
def _no_disk_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that a busy machine interrupts does not send the next ones to a thread: tests say which way they take."""
    monkeypatch.setattr(writer, "SLOW_WRITE_S", math.inf)
