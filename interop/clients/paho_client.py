"""paho-mqtt: MQTT 3.1, 3.1.1 and 5 through all scenarios."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import mqtt_scenarios
import paho.mqtt.client as paho
from harness import main, true
from mqtt_device import HOST, PORT, PROPERTIES, V5, V31, V311, WAIT_S, Device, Got, Options, Refused
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions


def packed(packet: int, version: int, values: dict[str, Any]) -> Properties | None:
    """paho's properties out of (paho's name, value), None where there are none or the version has none."""
    values = {name: value for name, value in values.items() if value}
    if version != V5 or not values:
        return None
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def unpacked(properties: Properties | None) -> dict[str, Any]:
    """Those of mqtt_device.PROPERTIES that are there."""
    found = vars(properties) if properties is not None else {}
    return {name: found[theirs] for name, theirs in PROPERTIES.items() if theirs in found}


def will_properties(options: Options) -> Properties | None:
    delay_s = options.will.delay_s if options.will is not None else 0
    return packed(PacketTypes.WILLMESSAGE, options.version, {"WillDelayInterval": delay_s})


def connect_properties(options: Options) -> Properties | None:
    values = {
        "SessionExpiryInterval": options.expiry_s,
        "ReceiveMaximum": options.receive_max,
        "MaximumPacketSize": options.packet_bytes_max,
    }
    return packed(PacketTypes.CONNECT, options.version, values)


def connack_of(properties: Properties | None) -> dict[str, Any]:
    found = vars(properties) if properties is not None else {}
    names = {"client_id": "AssignedClientIdentifier", "alias_max": "TopicAliasMaximum"}
    return {name: found[theirs] for name, theirs in names.items() if theirs in found}


def subscribe_options(qos: int, options: dict[str, Any]) -> tuple[SubscribeOptions, Properties | None]:
    handling, identifier = options.pop("handling", 0), options.pop("identifier", 0)
    noLocal, published = options.pop("no_local", False), options.pop("retain_as_published", False)
    true(not options, f"unknown options {options}")
    made = SubscribeOptions(qos, noLocal=noLocal, retainAsPublished=published, retainHandling=handling)
    return made, packed(PacketTypes.SUBSCRIBE, V5, {"SubscriptionIdentifier": identifier})


def publish_properties(version: int, properties: dict[str, Any]) -> Properties | None:
    return packed(PacketTypes.PUBLISH, version, {PROPERTIES[name]: value for name, value in properties.items()})


class PahoDevice(Device):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        v5 = options.version == V5
        self._answers: dict[int, list[int]] = {}
        self._answered = threading.Condition()
        self._connected = threading.Event()
        self._refused = ""
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            options.client_id,
            clean_session=None if v5 else options.clean,
            protocol=options.version,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(100)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_publish = self._on_message, self._on_publish
        client.on_subscribe = client.on_unsubscribe = self._on_codes
        if (will := options.will) is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain, will_properties(options))
        clean: Any = {"clean_start": options.clean, "properties": connect_properties(options)} if v5 else {}
        client.connect(HOST, PORT, options.keep_alive_s, **clean)
        self._begin()

    def _begin(self) -> None:
        self._client.loop_start()
        true(self._connected.wait(WAIT_S), "CONNECT was not answered")
        if self._refused:
            raise Refused(self._refused)

    def reopen(self) -> None:
        """Connects the same client again, with what it knows of messages in flight: a new one would lose those of QoS 2
        that it had acknowledged and not yet handed over."""
        self.wait_closed()
        self._client.loop_stop()
        self._ended.clear()
        self._connected.clear()
        self._client.reconnect()
        self._begin()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self.session_present = flags.session_present
        self.connack = connack_of(properties)
        self._refused = str(code) if code.is_failure else ""
        self._connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._closed(code.value if flags.is_disconnect_packet_from_server else None)

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        found = unpacked(getattr(message, "properties", None))
        self._got(Got(message.topic, bytes(message.payload), message.qos, bool(message.retain), found))

    def _on_publish(self, client: Any, data: Any, packet_id: int, code: Any, properties: Any) -> None:
        self._answer(packet_id, [code.value])

    def _on_codes(self, client: Any, data: Any, packet_id: int, codes: Any, properties: Any) -> None:
        self._answer(packet_id, [code.value for code in codes] or [0])

    def _answer(self, packet_id: int, codes: list[int]) -> None:
        with self._answered:
            self._answers[packet_id] = codes
            self._answered.notify_all()

    def _wait_answer(self, packet_id: int) -> int:
        with self._answered:
            true(self._answered.wait_for(lambda: packet_id in self._answers, WAIT_S), f"no answer to {packet_id}")
            return self._answers.pop(packet_id)[0]

    def publish_nowait(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **properties: Any) -> Any:
        return self._client.publish(topic, payload, qos, retain, publish_properties(self.options.version, properties))

    def wait_published(self, begun: Any) -> int:
        return self._wait_answer(begun.mid)

    def subscribe(self, filter_: str, qos: int = 0, **options: Any) -> int:
        if self.options.version == V5:
            chosen, properties = subscribe_options(qos, options)
            _, packet_id = self._client.subscribe(filter_, options=chosen, properties=properties)
        else:
            _, packet_id = self._client.subscribe(filter_, qos)
        assert packet_id is not None
        return self._wait_answer(packet_id)

    def unsubscribe(self, filter_: str) -> int:
        _, packet_id = self._client.unsubscribe(filter_)
        assert packet_id is not None
        return self._wait_answer(packet_id)

    def disconnect(self, code: int = 0) -> None:
        reason = ReasonCode(PacketTypes.DISCONNECT, identifier=code) if code else None
        self._client.disconnect(reason)
        self._client.loop_stop()

    def drop(self) -> None:
        sock: Any = self._client.socket()
        sock.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()


if __name__ == "__main__":
    mqtt_scenarios.register(PahoDevice, (V31, V311, V5))
    sys.exit(main())
