"""A broker of one's own for the tests of programs that use Trivium: a child process over a folder, on free ports.

    with RunningBroker(tmp_path) as broker:
        client = trivium.connect(broker.native)

It serves when it was made, and again on the same ports after `restart` or `kill`. It ends with the block, and on Linux
with the process that made it, however that one ends.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_PORT_MIN, _PORT_END = 10_000, 32_768  # below those that Linux gives to connections and to port 0
_LISTENERS: Final = {"kafka": "--kafka", "mqtt": "--mqtt", "ws": "--mqtt-ws", "native": "--native"}


class BrokerFailed(Exception):
    """The broker did not start or stop; the text holds the end of its log."""


def free_port() -> int:
    """A port on loopback to listen on, and to find again: while its broker is down, the system gives it to nobody.

    A client that tries one of the system's own ports again and again may even be connected to itself.
    """
    while True:
        port = _PORT_MIN + secrets.randbelow(_PORT_END - _PORT_MIN)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class RunningBroker:
    """`kafka`, `mqtt`, `mqtt_websocket` and `native` are its addresses (HOST:PORT). `config` is TOML text."""

    def __init__(self, folder: Path, config: str = "") -> None:
        self._folder = folder
        self._config = config
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in _LISTENERS}
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def kafka(self) -> str:
        return self._addresses["kafka"]

    @property
    def mqtt(self) -> str:
        return self._addresses["mqtt"]

    @property
    def mqtt_websocket(self) -> str:
        return self._addresses["ws"]

    @property
    def native(self) -> str:
        return self._addresses["native"]

    @property
    def log(self) -> str:
        """What the broker has logged."""
        return (self._folder / "broker.log").read_text(errors="replace")

    def restart(self) -> None:
        """A clean stop and a start. Raises BrokerFailed."""
        self.stop()
        self._start()

    def kill(self) -> None:
        """kill -9 and a start: what was acknowledged is there. Raises BrokerFailed."""
        self._end(signal.SIGKILL)
        self._start()

    def stop(self) -> None:
        """A clean stop. Raises BrokerFailed."""
        code = self._end(signal.SIGTERM)
        if code:
            raise BrokerFailed(f"the broker ended with {code}:\n{self.log[-3000:]}")

    def _start(self) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(self._folder / "data")]
        for name, flag in _LISTENERS.items():
            command += [flag, self._addresses[name]]
        if self._config:
            file = self._folder / "trivium.toml"
            file.write_text(self._config)
            command += ["--config", str(file)]
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, preexec_fn=_end_with_parent)
        self._wait_ready(self._process)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        deadline = time.monotonic() + READY_S_MAX
        said = b""
        while not all(f"{name} listening on ".encode() in said for name in _LISTENERS) or not said.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not data:
                self._end(signal.SIGKILL)
                raise BrokerFailed(f"the broker does not start:\n{self.log[-3000:]}")
            said += data
        for line in said.decode().splitlines():
            name, _, address = line.partition(" listening on ")
            self._addresses[name] = address

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            code = process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BrokerFailed(f"the broker did not stop in {STOP_S_MAX:.0f} s:\n{self.log[-3000:]}") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL)
