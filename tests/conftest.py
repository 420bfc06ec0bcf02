"""What holds for all tests.

Hypothesis tries the same examples in every run, and no example fails for being slow. `./check --hypothesis-profile
random` tries others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from gateway import compiled

COMPILED = compiled.use()  # what users run, where there is a C compiler

settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("random"), derandomize=True)
settings.load_profile("repeatable")


def pytest_report_header() -> str:
    return "modules of every MQTT message: " + ("compiled" if COMPILED else "as they are")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that starts a broker's log leaves nothing of it to the next."""
    yield
    structlog.reset_defaults()
