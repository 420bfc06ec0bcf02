"""The `trivium` command: verbs, flags and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import structlog
import trio
from click.testing import CliRunner
from structlog.testing import capture_logs

from conf.schema import Address, Config, MqttConfig, MqttRule, StoreConfig
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import Append, CreatePartition, append
from gateway import serve
from gateway.cli import main
from tests.patience import PATIENCE_S
from trivium.record_batch import parse_header
from trivium.records import Record, build


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
    assert (result.exit_code, result.stdout) == (0, "")
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


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("format", "trivium-store 9\n", "store format 9, this program knows up to 1: use a newer one"),
        ("MANIFEST", "junk", "MANIFEST is damaged"),
    ],
)
def test_a_store_that_cannot_be_opened_is_an_exit_code_and_a_line_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, reason: str
) -> None:
    # A logger that was used under an earlier configuration keeps it, so that nothing would be captured.
    monkeypatch.setattr(serve, "log", structlog.get_logger())
    (tmp_path / "format").write_text("trivium-store 1\n")
    (tmp_path / name).write_text(content)
    with capture_logs() as logs:
        assert serve.run(Config(store=StoreConfig(data_dir=tmp_path))) == 1
    assert [line["log_level"] for line in logs] == ["critical"]
    assert reason in logs[0]["reason"]


def test_what_of_the_configuration_shows_only_at_the_start_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "log", structlog.get_logger())
    file = tmp_path / "file"
    file.touch()
    rules = MqttConfig(rules=(MqttRule(filter="+/a", topic="t", key="k"),))
    with capture_logs() as logs:
        assert serve.run(Config(store=StoreConfig(data_dir=file))) == 2
        assert serve.run(Config(store=StoreConfig(data_dir=tmp_path), mqtt=rules)) == 2
    assert logs[0] == {
        "event": "the data directory cannot be used",
        "log_level": "critical",
        "data_dir": str(file),
        "reason": "File exists",
    }
    assert "[mqtt] rules, catch_all: rule '+/a'" in logs[1]["reason"]


_STOPPED_AT_ONCE = """
import os, signal, sys
from conf.load import load
from gateway import serve

serve.print = lambda *line, **how: os.kill(os.getpid(), signal.{signal})
sys.exit(serve.run(load(None, dict(os.environ))))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_comes_with_the_line_that_says_ready_is_a_clean_stop(tmp_path: Path, name: str) -> None:
    ports = {f"TRIVIUM_{protocol}_LISTEN": "127.0.0.1:0" for protocol in ("KAFKA", "MQTT", "NATIVE")}
    environment = {**os.environ, **ports, "TRIVIUM_STORE_DATA_DIR": str(tmp_path)}
    program = _STOPPED_AT_ONCE.format(signal=name)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stdout.splitlines()[-1]


def test_help_lists_the_verbs() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output


async def _write_store(directory: Path) -> None:
    engine = EmbeddedEngine(directory, EngineConfig(reserve_bytes=0))
    batch = build([Record(0, 1_700_000_000_000, b"key", b"some value", [])])
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(7), Append(7, parse_header(batch), batch)])
        result = CliRunner().invoke(main, ["store", "verify", str(directory)])
        assert result.exit_code == 3
        assert "in use by a running broker" in result.stderr
        nursery.cancel_scope.cancel()


async def test_store_verbs_refuse_a_store_in_use_and_read_one_that_is_not(tmp_path: Path) -> None:
    await _write_store(tmp_path)
    result = CliRunner().invoke(main, ["store", "verify", str(tmp_path)])
    assert result.exit_code == 0
    assert "0 damaged" in result.stdout
    assert "100%" in result.stderr
    result = CliRunner().invoke(main, ["store", "dump", str(tmp_path), "--partition", "7", "--records"])
    assert result.exit_code == 0
    assert "some value" in result.stdout


def _damage(directory: Path, value: bytes) -> None:
    """Changes a byte of the stored value, wherever it is."""
    for file in directory.iterdir():
        data = bytearray(file.read_bytes())
        at = data.find(value)
        if at >= 0:
            data[at] ^= 1
            file.write_bytes(data)


async def test_store_verify_names_damage(tmp_path: Path) -> None:
    await _write_store(tmp_path)
    _damage(tmp_path, b"some value")
    result = CliRunner().invoke(main, ["store", "verify", str(tmp_path)])
    assert result.exit_code == 1
    assert "damage: " in result.stdout


def test_store_verbs_need_a_directory(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["store", "verify", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
