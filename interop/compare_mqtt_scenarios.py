"""What scenarios are and are made of: functions of a `Talk` and a protocol version, each with names of its own;
`scenario` enters one for the versions it is for.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.packets import Connect, Publish, Subscribe, SubscriptionRequest
from gateway.protocols.mqtt.codec.properties import Properties
from interop.compare_mqtt_wire import Talk, Wire

Scenario = Callable[[Talk, int], None]
SCENARIOS: dict[str, Scenario] = {}
VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}


def scenario(*versions: int) -> Callable[[Scenario], Scenario]:
    def keep(function: Scenario) -> Scenario:
        for version in versions:
            SCENARIOS[f"{function.__name__.replace('_', '-')}-v{VERSIONS[version]}"] = (
                lambda talk, _=0, version=version: function(talk, version)
            )
        return function

    return keep


EVERY, NEW = (3, 4, 5), (5,)


def connect(
    client_id: str, version: int, clean: bool = True, properties: Properties | None = None, **more: object
) -> Connect:
    expiry: Properties = {props.SESSION_EXPIRY: 600} if version == 5 and not clean else {}
    return Connect(version, client_id, clean, 60, properties={**expiry, **(properties or {})}, **more)  # type: ignore[arg-type]


def publish(
    topic: str,
    payload: bytes = b"x",
    qos: int = 0,
    packet_id: int = 0,
    properties: Properties | None = None,
    retain: bool = False,
    dup: bool = False,
) -> Publish:
    return Publish(topic, payload, qos, retain, dup, packet_id, properties)


def subscribe(
    packet_id: int, *filters: str, qos: int = 0, properties: Properties | None = None, **options: object
) -> Subscribe:
    requests = [SubscriptionRequest(one, qos, **options) for one in filters]  # type: ignore[arg-type]
    return Subscribe(packet_id, requests, properties or {})


def ready(talk: Talk, name: str, version: int, clean: bool = True, **more: object) -> Wire:
    wire = talk.wire(name, version)
    talk.step(wire, connect(f"{talk.name}-{name}", version, clean, **more))  # type: ignore[arg-type]
    return wire


def raw(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((first, len(body))) + body
