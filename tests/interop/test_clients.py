"""Real clients against a real broker: those that pip installs. The others run by `python -m interop.run`.

Everything runs in processes of its own, as the clients leave sockets open.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENTS = ("kafka-python-3", "confluent-kafka", "aiokafka", "paho", "aiomqtt", "amqtt", "roads")
TIME_LIMIT_S = 3_600


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=TIME_LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_that_worked_with_this_client_has_stopped_working(client: str) -> None:
    run("interop.run", "--only", client)


def test_kill_9_under_load_of_real_clients_loses_nothing() -> None:
    run("interop.crash", "--rounds", "12", "--seed", "1")


def test_kill_9_under_load_of_devices_loses_nothing_and_repeats_nothing_of_qos_2() -> None:
    run("interop.crash.mqtt", "--rounds", "4", "--seed", "1")


def test_kill_9_under_load_of_native_clients_leaves_what_they_were_told() -> None:
    run("interop.crash.native", "--rounds", "1", "--seed", "1")
