"""Lets a client program restart the broker it talks to.

A program connects to CONTROL (host:port), sends one line, `restart` (SIGTERM, then start) or `kill` (kill -9, then
start), and reads `ok` when the broker answers again; or `reset GROUP`, which has a consumer group begin again at the
earliest records while it runs, ours only. A program without CONTROL in its environment skips such tests.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import trivium.blocking
from interop.brokers import Broker, BrokerError, Trivium

COMMANDS = ("restart", "kill", "reset GROUP")


def _obey(broker: Broker, command: str) -> str:
    word, _, group = command.partition(" ")
    if word == "reset" and isinstance(broker, Trivium):
        try:
            with trivium.blocking.connect(f"127.0.0.1:{broker.native_port}") as client:
                client.reset(group, trivium.EARLIEST)
        except trivium.TriviumError as error:
            return f"failed: {error}"
        return "ok"
    if command not in COMMANDS:
        return f"unknown; known: {' '.join(COMMANDS)}"
    try:
        if command == "kill":
            broker.kill()
        else:
            broker.stop()
        broker.start()
    except BrokerError as error:
        return f"failed: {' '.join(str(error).split())}"
    return "ok"


def _serve(listener: socket.socket, broker: Broker) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed: the end
        with connection, connection.makefile("rw") as stream:
            stream.write(_obey(broker, stream.readline().strip()) + "\n")


@contextlib.contextmanager
def control(broker: Broker) -> Iterator[dict[str, str]]:
    """Serves commands meanwhile; yields what is to be added to a program's environment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, broker), daemon=True).start()
        yield {"CONTROL": f"127.0.0.1:{listener.getsockname()[1]}"}
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
