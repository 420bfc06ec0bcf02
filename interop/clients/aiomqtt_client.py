"""aiomqtt: MQTT 3.1.1 and 5 through all scenarios, its asyncio loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import aiomqtt
import mqtt_scenarios
from harness import main
from mqtt_device import HOST, PORT, V5, V311, WAIT_S, Device, Got, Options
from paho_client import (
    connack_of,
    connect_properties,
    publish_properties,
    subscribe_options,
    unpacked,
    will_properties,
)

logging.disable(logging.CRITICAL)  # it warns of publishes under way
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, LOOP).result(WAIT_S)


class AioMqttDevice(Device):
    tells_codes = False

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._sending: list[Any] = []
        wait(self._open())

    async def _open(self) -> None:
        options, v5 = self.options, self.options.version == V5
        will = None
        if (w := options.will) is not None:
            will = aiomqtt.Will(w.topic, w.payload, w.qos, w.retain, will_properties(options))
        clean: Any = {"clean_start": options.clean} if v5 else {"clean_session": options.clean}
        self._client = aiomqtt.Client(
            HOST,
            PORT,
            identifier=options.client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
            keepalive=options.keep_alive_s,
            will=will,
            properties=connect_properties(options),
            max_inflight_messages=100,
            timeout=WAIT_S,
            **clean,
        )
        paho = self._client._client
        told = paho.on_connect

        def on_connect(client: Any, data: Any, flags: Any, code: Any, properties: Any = None) -> None:
            self.session_present, self.connack = flags.session_present, connack_of(properties)
            told(client, data, flags, code, properties)

        paho.on_connect = on_connect
        await self._client.__aenter__()
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                found = unpacked(message.properties)
                self._got(Got(str(message.topic), payload, message.qos, message.retain, found))
        except aiomqtt.MqttError as error:
            code = getattr(error, "rc", None)
            self._closed(getattr(code, "value", None))

    def publish_nowait(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **properties: Any) -> Any:
        chosen = publish_properties(self.options.version, properties)
        publishing = self._client.publish(topic, payload, qos, retain, properties=chosen)
        return asyncio.run_coroutine_threadsafe(publishing, LOOP)

    def wait_published(self, begun: Any) -> int:
        begun.result(WAIT_S)
        return 0

    def subscribe(self, filter_: str, qos: int = 0, **options: Any) -> int:
        if self.options.version == V5:
            chosen, properties = subscribe_options(qos, options)
            codes = wait(self._client.subscribe(filter_, options=chosen, properties=properties))
        else:
            codes = wait(self._client.subscribe(filter_, qos))
        return int(getattr(codes[0], "value", codes[0]))

    def unsubscribe(self, filter_: str) -> int:
        wait(self._client.unsubscribe(filter_))
        return 0

    def disconnect(self, code: int = 0) -> None:
        wait(self._close())

    async def _close(self) -> None:
        self._reader.cancel()
        await self._client.__aexit__(None, None, None)

    def drop(self) -> None:
        sock: Any = self._client._client.socket()
        sock.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    # It cannot send DISCONNECT with a reason code.
    mqtt_scenarios.register(AioMqttDevice, (V311, V5), leave_out={"will-delay-v5"})
    sys.exit(main())
