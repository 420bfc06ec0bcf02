"""The `trivium` command: verbs, flags and what they refuse."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from conf.schema import Address, Config
from gateway.cli import main


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that `gateway.serve.run` was called with."""
    configs: list[Config] = []
    module = types.ModuleType("gateway.serve")
    module.run = configs.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway.serve", module)
    return configs


def test_serve_passes_flags_and_file(served: list[Config], tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[topics]\nnum_partitions = 7\n")
    arguments = [
        "serve",
        "--config",
        str(file),
        "--data-dir",
        str(tmp_path),
        "--kafka",
        "127.0.0.1:0",
        "--flush",
        "async",
    ]
    result = CliRunner().invoke(main, [*arguments, "--mqtt", "127.0.0.1:1", "--native", "[::1]:2"])
    assert (result.exit_code, result.output) == (0, "")
    [config] = served
    assert config.kafka.listen == Address("127.0.0.1", 0)
    assert config.mqtt.listen == Address("127.0.0.1", 1)
    assert config.native.listen == Address("::1", 2)
    assert (config.store.data_dir, config.store.flush, config.topics.num_partitions) == (tmp_path, "async", 7)


def test_serve_refuses_all_addresses_without_advertised(served: list[Config]) -> None:
    result = CliRunner().invoke(main, ["serve", "--kafka", "0.0.0.0:9092"])
    assert result.exit_code == 2
    assert "trivium: --kafka:" in result.stderr
    assert "--kafka-advertised" in result.stderr
    assert not served


def test_help_lists_the_verbs() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output
