"""The programs of examples/, and the pytest plugin that one of them uses, as a user runs them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.testing import BrokerFailed, RunningBroker, free_port
from tests.patience import PATIENCE_S

EXAMPLES = Path(__file__).parent.parent / "examples"


def _start(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(EXAMPLES / name), *arguments], stdout=subprocess.PIPE, text=True)


def _run(name: str, *arguments: str) -> str:
    process = _start(name, *arguments)
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0
    return said


def test_produce_and_consume(trivium_broker: RunningBroker) -> None:
    for number in range(2):
        assert _run("produce.py", trivium_broker.native, "letters", "a", f"text-{number}") == f"{number}\n"
    reader = _start("consume.py", trivium_broker.native, "letters")
    assert reader.stdout is not None
    assert [reader.stdout.readline() for _ in range(2)] == ["b'a' b'text-0'\n", "b'a' b'text-1'\n"]
    reader.kill()
    reader.communicate()


def test_a_worker_finishes_what_it_has_at_sigterm(trivium_broker: RunningBroker) -> None:
    for number in range(3):
        _run("produce.py", trivium_broker.native, "jobs", "k", str(number))
    worker = _start("worker.py", trivium_broker.native, "jobs")
    assert worker.stdout is not None
    assert sorted(worker.stdout.readline() for _ in range(3)) == ["b'0'\n", "b'1'\n", "b'2'\n"]
    worker.send_signal(signal.SIGTERM)
    assert worker.communicate(timeout=PATIENCE_S)[0] == ""
    assert worker.returncode == 0
    # What it has done is acknowledged: the next worker gets what is new only.
    _run("produce.py", trivium_broker.native, "jobs", "k", "3")
    again = _start("worker.py", trivium_broker.native, "jobs")
    assert again.stdout is not None
    assert again.stdout.readline() == "b'3'\n"
    again.send_signal(signal.SIGTERM)
    assert again.communicate(timeout=PATIENCE_S)[0] == ""


def test_a_users_own_test_with_the_plugin() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_orders.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BrokerFailed, match="nonsense"):
        RunningBroker(tmp_path, "[nonsense]\nx = 1\n")


def test_nobody_is_given_the_port_of_a_broker_that_is_down() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 49_152
    assert all(1_024 <= free_port() < first for _ in range(20))
