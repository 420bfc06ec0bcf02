"""The whole broker's four kinds of MQTT listeners, with paho, and its certificate changed under it."""

from __future__ import annotations

import queue
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import trustme
from paho.mqtt.enums import CallbackAPIVersion

from tests.mqtt.child import WAIT_S, child_broker

ANY = "127.0.0.1:0"


def _write_certificate(ca: trustme.CA, folder: Path) -> list[str]:
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for index, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / "certificate.pem", append=index > 0)
    return ["--mqtt-certificate", str(folder / "certificate.pem"), "--mqtt-key", str(folder / "key.pem")]


def _trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def _says_hello(port: int, context: ssl.SSLContext | None, path: str | None) -> None:
    """Connects, and gets back what it publishes."""
    transport: Any = "websockets" if path else "tcp"
    client = paho.Client(CallbackAPIVersion.VERSION2, transport=transport, reconnect_on_failure=False)
    if path:
        client.ws_set_options(path=path)
    if context is not None:
        client.tls_set_context(context)
    messages: queue.Queue[Any] = queue.Queue()
    steps: queue.Queue[Any] = queue.Queue()
    client.on_message = lambda _c, _u, message: messages.put(message.payload)
    client.on_connect = lambda _c, _u, _f, _r, _p: steps.put(client.subscribe("hello", 1))
    client.on_subscribe = lambda _c, _u, _m, _r, _p: steps.put(client.publish("hello", b"world", 1))
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert messages.get(timeout=WAIT_S) == b"world"
    client.disconnect()
    client.loop_stop()
    client._reset_sockets()


def test_devices_connect_over_tcp_tls_and_websocket_and_the_certificate_can_be_changed(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    flags = _write_certificate(first, tmp_path)
    with child_broker(tmp_path, "--mqtts", ANY, "--mqtt-ws", ANY, "--mqtt-wss", ANY, *flags) as broker:
        assert sorted(broker.ports) == ["kafka", "mqtt", "mqtts", "native", "ws", "wss"]
        for name, context, path in (
            ("mqtt", None, None),
            ("mqtts", _trusting(first), None),
            ("ws", None, "/mqtt"),
            ("wss", _trusting(first), "/mqtt"),
        ):
            _says_hello(broker.ports[name], context, path)
        _write_certificate(second, tmp_path)
        broker.reload()
        _says_hello(broker.ports["mqtts"], _trusting(second), None)
        (tmp_path / "certificate.pem").write_text("rubbish")
        broker.reload()
        _says_hello(broker.ports["wss"], _trusting(second), "/mqtt")
        assert broker.stop() == 0


def test_a_broker_may_listen_with_tls_alone(tmp_path: Path) -> None:
    ca = trustme.CA()
    with child_broker(tmp_path, "--mqtt", "", "--mqtts", ANY, *_write_certificate(ca, tmp_path)) as broker:
        assert "mqtt" not in broker.ports
        plain = socket.create_connection(("127.0.0.1", broker.ports["mqtts"]), WAIT_S)
        plain.sendall(b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0")  # CONNECT without TLS
        while plain.recv(1000):
            pass  # an alert, then the end
        plain.close()
        _says_hello(broker.ports["mqtts"], _trusting(ca), None)


def test_files_that_are_no_certificate_stop_the_start_with_their_names(tmp_path: Path) -> None:
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text("rubbish")
    command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(tmp_path / "data"), "--mqtts", ANY]
    files = ["--mqtt-certificate", str(tmp_path / "a.pem"), "--mqtt-key", str(tmp_path / "b.pem")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a.pem" in done.stderr
    assert not (tmp_path / "data").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tls_certificate" in done.stderr
