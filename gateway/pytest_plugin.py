"""Fixtures for the tests of programs that use Trivium. pytest finds them where `trivium-broker` is installed.

- `trivium_broker`: one broker for the whole session; let each test use topics of its own.
- `fresh_trivium_broker`: a broker for one test, empty, to be restarted or killed at will.

Both are a `gateway.testing.RunningBroker`. `trivium_config` may be overridden with TOML text in a conftest.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gateway.testing import RunningBroker


@pytest.fixture(scope="session")
def trivium_config() -> str:
    """The configuration of both brokers, as TOML text; empty: the defaults."""
    return ""


@pytest.fixture(scope="session")
def trivium_broker(tmp_path_factory: pytest.TempPathFactory, trivium_config: str) -> Iterator[RunningBroker]:
    """A running broker with all its protocols, one for the session."""
    yield from _running(tmp_path_factory.mktemp("trivium"), trivium_config)


@pytest.fixture
def fresh_trivium_broker(tmp_path_factory: pytest.TempPathFactory, trivium_config: str) -> Iterator[RunningBroker]:
    """A running broker with nothing in it, for one test."""
    yield from _running(tmp_path_factory.mktemp("trivium"), trivium_config)


def _running(folder: Path, config: str) -> Iterator[RunningBroker]:
    from gateway.testing import RunningBroker  # only where a fixture is used

    with RunningBroker(folder, config) as broker:
        yield broker
