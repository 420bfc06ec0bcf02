"""The two ways to go wrong: the peer's (`RemoteProtocolError`) and ours (`LocalProtocolError`)."""

from __future__ import annotations

from gateway.protocols.mqtt.reasons import MALFORMED_PACKET, PROTOCOL_ERROR


class RemoteProtocolError(Exception):
    """The peer broke the protocol. `code` is the MQTT 5 reason code for DISCONNECT or CONNACK."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class LocalProtocolError(Exception):
    """The caller used a codec or a machine in a way that the protocol does not allow; a bug on our side."""


def malformed(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(MALFORMED_PACKET, reason)


def protocol_error(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(PROTOCOL_ERROR, reason)
