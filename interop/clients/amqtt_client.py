"""amqtt's client: MQTT 3.1.1, its asyncio loop in a thread of its own.

It does not tell whether the session was present, and publishes one message at a time.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import mqtt_scenarios
from aiomqtt_client import wait
from amqtt.client import MQTTClient
from harness import main
from mqtt_device import HOST, PORT, V311, Device, Got, Options

logging.disable(logging.CRITICAL)  # it logs every connection that ends


class AmqttDevice(Device):
    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.session_present = None
        config: dict[str, Any] = {"keep_alive": options.keep_alive_s, "ping_delay": 0, "auto_reconnect": False}
        if (will := options.will) is not None:
            config["will"] = {
                "topic": will.topic,
                "message": will.payload.decode(),
                "qos": will.qos,
                "retain": will.retain,
            }
        wait(self._open(config))

    async def _open(self, config: dict[str, Any]) -> None:
        self._client = MQTTClient(self.options.client_id, config)
        await self._client.connect(f"mqtt://{HOST}:{PORT}", cleansession=self.options.clean)
        self._reader = asyncio.ensure_future(self._read())
        self._watcher = asyncio.ensure_future(self._watch())

    async def _read(self) -> None:
        while True:
            message = await self._client.deliver_message()
            if message is not None:
                packet = message.publish_packet
                payload = bytes(message.data) if message.data is not None else b""
                self._got(Got(message.topic, payload, message.qos, packet.retain_flag))

    async def _watch(self) -> None:
        await self._client._handler.wait_disconnect()
        self._closed(None)

    def publish_nowait(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, **properties: Any) -> Any:
        wait(self._client.publish(topic, payload, qos, retain))

    def wait_published(self, begun: Any) -> int:
        return 0

    def subscribe(self, filter_: str, qos: int = 0, **options: Any) -> int:
        return wait(self._client.subscribe([(filter_, qos)]))[0]

    def unsubscribe(self, filter_: str) -> int:
        wait(self._client.unsubscribe([filter_]))
        return 0

    def disconnect(self, code: int = 0) -> None:
        wait(self._close(self._client.disconnect()))

    async def _close(self, closing: Any) -> None:
        self._reader.cancel()
        self._watcher.cancel()
        await closing

    def drop(self) -> None:
        wait(self._close(self._client._handler.writer.close()))


if __name__ == "__main__":
    mqtt_scenarios.register(AmqttDevice, (V311,))
    sys.exit(main())
