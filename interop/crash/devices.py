"""MQTT clients of the crash runner: paho in threads, each living through the broker's deaths with what it knows.

A worker keeps one paho client for the whole run, which connects again by itself and sends again what was not
acknowledged: so it is the broker alone that may lose or repeat something. Messages are `name:number`, published to
`TOPIC/name/number % 3`.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from interop.crash.ledger import Ledger
from interop.crash.load import PAUSE_TIMEOUT_S, Worker, WorkerError

NAMES = 3
IN_FLIGHT_MAX = 40
SESSION_EXPIRY_S = 3600
QUOTA_EXCEEDED = 0x97  # PUBACK or PUBREC when the disk is full
PACKET_ID_NOT_FOUND = (
    0x92  # PUBCOMP to a PUBREL that is sent again: its answer got lost, as MQTT 5 section 3.7.2.1 has it
)


class Paho(paho.Client):
    """paho forgets at a second attempt to connect that PUBREL was due for a message, and would publish it again."""

    def _messages_reconnect_reset_out(self) -> None:
        released = [one for one in self._out_messages.values() if one.state == paho.mqtt_ms_resend_pubrel]
        super()._messages_reconnect_reset_out()
        for one in released:
            one.state = paho.mqtt_ms_resend_pubrel


class Client:
    """One client identifier, of a durable session unless `clean`."""

    def __init__(self, client_id: str, address: str, ledger: Ledger, *, version: int = 5, clean: bool = False) -> None:
        self.client_id = client_id
        self.ledger = ledger
        self.received: list[tuple[str, bytes]] = []
        self.acknowledged = 0
        self.may_be_refused = False  # where the run fills the disk
        self.refused_ids: list[int] = []
        self._first = True
        self._connected = threading.Event()
        self._answered = threading.Condition()
        self._answers: set[int] = set()
        v5 = version == 5
        settings: dict[str, Any] = {} if v5 else {"clean_session": clean}
        self.paho = Paho(CallbackAPIVersion.VERSION2, client_id, protocol=version, **settings)
        self.paho.reconnect_delay_set(1, 1)
        self.paho.max_inflight_messages_set(IN_FLIGHT_MAX)
        self.paho.on_connect, self.paho.on_disconnect = self._on_connect, self._on_disconnect
        self.paho.on_message, self.paho.on_publish = self._on_message, self._on_publish
        self.paho.on_subscribe = self.paho.on_unsubscribe = self._on_answer
        host, _, port = address.rpartition(":")
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            if not clean:
                properties.SessionExpiryInterval = SESSION_EXPIRY_S
            settings = {"clean_start": clean, "properties": properties}
        else:
            settings = {}
        self.paho.connect(host, int(port), 60, **settings)
        self.paho.loop_start()
        self.wait_connected()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            return  # it tries again
        if not self._first and not flags.session_present:
            self.ledger.violate(f"{self.client_id}: the session was lost")
        self._first = False
        self._connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._connected.clear()

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _on_publish(self, client: Any, data: Any, packet_id: int, code: Any, properties: Any) -> None:
        if self.may_be_refused and code.value in (QUOTA_EXCEEDED, PACKET_ID_NOT_FOUND):
            # paho sends PUBREL also for what PUBREC refused, which is then not found.
            self.refused_ids.append(packet_id)
        elif code.is_failure and code.value != PACKET_ID_NOT_FOUND:
            self.ledger.violate(f"{self.client_id}: a publish was refused: {code}")
        self.acknowledged += 1

    def _on_answer(self, client: Any, data: Any, packet_id: int, codes: Any, properties: Any) -> None:
        with self._answered:
            self._answers.add(packet_id)
            self._answered.notify_all()

    def wait_connected(self, timeout_s: float = PAUSE_TIMEOUT_S) -> None:
        if not self._connected.wait(timeout_s):
            raise WorkerError(f"{self.client_id} did not connect in {timeout_s:.0f} s")

    def until_answered(self, ask: Any) -> None:
        """SUBSCRIBE or UNSUBSCRIBE, which nobody sends again by itself. Raises WorkerError."""
        self.wait_connected()
        _, packet_id = ask()
        with self._answered:
            if not self._answered.wait_for(lambda: packet_id in self._answers, 20):
                raise WorkerError(f"{self.client_id}: SUBSCRIBE was not answered")

    def end(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


class Leaver:
    """A member of a shared subscription that acknowledges nothing and ends its session: others must get all that it
    was given. `durable`: the session outlives its connection, until `end`.
    """

    def __init__(self, client_id: str, address: str, filter_: str, *, durable: bool) -> None:
        self._client_id = client_id
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._durable = durable
        self._subscribed = threading.Event()
        self._paho = self._client(clean=not durable)
        self._paho.manual_ack_set(True)
        self._paho.on_connect = lambda client, *_: client.subscribe(filter_, 1)
        self._paho.on_subscribe = lambda *_: self._subscribed.set()
        self._paho.connect(self._host, self._port, 60)
        self._paho.loop_start()
        if not self._subscribed.wait(PAUSE_TIMEOUT_S):
            raise WorkerError(f"{client_id}: SUBSCRIBE was not answered")

    def _client(self, *, clean: bool) -> paho.Client:
        settings: dict[str, Any] = {"clean_session": clean, "reconnect_on_failure": False}
        return paho.Client(CallbackAPIVersion.VERSION2, self._client_id, **settings)

    def cut(self) -> None:
        """Its connection is lost."""
        self._paho.loop_stop()
        sock = self._paho.socket()
        if sock is not None:
            sock.close()

    def end(self) -> None:
        """Its session is over; the broker must be there."""
        if self._durable:
            ended = threading.Event()
            client = self._client(clean=True)
            client.on_connect = lambda client, *_: client.disconnect()
            client.on_disconnect = lambda *_: ended.set()
            client.connect(self._host, self._port, 60)
            client.loop_start()
            if not ended.wait(PAUSE_TIMEOUT_S):
                raise WorkerError(f"{self._client_id} did not connect")
            client.loop_stop()


class DevicePublisher(Worker):
    """Publishes at one QoS; `retain` to names of its own. Every message is acknowledged before it rests."""

    def __init__(self, name: str, address: str, ledger: Ledger, qos: int, version: int, retain: bool = False) -> None:
        super().__init__(name, address, ledger)
        self.qos = qos
        self.retain = retain
        self.sent: dict[str, list[bytes]] = {}  # by name, of this topic's generation
        self.payloads: dict[int, bytes] = {}  # by packet id, the last
        self._number = 0
        self.client = Client(name, address, ledger, version=version)
        self._total = 0

    def work(self) -> None:
        for _ in range(10):
            name = f"{self.topic}/{self.name}/{self._number % NAMES}"
            payload = f"{self.name}:{self._number}".encode()
            self.sent.setdefault(name, []).append(payload)
            published = self.client.paho.publish(name, payload, self.qos, self.retain, self.properties())
            self.payloads[published.mid] = payload
            self._number += 1
            self._total += 1
        while self._total - self.client.acknowledged > 3 * IN_FLIGHT_MAX and self._running.is_set():
            time.sleep(0.002)
        time.sleep(0.002)

    def properties(self) -> Properties | None:
        """Of the next message."""
        return None

    def settle(self) -> None:
        deadline = time.monotonic() + PAUSE_TIMEOUT_S - 5
        while self.client.acknowledged < self._total:
            if time.monotonic() > deadline:
                raise WorkerError(f"{self.name}: {self.client.acknowledged} of {self._total} acknowledged")
            time.sleep(0.01)


class WillClients(Worker):
    """Clients that connect with a will and are cut; `owed` are the wills of those whose CONNECT was accepted."""

    def __init__(self, name: str, address: str, ledger: Ledger) -> None:
        super().__init__(name, address, ledger)
        self.owed: list[tuple[str, bytes]] = []
        self._number = 0

    def work(self) -> None:
        number, self._number = self._number, self._number + 1
        name, payload = f"{self.topic}/{self.name}/{number % NAMES}", f"{self.name}:{number}".encode()
        host, _, port = self.bootstrap.rpartition(":")
        accepted = threading.Event()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, f"{self.name}-{number}-{id(self)}", protocol=5, reconnect_on_failure=False
        )
        client.will_set(name, payload, 1)
        client.on_connect = lambda client, data, flags, code, properties: None if code.is_failure else accepted.set()
        try:
            client.connect(host, int(port), 60)
            client.loop_start()
            if accepted.wait(1.0):
                self.owed.append((name, payload))
        except OSError:
            time.sleep(0.02)  # the broker is dead
        finally:
            sock: Any = client.socket()
            if sock is not None:
                sock.close()  # without DISCONNECT
            client.loop_stop()
        time.sleep(0.01)
